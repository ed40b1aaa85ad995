"""A site's meter over the years of a design, as lines over IT energy: so that a thousand draws need two runs of a year's physics.

Here: `Meter`, `meter_of`. Not here: the physics (`physics`, `energy`), IT energy itself (`operate`).

Each site and year is run through the energy balance at the expected load and a tenth above; other loads are put on the line through both.
Good near the expected load (a plant's overhead is nearly straight there); own generation that is used bends it where loads are far off.
"""

from __future__ import annotations

from datetime import UTC, datetime, time
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.energy.plant import PLANTS
from hanse.plan.assumptions import Values
from hanse.plan.demand import HOURS
from hanse.plan.design import Design
from hanse.plan.physics import HOURS_OF_YEAR, peak_kw, site_of, years_of
from hanse.plan.study_file import Study

Floats = NDArray[np.float64]
RISE: Final = 1.1
"""The second load at which a site's year is run."""
NAMES: Final = {
    "facility_kwh": "facility_kwh",
    "import_kwh": "import_kwh",
    "export_kwh": "export_kwh",
    "water_l": "water_l",
    "location_t": "carbon_location_g",
    "market_t": "carbon_market_g",
    "marginal_t": "carbon_marginal_g",
    "own_t": "carbon_own_g",
}
"""Fields of `Inventory` and of the balance's sums."""
BY_GRID: Final = ("location_t", "market_t", "marginal_t")
"""What the grid emits for the site."""
TONNES_PER_G: Final = 1e-6


