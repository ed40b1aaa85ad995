"""ENTSO-E Transparency Platform: carbon of a bidding zone from its generation per type, day-ahead price.

Here: documents A75 (generation per type, realised) and A44 (day-ahead prices) of `/api`, with the key as `securityToken`;
XML. A price is the auction's plus what the setting adds for network and taxes. Guide: transparencyplatform.zendesk.com, "Sitemap for Restful API Integration"; zones are EIC
codes such as 10Y1001A1001A82H (DE-LU). Not here: flows; intensity is production based and counts no imports.

A curve of type A03 leaves a point out where it equals the one before (all prices since 2025, much generation). A
consumption series (`outBiddingZone_Domain`) is a pumped store that charges and counts as no generation. An answer without
data is an acknowledgement with reason 999.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from statistics import median
from typing import Final
from xml.etree.ElementTree import Element

from hanse.catalogue import emission_factor
from hanse.catalogue.electricity import EnergySource
from hanse.errors import ConfigError, FeedError
from hanse.signals.providers.answer import Answer, Meaning, figure, history, instant, provided
from hanse.signals.providers.settings import FeedSetting
from hanse.signals.providers.web import get, xml_of
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

URL: Final = "https://web-api.tp.entsoe.eu"
RESOLUTION_S: Final = {
    "PT15M": SECONDS_PER_HOUR / 4.0, "PT30M": SECONDS_PER_HOUR / 2.0,
    "PT60M": SECONDS_PER_HOUR, "PT1H": SECONDS_PER_HOUR,
}  # fmt: skip
FUELS: Final[dict[str, EnergySource]] = {
    "B01": "biomass_dedicated", "B02": "coal", "B03": "coal", "B04": "gas_combined_cycle",
    "B05": "coal", "B06": "oil", "B07": "coal", "B08": "coal", "B09": "geothermal",
    "B11": "hydro", "B12": "hydro", "B14": "nuclear", "B16": "solar_utility_pv",
    "B18": "wind_offshore", "B19": "wind_onshore",
}  # fmt: skip
"""psrType -> IPCC AR5 lifecycle median. Lignite, coal gas, oil shale and peat have no median of their own there and count
as coal. B10 and B25 give back what was counted when it was stored; marine, waste and others (B13, B15, B17, B20) have no
median: none of them counts, so the mean is over the rest."""
REPORTS_SHARE: Final = 0.5
"""A type that reports in half of all hours is due in every one: an hour without it is a gap, not a cleaner hour."""
LARGE_SHARE: Final = 0.05
"""Of what a zone usually generates: a type that gave as much in any hour is due in every one too, however long it has been silent;
plants that stand still are reported as 0."""
SOLAR: Final = "B16"
"""Some leave it out at night: it is due where it gave as much at that hour of a day."""


def ask(setting: FeedSetting, now_s: float) -> Answer:
    """What the setting's quantity names, of the last two days; prices to the end of what is published."""
    if setting.quantity == "price":
        return _prices(setting, now_s)
    root = _document(setting, now_s, "A75", {"processType": "A16"})
    points = intensity(root)
    meaning = _meaning(setting, "carbon_intensity", "gCO2e/kWh", "average_location")
    return Answer(series=(history(points, SECONDS_PER_HOUR, meaning),))


def intensity(root: Element) -> dict[float, float]:
    """gCO2e/kWh by hour: generation per type times its lifecycle median."""
    hours: dict[float, dict[str, list[float]]] = {}
    for series in _all(root, "TimeSeries"):
        fuel = _text(series, "psrType")
        if fuel not in FUELS or _find(series, "outBiddingZone_Domain.mRID") is not None:
            continue
        for at_s, _, value in _curve(series, "quantity"):
            hour_s = at_s // SECONDS_PER_HOUR * SECONDS_PER_HOUR
            hours.setdefault(hour_s, {}).setdefault(fuel, []).append(value)
    means = {
        hour_s: {fuel: max(0.0, sum(mw) / len(mw)) for fuel, mw in found.items()}
        for hour_s, found in hours.items()
    }
    due, points = _due(means), {}
    for hour_s, found_mw in means.items():
        total_mw = sum(found_mw.values())
        if all(f in found_mw for f, at in due if at in (None, _of_day(hour_s))) and total_mw > 0.0:
            factors = {f: emission_factor(FUELS[f]).gco2e_kwh_median for f in found_mw}
            points[hour_s] = sum(mw * factors[f] for f, mw in found_mw.items()) / total_mw
    return points


def _due(means: dict[float, dict[str, float]]) -> set[tuple[str, float | None]]:
    """Types without which an hour is a gap, each in every hour (None) or at one time of the day."""
    every = {fuel for found in means.values() for fuel in found}
    often = {f for f in every if sum(f in h for h in means.values()) >= REPORTS_SHARE * len(means)}
    # The usual output rather than that hour's: of the newest hour some types may be told before others.
    large_mw = LARGE_SHARE * median([sum(found.values()) for found in means.values()] or [0.0])
    large = {
        (fuel, _of_day(hour_s) if fuel == SOLAR else None)
        for hour_s, found in means.items()
        for fuel, mw in found.items()
        if mw > 0.0 and mw >= large_mw
    }
    return large | {(fuel, None) for fuel in often}


def _of_day(hour_s: float) -> float:
    return hour_s % SECONDS_PER_DAY


