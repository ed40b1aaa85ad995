"""Cost of people and of law: staff, ways to sites, hands, licences, compliance and audits.

Here: yearly USD by item, [site, year, draw], and of the whole fleet, [1, year, draw]. Not here: equipment (`plan.tco_plant`), energy and
traffic (`plan.tco_flows`).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue.jurisdictions import jurisdiction_rules
from hanse.plan.case import Case

Floats = NDArray[np.float64]

WORK_H_PER_YEAR: Final = 1760.0
"""220 days of 8 h: what remains of a year of full-time work after holidays and illness."""
MONTHS: Final = 12.0
KW_PER_MW: Final = 1000.0


def people(case: Case) -> dict[str, Floats]:
    """Yearly cost of people at sites, by item."""
    return {
        "staff": _staff(case),
        "truck_rolls": _truck_rolls(case),
        "remote_hands": _remote_hands(case),
        "operations": _operations(case),
        "software": _software(case),
    }


def fleet_people(case: Case) -> dict[str, Floats]:
    """Yearly cost of people whom the whole fleet shares, [1, year, draw]: they are there without a single site, since who rents needs them too."""
    every_year = np.ones((1, case.inventory.years, 1))
    central = case.of("central_fte") * case.of("staff_usd_per_fte_year")
    return {"central_staff": central * every_year} | _law(case)


def _staff(case: Case) -> Floats:
    """People at a staffed site by a power law of its IT power; for sites without people a part of the central team's time."""
    mw = case.it_kw / KW_PER_MW
    with np.errstate(divide="ignore"):
        own = np.where(mw > 0.0, case.of("staff_fte_at_1mw") * mw ** case.of("staff_exponent"), 0.0)
    remote = case.open * case.of("remote_fte_per_site") + mw * case.of("remote_fte_per_mw")
    staffed = case.staffed
    fte = staffed * own + (1.0 - staffed) * remote
    return fte * case.of("staff_usd_per_fte_year")


def _truck_rolls(case: Case) -> Floats:
    """Visits to sites without people: inspections and plant, and failed chips, several at a time."""
    repairs = _chips(case) * case.of("chip_failures_per_year") / case.of("repairs_per_visit")
    visits = case.open * case.of("truck_rolls_per_site_year") + repairs
    return (1.0 - case.staffed) * visits * case.of("truck_roll_usd")


def _remote_hands(case: Case) -> Floats:
    """Hours of the host's people in rented rooms; a tower has nobody."""
    hours = MONTHS * case.of("remote_hands_h_per_site_month")
    hosted = case.rooms * (1.0 - case.towers) * case.open
    return hosted * hours * case.of("remote_hands_usd_per_h")


def _operations(case: Case) -> Floats:
    hours = MONTHS * case.of("operator_actions_per_site_month") * case.of("operator_action_h")
    return case.open * hours * case.of("staff_usd_per_fte_year") / WORK_H_PER_YEAR


def _software(case: Case) -> Floats:
    by_site = case.open * case.of("software_usd_per_site_year")
    return by_site + _chips(case) * case.of("software_usd_per_chip_year")


def _chips(case: Case) -> Floats:
    return sum(case.inventory.chips.values(), np.zeros((len(case.places), 1, 1)))


def _law(case: Case) -> dict[str, Floats]:
    """Compliance work where personal data is served: by jurisdiction, for transfers between them, by audited site."""
    years = np.zeros((1, case.inventory.years, 1))
    if not case.inventory.personal:
        return {"compliance": years, "audits": years}
    jurisdictions, sites = _jurisdictions(case), case.open.sum(axis=0, keepdims=True)
    beyond_first = np.maximum(jurisdictions - 1.0, 0.0)
    compliance = jurisdictions * case.of("compliance_usd_per_jurisdiction_year")
    compliance = compliance + beyond_first * case.of("transfer_tool_usd_per_year")
    with np.errstate(divide="ignore"):
        audited = np.where(sites > 0.0, sites ** case.of("audited_sites_exponent"), 0.0)
    return {
        "compliance": compliance + years,
        "audits": audited * case.of("audit_usd_per_site_year") + years,
    }


def _jurisdictions(case: Case) -> Floats:
    """How many jurisdictions a fleet serves personal data under, [1, year, draw]; rented chips alone count as the operator's own."""
    by_law: dict[str, list[int]] = {}
    for index, place in enumerate(case.places):
        by_law.setdefault(_jurisdiction(place.country), []).append(index)
    total = np.zeros((1, case.inventory.years, 1))
    for indices in by_law.values():
        total = total + case.open[indices].max(axis=0, keepdims=True)
    rents = sum(case.inventory.rented_chip_h.values(), np.zeros((1, 1, 1))) > 0.0
    return np.maximum(total, rents.astype(np.float64))


def _jurisdiction(country: str) -> str:
    """The EEA has one law of personal data (GDPR; Joint Committee Decision 154/2018)."""
    return "EEA" if country in jurisdiction_rules().blocs["EEA"] else country
