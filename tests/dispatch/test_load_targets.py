"""Load targets: which one binds, what a site gives up for it, and what is said of keeping it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.test_dispatcher import NOW_S, at_site
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.load_targets import (
    BOUNDS_MAX,
    BREACH_AFTER_S,
    CAP_STEP_SHARE,
    ESCALATE_AFTER_S,
    FOREVER,
    LoadTarget,
    Watch,
    bounds,
    compliant,
    in_force,
    look,
    merged,
    next_cap,
    next_change_s,
    replaced,
    severity,
)
from hanse.dispatch.shed import NOTHING_SHED, Draw, shed, shed_steps

TIMES = st.integers(0, 60).map(float)
ENDS = st.one_of(st.integers(1, 60).map(float), st.just(FOREVER))


@st.composite
def targets(draw: st.DrawFn) -> LoadTarget:
    return LoadTarget(
        id=draw(st.sampled_from("abcde")),
        source=draw(st.sampled_from(["iso", "dso", "person"])),
        limit_kw=draw(st.sampled_from([1.0, 2.0, 5.0, 8.0])),
        start_at_s=draw(TIMES),
        end_at_s=draw(ENDS),
    )


SENT = st.lists(targets(), max_size=12)


def plainly(sent: list[LoadTarget], now_s: float, came_s: list[float] | None = None) -> float:
    """The least of each sender's last word, from all that was ever sent.

    A word is taken back for good by a later one of its sender that has its id, or leaves nothing of it.
    """
    came_s = came_s or [0.0] * len(sent)

    def taken_back(i: int) -> bool:
        old = sent[i]
        return any(
            new.source == old.source
            and (
                new.id == old.id
                or (new.start_at_s <= max(old.start_at_s, at_s) and new.end_at_s >= old.end_at_s)
            )
            for new, at_s in zip(sent[i + 1 :], came_s[i + 1 :], strict=True)
            if new.end_at_s
            > max(new.start_at_s, at_s)  # one that is over when it comes says nothing
            or new.id == old.id
        )

    words = [t for i, t in enumerate(sent) if not taken_back(i)]
    limits = {t.source: t.limit_kw for t in words if t.start_at_s <= now_s < t.end_at_s}
    return min(limits.values(), default=FOREVER)


@given(SENT, st.lists(TIMES, min_size=1, max_size=20))
def test_what_binds_is_the_least_of_each_senders_last_word(
    sent: list[LoadTarget], times: list[float]
) -> None:
    schedule: tuple[LoadTarget, ...] = ()
    for target in sent:
        schedule = merged(schedule, [target], 0.0)
    at_once = merged((), sent, 0.0)
    for now_s in times:
        bound = in_force(schedule, now_s)
        assert (bound.limit_kw if bound else FOREVER) == plainly(sent, now_s)
        assert in_force(at_once, now_s) == bound


@given(SENT, st.lists(TIMES, min_size=12, max_size=12))
def test_targets_that_come_over_time_bind_as_if_all_had_been_known(
    sent: list[LoadTarget], times: list[float]
) -> None:
    schedule: tuple[LoadTarget, ...] = ()
    came_s = sorted(times)[: len(sent)]
    for target, now_s in zip(sent, came_s, strict=True):
        schedule = merged(schedule, [target], now_s)
    for later_s in (max(times), max(times) + 7.0, 61.0, 1e6):
        bound = in_force(schedule, later_s)
        assert (bound.limit_kw if bound else FOREVER) == plainly(sent, later_s, came_s)


@given(SENT, TIMES, TIMES)
def test_forgetting_what_is_over_changes_nothing_later(
    sent: list[LoadTarget], a: float, b: float
) -> None:
    now_s, later_s = sorted((a, b))
    schedule = merged((), sent, 0.0)
    assert in_force(merged(schedule, [], now_s), later_s) == in_force(schedule, later_s)


@given(SENT, TIMES)
def test_nothing_changes_before_the_next_edge(sent: list[LoadTarget], now_s: float) -> None:
    schedule = merged((), sent, 0.0)
    edge_s = next_change_s(schedule, now_s)
    assert edge_s > now_s
    before_s = min(edge_s, 1e6) - 0.001
    assert in_force(schedule, before_s) == in_force(schedule, now_s)


@given(SENT, SENT)
def test_a_sender_that_tells_everything_replaces_its_own_and_nobody_elses(
    sent: list[LoadTarget], new: list[LoadTarget]
) -> None:
    new = [msgspec.structs.replace(t, source="iso") for t in new]
    schedule = merged((), sent, 0.0)
    after = replaced(schedule, "iso", new, 0.0)
    assert [t for t in after if t.source != "iso"] == [t for t in schedule if t.source != "iso"]
    assert {t.id for t in after if t.source == "iso"} <= {t.id for t in new}


@given(SENT, st.lists(TIMES, min_size=1, max_size=20), TIMES)
def test_what_a_site_tells_of_its_targets_is_what_binds_at_each_instant(
    sent: list[LoadTarget], asked_s: list[float], from_s: float
) -> None:
    schedule = merged((), sent, 0.0)
    pieces = bounds(schedule, from_s, 60.0)
    assert list(pieces) == sorted(pieces)
    for at_s in [t for t in asked_s if from_s <= t < 60.0]:
        told = [kw for begin_s, end_s, kw in pieces if begin_s <= at_s < end_s]
        target = in_force(schedule, at_s)
        assert told == ([] if target is None else [target.limit_kw])


def test_a_profile_in_quarters_of_an_hour_is_told_as_the_least_of_each_hour() -> None:
    quarters = [
        LoadTarget(
            id=str(i), source="iso", limit_kw=8.0 if i // 4 % 24 in (15, 16) else 40.0 + i % 4,
            start_at_s=900.0 * i, end_at_s=900.0 * (i + 1),
        )
        for i in range(192)
    ]  # fmt: skip
    pieces = bounds(merged((), quarters, 0.0), 0.0, 172_800.0)
    assert len(pieces) <= BOUNDS_MAX
    assert pieces == (
        (0.0, 54_000.0, 40.0), (54_000.0, 61_200.0, 8.0), (61_200.0, 140_400.0, 40.0),
        (140_400.0, 147_600.0, 8.0), (147_600.0, 172_800.0, 40.0),
    )  # fmt: skip


def test_a_limit_beyond_all_sites_is_none() -> None:
    huge = LoadTarget(id="x", source="iso", limit_kw=1e16, start_at_s=0.0)
    assert bounds((huge,), 0.0, 60.0) == ()


def test_a_flood_of_one_sender_pushes_out_its_own_alone() -> None:
    quiet = LoadTarget(id="q", source="dso", limit_kw=3.0, start_at_s=0.0)
    flood = [
        LoadTarget(id=str(i), source="iso", limit_kw=1.0, start_at_s=float(i), end_at_s=i + 0.5)
        for i in range(1000)
    ]
    schedule = merged([quiet], flood, 0.0)
    assert quiet in schedule
    assert len(schedule) == 257
    assert schedule[-1] == flood[-1]


@given(st.lists(st.one_of(st.none(), st.floats(0.1, 100.0)), min_size=1, max_size=30))
def test_devices_are_never_held_looser_than_what_binds_nor_much_tighter(
    bounds: list[float | None],
) -> None:
    cap: float | None = None
    for bound in bounds:
        cap = next_cap(cap, bound)
        if bound is None:
            assert cap is None
        else:
            assert cap is not None
            assert cap <= bound <= cap * (1.0 + CAP_STEP_SHARE) + 1e-12


# --- what a site gives up


def target(limit_kw: float, until_s: float = FOREVER, **fields: object) -> LoadTarget:
    base = {
        "id": "t",
        "source": "iso",
        "limit_kw": limit_kw,
        "start_at_s": NOW_S,
        "end_at_s": until_s,
    }
    return LoadTarget(**(base | fields))  # type: ignore[arg-type]


def test_a_target_sheds_in_the_stated_order_and_its_end_brings_all_back() -> None:
    dispatcher, _ = at_site()
    draws = (Draw(work="deferrable", kw=1.0), Draw(work="others", kw=1.0))

    def look_at(at_s: float, drawn_kw: float) -> list[act.Action]:
        event = ev.PowerChanged(
            at_s=NOW_S + at_s, available_kw=10.0, drawn_kw=drawn_kw, draws=draws
        )
        return dispatcher.handle(event)

    assert look_at(0, 8.0) == []
    assert (
        dispatcher.handle(ev.LoadTargetsChanged(at_s=NOW_S, schedule=(target(6.5, NOW_S + 60),)))
        == []
    )
    done = look_at(1, 8.0)
    (cap,) = [a for a in done if isinstance(a, act.CapPower)]
    (shed_now,) = [a for a in done if isinstance(a, act.Shed)]
    assert cap.limit_kw == 6.5
    assert shed_now.cause == "load target"
    assert shed_now.reasons == (
        "load target: no deferrable work",
        "load target: no work of other sites",
    )
    assert look_at(30, 6.0) == []  # it keeps to it; nothing comes back while it would not fit
    ended = look_at(61, 5.0)
    assert [type(a).__name__ for a in ended] == ["CapPower", "Shed"]
    assert (ended[0].limit_kw, ended[1].level) == (10.0, 1)  # type: ignore[union-attr]
    back = look_at(75, 5.0)
    assert [type(a).__name__ for a in back] == ["CapPower", "Unshed"]
    assert back[0].limit_kw is None  # type: ignore[union-attr]


@given(st.floats(0.1, 20.0), st.floats(0.1, 20.0), st.booleans())
def test_the_last_class_goes_for_a_strict_target_or_a_brownout_and_for_no_other(
    limit_kw: float, drawn_kw: float, strict: bool
) -> None:
    supply_kw = 10.0
    steps = shed_steps(at_site()[0].belief.fleet.classes)  # type: ignore[union-attr]
    now, now_s = NOTHING_SHED, NOW_S
    for _ in range(40):
        now_s += 6.0
        available_kw = min(limit_kw, supply_kw)
        now = shed(
            steps, now, now_s, available_kw=available_kw, drawn_kw=drawn_kw, cause="load target",
            supply_kw=supply_kw, strict=strict,
        )  # fmt: skip
    over = drawn_kw > min(limit_kw, supply_kw)
    brown = drawn_kw > 1.1 * supply_kw
    assert (now.level == len(steps)) == (over and (strict or brown))
    assert (now.level == 0) == (not over)


def test_a_looser_target_than_the_supply_changes_nothing() -> None:
    dispatcher, _ = at_site()
    dispatcher.handle(ev.LoadTargetsChanged(at_s=NOW_S, schedule=(target(12.0),)))
    event = ev.PowerChanged(at_s=NOW_S + 1, available_kw=10.0, drawn_kw=10.5)
    (shed_now,) = [a for a in dispatcher.handle(event) if isinstance(a, act.Shed)]
    assert shed_now.cause == "grid cap"


def test_events_and_actions_survive_the_wire() -> None:
    event = ev.LoadTargetsChanged(
        at_s=1.0, schedule=(target(3.0), target(2.0, 9e9, best_effort=False))
    )
    assert ev.event_from_bytes(ev.event_to_bytes(event)) == event
    for limit_kw in (None, 3.5):
        action = act.CapPower(epoch=3, limit_kw=limit_kw)
        assert act.action_from_bytes(act.action_to_bytes(action)) == action


# --- what is said of it


def test_the_account_of_one_target_from_beginning_to_end() -> None:
    order = target(5.0, NOW_S + 300)
    course = [
        (0.0, None, 8.0, 0, (), None),
        (1.0, order, 8.0, 1, ("start_ramp_down",), None),
        (5.0, order, 6.0, 2, (), None),
        (9.0, order, 4.9, 2, ("end_ramp_down",), None),
        (200.0, order, 4.9, 2, (), None),
        (301.0, None, 4.9, 2, ("start_ramp_up",), None),
        (311.0, None, 5.5, 1, (), None),
        (321.0, None, 8.0, 0, ("end_ramp_up",), None),
    ]
    watch = Watch()
    for at_s, bound, drawn_kw, level, ramps, breach in course:
        told = look(watch, bound, drawn_kw, level, NOW_S + at_s)
        assert (told.ramps, told.breach) == (ramps, breach), at_s
        watch = told.watch
        assert (watch.event_since_s is None) == (at_s in (0.0, 321.0))
    assert watch == Watch()


def test_a_target_that_is_missed_is_a_breach_that_escalates_and_is_resolved() -> None:
    order = target(5.0)
    watch, said = Watch(), []
    for second in range(200):
        drawn_kw = 7.0 if second < 170 else 4.0
        told = look(watch, order, drawn_kw, 3, NOW_S + second)
        watch = told.watch
        if told.breach:
            assert told.breached is not None
            said.append((second, told.breach, told.breached.since_s - NOW_S))
    assert said == [
        (BREACH_AFTER_S, "active", 0.0),
        (ESCALATE_AFTER_S, "escalated", 0.0),
        (170, "resolved", 0.0),
    ]
    assert (severity(order, 5.9), severity(order, 6.1)) == ("warning", "critical")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 3.0, 5.0]), st.sampled_from([2.0, 4.0, 7.0]), st.integers(0, 5)
        ),
        max_size=80,
    )
)
def test_every_breach_that_was_told_is_told_to_be_over_and_ramps_come_in_pairs(
    course: list[tuple[float | None, float, int]],
) -> None:
    watch, said, ramps = Watch(), [], []
    for step, (limit_kw, drawn_kw, level) in enumerate([*course, (None, 0.0, 0)]):
        bound = None if limit_kw is None else target(limit_kw, id=str(limit_kw))
        told = look(watch, bound, drawn_kw, level, NOW_S + 20.0 * step)
        said += [told.breach] if told.breach else []
        ramps += told.ramps
        watch = told.watch
        assert watch.breach is None or not compliant(bound, drawn_kw)
    open_breach, open_ramp = False, ""
    for word in said:
        assert open_breach == (word != "active")
        open_breach = word != "resolved"
    for ramp in ramps:
        kind, way = ramp.split("_ramp_")
        assert (open_ramp == "") if kind == "start" else (open_ramp == way)
        open_ramp = way if kind == "start" else ""
    assert not open_breach
    assert open_ramp == ""


@pytest.mark.parametrize("limit_kw", [4.0, 3.0])
def test_a_tighter_target_that_is_kept_already_begins_no_ramp(limit_kw: float) -> None:
    told = look(Watch(target=target(5.0), event_since_s=NOW_S), target(limit_kw), 2.0, 0, NOW_S)
    assert told.ramps == ()
