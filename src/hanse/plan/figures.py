"""Figures of one design for an answer: what it costs and emits over draws, what stands idle, who is served when sites are gone.

Here: `design_answer` and its parts. Not here: the draws (`doubt`), the twin (`validate`), other designs.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.plan.answer import DesignAnswer, Range, SiteAnswer
from hanse.plan.assumptions import Values
from hanse.plan.capacity import slots_needed
from hanse.plan.demand import Demand, levelled_peak
from hanse.plan.design import Design
from hanse.plan.drawn import Drawn
from hanse.plan.held import Held, away_of
from hanse.plan.latency import samples
from hanse.plan.meter import Meter
from hanse.plan.operate import capacity_tokens_s, first_replicas, loads_of
from hanse.plan.physics import HOURS_OF_YEAR
from hanse.plan.shifting import Shifting
from hanse.plan.study_file import Study
from hanse.plan.tco import GROUPS
from hanse.serving.open_loop import weighted_quantile

Floats = NDArray[np.float64]
LOST_MAX = 3


class Facts(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One design and all that was found of it."""

    study: Study
    demand: Demand
    meter: Meter
    design: Design
    drawn: Drawn
    x: Values
    held: tuple[Held, ...]
    shifting: Shifting | None


def range_of(values: Floats) -> Range:
    """Quantiles over draws."""
    low, middle, high = np.quantile(values, (0.05, 0.5, 0.95))
    return Range(p5=float(low), p50=float(middle), p95=float(high))


def design_answer(facts: Facts, *, win_share: float, win_share_carbon: float) -> DesignAnswer:
    """All figures of a design; what the twin says is added later."""
    design, drawn = facts.design, facts.drawn
    per = drawn.per_mtoken
    ttft_ms, weight = samples(design, facts.study, facts.demand, 0)
    curve = [weighted_quantile(ttft_ms, weight, k / 100.0) for k in range(101)]
    known = len(ttft_ms) > 0
    marginal = per["marginal_g"]
    asked = drawn.tokens + drawn.tokens_lost
    groups = {name: drawn.annual(*items) for name, items in GROUPS.items()}
    return DesignAnswer(
        id=design.spec.id,
        name=design.spec.name,
        sites=site_answers(facts),
        rented_share=_of_demand(facts, design.rented),
        served_share=float(np.median(drawn.tokens / asked)),
        usd_per_mtoken=range_of(drawn.usd_per_mtoken),
        usd_npv=range_of(drawn.npv),
        usd_by_group={name: float(np.median(v)) for name, v in groups.items()},
        usd_by_item={
            n: float(np.median(drawn.items[n])) for names in GROUPS.values() for n in names
        },
        kwh_per_mtoken=range_of(per["facility_kwh"]),
        water_l_per_mtoken=range_of(per["water_l"]),
        location_g_per_mtoken=range_of(per["location_g"]),
        market_g_per_mtoken=range_of(per["market_g"]),
        marginal_g_per_mtoken=None if np.isnan(marginal).any() else range_of(marginal),
        embodied_g_per_mtoken=range_of(per["embodied_g"]),
        win_share=win_share,
        win_share_carbon=win_share_carbon,
        ttft_ms_p50=curve[50] if known else None,
        ttft_ms_p95=curve[95] if known else None,
        ttft_curve_ms=tuple(curve) if known else (),
        rtt_ms_p95=_rtt_p95(facts),
        idle_share=idle_share(facts),
        stranded_usd_per_year=(idle_share(facts) or 0.0)
        * float(np.median(groups["servers"]) + np.median(groups["plant"])),
        pooling_extra_share=pooling_extra(facts),
        pue=_over(facts.meter.lines["facility_kwh"].value[:, 0].sum(), _mid_it(facts)),
        ups_loss_share=_over(facts.meter.ups_kwh[:, 0].sum(), _mid_it(facts)),
        ups_load_share=ups_load(facts, 0),
        ups_load_share_last=ups_load(facts, -1),
        ups_efficiency=_over(
            _mid_it(facts), _mid_it(facts) + float(facts.meter.ups_kwh[:, 0].sum())
        ),
        carbon_free_share=_carbon_free(facts),
        annual_match_share=_over(
            facts.meter.made_kwh.sum(), facts.meter.lines["facility_kwh"].value.sum()
        ),
        hourly_match_share=_over(
            facts.meter.delivered_kwh.sum(), facts.meter.lines["facility_kwh"].value.sum()
        ),
        own_power_used_share=_over(facts.meter.used_kwh.sum(), facts.meter.made_kwh.sum()),
        wan_gb_per_year=float(np.median(drawn.wan_gb)),
        away=away_of(design, facts.study, facts.demand, facts.held, facts.x),
        shifting=facts.shifting,
        available=available(facts),
        served_without=served_without(facts),
        staff_fte=staff_fte(facts),
        operator_actions_per_month=float(np.median(facts.x["operator_actions_per_site_month"]))
        * len(design.places),
        jurisdictions=len({place.country for place in design.places}),
        duties=_duties(facts),
        rounds=(),
        fleet_file="",
        trace_file="",
        gap=design.gap,
        notes=design.notes,
    )


