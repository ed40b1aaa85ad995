"""A fleet's outlook: nothing later than its issue, night without sun, one kind of carbon, providers first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hanse.energy.outlook import outlook_from, outlooks_from
from hanse.energy.solar import pv_kw
from hanse.errors import FeedError
from hanse.model.read import read_fleet
from hanse.signals import Feed, Series, recorded
from hanse.signals.forecast import Forecast

FLEET = read_fleet(Path(__file__).parents[2] / "examples" / "league.toml")
JULY_S = 1_783_000_800.0
HOUR_S = 3600.0


def brought(values: np.ndarray, quantity: str, until_s: float) -> Series:
    return Series(
        start_s=until_s - len(values) * HOUR_S, step_s=HOUR_S, values=values, quantity=quantity,
        unit="gCO2e/kWh", signal="average_location", zone="-", source="made", licence="-",
    )  # fmt: skip


def test_many_outlooks_hold_what_each_alone_holds_and_none_has_sun_beyond_a_clear_sky() -> None:
    instants = [JULY_S + i * HOUR_S for i in range(6)]
    many = outlooks_from(FLEET.sites, Feed(), instants, steps=36)
    for issued_at_s, found in zip(instants, many, strict=True):
        assert found == outlook_from(FLEET.sites, Feed(), issued_at_s, steps=36)
        assert found.start_s <= found.issued_at_s < found.start_s + found.step_s
        for site, one in zip(FLEET.sites, found.sites, strict=True):
            for h in range(36):
                middle_s = found.start_s + (h + 0.5) * HOUR_S
                clear = pv_kw(
                    pv_kw_peak=site.power.pv_kw_peak, lat_deg=site.lat_deg, lon_deg=site.lon_deg,
                    tilt_deg=site.power.pv_tilt_deg, now_s=middle_s, cloud_pct=0.0,
                    temp_c=-30.0, wind_ms=20.0,
                )  # fmt: skip
                assert 0.0 <= one.pv_kw[h] <= clear + 1e-9
            assert min(one.pue) >= 1.0 and min(one.carbon_g_per_kwh) >= 0.0
            assert min(one.wind_kw) >= 0.0 and max(one.wind_kw) <= site.power.wind_kw_rated


def test_values_after_issue_change_nothing() -> None:
    site = FLEET.sites[0]
    values = 200.0 + 50.0 * np.sin(np.arange(60 * 24) / 24.0 * 2.0 * np.pi)
    later = values.copy()
    later[-48:] = 9_999.0
    issued_at_s = JULY_S - 48 * HOUR_S
    one, other = (
        outlook_from(
            [site], Feed(), issued_at_s, steps=24,
            brought={(site.id, "carbon_intensity"): brought(v, "carbon_intensity", JULY_S)},
        )
        for v in (values, later)
    )  # fmt: skip
    assert one == other
    assert np.abs(np.subtract(one.sites[0].carbon_g_per_kwh, values[-48:-24])).max() < 1.0


def test_a_providers_forecast_goes_before_ones_own_unless_it_is_issued_later() -> None:
    site = FLEET.sites[0]
    theirs = Forecast(
        quantity="carbon_intensity", unit="gCO2e/kWh", signal="average_location", zone="-",
        issued_at_s=JULY_S, start_s=JULY_S, step_s=HOUR_S, mean=(7.0,) * 12, high=(9.0,) * 12,
        expected_error=(), method="somebody's", source="somebody",
    )  # fmt: skip
    provided = {(site.grid_zone or site.country, "carbon_intensity"): theirs}
    early, late = outlooks_from(
        [site], Feed(), [JULY_S - 2 * HOUR_S, JULY_S], steps=24, provided=provided
    )
    assert late.sites[0].carbon_g_per_kwh[:12] == (7.0,) * 12
    assert min(late.sites[0].carbon_g_per_kwh[12:]) > 7.0
    assert 7.0 not in early.sites[0].carbon_g_per_kwh


def test_a_kind_of_carbon_that_nobody_tells_is_refused_and_never_given_the_average() -> None:
    sites = [
        s for s in FLEET.sites if recorded(s.grid_zone or s.country, "marginal_intensity") is None
    ]
    assert sites
    with pytest.raises(FeedError, match="marginal_intensity"):
        outlook_from(sites, Feed(), JULY_S, steps=3, carbon_signal="marginal")
