"""A site's energy books: quarters of an hour, drawn up from its meters and from what the records of its requests say.

Here: `ChargeReader` (sealed records become Wh by quarter), `SiteBooks` (open quarters on disk, finished ones in the evidence).
Not here: the arithmetic (`energy.ledger`), what a request is charged (`live.gateway.measured`), sealing and shipping.

A request is charged where it ran, by the record that says so and by no other count: at a serving site its own `ended`, at an entry
site the whole request's `ended` where an engine of that site gave the answer, or was the last to have it. A finished quarter is a record (`chain.Metered`) in a chain of
the agent's own, so that it is signed, shipped and kept as all evidence is. Open quarters, and how far records were read, lie in one
file that is replaced as a whole: after any crash each record counts once, and looks at the meters of a few seconds are missing,
which `seen_s` tells.

A quarter stays open for another one, for requests that began in it. What a longer one took before counts in the oldest open quarter.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from hanse import __version__
from hanse.energy.ledger import QUARTER_S, Look, Quarter, parts_of, spread
from hanse.live.evidence.chain import (
    OWN_WORKER,
    ChainWriter,
    Dropped,
    Ended,
    Executed,
    Metered,
    Opened,
    decode_record,
    scan_batches,
    scan_file,
)
from hanse.live.evidence.seal import SEALS_NAME, SealBody, SealPlace, SealReader, Segment
from hanse.live.facility.metering import EnergyAccount
from hanse.live.logline import log_line
from hanse.live.runtime import read_kept, replace_file
from hanse.units import MS_PER_S

FILE: Final = "books.msgpack"
KEEP_EVERY_S: Final = 5.0
"""What a crash may lose of the looks; the accounts of meters are written as often."""
OPEN_S: Final = QUARTER_S
"""After its end a quarter waits so long for requests that began in it."""
LOOK_S_MAX: Final = 10.0
"""A pause between looks that is longer (a suspended machine) is not looked at: it counts in no quarter."""
RUNNING_MAX: Final = 100_000
"""Requests that run here at once and whose end has yet to come; some 3 MB."""
_ENDED, _EXECUTED = b"\xa5ended", b"\xa8executed"


class Kept(msgspec.Struct, kw_only=True):
    """The file."""

    place: SealPlace = SealPlace()
    """In the seal log: records that are under seals before it were read."""
    quarters: list[Quarter] = []
    running: dict[bytes, int] = {}
    """Requests that entered here and that an engine here has: the attempt, by id."""
    accounts: dict[str, tuple[float, float]] = {}
    """Meter -> (Wh, gap s) of its account as last seen."""
    looked_at_s: float = 0.0


class Place(NamedTuple):
    """Where a record stands."""

    chain: str
    seq: int


class Charge(NamedTuple):
    """What requests of one method were charged in one quarter."""

    start_s: float
    method: str
    wh: float
    ended: int


class Read(NamedTuple):
    """What some seals cover, and the reader's place after them."""

    charges: list[Charge]
    place: SealPlace
    running: dict[bytes, int]


