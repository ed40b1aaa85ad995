"""Answers for tests: a rich one with five designs over Europe, and the least one, which only rents and knows next to nothing."""

from __future__ import annotations

import math
from typing import Any

from msgspec.structs import replace

from hanse.plan.answer import (
    Answer,
    AssumptionAnswer,
    ClaimAnswer,
    DesignAnswer,
    PolicyAnswer,
    Range,
    SiteAnswer,
    TrainingAnswer,
)
from hanse.plan.assumptions import read
from hanse.plan.doubt import Curve, Flip, Swing
from hanse.plan.held import Away, Held
from hanse.plan.shifting import Shifting, Ways
from hanse.plan.tco import GROUPS
from hanse.plan.validate import Round

CITIES = (
    ("Frankfurt am Main", "DE", 50.11, 8.68), ("Paris", "FR", 48.86, 2.35), ("Madrid", "ES", 40.42, -3.70), ("Milan", "IT", 45.46, 9.19),
    ("Warsaw", "PL", 52.23, 21.01), ("Stockholm", "SE", 59.33, 18.07), ("Dublin", "IE", 53.35, -6.26), ("Vienna", "AT", 48.21, 16.37),
    ("Lisbon", "PT", 38.72, -9.14), ("Athens", "GR", 37.98, 23.73), ("Copenhagen", "DK", 55.68, 12.57), ("Helsinki", "FI", 60.17, 24.94),
    ("Prague", "CZ", 50.08, 14.44), ("Budapest", "HU", 47.50, 19.04), ("Brussels", "BE", 50.85, 4.35), ("Amsterdam", "NL", 52.37, 4.90),
    ("Munich", "DE", 48.14, 11.58), ("Hamburg", "DE", 53.55, 9.99), ("Barcelona", "ES", 41.39, 2.17), ("Rome", "IT", 41.90, 12.50),
    ("Lyon", "FR", 45.76, 4.84), ("Zürich", "CH", 47.38, 8.54), ("Oslo", "NO", 59.91, 10.75), ("Sofia", "BG", 42.70, 23.32),
    ("Bucharest", "RO", 44.43, 26.10), ("Kraków", "PL", 50.06, 19.94), ("Berlin", "DE", 52.52, 13.41), ("Cologne", "DE", 50.94, 6.96),
    ("Turin", "IT", 45.07, 7.69), ("Marseille", "FR", 43.30, 5.37),
)  # fmt: skip
SIZES = {"tower": ("edge", 6.0), "room": ("micro", 100.0), "hall": ("micro", 1000.0), "hyperscale": ("region", 42_000.0)}  # fmt: skip


def spread(middle: float, width: float = 0.3) -> Range:
    return Range(p5=middle * (1.0 - width), p50=middle, p95=middle * (1.0 + width))


def site(number: int, size: str, prefix: str) -> SiteAnswer:
    city, country, lat, lon = CITIES[number % len(CITIES)]
    kind, it_kw = SIZES[size]
    grown = tuple(it_kw * share for share in (0.4, 0.6, 0.6, 0.8, 1.0))
    day = tuple(
        0.35 + 0.1 * (number % 4) + 0.25 * math.sin(math.pi * hour / 23.0) for hour in range(24)
    )
    return SiteAnswer(
        id=f"{prefix}-{number}",
        city=city,
        country=country,
        lat_deg=lat,
        lon_deg=lon,
        size=size,
        kind=kind,
        it_kw=grown,
        chips={"h100-sxm": int(it_kw), "l4": 12} if it_kw > 500.0 else {"l4": int(it_kw / 2.0)},
        pv_kw=0.0 if size == "hyperscale" else it_kw * 1.5,
        wind_kw=0.0,
        battery_kwh=it_kw * 0.7,
        battery_kw=it_kw * 0.2,
        pue=1.12 if it_kw > 500.0 else 1.41 + 0.01 * number,
        ups_load_share=0.5,
        ups_efficiency=0.96,
        wue_l_per_kwh=0.42,
        carbon_free_share=sum(day) / 24.0,
        carbon_free_hours=day,
        price_usd_per_kwh=0.11 + 0.003 * number,
        usd_per_year=it_kw * 3100.0,
        next_best=f"{2.5 + number:.1f} % dearer without" if number % 3 else "",
    )


