"""What a site's users asked for, from the decision rows that its gateways tell anyway.

Here: `DemandMeter`. Rows are at most so many a second (`gateway.feed`); counters count every request, so what was asked is the rows'
mixture times the counted total. Not here: bins (`signals.demand_counts`), forecasts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hanse.model.fleet import Fleet, Value
from hanse.model.told import Figure
from hanse.signals.demand_counts import DemandCount, DemandKey
from hanse.view import DecisionRow

REPORT_S: Final = 10.0
"""A thirtieth of a bin: little is lost with an agent that dies, and a thousand sites send a hundred small messages a second."""


class DemandReport(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What one entry counted since its last report."""

    site: str
    at_s: Figure
    counts: tuple[DemandCount, ...]
    sampled: Figure
    """Requests for each row that was looked at; 1: all were."""


class DemandMeter:
    """Rows in, counts out."""

    def __init__(self, fleet: Fleet, site: str) -> None:
        self._site = site
        self._tenants: Mapping[str, str] = {k.id: t.id for t in fleet.tenants for k in t.keys}
        self._sums: dict[DemandKey, list[float]] = {}
        self._rows = 0
        self._total: float | None = None

    def follow(self, fleet: Fleet) -> None:
        """Another fleet is in force."""
        self._tenants = {k.id: t.id for t in fleet.tenants for k in t.keys}

    def add(self, row: DecisionRow) -> None:
        """One request that ended or was refused.

        What law refuses is no demand: no placement could serve it. What may wait is none either: it comes when there is room.
        """
        self._rows += 1
        tenant = self._tenants.get(row.key_id)
        if tenant is None or row.deferrable or row.rules or not row.service or not row.country:
            return
        key = DemandKey(
            service=row.service,
            tenant=tenant,
            data_class=row.data_class,
            country=row.country,
            origin=self._site,
        )
        sums = self._sums.setdefault(key, [0.0, 0.0, 0.0])
        # A request that was not served says nothing of its length: it counts as long as those that were.
        told = row.tokens_in > 0
        sums[0] += 1.0
        sums[1] += row.tokens_in if told else _mean(sums[1], sums[0] - 1.0)
        sums[2] += row.tokens_out if told else _mean(sums[2], sums[0] - 1.0)

    def take(self, at_s: float, requests_total: float) -> DemandReport:
        """Counts since the last call.

        Args:
            at_s: Unix seconds of now.
            requests_total: Counter of rows of the site's gateways, sent and dropped; smaller than before: it began anew.
        """
        before = self._total
        self._total = requests_total
        seen = float(self._rows)
        counted = seen if before is None else requests_total - before
        if counted < 0.0:
            counted = requests_total
        # Rows of a request can come before or after its count: a few more rows than requests are no sample.
        factor = max(1.0, counted / seen) if seen else 1.0
        counts = tuple(
            DemandCount(
                key=key, requests=factor * n, tokens_in=factor * tokens_in, tokens_out=factor * out
            )
            for key, (n, tokens_in, out) in sorted(self._sums.items())
        )
        self._sums, self._rows = {}, 0
        return DemandReport(site=self._site, at_s=at_s, counts=counts, sampled=factor)


def _mean(total: float, count: float) -> float:
    return total / count if count > 0.0 else 0.0
