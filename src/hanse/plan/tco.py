"""Total cost of ownership: what a design costs by site, year, draw and item, and per million delivered tokens.

Here: `costs`, `Costs` (by item, net present value, annuity, per delivered work) and `policy_effects`. The items themselves are in
`plan.tco_plant`, `plan.tco_people`, `plan.tco_flows`. Not here: what a design consists of (`plan.designs`), its figures (`plan.assumptions`).

Annual TCO = sum of capital x CRF + energy + water + rent + staff + upkeep + traffic + compliance + expected loss + carbon (Koomey et al., A simple
model for determining true total cost of ownership for data centers, 2008; Barroso et al. 2018), in money of the first year, interest real.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.plan.assumptions import Values
from hanse.plan.capital import recovery_factor
from hanse.plan.case import Case
from hanse.plan.inventory import Inventory
from hanse.plan.policy import Cure, cure, cured
from hanse.plan.study_file import PolicyEntry, Study
from hanse.plan.tco_flows import embodied_t, fleet_flows, flows, rented_use
from hanse.plan.tco_people import fleet_people, people
from hanse.plan.tco_plant import capital

Floats = NDArray[np.float64]

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "servers": ("servers", "server_support", "spares"),
    "plant": ("plant", "building", "maintenance", "efficiency_cure"),
    "land and rent": ("land", "rent"),
    "own power": ("pv", "wind", "battery", "own_power_upkeep", "export_revenue", "feed_in_tariff"),
    "energy": ("energy",),
    "water": ("water",),
    "network": ("wan_ports", "wan_transit"),
    "people": (
        "staff",
        "central_staff",
        "truck_rolls",
        "remote_hands",
        "operations",
        "software",
    ),
    "law": ("compliance", "audits"),
    "risk": ("outages", "lost_work", "insurance"),
    "carbon": ("operational_carbon", "embodied_carbon", "cloud_carbon", "carbon_tax"),
    "cloud": ("cloud_rent", "cloud_egress"),
    "credits": ("investment_credit",),
}
"""Items by group, for tables and pictures; every item is in one."""
FLEET_ITEMS: Final = frozenset(
    {
        "central_staff",
        "compliance",
        "audits",
        "lost_work",
        "cloud_rent",
        "cloud_egress",
        "cloud_carbon",
    }
)
"""Items that belong to no site, [1, year, draw]."""
TOKENS_PER_M: Final = 1e6
G_PER_T: Final = 1e6


class Use(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a design delivers, uses and emits by year, own and rented together, [year, draw]. Emissions by different methods are never added."""

    tokens: Floats
    facility_kwh: Floats
    water_l: Floats
    location_t: Floats
    """Operational: imported energy by the grid's average, own generation by its life cycle, rented chips by a cloud's average grid."""
    market_t: Floats
    """Same with contracts counted; rented chips as in `location_t`, since nobody knows a cloud's contracts."""
    marginal_t: Floats
    """Same by marginal emissions; NaN where nobody publishes them. Rented chips as in `location_t`."""
    embodied_t: Floats
    """Making of servers, buildings and batteries, spread over their lives."""


