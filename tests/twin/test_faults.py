"""What a run does when things fail: as the live league does in its own tests of the same faults."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import fleet, service, site, tenant
from effort import effort
from hanse.dispatch.patience import FIRST_BYTE_S_MIN, HELD_ASKS_EVERY_S, HELD_S
from hanse.model.fleet import Fleet, Link, Placement, Pool, Power, Slo
from hanse.signals.traces.trace import Trace
from hanse.twin import arrays as ar
from hanse.twin.arrays import World
from hanse.twin.gateway import forgive
from hanse.twin.scenario import Fault, Scenario
from hanse.twin.simulate import Simulation
from hanse.twin.summary import happened_of
from twin.fleets import random_trace

RATE_RPS = 12.0


def three_sites(**power: float) -> Fleet:
    """Three equal sites with room to spare, so that losing one costs no request."""
    sites = tuple(
        site(
            name,
            country,
            lat_deg=lat,
            lon_deg=lon,
            pools=(Pool(id="gpu", accelerator="h100-sxm", count=2),),
            power=Power(grid_kw_max=60.0, **power),
        )
        for name, country, lat, lon in (
            ("a", "DE", 50.1, 8.7),
            ("b", "FR", 45.8, 4.8),
            ("c", "NL", 52.4, 4.9),
        )
    )
    placements = tuple(
        Placement(
            service="chat", variant="v0", site=s.id, pool="gpu", replicas=2, slots=16, context_tokens=200_000
        )
        for s in sites
    )  # fmt: skip
    links = tuple(
        Link(a=x, b=y, rtt_ms=12.0, mbit_s=1000.0) for x, y in (("a", "b"), ("a", "c"), ("b", "c"))
    )
    return fleet(
        sites,
        services=(service(slo=Slo(ttft_ms=1000.0, tpot_ms=100.0)),),
        tenants=(tenant("t", ("DE", "FR", "NL")),),
        links=links,
        placements=placements,
    )


def calm_trace(made: Fleet, count: int = 3000) -> Trace:
    trace = random_trace(made, np.random.default_rng(3), count=count, rate_rps=RATE_RPS)
    chunk = next(trace.chunks())
    requests = chunk.requests.copy()
    requests["cls"] = requests["tenant"] = 0
    return Trace.of(trace.meta, requests)


def rows_of(
    made: Fleet, *faults: Fault, trace: Trace | None = None
) -> tuple[Simulation, np.ndarray]:
    kept: list[np.ndarray] = []
    run = Simulation(
        made,
        trace or calm_trace(made),
        scenario=Scenario(faults=faults),
        rows=lambda rows: kept.append(rows.copy()),
    )
    run.run()
    return run, np.concatenate(kept)


def test_without_faults_all_is_well() -> None:
    _, rows = rows_of(three_sites())
    assert (rows["outcome"] == ar.ANSWERED).all() and (rows["attempts"] == 1).all()


@pytest.mark.parametrize("kind", ["engine_kill", "engine_freeze"])
def test_a_lost_engine_costs_no_request_without_a_first_byte(kind: str) -> None:
    run, rows = rows_of(three_sites(), Fault(kind=kind, site="b", engine=0, at_s=60.0))
    assert not (rows["outcome"] == ar.FAILED_OUT).any()
    assert (rows["outcome"] == ar.REFUSED_OUT).sum() == 0
    hit = (rows["attempts"] > 1) | (rows["outcome"] == ar.BROKEN)
    assert hit.any(), "somebody was hit"
    e = run.world.engine_first[run.index["b"]]
    assert run.world.engines["mode"][e] == ar.IDLE and run.world.engine_state[e] == 1, (
        "it came back"
    )
    moved = rows[(rows["attempts"] > 1) & (rows["outcome"] == ar.ANSWERED)]
    quick = 1000.0 * 1.0 + 3.0 * 1000.0
    assert (moved["ttft_ms"] < quick).all(), "within the deadline, the probes and a new first token"


def test_a_dark_site_is_replaced_by_its_neighbours_and_comes_back() -> None:
    run, rows = rows_of(three_sites(), Fault(kind="site_down", site="b", at_s=60.0, for_s=60.0))
    s = run.index["b"]
    at_b = rows[(rows["site"] == s) & (rows["outcome"] == ar.ANSWERED)]
    ended_s = at_b["at_s"] + at_b["e2e_ms"] / 1000.0
    dark = (ended_s > 60.5) & (at_b["at_s"] < 119.0)
    assert not dark.any(), "nobody was served by a site that was dark"
    assert (at_b["at_s"] > 130.0).any(), "it serves again"
    assert (rows["outcome"] == ar.REFUSED_OUT).sum() == 0


def test_a_cut_link_moves_work_and_loses_none() -> None:
    made = three_sites()
    _, rows = rows_of(made, Fault(kind="link_cut", site="a", other="b", at_s=60.0, for_s=60.0))
    assert not (rows["outcome"] == ar.FAILED_OUT).any()
    assert (rows["outcome"] == ar.ANSWERED).sum() >= len(rows) - 20, (
        "only streams on the link may break"
    )


def test_gateways_route_on_without_the_hub() -> None:
    _, rows = rows_of(three_sites(), Fault(kind="hub_loss", at_s=0.0))
    assert (rows["outcome"] == ar.ANSWERED).all()


def test_a_site_whose_load_is_not_heard_gets_nothing_from_others() -> None:
    run, rows = rows_of(three_sites(), Fault(kind="telemetry_lost", site="b", at_s=50.0))
    s = run.index["b"]
    late = rows[(rows["at_s"] > 53.0) & (rows["site"] == s)]
    assert (late["entry"] == s).all()


def test_what_failed_while_nothing_was_heard_of_others_is_held_and_answered() -> None:
    silent = [Fault(kind="telemetry_lost", site=s, at_s=57.0, for_s=4.0) for s in ("b", "c")]
    run, rows = rows_of(three_sites(), *silent, Fault(kind="engine_kill", site="a", at_s=60.0))
    assert not (rows["outcome"] == ar.FAILED_OUT).any()
    a = run.index["a"]
    moved = rows[(rows["entry"] == a) & (rows["attempts"] > 1) & (rows["site"] != a)]
    assert len(moved)
    assert (moved["outcome"] == ar.ANSWERED).all()
    assert (moved["at_s"] + moved["ttft_ms"] / 1000.0 > 61.0).all(), "when they were heard again"


def test_who_nobody_takes_is_not_held_for_ever() -> None:
    dark = [Fault(kind="site_down", site=s, at_s=50.0, for_s=60.0) for s in ("b", "c")]
    run, rows = rows_of(three_sites(), *dark, Fault(kind="engine_kill", site="a", at_s=60.0))
    failed = rows[rows["outcome"] == ar.FAILED_OUT]
    assert len(failed), "their engine died, and no other site was there"
    assert (failed["entry"] == run.index["a"]).all()
    waited_s = failed["e2e_ms"] / 1000.0
    noticed_s = FIRST_BYTE_S_MIN + 0.5
    assert ((waited_s >= HELD_S) & (waited_s <= noticed_s + HELD_S + HELD_ASKS_EVERY_S)).all()
    assert (run.world.attempts["stage"] == ar.FREE).all()


def test_a_site_that_goes_dark_while_it_holds_requests_settles_each_once() -> None:
    silent = [Fault(kind="telemetry_lost", site=s, at_s=57.0, for_s=60.0) for s in ("b", "c")]
    killed = Fault(kind="engine_kill", site="a", at_s=60.0)
    dark = Fault(kind="site_down", site="a", at_s=62.0, for_s=60.0)
    run, rows = rows_of(three_sites(), *silent, killed, dark)
    held = (rows["entry"] == run.index["a"]) & (rows["outcome"] == ar.FAILED_OUT)
    assert (held & (rows["attempts"] > 1)).any(), "nobody was held when it went dark"
    assert not run.world.own["requests"].any()
    assert not run.world.own["tokens"].any()
    assert (run.world.attempts["stage"] == ar.FREE).all()


@settings(max_examples=effort(50), deadline=None)
@given(st.lists(st.sampled_from(["slow", "full", "worse"]), max_size=ar.TRIED_MAX))
def test_what_is_forgiven_may_be_asked_again_and_all_else_keeps_its_place(why: list[str]) -> None:
    world = _kept_world()
    attempt = world.attempts[0]
    world.tried[0, : len(why)] = offers = 10 + np.arange(len(why))
    attempt["tried_count"] = len(why)
    for mask in ("slow", "full"):
        attempt[mask] = sum(1 << i for i, one in enumerate(why) if one == mask)
    left = list(zip(offers.tolist(), why, strict=True))
    for mask in ("full", "slow"):
        forgive(world, 0, int(attempt[mask]))
        left = [one for one in left if one[1] != mask]
        count = int(attempt["tried_count"])
        assert world.tried[0, :count].tolist() == [offer for offer, _ in left]
        for name in ("slow", "full"):
            marked = [one for i, (_, one) in enumerate(left) if int(attempt[name]) >> i & 1]
            assert marked == [one for _, one in left if one == name]


@cache
def _kept_world() -> World:
    return Simulation(three_sites(), calm_trace(three_sites(), 10)).world


def test_a_law_that_changes_at_noon_moves_what_comes_after_it(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The published text takes effect with the next table, and nothing runs against it after."""
    (tmp_path / "noon.cedar").write_text(
        '@id("test:not-b")\nforbid (principal, action, resource == Site::"b");\n'
    )
    made = three_sites()
    kept: list[np.ndarray] = []
    fault = Fault(kind="law", at_s=100.0, policy="noon.cedar")
    run = Simulation(
        made,
        calm_trace(made),
        scenario=Scenario(faults=(fault,)),
        scenario_dir=tmp_path,
        rows=lambda rows: kept.append(rows.copy()),
    )
    run.run()
    rows = np.concatenate(kept)
    at_b = rows[rows["site"] == run.index["b"]]
    assert (at_b["at_s"] < 100.0).any() and not (at_b["at_s"] > 101.0).any()
    assert int(run.world.clock[0]["unlawful"]) == 0


