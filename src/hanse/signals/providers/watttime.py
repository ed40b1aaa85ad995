"""WattTime, API v3: marginal operating emissions of a region, past and forecast.

Here: `/login` (basic), `/v3/historical`, `/v3/forecast`, and the index of `/v3/signal-index` for plans that have only
that. Shapes: docs.watttime.org (its OpenAPI document). `co2_moer` is marginal, direct, in lb/MWh; 1 lb/MWh is
0.45359237 g/kWh. A token lives 30 minutes; it is asked anew for each round, which is far below the 100 logins in five
minutes that are allowed. Never mixed with average intensities: its signal is `marginal`.
"""

from __future__ import annotations

import base64
from typing import Any, Final

from hanse.errors import FeedError
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
from hanse.signals.providers.web import WebFault, get, json_of
from hanse.units import SECONDS_PER_DAY

URL: Final = "https://api.watttime.org"
G_PER_KWH_OF_LB_PER_MWH: Final = 0.45359237
UNITS: Final = "lbs_co2_per_mwh"
HORIZON_H: Final = "48"


def ask(setting: FeedSetting, now_s: float) -> Answer:
    """The last day and the forecast; the index alone, as a note, where the plan has no more."""
    headers = _headers(setting, now_s)
    answer = _past(setting, headers, now_s)
    if not answer.series:
        return answer
    return with_forecast(answer, lambda: (_ahead(setting, headers, now_s),))


def past(setting: FeedSetting, now_s: float) -> Answer:
    """The same without the forecast."""
    return _past(setting, _headers(setting, now_s), now_s)


def _past(setting: FeedSetting, headers: dict[str, str], now_s: float) -> Answer:
    query = _query(setting)
    span = {"start": iso(now_s - SECONDS_PER_DAY), "end": iso(now_s)}
    try:
        day = _get(setting, "historical", {**query, **span}, headers, now_s)
    except WebFault as fault:
        if fault.status != 403:
            raise
        index = _get(setting, "signal-index", query, headers, now_s)
        share = figure(field(field(index, "data", "index")[0], "value", "index"), "index")
        note = f"plan without figures: {share:g} % of the last month's hours were cleaner"
        return Answer(notes=(note,))
    return Answer(series=(history(*_points(day), _meaning(setting)),))


def _ahead(setting: FeedSetting, headers: dict[str, str], now_s: float) -> Forecast:
    query = {**_query(setting), "horizon_hours": HORIZON_H}
    ahead = _get(setting, "forecast", query, headers, now_s)
    issued_at_s = instant(field(field(ahead, "meta", "meta"), "generated_at", "meta"), "meta")
    return provided(*_points(ahead), _meaning(setting), issued_at_s)


def _query(setting: FeedSetting) -> dict[str, str]:
    return {"region": setting.region or setting.zone, "signal_type": "co2_moer"}


def _meaning(setting: FeedSetting) -> Meaning:
    return Meaning(
        quantity="marginal_intensity",
        unit="gCO2/kWh",
        signal="marginal",
        zone=setting.zone,
        source="WattTime",
        licence="the operator's contract with WattTime",
        note="marginal operating emissions, direct: not counted among lifecycle figures",
    )


def _headers(setting: FeedSetting, now_s: float) -> dict[str, str]:
    return {"Authorization": f"Bearer {_token(setting, now_s)}"}


def _token(setting: FeedSetting, now_s: float) -> str:
    """From `user:password`."""
    url = f"{setting.url or URL}/login"
    basic = base64.b64encode(setting.secret().encode()).decode()
    body = get(url, headers={"Authorization": f"Basic {basic}"}, now_s=now_s)
    return str(field(json_of(body, url), "token", "watttime login"))


def _get(
    setting: FeedSetting, what: str, query: dict[str, str], headers: dict[str, str], now_s: float
) -> Any:
    url = f"{setting.url or URL}/v3/{what}"
    return json_of(get(url, query=query, headers=headers, now_s=now_s), url)


def _points(document: Any) -> tuple[dict[float, float], float]:
    meta = field(document, "meta", "watttime")
    if field(meta, "units", "watttime meta") != UNITS:
        raise FeedError("watttime units", got=str(meta["units"]), allowed=UNITS)
    step_s = figure(field(meta, "data_point_period_seconds", "watttime meta"), "watttime meta")
    points = {
        instant(field(row, "point_time", "watttime point"), "watttime point"): figure(
            field(row, "value", "watttime point"), "watttime point"
        )
        * G_PER_KWH_OF_LB_PER_MWH
        for row in field(document, "data", "watttime")
    }
    return points, step_s
