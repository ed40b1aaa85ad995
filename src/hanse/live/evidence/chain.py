"""The decision log: one append-only hash chain per writer process and boot.

Here: the records, the file format, the fast writer, the reader. Not here: signatures (`seal`), joins of records to a request's
story (`judge`), who draws up quarters (`live.site_books`) and deletes by rule (`live.retention`). Never here: request or answer bodies, prompts, API keys.

File `<site>-<worker>-<boot>.log`, little endian. What is written with one system call is one batch, of one record or of many:

    length u32 | length u32 inverted | sized records | first 8 bytes of h_i        sized record: size u32 | record (msgpack)

    h_i = SHA-256(0x02 | h_(i-1) | sized records)        h_0 = 32 zero bytes        leaf of a record = SHA-256(0x00 | record)

A batch is chained as a whole: a busy gateway hashes once where a dozen records are written together. Leaves are what seals and
receipts speak of, one for each record; the sealer makes them, not the gateway.

A kill in the middle of a write leaves a prefix of a batch at the end. The inverted length tells it from damage: a batch that
starts right and is short is torn, and nothing can hide behind it; one that starts wrong is damage and is reported as such.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from struct import Struct as Layout
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from hanse.errors import SiteError
from hanse.live.evidence.merkle import HASH_BYTES, leaf_hash
from hanse.model.fleet import Id

GENESIS: Final = bytes(HASH_BYTES)
BATCH_BYTES_MAX: Final = 1 << 20
"""Some 6,000 records. A refusal's rule ids are the only part of one that grows; a seal of 5,000 chains also stays below."""
_HEAD: Final = Layout("<II")
_SIZE: Final = Layout("<I")
_size_at: Final = _SIZE.unpack_from
_INVERTED: Final = 0xFFFF_FFFF
_CHECK_BYTES: Final = 8

RequestId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
BootId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8,32}$")]
Method = Literal["measured", "estimated", "modelled", ""]


class _Record(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    array_like=True,
    gc=False,
):
    """Array-shaped on disk: half the bytes and half the time of a map."""


CONTINUED: Final = "hanse:continued"
"""Names, in a decision, why it was made: the attempt before broke after bytes had gone to the client, and this one goes on where it broke."""


class Opened(_Record, frozen=True, kw_only=True, tag="opened"):
    """First record of every chain."""

    at_s: float
    site: Id
    worker: int
    boot: BootId
    """Random per process start; makes the chain's name unique."""
    software: str
    """Version of this program."""
    table_version: int
    """0: no table yet."""

    @property
    def chain(self) -> str:
        """The chain's name, which is also its file's."""
        return f"{self.site}-{self.worker}-{self.boot}"


class Decided(_Record, frozen=True, kw_only=True, tag="decided"):
    """The entry site chose an offer, or refused; written before the first byte goes upstream."""

    request_id: RequestId
    at_s: float
    attempt: int
    """From 1; a retry or hedge is a new decision with the next number."""
    key_id: str
    tenant: str
    data_class: str
    country: str
    """Legal country of origin."""
    subject_row: int
    """Row in table `table_version`."""
    service: str
    entry_site: Id
    site: str
    """Chosen site; empty where refused."""
    variant: str
    refusal: str = ""
    """Code of the refusal (`no_eligible_site`, `no_room`, ...); empty where an offer was chosen."""
    rules: tuple[str, ...] = ()
    """Ids of the rules that barred sites, for a refusal by law. Where a site was chosen only ever `CONTINUED`."""
    table_version: int
    epoch: int
    ttft_ms_predicted: float = 0.0
    e2e_ms_predicted: float = 0.0
    energy_wh_predicted: float = 0.0
    carbon_g_predicted: float = 0.0
    cost_usd_predicted: float = 0.0


