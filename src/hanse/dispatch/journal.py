"""The ordered input log of one gateway worker: all that its decisions were made of, and what they were.

Here: the form of the log, `Recorder`, which packs events into a buffer that is made once, and `read_journal`. Not here: files
(`live.gateway.journal` writes them, `twin.replay` reads them), what the events mean (`load`, `choose`, `prefix`).

    file   = MAGIC, length of the head (u32), head (msgpack `JournalHead`), blocks
    block  = length of the records (u32), their CRC-32 (u32), records; one write each, so a killed process leaves whole blocks
    record = kind (u8), flags (u8), its whole size in bytes (u16), then the fields of its kind; little endian, unpadded

| kind | bytes | fields |
|---|---|---|
| TABLE | 28 | instant f8, digest of the table's bytes 16; flag FRESH: a new `Load` was made, else the load went on |
| HEARD | 24 + 44 an offer | site i4, instant f8, age f8; offer i4, replicas, requests, tokens, prompt tokens, rate f8; flags POWER_OK, TAKEN; above them what the site itself sheds |
| LOST | 8 | site i4 |
| BEGIN, END | 24 | offer i4, prompt tokens i8, tokens i8 |
| ARRIVED | 24 | service i4, workers f8, instant f8 |
| FIRST_BYTE | 16 | offer i4, prompt tokens i8 |
| RATIO | 24 | offer i4, observed over predicted: TTFT f8, TPOT f8 |
| LEARNED | 56 | offer i4, predicted TTFT, TPOT, path f8, observed TTFT, E2E f8, answer tokens i8; its RATIO follows |
| OWN | 4 + 32 a row | worker i4, offer i4, requests, tokens, prompt tokens i8: rows of other workers that changed |
| EXECUTING | 4 + 32 a row | worker i4, engine i4, requests, tokens, prompt tokens i8: rows that changed |
| CHOICE | 60, 112, 64, 4 a try | service, subject, result i4, tries i4, request 4 f8, instant f8; flag CHOSEN: columns `OUT_*`; HELD: `cached` |
| ENGINE | 36, 64 | offer i4, tokens in, out f8, states u64 (bit: engine may be used), result i4; flag HELD: `cached`, of engines |
| SLOTS | 4 + 32 a slot | slot u4, site i4, digest u8, tokens i4, 4 empty, at f8: prefix slots that other workers changed |
| LOOK_UP | 80 + 12 a digest | instant f8, count i4, `cached` 64, digests u8, tokens i4 |
| REMEMBER | 20 + 12 a digest | instant f8, count i4, site i4, digests u8, tokens i4 |
| FORGET | 8 | site i4 |
| PROVED | 24 | site i4, what was believed i8 (`prefix.believed`), tokens found i8 |
| NAME | 6 + text | number u2; a tenant, class or country that ENDED speaks of |
| ENDED | 100 | a request as it ended, see `Ended` |
| CHECK | 28 | instant f8, digest of the whole load 16 |
| SEATS | 4 + msgpack | [(service, variant)] of the site's engines by row, from here on; empty names: nobody sits there |
| CLOSED | 4 | flag FULL: the log reached its limit and the worker went on without |

SLOTS, LOOK_UP, REMEMBER, FORGET and PROVED with flag ENGINES are of the table of this site's engines: "site" is an engine there.
No text of a request, no key and no body is in it; digests of prompts are keyed by a secret that is not.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import numpy as np

from hanse.dispatch.choose import CACHED_MAX, OUT_COUNT, TRIED_MAX
from hanse.dispatch.prefix import DIGESTS_MAX
from hanse.dispatch.shed import flags_of_gate
from hanse.errors import ConfigError
from hanse.model import versions
from hanse.model.fleet import Value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hanse.dispatch.load import Load
    from hanse.dispatch.prefix import Prefixes

MAGIC, BLOCK = versions.INPUT_LOG.now.encode(), Struct("<II")
HEAD_AT: Final = len(MAGIC) + 4
BUFFER_BYTES: Final = 256 * 1024
"""Some 400 requests; written at every tick of 20 ms, and earlier where it is full."""
RECORD_BYTES_MAX: Final = 65_535
FULL_AT: Final = BUFFER_BYTES - RECORD_BYTES_MAX
"""From here on the next record might not fit any more."""
DIGEST_BYTES: Final = 16
OUT_BYTES: Final = OUT_COUNT * 8
CACHED_BYTES: Final = CACHED_MAX * 16

TABLE, HEARD, LOST, BEGIN, ARRIVED, FIRST_BYTE, END, RATIO, LEARNED, OWN = range(1, 11)
EXECUTING, CHOICE, ENGINE, SLOTS, LOOK_UP, REMEMBER, FORGET, NAME, ENDED, CHECK, CLOSED = range(
    11, 22
)
PROVED, SEATS = 22, 23
KINDS: Final = (
    "", "table", "heard", "lost", "begin", "arrived", "first_byte", "end", "ratio", "learned", "own",
    "executing", "choice", "engine", "slots", "look_up", "remember", "forget", "name", "ended", "check", "closed",
    "proved", "seats",
)  # fmt: skip
"""Names by kind."""

FRESH: Final = 1
POWER_OK, TAKEN = 1, 2
CHOSEN, HELD = 1, 2
ENGINES: Final = 1
"""Of prefix records: the table of engines."""
FULL: Final = 1
SERVING: Final = 1
"""Of ENDED: this site served it for another one; else it entered here."""

TABLE_FORM: Final = Struct("<BBHd16s")
HEARD_FORM: Final = Struct("<BBHidd")
OFFER_FORM: Final = Struct("<i5d")
SITE_FORM: Final = Struct("<BBHi")
COUNTED_FORM: Final = Struct("<BBHiqq")
ARRIVED_FORM: Final = Struct("<BBHidd")
FIRST_FORM: Final = Struct("<BBHiq")
RATIO_FORM: Final = Struct("<BBHidd")
LEARNED_FORM: Final = Struct("<BBHidddddq")
CHOICE_FORM: Final = Struct("<BBHiiii5d")
ENGINE_FORM: Final = Struct("<BBHiddQi")
LOOK_UP_FORM: Final = Struct("<BBHdi64s")
REMEMBER_FORM: Final = Struct("<BBHdii")
NAME_FORM: Final = Struct("<BBHH")
ENDED_FORM: Final = Struct("<BBH16siiHHHHi4dQiiiii")
CHECK_FORM: Final = Struct("<BBHd16s")
BARE_FORM: Final = Struct("<BBH")
_counted, _arrived, _first = COUNTED_FORM.pack_into, ARRIVED_FORM.pack_into, FIRST_FORM.pack_into
_ratio, _learned, _engine = RATIO_FORM.pack_into, LEARNED_FORM.pack_into, ENGINE_FORM.pack_into
_choice, _ended = CHOICE_FORM.pack_into, ENDED_FORM.pack_into
OWN_ROW: Final = np.dtype(
    [("worker", "<i4"), ("offer", "<i4"), ("requests", "<i8"), ("tokens", "<i8"), ("prefill_tokens", "<i8")]
)  # fmt: skip
EXECUTING_ROW: Final = np.dtype(
    [("worker", "<i4"), ("engine", "<i4"), ("requests", "<i8"), ("tokens", "<i8"), ("prefill_tokens", "<i8")]
)  # fmt: skip
SLOT_ROW: Final = np.dtype(
    [("slot", "<u4"), ("site", "<i4"), ("digest", "<u8"), ("tokens", "<i4"), ("empty", "<i4"), ("at_s", "<f8")]
)  # fmt: skip
OUTCOMES: Final = ("answered", "failed", "broken", "cancelled")
_OUTCOME_INDEX: Final = {outcome: i for i, outcome in enumerate(OUTCOMES)}


class JournalHead(Value, frozen=True, kw_only=True):
    """What a log says of itself."""

    site: str
    worker: int
    workers: int
    boot: str
    """Random; one file is of one start of one worker."""
    software: str
    opened_at_s: float
    offers_max: int
    """Columns of `Load.own`."""
    engines: tuple[tuple[str, str], ...]
    """(service, variant) of the site's engines, in their order."""
    engines_max: int
    prefix_slots: int