def test_a_capped_site_gives_up_its_work_in_order_and_others_do_it() -> None:
    made = three_sites()
    fault = Fault(kind="grid_cap", site="a", at_s=600.0, for_s=1800.0, factor=0.0)
    run, rows = rows_of(made, fault, trace=calm_trace(made, count=60_000))
    said = [text for _, text in run.log if text.startswith("a: ")]
    begun_s = {at_s for at_s, text in run.log if text.startswith("a: ")}
    assert len(said) > 2 and len(begun_s) == 1, "all at once: there is no time to wait"
    assert said[0] == "a: grid cap: no deferrable work" and "no class" in said[-1]
    a = run.index["a"]
    shut = (rows["at_s"] > 1000.0) & (rows["at_s"] < 2300.0)
    assert shut.any() and not (rows["site"][shut] == a).any()
    assert (rows["outcome"] == ar.ANSWERED).all()
    level = run.brownouts.sites[a].level
    assert level < len(said), "afterwards work comes back step by step"
    shed = [one for one in happened_of(run) if one.text.startswith("a: ")]
    ends = [one.until_s for one in shed]
    assert [one.text for one in shed] == said, (
        "what comes back is the end of a line, none of its own"
    )
    assert ends[:level] == [None] * level and None not in ends[level:]
    assert sorted(ends[level:], reverse=True) == ends[level:], "the last first"


