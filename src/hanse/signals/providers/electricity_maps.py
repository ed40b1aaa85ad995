"""Electricity Maps, API v3: carbon intensity of a zone, its last 24 hours and its forecast.

Here: `/v3/carbon-intensity/{latest,history,forecast}` with the header `auth-token`. Not here: the power breakdown.
Shapes: portal.electricitymaps.com/docs/api. Figures are average, location based (flow traced) and lifecycle unless
`emissionFactorType` asks for direct ones; it asks for lifecycle here, as everything else in Hanse is. The free plan is for
one zone, not commercial, and has no forecast: one that is refused or fails leaves the history standing, and a note.
"""

from __future__ import annotations

from typing import Any, Final

from hanse.signals.forecast.value import Forecast
from hanse.signals.providers.answer import (
    Answer,
    Meaning,
    field,
    figure,
    history,
    instant,
    provided,
    with_forecast,
)
from hanse.signals.providers.settings import FeedSetting
from hanse.signals.providers.web import get, json_of
from hanse.units import SECONDS_PER_HOUR

URL: Final = "https://api.electricitymaps.com"
PLAN: Final = (401, 403, 404)


def ask(setting: FeedSetting, now_s: float) -> Answer:
    """The last day, the newest value and, where the plan has it, the forecast."""
    answer, meaning = _past(setting, now_s)
    return with_forecast(answer, lambda: (_ahead(setting, meaning, now_s),), PLAN)


def past(setting: FeedSetting, now_s: float) -> Answer:
    """The same without the forecast."""
    return _past(setting, now_s)[0]


def _past(setting: FeedSetting, now_s: float) -> tuple[Answer, Meaning]:
    day = _get(setting, "history", now_s)
    newest = _get(setting, "latest", now_s)
    rows = [*field(day, "history", "electricity maps history"), newest]
    points = dict(_point(row) for row in rows if row.get("carbonIntensity") is not None)
    meaning = _meaning(setting, estimated=bool(newest.get("isEstimated")))
    return Answer(series=(history(points, SECONDS_PER_HOUR, meaning),)), meaning


def _ahead(setting: FeedSetting, meaning: Meaning, now_s: float) -> Forecast:
    ahead = _get(setting, "forecast", now_s)
    points = dict(_point(row) for row in field(ahead, "forecast", "electricity maps forecast"))
    issued_at_s = instant(field(ahead, "updatedAt", "electricity maps forecast"), "updatedAt")
    return provided(points, SECONDS_PER_HOUR, meaning, issued_at_s)


def _get(setting: FeedSetting, what: str, now_s: float) -> Any:
    url = f"{setting.url or URL}/v3/carbon-intensity/{what}"
    query = {"zone": setting.region or setting.zone, "emissionFactorType": "lifecycle"}
    body = get(url, query=query, headers={"auth-token": setting.secret()}, now_s=now_s)
    return json_of(body, url)


def _point(row: Any) -> tuple[float, float]:
    where = "electricity maps point"
    value = figure(field(row, "carbonIntensity", where), where)
    return instant(field(row, "datetime", where), where), value


def _meaning(setting: FeedSetting, *, estimated: bool) -> Meaning:
    return Meaning(
        quantity="carbon_intensity",
        unit="gCO2e/kWh",
        signal="average_location",
        zone=setting.zone,
        source="Electricity Maps",
        licence="the operator's contract with Electricity Maps",
        note="estimated by the provider" if estimated else "",
    )
