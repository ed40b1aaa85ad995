"""The log of slow decisions: what is left out changes nothing, what is altered is found."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, site, tenant
from effort import effort
from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.eventlog import LENGTH_BYTES, MAGIC, Changes, Entry, frame, repeat
from hanse.errors import ConfigError
from hanse.model.fleet import Link, Placement

SITES = ("a", "b")


def made() -> ev.FleetLoaded:
    placements = tuple(
        Placement(service="chat", variant="v0", site=s, pool="gpu", replicas=2, slots=8, chips=1)
        for s in SITES
    )
    league = fleet(
        tuple(site(s) for s in SITES),
        tenants=(tenant("t", ("DE",)),),
        links=(Link(a="a", b="b", rtt_ms=9.0, mbit_s=1000.0),),
        placements=placements,
    )
    return ev.FleetLoaded(at_s=NOW_S, fleet=league)


def happening(at_s: float, kind: int, name: str, number: int) -> ev.Event:
    if kind <= 2:
        return ev.Ticked(at_s=at_s)
    if kind <= 5:
        return ev.SiteHeard(at_s=at_s, site=name, epoch=1, table_version=number % 2)
    if kind == 6:
        return ev.SiteLost(at_s=at_s, site=name)
    if kind == 7:
        return ev.DrainRequested(at_s=at_s, site=name, drained=bool(number % 2))
    why = "no memory" if number % 2 else ""
    return ev.EngineFailing(at_s=at_s, site=name, service="chat", variant="v0", pool="gpu", why=why)


EVENTS = st.lists(
    st.tuples(
        st.floats(0.01, 30_000.0), st.integers(0, 8), st.sampled_from(SITES), st.integers(0, 3)
    ),
    max_size=60,
)


def logged(happened: list[tuple[float, int, str, int]], *, thin: bool) -> bytes:
    dispatcher, changes, content, at_s = Dispatcher("fleet"), Changes(), MAGIC, NOW_S
    events: list[ev.Event] = [made(), ev.EpochGranted(at_s=NOW_S, epoch=1)]
    for later_s, kind, name, number in happened:
        at_s += later_s
        events.append(happening(at_s, kind, name, number))
    for event in events:
        actions = dispatcher.handle(event)
        if changes.needed(event, actions) or not thin:
            content += frame(event, actions)
    return content


@settings(max_examples=effort(20), deadline=None)
@given(EVENTS)
def test_a_log_without_what_changes_nothing_leads_to_the_same_decisions(
    happened: list[tuple[float, int, str, int]],
) -> None:
    thin, whole = (repeat(logged(happened, thin=thin)) for thin in (True, False))
    assert thin.differ == whole.differ == ()
    assert thin.decided == whole.decided and thin.events <= whole.events


def test_an_altered_event_is_found_and_a_torn_end_is_said() -> None:
    happened = [(1.0, 3, "a", 0), (1.0, 0, "a", 0), (1.0, 6, "a", 0), (1.0, 0, "a", 0)]
    log = logged(happened, thin=True)
    assert repeat(log).differ == ()
    assert repeat(log[:-3]).truncated
    other = msgspec.msgpack.encode("b")
    position = log.rindex(msgspec.msgpack.encode("a"))
    altered = log[:position] + other + log[position + len(other) :]
    assert repeat(altered).differ


def test_what_is_no_log_or_damaged_says_where_and_what_to_do() -> None:
    log = logged([(1.0, 6, "a", 0)], thin=True)
    size = int.from_bytes(log[len(MAGIC) :][:LENGTH_BYTES], "little")
    second = len(MAGIC) + LENGTH_BYTES + size
    long = log[:second] + b"\xff" * 4 + log[second + 4 :]
    no_entry = log[: second + LENGTH_BYTES] + b"\xc1" + log[second + LENGTH_BYTES + 1 :]
    event = msgspec.msgpack.encode(Entry(event=b"\xc1", actions=b""))
    strange = MAGIC + len(event).to_bytes(LENGTH_BYTES, "little") + event
    for bad, where in (
        (b"something else", "x.events"),
        (long, f"x.events, byte {second}"),
        (no_entry, f"x.events, byte {second}"),
        (strange, "x.events, event 1"),
    ):
        with pytest.raises(ConfigError) as error:
            repeat(bad, where="x.events")
        assert error.value.where == where
        assert error.value.got and error.value.allowed and error.value.fix
