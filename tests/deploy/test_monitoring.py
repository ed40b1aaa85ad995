"""Alerts and dashboard that are shipped: every metric and label in their queries is one that a site exports."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from hanse.dispatch.load_targets import FOREVER
from hanse.live.facility.exposition import ENGINE_STATES, READING_NAMES, plant_text
from hanse.live.facility.metering import EnergyAccount
from hanse.live.facility.readings import Reading
from hanse.live.gateway.metrics import exposition
from hanse.live.shared import SharedPage
from hanse.model.fleet import PlantMeter
from hanse.view import (
    DiskStatus,
    EngineStatus,
    FacilityStatus,
    LoadTargetStatus,
    PowerStatus,
    SiteStatus,
)

promql = pytest.importorskip("promql_parser", reason="pip install promql-parser")

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy/prometheus/hanse.rules.yml"
DASHBOARD = ROOT / "deploy/grafana/hanse.json"
SCRAPED = {"up": {"job", "instance"}}
"""What Prometheus itself adds."""
TARGET_LABELS = {"job", "instance"}
GRAFANA = {"$__rate_interval": "5m", "$site": "harbour"}
PROMTOOL = shutil.which("promtool")


def full_status() -> SiteStatus:
    """One in which everything that can be told is."""
    power = PowerStatus(
        it_kw=1.0, pue=1.2, pv_kw=1.0, wind_kw=1.0, import_kw=1.0, export_kw=0.0, carbon_g_per_kwh=1.0,
        price_usd_per_kwh=0.1, sources=(), drawn_kw=2.0, available_kw=3.0, it_method="measured",
        it_error_share=0.01, drawn_method="measured", drawn_error_share=0.01,
    )  # fmt: skip
    engine = EngineStatus(name="e", service="s", variant="v", state="up")
    facility = FacilityStatus(id="f", driver="redfish", state="up", age_s=1.0, cap_w=100.0)
    target = LoadTargetStatus(id="t", source="s", limit_kw=1.0, end_at_s=5.0, compliant=True)
    return SiteStatus(
        site="harbour", at_s=1.0, epoch=1, table_version=1, hub_connected=True, engines=(engine,),
        gateway_workers=1, running=0.0, waiting=0.0, power=power, facilities=(facility,), load_target=target,
        disk=DiskStatus(free_gb=1.0, size_gb=2.0, level="low"),
    )  # fmt: skip


def exported() -> dict[str, set[str]]:
    """Metric -> its labels, out of the texts that a site's `/metrics` is made of, and the gateway's own gauges as documented."""
    readings = [("f", Reading(point="p", quantity=q, value=1.0, at_s=1.0)) for q in READING_NAMES]
    meter = PlantMeter(id="m", site="harbour", facility="f", point="p", measures="it")
    agent = plant_text(full_status(), readings, [EnergyAccount(meter)], 1).decode()
    documented = re.findall(
        r"^\| `(hanse_gateway_\w+)`", (ROOT / "docs/gateway.md").read_text(), re.M
    )
    gateway = exposition(SharedPage.private(), "harbour", dict.fromkeys(documented, 0.0)).decode()
    found: dict[str, set[str]] = {name: set(labels) for name, labels in SCRAPED.items()}
    for line in (agent + gateway).splitlines():
        if not line.startswith("#"):
            name, _, rest = line.partition("{")
            found.setdefault(name, set(TARGET_LABELS)).update(re.findall(r"(\w+)=\"", rest))
    return found


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def queries() -> Iterator[tuple[str, str]]:
    """(where, PromQL) of both files."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel["targets"]:
            text = target["expr"]
            for name, value in GRAFANA.items():
                text = text.replace(name, value)
            yield panel["title"], text


def nodes(node: Any) -> Iterator[Any]:
    yield node
    for name in ("lhs", "rhs", "expr", "vector_selector", "param"):
        inner = getattr(node, name, None)
        if inner is not None and not isinstance(inner, str):
            yield from nodes(inner)
    for inner in getattr(node, "args", None) or ():
        yield from nodes(inner)


