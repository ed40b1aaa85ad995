"""What a site's users asked for: all rows, or a sample of them times what was counted."""

from pathlib import Path

import pytest

from hanse.live.demand import DemandMeter
from hanse.model.fleet import Fleet
from hanse.model.read import read_fleet
from hanse.view import DecisionRow

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"


@pytest.fixture(scope="module")
def fleet() -> Fleet:
    return read_fleet(LEAGUE)


def row(fleet: Fleet, **other: object) -> DecisionRow:
    tenant = fleet.tenants[0]
    fields: dict[str, object] = {
        "at_s": 0.0, "request_id": "1", "key_id": tenant.keys[0].id, "data_class": tenant.classes[0],
        "country": tenant.keys[0].countries[0], "service": fleet.services[0].id, "entry": "lyon", "outcome": "served",
        "tokens_in": 50, "tokens_out": 10,
    }  # fmt: skip
    return DecisionRow(**(fields | other))  # type: ignore[arg-type]


def test_every_row_counts_once(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 7.0)
    for _ in range(3):
        meter.add(row(fleet))
    report = meter.take(10.0, 10.0)
    (one,) = report.counts
    assert (one.requests, one.tokens_in, one.tokens_out) == (3.0, 150.0, 30.0)
    assert one.key.tenant == fleet.tenants[0].id and one.key.origin == "lyon"
    assert meter.take(20.0, 10.0).counts == ()


def test_a_sample_stands_for_all_that_was_counted(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 0.0)
    for _ in range(200):
        meter.add(row(fleet))
    report = meter.take(1.0, 1000.0)
    assert report.sampled == 5.0 and report.counts[0].requests == pytest.approx(1000.0)


def test_what_may_wait_is_no_demand_and_no_part_of_the_mixture(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 0.0)
    for number in range(40):
        meter.add(row(fleet, deferrable=number % 4 > 0))
    report = meter.take(1.0, 80.0)  # twice as many were counted as there are rows
    assert [one.requests for one in report.counts] == [20.0]


def test_what_law_refuses_is_no_demand_and_what_power_refuses_is(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 0.0)
    meter.add(row(fleet))
    meter.add(row(fleet, outcome="refused", rules=("GDPR-V",), tokens_in=0, tokens_out=0))
    meter.add(row(fleet, outcome="refused", reason="power", tokens_in=0, tokens_out=0))
    (one,) = meter.take(1.0, 3.0).counts
    assert one.requests == 2.0
    assert one.tokens_in / one.requests == 50.0  # the refused one is as long as the others


def test_a_counter_that_begins_anew_takes_nothing_away(fleet: Fleet) -> None:
    meter = DemandMeter(fleet, "lyon")
    meter.take(0.0, 5_000.0)
    meter.add(row(fleet))
    assert meter.take(1.0, 1.0).counts[0].requests == 1.0
