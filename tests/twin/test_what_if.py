"""Recorded decisions asked of another fleet."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hanse.model.fleet import Fleet
from hanse.model.read import parse_fleet
from hanse.twin.what_if import FleetFiles, WhatIf, what_if
from live.gateway.rig import SHOP_KEY, ask, chat, fleet_toml, run, start

SITES = ("lyon", "tallinn", "virginia")
TOML = fleet_toml(SITES, 2)
FLEET = parse_fleet(TOML.encode(), source="test")
ASKED = 14


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of a few requests at lyon and virginia; engines are idle, so each stays where it entered."""
    where = tmp_path_factory.mktemp("league")

    async def traffic() -> None:
        league = await start(where, sites=SITES, replicas=2, journal=True)
        for i in range(ASKED - 2):
            assert (
                await ask(league["lyon"].port, chat(f"Hello {i}.", stream=bool(i % 2)))
            ).status == 200
        for _ in range(2):
            await ask(league["virginia"].port, chat("Hello."), key=SHOP_KEY)
        await league["lyon"].idle()

    run(traffic)
    return where


def elsewhere(home: Path, fleet: Fleet) -> WhatIf:
    return what_if(home, FleetFiles(fleet=FLEET), FleetFiles(fleet=fleet))


def with_site(name: str, **fields: object) -> Fleet:
    sites = tuple(
        msgspec.structs.replace(site, **fields) if site.id == name else site for site in FLEET.sites
    )
    return msgspec.structs.replace(FLEET, sites=sites)


def test_the_same_fleet_decides_the_same_to_the_last_bit(home: Path) -> None:
    found = elsewhere(home, FLEET)
    assert found.decisions == found.same == ASKED
    assert found.both == ASKED and not found.moves and not found.skipped
    assert found.was == found.now


def test_a_dearer_site_keeps_its_requests_at_another_price(home: Path) -> None:
    dear = msgspec.structs.replace(FLEET.sites[0].power, price_usd_per_kwh=0.4)
    found = elsewhere(home, with_site("lyon", power=dear))
    assert found.same == ASKED, "a fraction of a cent of energy is not worth a second of waiting"
    assert found.now["wh"] == found.was["wh"]
    assert found.now["usd"] > found.was["usd"]


def test_without_its_engines_a_sites_requests_go_elsewhere(home: Path) -> None:
    placed = tuple(p for p in FLEET.placements if p.site != "lyon")
    found = elsewhere(home, msgspec.structs.replace(FLEET, placements=placed))
    assert [(m.was, m.now) for m in found.moves] == [("lyon/chat/q4", "tallinn/chat/q4")]
    assert found.moves[0].count == ASKED - 2
    assert found.same == 2
    assert found.now["ttft_ms"] > found.was["ttft_ms"]


def test_law_of_the_other_fleet_holds(home: Path) -> None:
    """A key that may no longer send the class it sent: nothing is eligible."""
    tenants = tuple(
        msgspec.structs.replace(t, classes=("public",)) if t.id == "clinic" else t
        for t in FLEET.tenants
    )
    found = elsewhere(home, msgspec.structs.replace(FLEET, tenants=tenants))
    assert [(m.was, m.now, m.count) for m in found.moves] == [("lyon/chat/q4", "LAW", ASKED - 2)]


def test_a_new_site_is_idle_and_takes_what_it_serves_better(home: Path) -> None:
    lyon = FLEET.sites[0]
    sites = (*FLEET.sites, msgspec.structs.replace(lyon, id="nearby"))
    moved = tuple(
        msgspec.structs.replace(p, site="nearby") if p.site == "lyon" else p
        for p in FLEET.placements
    )
    found = elsewhere(home, msgspec.structs.replace(FLEET, sites=sites, placements=moved))
    assert [(m.was, m.now, m.count) for m in found.moves] == [
        ("lyon/chat/q4", "nearby/chat/q4", ASKED - 2)
    ]


def test_nobody_enters_at_a_site_that_is_not_there(home: Path) -> None:
    without = msgspec.structs.replace(
        FLEET,
        sites=tuple(s for s in FLEET.sites if s.id != "lyon"),
        placements=tuple(p for p in FLEET.placements if p.site != "lyon"),
    )
    found = elsewhere(home, without)
    assert found.skipped == ASKED - 2
    assert found.decisions == found.same == 2