def test_where_no_site_has_power_requests_are_refused_for_it() -> None:
    faults = [Fault(kind="grid_cap", site=s, at_s=300.0, factor=0.0) for s in ("a", "b", "c")]
    made = three_sites()
    run, rows = rows_of(made, *faults, trace=calm_trace(made, count=20_000))
    late = rows[rows["at_s"] > 650.0]
    assert len(late) and (late["outcome"] == ar.REFUSED_OUT).all()
    assert all(s.level for s in run.brownouts.sites)


def test_without_grid_ups_and_battery_carry_a_site_and_then_it_is_dark() -> None:
    fault = Fault(kind="grid_outage", site="a", at_s=600.0, for_s=3000.0)
    long = calm_trace(three_sites(), count=60_000)
    bare, _ = rows_of(three_sites(), fault, trace=long)
    backed, _ = rows_of(three_sites(battery_kwh=80.0, battery_kw_max=40.0), fault, trace=long)
    shed = [text for _, text in bare.log if text.startswith("a: battery low") or "grid cap" in text]
    assert shed, "it gives up what it can first"
    log = [(at_s, text) for at_s, text in bare.log if not text.startswith("a: ")]
    assert [text for _, text in log] == ["grid_outage a", "out of power a"]
    dark_s = log[1][0]
    (dark,) = [one for one in happened_of(bare) if one.text == "out of power a"]
    assert dark.until_s == 3600.0, "the grid came back"
    assert 600.0 < dark_s <= 600.0 + 1800.0, "a UPS carries minutes"
    later = [at_s for at_s, text in backed.log if text.startswith("out of power")]
    assert not later or later[0] > dark_s, "a battery carries longer"
    assert bare.world.site_up.all(), "the grid came back"
