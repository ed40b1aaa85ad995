"""Providers' answers in their published shapes, for a day around `NOON_S`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from signals.providers.provider_server import NOON_S, Asked, Said, as_json

HOUR_S = 3600.0


def stamp(at_s: float, form: str = "%Y-%m-%dT%H:%M:%S.000Z") -> str:
    return datetime.fromtimestamp(at_s, UTC).strftime(form)


def electricity_maps(asked: Asked) -> Said:
    if asked.headers.get("auth-token") != "sesame":
        return as_json({"message": "Invalid authentication"}, status=401)
    zone, what = asked.query["zone"], asked.path.rsplit("/", 1)[-1]

    def row(h: int, value: float | None) -> dict[str, Any]:
        at = stamp(NOON_S + h * HOUR_S)
        return {
            "zone": zone, "carbonIntensity": value, "datetime": at, "updatedAt": at, "createdAt": at,
            "emissionFactorType": "lifecycle", "isEstimated": h == 0,
            "estimationMethod": "TIME_SLICER_AVERAGE" if h == 0 else None,
        }  # fmt: skip

    if what == "latest":
        return as_json(row(0, 302))
    if what == "history":
        rows = [row(h, None if h == -3 else 300.0 + h) for h in range(-24, 0)]
        return as_json({"zone": zone, "history": rows})
    ahead = [
        {"carbonIntensity": 310 + h, "datetime": stamp(NOON_S + h * HOUR_S)} for h in range(25)
    ]
    return as_json({"zone": zone, "forecast": ahead, "updatedAt": stamp(NOON_S - 900.0)})


def watttime(asked: Asked) -> Said:
    if asked.path == "/login":
        # base64 of user:pass
        if asked.headers.get("authorization") != "Basic dXNlcjpwYXNz":
            return Said(status=401, body=b"Not authenticated")
        return as_json({"token": "abcdef"})
    if asked.headers.get("authorization") != "Bearer abcdef":
        return Said(status=401, body=b"invalid token")
    if asked.query["region"] != "CAISO_NORTH":
        return as_json({"detail": "no access to region"}, status=403)
    meta = {
        "data_point_period_seconds": 300, "region": "CAISO_NORTH", "warnings": [],
        "signal_type": "co2_moer", "model": {"date": "2023-03-01"}, "units": "lbs_co2_per_mwh",
    }  # fmt: skip
    begin_s = NOON_S if asked.path.endswith("forecast") else NOON_S - 24 * HOUR_S
    if asked.path.endswith("forecast"):
        meta["generated_at"] = stamp(NOON_S, "%Y-%m-%dT%H:%M:%S+00:00")
    data = [
        {"point_time": stamp(begin_s + i * 300.0, "%Y-%m-%dT%H:%M:%S+00:00"), "value": 1000.0 + i}
        for i in range(288)
    ]
    return as_json({"data": data, "meta": meta})


def uk_carbon(asked: Asked) -> Said:
    regional, ahead = asked.path.startswith("/regional/"), "fw48h" in asked.path
    first, count = (0, 96) if ahead else (-48, 49)

    def row(i: int) -> dict[str, Any]:
        begin_s = NOON_S + i * HOUR_S / 2.0
        found: dict[str, Any] = {
            "from": stamp(begin_s, "%Y-%m-%dT%H:%MZ"),
            "to": stamp(begin_s + HOUR_S / 2.0, "%Y-%m-%dT%H:%MZ"),
            "intensity": {"forecast": 200 + i, "index": "moderate"},
        }
        if regional:
            mix = {"biomass": 0, "coal": 0, "imports": 20, "gas": 40, "nuclear": 0, "other": 0,
                   "hydro": 0, "solar": 0, "wind": 40}  # fmt: skip
            found["generationmix"] = [{"fuel": f, "perc": p} for f, p in mix.items()]
        else:
            found["intensity"]["actual"] = 190 + i if i < 0 and i != -4 else None
        return found

    rows = [row(i) for i in range(first, first + count)]
    if not regional:
        return as_json({"data": rows})
    region = {"regionid": 13, "dnoregion": "UKPN London", "shortname": "London", "data": rows}
    return as_json({"data": region if ahead else [region]})


def generation(
    asked: Asked, *, start: str = "2026-07-31T22:00Z", end: str = "2026-08-01T10:00Z"
) -> Said:
    def series(fuel: str, points: str, domain: str = "in", resolution: str = "PT15M") -> str:
        return f"""<TimeSeries><mRID>1</mRID><businessType>A01</businessType><objectAggregation>A08</objectAggregation>
  <{domain}BiddingZone_Domain.mRID codingScheme="A01">10Y1001A1001A82H</{domain}BiddingZone_Domain.mRID>
  <quantity_Measure_Unit.name>MAW</quantity_Measure_Unit.name><curveType>A03</curveType>
  <MktPSRType><psrType>{fuel}</psrType></MktPSRType>
  <Period><timeInterval><start>{start}</start><end>{end}</end></timeInterval><resolution>{resolution}</resolution>
  {points}</Period></TimeSeries>"""

    def point(position: int, value: float) -> str:
        return f"<Point><position>{position}</position><quantity>{value}</quantity></Point>"

    body = f"""<?xml version="1.0" encoding="UTF-8"?>