class ChargeReader:
    """Reads sealed stretches of a site's chains; in a thread of its own, and alone there."""

    def __init__(self, directory: Path, site: str, kept: Kept) -> None:
        self._directory = directory
        self._site = site
        self._log = SealReader(directory / SEALS_NAME, kept.place)
        self._running = dict(kept.running)

    def start_at(self, place: SealPlace) -> None:
        """Read nothing before."""
        self._log = SealReader(self._log.path, place)

    def read(self) -> Read:
        """Charges of the records that new seals cover, and of those sealed while nobody read; each seal once."""
        made: dict[tuple[float, str], list[float]] = {}
        for entry in self._log:
            self._read(entry.body, made)
        if self._log.flaw is not None:
            log_line(f"energy books: {self._log.flaw}")
        while len(self._running) > RUNNING_MAX:
            del self._running[next(iter(self._running))]
        charges = [Charge(start_s, how, wh, int(n)) for (start_s, how), (wh, n) in made.items()]
        return Read(charges, self._log.place, dict(self._running))

    def _read(self, body: SealBody, made: dict[tuple[float, str], list[float]]) -> None:
        for segment in body.segments:
            if f"-{OWN_WORKER}-" not in segment.chain:
                self._read_segment(segment, made)

    def _read_segment(self, segment: Segment, made: dict[tuple[float, str], list[float]]) -> None:
        try:
            with (self._directory / f"{segment.chain}.log").open("rb") as file:
                file.seek(segment.bytes_start)
                data = file.read(segment.bytes_end - segment.bytes_start)
        except OSError as error:
            log_line(f"energy books: chain {segment.chain}: {error}: its charges are not counted")
            return
        for batch in scan_batches(data).batches:
            for raw in batch.raws:
                self._read_record(raw, made)

    def _read_record(self, raw: bytes, made: dict[tuple[float, str], list[float]]) -> None:
        # Most records are decisions: the tag stands behind one byte of array head.
        if not raw.startswith((_ENDED, _EXECUTED), 1):
            return
        record = decode_record(raw)
        if isinstance(record, Executed):
            if record.engine and record.entry_site == self._site:
                self._running[record.request_id] = record.attempt
        elif isinstance(record, Ended):
            ran_here = record.role == "serving"
            if record.role == "entry":
                attempt = self._running.pop(record.request_id, None)
                # Lost here and answered elsewhere: that site has it in its own books.
                ran_here = attempt is not None and record.attempt in (0, attempt)
            if ran_here:
                _add(record, made)