def design(
    id: str, name: str, sites: tuple[SiteAnswer, ...], cost: float, **changes: object
) -> DesignAnswer:
    owns = bool(sites)
    groups = {g: cost * 1e8 * (1.0 + k % 5) for k, g in enumerate(GROUPS)}
    groups |= {"cloud": cost * 9e8 * (1.0 - owns), "credits": -4e7 * owns, "own power": -6e7 * owns}
    items = {n: groups[g] / len(names) for g, names in GROUPS.items() for n in names}
    small = 1.0 / (1.0 + sum(s.it_kw[-1] for s in sites) / 1e4 / max(len(sites), 1))
    figures = {
        "id": id,
        "name": name,
        "sites": sites,
        "rented_share": 0.04 if owns else 1.0,
        "served_share": 0.994,
        "usd_per_mtoken": spread(cost),
        "usd_npv": spread(cost * 7e9),
        "usd_by_group": groups,
        "usd_by_item": items,
        "kwh_per_mtoken": spread(0.31 + 0.1 * small),
        "water_l_per_mtoken": spread(0.22 - 0.1 * small),
        "location_g_per_mtoken": spread(84.0 - 20.0 * small),
        "market_g_per_mtoken": spread(71.0),
        "marginal_g_per_mtoken": None,
        "embodied_g_per_mtoken": spread(21.0 + 9.0 * small),
        "win_share": 0.2,
        "win_share_carbon": 0.2,
        "ttft_ms_p50": 141.0 - 50.0 * small,
        "ttft_ms_p95": 263.0 - 60.0 * small,
        "ttft_curve_ms": tuple(40.0 * 1.02**k * (1.5 - small) for k in range(101)),
        "rtt_ms_p95": 41.0 - 30.0 * small,
        "idle_share": 0.21 + 0.25 * small if owns else None,
        "stranded_usd_per_year": 5.2e7 * (1.0 + small) * owns,
        "pooling_extra_share": 0.02 + 0.3 * small if owns else None,
        "pue": 1.12 + 0.3 * small if owns else None,
        "ups_loss_share": 0.035 + 0.04 * small if owns else None,
        "ups_load_share": 0.6 - 0.3 * small if owns else None,
        "ups_load_share_last": 0.7 - 0.3 * small if owns else None,
        "ups_efficiency": 0.97 - 0.04 * small if owns else None,
        "hourly_match_share": 0.4 * small if owns else None,
        "away": away(owns),
        "shifting": shifting() if owns else None,
        "carbon_free_share": 0.52 + 0.1 * small if owns else None,
        "annual_match_share": 0.6 * small if owns else None,
        "own_power_used_share": 0.87 if owns and small > 0.3 else None,
        "wan_gb_per_year": 4.1e6 + 1e6 * small,
        "available": 0.9995 - 0.0004 * (1.0 - small) if owns else 1.0,
        "served_without": tuple(
            max(0.0, 1.0 - k / max(len(sites), 1) * (1.0 - 0.8 * small)) for k in range(4)
        ),
        "staff_fte": 14.0 + 0.9 * len(sites),
        "operator_actions_per_month": 2.0 * len(sites),
        "jurisdictions": len({s.country for s in sites}),
        "duties": (),
        "rounds": (),
        "fleet_file": f"fleet-{id}.toml" if owns else "",
        "trace_file": "",
        "gap": 0.004,
        "notes": (),
    } | changes
    return DesignAnswer(**figures)  # type: ignore[arg-type]


def away(owns: bool) -> tuple[Away, ...]:
    """A model that a large site takes over, and one for scale that small sites hold."""
    one = Away(
        work="chat", model="Llama-3.1-70B", reference=False, held_by=(), share=0.8, requests_per_day=4e6, gb_per_day=210.0, added_ms=11.5,
        usd_per_year=900.0, unserved_share=0.0,
    )  # fmt: skip
    other = replace(one, reference=True, held_by=("hall",), share=0.0, requests_per_day=0.0, gb_per_day=0.0, added_ms=None, usd_per_year=0.0)  # fmt: skip
    return (one, other) if owns else ()