def selectors(text: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels that are matched)."""
    for node in nodes(promql.parse(text)):
        if isinstance(node, promql.VectorSelector):
            yield node.name, {matcher.name for matcher in node.matchers.matchers}


def test_every_query_parses_and_asks_for_what_is_exported() -> None:
    known = exported()
    asked = {name for _, text in queries() for name, _ in selectors(text)}
    assert len(asked) > 20
    for where, text in queries():
        for name, labels in selectors(text):
            assert name in known, f"{where}: no site exports {name}"
            assert labels <= known[name], f"{where}: {name} has no {labels - known[name]}"


def test_states_and_flows_that_queries_name_exist() -> None:
    text = plant_text(full_status(), [], [], 0).decode()
    flows = set(re.findall(r'flow="(\w+)"', text))
    for _, query in queries():
        assert set(re.findall(r'flow="(\w+)"', query)) <= flows
        assert set(re.findall(r'state="(\w+)"', query)) <= set(ENGINE_STATES)


def test_every_alert_says_what_to_do_and_names_only_labels_that_it_keeps() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) >= 15
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert len(rule["annotations"]["description"]) > 20
        told = " ".join(rule["annotations"].values())
        by = {
            label
            for group in re.findall(r"by \(([^)]*)\)", rule["expr"])
            for label in group.split(", ")
        }
        kept = by or set.union(*(exported()[name] for name, _ in selectors(rule["expr"])))
        assert set(re.findall(r"\$labels\.(\w+)", told)) <= kept, rule["alert"]


def test_the_dashboard_is_whole() -> None:
    board = json.loads(DASHBOARD.read_text())
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    assert all(target["legendFormat"] for panel in board["panels"] for target in panel["targets"])
    assert {v["name"] for v in board["templating"]["list"]} == {"datasource", "site"}


def test_a_target_without_end_has_no_end() -> None:
    status = full_status()
    assert status.load_target is not None
    endless = msgspec.structs.replace(status.load_target, end_at_s=FOREVER)
    text = plant_text(msgspec.structs.replace(status, load_target=endless), [], [], 0).decode()
    assert "end_timestamp" not in text
    assert "inf" not in text.lower().replace("info", "")


CASES = """
rule_files: [hanse.rules.yml]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series:
      - {series: 'hanse_site_load_target_active{site="harbour"}', values: '1x40'}
      - {series: 'hanse_site_load_target_compliant{site="harbour"}', values: '1x10 0x30'}
      - {series: 'up{job="hanse",instance="a:1"}', values: '1x40'}
      - {series: 'hanse_site_hub_connected{site="harbour",instance="a:1"}', values: '1x12 stale'}
      - {series: 'hanse_site_power_watts{site="harbour",flow="drawn"}', values: '9000x40'}
      - {series: 'hanse_site_power_watts{site="harbour",flow="available"}', values: '8000x40'}
      - {series: 'hanse_gateway_requests_total{site="harbour",code="200"}', values: '0+100x40'}
      - {series: 'hanse_gateway_requests_total{site="harbour",code="502"}', values: '0+5x40'}
      - {series: 'hanse_facility_state{site="harbour",facility="ups",point="output.on-battery"}', values: '0x20 1x20'}
    alert_rule_test:
      - {eval_time: 4m, alertname: HanseLoadTargetMissed, exp_alerts: []}
      - {eval_time: 4m, alertname: HanseAgentSilent, exp_alerts: []}
"""
FIRING = (
    "HanseLoadTargetMissed",
    "HanseAgentSilent",
    "HanseSupplyShort",
    "HanseRequestsLost",
    "HanseUpsOnBattery",
)


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here: apt-get install prometheus")
def test_prometheus_takes_the_rules_and_they_fire_when_they_should(tmp_path: Path) -> None:
    assert PROMTOOL is not None
    (tmp_path / RULES.name).write_text(RULES.read_text())
    done = subprocess.run(
        [PROMTOOL, "check", "rules", RULES.name],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (tmp_path / "quiet.yml").write_text(CASES)
    done = subprocess.run(
        [PROMTOOL, "test", "rules", "quiet.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name in FIRING:  # none expected: promtool says which came
        case = CASES + f"      - {{eval_time: 9m, alertname: {name}, exp_alerts: []}}\n"
        (tmp_path / "loud.yml").write_text(case)
        done = subprocess.run(
            [PROMTOOL, "test", "rules", "loud.yml"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0, f"{name} does not fire"
        assert name in done.stdout + done.stderr