class Executed(_Record, frozen=True, kw_only=True, tag="executed"):
    """The serving site re-checked law and room, then handed the request to an engine or sent it back.

    One per hand-over: a request that moves to another engine of the site writes a second.
    """

    request_id: RequestId
    at_s: float
    attempt: int
    tenant: str
    data_class: str
    country: str
    subject_row: int
    entry_site: Id
    site: Id
    """The site that writes this."""
    engine: str
    """Empty where refused: no engine saw it."""
    refusal: str = ""
    """`law`, `room`, `dead`, `epoch` or `table`; empty where an engine got it."""
    variant: str
    allowed: bool
    """The law bit of (subject, this site) in this site's own table, whatever else refused."""
    table_version: int


class Ended(_Record, frozen=True, kw_only=True, tag="ended"):
    """How it ended, seen from the entry site (whole request) or the serving site (one attempt)."""

    request_id: RequestId
    at_s: float
    role: Literal["entry", "serving"]
    """A site that is both writes one record, as `entry`."""
    outcome: Literal["answered", "failed", "broken", "cancelled"]
    """`broken`: bytes had been sent; `cancelled`: the client went away."""
    attempt: int
    """The attempt the client got bytes from; 0: none. At a serving site: the attempt served."""
    attempts: int
    """Attempts that chose a site; at a serving site the same number as `attempt`."""
    tokens_in: int
    tokens_out: int
    ttft_ms: float
    e2e_ms: float
    energy_wh: float
    carbon_g: float
    cost_usd: float
    method: Method
    """How the energy was found; empty: no energy was spent."""


class Metered(_Record, frozen=True, kw_only=True, tag="metered"):
    """A quarter of an hour at a site: what it drew and what became of that. By its agent, in a chain of the agent's own.

    `requests + idle + overhead + others + missing = drawn + excess`, all Wh: what does not close is told, not spread.
    """

    at_s: float
    site: Id
    start_s: float
    until_s: float
    seen_s: float
    """Of the quarter, in which the agent looked; the rest nobody knows."""
    drawn_wh: float
    """All that the site drew: by its meter where one counted."""
    drawn_method: Method
    drawn_error_share: float
    """Two standard errors."""
    it_wh: float
    it_method: Method
    it_error_share: float
    requests: int
    """Ended attempts that ran here."""
    requests_wh: dict[str, float]
    """By method, as their own records say: at the meter, PUE included."""
    requests_it_wh: float
    """The same without PUE."""
    idle_wh: float
    """Of engines without a request, and of what else the IT meter sees."""
    overhead_wh: float
    """Cooling, UPS and distribution that no request was charged for."""
    others_wh: float
    """What the site draws for others, as the fleet file says."""
    missing_wh: float
    excess_wh: float
    carbon_g_per_kwh: float | None
    """Average of the grid and own generation, as routing had it; None: nobody knows."""
    market_g_per_kwh: float | None
    marginal_g_per_kwh: float | None
    price_usd_per_kwh: float | None

    @property
    def charged_wh(self) -> float:
        """Of requests, by all methods."""
        return math.fsum(self.requests_wh.values())


class Dropped(_Record, frozen=True, kw_only=True, tag="dropped"):
    """A chain's file was deleted by a stated rule; what the seals say of it stays."""

    at_s: float
    site: Id
    """Whose chain; the hub deletes copies of sites' chains, a site its own."""
    chain: str
    count: int
    """Records, all of them sealed."""
    head: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    size_bytes: int
    sealed_at_s: float
    """Of the last seal that covers it."""
    rule: Literal["age", "size", "disk"]
    kept_s: float
    """By the rule of age a chain is kept so long after that seal; by the other two, oldest first."""


Record = Opened | Decided | Executed | Ended | Metered | Dropped
RequestRecord = Decided | Executed | Ended
OWN_WORKER: Final = 999_999
"""Worker number in the name of an agent's (and the hub's) own chains: `shared.WORKERS_MAX` is far below."""
_decode: Final = msgspec.msgpack.Decoder(Record).decode