def site_answers(facts: Facts) -> tuple[SiteAnswer, ...]:
    """[site]"""
    design, drawn = facts.design, facts.drawn
    out = []
    for s, place in enumerate(design.places):
        own, city = design.own[s], design.cities[s]
        facility = float(facts.meter.lines["facility_kwh"].value[s, 0])
        it_kwh = float(facts.meter.lines["facility_kwh"].at[s, 0])
        water = float(facts.meter.lines["water_l"].value[s, 0])
        out.append(
            SiteAnswer(
                id=place.id,
                city=place.city,
                country=place.country,
                lat_deg=city.lat,
                lon_deg=city.lon,
                size=place.size.id,
                kind=place.size.kind,
                it_kw=tuple(float(v) for v in np.median(drawn.it_kw[s], axis=-1)),
                chips={
                    chip: round(float(np.median(held[s])))
                    for chip, held in drawn.chips_last.items()
                    if held[s].max() > 0.0
                },
                pv_kw=own.pv_kw,
                wind_kw=own.wind_kw,
                battery_kwh=own.battery_kwh,
                battery_kw=own.battery_kw,
                pue=_over(facility, it_kwh),
                ups_load_share=_over(it_kwh, float(facts.meter.ups_rated_kw[s, 0]) * HOURS_OF_YEAR),
                ups_efficiency=_over(it_kwh, it_kwh + float(facts.meter.ups_kwh[s, 0])),
                wue_l_per_kwh=_over(water, it_kwh),
                carbon_free_share=_known(facts.meter.carbon_free[s, 0]),
                carbon_free_hours=tuple(float(v) for v in facts.meter.carbon_free_day[s]),
                price_usd_per_kwh=place.price_usd_per_kwh,
                usd_per_year=float(np.median(drawn.by_site[s])),
                next_best=design.regret[s],
            )
        )
    return tuple(out)


def ups_load(facts: Facts, year: int) -> float | None:
    """Mean IT load over the ratings of all UPS: small plant that is built ahead stands at the left of its loss curve."""
    load_kwh = float(facts.meter.lines["facility_kwh"].at[:, year].sum())
    return _over(load_kwh, float(facts.meter.ups_rated_kw[:, year].sum()) * HOURS_OF_YEAR)


def idle_share(facts: Facts) -> float | None:
    """Of the work that installed chips could do, by their rated power, median of draws."""
    drawn = facts.drawn
    if not drawn.chip_years:
        return None
    rated = {f.accelerator: f.rated_w / f.chips for row in facts.design.fits for f in row if f}
    held = sum(rated[c] * v for c, v in drawn.chip_years.items())
    used = sum(rated[c] * v for c, v in drawn.chip_years_used.items())
    return float(np.median(1.0 - np.asarray(used) / np.maximum(np.asarray(held), 1e-12)))


def pooling_extra(facts: Facts) -> float | None:
    """Slots of interactive work that separate sites need, over what one pool of the same users would, less 1.

    Both find a free slot with the same probability; the pool also smooths the hours of its time zones.
    """
    study, demand, design = facts.study, facts.demand, facts.design
    rate, day, level = loads_of(design, study, demand)
    apart, pooled = 0.0, 0.0
    for w, work in enumerate(study.workloads):
        fit = next((f for f in design.fits[w] if f is not None), None)
        if work.kind != "interactive" or fit is None or rate[w].sum() == 0.0:
            continue
        held_s = fit.e2e_s / (work.tokens_in + work.tokens_out)
        peaks = rate[w] * level[w] * held_s
        apart += sum(slots_needed(float(m)) for m in peaks if m > 0.0)
        whole = np.einsum("s,sh->h", rate[w], day[w])
        pooled += slots_needed(float(whole.mean() * levelled_peak(whole, 0.0) * held_s))
    return apart / pooled - 1.0 if pooled > 0.0 else None


