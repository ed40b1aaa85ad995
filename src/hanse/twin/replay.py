"""The live gateway's decisions asked again of the twin's kernels, from the input log alone, compared bit for bit.

Here: `Rebuilt`, one worker's load, prefix table and engines made of its log; `replay`, the comparison. Not here: the log's form
(`dispatch.journal`), other fleets' answers (`what_if`).

Every choice, choice of an engine and prefix look-up of the log is made again with what the log says was known at that moment; result,
reason and every float must have the same bits. What was learned from answers is computed by the twin's own kernel (`load.learned`) and
compared with what the gateway computed. Every five seconds the log has a digest of the whole load, which must be that of the rebuilt
one. A damaged block is a mismatch, and the replay of that log ends there; an unfinished one at the end is what a kill leaves, and is
only counted.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from hanse.compiled import KERNEL
from hanse.dispatch import choose as kernels
from hanse.dispatch import journal as form
from hanse.dispatch import load as loads
from hanse.dispatch import prefix as prefixes
from hanse.dispatch.choose import OUT_COUNT
from hanse.dispatch.journal import KINDS, Choice, Journal, JournalHead, Record, read_journal
from hanse.dispatch.load import OWN_DTYPE, Load
from hanse.dispatch.reasons import Reason
from hanse.dispatch.router import NONE_CACHED, NONE_TRIED, candidate_offers, listed_offers
from hanse.dispatch.shed import gate_of_flags
from hanse.dispatch.table import Table
from hanse.errors import ConfigError
from hanse.model.fleet import Value

OUT_NAMES: Final = (
    "ttft_ms", "tpot_ms", "e2e_ms", "wh", "g", "usd", "cost_usd", "path_ms", "slo_missed",
    "requests", "tokens", "prefill_tokens", "cached_tokens", "batch",
)  # fmt: skip
COMPARED: Final = ("choice", "engine", "look_up", "learned", "check")


class Mismatch(Value, frozen=True, kw_only=True):
    """One record whose replay says something else."""

    file: str
    byte: int
    """Where the record begins in the file."""
    record: int
    """Its number, from 0."""
    kind: str
    logged: str
    replayed: str


class FileReplay(Value, frozen=True, kw_only=True):
    """One worker's log."""

    file: str
    site: str
    worker: int
    workers: int
    boot: str
    begun_at_s: float
    records: dict[str, int]
    """By kind."""
    compared: dict[str, int]
    """Of each of `COMPARED`: how many were made again."""
    mismatches: int
    first: Mismatch | None = None
    closed: bool
    """Ended by the worker itself; else it was killed or still runs."""
    full: bool
    cut_bytes: int
    """Of an unfinished block at the end."""


class Replayed(Value, frozen=True, kw_only=True):
    """All logs below a directory."""

    files: tuple[FileReplay, ...]

    @property
    def compared(self) -> dict[str, int]:
        """Sums over the files."""
        return {kind: sum(file.compared[kind] for file in self.files) for kind in COMPARED}

    @property
    def mismatches(self) -> int:
        """Sum over the files."""
        return sum(file.mismatches for file in self.files)


def journal_files(where: Path) -> list[Path]:
    """Logs at a path: a file, a directory with logs, or a league's state directory.

    Raises:
        ConfigError: there is none.
    """
    if where.is_file():
        return [where]
    found = sorted(where.glob("*.jnl")) or sorted(where.glob("sites/*/journal/*.jnl"))
    if not found:
        raise ConfigError(
            str(where), got="no *.jnl there", allowed="a log, a folder of logs, or a state directory",
            fix="start the league with `hanse up FLEET --record`",
        )  # fmt: skip
    return found