class Ended(NamedTuple):
    """A request as it ended at its entry site, or at the site that served it for another."""

    request_id: bytes
    service: int
    """Index in the table of that moment; -1 where it is not known here."""
    offer: int
    """Of the attempt that answered, else of the last; -1 none."""
    tenant: str
    data_class: str
    country: str
    outcome: str
    """One of `OUTCOMES`."""
    engine: int
    """Local engine of that attempt; -1 none, or another site's."""
    started_at_s: float
    began_at_s: float
    """Of that attempt; 0 none."""
    first_byte_at_s: float
    """Of a stream; 0 where only the whole answer was seen."""
    ended_at_s: float
    digest: int
    """Of the whole prompt, the last of its LOOK_UP; 0 none."""
    tokens_in: int
    tokens_out: int
    cached: int
    """Prompt tokens that the engine says it had."""
    attempts: int
    status: int
    serving: bool


class Recorder:
    """Packs records one after another; `write` gets a block at a time."""

    __slots__ = ("_view", "_write", "at", "buffer", "names")

    def __init__(self, write: Callable[[memoryview], None]) -> None:
        self.buffer = bytearray(BUFFER_BYTES)
        self._view = memoryview(self.buffer)
        self.at = BLOCK.size
        self._write = write
        self.names: dict[str, int] = {}

    def flush(self) -> int:
        """Hand on what there is; where the next record goes."""
        end = self.at
        if end > BLOCK.size:
            records = self._view[BLOCK.size : end]
            BLOCK.pack_into(self.buffer, 0, end - BLOCK.size, zlib.crc32(records))
            self.at = BLOCK.size
            self._write(self._view[:end])
        return self.at

    # Every record begins with the same two lines. As a function of their own they would cost as much as the packing.

    # --- load

    def table(self, digest: bytes, now_s: float, *, fresh: bool) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 28
        TABLE_FORM.pack_into(self.buffer, at, TABLE, fresh, 28, now_s, digest)

    def heard(
        self,
        site: int,
        now_s: float,
        age_s: float,
        rows: Sequence[tuple[int, float, float, float, float, float]],
        *,
        power_ok: int,
        taken: bool,
    ) -> None:
        size = HEARD_FORM.size + OFFER_FORM.size * len(rows)
        assert size <= RECORD_BYTES_MAX
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + size
        flags = flags_of_gate(power_ok) | (TAKEN if taken else 0)
        HEARD_FORM.pack_into(self.buffer, at, HEARD, flags, size, site, now_s, age_s)
        at += HEARD_FORM.size
        for row in rows:
            OFFER_FORM.pack_into(self.buffer, at, *row)
            at += OFFER_FORM.size

    def seats(self, engines: Sequence[tuple[str, str]]) -> None:
        content = msgspec.msgpack.encode(engines)
        at, size = self.at if self.at <= FULL_AT else self.flush(), BARE_FORM.size + len(content)
        self.at = at + size
        BARE_FORM.pack_into(self.buffer, at, SEATS, 0, size)
        self.buffer[at + BARE_FORM.size : self.at] = content

    def lost(self, site: int) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 8
        SITE_FORM.pack_into(self.buffer, at, LOST, 0, 8, site)

    def begin(self, offer: int, prefill_tokens: int, tokens: int) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 24
        _counted(self.buffer, at, BEGIN, 0, 24, offer, prefill_tokens, tokens)

    def end(self, offer: int, prefill_tokens: int, tokens: int) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 24
        _counted(self.buffer, at, END, 0, 24, offer, prefill_tokens, tokens)

    def arrived(self, service: int, workers: float, now_s: float) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 24
        _arrived(self.buffer, at, ARRIVED, 0, 24, service, workers, now_s)

    def first_byte(self, offer: int, prefill_tokens: int) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 16
        _first(self.buffer, at, FIRST_BYTE, 0, 16, offer, prefill_tokens)

    def ratio(self, offer: int, ttft_ratio: float, tpot_ratio: float) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 24
        _ratio(self.buffer, at, RATIO, 0, 24, offer, ttft_ratio, tpot_ratio)

    def learned(
        self,
        offer: int,
        predicted: tuple[float, float, float],
        ttft_ms: float,
        e2e_ms: float,
        tokens_out: int,
    ) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 56
        _learned(self.buffer, at, LEARNED, 0, 56, offer, *predicted, ttft_ms, e2e_ms, tokens_out)

    def rows(self, kind: int, raw: memoryview, row_bytes: int, flags: int = 0) -> None:
        """OWN, EXECUTING or SLOTS: whole rows, as bytes."""
        most = (RECORD_BYTES_MAX - BARE_FORM.size) // row_bytes * row_bytes
        for first in range(0, len(raw), most):
            part = raw[first : first + most]
            size = BARE_FORM.size + len(part)
            at = self.at if self.at <= FULL_AT else self.flush()
            self.at = at + size
            BARE_FORM.pack_into(self.buffer, at, kind, flags, size)
            self.buffer[at + BARE_FORM.size : at + size] = part

    # --- decisions

    def choice(
        self,
        service: int,
        subject: int,
        request: tuple[float, float, float, float],
        now_s: float,
        tried: list[int],
        cached: NDArray[np.int64] | None,
        chosen: int,
        out: memoryview,
    ) -> None:
        """`out` is the row `OUT_*` as bytes; it says nothing where nothing was chosen."""
        size, flags, count = 60, 0, 0
        if chosen >= 0:
            flags, size = CHOSEN, 60 + OUT_BYTES
        if cached is not None:
            flags, size = flags | HELD, size + CACHED_BYTES
        if tried:
            count = min(len(tried), TRIED_MAX)
            size += 4 * count
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + size
        buffer = self.buffer
        _choice(buffer, at, CHOICE, flags, size, service, subject, chosen, count, *request, now_s)
        at += 60
        if chosen >= 0:
            buffer[at : at + OUT_BYTES] = out
            at += OUT_BYTES
        if cached is not None:
            buffer[at : at + CACHED_BYTES] = cached.tobytes()
            at += CACHED_BYTES
        if count:
            buffer[at : at + 4 * count] = np.array(tried[-TRIED_MAX:], "<i4").tobytes()

    def engine(
        self,
        offer: int,
        tokens_in: float,
        tokens_out: float,
        states: int,
        engine: int,
        held: NDArray[np.int64] | None,
    ) -> None:
        flags, size = (0, 36) if held is None else (HELD, 36 + CACHED_BYTES)
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + size
        _engine(self.buffer, at, ENGINE, flags, size, offer, tokens_in, tokens_out, states, engine)
        if held is not None:
            self.buffer[at + 36 : at + size] = held.tobytes()

    # --- prefixes

    def look_up(
        self, prefixes: Prefixes, now_s: float, cached: NDArray[np.int64], flags: int = 0
    ) -> None:
        count = prefixes.count
        size = LOOK_UP_FORM.size + 12 * count
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + size
        LOOK_UP_FORM.pack_into(
            self.buffer, at, LOOK_UP, flags, size, now_s, count, cached.tobytes()
        )
        self._digests(at + LOOK_UP_FORM.size, prefixes)

    def remember(self, prefixes: Prefixes, site: int, now_s: float, flags: int = 0) -> None:
        count = prefixes.count
        size = REMEMBER_FORM.size + 12 * count
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + size
        REMEMBER_FORM.pack_into(self.buffer, at, REMEMBER, flags, size, now_s, count, site)
        self._digests(at + REMEMBER_FORM.size, prefixes)

    def forget(self, site: int, flags: int = 0) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 8
        SITE_FORM.pack_into(self.buffer, at, FORGET, flags, 8, site)

    def proved(self, site: int, packed: int, found_tokens: int, flags: int = 0) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 24
        _counted(self.buffer, at, PROVED, flags, 24, site, packed, found_tokens)

    def _digests(self, at: int, prefixes: Prefixes) -> None:
        count = prefixes.count
        middle = at + 8 * count
        self.buffer[at:middle] = prefixes.digests[:count].tobytes()
        self.buffer[middle : middle + 4 * count] = prefixes.tokens[:count].astype("<i4").tobytes()

    # --- beside decisions

    def ended(self, ended: Ended) -> None:
        """One request is over."""
        e, names = ended, self.names
        tenant = names.get(e.tenant)
        data_class = names.get(e.data_class)
        country = names.get(e.country)
        if tenant is None or data_class is None or country is None:
            for name in (e.tenant, e.data_class, e.country):
                self._name(name)
            tenant, data_class, country = names[e.tenant], names[e.data_class], names[e.country]
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 100
        _ended(
            self.buffer, at, ENDED, SERVING if e.serving else 0, 100, e.request_id, e.service, e.offer,
            tenant, data_class, country, _OUTCOME_INDEX[e.outcome], e.engine, e.started_at_s, e.began_at_s,
            e.first_byte_at_s, e.ended_at_s, e.digest, e.tokens_in, e.tokens_out, e.cached, e.attempts, e.status,
        )  # fmt: skip

    def _name(self, name: str) -> None:
        if name in self.names:
            return
        number = self.names[name] = len(self.names)
        raw = name.encode()
        size = NAME_FORM.size + len(raw)
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + size
        NAME_FORM.pack_into(self.buffer, at, NAME, 0, size, number)
        self.buffer[at + NAME_FORM.size : at + size] = raw

    def check(self, load: Load, now_s: float) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 28
        CHECK_FORM.pack_into(self.buffer, at, CHECK, 0, 28, now_s, load_digest(load))

    def closed(self, *, full: bool = False) -> None:
        at = self.at if self.at <= FULL_AT else self.flush()
        self.at = at + 4
        BARE_FORM.pack_into(self.buffer, at, CLOSED, FULL if full else 0, 4)