def served_without(facts: Facts) -> tuple[float, ...]:
    """Share of interactive demand served in a busy hour when the k largest sites are gone, k = 0 to 3.

    What a lost site served goes to the nearest sites that may serve it, as far as their capacity lasts, then to chips that
    are rented to stand by; others are not conjured up.
    """
    design, study, demand = facts.design, facts.study, facts.demand
    sites = len(design.places)
    replicas, _ = first_replicas(design, study, demand, 0)
    order = np.argsort(-design_share(facts), kind="stable")
    out = []
    for lost in range(LOST_MAX + 1):
        gone = set(order[: min(lost, sites)].tolist())
        served, asked = 0.0, 0.0
        for w, work in enumerate(study.workloads):
            if work.kind != "interactive":
                continue
            mine = np.flatnonzero(demand.workload == w)
            room = np.zeros(sites)
            for s in range(sites):
                fit = design.fits[w][s]
                if fit is not None and s not in gone and (w, s) in replicas:
                    count = np.array(float(replicas[w, s]))
                    room[s] = float(capacity_tokens_s(fit, study, w, count))
            done, whole = _routed(design, demand, mine, room, gone, float(design.standby[w]))
            served += done
            asked += whole
        out.append(float(served / asked) if asked > 0.0 else 1.0)
    return tuple(out)


def _routed(
    design: Design,
    demand: Demand,
    rows: NDArray[np.int64],
    room: Floats,
    gone: set[int],
    standby: float,
) -> tuple[float, float]:
    """Tokens/s served and asked for in each row's busiest hour; `standby` is rented for the loss of a site."""
    room = room.copy()
    served, asked = 0.0, 0.0
    waiting = []
    for i in rows:
        peak = demand.tokens_per_s[i] * demand.day[i].max()
        asked += peak
        served += peak * design.rented[i]
        for s in np.flatnonzero(design.share[i] > 0.0):
            part = peak * design.share[i, s]
            if int(s) in gone:
                waiting.append((int(i), part))
                continue
            done = min(part, room[s])
            room[s] -= done
            served += done
    for i, part in waiting:
        for s in np.argsort(design.rtt_ms[i], kind="stable"):
            if design.may[i, s] and room[s] > 0.0 and part > 0.0:
                done = min(part, room[s])
                room[s] -= done
                part -= done
                served += done
        if design.cloud_may[i]:
            done = min(part, standby)
            standby -= done
            served += done
    return served, asked


def available(facts: Facts) -> float:
    """Expected share of interactive demand that is served, when each site is away for its own share of the year and its work goes to the others.

    First order: two sites away at once are left out, which is small against one; common causes are not in it.
    """
    whole = served_without(facts)[0]
    away = np.array([1.0 - p.size.availability for p in facts.design.places])
    if not len(away):
        return whole
    shares = design_share(facts)
    one = served_without(facts)[1]
    largest = float(shares.max()) or 1.0
    lost_each = (whole - one) * shares / largest
    return float(whole - (away * np.maximum(lost_each, 0.0)).sum())


def design_share(facts: Facts) -> Floats:
    """[site] interactive tokens/s."""
    mine = np.array(
        [facts.study.workloads[r.workload].kind == "interactive" for r in facts.demand.rows]
    )
    rate = facts.demand.tokens_per_s[mine, None] * facts.design.share[mine]
    return np.asarray(rate.sum(axis=0))


def staff_fte(facts: Facts) -> float:
    """People, from what staff costs over what one costs."""
    people = facts.drawn.annual("staff", "central_staff") / facts.x["staff_usd_per_fte_year"]
    return float(np.median(people))


def _rtt_p95(facts: Facts) -> float | None:
    design, demand = facts.design, facts.demand
    values, weights = [np.zeros(0)], [np.zeros(0)]
    for i, row in enumerate(demand.rows):
        if facts.study.workloads[row.workload].kind == "interactive":
            values += [design.rtt_ms[i], design.cloud_rtt_ms[i : i + 1]]
            weights += [demand.tokens_per_s[i] * design.share[i]]
            weights += [demand.tokens_per_s[i : i + 1] * design.rented[i]]
    found = weighted_quantile(np.concatenate(values), np.concatenate(weights), 0.95)
    return None if np.isnan(found) else found


def _carbon_free(facts: Facts) -> float | None:
    load = facts.meter.lines["facility_kwh"].value
    known = facts.meter.carbon_free * load
    return _over(float(np.nansum(known)), float(load.sum()))


def _duties(facts: Facts) -> tuple[str, ...]:
    if not facts.design.places:
        return ()
    hit = facts.drawn.pue_excess.max(axis=1) > 0.0
    return tuple(p.id for p, breached in zip(facts.design.places, hit, strict=True) if breached)


def _of_demand(facts: Facts, share: Floats) -> float:
    rate = facts.demand.tokens_per_s
    return float((rate * share).sum() / max(rate.sum(), 1e-12))


def _mid_it(facts: Facts) -> float:
    return float(facts.meter.lines["facility_kwh"].at[:, 0].sum())


def _over(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole > 0.0 else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