def open_journal(path: Path) -> Journal:
    """A log as it is now, mapped: it may be larger than memory.

    Raises:
        ConfigError: it is none.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        raw = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
    return read_journal(memoryview(raw), str(path))


def replay(where: Path) -> Replayed:
    """Replay every log at a path.

    Raises:
        ConfigError: no log, or a table of one is missing beside it.
    """
    return Replayed(files=tuple(replay_file(path) for path in journal_files(where)))


def replay_file(path: Path) -> FileReplay:
    """Replay one log."""
    journal = open_journal(path)
    rebuilt = Rebuilt(journal.head, table_reader(path.parent))
    checked = _Checked(path.name, rebuilt)
    for number, record in enumerate(journal.records()):
        checked.take(number, record)
    if journal.damaged_at >= 0:
        nothing = Record(0, 0, memoryview(b""), journal.damaged_at)
        checked.differs(
            -1, nothing, "a block with its checksum", "other bytes; not replayed from here on"
        )
    head = journal.head
    return FileReplay(
        file=str(path),
        site=head.site,
        worker=head.worker,
        workers=head.workers,
        boot=head.boot,
        begun_at_s=head.opened_at_s,
        records={KINDS[kind]: count for kind, count in sorted(checked.counts.items())},
        compared={kind: checked.compared[kind] for kind in COMPARED},
        mismatches=checked.mismatches,
        first=checked.first,
        closed=checked.closed,
        full=checked.full,
        cut_bytes=journal.cut_bytes,
    )


def table_reader(directory: Path) -> Callable[[bytes], Table]:
    """Tables that lie beside the logs, by digest."""
    known: dict[bytes, Table] = {}

    def read(digest: bytes) -> Table:
        if digest not in known:
            path = directory / f"{digest.hex()}.tbl"
            try:
                raw = path.read_bytes()
            except OSError as error:
                raise ConfigError(
                    str(path),
                    got=error.strerror or str(error),
                    allowed="the table that the log names",
                ) from error
            if form.table_digest(raw) != digest:
                raise ConfigError(
                    str(path), got="other bytes than its name says", allowed="the table as it was"
                )
            known[digest] = Table.from_bytes(raw)
        return known[digest]

    return read


@njit(**KERNEL)
def ask(
    table: Any, lists: Any, load: Any, service: int, subject: int, origin: int, request: Any, now_s: float,
    valid_until_s: float, heard_stale_s: float, tried: Any, cached: Any, out: Any,
) -> int:  # fmt: skip
    """`choose` from compiled code, as `twin.gateway` calls it."""
    chosen: int = kernels.choose(
        table, lists, load, service, subject, origin, request, now_s, valid_until_s, heard_stale_s,
        tried, cached, out,
    )  # fmt: skip
    return chosen


class Asker:
    """A table as seen from one site, ready to be asked."""

    def __init__(self, table: Table, origin: int) -> None:
        self.table, self.origin = table, origin
        self.arrays = (
            table.offers, table.sites, table.services, table.subjects, table.paths_from(origin), table.law,
        )  # fmt: skip
        listed, first = listed_offers(table)
        self.lists = candidate_offers(table, self.arrays, listed, first), listed, first
        self.out: NDArray[np.float64] = np.zeros(OUT_COUNT)

    def ask(self, load: Load, choice: Choice) -> int:
        """The choice made again; `out` has its row where one was chosen."""
        tried = NONE_TRIED
        if choice.tried:
            tried = NONE_TRIED.copy()
            tried[: len(choice.tried)] = choice.tried
        held = NONE_CACHED if choice.cached is None else choice.cached
        for index, axis in (
            (choice.service, self.table.services),
            (choice.subject, self.table.subjects),
        ):
            if not 0 <= index < len(axis):
                raise IndexError(f"service {choice.service}, subject {choice.subject}")
        meta = self.table.meta
        chosen: int = ask(
            self.arrays, self.lists, (load.offers, load.sites, load.services, load.own), choice.service,
            choice.subject, self.origin, choice.request, choice.now_s, meta.valid_until_s, meta.heard_stale_s,
            tried, held, self.out,
        )  # fmt: skip
        return chosen


class Rebuilt:
    """What one worker knew, made of its log record by record."""

    load: Load
    asker: Asker

    def __init__(self, head: JournalHead, table_of: Callable[[bytes], Table]) -> None:
        self.head = head
        self.engines = head.engines
        """(service, variant) by row, as of now."""
        self.table: Table | None = None
        self._table_of = table_of
        self.executing = np.zeros((head.workers, head.engines_max), OWN_DTYPE)
        tables = [np.zeros(head.prefix_slots, prefixes.PREFIX_DTYPE) for _ in range(2)]
        self.prefixes = [(slots, prefixes.first_trust(prefixes.HOLDERS_MAX)) for slots in tables]
        """Slots and trust: of sites, of this site's engines."""
        self.names: dict[int, str] = {}
        self._scratch = np.zeros(1, loads.LOAD_OFFER_DTYPE)
        self._apply: dict[int, Callable[[Record], None]] = {
            form.TABLE: self._take_table,
            form.SEATS: self._seats,
            form.HEARD: self._heard,
            form.LOST: self._lost,
            form.BEGIN: self._begin,
            form.ARRIVED: self._arrived,
            form.FIRST_BYTE: self._first_byte,
            form.END: self._end,
            form.RATIO: self._ratio,
            form.OWN: self._own,
            form.EXECUTING: self._executing,
            form.SLOTS: self._slots,
            form.REMEMBER: self._remember,
            form.FORGET: self._forget,
            form.PROVED: self._proved,
            form.NAME: self._name,
        }

    def apply(self, record: Record) -> None:
        """Take in one event; records that only say what was decided change nothing."""
        known = self._apply.get(record.kind)
        if known is not None:
            known(record)

    def follow(self, record: Record) -> None:
        """Take in tables and names only."""
        if record.kind == form.TABLE:
            self.table = self._table_of(form.TABLE_FORM.unpack_from(record.raw)[4])
        elif record.kind == form.NAME:
            self._name(record)

    # --- decisions

    def engine(self, record: Record) -> int:
        """The choice of an engine made again."""
        offer, tokens_in, tokens_out, usable, _, held = form.engine_of(record)
        count = len(self.engine_offer)
        states = np.array([(usable >> at) & 1 for at in range(count)], np.int64)
        chosen: int = kernels.choose_engine(
            self.engine_offer,
            self.requests_max,
            self.tokens_max,
            states,
            self.executing,
            self.asker.table.offers,
            self._within(offer),
            tokens_in,
            tokens_out,
            NONE_CACHED if held is None else held,
        )
        return chosen

    def look_up(self, record: Record) -> NDArray[np.int64]:
        """The look-up made again."""
        now_s = form.LOOK_UP_FORM.unpack_from(record.raw)[3]
        digests, tokens = form.digests_of(record)
        cached = np.full((kernels.CACHED_MAX, 2), -1, np.int64)
        slots, trust = self._table_of_prefixes(record)
        prefixes.look_up(slots, digests, tokens, len(digests), now_s, trust, cached)
        return cached

    def learned(self, record: Record) -> bytes:
        """The corrections that the twin's kernel would make of an answer, as bytes; nothing is changed."""
        f = form.LEARNED_FORM.unpack_from(record.raw)
        self._scratch[0] = self.load.offers[f[3]]
        loads.learned(self._scratch, 0, *f[4:])
        return self.factors(self._scratch, 0)

    @staticmethod
    def factors(offers: NDArray[np.void], offer: int) -> bytes:
        """The two corrections of an offer, as bytes."""
        row = offers[offer]
        return struct.pack("<2d", row["ttft_factor"], row["tpot_factor"])

    # --- events

    def _take_table(self, record: Record) -> None:
        digest = form.TABLE_FORM.unpack_from(record.raw)[4]
        table = self._table_of(digest)
        if record.flags & form.FRESH:
            own = np.zeros((self.head.workers, self.head.offers_max), OWN_DTYPE)
            self.load = Load(table, own=own, worker=self.head.worker)
        elif not self.load.adopt(table):
            raise ValueError("the gateway went on with its load, the replay cannot")
        self.table = table
        self.asker = Asker(table, table.site_index[self.head.site])
        self._engine_arrays(table)

    def _engine_arrays(self, table: Table) -> None:
        count = len(self.engines)
        self.engine_offer = np.full(count, -1, np.int64)
        self.requests_max, self.tokens_max = np.zeros(count), np.zeros(count)
        for engine, (service, variant) in enumerate(self.engines):
            offer = table.offer_index.get(f"{self.head.site}/{service}/{variant}", -1)
            if offer >= 0:
                self.engine_offer[engine] = offer
                self.requests_max[engine] = table.offers[offer]["requests_max"]
                self.tokens_max[engine] = table.offers[offer]["tokens_max"]

    def _seats(self, record: Record) -> None:
        raw = record.raw[form.BARE_FORM.size :]
        self.engines = msgspec.msgpack.decode(raw, type=tuple[tuple[str, str], ...])
        if self.table is not None:
            self._engine_arrays(self.table)

    def _heard(self, record: Record) -> None:
        site, now_s, age_s, rows = form.heard_of(record)
        power_ok = gate_of_flags(record.flags)
        taken = self.load.heard(site, now_s, age_s=age_s, power_ok=power_ok, offers=rows)
        if taken != bool(record.flags & form.TAKEN):
            raise ValueError(f"a frame that was {'dropped' if taken else 'taken'}")

    def _within(self, offer: int) -> int:
        """Kernels do not look whether an index is one."""
        if not 0 <= offer < len(self.load.offers):
            raise IndexError(f"offer {offer} of {len(self.load.offers)}")
        return offer

    def _lost(self, record: Record) -> None:
        self.load.lost(form.SITE_FORM.unpack_from(record.raw)[3])

    def _begin(self, record: Record) -> None:
        f = form.COUNTED_FORM.unpack_from(record.raw)
        loads.begin(self.load.own, self.head.worker, self._within(f[3]), *f[4:])

    def _end(self, record: Record) -> None:
        f = form.COUNTED_FORM.unpack_from(record.raw)
        loads.end(self.load.own, self.head.worker, self._within(f[3]), *f[4:])

    def _first_byte(self, record: Record) -> None:
        f = form.FIRST_FORM.unpack_from(record.raw)
        loads.first_byte(self.load.own, self.head.worker, self._within(f[3]), f[4])

    def _arrived(self, record: Record) -> None:
        _, _, _, service, workers, now_s = form.ARRIVED_FORM.unpack_from(record.raw)
        if not 0 <= service < len(self.load.services):
            raise IndexError(f"service {service} of {len(self.load.services)}")
        loads.arrived(self.load.services, service, workers, now_s)

    def _ratio(self, record: Record) -> None:
        f = form.RATIO_FORM.unpack_from(record.raw)
        loads.observed(self.load.offers, self._within(f[3]), f[4], f[5])

    def _own(self, record: Record) -> None:
        for row in form.rows_of(record, form.OWN_ROW):
            self.load.own[row["worker"], row["offer"]] = (
                row["requests"],
                row["tokens"],
                row["prefill_tokens"],
            )

    def _executing(self, record: Record) -> None:
        for row in form.rows_of(record, form.EXECUTING_ROW):
            self.executing[row["worker"], row["engine"]] = (
                row["requests"],
                row["tokens"],
                row["prefill_tokens"],
            )

    def _slots(self, record: Record) -> None:
        slots, _ = self._table_of_prefixes(record)
        for row in form.rows_of(record, form.SLOT_ROW):
            slots[row["slot"]] = (row["digest"], row["site"], row["tokens"], row["at_s"])

    def _remember(self, record: Record) -> None:
        _, _, _, now_s, _, site = form.REMEMBER_FORM.unpack_from(record.raw)
        digests, tokens = form.digests_of(record)
        slots, _ = self._table_of_prefixes(record)
        prefixes.remember(slots, digests, tokens, len(digests), site, now_s)

    def _forget(self, record: Record) -> None:
        slots, _ = self._table_of_prefixes(record)
        prefixes.forget(slots, form.SITE_FORM.unpack_from(record.raw)[3])

    def _proved(self, record: Record) -> None:
        _, trust = self._table_of_prefixes(record)
        holder, packed, found_tokens = form.COUNTED_FORM.unpack_from(record.raw)[3:]
        if not 0 <= holder < len(trust) or packed < 0 or found_tokens < 0:
            raise IndexError(f"holder {holder}, believed {packed}, found {found_tokens}")
        prefixes.proved(trust, holder, packed, found_tokens)

    def _table_of_prefixes(self, record: Record) -> tuple[NDArray[Any], NDArray[Any]]:
        return self.prefixes[1 if record.flags & form.ENGINES else 0]

    def _name(self, record: Record) -> None:
        number, name = form.name_of(record)
        self.names[number] = name