def load_digest(load: Load) -> bytes:
    """Of every number of a load that its table's offers, sites and services have."""
    known = hashlib.blake2b(digest_size=DIGEST_BYTES)
    count = len(load.table.offers)
    for array in (load.offers[:count], load.sites, load.services, load.own[:, :count]):
        known.update(np.ascontiguousarray(array).tobytes())
    return known.digest()


def table_digest(raw: bytes) -> bytes:
    """Name of a table's bytes."""
    return hashlib.blake2b(raw, digest_size=DIGEST_BYTES).digest()


def head_bytes(head: JournalHead) -> bytes:
    """What a file begins with."""
    raw = msgspec.msgpack.encode(head)
    return MAGIC + len(raw).to_bytes(4, "little") + raw


class Record(NamedTuple):
    """One record: its kind, its flags, its fields as they lie in the file, and where it begins there."""

    kind: int
    flags: int
    raw: memoryview
    """Of the whole record; the forms above begin at 0."""
    at: int


class Journal:
    """A log that was read."""

    def __init__(self, head: JournalHead, records_at: int, view: memoryview) -> None:
        self.head = head
        self._at = records_at
        self._view = view
        self.damaged_at = -1
        """Where the first block begins whose checksum is wrong; known when records were read, which ends there. -1: none."""
        self.cut_bytes = 0
        """Of an unfinished block at the end; known when all records were read."""

    def records(self) -> Iterator[Record]:
        """All records in their order, up to an unfinished or a damaged block."""
        at, view = self._at, self._view
        while at + BLOCK.size <= len(view):
            length, checksum = BLOCK.unpack_from(view, at)
            first = at + BLOCK.size
            if first + length > len(view):
                break
            block = view[first : first + length]
            if zlib.crc32(block) != checksum:
                self.damaged_at = at
                return
            yield from self._block(block, first)
            at = first + length
        self.cut_bytes = len(view) - at

    def _block(self, block: memoryview, first: int) -> Iterator[Record]:
        at = 0
        while at < len(block):
            kind, flags, size = BARE_FORM.unpack_from(block, at)
            assert 0 < kind < len(KINDS) and at + size <= len(block), "a block that was written"
            yield Record(kind, flags, block[at : at + size], first + at)
            at += size


