"""Open-Meteo: weather of a place, the last days and the forecast.

Here: `/v1/forecast` with `current` and `hourly` variables, `past_days` for a history, `timeformat=unixtime` so that no
local clock enters, wind in m/s. Shape and variables: open-meteo.com/en/docs. Licence CC BY 4.0; free for use that is not
commercial up to 10,000 calls a day; a paid plan has another address and a key (`apikey`). Past hours are the model's
analysis, not a station's readings.
"""

from __future__ import annotations

from typing import Any, Final

from hanse.errors import ConfigError
from hanse.signals.providers.answer import Answer, Meaning, field, figure, history, provided
from hanse.signals.providers.settings import FeedSetting
from hanse.signals.providers.web import get, json_of
from hanse.units import SECONDS_PER_HOUR

URL: Final = "https://api.open-meteo.com"
NAMES: Final = {
    "temperature_2m": ("temp_c", "degC"),
    "relative_humidity_2m": ("rh_pct", "%"),
    "cloud_cover": ("cloud_pct", "%"),
    "wind_speed_10m": ("wind10_ms", "m/s"),
}
PAST_DAYS: Final = "7"
FORECAST_DAYS: Final = "3"


def ask(setting: FeedSetting, now_s: float) -> Answer:
    """A week back, what is now, two days ahead, of each quantity."""
    if setting.lat_deg is None or setting.lon_deg is None:
        raise ConfigError(f"feed of {setting.zone}", got="no place", allowed="lat_deg and lon_deg")
    url = f"{setting.url or URL}/v1/forecast"
    query = {
        "latitude": f"{setting.lat_deg:.4f}", "longitude": f"{setting.lon_deg:.4f}",
        "current": ",".join(NAMES), "hourly": ",".join(NAMES), "wind_speed_unit": "ms",
        "timeformat": "unixtime", "timezone": "GMT", "past_days": PAST_DAYS,
        "forecast_days": FORECAST_DAYS,
    }  # fmt: skip
    if setting.token_env or setting.token_file:
        query["apikey"] = setting.secret()
    document = json_of(get(url, query=query, now_s=now_s), url)
    found = [_of(document, theirs, setting, now_s) for theirs in NAMES]
    return Answer(
        series=tuple(one for answer in found for one in answer.series),
        forecasts=tuple(one for answer in found for one in answer.forecasts),
    )


def _of(document: Any, theirs: str, setting: FeedSetting, now_s: float) -> Answer:
    quantity, unit = NAMES[theirs]
    meaning = Meaning(
        quantity=quantity,
        unit=unit,
        signal="weather",
        zone=setting.zone,
        source="Open-Meteo.com",
        licence="CC BY 4.0",
    )
    hourly = field(document, "hourly", "open-meteo")
    instants = field(hourly, "time", "open-meteo hourly")
    values = field(hourly, theirs, "open-meteo hourly")
    points = {
        figure(at_s, "open-meteo time"): figure(value, f"open-meteo {theirs}")
        for at_s, value in zip(instants, values, strict=False)
        if value is not None
    }
    past = {at_s: value for at_s, value in points.items() if at_s <= now_s}
    current = field(document, "current", "open-meteo")
    if current.get(theirs) is not None:
        at_s = figure(field(current, "time", "open-meteo current"), "open-meteo current")
        past[at_s // SECONDS_PER_HOUR * SECONDS_PER_HOUR] = figure(current[theirs], theirs)
    ahead = {at_s: value for at_s, value in points.items() if at_s + SECONDS_PER_HOUR > now_s}
    step_s = SECONDS_PER_HOUR
    return Answer(
        series=(history(past, step_s, meaning),) if past else (),
        forecasts=(provided(ahead, step_s, meaning, now_s),) if ahead else (),
    )