def decode_record(raw: bytes) -> Record:
    """Bytes to a record.

    ValueError rather than msgspec's own class: text that is not UTF-8 comes as UnicodeDecodeError, which shares only that base.

    Raises:
        ValueError: not a record of this version.
    """
    record: Record = _decode(raw)
    return record


def sized(raw: bytes) -> bytes:
    """A record's bytes as they stand in a batch."""
    return _SIZE.pack(len(raw)) + raw


def link(head: bytes, batch: bytes) -> bytes:
    """The chain's next head."""
    return sha256(b"\x02" + head + batch).digest()


class FrameWriter:
    """Appends batches to one file that nobody else writes; the hot path's half of the evidence."""

    __slots__ = ("_fd", "bytes_end", "count", "head", "path")

    def __init__(self, path: Path, fd: int, *, head: bytes, count: int, bytes_end: int) -> None:
        self.path = path
        self.head = head
        self.count = count
        """Records, not batches."""
        self.bytes_end = bytes_end
        self._fd = fd

    def write_raw(self, raw: bytes) -> None:
        """Append one record's bytes."""
        self.write_sized((sized(raw),), 1)

    def write_sized(self, pieces: Sequence[bytes], count: int) -> None:
        """Append `count` sized records with one write. All or none; a piece may hold several, but none is cut by its end."""
        head, parts = self.head, []
        batch = b"".join(pieces)
        for part in (batch,) if len(batch) <= BATCH_BYTES_MAX else _parts(pieces):
            size = len(part)
            assert size <= BATCH_BYTES_MAX
            head = sha256(b"\x02" + head + part).digest()
            parts.append(_HEAD.pack(size, size ^ _INVERTED) + part + head[:_CHECK_BYTES])
        self._write(parts[0] if len(parts) == 1 else b"".join(parts))
        self.head = head
        self.count += count

    def sync(self) -> None:
        """Wait until the file survives a power loss."""
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)

    def _write(self, data: bytes) -> None:
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            written, cause = 0, str(error)
        else:
            cause = "a short write"
        if written != len(data):
            # Take the half frame back, so that a later append does not bury it in the middle.
            os.ftruncate(self._fd, self.bytes_end)
            raise SiteError(str(self.path), got=cause, fix="free disk space; nothing is admitted")
        self.bytes_end += written


class ChainWriter:
    """Writes one chain. Survives a kill at any instant; `append` returns when the kernel has it."""

    __slots__ = ("_encode", "_frames", "chain")

    def __init__(self, directory: Path, opened: Opened) -> None:
        self.chain = opened.chain
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = directory / f"{self.chain}.log"
        flags = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:
            raise SiteError(
                str(path), got="a chain that exists already", fix="start with a fresh boot id"
            ) from None
        self._encode = msgspec.msgpack.Encoder().encode
        self._frames = FrameWriter(path, fd, head=GENESIS, count=0, bytes_end=0)
        self.append(opened)

    @property
    def count(self) -> int:
        """Records written."""
        return self._frames.count

    @property
    def head(self) -> bytes:
        """The last chain hash."""
        return self._frames.head

    @property
    def bytes_end(self) -> int:
        """Bytes written."""
        return self._frames.bytes_end

    def append(self, record: Record) -> int:
        """Write one record now; its number.

        Raises:
            SiteError: the disk took not all of it; the chain is as before, and the caller must not go on with the request.
        """
        return self.append_many((record,))

    def append_many(self, records: Sequence[Record]) -> int:
        """Write the records of one event-loop tick with one system call, all or none; the number of the first."""
        first = self._frames.count
        self._frames.write_sized([sized(self._encode(record)) for record in records], len(records))
        return first

    def append_sized(self, pieces: Sequence[bytes], count: int) -> None:
        """As `append_many`, of records that are sized bytes already."""
        self._frames.write_sized(pieces, count)

    def close(self) -> None:
        self._frames.close()


