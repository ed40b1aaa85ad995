"""The world of `year.py`: twenty sites, their demand, jobs and weather, and what is foreseen of them.

Six L40S a site in four US grids, which all publish average and marginal carbon; two services (a small chat model, a 32B model that reasons),
users in twenty cities, deferrable jobs of Alibaba's PAI trace with 24 hours of slack, sun on the roof, a battery, no feed-in. Not here: runs.
"""

from __future__ import annotations

import csv
import gzip
import math
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import City, accelerator, city
from hanse.dispatch.place_offers import CONTEXT_TIMES, WAY_SHARE, stepped
from hanse.energy.cooling import pue_at
from hanse.energy.limits import cooled_share
from hanse.energy.outlook import outlooks_from
from hanse.energy.series import site_series
from hanse.model.fleet import (
    DataClass,
    Fleet,
    Key,
    Kubernetes,
    Placement,
    Pool,
    Power,
    Service,
    Site,
    SiteKind,
    Slo,
    SlowLoop,
    Tenant,
    Variant,
)
from hanse.model.job import Job
from hanse.serving.within_slo import Rated, rated
from hanse.signals import Feed, Series, StepAxis
from hanse.signals.forecast import many
from hanse.signals.outlook import DemandOutlook, Outlook, SiteOutlook, TotalOutlook
from hanse.signals.traces.generate import generate
from hanse.signals.traces.jobs import read_gaia
from hanse.signals.traces.spec import (
    GammaBursts,
    Lognormal,
    OriginShare,
    ServiceShare,
    TenantShare,
    TraceSpec,
)
from hanse.signals.traces.trace import Trace
from hanse.twin.reproduce.price_clock import true_hours

Floats = NDArray[np.float64]
HERE = Path(__file__).parent
SHARED = HERE.parent.parent / "shared" / "data"
OUT = HERE / "out" / "year"
YEAR = 2022
HOUR_S = 3600.0
QUARTER_S = 900.0
STEPS = 48
"""Hours of an outlook: the schedule's horizon."""
CITIES = {
    "US-CAL-CISO": ("San Francisco", "Los Angeles", "San Diego", "Sacramento", "Fresno"),
    "US-TEX-ERCO": ("Houston", "Dallas", "Austin", "San Antonio", "Fort Worth"),
    "US-NY-NYIS": ("New York", "Buffalo", "Rochester", "Albany", "Syracuse"),
    "US-MIDA-PJM": ("Philadelphia", "Washington", "Chicago", "Pittsburgh", "Columbus"),
}
CHIP, CHIPS = "l40s", 6
VLLM = Kubernetes(name="vllm-{service}-{chips}")
MARKETS = {"US-CAL-CISO": (8, 14), "US-TEX-ERCO": (6, 14), "US-NY-NYIS": (5, 11)}
"""Hours behind UTC, and of the local day (standard time) at which the day-ahead market has told the next: CAISO at 13:00, ERCOT at 13:30, NYISO by 11."""
NETWORK_USD_PER_KWH = 0.06
"""On top of the wholesale hour: wholesale is 30 to 60 % of what a kWh costs delivered (facts: energy_cost_law); 2022's mean was 0.08."""
DEMAND_USD_PER_KW_MONTH = 10.0
"""US commercial tariffs take 5 to 20."""
REQUESTS_PER_S = 5.0
WEIGHTS = {"chat": 1.0, "reason": 3.0}
GROWTH = 0.3
"""Over the year."""
JOB_EVERY = 6
"""One of so many jobs of the PAI trace: some six chips busy on average."""
JOB_SLACK_S = 24.0 * HOUR_S
JOB_CHIPS_MAX = 4
JOB_HOURS_MAX = 24.0
PLACE_GAP = 0.05
"""Of a placement's cost, with and without foresight; sites of one grid are alike, and telling them apart to 1 % takes ten times as long."""
ALL_MONTHS = 13
"""The year's, and the December before, whose demand is history."""
HISTORY_S = 28.0 * 86_400.0
"""Demand that is known before an issue: what a controller keeps."""