class _Checked:
    """The comparison of one log."""

    def __init__(self, file: str, rebuilt: Rebuilt) -> None:
        self.rebuilt = rebuilt
        self.counts: Counter[int] = Counter()
        self.compared: Counter[str] = Counter()
        self.mismatches = 0
        self.first: Mismatch | None = None
        self.closed = self.full = False
        self._file = file
        self._due: tuple[int, Record, int, bytes] | None = None
        """(number, record, offer, corrections) of LEARNED, to be those after the RATIO that follows."""
        self._compare: dict[int, Callable[[int, Record], None]] = {
            form.CHOICE: self._choice,
            form.ENGINE: self._engine,
            form.LOOK_UP: self._look_up,
            form.LEARNED: self._learned,
            form.RATIO: self._ratio,
            form.CHECK: self._check,
            form.CLOSED: self._closed,
        }

    def take(self, number: int, record: Record) -> None:
        """Apply and compare one record; one that makes no sense is a mismatch, never an end of the replay."""
        self.counts[record.kind] += 1
        compare = self._compare.get(record.kind)
        try:
            self.rebuilt.apply(record)
            if compare is not None:
                compare(number, record)
        except (
            ValueError,
            IndexError,
            KeyError,
            AttributeError,
            AssertionError,
            struct.error,
        ) as error:
            self.differs(number, record, KINDS[record.kind], f"{type(error).__name__}: {error}")

    def differs(self, number: int, record: Record, logged: str, replayed: str) -> None:
        """Count a mismatch, and keep the first."""
        self.mismatches += 1
        if self.first is None:
            kind = KINDS[record.kind] or "block"
            self.first = Mismatch(
                file=self._file,
                byte=record.at,
                record=number,
                kind=kind,
                logged=logged,
                replayed=replayed,
            )

    def _same(self, number: int, record: Record, logged: Any, replayed: Any) -> None:
        self.compared[KINDS[record.kind]] += 1
        if logged != replayed:
            self.differs(number, record, str(logged), str(replayed))

    def _choice(self, number: int, record: Record) -> None:
        choice, asker = form.choice_of(record), self.rebuilt.asker
        result = asker.ask(self.rebuilt.load, choice)
        out = asker.out.tobytes() if result >= 0 else b""
        self.compared["choice"] += 1
        if result != choice.result or out != choice.out:
            table = asker.table
            self.differs(
                number, record, _said(table, choice.result, choice.out), _said(table, result, out)
            )

    def _engine(self, number: int, record: Record) -> None:
        logged = form.engine_of(record)[4]
        self._same(number, record, logged, self.rebuilt.engine(record))

    def _look_up(self, number: int, record: Record) -> None:
        raw = form.LOOK_UP_FORM.unpack_from(record.raw)[5]
        logged = np.frombuffer(raw, np.int64).tolist()
        self._same(number, record, logged, self.rebuilt.look_up(record).ravel().tolist())

    def _learned(self, number: int, record: Record) -> None:
        offer = form.LEARNED_FORM.unpack_from(record.raw)[3]
        self._due = number, record, offer, self.rebuilt.learned(record)

    def _ratio(self, number: int, record: Record) -> None:
        due, self._due = self._due, None
        if due is not None:
            then, learned, offer, factors = due
            live = self.rebuilt.factors(self.rebuilt.load.offers, offer)
            said = [f"corrections {struct.unpack('<2d', raw)}" for raw in (live, factors)]
            self._same(then, learned, *said)

    def _check(self, number: int, record: Record) -> None:
        logged = form.CHECK_FORM.unpack_from(record.raw)[4].hex()
        self._same(
            number, record, f"load {logged}", f"load {form.load_digest(self.rebuilt.load).hex()}"
        )

    def _closed(self, number: int, record: Record) -> None:
        self.closed, self.full = True, bool(record.flags & form.FULL)


def _said(table: Table, result: int, out: bytes) -> str:
    if result >= 0:
        name = table.meta.offers[result] if result < len(table.meta.offers) else f"offer {result}"
        figures = zip(OUT_NAMES, struct.unpack(f"<{OUT_COUNT}d", out), strict=True)
        return f"{name} " + " ".join(f"{key}={value!r}" for key, value in figures)
    return Reason(result).name if result in set(Reason) else f"reason {result}"


def records_with_state(path: Path, *, whole: bool = True) -> Iterator[tuple[Record, Rebuilt]]:
    """Every record of a log with what was known when it was written, that record included.

    Args:
        path: The log.
        whole: Whether load, engines and prefixes are wanted; else only tables and names are followed, which is much quicker.
    """
    journal = open_journal(path)
    rebuilt = Rebuilt(journal.head, table_reader(path.parent))
    for record in journal.records():
        if whole:
            rebuilt.apply(record)
        else:
            rebuilt.follow(record)
        yield record, rebuilt
