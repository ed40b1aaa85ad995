"""What a report of one site costs the fleet's dispatcher does not grow with the league, and decides what it did before."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, site
from hanse.dispatch import dispatcher as module
from hanse.dispatch import events as ev
from hanse.dispatch.belief import known_offers
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.rolling import described, known_placements
from hanse.model.fleet import Placement

FLEET = fleet(tuple(site(f"s{i}") for i in range(6)))


def at_fleet() -> Dispatcher:
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=FLEET))
    dispatcher.handle(ev.EpochGranted(at_s=NOW_S, epoch=4))
    dispatcher.handle(ev.Ticked(at_s=NOW_S))
    return dispatcher


def heard(name: str, serving: tuple[Placement, ...]) -> ev.SiteHeard:
    return ev.SiteHeard(at_s=NOW_S + 1, site=name, epoch=4, table_version=1, serving=serving)


def up_at(name: str) -> tuple[Placement, ...]:
    return tuple(p for p in FLEET.placements if p.site == name)


def test_reports_of_what_is_placed_look_at_the_reporting_site_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[int] = []

    def counted(placements: tuple[Placement, ...], sites: dict[str, object]) -> object:
        looked_at.append(len(placements) + len(sites))
        return described(placements, sites)  # type: ignore[arg-type]

    dispatcher = at_fleet()
    monkeypatch.setattr(module, "described", counted)
    for one in FLEET.sites:
        dispatcher.handle(heard(one.id, up_at(one.id)))
    most = 1 + max(len(up_at(one.id)) for one in FLEET.sites)
    assert looked_at and max(looked_at) <= most
    looked_at.clear()
    for one in FLEET.sites:
        dispatcher.handle(heard(one.id, up_at(one.id)))
    assert looked_at == [], "a report that says what the last one said is not looked at again"
    assert not dispatcher.stale


KINDS = [
    Placement(service=p.service, variant=v.id, site=s.id, pool=p.pool, replicas=n, slots=slots, context_tokens=p.context_tokens)
    for s in FLEET.sites
    for p in FLEET.placements[:1]
    for q in FLEET.services
    if q.id == p.service
    for v in q.variants
    for n in (1, 2)
    for slots in (p.slots, 3)
]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(FLEET.sites), st.lists(st.sampled_from(KINDS), max_size=3)), max_size=12))  # fmt: skip
def test_tables_are_stale_exactly_when_what_they_describe_is_another(reports: list) -> None:  # type: ignore[type-arg]
    dispatcher = at_fleet()
    belief = dispatcher.belief
    assert belief is not None
    offers = list(belief.offer_keys)
    for said_by, kinds in reports:
        before = described(belief.placements, belief.sites)
        dispatcher.stale = False
        said = tuple(kinds)
        dispatcher.handle(heard(said_by.id, said))
        assert belief.sites[said_by.id].serving == known_placements(FLEET, said_by.id, said)
        after = described(belief.placements, belief.sites)
        assert dispatcher.stale == (after != before)
        if after != before:
            offers = known_offers(offers, FLEET, after)
        assert belief.offer_keys == offers