def _add(record: Ended, made: dict[tuple[float, str], list[float]]) -> None:
    method = record.method or "modelled"
    for start_s, share in spread(record.at_s, record.e2e_ms / MS_PER_S).items():
        found = made.setdefault((start_s, method), [0.0, 0.0])
        found[0] += record.energy_wh * share
    made[record.at_s // QUARTER_S * QUARTER_S, method][1] += 1


class SiteBooks:
    """The books of one site, in its agent."""

    def __init__(self, home: Path, site: str) -> None:
        """Go on from what lies in the site's directory."""
        self._home = home
        self._site = site
        self._directory = home / "evidence"
        self._chain: ChainWriter | None = None
        known = read_kept(home / FILE, Kept)
        self._new = known is None
        self._kept = known or Kept()
        self._quarters = {q.start_s: q for q in self._kept.quarters}
        self.reader = ChargeReader(self._directory, site, self._kept)
        own = [r for r in own_records(self._directory) if isinstance(r, Metered)]
        self._closed_s = max((q.start_s for q in own), default=0.0)
        for start_s in [s for s in self._quarters if s <= self._closed_s]:
            del self._quarters[start_s]  # it was written, and the crash came before this was noted
        self._kept_at_s = float("-inf")

    def start_at(self, place: SealPlace) -> None:
        """Where no books were kept before, they begin here: nobody looked at meters when older records were written."""
        if self._new:
            self.reader.start_at(place)
            self._kept.place = place

    def quarters(self) -> list[Quarter]:
        """Those that are open, oldest first."""
        return [self._quarters[start_s] for start_s in sorted(self._quarters)]

    def look(self, seen: Look, now_s: float) -> None:
        """The site as it was since the last look."""
        last_s, self._kept.looked_at_s = self._kept.looked_at_s, now_s
        if not 0.0 < now_s - last_s <= LOOK_S_MAX:
            return
        for start_s, share in spread(now_s, now_s - last_s).items():
            self._open(start_s).look(seen, (now_s - last_s) * share)

    def count(self, accounts: Sequence[EnergyAccount], now_s: float) -> None:
        """What meters have counted since they were last asked."""
        for account in accounts:
            kind = account.meter.measures
            if kind not in ("site", "it"):
                continue
            before = self._kept.accounts.get(account.meter.id)
            self._kept.accounts[account.meter.id] = (account.wh, account.gap_s)
            if before is None or account.wh < before[0]:
                continue  # a new meter, or an account that began anew
            added_wh, gap_s = account.wh - before[0], max(account.gap_s - before[1], 0.0)
            if added_wh > 0.0 or gap_s > 0.0:
                start_s = now_s // QUARTER_S * QUARTER_S
                self._open(start_s).count("it" if kind == "it" else "site", added_wh, gap_s)

    def charge(self, read: Read, pue: float) -> None:
        """What records say; `pue` of the table in force, by which they were charged."""
        for one in read.charges:
            self._open(one.start_s).charge(one.method, one.wh, max(pue, 1.0), one.ended)
        self._kept.place, self._kept.running = read.place, read.running

    def close_due(self, now_s: float) -> list[Metered]:
        """Draw up and write quarters that are over; keep the rest now and then.

        Raises:
            SiteError: the disk took not all of it; the quarter is drawn up at the next call.
        """
        done = []
        for quarter in self.quarters():
            if now_s < quarter.start_s + QUARTER_S + OPEN_S:
                break
            record = metered(self._site, quarter, now_s)
            self._append(record)
            self._closed_s = quarter.start_s
            del self._quarters[quarter.start_s]
            done.append(record)
        if done or now_s - self._kept_at_s >= KEEP_EVERY_S:
            self.keep(now_s)
        return done

    def drop(self, record: Dropped) -> Place:
        """Say that a chain is deleted by rule, before it is; where that stands.

        Raises:
            SiteError: the disk took not all of it; nothing may be deleted.
        """
        return self._append(record)

    def keep(self, now_s: float) -> None:
        """Write what is open, as a whole."""
        self._kept_at_s = now_s
        self._kept.quarters = self.quarters()
        replace_file(self._home / FILE, msgspec.msgpack.encode(self._kept))

    def close(self) -> None:
        """Nothing more is written."""
        if self._chain is not None:
            self._chain.close()

    def _open(self, start_s: float) -> Quarter:
        """The quarter, or the oldest that is open where that one is drawn up already."""
        if start_s <= self._closed_s:
            start_s = self._closed_s + QUARTER_S
        return self._quarters.setdefault(start_s, Quarter(start_s=start_s))

    def _append(self, record: Metered | Dropped) -> Place:
        if self._chain is None:
            self._chain = own_chain(self._directory, self._site, record.at_s)
        return Place(self._chain.chain, self._chain.append(record))


def metered(site: str, quarter: Quarter, now_s: float) -> Metered:
    """A quarter as a record."""
    parts = parts_of(quarter)
    return Metered(
        at_s=now_s,
        site=site,
        start_s=quarter.start_s,
        until_s=quarter.start_s + QUARTER_S,
        seen_s=quarter.seen_s,
        drawn_wh=parts.drawn_wh,
        drawn_method=parts.drawn_method,
        drawn_error_share=parts.drawn_error_share,
        it_wh=parts.it_wh,
        it_method=parts.it_method,
        it_error_share=parts.it_error_share,
        requests=quarter.requests,
        requests_wh=parts.requests_wh,
        requests_it_wh=parts.requests_it_wh,
        idle_wh=parts.idle_wh,
        overhead_wh=parts.overhead_wh,
        others_wh=parts.others_wh,
        missing_wh=parts.missing_wh,
        excess_wh=parts.excess_wh,
        carbon_g_per_kwh=quarter.factor("carbon_g_per_kwh"),
        market_g_per_kwh=quarter.factor("market_g_per_kwh"),
        marginal_g_per_kwh=quarter.factor("marginal_g_per_kwh"),
        price_usd_per_kwh=quarter.factor("price_usd_per_kwh"),
    )


def own_chain(directory: Path, site: str, now_s: float) -> ChainWriter:
    """A new chain of whoever keeps a site's evidence, beside those of its workers."""
    opened = Opened(
        at_s=now_s,
        site=site,
        worker=OWN_WORKER,
        boot=secrets.token_hex(8),
        software=__version__,
        table_version=0,
    )
    return ChainWriter(directory, opened)


def own_places(directory: Path) -> Iterator[tuple[Metered | Dropped, Place]]:
    """What earlier processes wrote to such chains, and where; a torn end is left out, damage is the audit's to find."""
    for path in sorted(directory.glob(f"*-{OWN_WORKER}-*.log")):
        for frame in scan_file(path).frames:
            try:
                record = decode_record(frame.raw)
            except ValueError:
                continue
            if isinstance(record, Metered | Dropped):
                yield record, Place(path.stem, frame.seq)


def own_records(directory: Path) -> Iterator[Metered | Dropped]:
    """The same without places."""
    return (record for record, _ in own_places(directory))