def read_journal(raw: bytes | bytearray | memoryview, where: str) -> Journal:
    """The head and the blocks behind it.

    Raises:
        ConfigError: it is no such log, or one of another version.
    """
    view = memoryview(raw)
    if bytes(view[: len(MAGIC)]) != MAGIC or len(view) < HEAD_AT:
        raise _no_journal(where, f"it begins with {bytes(view[:8])!r}")
    end = HEAD_AT + int.from_bytes(view[len(MAGIC) : HEAD_AT], "little")
    try:
        head = msgspec.msgpack.decode(view[HEAD_AT:end], type=JournalHead)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _no_journal(where, str(error)) from error
    return Journal(head, end, view)


def _no_journal(where: str, got: str) -> ConfigError:
    return ConfigError(where, got=got, allowed="a gateway's input log of this version")


# --- fields of records


def heard_of(record: Record) -> tuple[int, float, float, list[tuple[Any, ...]]]:
    """(site, instant, age, offers) of HEARD."""
    _, _, _, site, now_s, age_s = HEARD_FORM.unpack_from(record.raw)
    return site, now_s, age_s, list(OFFER_FORM.iter_unpack(record.raw[HEARD_FORM.size :]))


def engine_of(record: Record) -> tuple[int, float, float, int, int, NDArray[np.int64] | None]:
    """(offer, tokens in, tokens out, states, result, `cached`) of ENGINE."""
    f = ENGINE_FORM.unpack_from(record.raw)
    cached = None
    if record.flags & HELD:
        flat = np.frombuffer(record.raw, np.int64, 2 * CACHED_MAX, ENGINE_FORM.size)
        cached = flat.reshape(CACHED_MAX, 2).copy()
    return f[3], f[4], f[5], f[6], f[7], cached


