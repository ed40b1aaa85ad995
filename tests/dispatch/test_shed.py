"""What a site gives up, in which order, how far, and when it comes back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.shed import (
    HOLD_S,
    NOTHING_SHED,
    OPEN,
    RETRY_S,
    SETTLE_S,
    SHED_ALL_SHARE,
    SHUT,
    UNSHED_SHARE,
    Draw,
    Shedding,
    flags_of_gate,
    gate_of_flags,
    power_gate,
    shed,
    shed_rank,
    shed_reasons,
    shed_steps,
)
from hanse.model.fleet import DataClass

CLASSES = (
    DataClass(id="health", law="health", priority=90),
    DataClass(id="public", law="non_personal", priority=20),
    DataClass(id="personal", law="personal"),
    DataClass(id="payment", law="payment"),
)
STEPS = shed_steps(CLASSES)
DRAWS = (
    Draw(work="deferrable", kw=1.0),
    Draw(work="others", kw=2.0),
    Draw(work="class", priority=20, kw=3.0),
    Draw(work="class", priority=50, kw=4.0),
    Draw(work="idle", kw=1.0),
    Draw(work="class", priority=90, kw=5.0),
)


def go(before: Shedding, at_s: float, drawn_kw: float, draws: tuple[Draw, ...] = DRAWS) -> Shedding:
    return shed(
        STEPS, before, at_s, available_kw=20.0, drawn_kw=drawn_kw, cause="grid cap", draws=draws
    )


def test_the_order_is_deferrable_others_classes_idle_engines_and_the_last_class() -> None:
    assert [(s.work, s.classes) for s in STEPS] == [
        ("deferrable", ()),
        ("others", ()),
        ("class", ("public",)),
        ("class", ("personal", "payment")),
        ("idle", ()),
        ("class", ("health",)),
    ]
    assert [s.last for s in STEPS] == [False] * 5 + [True]
    assert shed_rank(CLASSES) == {"public": 1, "personal": 2, "payment": 2, "health": 3}
    assert shed_reasons(STEPS, Shedding(level=3, cause="heat")) == (
        "heat: no deferrable work",
        "heat: no work of other sites",
        "heat: no class public (priority 20)",
    )
    assert STEPS[2].rule == "hanse:power-priority-20"


def test_a_site_goes_as_far_as_the_draws_say_and_no_further() -> None:
    assert go(NOTHING_SHED, 0, 20.0) == NOTHING_SHED
    assert go(NOTHING_SHED, 0, 20.5).level == 1
    assert go(NOTHING_SHED, 0, 21.5).level == 2
    assert go(NOTHING_SHED, 0, 22.0).level == 2
    found = go(NOTHING_SHED, 0, 26.0)
    assert found.level == 3 and found.given_up_kw == (1.0, 2.0, 3.0)
    assert found.cause == "grid cap"


def test_the_last_class_goes_only_where_engines_would_brown_out() -> None:
    small = tuple(Draw(work=d.work, priority=d.priority, kw=0.1) for d in DRAWS)
    assert go(NOTHING_SHED, 0, 21.9, small).level == 5
    assert go(NOTHING_SHED, 0, 22.1, small).level == 6


def test_a_step_of_unknown_size_is_taken_alone_unless_there_is_no_time() -> None:
    first = go(NOTHING_SHED, 0, 21.0, ())
    assert first.level == 1 and first.given_up_kw == (None,)
    assert go(first, SETTLE_S - 0.1, 21.0, ()) == first, "what runs is not ended: wait"
    assert go(first, SETTLE_S, 21.0, ()).level == 2
    assert go(first, 0.5, 23.0, ()).level == len(STEPS)


def test_work_comes_back_a_step_at_a_time_when_it_fits_again() -> None:
    deep = go(NOTHING_SHED, 0, 26.0)
    assert go(deep, HOLD_S - 1, 10.0) == deep
    assert go(deep, HOLD_S, UNSHED_SHARE * 20 - 2.9) == deep, "it would be too much again"
    back = go(deep, HOLD_S, 15.0)
    assert back.level == 2 and back.given_up_kw == (1.0, 2.0)
    assert go(deep, RETRY_S, UNSHED_SHARE * 20).level == 2, "demand may have changed meanwhile"
    assert go(back, 2 * HOLD_S, 15.0).level == 1
    assert go(go(back, 2 * HOLD_S, 15.0), 3 * HOLD_S, 15.0).level == 0


draws = st.lists(st.sampled_from(DRAWS), max_size=6, unique=True).map(tuple)


@given(
    st.lists(st.tuples(st.floats(0.1, 60), st.floats(0, 60), st.floats(0, 40), draws), max_size=40)
)
def test_whatever_comes_the_order_holds_and_nothing_flaps(
    steps: list[tuple[float, float, float, tuple[Draw, ...]]],
) -> None:
    now_s, before = 0.0, NOTHING_SHED
    for wait_s, drawn_kw, available_kw, told in steps:
        now_s += wait_s
        after = shed(
            STEPS,
            before,
            now_s,
            available_kw=available_kw,
            drawn_kw=drawn_kw,
            cause="grid cap",
            draws=told,
        )
        assert 0 <= after.level <= len(STEPS)
        assert len(after.given_up_kw) == after.level
        assert len(shed_reasons(STEPS, after)) == after.level
        if drawn_kw > available_kw:
            assert after.level >= before.level
        else:
            assert after.level in (before.level, before.level - 1)
        if after.level < before.level:
            assert now_s - before.changed_at_s >= HOLD_S
            assert drawn_kw <= UNSHED_SHARE * available_kw
        if after.level == len(STEPS) > before.level:
            assert drawn_kw > SHED_ALL_SHARE * available_kw
        before = after


@given(st.floats(0, 16), st.floats(1.0, 20))
def test_with_true_draws_one_step_is_enough_or_nothing_is_left(idle_kw: float, cap: float) -> None:
    drawn_kw = idle_kw + sum(d.kw for d in DRAWS)
    found = shed(
        STEPS,
        NOTHING_SHED,
        0.0,
        available_kw=cap,
        drawn_kw=drawn_kw,
        cause="heat",
        draws=DRAWS,
    )
    left_kw = drawn_kw - sum(kw or 0.0 for kw in found.given_up_kw)
    browns_out = drawn_kw > SHED_ALL_SHARE * cap
    assert left_kw <= cap + 1e-9 or found.level == len(STEPS) - (not browns_out)
    if found.level:
        given_up = sum(kw or 0.0 for kw in found.given_up_kw[:-1])
        assert drawn_kw - given_up > cap, "one step less would not have been enough"


def test_the_gate_says_for_each_rank_what_the_level_says() -> None:
    ranks = 3
    gates = [power_gate(level, ranks) for level in range(len(STEPS) + 1)]
    assert gates == [OPEN, OPEN, -1, -2, -3, -3, SHUT]
    for level, gate in enumerate(gates):
        refused = {name for step in STEPS[:level] for name in step.classes}
        for name, rank in shed_rank(CLASSES).items():
            barred = gate == SHUT or (gate != OPEN and rank < -gate)
            assert barred == (name in refused), (level, name)
        assert gate_of_flags(flags_of_gate(gate) | 2) == gate, "beside the flag TAKEN"


def test_one_class_alone_is_the_last() -> None:
    alone = shed_steps(CLASSES[:1])
    assert [s.work for s in alone] == ["deferrable", "others", "idle", "class"]
    assert [power_gate(level, 1) for level in range(5)] == [OPEN, OPEN, -1, -1, SHUT]
