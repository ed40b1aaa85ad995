"""Who would be left without a lawful place if some sites were out of service.

Here: `stranded`, from a table. Not here: taking a site out (`events.DrainRequested`), how much room is left elsewhere (`choose` looks at
every request), who is told (`live.fleet_in_force`).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.table import Table
from hanse.model.fleet import Value


class Stranded(Value, frozen=True, kw_only=True):
    """Requests of one kind that would be refused everywhere."""

    service: str
    data_class: str
    country: str
    tenant: str

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.service} for {self.tenant}, class {self.data_class} from {self.country}"


def stranded(table: Table, out: Collection[str], lost: Collection[str] = ()) -> list[Stranded]:
    """Kinds of request that have a lawful replica somewhere now and would have none.

    Args:
        table: In force, or about to be.
        out: Sites to be taken out of service; of those that are out already nothing is asked.
        lost: Sites that are not heard: nothing counts on them.
    """
    sites = np.array([site.id for site in table.meta.sites])
    there = (table.sites["drained"] == 0) & ~np.isin(sites, list(lost))
    stays = there & ~np.isin(sites, list(out))
    rows: dict[int, NDArray[np.int64]] = {}
    found: dict[Stranded, None] = {}
    for key in table.meta.keys.values():
        for data_class, countries in key.subjects.items():
            for country, row in countries.items():
                if row not in rows:
                    before, after = (_served(table, row, open) for open in (there, stays))
                    rows[row] = np.flatnonzero(before & ~after)
                for service in rows[row].tolist():
                    name = table.meta.services[service].id
                    if name in key.services:
                        one = Stranded(
                            service=name, data_class=data_class, country=country, tenant=key.tenant
                        )
                        found[one] = None
    return list(found)


def _served(table: Table, subject: int, open: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[service] whether some open site has a lawful replica that is good enough."""
    who, offers = table.subjects[subject], table.offers
    lawful = table.law[int(who["profile"])] != 0
    fit = (
        (offers["replicas"] > 0)
        & (offers["quality"] >= who["quality_min"])
        & (lawful & open)[offers["site"]]
    )
    served = np.zeros(len(table.services), np.bool_)
    served[offers["service"][fit]] = True
    return served
