"""`run_year`: a fleet's power over months or years, given its IT power; sums by site and the carbon-free hours.

Here: going through the axis month by month in flat memory, closing demand charges with the month. Not here: where the IT
power comes from (the twin), what one step is (`balance`). Imports numba.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.energy.plant import Plant, states, supplies
from hanse.energy.records import HOUR_DTYPE, OUT_DTYPE, SUMS_DTYPE
from hanse.energy.series import OwnSeries, SiteSeries, site_series
from hanse.energy.steps import run_steps
from hanse.errors import ConfigError
from hanse.model.fleet import Site
from hanse.signals import Feed, SourceNote, StepAxis
from hanse.units import SECONDS_PER_HOUR

Power = NDArray[np.float64]
ItPower = float | Sequence[float] | Power | Callable[[StepAxis], Power]
"""kW: one figure, one a site, [site, step] of the whole run, or what a function says for a month [site, step]."""


class YearResult(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a run came to."""

    axis: StepAxis
    site_ids: tuple[str, ...]
    sums: NDArray[np.void]
    """[site] of `SUMS_DTYPE`."""
    hourly: NDArray[np.void]
    """[site, hour] of `HOUR_DTYPE`."""
    state: NDArray[np.void]
    """[site] of `STATE_DTYPE`, at the end."""
    notes: tuple[tuple[SourceNote, ...], ...]
    """[site]: where the figures of the first month come from."""

    def pue(self) -> Power:
        """[site]: overhead and IT over IT, by energy; NaN without IT."""
        overhead = self.sums["ups_loss_kwh"] + self.sums["cooling_kwh"] + self.sums["other_kwh"]
        return _ratio(self.sums["it_kwh"] + overhead, self.sums["it_kwh"])

    def wue_l_per_kwh(self) -> Power:
        """[site]: water over IT energy."""
        return _ratio(self.sums["water_l"], self.sums["it_kwh"])

    def carbon_free_score(self) -> Power:
        """[site]: carbon-free over served energy, matched step by step, which is a little stricter than by the hour."""
        return _ratio(self.sums["carbon_free_kwh"], self.hourly["load_kwh"].sum(axis=1))


def run_year(
    sites: Sequence[Site],
    it_kw: ItPower,
    axis: StepAxis,
    *,
    feed: Feed | None = None,
    plants: Mapping[str, Plant] | None = None,
    own: OwnSeries | None = None,
    prepare: Callable[[SiteSeries], None] | None = None,
) -> YearResult:
    """Run the sites over the axis. `prepare` sees each month's series first, to set outages and battery plans.

    The axis begins on the full hour: hours and quarter-hours are counted from there.
    """
    if axis.start_s % SECONDS_PER_HOUR != 0.0:
        raise ConfigError("axis.start_s", got=axis.start_s, allowed="a full hour, UTC")
    params, state = supplies(sites, plants), states(sites, plants)
    sums = np.zeros(len(sites), SUMS_DTYPE)
    hours = -(-int(axis.count * axis.step_s) // int(SECONDS_PER_HOUR))
    hourly = np.zeros((len(sites), hours), HOUR_DTYPE)
    out = np.zeros((len(sites), 1), OUT_DTYPE)
    notes: tuple[tuple[SourceNote, ...], ...] = ()
    done = 0
    for month in axis.months():
        series = site_series(sites, feed or Feed(), month, own)
        if prepare is not None:
            prepare(series)
        power = _it_kw(it_kw, month, done, len(sites))
        hour = round(done * axis.step_s / SECONDS_PER_HOUR)
        run_steps(params, state, series.outside, power, axis.step_s, sums, hourly, hour, out)
        close_month(params, state, sums)
        notes = notes or series.notes
        done += month.count
    ids = tuple(site.id for site in sites)
    return YearResult(axis=axis, site_ids=ids, sums=sums, hourly=hourly, state=state, notes=notes)


def close_month(params: Any, state: Any, sums: Any) -> None:
    """Bill the month's peaks [site] and begin anew; a month that a run cuts short is billed whole."""
    peak = state["peak_import_kw"]
    sums["demand_kw_months"] += peak
    sums["usd_demand"] += peak * params["usd_per_kw_month"]
    for name in ("peak_import_kw", "window_kwh", "window_s"):
        state[name] = 0.0


def _it_kw(it_kw: ItPower, month: StepAxis, done: int, sites: int) -> Power:
    if callable(it_kw):
        power = np.asarray(it_kw(month), np.float64)
    else:
        given = np.asarray(it_kw, np.float64)
        power = given[:, done : done + month.count] if given.ndim == 2 else given.reshape(-1, 1)
    try:
        whole = np.broadcast_to(power, (sites, month.count))
    except ValueError:
        allowed = f"one figure, {sites}, or [{sites}, {month.count}]"
        raise ConfigError("it_kw", got=f"shape {power.shape}", allowed=allowed) from None
    if not (whole >= 0.0).all():
        raise ConfigError("it_kw", got=f"{whole.min()}", allowed="0 or more, and no NaN")
    # A copy: a read-only view is another type to the compiler.
    return np.array(whole)


def _ratio(part: Power, whole: Power) -> Power:
    """NaN where the whole is nothing."""
    known: Power = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0.0)
    return known