class Batch(NamedTuple):
    """Records that were written together, as read."""

    raws: list[bytes]
    head: bytes
    """Recomputed from all batches before."""
    bytes_end: int
    intact: bool
    """The check behind the batch agrees with the recomputed head."""


class Frame(NamedTuple):
    """One record as read."""

    seq: int
    raw: bytes
    leaf: bytes
    head: bytes
    """After its batch."""
    bytes_end: int
    """End of its batch."""
    intact: bool
    """Its batch's."""


Ending = Literal["clean", "torn", "damaged"]
_CLEAN: Final[Ending] = "clean"
_TORN: Final[Ending] = "torn"
_DAMAGED: Final[Ending] = "damaged"


class Batches(NamedTuple):
    """What a stretch of a chain file holds, as it was written."""

    batches: list[Batch]
    ending: Ending
    bytes_end: int
    """End of the last whole batch; a torn rest starts here."""


class Scan(NamedTuple):
    """The same, record by record."""

    frames: list[Frame]
    ending: Ending
    bytes_end: int


def scan_batches(data: bytes, *, head: bytes = GENESIS, start: int = 0) -> Batches:
    """Read batches until the bytes end or stop making sense.

    Args:
        data: Bytes of the file from offset `start` on.
        head: Chain hash before them.
        start: Offset of `data` in the file.
    """
    batches: list[Batch] = []
    at = 0
    ending: Ending = _CLEAN
    while at < len(data):
        batch_at = at + _HEAD.size
        if batch_at > len(data):
            ending = _TORN
            break
        size, inverted = _HEAD.unpack_from(data, at)
        if size ^ inverted != _INVERTED or size > BATCH_BYTES_MAX:
            ending = _DAMAGED
            break
        check_at = batch_at + size
        if check_at + _CHECK_BYTES > len(data):
            ending = _TORN
            break
        batch = data[batch_at:check_at]
        raws = _unsized(batch)
        if raws is None:
            ending = _DAMAGED
            break
        at = check_at + _CHECK_BYTES
        head = link(head, batch)
        intact = data[check_at:at] == head[:_CHECK_BYTES]
        batches.append(Batch(raws, head, start + at, intact))
    return Batches(batches, ending, start + at)


def scan(data: bytes, *, seq: int = 0, head: bytes = GENESIS, start: int = 0) -> Scan:
    """As `scan_batches`, record by record; `seq` is the number of the first record in `data`."""
    found = scan_batches(data, head=head, start=start)
    frames: list[Frame] = []
    for raws, after, bytes_end, intact in found.batches:
        for raw in raws:
            frames.append(Frame(seq + len(frames), raw, leaf_hash(raw), after, bytes_end, intact))
    return Scan(frames, found.ending, found.bytes_end)


def scan_file(path: Path) -> Scan:
    """Read a whole chain file."""
    return scan(path.read_bytes())


FRAME_HEAD_BYTES: Final = _HEAD.size


def framed_bytes(head: bytes) -> int:
    """Bytes of a batch as it stands in a file, by its first `FRAME_HEAD_BYTES`."""
    size, _ = _HEAD.unpack(head)
    return FRAME_HEAD_BYTES + int(size) + _CHECK_BYTES


def _unsized(batch: bytes) -> list[bytes] | None:
    """The records of a batch; None where their sizes do not add up to it, or there is none."""
    raws: list[bytes] = []
    at, last = 0, len(batch) - 4
    while at <= last:
        raw_at = at + 4
        at = raw_at + _size_at(batch, at)[0]
        raws.append(batch[raw_at:at])
    return raws if at == len(batch) and raws else None


def _parts(pieces: Sequence[bytes]) -> Iterator[bytes]:
    """Pieces joined to batches that are small enough."""
    held: list[bytes] = []
    size = 0
    for piece in pieces:
        if held and size + len(piece) > BATCH_BYTES_MAX:
            yield b"".join(held)
            held, size = [], 0
        held.append(piece)
        size += len(piece)
    yield b"".join(held)
