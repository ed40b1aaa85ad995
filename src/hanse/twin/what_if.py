"""The recorded decisions under another fleet: which requests would have gone elsewhere, and at what cost.

Here: `what_if`. Not here: the replay of the fleet that ran (`replay`), a day lived anew with other queues (`simulate`, from a trace of
the same logs).

Each decision is asked alone, with the load that was really there: heard figures, own requests in flight and corrections are those of
the log, carried over by the names of offers. What would have followed from a decision made otherwise is not part of the answer.
Figures of the tables that were in force (prices, carbon, PUE, drains, replicas) hold on; the other fleet changes what it says otherwise
than the fleet that ran. An offer that the fleet that ran did not have is idle, with all its replicas alive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.dispatch import journal as form
from hanse.dispatch import load as loads
from hanse.dispatch.choose import OUT_COST_USD, OUT_G, OUT_TTFT_MS, OUT_USD, OUT_WH
from hanse.dispatch.declared import declared_table, stand_in_digests
from hanse.dispatch.journal import Choice, Record
from hanse.dispatch.load import OWN_DTYPE, Load
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.reasons import Reason
from hanse.dispatch.shed import gate_of_flags
from hanse.dispatch.table import Table
from hanse.model.fleet import Fleet, Value
from hanse.twin.replay import Asker, Rebuilt, journal_files, records_with_state

FIGURES: Final = {
    "ttft_ms": OUT_TTFT_MS, "wh": OUT_WH, "g": OUT_G, "usd": OUT_USD, "cost_usd": OUT_COST_USD,
}  # fmt: skip


EXAMPLES_MAX: Final = 3


class Example(Value, frozen=True, kw_only=True):
    """One of many alike."""

    at_s: float
    entry: str
    service: str
    data_class: str
    country: str
    tokens_in: int


class Move(Value, frozen=True, kw_only=True):
    """Decisions that went one way and would have gone another."""

    was: str
    """`site/service/variant`, or the reason of a refusal."""
    now: str
    count: int
    examples: tuple[Example, ...] = ()
    """The first of them."""


class WhatIf(Value, frozen=True, kw_only=True):
    """All of them."""

    decisions: int
    same: int
    moves: tuple[Move, ...]
    """Most first."""
    both: int
    """Decisions that found an offer in both fleets; the sums are of these."""
    was: dict[str, float]
    """Predicted TTFT in ms, Wh, g, USD, and cost with the value of waiting, summed."""
    now: dict[str, float]
    skipped: int
    """Decisions at entry sites that the other fleet does not have."""
    earlier: int = 0
    """Decisions from before `since_s`: of another fleet than the one that ran last, and counted nowhere else."""


class FleetFiles(Value, frozen=True, kw_only=True):
    """A fleet and its operator's policies."""

    fleet: Fleet
    policies: tuple[PolicyText, ...] = ()


def what_if(
    where: Path | Sequence[Path], was: FleetFiles, other: FleetFiles, *, since_s: float = 0.0
) -> WhatIf:
    """Ask every recorded decision of another fleet.

    Args:
        where: Logs, or where `replay.journal_files` finds them.
        was: The fleet that ran.
        other: The one to ask.
        since_s: Since when `was` ran; what was decided before is not asked.

    Raises:
        ConfigError: no log, or a table of one is missing beside it.
    """
    sums = _Sums(since_s)
    for path in journal_files(where) if isinstance(where, Path) else where:
        asked = _Elsewhere(was, other)
        for record, rebuilt in records_with_state(path):
            asked.take(record, rebuilt)
            if record.kind == form.CHOICE:
                choice = form.choice_of(record)
                sums.add(choice, rebuilt, asked)
    return sums.result()


class _Sums:
    def __init__(self, since_s: float) -> None:
        self._since_s = since_s
        self.counts: dict[tuple[str, str], int] = {}
        self.examples: dict[tuple[str, str], list[Example]] = {}
        self.both = self.skipped = self.earlier = 0
        self.was: NDArray[np.float64] = np.zeros(len(FIGURES))
        self.now: NDArray[np.float64] = np.zeros(len(FIGURES))

    def add(self, choice: Choice, rebuilt: Rebuilt, asked: _Elsewhere) -> None:
        """One decision."""
        if choice.now_s < self._since_s:
            self.earlier += 1
            return
        if asked.asker is None:
            self.skipped += 1
            return
        result = asked.ask(choice)
        names = _name(rebuilt.asker.table, choice.result), _name(asked.asker.table, result)
        self.counts[names] = self.counts.get(names, 0) + 1
        if names[0] != names[1] and self.counts[names] <= EXAMPLES_MAX:
            self.examples.setdefault(names, []).append(_example(choice, rebuilt))
        if result >= 0 and choice.result >= 0:
            columns = list(FIGURES.values())
            self.both += 1
            self.was += np.frombuffer(choice.out)[columns]
            self.now += asked.asker.out[columns]

    def result(self) -> WhatIf:
        """What came of it."""
        moved = [(was, now, n) for (was, now), n in self.counts.items() if was != now]
        moved.sort(key=lambda move: (-move[2], move[0], move[1]))
        return WhatIf(
            decisions=sum(self.counts.values()),
            same=sum(n for (was, now), n in self.counts.items() if was == now),
            moves=tuple(
                Move(was=was, now=now, count=n, examples=tuple(self.examples[was, now]))
                for was, now, n in moved
            ),
            both=self.both,
            was=dict(zip(FIGURES, self.was.tolist(), strict=True)),
            now=dict(zip(FIGURES, self.now.tolist(), strict=True)),
            skipped=self.skipped,
            earlier=self.earlier,
        )