def _prices(setting: FeedSetting, now_s: float) -> Answer:
    add = setting.add_usd_per_kwh
    assert add is not None, "a setting of wholesale prices says what comes on top"
    root = _document(setting, now_s, "A44", {})
    currency = next((e.text or "" for e in _all(root, "currency_Unit.name")), "")
    if currency != "USD" and setting.usd_per_unit is None:
        raise ConfigError(
            f"feed of {setting.zone}",
            got=f"prices in {currency}",
            allowed="usd_per_unit, what one of it is worth",
            fix="set usd_per_unit in the feed's setting",
        )
    rate = 1.0 if currency == "USD" else setting.usd_per_unit or 1.0
    points: dict[float, float] = {}
    steps: set[float] = set()
    for series in _day_ahead(root):
        for at_s, step_s, value in _curve(series, "price.amount"):
            points[at_s] = value * rate / 1000.0 + add
            steps.add(step_s)
    if not points:
        raise FeedError("entsoe prices", got="no point", allowed="a day-ahead price")
    step_s = max(steps)
    meaning = _meaning(setting, "price_usd_per_kwh", "USD/kWh", "price")
    # The auction is over: what lies ahead is settled, known since noon of the day before. All of it is kept, so that a
    # platform that falls silent takes no hour away that it has told.
    ahead = {s: v for s, v in points.items() if s + step_s > now_s}
    return Answer(
        series=(history(points, step_s, meaning),),
        forecasts=(provided(ahead, step_s, meaning, now_s, settled=True),) if ahead else (),
    )


DAY_AHEAD: Final = "A01"
"""Contract of the day-ahead auction; intraday ones (A07) come in the same document type, in Spain in the same document."""
SEQUENCE: Final = "classificationSequence_AttributeInstanceComponent.position"
"""Where an area has two day-ahead auctions (Germany, Austria): 1 is the coupled one at noon, 2 the Austrian exchange's at 10:15."""


def _day_ahead(root: Element) -> list[Element]:
    """Series of the day-ahead auction that counts: of several the first in sequence, not the last in the document."""

    def said(series: Element, name: str, unless: str) -> str:
        found = _find(series, name)
        return unless if found is None or not found.text else found.text.strip()

    found = [
        series
        for series in _all(root, "TimeSeries")
        if said(series, "contract_MarketAgreement.type", DAY_AHEAD) == DAY_AHEAD
    ]
    first = min((said(series, SEQUENCE, "1") for series in found), default="1")
    return [series for series in found if said(series, SEQUENCE, "1") == first]


def _document(setting: FeedSetting, now_s: float, kind: str, more: dict[str, str]) -> Element:
    url = f"{setting.url or URL}/api"
    area = setting.region or setting.zone
    domains = {"out_Domain": area} if kind != "A75" else {}
    query = {
        "securityToken": setting.secret(), "documentType": kind, "in_Domain": area, **more, **domains,
        "periodStart": _stamp(now_s - 2.0 * SECONDS_PER_DAY),
        "periodEnd": _stamp(now_s + 2.0 * SECONDS_PER_DAY),
    }  # fmt: skip
    root = xml_of(get(url, query=query, now_s=now_s), url)
    if _name(root) == "Acknowledgement_MarketDocument":
        code, text = _text(root, "code"), _text(root, "text")
        raise FeedError(
            f"entsoe {kind} of {area}",
            got=f"reason {code}: {text[:200]}",
            allowed="a document",
            fix="check that region is the EIC code of a zone that publishes it; 999 can also mean: not yet",
        )
    return root


def _curve(series: Element, value_name: str) -> Iterator[tuple[float, float, float]]:
    """(begin, step, value) of every step of a series; what a curve of type A03 left out holds on."""
    holds = _text(series, "curveType") == "A03"
    for period in _all(series, "Period"):
        begin_s = instant(_text(period, "start"), "entsoe period")
        end_s = instant(_text(period, "end"), "entsoe period")
        resolution = _text(period, "resolution")
        if resolution not in RESOLUTION_S:
            raise FeedError(
                "entsoe resolution",
                got=resolution,
                allowed=", ".join(RESOLUTION_S),
                fix="take another region, or a table of your own (provider csv)",
            )
        step_s = RESOLUTION_S[resolution]
        known = {
            int(_text(p, "position")): figure(float(_text(p, value_name)), "entsoe point")
            for p in _all(period, "Point")
        }
        value = None
        for position in range(1, round((end_s - begin_s) / step_s) + 1):
            value = known.get(position, value if holds else None)
            if value is not None:
                yield begin_s + (position - 1) * step_s, step_s, value


def _meaning(setting: FeedSetting, quantity: str, unit: str, signal: str) -> Meaning:
    return Meaning(
        quantity=quantity,
        unit=unit,
        signal=signal,  # type: ignore[arg-type]
        zone=setting.zone,
        source="ENTSO-E Transparency Platform",
        licence="CC BY 4.0 for its free re-use list; auction prices are not on it",
        note=setting.price_note or "production based",
    )


def _stamp(now_s: float) -> str:
    return datetime.fromtimestamp(now_s // SECONDS_PER_HOUR * SECONDS_PER_HOUR, UTC).strftime(
        "%Y%m%d%H%M"
    )


def _name(element: Element) -> str:
    return element.tag.rsplit("}", 1)[-1]


def _all(root: Element, name: str) -> Iterator[Element]:
    return (one for one in root.iter() if _name(one) == name)


def _find(root: Element, name: str) -> Element | None:
    return next(_all(root, name), None)


def _text(root: Element, name: str) -> str:
    found = _find(root, name)
    if found is None or not found.text:
        if name in ("curveType", "code", "text", "psrType"):
            return ""
        raise FeedError(f"entsoe {_name(root)}", got=f"no {name}", allowed=f"a {name}")
    return found.text.strip()
