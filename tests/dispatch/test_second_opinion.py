"""Cut off or dead: a silent site is dead only if nobody hears it, and only then is its work placed anew."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S
from dispatch.test_eventlog import made
from dispatch.test_slow import SITES, outlook
from dispatch.test_slow import made as placing
from effort import effort
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.eventlog import Changes
from hanse.dispatch.place import solve
from hanse.dispatch.second_opinion import verdicts
from hanse.dispatch.snapshot import restored, state_of

NAMES = ("a", "b", "c", "d")


@dataclass(frozen=True)
class Site:
    """As `verdicts` looks at one."""

    up: bool
    lost: bool
    unheard: tuple[str, ...] | None


@st.composite
def leagues(draw: st.DrawFn) -> dict[str, Site]:
    found = {}
    for name in NAMES[: draw(st.integers(1, 4))]:
        state = draw(st.sampled_from(("up", "lost", "never")))
        unheard = draw(st.none() | st.sets(st.sampled_from(NAMES)).map(lambda s: tuple(sorted(s))))
        found[name] = Site(state == "up", state == "lost", None if state == "never" else unheard)
    return found


@given(leagues())
def test_a_site_is_dead_only_if_nobody_hears_it_and_cut_if_anybody_does(
    sites: dict[str, Site],
) -> None:
    for name, verdict in verdicts(sites).items():
        others = {n: s for n, s in sites.items() if n != name}
        asked = {n for n, s in others.items() if s.up and s.unheard is not None}
        hear = {n for n in asked if name not in (others[n].unheard or ())}
        if not sites[name].lost:
            assert verdict == "heard"
        elif hear:
            assert verdict == "cut"
        elif asked:
            assert verdict == "dead"
        else:
            spoke = any(s.unheard is not None for s in others.values())
            assert verdict == ("unsure" if spoke else "dead")


@given(leagues(), st.sampled_from(NAMES), st.sampled_from(NAMES))
def test_one_more_witness_that_hears_it_never_makes_a_site_dead(
    sites: dict[str, Site], witness: str, site: str
) -> None:
    if witness == site or witness not in sites or site not in sites:
        return
    heard = {**sites, witness: Site(True, False, ())}
    assert verdicts(heard)[site] in ("heard", "cut")


def heard(at_s: float, site: str, unheard: tuple[str, ...] | None) -> ev.SiteHeard:
    return ev.SiteHeard(at_s=at_s, site=site, epoch=1, table_version=0, unheard=unheard)


HAPPENING = st.lists(
    st.tuples(
        st.sampled_from(("a", "b")),
        st.none() | st.booleans(),
        st.none() | st.sampled_from(((), ("a",), ("b",))),
    ),
    max_size=40,
)


@settings(max_examples=effort(40))
@given(HAPPENING)
def test_the_dispatcher_holds_the_verdict_that_the_rule_gives_after_every_event(
    happened: list[tuple[str, bool | None, tuple[str, ...] | None]],
) -> None:
    dispatcher = Dispatcher("fleet")
    changes, thin = Changes(), Dispatcher("fleet")
    for one in (dispatcher, thin):
        one.handle(made())
        one.handle(ev.EpochGranted(at_s=NOW_S, epoch=1))
    for n, (site, up, unheard) in enumerate(happened):
        at_s = NOW_S + n
        event: ev.Event = heard(at_s, site, unheard) if up else ev.SiteLost(at_s=at_s, site=site)
        if up is None:
            event = ev.Ticked(at_s=at_s)
        done = dispatcher.handle(event)
        belief = dispatcher.belief
        assert belief is not None
        assert {n: s.verdict for n, s in belief.sites.items()} == verdicts(belief.sites)
        if changes.needed(event, done):  # what a log leaves out changes no verdict
            assert thin.handle(event) == done
        assert thin.silent() == dispatcher.silent()
        for known in belief.sites.values():
            assert known.hosts == (not known.dead and not known.drained)
    again = restored(
        msgspec.msgpack.decode(
            msgspec.msgpack.encode(state_of(dispatcher)), type=type(state_of(dispatcher))
        )
    )
    assert again.silent() == dispatcher.silent()


def league() -> Dispatcher:
    """Three sites that all hear each other."""
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=placing()))
    dispatcher.handle(ev.EpochGranted(at_s=NOW_S, epoch=1))
    for name in SITES:
        dispatcher.handle(heard(NOW_S, name, ()))
    return dispatcher


def solved(dispatcher: Dispatcher, at_s: float) -> dict[str, int]:
    """Ask, answer, take: replicas by site of the placement that is then in force."""
    foreseen = msgspec.structs.replace(outlook(), issued_at_s=at_s)
    dispatcher.handle(ev.OutlookIssued(at_s=at_s, outlook=foreseen))
    for action in dispatcher.handle(ev.Ticked(at_s=at_s)):
        if isinstance(action, act.SolvePlacement):
            dispatcher.handle(ev.PlacementSolved(at_s=at_s, answer=solve(action.problem)))
    belief = dispatcher.belief
    assert belief is not None
    found = dict.fromkeys(SITES, 0)
    for p in belief.placements:
        found[p.site] += p.replicas
    return found


def test_nothing_of_a_site_that_is_cut_off_is_moved_and_a_dead_sites_work_is() -> None:
    dispatcher = league()
    before = solved(dispatcher, NOW_S + 1.0)
    victim = max(before, key=lambda name: before[name])
    dispatcher.handle(ev.SiteLost(at_s=NOW_S + 10.0, site=victim))
    assert dispatcher.silent() == {victim: "cut"}, "the others said that they hear it"
    assert solved(dispatcher, NOW_S + 2000.0) == before, "it is counted on as it stands"

    for name in SITES:
        if name != victim:
            dispatcher.handle(heard(NOW_S + 2001.0, name, (victim,)))
    assert dispatcher.silent() == {victim: "dead"}
    after = solved(dispatcher, NOW_S + 3000.0)
    elsewhere = sum(after[name] - before[name] for name in SITES if name != victim)
    assert elsewhere > 0, "its work is placed anew"


def test_the_hub_that_hears_nobody_replaces_nobody() -> None:
    dispatcher = league()
    for name in SITES:
        dispatcher.handle(ev.SiteLost(at_s=NOW_S + 10.0, site=name))
    assert dispatcher.silent() == dict.fromkeys(SITES, "unsure")
    assert dispatcher.belief is not None
    assert all(known.hosts for known in dispatcher.belief.sites.values())


def test_an_answer_that_moves_what_was_cut_off_meanwhile_is_refused() -> None:
    dispatcher = league()
    assert dispatcher.belief is not None
    dispatcher.handle(ev.OutlookIssued(at_s=NOW_S, outlook=outlook()))
    (asked,) = [
        a for a in dispatcher.handle(ev.Ticked(at_s=NOW_S)) if isinstance(a, act.SolvePlacement)
    ]
    answer = solve(asked.problem)
    before = dispatcher.belief.placements
    moved = {p.site for p in set(before) ^ set(answer.placements)}
    assert moved, "an answer that changes nothing shows nothing"
    dispatcher.handle(ev.SiteLost(at_s=NOW_S + 1.0, site=min(moved)))
    dispatcher.handle(ev.PlacementSolved(at_s=NOW_S + 2.0, answer=answer))
    assert dispatcher.belief.placements == before
