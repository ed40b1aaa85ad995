"""Readings become power and energy with an error: what counts, what does not, and that nothing is counted twice or lost."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.belief import EngineSpec
from hanse.live.agent_power import PowerKeeper
from hanse.live.agent_work import Meter
from hanse.live.facility.metering import (
    GAP_S_MAX,
    AccountKept,
    EnergyAccount,
    Measured,
    Power,
    measure,
)
from hanse.live.facility.readings import Reading
from hanse.live.facility.resets import AGAIN_S, DEAD_S, RESETS_MAX, RESETS_S, Resets
from hanse.live.shared import ENGINE_CPU_W, SharedPage
from hanse.model.fleet import PlantMeter
from hanse.model.read import read_fleet
from hanse.view import EngineStatus

NOW_S = 1_780_000_000.0
LEAGUE = read_fleet(Path(__file__).parents[3] / "examples/league.toml")


def meter(name: str, **fields: object) -> PlantMeter:
    base = {"id": name, "site": "here", "facility": name, "point": "power", "measures": "it"}
    return PlantMeter(**(base | fields))  # type: ignore[arg-type]


def told(name: str, w: float, age_s: float = 0.0) -> dict[tuple[str, str], Reading]:
    reading = Reading(point="power", quantity="power_w", value=w, at_s=NOW_S - age_s)
    return {(name, "power"): reading}


POWERS = st.floats(0.0, 1e7)
ERRORS = st.floats(0.0, 0.5)


@given(st.lists(st.tuples(POWERS, ERRORS, st.floats(-100.0, 100.0)), min_size=1, max_size=6))
def test_a_kind_counts_when_all_its_meters_are_fresh_and_errs_by_at_most_their_worst(
    many: list[tuple[float, float, float]],
) -> None:
    meters = [meter(f"m{i}", error_share=e) for i, (_, e, _) in enumerate(many)]
    readings = {
        k: r for i, (w, _, age) in enumerate(many) for k, r in told(f"m{i}", w, age).items()
    }
    found = measure(meters, readings, NOW_S)
    stale = [m.id for m, (_, _, age) in zip(meters, many, strict=True) if abs(age) > m.stale_s]
    assert found.stale == tuple(stale)
    if stale:
        assert found.it is None
        return
    assert found.it is not None
    assert found.it.w == pytest.approx(math.fsum(w for w, _, _ in many))
    errors = [e for _, e, _ in many]
    assert min(errors) - 1e-12 <= found.it.error_share <= max(errors) + 1e-12
    assert all(text in found.sources[0] for text in ("IT", "measured"))


def test_a_meter_that_shows_power_flowing_back_counts_nothing() -> None:
    found = measure([meter("grid", measures="site")], told("grid", -400.0), NOW_S)
    assert found.site is not None
    assert found.site.w == 0.0


def test_a_reading_of_another_quantity_is_no_power() -> None:
    reading = Reading(point="power", quantity="temp_c", value=40.0, at_s=NOW_S)
    assert measure([meter("m")], {("m", "power"): reading}, NOW_S).it is None


STEPS = st.lists(st.tuples(st.floats(0.1, 120.0), st.floats(0.0, 5000.0)), min_size=1, max_size=40)


@given(STEPS)
def test_energy_by_power_is_what_the_trapezoids_hold_and_gaps_are_told(
    steps: list[tuple[float, float]],
) -> None:
    account = EnergyAccount(meter("m"))
    at_s, before, expected_j, gap_s = NOW_S, 100.0, 0.0, 0.0
    account.take(
        {("m", "power"): Reading(point="power", quantity="power_w", value=before, at_s=at_s)}
    )
    for elapsed_s, w in steps:
        at_s += elapsed_s
        reading = Reading(point="power", quantity="power_w", value=w, at_s=at_s)
        for _ in range(2):  # the same reading seen twice counts once
            assert account.take({("m", "power"): reading}) >= 0.0
        if elapsed_s > GAP_S_MAX:
            gap_s += elapsed_s
        else:
            expected_j += (before + w) / 2 * elapsed_s
        before = w
    assert account.wh == pytest.approx(
        expected_j / 3600.0, rel=1e-4
    )  # instants are read to a microsecond
    assert account.gap_s == pytest.approx(gap_s)


def counted(account: EnergyAccount, value: float, step: int) -> float:
    """Wh that a reading adds where the meter draws 3.6 kW, a Wh a second."""
    at_s = NOW_S + step
    readings = {
        ("m", "power"): Reading(point="power", quantity="power_w", value=3600.0, at_s=at_s),
        ("m", "energy"): Reading(point="energy", quantity="energy_wh", value=value, at_s=at_s),
    }
    return account.take(readings)


@given(st.lists(st.floats(0.0, 1e6), min_size=2, max_size=40))
def test_a_counter_is_followed_and_a_reset_loses_and_invents_nothing_by_itself(
    values: list[float],
) -> None:
    account = EnergyAccount(meter("m", energy_point="energy"))
    expected, since, before, high = 0.0, 0.0, None, None
    for step, value in enumerate(values):
        added = counted(account, value, step)
        if before is not None:
            if value < before:
                wanted = 1.0
                if high is None or before >= high:
                    high, since = before, 0.0
            elif high is None or value < high:
                wanted = value - before
            else:
                wanted, high = max(value - high - since, 0.0), None
            expected, since = expected + wanted, since + wanted
            assert added == pytest.approx(wanted, abs=1e-6)
        before = value
    assert account.wh == pytest.approx(expected, rel=1e-9, abs=1e-6)
    assert account.counted_wh <= account.wh + 1e-6


@pytest.mark.parametrize("wrong", [[0.0], [0.0, 0.0, 1.0], [900_000.0, 0.0]])
def test_a_counter_that_shows_less_for_a_while_adds_no_more_than_it_counted(
    wrong: list[float],
) -> None:
    account = EnergyAccount(meter("m", energy_point="energy"))
    shown = [1_000_000.0, *wrong, 1_000_010.0, 1_000_011.0]
    for step, value in enumerate(shown):
        content = msgspec.msgpack.encode(account.kept())  # an agent restarts in between
        account = EnergyAccount(account.meter)
        account.restore(msgspec.msgpack.decode(content, type=AccountKept))
        counted(account, value, step)
    assert account.wh == pytest.approx(11.0)


@given(
    st.lists(st.tuples(st.floats(0.5, 90.0), st.floats(0.0, 5000.0)), min_size=2, max_size=20),
    st.integers(1, 19),
    st.booleans(),
)
def test_an_account_that_was_kept_goes_on_as_if_nothing_had_been(
    steps: list[tuple[float, float]], cut: int, counted: bool
) -> None:
    one = meter("m", energy_point="energy" if counted else "")
    whole, first = EnergyAccount(one), EnergyAccount(one)
    at_s, counter_wh = NOW_S, 100.0
    current = first
    for step, (elapsed_s, w) in enumerate(steps):
        if step == cut:
            content = msgspec.msgpack.encode(current.kept())
            current = EnergyAccount(one)
            current.restore(msgspec.msgpack.decode(content, type=AccountKept))
        at_s += elapsed_s
        counter_wh += w * elapsed_s / 3600.0
        readings = {
            ("m", "power"): Reading(point="power", quantity="power_w", value=w, at_s=at_s),
            ("m", "energy"): Reading(
                point="energy", quantity="energy_wh", value=counter_wh, at_s=at_s
            ),
        }
        whole.take(readings)
        current.take(readings)
    assert (current.wh, current.counted_wh, current.gap_s) == (
        whole.wh,
        whole.counted_wh,
        whole.gap_s,
    )


def test_an_account_keeps_its_sum_when_its_meter_reads_another_point() -> None:
    old = EnergyAccount(meter("m", energy_point="energy"))
    for step in range(3):
        key = ("m", "energy")
        old.take(
            {
                key: Reading(
                    point="energy", quantity="energy_wh", value=50.0 + step, at_s=NOW_S + step
                )
            }
        )
    new = EnergyAccount(meter("m", energy_point="other"))
    new.restore(old.kept())
    assert new.wh == 2.0
    jump = Reading(point="other", quantity="energy_wh", value=1e6, at_s=NOW_S + 9)
    assert new.take({("m", "other"): jump}) == 0.0


# --- what the agent makes of it


def test_measured_power_takes_the_place_of_every_estimate() -> None:
    keeper = PowerKeeper(LEAGUE, "frankfurt")
    base_kw = next(s.power.base_kw for s in LEAGUE.sites if s.id == "frankfurt")
    plain = keeper.status(NOW_S, 2000.0)
    assert (plain.it_method, plain.it_error_share) == ("estimated", None)
    power = Power(w=8000.0, error_share=0.01, at_s=NOW_S)
    measured = Measured(
        it=power,
        site=msgspec.structs.replace(power, w=(base_kw + 10.0) * 1e3),
        pv=msgspec.structs.replace(power, w=1234.0),
    )
    status = keeper.status(NOW_S, 8000.0, measured)
    assert (status.it_method, status.it_error_share, status.drawn_method) == (
        "measured",
        0.01,
        "measured",
    )
    assert status.drawn_kw == keeper.drawn_kw == base_kw + 10.0
    assert status.pue == pytest.approx(1.25)
    assert status.pv_kw == pytest.approx(1.234)
    assert any("IT power measured" in text for text in status.sources)
    odd = Measured(it=power, site=msgspec.structs.replace(power, w=base_kw * 1e3 + 100.0))
    assert keeper.status(NOW_S, 8000.0, odd).pue == 1.0


@given(st.floats(1.0, 1e5), st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_engines_get_all_of_the_measured_power_and_no_more(
    watts: float, running: list[int]
) -> None:
    page = SharedPage.private()
    kept = Meter(LEAGUE, "frankfurt", page)
    pool = next(s.pools[0].id for s in LEAGUE.sites if s.id == "frankfurt")
    fields = {
        "site": "frankfurt",
        "service": "chat",
        "variant": "q8",
        "model": "m",
        "precision": "q8_0",
    }
    fields |= {"served_names": ("chat",), "pool": pool, "driver": "external", "url": "http://x"}
    fields |= {"chips": 1, "slots": 4, "context_tokens": 1024, "embedding": False}
    specs = [EngineSpec(name=f"e-{i}", index=i, **fields) for i in range(len(running))]  # type: ignore[arg-type]
    for spec, requests in zip(specs, running, strict=True):
        page.exec[0, spec.index, 0] = requests
    power = Power(w=watts, error_share=0.02, at_s=NOW_S)
    for measured in (Measured(it=power), Measured(it=power, pools={pool: power})):
        kept.see_measured(measured, specs)
        parts = [kept.watts(spec.name) for spec in specs]
        assert kept.it_w() == watts
        assert math.fsum(parts) == pytest.approx(watts)
        assert [page.engines[s.index, ENGINE_CPU_W] for s in specs] == parts
        order = sorted(range(len(parts)), key=lambda i: running[i])
        assert all(parts[a] <= parts[b] + 1e-9 for a, b in pairwise(order))
    kept.see_measured(Measured(), specs)
    assert kept.it_w() == pytest.approx(math.fsum(kept.watts(s.name) for s in specs))


# --- dead nodes


def engine(state: str, pool: str = "gpus") -> EngineStatus:
    return EngineStatus(name="e", service="chat", variant="q8", state=state, pool=pool)  # type: ignore[arg-type]


@given(
    st.lists(
        st.tuples(
            st.floats(1.0, 4000.0),
            st.sampled_from(["failing", "up", "starting", "resting", "none"]),
        ),
        max_size=120,
    )
)
def test_a_node_is_reset_only_when_all_of_it_stayed_dead_and_seldom(
    course: list[tuple[float, str]],
) -> None:
    resets, now_s, dead_since_s = Resets("gpus"), 0.0, None
    done: list[float] = []
    for elapsed_s, state in course:
        now_s += elapsed_s
        engines = (
            [engine("up", "others")] if state == "none" else [engine(state), engine("failing")]
        )
        if state == "resting":
            engines = [engine("resting"), engine("failing")]
        dead = state in ("failing", "resting")
        dead_since_s = (now_s if dead_since_s is None else dead_since_s) if dead else None
        if resets.due(engines, now_s, now_s):
            assert dead_since_s is not None
            assert now_s - dead_since_s >= DEAD_S
            assert not done or now_s - done[-1] >= AGAIN_S
            done.append(now_s)
            assert sum(now_s - at_s < RESETS_S for at_s in done) <= RESETS_MAX


def test_a_clock_that_is_set_makes_no_node_dead() -> None:
    resets = Resets("gpus")
    assert not resets.due([engine("failing")], 0.0, 0.0)
    assert not resets.due([engine("failing")], 1e9, 1.0)
    assert resets.due([engine("failing")], 1e9, DEAD_S)


def test_a_node_that_stays_dead_is_reset_as_often_as_stated() -> None:
    resets = Resets("gpus")
    done = [t for t in range(0, 100_000, 10) if resets.due([engine("failing")], float(t), float(t))]
    assert done[:3] == [180, 1980, 3780]
    assert len([t for t in done if t < RESETS_S]) == RESETS_MAX