def shifting() -> Shifting:
    ways = Ways(
        assigned=4e8, static=3e8, hourly=2.9e8, deferred=3.9e8, sited=2.5e8, sited_hourly=2.4e8, sited_deferred=2.45e8, room_assigned=4e8,
        room_static=3.5e8, room_hourly=3.3e8,
    )  # fmt: skip
    return Shifting(deferrable_share=0.2, carbon_g=ways, usd=replace(ways, room_assigned=None, room_static=None, room_hourly=None))  # fmt: skip


HELD = Held(
    workload="chat", model="Llama-3.1-70B", precision="fp8", weights_gb=71.0, size="tower", chip="l4", replica_gb=192.0, site_gb=1368.0,
    held=True, in_time=False, why="71 GB of weights, 192 GB in 8 x l4: held, but not within the SLO",
)  # fmt: skip


def judged(number: int, good: float, ttft_ms: float) -> Round:
    return Round(
        number=number, spare=1.15**number, requests=1_834_220, hours=17.0, good_share=good, ttft_ms_p50=0.5 * ttft_ms, ttft_ms_p95=ttft_ms, e2e_ms_p95=9120.0,
        ttft_ms_p50_planned=0.4 * ttft_ms, ttft_ms_p95_planned=0.97 * ttft_ms,
        it_kwh=181_200.0, it_kwh_planned=176_010.0, facility_kwh=214_000.0, facility_kwh_planned=209_400.0, energy_usd=27_400.0,
        energy_usd_planned=26_900.0,
    )  # fmt: skip


def assumed() -> tuple[AssumptionAnswer, ...]:
    names = AssumptionAnswer.__struct_fields__
    shipped = read().figures.values()
    return tuple(AssumptionAnswer(**{n: getattr(a, n) for n in names}) for a in shipped)


def designs() -> tuple[DesignAnswer, ...]:
    def many(count: int, size: str, prefix: str) -> tuple[SiteAnswer, ...]:
        return tuple(site(k, size, prefix) for k in range(count))

    mixed = (*many(1, "hyperscale", "mix"), *(site(k, "hall", "mix") for k in range(1, 9)), *(site(k, "tower", "mix") for k in range(9, 20)))  # fmt: skip
    micro = (*many(18, "hall", "micro"), *(site(k, "room", "micro") for k in range(18, 30)))
    return (
        design("mix", "the optimal mix", mixed, 0.412, win_share=0.61, rounds=(judged(1, 0.931, 402.0), judged(2, 0.962, 311.0)), notes=("the optimiser stopped within 0.4 %",)),
        design("region", "one hyperscale region", many(1, "hyperscale", "region"), 0.441, win_share=0.27, win_share_carbon=0.1),
        design("edge-region", "edge plus one region", (*many(1, "hyperscale", "er"), *(site(k, "tower", "er") for k in range(1, 13))), 0.468, win_share=0.08),
        design("micro", "many micro sites", micro, 0.537, win_share=0.03, win_share_carbon=0.5, duties=("micro-19", "micro-22")),
        design("rent", "renting from a cloud", (), 0.953, win_share=0.01, win_share_carbon=0.0),
    )  # fmt: skip


def curves(ids: list[str]) -> tuple[Curve, ...]:
    limits, prices = (10.5, 21.0, 40.0, 80.0, 200.0), (0.0, 40.0, 85.0, 190.0)

    def costs(count: int) -> dict[str, tuple[float | None, ...]]:
        return {
            d: tuple(0.4 + 0.05 * n + 0.02 * k * (n - 2) for k in range(count))
            for n, d in enumerate(ids)
        }

    latency = costs(5) | {"rent": (None, 0.9, 0.9, 0.9, 0.9)}
    return (
        Curve(
            id="carbon_usd_per_t", name="carbon price", unit="USD/t", at=85.0, low=0.0, high=190.0, resited=False, values=prices,
            usd_per_mtoken=costs(4), served_share=dict.fromkeys(ids, (1.0,) * 4), winners=("mix",) * 4, flips=(), note="",
        ),
        Curve(
            id="rtt_ms_max", name="latency limit, round trip", unit="ms", at=80.0, low=10.5, high=200.0, resited=True, values=limits,
            usd_per_mtoken=latency, served_share=dict.fromkeys(ids, (0.8, 0.9, 1.0, 1.0, 1.0)),
            winners=("micro", "mix", "mix", "mix", "mix"), flips=(Flip(id="rtt_ms_max", mid=80.0, at=10.5, winner="micro"),), note="",
        ),
    )  # fmt: skip


