"""Expected demand: days repeat, minutes carry on, and who cannot be heard is expected to go on as before."""

from __future__ import annotations

import numpy as np
import pytest

from hanse.signals.demand_counts import DemandCount, DemandCounts, DemandKey
from hanse.signals.forecast.expected import SILENT_S, expected_demand, expected_totals
from signals.forecast.histories import MONDAY_S

BIN_S, HOUR_S = 300.0, 3600.0
KEY = DemandKey(service="chat", tenant="clinic", data_class="health", country="FR", origin="lyon")


def heard(bins: int, rate_per_s: float = 2.0, daily: float = 0.0) -> DemandCounts:
    counts = DemandCounts()
    for i in range(bins):
        at_s = MONDAY_S + i * BIN_S
        wave = 1.0 + daily * np.sin(2.0 * np.pi * i * BIN_S / 86_400.0)
        requests = rate_per_s * float(wave) * BIN_S
        one = DemandCount(
            key=KEY, requests=requests, tokens_in=requests * 70.0, tokens_out=requests
        )
        counts.add(at_s + 10.0, (one,) if requests > 0.0 else (), "lyon", 10.0)
    return counts


@pytest.mark.parametrize("silent_bins", [0, 1, 30, 280])
@pytest.mark.parametrize("days", [0.5, 6.0])
def test_demand_carries_on_while_an_entry_cannot_be_heard(days: float, silent_bins: int) -> None:
    bins = round(days * 288)
    counts = heard(bins)
    counts.add(MONDAY_S + (bins + silent_bins) * BIN_S, (), "oslo")
    (found,) = expected_demand(counts, MONDAY_S + (bins + silent_bins) * BIN_S + 1.0, steps=12)
    assert found.requests_per_s == pytest.approx((2.0,) * 12, rel=0.02)
    assert min(found.requests_per_s_high) >= 2.0
    assert (found.input_tokens, found.origin, found.tenant) == (70.0, "lyon", "clinic")


def test_the_day_goes_on_over_an_outage_of_six_hours() -> None:
    bins, silent = 6 * 288, 72
    now_s = MONDAY_S + (bins + silent) * BIN_S
    (found,) = expected_demand(heard(bins, daily=0.8), now_s, steps=12)
    hours = 6.0 + np.arange(12) + 0.5
    wanted = 2.0 * (1.0 + 0.8 * np.sin(2.0 * np.pi * hours / 24.0))
    assert np.abs(np.array(found.requests_per_s) - wanted).max() < 0.15


def test_of_hours_in_which_an_entry_was_not_heard_yesterdays_say_nothing() -> None:
    """Demand has doubled for six hours, and then the entry is cut off for three: how it stood then is what is known of now."""
    bins, silent = 6 * 288, 36
    counts = heard(bins)
    for i in range(72):
        one = DemandCount(key=KEY, requests=4.0 * BIN_S, tokens_in=1.0, tokens_out=1.0)
        counts.add(MONDAY_S + (bins + i) * BIN_S + 10.0, (one,), "lyon", 10.0)
    now_s = MONDAY_S + (bins + 72) * BIN_S
    (told,) = expected_demand(counts, now_s + 1.0, steps=12)
    (silenced,) = expected_demand(counts, now_s + silent * BIN_S + 1.0, steps=12)
    assert told.requests_per_s[0] > 3.0
    assert silenced.requests_per_s[:6] == pytest.approx(told.requests_per_s[3:9])


def test_who_joined_late_has_no_days_without_demand_before() -> None:
    counts = DemandCounts()
    counts.add(MONDAY_S, (), "oslo")
    late = heard(6 * 288)
    begin_s = MONDAY_S + 5 * 86_400.0
    for i in range(5 * 288):
        rate = late.requests_per_s(KEY, MONDAY_S + 6 * 86_400.0)[i]
        one = DemandCount(key=KEY, requests=rate * BIN_S, tokens_in=1.0, tokens_out=1.0)
        counts.add(begin_s + i * BIN_S, (one,), "lyon")
    (found,) = expected_demand(counts, begin_s + 5 * 86_400.0, steps=12)
    assert found.requests_per_s == pytest.approx((2.0,) * 12, rel=0.02)


def test_nobody_asked_is_nobody_expected_and_an_entry_that_is_gone_is_too() -> None:
    counts = heard(288)
    for i in range(288, 288 + 80):
        counts.add(MONDAY_S + i * BIN_S, (), "lyon")
    assert expected_demand(counts, MONDAY_S + 368 * BIN_S, steps=12) == ()
    assert expected_demand(heard(288), MONDAY_S + 288 * BIN_S + SILENT_S + 1.0, steps=12) == ()


def noisy(days: float, origins: int, seed: int = 1) -> DemandCounts:
    """Independent origins of 0.2 requests/s each, counted in bins."""
    rng, counts = np.random.default_rng(seed), DemandCounts()
    for i in range(round(days * 288)):
        for o in range(origins):
            key = DemandKey(
                **{f: getattr(KEY, f) for f in KEY.__struct_fields__} | {"origin": f"s{o}"}
            )
            asked = float(rng.poisson(0.2 * BIN_S))
            one = DemandCount(key=key, requests=asked, tokens_in=asked, tokens_out=asked)
            counts.add(MONDAY_S + i * BIN_S + 10.0, (one,), f"s{o}", 10.0)
    return counts


def test_origins_together_peak_lower_than_their_peaks_together() -> None:
    counts, now_s = noisy(8.0, 9), MONDAY_S + 8.0 * 86_400.0
    each = expected_demand(counts, now_s, steps=4)
    (total,) = expected_totals(counts, now_s, steps=4)
    mean = np.sum([d.requests_per_s for d in each], axis=0)
    alone = np.sum([d.requests_per_s_high for d in each], axis=0) - mean
    together = np.array(total.requests_per_s_high) - mean
    # Nine independent ones: a third, as far as eight days of counts tell.
    assert (together > 0.1 * alone).all() and (together < 0.6 * alone).all()


def test_totals_wait_until_days_were_seen() -> None:
    assert expected_totals(noisy(2.0, 2), MONDAY_S + 2.0 * 86_400.0, steps=4) == ()


@pytest.mark.parametrize("idle_bins", [0, 3, 100])
def test_what_nobody_was_expected_to_ask_for_is_expected_from_its_first_minute_on(
    idle_bins: int,
) -> None:
    """Idle so long that it was expected no more, or never asked for before."""
    counts = heard(0)
    for i in range(idle_bins):
        counts.add(MONDAY_S + i * BIN_S, (), "lyon", 10.0)
    at_s = MONDAY_S + idle_bins * BIN_S + 20.0
    assert expected_demand(counts, at_s, steps=2) == ()
    one = DemandCount(key=KEY, requests=3.0, tokens_in=300.0, tokens_out=30.0)
    counts.add(at_s, (one,), "lyon", 10.0)
    (found,) = expected_demand(counts, at_s + 1.0, steps=2)
    assert found.requests_per_s == pytest.approx((3.0 / BIN_S,) * 2)
    assert min(found.requests_per_s_high) > found.requests_per_s[0]
    assert (found.input_tokens, found.output_tokens) == (100.0, 10.0)
