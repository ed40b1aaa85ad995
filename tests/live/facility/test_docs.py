"""What docs/facility.md says is what there is: metrics, drivers, profiles, fields, and the example."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import msgspec

from hanse.dispatch.load_targets import BREACH_AFTER_S, CRITICAL_SHARE, ESCALATE_AFTER_S
from hanse.live.facility.exposition import FRESH_S, READING_NAMES, plant_text
from hanse.live.facility.flex import HEARTBEAT_S
from hanse.live.facility.metering import EnergyAccount
from hanse.live.facility.readings import Reading
from hanse.live.facility.resets import AGAIN_S, DEAD_S
from hanse.live.facility.sunspec import MODELS
from hanse.model.check import check_fleet
from hanse.model.fleet import Facility, PlantMeter
from hanse.model.plant_check import PROFILES, SCHEMES
from hanse.model.read import parse_fleet

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/facility.md").read_text()


def test_every_metric_is_documented_and_no_other() -> None:
    from deploy.test_monitoring import full_status

    readings = [("f", Reading(point="p", quantity=q, value=1.0, at_s=1.0)) for q in READING_NAMES]
    meter = PlantMeter(id="m", site="harbour", facility="f", point="p", measures="it")
    text = plant_text(full_status(), readings, [EnergyAccount(meter)], 1).decode()
    exported = set(re.findall(r"^(hanse_\w+)\{", text, re.M))
    assert set(re.findall(r"`(hanse_(?:site|facility|meter)_\w+)`", PAGE)) == exported


def test_every_driver_and_profile_stands_in_the_table() -> None:
    rows = set(re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.M))
    assert rows == set(SCHEMES)
    for profiles in PROFILES.values():
        assert all(f'"{profile}"' in PAGE for profile in profiles if profile)
    numbers = {int(n) for n in re.findall(r"\b([1-8]\d\d)\b", PAGE)}
    assert {min(MODELS), 113, 201, 214, 701, 802} <= numbers
    assert "pip install 'hanse[facility]'" in PAGE


def test_the_figures_in_the_text_are_those_of_the_code() -> None:
    assert f"for {DEAD_S:.0f} s" in PAGE
    assert f"once in {AGAIN_S / 60:.0f} minutes" in PAGE
    assert f"at most {FRESH_S:.0f} s old" in PAGE
    assert f"each {HEARTBEAT_S:.0f} s" in PAGE
    assert f"for {BREACH_AFTER_S:.0f} s is" in PAGE
    assert f"escalated after {ESCALATE_AFTER_S:.0f} s" in PAGE
    assert f"from {CRITICAL_SHARE:.0%} over".replace("%", " %") in PAGE


def test_fields_that_the_examples_use_exist_and_mean_something() -> None:
    blocks = re.findall(r"(?:^    .*\n|^\n)+", PAGE, re.M)
    text = "\n".join(textwrap.dedent(b) for b in blocks if "[[facility]]" in b)
    text = text.replace('"5f..."', f'"{"5f" * 32}"').replace(
        'resets = ["gpus"]', 'resets = ["cpu"]'
    )
    example = (ROOT / "examples/league.toml").read_text()
    assert check_fleet(parse_fleet((example + text).encode(), source="docs")) == []
    named = {f.encode_name for kind in (Facility, PlantMeter) for f in msgspec.structs.fields(kind)}
    said = set(re.findall(r"`(\w+)`", PAGE)) | set(re.findall(r"^    (\w+) = ", PAGE, re.M))
    assert {
        "caps_power",
        "resets",
        "stale_s",
        "error_share",
        "energy_point",
        "listen",
        "secret_env",
    } <= named & said
