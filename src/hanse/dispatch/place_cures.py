"""What a placement leaves undone, why, and what would cure it, in words.

Here: `violations` of a plan. Not here: prices of slacks (`place_values`), the plan (`place_answer`).
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from hanse.dispatch.place_values import Cap, Violation, ViolationKind
from hanse.milp import Floats, Ints

if TYPE_CHECKING:
    from hanse.dispatch.place_answer import Plan

NAMES_MAX: Final = 4
"""A list of all sites helps nobody."""


def violations(plan: Plan) -> tuple[Violation, ...]:
    """Everything the plan does not meet, the gravest kind first."""
    return (*_unlawful(plan), *_unserved(plan), *_late(plan), *_uncovered(plan), *_power(plan))


def _unlawful(plan: Plan) -> list[Violation]:
    r, p = plan.model.rows, plan.model.problem
    found: dict[tuple[int, int], float] = {}
    for i in np.flatnonzero((r.entry < 0) & (r.d["requests_per_s_high"] > 0.0)):
        key = int(r.d["service"][i]), int(r.d["law"][i])
        found[key] = found.get(key, 0.0) + float(r.d["requests_per_s_high"][i])
    return [
        _violation(
            "unlawful",
            p.services[q].id,
            amount,
            "requests/s",
            "law lets no site with a gateway that is up read it"
            if not p.laws[law]
            else f"every lawful site is silent: {_names(plan, p.laws[law])}",
            "add a site where these subjects' data may be processed, or hold a transfer mechanism that opens one (`hanse check --law`)"
            if not p.laws[law]
            else "bring one of them back",
        )
        for (q, law), amount in sorted(found.items())
    ]


def _unserved(plan: Plan) -> list[Violation]:
    r, p = plan.model.rows, plan.model.problem
    found = []
    causes: dict[tuple[int, int, float], Cause] = {}
    members = np.bincount(r.member[r.member >= 0], minlength=len(r.service))
    short = np.flatnonzero(plan.u > 0.0)
    whats = [f"{p.services[q].id} from {p.sites[o].id}" for q, o in _asked(plan, short)]
    alike = Counter(whats)
    for i, what in zip(short, whats, strict=True):
        kind = int(r.service[i]), int(r.law[i]), float(r.quality[i])
        if kind not in causes:
            causes[kind] = _why_unserved(plan, int(i))
        cause, per_s = causes[kind], float(plan.u[i] * r.high[i])
        if alike[what] > 1:
            what += f" ({_told_apart(plan, int(i))})"
        if members[i] > 1:
            what += f" and {members[i] - 1} more"
        found.append(
            _violation("unserved", what, per_s, "requests/s", cause.why, cause.cure_of(per_s))
        )
    return found


def _asked(plan: Plan, some: Ints) -> list[tuple[int, int]]:
    """(service, origin) of rows."""
    r = plan.model.rows
    return [(int(r.service[i]), int(r.d["origin"][int(r.head[i])])) for i in some]


def _told_apart(plan: Plan, row: int) -> str:
    """What tells a row from others of one service and origin: data classes and countries come down to where law lets them be and what quality they need."""
    r, p = plan.model.rows, plan.model.problem
    where = f"lawful at {_names(plan, p.laws[int(r.law[row])])}"
    quality = float(r.quality[row])
    return f"{where}; classes of quality {quality:g} or more" if quality > 0.0 else where


class Cause(NamedTuple):
    """Why demand of one service, law and need of quality is not served."""

    why: str
    cure: str
    each: float = 0.0
    """Requests/s of a replica more, where `cure` is a count of them."""

    def cure_of(self, per_s: float) -> str:
        """For so many requests."""
        if not self.each:
            return self.cure
        count = int(np.ceil(per_s / self.each - 1e-9))
        return self.cure.format(f"{count} more replica{'s' if count > 1 else ''}")


def _why_unserved(plan: Plan, row: int) -> Cause:
    r, p = plan.model.rows, plan.model.problem
    lawful = np.flatnonzero(r.lawful[r.law[row]])
    mine = (
        np.flatnonzero((r.offer_service == r.service[row]) & np.isin(r.offer_site, lawful))
        if len(p.offers)
        else np.zeros(0, np.int64)
    )
    if not len(mine):
        return Cause(
            f"no replica fits at a lawful site ({_names(plan, lawful)})",
            "give one of them chips that hold a variant within the SLO, or offer a smaller variant",
        )
    good = mine[r.offer_quality[mine] >= r.quality[row] - 1e-9]
    if not len(good):
        return Cause(
            f"no variant that fits has quality {r.quality[row]:g}",
            f"offer a better variant, or lower quality_min to {float(r.offer_quality[mine].max()):g}",
        )
    usable = good[r.offer_max[good] > 0.0]
    if not len(usable):
        sites = np.unique(r.offer_site[good])
        return Cause(
            f"all its sites are lost or drained: {_names(plan, sites)}", "bring one of them back"
        )
    return _full(plan, usable)


def _full(plan: Plan, usable: Ints) -> Cause:
    """Why none of some offers has another replica: chips, engines or power at every site, or its price."""
    r, p = plan.model.rows, plan.model.problem
    sites = np.unique(r.offer_site[usable])
    free = usable[~r.offer_fixed[usable]]
    if not len(free):
        return Cause(
            f"what may serve it runs by itself (driver `external`), or where nobody can be told, at {_names(plan, sites)}: none is placed there",
            "start one more there by hand, or give a lawful site a pool with another driver",
        )
    left = np.array([k.chips_count for k in p.pools], float)
    left -= np.bincount(r.offer_pool, r.offer_chips * plan.n, len(left))
    watch = np.array([s.engines_max for s in p.sites], float)
    watch -= np.bincount(r.offer_site, plan.n, len(watch))
    no_chips = left[r.offer_pool[free]] < r.offer_chips[free]
    no_watch = watch[r.offer_site[free]] < 1.0
    no_power = _more_kw(plan, free) > (_supply(plan) - plan.kw_high)[r.offer_site[free]]
    if not (no_chips | no_watch | no_power).all():
        return Cause(
            "another replica costs more than leaving it unserved",
            f"raise the price of an unserved request, or make one cheaper at {_names(plan, sites)}",
        )
    where = [
        _names(plan, np.unique(r.offer_site[free[no]])) for no in (no_chips, no_watch, no_power)
    ]
    if no_chips.all():
        return Cause(
            f"every chip that may serve it is taken at {where[0]}",
            "add chips for {} at one of them",
            float(r.offer_rate[usable].max()),
        )
    if no_watch[~no_chips].all():
        return Cause(
            f"as many engines as an agent watches run at {where[1]}",
            "offer it on more chips a replica, or give its chips to another site",
        )
    by_cap: dict[Cap, list[int]] = {}
    for s in np.unique(r.offer_site[free[no_power]]).tolist():
        by_cap.setdefault(p.sites[s].cap, []).append(s)
    if "heat" in by_cap:
        hot = _names(plan, by_cap["heat"])
        cure = f"more cooling at {hot}, whose plant takes no more heat in this weather"
    elif "load target" in by_cap:
        cure = f"a higher load target at {_names(plan, by_cap['load target'])}"
    else:
        cure = f"raise grid_kw_max at {where[2]}"
    return Cause(f"no power is left for one more at {where[2]}", cure)


def _more_kw(plan: Plan, offers: Ints) -> Floats:
    """[offer] kW at the meter of one more replica that waits, with the node that it may need."""
    r, p = plan.model.rows, plan.model.problem
    node_kw = np.array([(k.node_on_w - k.node_off_w) / 1000.0 for k in p.pools], float)
    held = np.bincount(r.offer_pool, r.offer_chips * plan.n, len(p.pools))
    on = np.array([k.chips for k in p.pools], float) * plan.k
    pool = r.offer_pool[offers]
    wakes = held[pool] + r.offer_chips[offers] > on[pool]
    return np.asarray(r.pue[r.offer_site[offers]] * (r.offer_kw[offers] + wakes * node_kw[pool]))


def _late(plan: Plan) -> list[Violation]:
    m, r, p = plan.model, plan.model.rows, plan.model.problem
    found = []
    for q, service in enumerate(p.services):
        late = (m.pair_late > 0.0) & (plan.x > 0.0) & (r.service[m.pair_row] == q)
        if not late.any():
            continue
        per_s = float((r.mean[m.pair_row] * plan.x)[late].sum())
        first = np.flatnonzero(late)[0]
        row, offer = int(m.pair_row[first]), int(m.pair_offer[first])
        head = int(r.head[row])
        way = float(r.way_ms[head, r.offer_site[offer]])
        ttft = way + float(r.offer_ttft[offer])
        origin, site = p.sites[int(r.d["origin"][head])].id, p.sites[int(r.offer_site[offer])].id
        why = f"from {origin} to {site} the first token of 95 of 100 comes after {ttft:.0f} ms of {service.ttft_ms:.0f} ms, {way:.0f} ms of them on the way"
        cure = f"give a lawful site nearer to {origin} chips for it, or promise {np.ceil(ttft / 10.0) * 10.0:.0f} ms"
        if p.offers[offer].late:
            why = f"requests are too long for it at {site}: no replica of its kind keeps the promised times to the first token and per token"
            cure = "offer a smaller variant, give a lawful site faster chips or more of them a replica, or promise more"
        found.append(_violation("late", service.id, per_s, "requests/s", why, cure))
    return found


def _uncovered(plan: Plan) -> list[Violation]:
    r, p = plan.model.rows, plan.model.problem
    found = []
    for short in plan.shortfalls:
        failure = p.failures[short.failure]
        lawful = {s for law, _ in short.kinds for s in p.laws[law]} - set(failure.sites)
        fits = (r.offer_service == short.service) & (r.offer_max > 0.0)
        others = sorted(lawful & set(r.offer_site[fits].tolist()))
        if others:
            why = f"{_names(plan, others)} may help and hold too little"
            cure = "add chips for it there"
        elif lawful:
            why = f"no other lawful site ({_names(plan, sorted(lawful))}) has chips that hold it"
            cure = "give one of them chips that hold a variant of it"
        else:
            why = "law lets no other site read what is left"
            cure = "add a site under the same law, or hold a transfer mechanism that opens one"
        what = f"{p.services[short.service].id} without {failure.id}"
        found.append(_violation("uncovered", what, short.per_s, "requests/s", why, cure))
    return found


def _power(plan: Plan) -> list[Violation]:
    p = plan.model.problem
    return [
        _violation(
            "over_power",
            p.sites[int(s)].id,
            float(plan.over_kw[s]),
            "kW",
            f"{plan.kw_high[s]:.1f} kW with all demand high, {_supply(plan)[s]:.1f} kW of supply",
            f"{_more_supply(p.sites[int(s)].cap, float(plan.over_kw[s]))}, or let other sites hold more",
        )
        for s in np.flatnonzero(plan.over_kw > 0.0)
    ]


def _more_supply(cap: Cap, over_kw: float) -> str:
    """What lets a site draw more."""
    more = f"{np.ceil(over_kw * 10.0) / 10.0:g} kW"
    if cap == "heat":
        return "more cooling, whose plant takes no more heat in this weather"
    return f"raise grid_kw_max by {more}" if cap == "grid" else f"a load target higher by {more}"


def _supply(plan: Plan) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array([s.grid_kw_max + s.own_kw_low for s in plan.model.problem.sites], float)


def _names(plan: Plan, sites: object) -> str:
    ids = [plan.model.problem.sites[int(s)].id for s in np.asarray(sites).ravel()]
    more = f" and {len(ids) - NAMES_MAX} more" if len(ids) > NAMES_MAX else ""
    return ", ".join(ids[:NAMES_MAX]) + more if ids else "none"


def _violation(
    kind: ViolationKind, what: str, amount: float, unit: str, why: str, cure: str
) -> Violation:
    return Violation(kind=kind, what=what, amount=amount, unit=unit, why=why, cure=cure)
