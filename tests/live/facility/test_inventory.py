"""A fleet in NetBox: the same objects by our own push, by the stock client, and by a bulk import of what is printed."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.cli import app
from hanse.errors import ConfigError, SiteError
from hanse.live.facility.inventory import AMPERAGE_MAX, ENDPOINTS, KEYS, count, netbox_objects
from hanse.model.fleet import Facility, Fleet
from hanse.model.read import read_fleet
from live.facility.netbox_server import TOKEN, Netbox, netbox_server

EXAMPLE = Path(__file__).parents[3] / "examples/league.toml"
PLANT = """
[[facility]]
id = "ups"
site = "frankfurt"
driver = "snmp"
profile = "ups-mib"
url = "snmp://10.0.0.9"
"""


@pytest.fixture
def fleet_file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(EXAMPLE.read_text() + PLANT)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (tmp_path / "token").chmod(0o600)
    return path


@pytest.fixture
def netbox() -> Iterator[tuple[str, Netbox]]:
    with netbox_server() as found:
        yield found


def run(*arguments: str) -> Any:
    return app(list(arguments), exit_on_error=False, result_action="return_value")


def push(fleet_file: Path, url: str) -> Any:
    token = str(fleet_file.parent / "token")
    return run("inventory", str(fleet_file), "--netbox", "--url", url, "--token-file", token)


def names(state: Netbox) -> dict[str, list[str]]:
    return {
        e: sorted(o.get("name") or o["model"] for o in many) for e, many in state.objects.items()
    }


def test_a_push_makes_all_once_and_a_second_changes_nothing(
    fleet_file: Path, netbox: tuple[str, Netbox]
) -> None:
    url, state = netbox
    assert push(fleet_file, url) == 0
    fleet = read_fleet(fleet_file)
    assert sorted(o["slug"] for o in state.objects["dcim/sites"]) == sorted(
        s.id for s in fleet.sites
    )
    assert sum(map(len, state.objects.values())) == count(netbox_objects(fleet))
    devices = {d["name"]: d for d in state.objects["dcim/devices"]}
    ups = devices["frankfurt/plant/ups"]
    assert (ups["role"]["name"], ups["site"]["slug"]) == ("Hanse: UPS", "frankfurt")
    assert all(tag["slug"] == "hanse" for o in state.objects["dcim/devices"] for tag in o["tags"])
    before = names(state)
    state.asked.clear()
    assert push(fleet_file, url) == 0
    assert names(state) == before
    assert {method for method, _ in state.asked} == {"GET"}


def test_what_differs_is_corrected_and_what_people_added_stays(
    fleet_file: Path, netbox: tuple[str, Netbox]
) -> None:
    url, state = netbox
    state.create("extras/tags", [{"name": "Ours", "slug": "ours", "color": "ff0000"}])
    mine = {
        "name": "frankfurt",
        "slug": "frankfurt",
        "status": "planned",
        "description": "keys at the gate",
        "tags": [{"slug": "ours"}],
    }
    state.create("dcim/sites", [mine])
    push(fleet_file, url)
    site = next(s for s in state.objects["dcim/sites"] if s["slug"] == "frankfurt")
    assert (site["status"], site["description"]) == ("active", "keys at the gate")
    assert sorted(t["slug"] for t in site["tags"]) == ["hanse", "ours"]
    state.create("dcim/manufacturers", [{"name": "Another", "slug": "another"}])
    push(fleet_file, url)
    assert "Another" in names(state)["dcim/manufacturers"]  # nothing is ever deleted


def test_the_stock_client_takes_what_is_printed(
    fleet_file: Path, netbox: tuple[str, Netbox], capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pynetbox = pytest.importorskip("pynetbox", reason="pip install pynetbox")
    url, state = netbox
    assert run("inventory", str(fleet_file), "--netbox") == 0
    printed = json.loads(capsys.readouterr().out)
    api = pynetbox.api(url, token=TOKEN)
    for endpoint, objects in printed.items():
        group, name = endpoint.split("/")
        made = getattr(getattr(api, group), name.replace("-", "_")).create(objects)
        assert len(made) == len(objects)
    assert api.dcim.sites.get(slug="frankfurt").latitude == pytest.approx(50.11, abs=0.1)
    assert api.dcim.power_feeds.get(name="grid", site="frankfurt").phase.value == "three-phase"
    state.asked.clear()
    push(fleet_file, url)  # and our own push finds all of it there
    assert {method for method, _ in state.asked} == {"GET"}


def test_a_token_that_may_not_and_an_object_that_is_refused_are_said(
    fleet_file: Path, netbox: tuple[str, Netbox]
) -> None:
    url, state = netbox
    (fleet_file.parent / "token").write_text("wrong")
    with pytest.raises(ConfigError, match=r"403.*API Tokens"):
        push(fleet_file, url)
    (fleet_file.parent / "token").write_text(TOKEN)
    other = {"name": "Hanse: UPS", "slug": "somebody-elses", "color": "ff0000"}
    state.create("dcim/device-roles", [other])
    with pytest.raises(SiteError, match="unique set"):
        push(fleet_file, url)
    with pytest.raises(ConfigError, match="--netbox"):
        run("inventory", str(fleet_file))


LEAGUE = read_fleet(EXAMPLE)


@given(
    st.lists(st.floats(0.0, 5e6), min_size=5, max_size=5),
    st.lists(
        st.sampled_from(
            ["redfish", "snmp", "modbus", "nvml", "dcgm", "mqtt", "dsx-flex", "openadr"]
        ),
        max_size=6,
    ),
)
def test_any_fleet_is_objects_that_netbox_takes(grids: list[float], drivers: list[Any]) -> None:
    sites = tuple(
        msgspec.structs.replace(s, power=msgspec.structs.replace(s.power, grid_kw_max=kw))
        for s, kw in zip(LEAGUE.sites, grids, strict=True)
    )
    facilities = tuple(
        Facility(id=f"{'x' * 60}-{i}"[-60:], site=sites[i % 5].id, driver=d)
        for i, d in enumerate(drivers)
    )
    fleet: Fleet = msgspec.structs.replace(LEAGUE, sites=sites, facilities=facilities)
    objects = netbox_objects(fleet)
    assert tuple(objects) == ENDPOINTS
    state = Netbox()
    for endpoint, many in objects.items():
        assert (
            set(KEYS.get(endpoint, ("slug",))) <= set().union(*(o.keys() for o in many)) or not many
        )
        state.create(endpoint, many)
    assert all(f["amperage"] <= AMPERAGE_MAX for f in state.objects["dcim/power-feeds"])