class Costs(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What a design costs. Yearly figures; money of the first year, paid at the end of each year."""

    sites: tuple[str, ...]
    items: dict[str, Floats]
    """[site, year, draw], or [1, year, draw] for `FLEET_ITEMS`."""
    rate: Floats
    """Discount rate, [draw]."""
    use: Use
    duty: Cure
    """Sites that had to be mended to be lawful."""

    def annual(self, *names: str) -> Floats:
        """Cost by year of the named items, of all without a name, [year, draw]."""
        chosen = names or tuple(self.items)
        return np.asarray(sum(self.items[name].sum(axis=0) for name in chosen), np.float64)

    def by_group(self) -> dict[str, Floats]:
        """Cost by year of each group, [year, draw]."""
        return {group: self.annual(*names) for group, names in GROUPS.items()}

    def by_site(self) -> Floats:
        """Cost of what belongs to sites, [site, year, draw]."""
        own = [array for name, array in self.items.items() if name not in FLEET_ITEMS]
        return np.asarray(sum(own), np.float64)

    def npv(self, *names: str) -> Floats:
        """Net present value of the named items, of all without a name, [draw]."""
        return self._present(self.annual(*names))

    def annualised(self, *names: str) -> Floats:
        """The equal yearly payment that has the same present value, [draw]."""
        years = np.asarray(float(self.use.tokens.shape[0]))
        return self.npv(*names) * recovery_factor(self.rate, years)

    def usd_per_mtoken(self, *names: str) -> Floats:
        """Levelised cost: present value of cost over present value of million tokens delivered within the SLO, [draw]; NaN without any."""
        return _over(self.npv(*names), self._present(self.use.tokens) / TOKENS_PER_M)

    def per_mtoken(self) -> dict[str, Floats]:
        """kWh, litres and gCO2e per million tokens over all years, [draw]; emissions by method and the embodied ones apart."""
        work = self.use.tokens.sum(axis=0) / TOKENS_PER_M
        use = self.use
        return {
            "facility_kwh": _over(use.facility_kwh.sum(axis=0), work),
            "water_l": _over(use.water_l.sum(axis=0), work),
            "location_g": _over(use.location_t.sum(axis=0) * G_PER_T, work),
            "market_g": _over(use.market_t.sum(axis=0) * G_PER_T, work),
            "marginal_g": _over(use.marginal_t.sum(axis=0) * G_PER_T, work),
            "embodied_g": _over(use.embodied_t.sum(axis=0) * G_PER_T, work),
        }

    def _present(self, yearly: Floats) -> Floats:
        after = np.arange(1, yearly.shape[0] + 1, dtype=np.float64).reshape(-1, 1)
        return np.asarray((yearly / (1.0 + self.rate) ** after).sum(axis=0), np.float64)


def costs(
    inventory: Inventory,
    values: Values,
    study: Study,
    policies: Sequence[PolicyEntry] | None = None,
) -> Costs:
    """What a design costs under all draws.

    Args:
        inventory: The design in figures.
        values: Draws of all assumptions, or `mid`; the same for all designs that are compared.
        study: The study; its first day and its policies.
        policies: Those that hold instead of the study's.
    """
    assert inventory.years == study.years, "a design covers the study's years"
    rules = study.policies if policies is None else tuple(policies)
    needed = cure(rules, inventory, study)
    mended = cured(inventory, needed)
    case = Case(inventory=mended, values=values, study=study, policies=rules)
    sites, years, draws = case.shape
    at_sites = capital(case) | people(case) | flows(case) | {"efficiency_cure": _cure(case, needed)}
    of_fleet = fleet_people(case) | fleet_flows(case)
    items = {k: np.broadcast_to(v, (sites, years, draws)) for k, v in at_sites.items()}
    items |= {k: np.broadcast_to(v, (1, years, draws)) for k, v in of_fleet.items()}
    named = {name for names in GROUPS.values() for name in names}
    missing = {name: np.zeros((sites, years, draws)) for name in named - items.keys()}
    return Costs(
        sites=tuple(p.id for p in case.places),
        items=items | missing,
        rate=np.broadcast_to(case.of("discount_rate")[0, 0], (draws,)),
        use=_use(case),
        duty=needed,
    )


def policy_effects(inventory: Inventory, values: Values, study: Study) -> dict[str, Floats]:
    """What each policy of the study does to the cost: present value with all policies less that without it, [draw] by id."""
    with_all = costs(inventory, values, study).npv()
    effects = {}
    for policy in study.policies:
        others = [p for p in study.policies if p.id != policy.id]
        effects[policy.id] = with_all - costs(inventory, values, study, others).npv()
    return effects


def _cure(case: Case, needed: Cure) -> Floats:
    """Yearly capital cost of making plants lawful, [site, year, draw]: so much per kW and tenth of PUE, in each year with a breach."""
    tenths = needed.pue_excess / 0.1
    price = tenths * case.it_kw * case.of("efficiency_upgrade_usd_per_kw")
    return price * recovery_factor(case.of("discount_rate"), case.of("mep_life_years"))


def _use(case: Case) -> Use:
    inventory, rented, (_, years, draws) = case.inventory, rented_use(case), case.shape

    def with_rented(at_sites: Floats, name: str) -> Floats:
        own = np.broadcast_to(at_sites, (len(case.places), *at_sites.shape[1:])).sum(axis=0)
        return np.broadcast_to(own + rented[name][0], (years, draws))

    return Use(
        tokens=np.broadcast_to(inventory.tokens.sum(axis=0), (years, draws)),
        facility_kwh=with_rented(inventory.facility_kwh, "kwh"),
        water_l=with_rented(inventory.water_l, "water_l"),
        location_t=with_rented(inventory.location_t + inventory.own_t, "location_t"),
        market_t=with_rented(inventory.market_t + inventory.own_t, "location_t"),
        marginal_t=with_rented(inventory.marginal_t + inventory.own_t, "location_t"),
        embodied_t=with_rented(embodied_t(case), "embodied_t"),
    )


def _over(amount: Floats, work: Floats) -> Floats:
    """Amount per unit of work; NaN where there is no work."""
    return np.where(work > 0.0, amount / np.where(work > 0.0, work, 1.0), np.nan)
