"""Proof of residency: where each class of data from each country was read and executed, and which rules kept it elsewhere.

Here: `residency_of`. Not here: law (`dispatch.law`), the count that the loop makes as requests reach engines (`gateway.execute`).

The recount is made from other data than the loop's: finished requests by class and origin, and the tables at the start and at the
end of the run (a scenario may change the law in between). A request that names no tenant may be any tenant's that may send its class.
"""

from __future__ import annotations

from typing import Any

from hanse.dispatch.reasons import Reason
from hanse.dispatch.table import Table
from hanse.twin.arrays import REASON_NO_ENTRY
from hanse.twin.result import Barred, Residency, ResidencyCell
from hanse.twin.simulate import Simulation
from hanse.twin.tally import Tally
from hanse.twin.world import subject_numbers


def residency_of(simulation: Simulation, tally: Tally, first: Table) -> Residency:
    """Cells that any request touched, and sites that law closed."""
    countries = _countries(simulation)
    cells: dict[tuple[int, str, int], list[int]] = {}
    lawful: dict[tuple[int, str, int], bool] = {}
    bars: dict[tuple[int, str, int], tuple[str, ...]] = {}
    recount = 0
    for table in (first, simulation.table):
        for (c, r, s), rules in _closed(simulation, table).items():
            key = (c, countries[r], s)
            lawful[key] = lawful.get(key, False) or not rules
            bars[key] = rules if key not in bars or not rules else bars[key]
    executed, entered = tally.executed, tally.entered
    for c, r, s in zip(*((executed + entered).nonzero()), strict=True):
        key = (int(c), countries[r], int(s))
        cell = cells.setdefault(key, [0, 0])
        cell[0] += int(executed[c, r, s])
        cell[1] += int(entered[c, r, s])
        if not lawful.get(key, False):
            recount += int(executed[c, r, s] + entered[c, r, s])
    names = [c.id for c in simulation.fleet.classes]
    sites = simulation.fleet.sites
    barred = tuple(
        Barred(data_class=names[c], country=country, site=sites[s].id, rules=rules)
        for (c, country, s), rules in sorted(bars.items())
        if rules
    )
    texts = first.meta.rule_texts | simulation.table.meta.rule_texts
    return Residency(
        unlawful=int(simulation.world.clock[0]["unlawful"]),
        unlawful_recount=recount,
        cells=tuple(
            ResidencyCell(
                data_class=names[c],
                country=country,
                site=sites[s].id,
                site_country=sites[s].country,
                executed=counts[0],
                entered=counts[1],
                lawful=lawful.get((c, country, s), False),
            )
            for (c, country, s), counts in sorted(cells.items())
        ),
        barred=barred,
        rules={r: texts.get(r, "") for r in sorted({r for b in barred for r in b.rules})},
        refused_by_law=int(tally.refused[..., [-int(Reason.LAW), REASON_NO_ENTRY]].sum()),
    )


def _countries(simulation: Simulation) -> list[str]:
    """Of each origin; where a trace has none, the key's own first country speaks."""
    return [o.country for o in simulation.trace.meta.origins] or [""]


def _closed(simulation: Simulation, table: Table) -> dict[tuple[int, int, int], tuple[str, ...]]:
    """(class, origin, site) -> rules that close it for all tenants that may send the class; empty: open to one at least."""
    meta, fleet = simulation.trace.meta, simulation.fleet
    shape: Any = simulation.world.subject_of.shape
    subjects = subject_numbers(fleet, table, meta, shape)
    known: dict[tuple[int, ...], list[tuple[str, ...]]] = {}
    found: dict[tuple[int, int, int], tuple[str, ...]] = {}
    for c in range(shape[1]):
        for r in range(shape[2]):
            rows = tuple(sorted({int(n) for n in subjects[:, c, r] if n > 0}))
            if rows and rows not in known:  # a country's cities share their law
                known[rows] = [_rules_of(table, rows, s) for s in range(len(fleet.sites))]
            for s, rules in enumerate(known.get(rows, ())):
                found[c, r, s] = rules
    return found


def _rules_of(table: Table, rows: tuple[int, ...], site: int) -> tuple[str, ...]:
    rules = [table.rules(row, site) for row in rows]
    return () if () in rules else tuple(sorted({rule for one in rules for rule in one}))