class Line(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A year's figure [site, year] at the expected IT energy, and what one more kWh adds."""

    at: Floats
    value: Floats
    slope: Floats

    def of(self, it_kwh: Floats) -> Floats:
        """[site, year, draw]"""
        found = self.value[:, :, None] + self.slope[:, :, None] * (it_kwh - self.at[:, :, None])
        return np.maximum(found, 0.0)


class Meter(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Lines of every figure, by name of the field of `Inventory`, and what own generation is scaled by."""

    lines: dict[str, Line]
    full_kw: Floats
    """[site] plant of the last year as planned: own generation is complete when so much stands."""
    carbon_free: Floats
    """[site, year] carbon-free over served energy, step by step, at the expected load."""
    carbon_free_day: Floats
    """[site, hour of the UTC day] the same in the first year."""
    made_kwh: Floats
    """[site, year] of own generation."""
    used_kwh: Floats
    """[site, year] of that, neither sold nor thrown away: what the site's load takes and what its battery is charged with."""
    delivered_kwh: Floats
    """[site, year] of that, what reaches the load: at once, or later and less the battery's losses."""
    ups_kwh: Floats
    """[site, year] lost in the UPS."""
    ups_rated_kw: Floats
    """[site, year] rating of the UPS beside the plant that stands; 0 without one."""

    def of(self, it_kwh: Floats, x: Values) -> dict[str, Floats]:
        """[site, year, draw] by name: with the draw's overhead (`pue_factor`) and a grid that gets cleaner year by year."""
        found = {name: line.of(it_kwh) for name, line in self.lines.items()}
        facility = found["facility_kwh"]
        extra = (x["pue_factor"] - 1.0) * np.maximum(facility - it_kwh, 0.0)
        over = (facility + extra) / np.maximum(facility, 1e-12)
        for name in ("facility_kwh", "import_kwh", "peak_kw", "water_l", *BY_GRID):
            found[name] = found[name] * over
        years = np.arange(it_kwh.shape[1], dtype=np.float64)[:, None]
        cleaner = (1.0 - x["grid_carbon_decline_per_year"]) ** years
        for name in BY_GRID:
            found[name] = found[name] * cleaner
        return found


def meter_of(design: Design, study: Study, it_kwh: Floats, it_kw: Floats) -> Meter:
    """From IT energy and plant [site, year] as expected."""
    sites, years = it_kwh.shape
    if sites == 0:
        nothing = np.zeros((0, years))
        lines = {n: Line(at=nothing, value=nothing, slope=nothing) for n in (*NAMES, "peak_kw")}
        return Meter(
            lines=lines,
            full_kw=np.zeros(0),
            carbon_free=nothing,
            carbon_free_day=np.zeros((0, HOURS)),
            made_kwh=nothing,
            used_kwh=nothing,
            delivered_kwh=nothing,
            ups_kwh=nothing,
            ups_rated_kw=nothing,
        )
    full_kw = it_kw[:, -1]
    low, high = (_run(design, study, it_kw, full_kw, it_kwh * rise) for rise in (1.0, RISE))
    step = np.maximum(it_kwh * (RISE - 1.0), 1e-9)
    shape = (sites, years)

    def line(first: Floats, second: Floats) -> Line:
        value = first.reshape(shape)
        return Line(at=it_kwh, value=value, slope=(second.reshape(shape) - value) / step)

    lines = {"peak_kw": line(peak_kw(low), peak_kw(high))}
    for name, field in NAMES.items():
        unit = TONNES_PER_G if name.endswith("_t") else 1.0
        lines[name] = line(low.sums[field] * unit, high.sums[field] * unit)
    made = low.sums["pv_kwh"] + low.sums["wind_kwh"]
    used = low.sums["pv_used_kwh"] + low.sums["wind_used_kwh"]
    delivered = _delivered_kwh(used.reshape(shape), low.sums.reshape(shape), design)
    days = low.hourly.reshape(*shape, -1, HOURS)[:, 0]
    free, load = (days[name].sum(axis=1) for name in ("carbon_free_kwh", "load_kwh"))
    return Meter(
        lines=lines,
        full_kw=full_kw,
        carbon_free=low.carbon_free_score().reshape(shape),
        carbon_free_day=free / np.maximum(load, 1e-12),
        made_kwh=made.reshape(shape),
        used_kwh=used.reshape(shape),
        delivered_kwh=delivered,
        ups_kwh=low.sums["ups_loss_kwh"].reshape(shape),
        ups_rated_kw=it_kw * _ups_share(design)[:, None],
    )


def _delivered_kwh(used: Floats, sums: Any, design: Design) -> Floats:
    """[site, year] of own generation that reaches the load.

    Plants of a plan charge from surplus alone and sell nothing from the battery (`Storage.rule` "surplus"), so that all charge is own and all
    discharge is load; the bound by both efficiencies leaves out what the battery held when the year began.
    """
    stores = [PLANTS[place.size.plant].storage for place in design.places]
    back = np.array([store.charge_efficiency * store.discharge_efficiency for store in stores])
    came_out = np.minimum(sums["discharge_kwh"], back[:, None] * sums["charge_kwh"])
    return np.asarray(used - sums["charge_kwh"] + came_out)


def _ups_share(design: Design) -> Floats:
    """[site] rating of the UPS over the IT power that the plant is built for."""
    return np.array([PLANTS[place.size.plant].ups.rated_share for place in design.places])


def _run(design: Design, study: Study, it_kw: Floats, full_kw: Floats, it_kwh: Floats) -> Any:
    """A year of every (site, year), all in the weather of the first."""
    sites = []
    for s, (place, city) in enumerate(zip(design.places, design.cities, strict=True)):
        for year in range(study.years):
            part = float(it_kw[s, year] / max(full_kw[s], 1e-9))
            sites.append(
                site_of(
                    f"{place.id}-{year}",
                    city,
                    place.size,
                    operator_hq=study.operator_hq,
                    rated_kw=max(float(it_kw[s, year]), 1e-6),
                    own=design.own[s].scaled(part),
                    price_usd_per_kwh=place.price_usd_per_kwh,
                )
            )
    mean_kw = (it_kwh / HOURS_OF_YEAR).reshape(-1, 1)
    start_s = datetime.combine(study.start.replace(month=1, day=1), time(), UTC).timestamp()
    return years_of(sites, np.repeat(mean_kw, HOURS, axis=1), start_s)