class Counted(NamedTuple):
    """Demand of a month as gateways count it."""

    start_s: float
    requests: Floats
    """[quarter of an hour, service, origin]."""
    tokens_in: Floats
    """[service] mean."""
    tokens_out: Floats


# --- the fleet


def services() -> tuple[Service, ...]:
    small = Variant(
        id="8b", model="Llama-3.1-8B", precision="fp8", quality=0.8, quality_source="made up"
    )
    large = Variant(
        id="32b", model="Qwen3-32B", precision="fp8", quality=0.9, quality_source="made up"
    )
    return (
        Service(id="chat", slo=Slo(ttft_ms=1500.0, tpot_ms=80.0), variants=(small,)),
        Service(
            id="reason",
            slo=Slo(ttft_ms=3000.0, tpot_ms=120.0, deadline_s=900.0),
            variants=(large,),
            output_tokens_max=16_384,
        ),
    )


LENGTHS = {
    # Azure's conversations of 2023: median 1,020 in, 129 out (mean 1,155, 211).
    "chat": (Lognormal(median=900.0, sigma=0.7, min=4, max=6000), Lognormal(median=150.0, sigma=0.8, min=2, max=1500)),
    # ServeGen's reasoning service: answers of some thousand tokens, mostly thoughts.
    "reason": (Lognormal(median=700.0, sigma=0.9, min=4, max=8000), Lognormal(median=1600.0, sigma=0.75, min=20, max=12_000)),
}  # fmt: skip


@cache
def places() -> list[tuple[str, City]]:
    return [(zone, city(n, iso2="US")) for zone, names in CITIES.items() for n in names]


def site_id(place: City) -> str:
    return place.name.lower().replace(" ", "-")


@cache
def sites() -> tuple[Site, ...]:
    return tuple(
        Site(
            id=site_id(place),
            kind="micro",
            city=place.name,
            country="US",
            lat_deg=place.lat,
            lon_deg=place.lon,
            operator_hq="US",
            grid_zone=zone,
            weather_zone=zone,
            power=Power(
                grid_kw_max=12.0,
                pv_kw_peak=6.0,
                battery_kwh=12.0,
                battery_kw_max=4.0,
                usd_per_kw_month=DEMAND_USD_PER_KW_MONTH,
                export_kw_max=0.0,
            ),
            pools=(
                Pool(id="gpu", accelerator=CHIP, count=CHIPS, driver="kubernetes", kubernetes=VLLM),
            ),
        )
        for zone, place in places()
    )


def fleet_of(placements: tuple[Placement, ...] = ()) -> Fleet:
    key = Key(id="users", countries=("US",), requests_per_s_max=1e6, burst=1_000_000)
    return Fleet(
        schema="hanse-fleet/1",
        name="twenty-sites",
        classes=(DataClass(id="open", law="non_personal"),),
        sites=sites(),
        services=services(),
        tenants=(Tenant(id="users", classes=("open",), keys=(key,)),),
        placements=placements,
        slow_loop=SlowLoop(
            places=True,
            place_every_s=HOUR_S,
            window_s=2.0 * HOUR_S,  # replicas of the next hour's demand load in this one
            schedule_every_s=HOUR_S,
            demand_bin_s=HOUR_S,
        ),
    )


def replica(service: Service, tokens_in: float, tokens_out: float) -> Rated:
    """One chip's share of the service, as placement rates it."""
    variant = service.variants[0]
    found = rated(
        variant.model,
        variant.precision,
        accelerator(CHIP).id,
        1,
        stepped(tokens_in),
        stepped(tokens_out),
        service.slo.ttft_ms * (1.0 - WAY_SHARE),
        service.slo.tpot_ms,
    )
    assert found is not None, service.id
    return found