class Choice(NamedTuple):
    """The fields of CHOICE."""

    service: int
    subject: int
    result: int
    request: tuple[float, float, float, float]
    now_s: float
    out: bytes
    """Columns `OUT_*`; empty where nothing was chosen."""
    cached: NDArray[np.int64] | None
    tried: list[int]


def choice_of(record: Record) -> Choice:
    """The question, and the answer that was given."""
    raw = record.raw
    f = CHOICE_FORM.unpack_from(raw)
    at, out, cached = CHOICE_FORM.size, b"", None
    if record.flags & CHOSEN:
        out = bytes(raw[at : at + OUT_BYTES])
        at += OUT_BYTES
    if record.flags & HELD:
        cached = np.frombuffer(raw, np.int64, 2 * CACHED_MAX, at).reshape(CACHED_MAX, 2).copy()
        at += CACHED_BYTES
    tried = np.frombuffer(raw, "<i4", f[6], at).tolist()
    return Choice(f[3], f[4], f[5], f[7:11], f[11], out, cached, tried)


def rows_of(record: Record, dtype: np.dtype[Any]) -> NDArray[np.void]:
    """Rows of OWN, EXECUTING or SLOTS."""
    return np.frombuffer(record.raw[BARE_FORM.size :], dtype)


def digests_of(record: Record) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Digests and tokens of LOOK_UP or REMEMBER."""
    form = LOOK_UP_FORM if record.kind == LOOK_UP else REMEMBER_FORM
    count = form.unpack_from(record.raw)[4]
    assert 0 <= count <= DIGESTS_MAX
    digests = np.frombuffer(record.raw, np.uint64, count, form.size).copy()
    return digests, np.frombuffer(record.raw, "<i4", count, form.size + 8 * count).astype(np.int64)


def name_of(record: Record) -> tuple[int, str]:
    """Number and text of NAME."""
    return NAME_FORM.unpack_from(record.raw)[3], bytes(record.raw[NAME_FORM.size :]).decode()


def ended_of(record: Record, names: dict[int, str]) -> Ended:
    """The fields of ENDED; `names` are those of the NAME records before it."""
    f = ENDED_FORM.unpack_from(record.raw)
    return Ended(
        request_id=f[3],
        service=f[4],
        offer=f[5],
        tenant=names[f[6]],
        data_class=names[f[7]],
        country=names[f[8]],
        outcome=OUTCOMES[f[9]],
        engine=f[10],
        started_at_s=f[11],
        began_at_s=f[12],
        first_byte_at_s=f[13],
        ended_at_s=f[14],
        digest=f[15],
        tokens_in=f[16],
        tokens_out=f[17],
        cached=f[18],
        attempts=f[19],
        status=f[20],
        serving=bool(record.flags & SERVING),
    )
