"""The decision log: one append-only hash chain per writer process and boot.

Here: the records, the file format, the fast writer, the reader. Not here: signatures (`seal`), joins of records to a request's
story (`judge`). Never here: request or answer bodies, prompts, API keys.

File `<site>-<worker>-<boot>.log`, little endian, one frame per record:

    length u32 | length u32 inverted | record (msgpack) | first 8 bytes of h_i

    leaf_i = SHA-256(0x00 | record)        h_i = SHA-256(0x02 | h_(i-1) | leaf_i)        h_0 = 32 zero bytes

A kill in the middle of a write leaves a prefix of a frame at the end. The inverted length tells it from damage: a frame that
starts right and is short is torn, and nothing can hide behind it; one that starts wrong is damage and is reported as such.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from struct import Struct as Layout
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from hanse.errors import SiteError
from hanse.live.evidence.merkle import HASH_BYTES, leaf_hash
from hanse.model.fleet import Id

GENESIS: Final = bytes(HASH_BYTES)
RECORD_BYTES_MAX: Final = 1 << 20
"""A refusal's rule ids are the only part that grows; a seal of 5,000 chains also stays below."""
_HEAD: Final = Layout("<II")
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
    """Ids of the rules that barred sites, for a refusal by law."""
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


Record = Opened | Decided | Executed | Ended
RequestRecord = Decided | Executed | Ended
_decode: Final = msgspec.msgpack.Decoder(Record).decode


def decode_record(raw: bytes) -> Record:
    """Bytes to a record.

    ValueError rather than msgspec's own class: text that is not UTF-8 comes as UnicodeDecodeError, which shares only that base.

    Raises:
        ValueError: not a record of this version.
    """
    record: Record = _decode(raw)
    return record


def link(head: bytes, leaf: bytes) -> bytes:
    """The chain's next head."""
    return sha256(b"\x02" + head + leaf).digest()


class Appended(NamedTuple):
    """Where a record went."""

    seq: int
    leaf: bytes


class FrameWriter:
    """Appends frames to one file that nobody else writes; the hot path's half of the evidence."""

    __slots__ = ("_fd", "bytes_end", "count", "head", "path")

    def __init__(self, path: Path, fd: int, *, head: bytes, count: int, bytes_end: int) -> None:
        self.path = path
        self.head = head
        self.count = count
        self.bytes_end = bytes_end
        self._fd = fd

    def write_raw(self, raw: bytes) -> bytes:
        """Append one record's bytes; its leaf hash."""
        # Written out rather than composed: each call here is a tenth of the whole append.
        size = len(raw)
        assert size <= RECORD_BYTES_MAX
        leaf = sha256(b"\x00" + raw).digest()
        head = sha256(b"\x02" + self.head + leaf).digest()
        self._write(_HEAD.pack(size, size ^ _INVERTED) + raw + head[:_CHECK_BYTES])
        self.head = head
        self.count += 1
        return leaf

    def write_raws(self, raws: Sequence[bytes]) -> list[bytes]:
        """Append several records with one write; their leaf hashes. All or none."""
        head, leaves, parts = self.head, [], []
        for raw in raws:
            size = len(raw)
            assert size <= RECORD_BYTES_MAX
            leaf = sha256(b"\x00" + raw).digest()
            head = sha256(b"\x02" + head + leaf).digest()
            leaves.append(leaf)
            parts.append(_HEAD.pack(size, size ^ _INVERTED) + raw + head[:_CHECK_BYTES])
        self._write(b"".join(parts))
        self.head = head
        self.count += len(leaves)
        return leaves

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

    def append(self, record: Record) -> Appended:
        """Write one record now.

        Raises:
            SiteError: the disk took not all of it; the chain is as before, and the caller must not go on with the request.
        """
        frames = self._frames
        leaf = frames.write_raw(self._encode(record))
        return Appended(frames.count - 1, leaf)

    def append_many(self, records: Sequence[Record]) -> list[Appended]:
        """Write the records of one event-loop tick with one system call; all or none."""
        first = self._frames.count
        leaves = self._frames.write_raws([self._encode(record) for record in records])
        return [Appended(first + i, leaf) for i, leaf in enumerate(leaves)]

    def close(self) -> None:
        self._frames.close()


class Frame(NamedTuple):
    """One record as read."""

    seq: int
    raw: bytes
    leaf: bytes
    head: bytes
    """Recomputed from all records before."""
    bytes_end: int
    intact: bool
    """The check beside the record agrees with the recomputed head."""


Ending = Literal["clean", "torn", "damaged"]
_CLEAN: Final[Ending] = "clean"
_TORN: Final[Ending] = "torn"
_DAMAGED: Final[Ending] = "damaged"


class Scan(NamedTuple):
    """What a stretch of a chain file holds."""

    frames: list[Frame]
    ending: Ending
    bytes_end: int
    """End of the last whole frame; a torn rest starts here."""


def scan(data: bytes, *, seq: int = 0, head: bytes = GENESIS, start: int = 0) -> Scan:
    """Read frames until the bytes end or stop making sense.

    Args:
        data: Bytes of the file from offset `start` on.
        seq: Number of the first record in `data`.
        head: Chain hash before it.
        start: Offset of `data` in the file.
    """
    frames: list[Frame] = []
    at = 0
    ending: Ending = _CLEAN
    while at < len(data):
        raw_at = at + _HEAD.size
        if raw_at > len(data):
            ending = _TORN
            break
        size, inverted = _HEAD.unpack_from(data, at)
        if size ^ inverted != _INVERTED or size > RECORD_BYTES_MAX:
            ending = _DAMAGED
            break
        check_at = raw_at + size
        if check_at + _CHECK_BYTES > len(data):
            ending = _TORN
            break
        raw = data[raw_at:check_at]
        at = check_at + _CHECK_BYTES
        leaf = leaf_hash(raw)
        head = link(head, leaf)
        intact = data[check_at:at] == head[:_CHECK_BYTES]
        frames.append(Frame(seq + len(frames), raw, leaf, head, start + at, intact))
    return Scan(frames, ending, start + at)


def scan_file(path: Path) -> Scan:
    """Read a whole chain file."""
    return scan(path.read_bytes())
