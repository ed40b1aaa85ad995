"""Rules with dates: on which part of a year they hold, where, and what they change.

Here: `share_of_year`, `holds_at`, credits on capital, feed-in and carbon rates, localisation by year, duties of efficiency and what curing a breach
takes. Not here: which rules apply (the study's `[[policy]]`), the cost of a design (`plan.tco`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from itertools import zip_longest
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.model.fleet import LawClass
from hanse.plan.inventory import Inventory, Place
from hanse.plan.study_file import PolicyEntry, Study

Floats = NDArray[np.float64]
Asset = Literal["pv", "wind", "battery", "plant", "servers"]
CREDITED: Final[tuple[Asset, ...]] = ("pv", "wind", "battery")
"""What an investment credit is paid on where the study does not say."""


def share_of_year(policy: PolicyEntry, start: date, years: int) -> Floats:
    """Share of each year of the study on whose days the policy holds, [year]; years run from the study's first day."""
    return _share(policy.from_, policy.until, start, years)


def holds_at(policy: PolicyEntry, country: str) -> bool:
    """Its countries or its bloc have the country; a policy that names neither holds everywhere."""
    if not policy.countries and not policy.bloc:
        return True
    members = jurisdiction_rules().blocs[policy.bloc] if policy.bloc else ()
    return country in policy.countries or country in members


def credit_share(
    policies: Sequence[PolicyEntry], asset: Asset, places: Sequence[Place], study: Study
) -> Floats:
    """Share of the price of an asset that is paid back, by site and year of purchase, [site, year, 1]; on any day several add up to 1 at most."""
    paid = [p for p in policies if p.kind == "investment_credit" and asset in (p.on or CREDITED)]
    total = np.zeros((len(places), study.years, 1))
    for holding, share in _spells(paid, study):
        at_once = sum((p.value * _where(p, places) for p in holding), np.zeros((1, 1, 1)))
        total = total + np.minimum(at_once, 1.0) * share
    return total


def feed_in_gain(
    policies: Sequence[PolicyEntry], places: Sequence[Place], study: Study, market_usd: Floats
) -> Floats:
    """What tariffs pay per exported kWh above the market, [site, year, draw]; on any day the best one, and never less than the market."""
    gain = np.zeros((len(places), study.years, 1))
    for holding, share in _spells([p for p in policies if p.kind == "feed_in_tariff"], study):
        best = np.zeros((len(places), 1, 1))
        for policy in holding:
            best = np.maximum(best, policy.value * _where(policy, places))
        gain = gain + np.maximum(best - market_usd, 0.0) * share
    return gain


def carbon_tax_usd_per_t(
    policies: Sequence[PolicyEntry], places: Sequence[Place], study: Study
) -> Floats:
    """Taxes on location-based emissions, [site, year, 1]; several add up."""
    total = np.zeros((len(places), study.years, 1))
    for policy in policies:
        if policy.kind == "carbon_tax":
            when = share_of_year(policy, study.start, study.years).reshape(1, -1, 1)
            total = total + policy.value * _where(policy, places) * when
    return total


def localised(
    policies: Sequence[PolicyEntry], law: LawClass, country: str, study: Study
) -> NDArray[np.bool_]:
    """In which years data of a class from a country has to stay in it, [year].

    A year counts as soon as the rule holds on one of its days: capacity at home has to stand by then.
    """
    bound = np.zeros(study.years, np.bool_)
    for policy in policies:
        if policy.kind == "localisation" and law in policy.laws and holds_at(policy, country):
            bound |= share_of_year(policy, study.start, study.years) > 0.0
    return bound


class Cure(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What duties of efficiency ask of a design; arrays broadcast with [site, year, draw]."""

    breach: NDArray[np.bool_]
    """Sites whose PUE is above the lawful one in that year."""
    pue_excess: Floats
    """By how much, 0 where lawful; the strictest duty counts."""
    saved_kwh: Floats
    """Facility energy that a lawful plant does not use, on the days on which the duty holds."""


def cure(policies: Sequence[PolicyEntry], inventory: Inventory, study: Study) -> Cure:
    """Which sites breach a duty, and what a lawful plant would save.

    PUE is the year's facility energy over IT energy, as EN 50600-4-2 defines it. A duty counts at sites of more than its threshold of IT power.
    """
    it_kwh = inventory.it_kwh
    pue = np.where(it_kwh > 0.0, inventory.facility_kwh / np.where(it_kwh > 0.0, it_kwh, 1.0), 0.0)
    excess, saved = np.zeros_like(pue), np.zeros_like(pue)
    for holding, share in _spells([p for p in policies if p.kind == "efficiency_duty"], study):
        above = np.zeros_like(pue)
        for policy in holding:
            bound = (inventory.it_kw > policy.above_kw) * _where(policy, inventory.places)
            above = np.maximum(above, (pue - policy.value) * bound)
        excess = np.maximum(excess, above * (share > 0.0))
        saved = saved + above * it_kwh * share
    return Cure(breach=excess > 0.0, pue_excess=excess, saved_kwh=saved)


def cured(inventory: Inventory, needed: Cure) -> Inventory:
    """The design with lawful plants: less facility energy, and less of it imported, with the emissions of what is imported.

    Savings are first taken from imports. Water stays: the cure is assumed dry.
    """
    if not np.any(needed.breach):
        return inventory
    saved = np.minimum(needed.saved_kwh, inventory.import_kwh)
    bought = np.where(inventory.import_kwh > 0.0, inventory.import_kwh, 1.0)
    left = 1.0 - saved / bought
    used = np.where(inventory.facility_kwh > 0.0, inventory.facility_kwh, 1.0)
    return msgspec.structs.replace(
        inventory,
        facility_kwh=inventory.facility_kwh - needed.saved_kwh,
        import_kwh=inventory.import_kwh - saved,
        peak_kw=inventory.peak_kw * (1.0 - needed.saved_kwh / used),
        location_t=inventory.location_t * left,
        market_t=inventory.market_t * left,
        marginal_t=inventory.marginal_t * left,
    )


def _where(policy: PolicyEntry, places: Sequence[Place]) -> Floats:
    """1 where the policy holds, [site, 1, 1]."""
    return np.array([holds_at(policy, p.country) for p in places], np.float64).reshape(-1, 1, 1)


def _spells(
    policies: Sequence[PolicyEntry], study: Study
) -> Iterator[tuple[list[PolicyEntry], Floats]]:
    """Spans of days on which the same policies hold, with their share of each year, [1, year, 1]."""
    edges = sorted({p.from_ for p in policies} | {p.until for p in policies if p.until is not None})
    for begins, ends in zip_longest(edges, edges[1:]):
        holding = [
            p for p in policies if p.from_ <= begins and (p.until is None or begins < p.until)
        ]
        if holding:
            yield holding, _share(begins, ends, study.start, study.years).reshape(1, -1, 1)


def _share(begins: date, ends: date | None, start: date, years: int) -> Floats:
    shares = np.zeros(years)
    for year in range(years):
        first, after = _anniversary(start, year), _anniversary(start, year + 1)
        last = after if ends is None else min(after, ends)
        shares[year] = max(0, (last - max(first, begins)).days) / (after - first).days
    return shares


def _anniversary(start: date, year: int) -> date:
    """The study's first day, so many years later; the 29th of February becomes the 1st of March."""
    try:
        return start.replace(year=start.year + year)
    except ValueError:
        return date(start.year + year, 3, 1)
