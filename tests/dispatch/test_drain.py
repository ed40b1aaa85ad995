"""Sites out of service: never chosen while another lawful one has room, and whom that leaves without any is said before."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, random_fleet
from effort import effort
from hanse.dispatch import events as ev
from hanse.dispatch.asked_again import Asked, asked_again
from hanse.dispatch.belief import site_defaults
from hanse.dispatch.declared import declared_table, stand_in_digests
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.load import Load
from hanse.dispatch.router import Router
from hanse.dispatch.stranded import Stranded, stranded
from hanse.dispatch.table import Table
from hanse.model.fleet import Fleet

SMALL = {"tokens_in": 1, "tokens_out": 1, "deadline_ms": 1e9, "body_bytes": 10}


def published(fleet: Fleet, drained: set[str]) -> Table:
    """As the controller makes it: the fleet first, then who is out of service, then a tick."""
    dispatcher = Dispatcher("fleet")
    digests = stand_in_digests(fleet)
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=fleet, digests=digests))
    for site in drained:
        dispatcher.handle(ev.DrainRequested(at_s=NOW_S, site=site, drained=True))
    dispatcher.handle(ev.Ticked(at_s=NOW_S))
    assert dispatcher.table is not None
    return dispatcher.table


def idle(table: Table) -> Load:
    """Everybody is heard, every replica alive, nobody at work."""
    load = Load(table)
    for site in range(len(table.sites)):
        rows = [
            (o, float(offer["replicas"]), 0.0, 0.0, 0.0, 0.0)
            for o, offer in enumerate(table.offers)
            if int(offer["site"]) == site
        ]
        load.heard(site, NOW_S, age_s=0.0, power_ok=True, offers=rows)
    return load


def loaded(table: Table, rng: np.random.Generator) -> Load:
    """Some are full, some dead, some short of power."""
    load = Load(table)
    for site in range(len(table.sites)):
        rows = [
            (
                o,
                float(rng.integers(0, 3)),
                float(rng.choice([0.0, 5.0, 1e6])),
                0.0,
                0.0,
                0.0,
            )
            for o, offer in enumerate(table.offers)
            if int(offer["site"]) == site
        ]
        if rng.random() < 0.9:
            power_ok = bool(rng.random() < 0.9)
            load.heard(site, NOW_S, age_s=0.0, power_ok=power_ok, offers=rows)
    return load


@settings(max_examples=effort(20), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_drained_site_is_never_chosen_and_costs_nobody_a_place_elsewhere(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet = random_fleet(rng)
    drained = {site.id for site in fleet.sites if rng.random() < 0.4}
    table, open_table = published(fleet, drained), published(fleet, set())
    load, open_load = loaded(table, np.random.default_rng(seed)), None
    open_load = loaded(open_table, np.random.default_rng(seed))
    cells = list(product(range(len(table.sites)), range(len(table.services))))
    for origin, service in cells:
        router, before = Router(table, load, origin), Router(open_table, open_load, origin)
        for subject in range(len(table.subjects)):
            asked = {"now_s": NOW_S, **SMALL}
            chosen, verdicts = router.explain(service, subject, **asked)  # type: ignore[arg-type]
            was, verdicts_open = before.explain(service, subject, **asked)  # type: ignore[arg-type]
            room = [v for v in verdicts_open if v.eligible and v.site not in drained]
            if chosen >= 0:
                assert table.offer_names[chosen][0] not in drained
            assert (chosen >= 0) == bool(room), "who has room elsewhere is served elsewhere"
            if was >= 0 and open_table.offer_names[was][0] not in drained:
                assert chosen == was, "whom it does not concern it does not move"
            kept = [v.gate for v in verdicts if v.site not in drained]
            assert kept == [v.gate for v in verdicts_open if v.site not in drained]


@settings(max_examples=effort(20), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_who_is_left_without_a_lawful_site_is_who_is_refused_then(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet = random_fleet(rng)
    out = {site.id for site in fleet.sites if rng.random() < 0.4}
    before, after = published(fleet, set()), published(fleet, out)
    said = set(stranded(before, out))
    assert not stranded(after, out), "of who is out already nothing is asked"
    routers = [
        [Router(table, load, i) for i in range(len(table.sites))]
        for table, load in ((before, idle(before)), (after, idle(after)))
    ]
    for key in before.meta.keys.values():
        for data_class, countries in key.subjects.items():
            for (country, row), name in product(countries.items(), key.services):
                service = before.service_index[name]
                served = [
                    any(r.route(service, row, now_s=NOW_S, **SMALL) >= 0 for r in some)  # type: ignore[arg-type]
                    for some in routers
                ]
                one = Stranded(
                    service=name, data_class=data_class, country=country, tenant=key.tenant
                )
                assert (one in said) == (served == [True, False])


def test_a_fleet_that_takes_anothers_place_keeps_who_is_drained() -> None:
    fleet = random_fleet(np.random.default_rng(3))
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S, fleet=fleet))
    name = fleet.sites[0].id
    dispatcher.handle(ev.DrainRequested(at_s=NOW_S, site=name, drained=True))
    dispatcher.handle(ev.FleetLoaded(at_s=NOW_S + 1, fleet=fleet))
    assert dispatcher.belief is not None and dispatcher.belief.sites[name].drained
    assert not site_defaults(fleet.sites[0]).drained


@settings(max_examples=effort(20), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_decisions_asked_again_agree_with_what_a_gateway_would_answer(seed: int) -> None:
    """The verdict by keys, law and placement against the router of an idle fleet."""
    rng = np.random.default_rng(seed)
    old, new = random_fleet(rng), random_fleet(rng)
    table = declared_table(new, (), stand_in_digests(new), NOW_S)
    load = idle(table)
    keys = {key.id: key for key in table.meta.keys.values()}
    names = [site.id for site in old.sites]
    asked = [
        Asked(key.id, tenant.id, c, country, service.id, str(rng.choice(names)), site, "", not site)
        for tenant in old.tenants
        for key in tenant.keys
        for c in tenant.classes
        for country in key.countries
        for service in old.services
        for site in (str(rng.choice(names)), "")
    ]
    found = asked_again(((one, NOW_S) for one in asked), table)
    assert found.decisions == len(asked)
    assert found.same + sum(one.count for one in found.consequences) == len(asked)
    effects: dict[tuple[str, ...], str] = {}
    for one in found.consequences:
        was = "" if one.was == "refused by law" else one.was
        who = (one.key, one.tenant, one.data_class, one.country, one.service, one.entry, was)
        effects[who] = one.effect
    for one in asked:
        served: set[str] = set()
        key = keys.get(one.key)
        row = key.subjects.get(one.data_class, {}).get(one.country) if key else None
        may = key is not None and key.tenant == one.tenant and one.service in key.services
        if row is not None and may and one.entry in table.site_index:
            router = Router(table, load, table.site_index[one.entry])
            _, verdicts = router.explain(
                table.service_index[one.service],
                row,
                now_s=NOW_S,
                **SMALL,  # type: ignore[arg-type]
            )
            served = {v.site for v in verdicts if v.eligible}
        if one.site:
            effect = "" if one.site in served else "elsewhere" if served else "refused"
        else:
            effect = "lawful" if served else ""
        assert effects.get(one[:7], "") == effect
