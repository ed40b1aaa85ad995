"""What of a fleet file cannot change while a league runs, and that all else can."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hanse.live.fleet_restart import restart_problems
from hanse.model.fleet import (
    Facility,
    Fleet,
    Gateway,
    Hub,
    Kubernetes,
    PlantMeter,
    Pool,
    Site,
    Weights,
)
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).parents[2] / "examples" / "league.toml")
RUNS = {site.id for site in LEAGUE.sites}
replace = msgspec.structs.replace


def problems(new: Fleet, *, old: Fleet = LEAGUE, emulated: bool = True) -> list[str]:
    found = restart_problems(old, new, runs=RUNS, emulated=emulated)
    for one in found:
        assert one.where and one.allowed and one.fix, "where, got, allowed and fix"
    return [one.where for one in found]


def with_site(name: str, **fields: object) -> Fleet:
    sites = tuple(replace(s, **fields) if s.id == name else s for s in LEAGUE.sites)
    return replace(LEAGUE, sites=sites)


def site(name: str) -> Site:
    return next(s for s in LEAGUE.sites if s.id == name)


def test_prices_law_tenants_services_pools_and_the_slow_loop_change_live() -> None:
    power = replace(site("lyon").power, grid_kw_max=9.0, price_usd_per_kwh=0.2)
    pools = (*site("lyon").pools, Pool(id="more", accelerator="l4", count=2))
    meter = PlantMeter(id="m", site="lyon", facility="f", point="p", measures="it")
    device = Facility(id="f", site="lyon", driver="modbus", url="modbus://127.0.0.1")
    new = replace(
        with_site("lyon", power=power, pools=pools, certifications=("iso",), country="ES"),
        weights=Weights(usd_per_latency_s=1.0),
        tenants=LEAGUE.tenants[1:],
        services=LEAGUE.services[:1],
        placements=(),
        slow_loop=replace(LEAGUE.slow_loop, places=True, demand_bin_s=10.0),
        policy=replace(LEAGUE.policy, valid_s=60.0),
        batch=replace(LEAGUE.batch, lines_at_once_max=3),
        facilities=(device,),
        meters=(meter,),
        central=None,
    )
    assert problems(new) == []


@pytest.mark.parametrize("field", ["host", "port", "hop_port", "workers", "advertise"])
def test_where_a_gateway_listens_is_read_once(field: str) -> None:
    known = site("lyon").gateway
    value = "10.0.0.9" if field in ("host", "advertise") else getattr(known, field) + 1
    index = [s.id for s in LEAGUE.sites].index("lyon")
    new = with_site("lyon", gateway=Gateway(**{**msgspec.structs.asdict(known), field: value}))
    assert problems(new) == [f"site[{index}].gateway.{field}"]


def test_the_hub_the_name_and_emulated_links() -> None:
    assert problems(replace(LEAGUE, hub=Hub(leaf_port=9))) == ["hub.leaf_port"]
    assert problems(replace(LEAGUE, name="other")) == ["name"]
    link = replace(LEAGUE.links[0], rtt_ms=LEAGUE.links[0].rtt_ms + 1)
    new = replace(LEAGUE, links=(link, *LEAGUE.links[1:]))
    assert problems(new) == [f"link {min(link.a, link.b)} {max(link.a, link.b)}"]
    assert problems(new, emulated=False) == []
    turned = replace(link, a=LEAGUE.links[0].b, b=LEAGUE.links[0].a, rtt_ms=LEAGUE.links[0].rtt_ms)
    assert problems(replace(LEAGUE, links=(turned, *LEAGUE.links[1:]))) == []
    dear = replace(LEAGUE.links[0], usd_per_gb=0.5)
    assert problems(replace(LEAGUE, links=(dear, *LEAGUE.links[1:]))) == []


def test_a_site_comes_only_where_it_runs_already() -> None:
    less = replace(LEAGUE, sites=LEAGUE.sites[1:])
    assert problems(less) == [], "a site may leave"
    assert problems(LEAGUE, old=less) == [], "and come back: its certificate counts"
    stranger = replace(LEAGUE, sites=(*LEAGUE.sites, replace(site("lyon"), id="oslo")))
    assert problems(stranger) == [f"site[{len(LEAGUE.sites)}]"]


def test_a_workload_of_kubernetes_and_a_listener_of_the_sites_bus() -> None:
    pool = Pool(
        id="k", accelerator="l4", count=2, driver="kubernetes", kubernetes=Kubernetes(name="a")
    )
    old = with_site("lyon", pools=(pool,))
    moved = replace(pool, kubernetes=Kubernetes(name="b"))
    index = [s.id for s in LEAGUE.sites].index("lyon")
    assert problems(with_site("lyon", pools=(moved,)), old=old) == [
        f"site[{index}].pool[0].kubernetes.name"
    ]
    assert problems(with_site("lyon", pools=(replace(moved, id="l"),)), old=old) == []
    assert problems(with_site("lyon", pools=(replace(pool, count=4),)), old=old) == []
    bus = Facility(id="bms", site="lyon", driver="mqtt", user="bms")
    heard = replace(LEAGUE, facilities=(bus,))
    assert problems(heard) == ["facility bms"]
    assert problems(LEAGUE, old=heard) == ["facility bms"]
    other = replace(LEAGUE, facilities=(replace(bus, listen="127.0.0.1:1884"),))
    assert problems(other, old=heard) == ["facility bms.listen"]
    slower = replace(LEAGUE, facilities=(replace(bus, every_s=60.0),))
    assert problems(slower, old=heard) == []