def rich() -> Answer:
    made = designs()
    ids = [d.id for d in made]
    without: dict[str, Any] = {
        "usd_per_mtoken_without": {d.id: 1.01 * d.usd_per_mtoken.p50 for d in made},
        "win_share_without": {d.id: d.win_share for d in made}, "winner_without": "mix", "resited": False,
    }  # fmt: skip
    return Answer(
        study="europe",
        start="2027-01-01",
        years=5,
        draws=1000,
        seed=1,
        software="hanse 0.0",
        command="hanse plan europe.toml --seed 1",
        tokens_per_day=3.4e12,
        designs=made,
        swings=(
            Swing(id="h100-sxm_chip_usd", low=22_000.0, high=40_000.0, at_low=-0.061, at_high=0.004),
            Swing(id="build_exponent", low=0.7, high=0.95, at_low=0.018, at_high=-0.041),
            Swing(id="wan_port_usd_per_month", low=300.0, high=2500.0, at_low=-0.034, at_high=-0.019),
            Swing(id="staff_usd_per_fte_year", low=60_000.0, high=160_000.0, at_low=-0.03, at_high=-0.021),
            Swing(id="demand_growth_factor", low=0.7, high=1.4, at_low=-0.027, at_high=-0.0262),
        ),
        flips=(
            Flip(id="build_exponent", mid=0.85, at=0.742, winner="region"),
            Flip(id="h100-sxm_chip_usd", mid=30_000.0, at=38_900.0, winner="region"),
        ),
        curves=curves(ids),
        trainings=(
            TrainingAnswer(
                id="base-70b", choice="across", why="cheaper power outweighs 4 % lost steps", days_central=61.2, days_across=66.9,
                utilisation_across=0.93, loss_penalty_pct=0.4, usd_central=9.1e6, usd_across=8.7e6, kwh_central=4.4e6, kwh_across=4.6e6,
                wan_gbit_s=2.6, notes=("streaming DiLoCo, 8 sites",),
            ),
            TrainingAnswer(
                id="base-405b", choice="central", why="no two sites hold the model", days_central=88.0, days_across=None,
                utilisation_across=None, loss_penalty_pct=None, usd_central=7.1e7, usd_across=None, kwh_central=3.4e7, kwh_across=None,
                wan_gbit_s=None, notes=(),
            ),
        ),
        held=(HELD, replace(HELD, workload="", held=False)),
        policies=(
            PolicyAnswer(id="itc", kind="investment_credit", source="Act 12 of 2024", usd_by_design=dict.fromkeys(ids, -20000000.0), **without),
            PolicyAnswer(id="tax", kind="carbon_tax", source="Act 3 of 2025", usd_by_design=dict.fromkeys(ids, 44000000.0), **without),
        ),
        claims=(
            ClaimAnswer(id="pue", claim="small sites have a worse PUE", by_design={"region": "1.12", "micro": "1.43"}, condition="first year", verdict="holds"),
            ClaimAnswer(id="near", claim="near sites answer sooner", by_design=dict.fromkeys(ids, "41 ms"), condition="", verdict="depends on rtt: break-even at 22 ms"),
        ),
        assumptions=assumed(),
        notes=("Volumes are made up, and said so.",),
    )  # fmt: skip


def least() -> Answer:
    """One design that only rents; nothing measured, nothing known that may be unknown."""
    nan = Range(p5=math.nan, p50=math.nan, p95=math.nan)
    unknown = dict.fromkeys(("ttft_ms_p50", "ttft_ms_p95", "rtt_ms_p95"))
    only = design(
        "rent", "renting", (), 0.9, usd_by_group={}, usd_by_item={}, ttft_curve_ms=(), served_without=(), location_g_per_mtoken=nan,
        win_share=1.0, win_share_carbon=0.0, **unknown,
    )  # fmt: skip
    return Answer(
        study="least", start="2027-01-01", years=1, draws=1, seed=0, software="hanse 0.0", command="", tokens_per_day=1.0, designs=(only,),
        swings=(), flips=(), trainings=(), held=(), policies=(), claims=(), assumptions=(), notes=(),
    )  # fmt: skip