def _example(choice: Choice, rebuilt: Rebuilt) -> Example:
    meta = rebuilt.asker.table.meta
    who = meta.subjects[choice.subject]
    return Example(
        at_s=choice.now_s,
        entry=rebuilt.head.site,
        service=meta.services[choice.service].id,
        data_class=who.data_class,
        country=who.country,
        tokens_in=int(choice.request[0]),
    )


def _name(table: Table, result: int) -> str:
    return table.meta.offers[result] if result >= 0 else Reason(result).name


class _Elsewhere:
    """One worker's knowledge, carried over to another fleet's table."""

    asker: Asker | None = None
    load: Load

    def __init__(self, was: FleetFiles, other: FleetFiles) -> None:
        self._was, self._other = was, other
        self._declared: tuple[Table, Table] | None = None
        self._apply: dict[int, Callable[[Record, Rebuilt], None]] = {
            form.TABLE: self._table,
            form.HEARD: self._heard,
            form.LOST: self._lost,
            form.BEGIN: self._counted,
            form.END: self._counted,
            form.FIRST_BYTE: self._first_byte,
            form.ARRIVED: self._arrived,
            form.RATIO: self._ratio,
            form.OWN: self._own,
        }

    def take(self, record: Record, rebuilt: Rebuilt) -> None:
        """One event of the log."""
        known = self._apply.get(record.kind)
        if known is not None and (self.asker is not None or record.kind == form.TABLE):
            known(record, rebuilt)

    def ask(self, choice: Choice) -> int:
        """The decision made by the other fleet's table."""
        assert self.asker is not None
        service = self._services[choice.service]
        if service < 0:
            return Reason.NO_OFFER
        cached = choice.cached
        if cached is not None:
            cached = cached.copy()
            cached[:, 0] = [self._sites[s] if s >= 0 else -1 for s in cached[:, 0]]
        tried = [offer for o in choice.tried if (offer := self._offers[o]) >= 0]
        return self.asker.ask(
            self.load,
            choice._replace(
                service=service, subject=self._subjects[choice.subject], tried=tried, cached=cached
            ),
        )

    # --- a table came

    def _table(self, record: Record, rebuilt: Rebuilt) -> None:
        lived = rebuilt.asker.table
        at_s = lived.meta.issued_at_s
        if self._declared is None:  # law may begin and end with time, but not within a recording
            digests = {meta.id: sha256 for sha256, meta in lived.meta.keys.items()}
            declared = [
                declared_table(
                    files.fleet, files.policies, stand_in_digests(files.fleet) | digests, at_s
                )
                for files in (self._was, self._other)
            ]
            self._declared = declared[0], declared[1]
        table = carried(lived, *self._declared)
        self._maps(lived, table)
        site = rebuilt.head.site
        if site not in table.site_index:
            self.asker = None
            return
        if record.flags & form.FRESH or self.asker is None or not self.load.adopt(table):
            workers = rebuilt.head.workers
            own = np.zeros((workers, max(rebuilt.head.offers_max, len(table.offers))), OWN_DTYPE)
            self.load = Load(table, own=own, worker=rebuilt.head.worker)
            self._idle(table)
        self.asker = Asker(table, table.site_index[site])

    def _maps(self, lived: Table, table: Table) -> None:
        self._sites = [table.site_index.get(site.id, -1) for site in lived.meta.sites]
        self._services = [table.service_index.get(s.id, -1) for s in lived.meta.services]
        self._offers = [table.offer_index.get(key, -1) for key in lived.meta.offers]
        rows = dict(_rows(table))
        self._subjects = [0] * len(lived.subjects)
        for who, row in _rows(lived):
            # Keys of equal rights share a row: it means something as long as one of them is left.
            self._subjects[row] = rows.get(who, 0) or self._subjects[row]
        known = set(lived.meta.offers)
        self._new: dict[int, list[tuple[int, float]]] = {}
        for offer, key in enumerate(table.meta.offers):
            if key not in known:
                row = table.offers[offer]
                self._new.setdefault(int(row["site"]), []).append((offer, float(row["replicas"])))
        placed = table.offers["replicas"].astype(np.float64)
        before = [float(lived.offers[o]["replicas"]) for o in range(len(lived.offers))]
        self._more = [placed[o] - before[i] if o >= 0 else 0.0 for i, o in enumerate(self._offers)]
        """Replicas of an offer beyond those of the table that was in force."""

    def _idle(self, table: Table) -> None:
        """Sites that never were, and so never tell: fresh for ever, with every replica alive."""
        lived = set(self._sites)
        for site in range(len(table.sites)):
            if site not in lived:
                self.load.sites[site]["sampled_at_s"] = np.inf
        for offers in self._new.values():
            for offer, replicas in offers:
                self.load.offers[offer]["replicas"] = replicas

    # --- what was heard and counted

    def _heard(self, record: Record, rebuilt: Rebuilt) -> None:
        site, now_s, age_s, rows = form.heard_of(record)
        there = self._sites[site]
        if there < 0:
            return
        told: list[tuple[int, float, float, float, float, float]] = []
        for offer, replicas, *rest in rows:
            known = self._offers[offer]
            if known >= 0:
                alive = max(0.0, replicas + self._more[offer]) if replicas > 0 else 0.0
                told.append((known, alive, rest[0], rest[1], rest[2], rest[3]))
        told += [
            (offer, replicas, 0.0, 0.0, 0.0, 0.0) for offer, replicas in self._new.get(there, ())
        ]
        power_ok = gate_of_flags(record.flags)
        self.load.heard(there, now_s, age_s=age_s, power_ok=power_ok, offers=told)

    def _lost(self, record: Record, rebuilt: Rebuilt) -> None:
        site = self._sites[form.SITE_FORM.unpack_from(record.raw)[3]]
        if site >= 0:
            self.load.lost(site)

    def _counted(self, record: Record, rebuilt: Rebuilt) -> None:
        _, _, _, offer, prefill, tokens = form.COUNTED_FORM.unpack_from(record.raw)
        count = loads.begin if record.kind == form.BEGIN else loads.end
        if self._offers[offer] >= 0:
            count(self.load.own, self.load.worker, self._offers[offer], prefill, tokens)

    def _first_byte(self, record: Record, rebuilt: Rebuilt) -> None:
        _, _, _, offer, prefill = form.FIRST_FORM.unpack_from(record.raw)
        if self._offers[offer] >= 0:
            loads.first_byte(self.load.own, self.load.worker, self._offers[offer], prefill)

    def _arrived(self, record: Record, rebuilt: Rebuilt) -> None:
        _, _, _, service, workers, now_s = form.ARRIVED_FORM.unpack_from(record.raw)
        if self._services[service] >= 0:
            loads.arrived(self.load.services, self._services[service], workers, now_s)

    def _ratio(self, record: Record, rebuilt: Rebuilt) -> None:
        _, _, _, offer, ttft_ratio, tpot_ratio = form.RATIO_FORM.unpack_from(record.raw)
        if self._offers[offer] >= 0:
            loads.observed(self.load.offers, self._offers[offer], ttft_ratio, tpot_ratio)

    def _own(self, record: Record, rebuilt: Rebuilt) -> None:
        for row in form.rows_of(record, form.OWN_ROW):
            offer = self._offers[row["offer"]]
            if offer >= 0:
                figures = row["requests"], row["tokens"], row["prefill_tokens"]
                self.load.own[row["worker"], offer] = figures