def at_peak(counted: list[Counted]) -> tuple[Placement, ...]:
    """What each site needs in its own highest hour of the year, as people size today; fewer where its chips end."""
    hourly = np.concatenate(
        [c.requests.reshape(-1, 4, *c.requests.shape[1:]).sum(axis=1) for c in counted]
    )
    peak_per_s = hourly.max(axis=0) / HOUR_S
    made = []
    for i, site in enumerate(sites()):
        left = CHIPS
        for q, service in enumerate(services()):
            tokens = counted[0].tokens_in[q], counted[0].tokens_out[q]
            one = replica(service, *tokens)
            context = one.slots * CONTEXT_TIMES * sum(map(stepped, tokens))
            count = min(max(1, math.ceil(peak_per_s[q, i] / one.requests_per_s)), left)
            left -= count
            made.append(
                Placement(
                    service=service.id,
                    variant=service.variants[0].id,
                    site=site.id,
                    pool="gpu",
                    replicas=count,
                    slots=one.slots,
                    context_tokens=int(min(one.kv_tokens_max, context)),
                    chips=1,
                )
            )
    return tuple(made)


# --- demand and jobs


def begin(month: int) -> datetime:
    """Month 0 is the December before."""
    return (
        datetime(YEAR - 1, 12, 1, tzinfo=UTC)
        if month == 0
        else datetime(YEAR, month, 1, tzinfo=UTC)
    )


def hours_in(month: int) -> int:
    after = datetime(YEAR + 1, 1, 1, tzinfo=UTC) if month == 12 else begin(month + 1)
    return round((after - begin(month)).total_seconds() / HOUR_S)


def spec_of(month: int, hours: int) -> TraceSpec:
    """A month's users: local days and weeks, bursts of a quarter of an hour, growth."""
    return TraceSpec(
        schema="hanse-trace-spec/1",
        name=f"year-{month}",
        seed=7000 + month,
        start=begin(month),
        duration_h=float(hours),
        requests_per_s=REQUESTS_PER_S * (1.0 + GROWTH) ** ((month - 6.5) / 12.0),
        weekdays=(1.08, 1.1, 1.1, 1.08, 1.02, 0.8, 0.82),
        bursts=GammaBursts(cv=0.2, interval_s=900.0),
        origins=tuple(
            OriginShare(city=p.name, country="US", id=site_id(p), weight=p.population**0.5)
            for _, p in places()
        ),
        services=tuple(
            ServiceShare(
                id=s.id,
                weight=WEIGHTS[s.id],
                tokens_in=LENGTHS[s.id][0],
                tokens_out=LENGTHS[s.id][1],
            )
            for s in services()
        ),
        tenants=(TenantShare(id="users"),),
    )


def trace_of(month: int, hours: int) -> Trace:
    return generate(spec_of(month, hours))