<GL_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-6:generationloaddocument:3:0"><mRID>a</mRID><type>A75</type>
{series("B04", point(1, 100.0))}
{series("B19", point(1, 100.0) + point(5, 300.0), resolution="PT15M")}
{series("B10", point(1, 500.0), domain="out")}
{series("B20", point(1, 50.0))}
</GL_MarketDocument>"""
    return Said(body=body.encode())


def generation_by_hour(start_s: float, fuels: dict[str, list[float | None]]) -> Said:
    """psrType -> MW by hour from an instant; None: not reported."""

    def series(fuel: str, values: list[float | None]) -> str:
        points = "".join(
            f"<Point><position>{i}</position><quantity>{mw}</quantity></Point>"
            for i, mw in enumerate(values, 1)
            if mw is not None
        )
        form = "%Y-%m-%dT%H:%MZ"
        span = f"<start>{stamp(start_s, form)}</start><end>{stamp(start_s + len(values) * HOUR_S, form)}</end>"
        return f"""<TimeSeries><inBiddingZone_Domain.mRID>x</inBiddingZone_Domain.mRID><curveType>A01</curveType>
<MktPSRType><psrType>{fuel}</psrType></MktPSRType><Period><timeInterval>{span}</timeInterval><resolution>PT60M</resolution>{points}</Period></TimeSeries>"""

    parts = "".join(series(fuel, values) for fuel, values in fuels.items())
    return Said(body=f"<GL_MarketDocument>{parts}</GL_MarketDocument>".encode())


def prices(
    *, start: str, end: str, values: list[float], currency: str = "EUR", others: str = ""
) -> Said:
    """`others`: further series of the document, before this one and after it."""
    points = "".join(
        f"<Point><position>{i}</position><price.amount>{v}</price.amount></Point>"
        for i, v in enumerate(values, 1)
        if i == 1 or v != values[i - 2]
    )
    body = f"""<?xml version="1.0" encoding="utf-8"?>
<Publication_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-3:publicationdocument:7:3"><mRID>b</mRID><type>A44</type>
{others}<TimeSeries><mRID>1</mRID><auction.type>A01</auction.type><contract_MarketAgreement.type>A01</contract_MarketAgreement.type>
<currency_Unit.name>{currency}</currency_Unit.name><price_Measure_Unit.name>MWH</price_Measure_Unit.name><curveType>A03</curveType>
<Period><timeInterval><start>{start}</start><end>{end}</end></timeInterval><resolution>PT60M</resolution>{points}</Period>
</TimeSeries>{others}</Publication_MarketDocument>"""
    return Said(body=body.encode())


def other_auction(*, start: str, end: str, contract: str, sequence: str) -> str:
    """A series of 999 a quarter of an hour, of another contract or another auction than the coupled day-ahead one."""
    position = "classificationSequence_AttributeInstanceComponent.position"
    return f"""<TimeSeries><mRID>2</mRID><auction.type>A01</auction.type><contract_MarketAgreement.type>{contract}</contract_MarketAgreement.type>
<currency_Unit.name>EUR</currency_Unit.name><price_Measure_Unit.name>MWH</price_Measure_Unit.name><{position}>{sequence}</{position}>
<curveType>A03</curveType><Period><timeInterval><start>{start}</start><end>{end}</end></timeInterval><resolution>PT15M</resolution>
<Point><position>1</position><price.amount>999</price.amount></Point></Period></TimeSeries>"""


def no_data() -> Said:
    body = """<?xml version="1.0" encoding="UTF-8"?>
<Acknowledgement_MarketDocument xmlns="urn:iec62325.351:tc57wg16:451-1:acknowledgementdocument:7:0"><mRID>c</mRID>
<Reason><code>999</code><text>No matching data found for Data item Day-ahead Prices [12.1.D]</text></Reason>
</Acknowledgement_MarketDocument>"""
    return Said(body=body.encode())


def open_meteo(asked: Asked) -> Said:
    if float(asked.query["latitude"]) > 90.0:
        return as_json({"error": True, "reason": "Latitude must be in range"}, status=400)
    names = asked.query["hourly"].split(",")
    begin_s = NOON_S - 12 * HOUR_S - 7 * 24 * HOUR_S
    times = [int(begin_s + i * HOUR_S) for i in range(10 * 24)]
    hourly: dict[str, Any] = {"time": times}
    for k, name in enumerate(names):
        hourly[name] = [10.0 * k + (i % 24) for i in range(len(times))]
    hourly[names[0]][-1] = None
    return as_json({
        "latitude": 52.52, "longitude": 13.419998, "generationtime_ms": 0.1, "utc_offset_seconds": 0,
        "timezone": "GMT", "timezone_abbreviation": "GMT", "elevation": 38.0,
        "current_units": {"time": "unixtime", "interval": "seconds"},
        "current": {"time": int(NOON_S), "interval": 900, **dict.fromkeys(names, 55.5)},
        "hourly_units": {"time": "unixtime"}, "hourly": hourly,
    })  # fmt: skip
