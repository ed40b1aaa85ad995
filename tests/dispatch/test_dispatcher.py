"""The dispatcher: events in, the same actions out, whatever the order within an instant."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, site
from effort import effort
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.actions import Action, action_from_bytes, action_to_bytes
from hanse.dispatch.dispatcher import PUBLISH_EVERY_S, Dispatcher
from hanse.dispatch.events import Event, event_from_bytes, event_to_bytes
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.site_scope import BACK_OFF_S_MAX, PROBE_MISSES_MAX, RAN_WELL_S, START_S_MAX
from hanse.dispatch.table import Table
from hanse.model.fleet import Fleet, Placement

FLEET = fleet((site("a"), site("b"), site("c", "FR")))
ENGINE = "chat-v0-0"


def at_fleet(made: Fleet = FLEET) -> Dispatcher:
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=made))
    dispatcher.handle(ev.EpochGranted(at_s=NOW_S, epoch=4))
    return dispatcher


def published(actions: list[Action]) -> Table | None:
    found = [a for a in actions if isinstance(a, act.PublishTable)]
    assert len(found) <= 1
    return Table.from_bytes(found[0].content) if found else None


def kinds(actions: list[Action]) -> list[str]:
    return [type(a).__name__ for a in actions if not isinstance(a, act.Log)]


def signals(name: str, at_s: float = NOW_S, **changed: float) -> ev.SignalsObserved:
    values = {"pue": 1.3, "carbon_g_per_kwh": 100.0, "price_usd_per_kwh": 0.1} | changed
    return ev.SignalsObserved(at_s=at_s, site=name, **values)


# --- fleet scope


def test_the_first_tick_publishes_and_the_next_has_nothing_to_say() -> None:
    dispatcher = at_fleet()
    table = published(dispatcher.handle(ev.Ticked(at_s=NOW_S)))
    assert table is not None
    assert (table.meta.version, table.meta.epoch) == (1, 4)
    assert table.meta.valid_until_s == NOW_S + FLEET.policy.valid_s
    for step in range(1, 20):
        assert dispatcher.handle(ev.Ticked(at_s=NOW_S + step)) == []


def test_tables_come_no_faster_than_every_half_second() -> None:
    dispatcher = at_fleet()
    times = []
    for step in range(100):
        now_s = NOW_S + step * 0.05
        dispatcher.handle(signals("a", now_s, carbon_g_per_kwh=100.0 + 10.0 * step))
        if published(dispatcher.handle(ev.Ticked(at_s=now_s))):
            times.append(now_s)
    assert len(times) >= 8
    assert min(np.diff(times)) >= PUBLISH_EVERY_S - 1e-6


def test_a_change_too_small_to_matter_publishes_nothing() -> None:
    dispatcher = at_fleet()
    dispatcher.handle(signals("a"))
    dispatcher.handle(ev.Ticked(at_s=NOW_S))
    dispatcher.handle(signals("a", carbon_g_per_kwh=100.9))
    assert dispatcher.handle(ev.Ticked(at_s=NOW_S + 1)) == []
    dispatcher.handle(signals("a", carbon_g_per_kwh=102.0))
    table = published(dispatcher.handle(ev.Ticked(at_s=NOW_S + 2)))
    assert table is not None
    assert table.sites[0]["g_per_wh"] == pytest.approx(0.102)


def test_a_table_is_renewed_long_before_it_expires() -> None:
    dispatcher = at_fleet()
    last = published(dispatcher.handle(ev.Ticked(at_s=NOW_S)))
    assert last is not None
    for hour in range(1, 72):
        now_s = NOW_S + hour * 3600.0
        newer = published(dispatcher.handle(ev.Ticked(at_s=now_s)))
        last = newer or last
        assert now_s < last.meta.valid_until_s - 11 * 3600.0


def test_the_order_of_events_within_an_instant_does_not_matter() -> None:
    digests = {"k": "ab" * 32}
    batch: list[Event] = [
        signals("a"),
        signals("b", carbon_g_per_kwh=500.0),
        ev.DrainRequested(at_s=NOW_S, site="c", drained=True),
        ev.KeysChanged(at_s=NOW_S, digests=digests),
        ev.SiteHeard(at_s=NOW_S, site="a", epoch=4, table_version=0),
        ev.SiteLost(at_s=NOW_S, site="b"),
        ev.PlacementDecided(at_s=NOW_S, source="test", placements=FLEET.placements[1:]),
    ]
    contents = set()
    rng = np.random.default_rng(1)
    for _ in range(20):
        dispatcher = at_fleet()
        for i in rng.permutation(len(batch)):
            dispatcher.handle(batch[i])
        publish, send = dispatcher.handle(ev.Ticked(at_s=NOW_S))
        assert isinstance(publish, act.PublishTable)
        assert isinstance(send, act.SendPlacement)
        contents.add(msgspec.msgpack.encode((publish, send)))
    assert len(contents) == 1


def test_an_event_twice_is_as_good_as_once() -> None:
    dispatcher = at_fleet()
    dispatcher.handle(signals("a"))
    dispatcher.handle(ev.DrainRequested(at_s=NOW_S, site="c", drained=True))
    dispatcher.handle(ev.Ticked(at_s=NOW_S))
    dispatcher.handle(signals("a"))
    dispatcher.handle(ev.DrainRequested(at_s=NOW_S, site="c", drained=True))
    dispatcher.handle(ev.EpochGranted(at_s=NOW_S, epoch=4))
    assert dispatcher.handle(ev.Ticked(at_s=NOW_S + 10)) == []


def test_offers_keep_their_indices_when_placement_changes() -> None:
    dispatcher = at_fleet()
    before = published(dispatcher.handle(ev.Ticked(at_s=NOW_S)))
    assert before is not None
    rest = FLEET.placements[1:]
    dispatcher.handle(ev.PlacementDecided(at_s=NOW_S, source="test", placements=rest))
    after = published(dispatcher.handle(ev.Ticked(at_s=NOW_S + 1)))
    assert after is not None
    assert after.meta.offers == before.meta.offers
    assert after.offers["replicas"].tolist() == [0, 1, 1]
    # A successor that knows the last table's offers numbers them the same.
    successor = Dispatcher("fleet")
    turned = ("c/chat/v0", "a/chat/v0")
    successor.handle(ev.FleetLoaded(at_s=NOW_S, fleet=FLEET, offers_known=turned, version_known=9))
    table = published(successor.handle(ev.Ticked(at_s=NOW_S)))
    assert table is not None
    assert table.meta.offers == (*turned, "b/chat/v0")
    assert table.meta.version == 10


def test_a_site_that_obeyed_a_higher_epoch_ends_this_leadership() -> None:
    dispatcher = at_fleet()
    heard = ev.SiteHeard(at_s=NOW_S, site="a", epoch=7, table_version=3)
    (action,) = dispatcher.handle(heard)
    assert action == act.StepDown(epoch=4, epoch_seen=7)


def test_a_broken_policy_file_publishes_a_table_that_admits_nothing_and_says_so() -> None:
    dispatcher = Dispatcher("fleet")
    broken = (PolicyText(name="x.cedar", text="nonsense"),)
    logs = dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=FLEET, policies=broken))
    assert any(isinstance(a, act.Log) and "x.cedar" in a.text for a in logs)
    table = published(dispatcher.handle(ev.Ticked(at_s=NOW_S)))
    assert table is not None
    assert not table.law.any()


def test_nothing_happens_before_a_fleet_is_known() -> None:
    assert kinds(Dispatcher("fleet").handle(ev.Ticked(at_s=NOW_S))) == []


# --- site scope


def at_site(epoch: int = 4) -> tuple[Dispatcher, list[Action]]:
    dispatcher = Dispatcher("site", site="a")
    dispatcher.handle(ev.EpochGranted(at_s=NOW_S, epoch=epoch))
    return dispatcher, dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=FLEET))


def probe(at_s: float, answered: bool) -> ev.EngineProbed:
    return ev.EngineProbed(at_s=at_s, engine=ENGINE, answered=answered)


def test_a_site_starts_its_own_engines_and_no_others() -> None:
    _, actions = at_site()
    assert kinds(actions) == ["StartEngine"]
    spec = actions[0].engine  # type: ignore[union-attr]
    assert (spec.site, spec.name, spec.offer) == ("a", ENGINE, "a/chat/v0")


def test_an_engine_is_up_with_its_first_answer_and_dead_after_three_misses() -> None:
    dispatcher, _ = at_site()
    assert kinds(dispatcher.handle(probe(NOW_S, False))) == [], "it may take a while to start"
    assert kinds(dispatcher.handle(probe(NOW_S + 1, True))) == ["MarkEngine"]
    for miss in range(1, PROBE_MISSES_MAX):
        assert dispatcher.handle(probe(NOW_S + 1 + 0.25 * miss, False)) == []
    (mark, _) = dispatcher.handle(probe(NOW_S + 2, False))
    assert isinstance(mark, act.MarkEngine)
    assert mark.state == "dead"


def test_an_answer_between_misses_counts_anew() -> None:
    dispatcher, _ = at_site()
    dispatcher.handle(probe(NOW_S, True))
    for step in range(30):
        answered = step % PROBE_MISSES_MAX == PROBE_MISSES_MAX - 1
        assert dispatcher.handle(probe(NOW_S + 0.25 * step, answered)) == []


def test_restarts_back_off_from_a_second_to_a_minute_and_recover() -> None:
    dispatcher, _ = at_site()
    now_s, waits = NOW_S, []
    for _ in range(9):
        dispatcher.handle(ev.EngineDied(at_s=now_s, engine=ENGINE))
        died_s = now_s
        while not (actions := dispatcher.handle(ev.Ticked(at_s=now_s))):
            now_s += 0.25
        assert kinds(actions) == ["RestartEngine"]
        waits.append(now_s - died_s)
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert waits[-1] == BACK_OFF_S_MAX
    dispatcher.handle(probe(now_s, True))
    now_s += RAN_WELL_S
    dispatcher.handle(ev.EngineDied(at_s=now_s, engine=ENGINE))
    assert kinds(dispatcher.handle(ev.Ticked(at_s=now_s + 1.0))) == ["RestartEngine"]


def test_an_engine_that_never_answers_is_restarted() -> None:
    dispatcher, _ = at_site()
    assert dispatcher.handle(ev.Ticked(at_s=NOW_S + START_S_MAX)) == []
    assert kinds(dispatcher.handle(ev.Ticked(at_s=NOW_S + START_S_MAX + 0.25))) == ["MarkEngine"]


def test_a_lower_epoch_is_refused_at_a_site() -> None:
    dispatcher, _ = at_site(epoch=4)
    old = ev.PlacementDecided(at_s=NOW_S, source="old leader", placements=(), epoch=3)
    assert kinds(dispatcher.handle(old)) == []
    new = ev.PlacementDecided(at_s=NOW_S, source="new leader", placements=(), epoch=5)
    assert kinds(dispatcher.handle(new)) == ["MarkEngine", "StopEngine"]
    assert dispatcher.epoch == 5
    assert kinds(dispatcher.handle(msgspec.structs.replace(new, epoch=4))) == []


def test_a_moved_engine_is_stopped_and_started() -> None:
    dispatcher, _ = at_site()
    wider = tuple(
        Placement(service=p.service, variant=p.variant, site=p.site, pool=p.pool, slots=16)
        for p in FLEET.placements
    )
    moved = ev.PlacementDecided(at_s=NOW_S, source="test", placements=wider, epoch=4)
    assert kinds(dispatcher.handle(moved)) == ["MarkEngine", "StopEngine", "StartEngine"]
    assert dispatcher.handle(moved) == []


def test_a_drained_site_marks_its_engines_and_takes_them_back() -> None:
    dispatcher, _ = at_site()
    dispatcher.handle(probe(NOW_S, True))
    drain = ev.DrainRequested(at_s=NOW_S, site="a", drained=True, epoch=4)
    (mark,) = dispatcher.handle(drain)
    assert isinstance(mark, act.MarkEngine)
    assert mark.state == "draining"
    assert dispatcher.handle(drain) == []
    (mark,) = dispatcher.handle(msgspec.structs.replace(drain, drained=False))
    assert isinstance(mark, act.MarkEngine)
    assert mark.state == "up"


def test_power_sheds_in_order_and_does_not_flap() -> None:
    dispatcher, _ = at_site()

    def draw(at_s: float, drawn_kw: float) -> list[str]:
        event = ev.PowerChanged(at_s=NOW_S + at_s, available_kw=10.0, drawn_kw=drawn_kw)
        actions = dispatcher.handle(event)
        work = [a for a in actions if not isinstance(a, act.CapPower)]
        return [f"Shed {a.level}" if isinstance(a, act.Shed) else kinds([a])[0] for a in work]

    assert draw(0, 9.9) == []
    assert draw(1, 10.5) == ["Shed 1"]
    assert draw(2, 10.5) == [], "what runs is not ended: wait for it"
    assert draw(3, 9.5) == [], "not yet: it would flap"
    assert draw(7, 10.5) == ["Shed 2"]
    assert draw(8, 12.0) == ["Shed 6"], "there is no time to wait"
    assert draw(12, 8.0) == []
    for step in range(1, 6):
        assert draw(8 + 11 * step, 8.0) == [f"Shed {6 - step}"]
    assert draw(74, 8.0) == ["Unshed"]


events = st.one_of(
    st.builds(ev.Ticked, at_s=st.just(0.0)),
    st.builds(ev.EngineProbed, at_s=st.just(0.0), engine=st.just(ENGINE), answered=st.booleans()),
    st.builds(ev.EngineDied, at_s=st.just(0.0), engine=st.sampled_from([ENGINE, "gone"])),
    st.builds(ev.EngineStarted, at_s=st.just(0.0), engine=st.just(ENGINE)),
    st.builds(
        ev.PowerChanged,
        at_s=st.just(0.0),
        available_kw=st.floats(0, 20),
        drawn_kw=st.floats(0, 20),
    ),
    st.builds(
        ev.DrainRequested,
        at_s=st.just(0.0),
        site=st.sampled_from(["a", "b"]),
        drained=st.booleans(),
        epoch=st.integers(2, 6),
    ),
)


def timed(steps: list[tuple[float, Event]]) -> list[Event]:
    now_s, found = NOW_S, []
    for wait_s, event in steps:
        now_s += wait_s
        found.append(msgspec.structs.replace(event, at_s=now_s))
    return found


@settings(max_examples=effort(60))
@given(st.lists(st.tuples(st.floats(0, 30), events), max_size=60))
def test_a_replay_from_logged_bytes_gives_the_same_actions(steps: list[tuple[float, Any]]) -> None:
    logged = [event_to_bytes(event) for event in timed(steps)]
    runs = []
    for _ in range(2):
        dispatcher, _ = at_site()
        runs.append([dispatcher.handle(event_from_bytes(content)) for content in logged])
    assert runs[0] == runs[1]
    for action in (a for actions in runs[0] for a in actions):
        assert action_from_bytes(action_to_bytes(action)) == action


@settings(max_examples=effort(60))
@given(st.lists(st.tuples(st.floats(0, 30), events), max_size=60))
def test_engines_only_restart_when_dead_and_epochs_never_fall(
    steps: list[tuple[float, Any]],
) -> None:
    dispatcher, _ = at_site()
    dead = False
    epoch = dispatcher.epoch
    for event in timed(steps):
        for action in dispatcher.handle(event):
            assert action.epoch >= epoch
            if isinstance(action, act.MarkEngine):
                assert not (dead and action.state == "dead"), "buried twice"
                dead = action.state == "dead"
            if isinstance(action, act.RestartEngine):
                assert dead
                dead = False
        assert dispatcher.epoch >= epoch
        epoch = dispatcher.epoch


def test_a_fleet_without_a_service_it_had_still_publishes() -> None:
    second = msgspec.structs.replace(FLEET.services[0], id="second", aliases=())
    more = Placement(
        service="second",
        variant=second.variants[0].id,
        site="a",
        pool=FLEET.placements[0].pool,
    )
    larger = msgspec.structs.replace(
        FLEET, services=(*FLEET.services, second), placements=(*FLEET.placements, more)
    )
    dispatcher = at_fleet(larger)
    before = published(dispatcher.handle(ev.Ticked(at_s=NOW_S)))
    assert before is not None and any("/second/" in key for key in before.meta.offers)
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S + 1, fleet=FLEET))
    after = published(dispatcher.handle(ev.Ticked(at_s=NOW_S + 2)))
    assert after is not None and not any("/second/" in key for key in after.meta.offers)