def _rows(table: Table) -> Iterator[tuple[tuple[str, str, str], int]]:
    """((key id, class, country), subject row) of every key."""
    for meta in table.meta.keys.values():
        for data_class, countries in meta.subjects.items():
            for country, row in countries.items():
                yield (meta.id, data_class, country), row


def carried(lived: Table, was: Table, other: Table) -> Table:
    """The other fleet's table, with the lived figure wherever the two fleets declare the same."""
    arrays = dict(other.arrays)
    arrays["sites"] = _figures(
        lived.sites, was.sites, other.sites, lived.site_index, was.site_index, other.site_index
    )
    arrays["services"] = _figures(
        lived.services,
        was.services,
        other.services,
        lived.service_index,
        was.service_index,
        other.service_index,
    )
    arrays["offers"] = _figures(
        lived.offers, was.offers, other.offers, lived.offer_index, was.offer_index, other.offer_index,
        ("site", "service", "variant"),
    )  # fmt: skip
    stale_s = other.meta.heard_stale_s
    if stale_s == was.meta.heard_stale_s:
        stale_s = lived.meta.heard_stale_s
    meta = msgspec.structs.replace(
        other.meta,
        issued_at_s=lived.meta.issued_at_s,
        valid_until_s=lived.meta.valid_until_s,
        heard_stale_s=stale_s,
    )
    return Table(meta, arrays)


def _figures(
    lived: NDArray[Any], was: NDArray[Any], other: NDArray[Any], lived_at: dict[str, int],
    was_at: dict[str, int], other_at: dict[str, int], names: tuple[str, ...] = (),
) -> NDArray[Any]:  # fmt: skip
    """`names` are columns that point to another axis and stay the other fleet's."""
    found = other.copy()
    for key, at in other_at.items():
        if key in lived_at and key in was_at:
            for column in other.dtype.names or ():
                if column not in names and other[at][column] == was[was_at[key]][column]:
                    found[at][column] = lived[lived_at[key]][column]
    return found
