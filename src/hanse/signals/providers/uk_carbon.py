"""The Carbon Intensity API of Great Britain's system operator (NESO): half hours, national or one of 17 regions, 48 h ahead.

Here: `/intensity/{from}/{to}`, `/intensity/{from}/fw48h` and their `/regional/.../regionid/{id}` forms; no key. Shapes:
carbon-intensity.github.io/api-definitions. Its licence is CC BY 4.0. Figures are average, location based and count what
power stations emit, not lifecycles: their unit stays gCO2/kWh, and such figures are shown and not decided by (`feed` and
`energy.outlook` take lifecycle figures alone). Where `lifecycle = true` a region's mix is counted with IPCC medians instead;
the national answer tells no mix. Regions have no measured values, only forecasts.
"""

from __future__ import annotations

from typing import Any, Final

from hanse.catalogue import emission_factor
from hanse.catalogue.electricity import EnergySource
from hanse.signals.forecast.value import Forecast
from hanse.signals.providers.answer import (
    Answer,
    Meaning,
    field,
    figure,
    history,
    instant,
    iso,
    provided,
    with_forecast,
)
from hanse.signals.providers.settings import FeedSetting
from hanse.signals.providers.web import get, json_of
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

URL: Final = "https://api.carbonintensity.org.uk"
STEP_S: Final = SECONDS_PER_HOUR / 2.0
FUELS: Final[dict[str, EnergySource]] = {
    "biomass": "biomass_dedicated", "coal": "coal", "gas": "gas_combined_cycle", "hydro": "hydro",
    "nuclear": "nuclear", "solar": "solar_utility_pv", "wind": "wind_onshore",
}  # fmt: skip
"""Imports and `other` have no published mix: they count as the mean of the rest."""

NOT_COUNTED: Final = "direct emissions (gCO2/kWh): not counted among lifecycle figures; set lifecycle = true and a region"


def ask(setting: FeedSetting, now_s: float) -> Answer:
    """The last day and the next two."""
    return with_forecast(past(setting, now_s), lambda: _ahead(setting, now_s))


def past(setting: FeedSetting, now_s: float) -> Answer:
    """The last day alone."""
    root, region = _place(setting)
    rows = _rows(setting, f"{root}/{iso(now_s - SECONDS_PER_DAY)}/{iso(now_s)}{region}", now_s)
    lifecycle = setting.lifecycle
    before = dict(p for row in rows if (p := _point(row, lifecycle=lifecycle)) and p[0] < now_s)
    return Answer(
        series=(history(before, STEP_S, _meaning(setting)),) if before else (),
        notes=() if lifecycle else (NOT_COUNTED,),
    )


def _ahead(setting: FeedSetting, now_s: float) -> tuple[Forecast, ...]:
    root, region = _place(setting)
    rows = _rows(setting, f"{root}/{iso(now_s)}/fw48h{region}", now_s)
    lifecycle = setting.lifecycle
    after = dict(p for row in rows if (p := _point(row, lifecycle=lifecycle, ahead=True)))
    return (provided(after, STEP_S, _meaning(setting), now_s),) if after else ()


def _place(setting: FeedSetting) -> tuple[str, str]:
    """Begin and end of a path."""
    region = f"/regionid/{setting.region}" if setting.region else ""
    return "/regional/intensity" if region else "/intensity", region


def _rows(setting: FeedSetting, path: str, now_s: float) -> list[Any]:
    url = f"{setting.url or URL}{path}"
    body = get(url, headers={"Accept": "application/json"}, now_s=now_s)
    data = field(json_of(body, url), "data", "carbon intensity")
    # A region's answer wraps its half hours once more: in an object, or a list of one.
    if isinstance(data, list) and data and "data" in data[0]:
        data = data[0]
    rows = data["data"] if isinstance(data, dict) else data
    return list(rows)


def _point(row: Any, *, lifecycle: bool, ahead: bool = False) -> tuple[float, float] | None:
    where = "carbon intensity half hour"
    at_s = instant(field(row, "from", where), where)
    if lifecycle:
        value = _lifecycle(field(row, "generationmix", where))
    else:
        intensity = field(row, "intensity", where)
        measured = None if ahead else intensity.get("actual")
        value = measured if measured is not None else intensity.get("forecast")
    return None if value is None else (at_s, figure(value, where))


def _lifecycle(mix: Any) -> float | None:
    """Mean of IPCC AR5 lifecycle medians (WG3 Annex III), weighted by the shares that have one."""
    total = share = 0.0
    for one in mix:
        if one["fuel"] in FUELS:
            percent = figure(one["perc"], "generationmix")
            total += percent * emission_factor(FUELS[one["fuel"]]).gco2e_kwh_median
            share += percent
    return total / share if share > 0.0 else None


def _meaning(setting: FeedSetting) -> Meaning:
    lifecycle = setting.lifecycle
    return Meaning(
        quantity="carbon_intensity",
        unit="gCO2e/kWh" if lifecycle else "gCO2/kWh",
        signal="average_location",
        zone=setting.zone,
        source="UK Carbon Intensity API (NESO)",
        licence="CC BY 4.0",
        note="mix by IPCC lifecycle medians" if lifecycle else "direct emissions, not lifecycle",
    )