def count_month(month: int) -> Counted:
    """Counts of a month's trace, kept: they are what gateways would have counted, whatever is placed."""
    path = OUT / f"demand-{month:02d}.npz"
    start_s = begin(month).timestamp()
    if not path.exists():
        hours = hours_in(month)
        kinds = len(services()), len(places())
        requests = np.zeros((4 * hours, *kinds))
        tokens = np.zeros((2, kinds[0]))
        for chunk in trace_of(month, hours).chunks():
            r = chunk.requests
            at = np.ravel_multi_index(
                ((r["at_s"] // QUARTER_S).astype(np.int64), r["service"], r["origin"]),
                requests.shape,
            )
            requests += np.bincount(at, minlength=requests.size).reshape(requests.shape)
            for i, name in enumerate(("tokens_in", "tokens_out")):
                tokens[i] += np.bincount(r["service"], r[name], kinds[0])
        OUT.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(path, requests=requests, tokens=tokens / requests.sum(axis=(0, 2)))
    kept = np.load(path)
    return Counted(start_s, kept["requests"], *kept["tokens"])


def jobs_of(month: int, days: float) -> tuple[Job, ...]:
    """Jobs that are due before the run ends; each has a home among the sites."""
    begun_s = begin(month).timestamp()
    first_h = (begun_s - begin(1).timestamp()) / HOUR_S
    names = [site.id for site in sites()]
    found: list[Job] = []
    number = -1
    for chunk in read_gaia(SHARED / "batch_jobs_gaia" / "pai_100k.csv.gz").chunks():
        for arrival_s, length_s, size in chunk.tolist():
            number += 1
            at_s = begun_s + arrival_s - first_h * HOUR_S
            length_s = min(length_s, JOB_HOURS_MAX * HOUR_S)
            due_s = at_s + length_s + JOB_SLACK_S
            inside = begun_s <= at_s and due_s <= begun_s + days * 86_400.0
            if number % JOB_EVERY or not inside:
                continue
            chips = min(size, JOB_CHIPS_MAX)
            found.append(
                Job(
                    id=f"job-{number}",
                    kind="fine_tuning",
                    tenant="users",
                    data_class="open",
                    country="US",
                    home=names[number // JOB_EVERY % len(names)],
                    state_gb=1.0,
                    submitted_at_s=at_s,
                    deadline_at_s=due_s,
                    chip_s={accelerator(CHIP).id: length_s * chips},
                    chips_min=1,
                    chips_max=chips,
                    checkpoint_every_s=1800.0,
                    restart_s=60.0,
                )
            )
    return tuple(found)


# --- what is outside, and what is foreseen of it


@cache
def recordings() -> Feed:
    """2022 as it was: weather, hourly price with the network's share, carbon and marginal carbon of the package (2022 too)."""
    found: list[Series] = []
    units = {"temp_c": "degC", "rh_pct": "%", "cloud_pct": "%", "wind10_ms": "m/s"}
    weather = _columns(SHARED / "weather_openmeteo_2022" / "weather_2022_hourly.csv.gz")
    prices = _columns(SHARED / "wholesale_price_2022" / "price_2022_hourly.csv.gz")
    for zone in CITIES:
        start_s, rows = weather[zone]
        for name, unit in units.items():
            found.append(
                Series(
                    start_s=start_s, step_s=HOUR_S, values=_filled(rows[name]), quantity=name, unit=unit,
                    signal="weather", zone=zone, source="Open-Meteo.com 2022", licence="CC BY 4.0",
                )
            )  # fmt: skip
        start_s, rows = prices[zone]
        told = true_hours(zone, YEAR, _filled(rows["usd_mwh"]))
        usd = np.maximum(told, 0.0) / 1000.0 + NETWORK_USD_PER_KWH
        found.append(
            Series(
                start_s=start_s, step_s=HOUR_S, values=usd, quantity="price_usd_per_kwh", unit="USD/kWh",
                signal="price", zone=zone, source="market operator 2022 and a network charge", licence="market operator's",
            )
        )  # fmt: skip
    return Feed(recordings=tuple(found))


def _columns(path: Path) -> dict[str, tuple[float, dict[str, Floats]]]:
    by_zone: dict[str, list[list[str]]] = {}
    with gzip.open(path, "rt", encoding="utf-8") as f:
        rows = csv.reader(f)
        names = next(rows)
        at = names.index("zone")
        for row in rows:
            if row[at] in CITIES:
                by_zone.setdefault(row[at], []).append(row)
    found = {}
    for zone, mine in by_zone.items():
        columns = dict(zip(names, zip(*mine, strict=True), strict=True))
        start_s = datetime.fromisoformat(columns["utc"][0].replace("Z", "+00:00")).timestamp()
        found[zone] = (
            start_s,
            {
                name: np.array([float(x) if x else math.nan for x in values])
                for name, values in columns.items()
                if name not in ("zone", "utc")
            },
        )
    return found


def _filled(values: Floats) -> Floats:
    """Gaps as the hour before."""
    known = np.where(np.isnan(values), 0, np.arange(len(values)))
    return np.asarray(values[np.maximum.accumulate(known)])


def demand_foreseen(
    counted: list[Counted], issues_s: Floats, *, truth: bool
) -> list[tuple[DemandOutlook, ...]]:
    """Demand of the two days after each issue, from the four weeks before it, or as it will be."""
    start_s, means, peaks = _hours(counted, issues_s)
    found: list[list[DemandOutlook]] = [[] for _ in issues_s]
    names = [site.id for site in sites()]
    first = np.rint((issues_s - start_s) / HOUR_S).astype(np.int64)
    for q, service in enumerate(services()):
        for o, name in enumerate(names):
            if truth:
                at = first[:, None] + np.arange(STEPS)
                mean, high = means[at, q, o], peaks[at, q, o]
            else:
                mean, high = _forecast(start_s, means[:, q, o], issues_s)
            for i in range(len(issues_s)):
                found[i].append(
                    DemandOutlook(
                        service=service.id, tenant="users", data_class="open", country="US", origin=name,
                        requests_per_s=tuple(mean[i].tolist()), requests_per_s_high=tuple(high[i].tolist()),
                        input_tokens=float(counted[0].tokens_in[q]), output_tokens=float(counted[0].tokens_out[q]),
                    )
                )  # fmt: skip
    return [tuple(one) for one in found]


def totals_foreseen(
    counted: list[Counted], issues_s: Floats, *, truth: bool
) -> list[tuple[TotalOutlook, ...]]:
    """The same of each service's total."""
    start_s, means, peaks = _hours(
        [c._replace(requests=c.requests.sum(axis=2, keepdims=True)) for c in counted], issues_s
    )
    found: list[list[TotalOutlook]] = [[] for _ in issues_s]
    first = np.rint((issues_s - start_s) / HOUR_S).astype(np.int64)
    for q, service in enumerate(services()):
        if truth:
            high = peaks[first[:, None] + np.arange(STEPS), q, 0]
        else:
            _, high = _forecast(start_s, means[:, q, 0], issues_s)
        for i in range(len(issues_s)):
            found[i].append(
                TotalOutlook(service=service.id, requests_per_s_high=tuple(high[i].tolist()))
            )
    return [tuple(one) for one in found]


def _hours(counted: list[Counted], issues_s: Floats) -> tuple[float, Floats, Floats]:
    """Begin, hourly means and each hour's highest quarter, [hour, service, origin]."""
    quarters = np.concatenate([c.requests for c in counted])
    start_s = counted[0].start_s
    hourly = quarters.reshape(-1, 4, *quarters.shape[1:])
    means, peaks = hourly.sum(axis=1) / HOUR_S, hourly.max(axis=1) / QUARTER_S
    known = (start_s + HOUR_S * len(means)) - issues_s.max() - STEPS * HOUR_S
    if known < 0:  # the last days of the last month: the next days are as the days before
        more = math.ceil(-known / HOUR_S)
        means, peaks = (np.concatenate([x, x[-more - 168 : -168]]) for x in (means, peaks))
    return start_s, means, peaks


def _forecast(start_s: float, rates: Floats, issues_s: Floats) -> tuple[Floats, Floats]:
    """The shipped method, a week of issues at once, each from at least four weeks of counts; as `expected_demand` does one by one."""
    means, highs = [], []
    for begun in range(0, len(issues_s), 168):
        some = issues_s[begun : begun + 168]
        from_h = max(0, round((some[0] - HISTORY_S - start_s) / HOUR_S))
        until_h = round((some[-1] - start_s) / HOUR_S)
        history = Series(
            start_s=start_s + from_h * HOUR_S, step_s=HOUR_S, values=rates[from_h:until_h].copy(), quantity="demand",
            unit="requests/s", signal="demand", zone="year", source="counted at the gateways", licence="none",
        )  # fmt: skip
        batch = many(history, some, steps=STEPS)
        means.append(batch.mean)
        highs.append(batch.high)
    return np.concatenate(means), np.concatenate(highs)


def power_as_it_will_be(feed: Feed, issues_s: Floats) -> list[tuple[SiteOutlook, ...]]:
    """The same figures as an outlook's, from what will be recorded."""
    hours = len(issues_s) + STEPS
    axis = StepAxis(start_s=float(issues_s[0]), count=hours * 12)
    known = sites()
    outside = site_series(known, feed, axis).outside.reshape(len(known), hours, 12)
    names = ("price_usd_per_kwh", "carbon_g_per_kwh", "pv_kw", "wind_kw", "outdoor_c")
    mean = {name: outside[name].mean(axis=2) for name in names}
    rh = {}
    for site in known:
        series = feed.recorded(site.weather_zone, "rh_pct")
        assert series is not None
        rh[site.id] = np.array(
            [
                series.at(min(max(s, series.start_s), series.until_s - 1.0))
                for s in issues_s[0] + HOUR_S * (np.arange(hours) + 0.5)
            ]
        )
    pue = [
        [
            _pue(site.plant_kind, t, h)
            for t, h in zip(mean["outdoor_c"][i].tolist(), rh[site.id].tolist(), strict=True)
        ]
        for i, site in enumerate(known)
    ]
    return [
        tuple(
            SiteOutlook(
                site=site.id,
                price_usd_per_kwh=tuple(mean["price_usd_per_kwh"][i, k : k + STEPS].tolist()),
                carbon_g_per_kwh=tuple(mean["carbon_g_per_kwh"][i, k : k + STEPS].tolist()),
                carbon_signal="average_location",
                pue=tuple(pue[i][k : k + STEPS]),
                pv_kw=tuple(mean["pv_kw"][i, k : k + STEPS].tolist()),
                wind_kw=tuple(mean["wind_kw"][i, k : k + STEPS].tolist()),
                grid_kw_max=(site.power.grid_kw_max,) * STEPS,
                cooled_share=tuple(map(cooled_share, mean["outdoor_c"][i, k : k + STEPS].tolist())),
            )
            for i, site in enumerate(known)
        )
        for k in range(len(issues_s))
    ]


@cache
def _pue(kind: SiteKind, temp_c: float, rh_pct: float) -> float:
    """Sites of a zone share its weather."""
    return pue_at(kind, temp_c, rh_pct)


def prices_published(
    foreseen: tuple[SiteOutlook, ...], true: tuple[SiteOutlook, ...], issued_at_s: float
) -> tuple[SiteOutlook, ...]:
    """Hours whose price the day-ahead market has told: all of this day, and of the next from when that is told on.

    Not PJM's: that series is of real time (its scarcity prices of the cold days of December stand in no day-ahead market), which nobody
    tells beforehand.
    """
    zones = {site.id: site.grid_zone for site in sites()}
    told = {zone: _told_h(zone, issued_at_s) for zone in CITIES}
    found = []
    for one, their in zip(foreseen, true, strict=True):
        n = told[zones[one.site]]
        usd = their.price_usd_per_kwh[:n] + one.price_usd_per_kwh[n:]
        found.append(msgspec.structs.replace(one, price_usd_per_kwh=usd))
    return tuple(found)


def _told_h(zone: str, issued_at_s: float) -> int:
    """Hours ahead whose price a market has told."""
    if zone not in MARKETS:
        return 0
    offset_h, published_h = MARKETS[zone]
    day_s, local_s = 24.0 * HOUR_S, issued_at_s - offset_h * HOUR_S
    days = 2.0 if local_s % day_s >= published_h * HOUR_S else 1.0
    return min(STEPS, round(((local_s // day_s + days) * day_s - local_s) / HOUR_S))


def outlooks(
    counted: list[Counted], month: int, days: float, *, truth: bool
) -> dict[float, Outlook]:
    """By issue: every full hour of a run."""
    start_s = begin(month).timestamp()
    issues_s = start_s + HOUR_S * np.arange(math.ceil(days * 24.0))
    feed = recordings()
    demand = demand_foreseen(counted, issues_s, truth=truth)
    totals = totals_foreseen(counted, issues_s, truth=truth)
    if truth:
        power = power_as_it_will_be(feed, issues_s)
    else:
        made = outlooks_from(sites(), feed, issues_s.tolist(), steps=STEPS)
        will_be = power_as_it_will_be(feed, issues_s)
        power = [
            prices_published(one.sites, true, at_s)
            for one, true, at_s in zip(made, will_be, issues_s.tolist(), strict=True)
        ]
    return {
        at_s: Outlook(issued_at_s=at_s, start_s=at_s, step_s=HOUR_S, demand=d, totals=t, sites=p)
        for at_s, d, t, p in zip(issues_s.tolist(), demand, totals, power, strict=True)
    }
