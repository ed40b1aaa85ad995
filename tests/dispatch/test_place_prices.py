"""What promises are worth beside each other: people are served before anything is kept for a failure."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import NOW_S, fleet, service, site, tenant
from effort import effort
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.events import FleetLoaded
from hanse.dispatch.place import PlaceProblem, problem_from, solve
from hanse.model.fleet import Fleet, Pool, Power, Slo
from hanse.signals.outlook import DemandOutlook, Outlook

PUBLIC, AT_HOME = "public", "personal"
RATES = st.floats(1e-4, 8.0)


def league() -> Fleet:
    """Three sites; personal data of Germans may be read at one of them."""
    return fleet(
        tuple(
            site(
                name,
                country,
                pools=(Pool(id="gpu", accelerator="l4", count=8),),
                power=Power(grid_kw_max=20.0),
            )
            for name, country in (("a", "DE"), ("b", "IN"), ("c", "IN"))
        ),
        services=(service(slo=Slo(ttft_ms=1000.0, tpot_ms=100.0)),),
        tenants=(tenant("t", ("DE", "IN")),),
        placements=(),
    )


def asked(at_home: float, public: float) -> PlaceProblem:
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(FleetLoaded(at_s=NOW_S, fleet=league()))
    assert dispatcher.belief is not None
    demand = tuple(
        DemandOutlook(
            service="chat", tenant="t", data_class=kind, country=country, origin=origin, requests_per_s=(rate,),
            requests_per_s_high=(1.2 * rate,), input_tokens=400.0, output_tokens=150.0,
        )
        for kind, country, origin, rate in ((AT_HOME, "DE", "a", at_home), (PUBLIC, "IN", "b", public))
    )  # fmt: skip
    outlook = Outlook(issued_at_s=NOW_S, start_s=NOW_S, step_s=3600.0, demand=demand, sites=())
    return problem_from(dispatcher.belief, outlook)


@settings(max_examples=effort(40), deadline=None)
@given(RATES, RATES)
def test_who_may_be_served_at_one_site_only_is_served_there_and_named(
    at_home: float, public: float
) -> None:
    """However many they are beside those of a quiet row, by whose requests a shortage is priced."""
    problem = asked(at_home, public)
    assert [problem.laws[d.law] for d in problem.demand] == [(0,), (0, 1, 2)]
    kinds = {v.kind for v in solve(problem).violated}
    assert "unserved" not in kinds and "uncovered" in kinds


@settings(max_examples=effort(100), deadline=None)
@given(RATES, RATES)
def test_no_row_is_worth_more_after_a_failure_than_now(at_home: float, public: float) -> None:
    problem = asked(at_home, public)
    for d in problem.demand:
        short = problem.services[d.service].uncovered_usd_per_request
        kept = short * d.requests_per_s_kept * d.work
        assert d.unserved_usd_per_request * d.requests_per_s >= 2.0 * kept
