"""Seals: once a second the agent signs what its site's chains have become.

Here: the seal's format, the sealer (tails chains, signs, resumes after a restart), reading and checking a seal log. Not here:
receipts and audits, which only read.

`seals.log` has the same file format as a chain, so seals are numbered and linked as records are. A seal names, for each chain
that grew: the records it adds (first, count), the chain's head after them, a Merkle root over their leaf hashes and where their
bytes lie. The site certificate travels inside the first seal that it signs. Signed are the bytes `hanse-seal/1` NUL body.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from hashlib import sha256
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from hanse.errors import SiteError
from hanse.live.evidence.chain import (
    GENESIS,
    Ending,
    Frame,
    FrameWriter,
    Opened,
    decode_record,
    scan,
    scan_batches,
)
from hanse.live.evidence.merkle import root_of
from hanse.live.identity import Identity, certificate_flaw, name_of
from hanse.live.runtime import replace_file
from hanse.model.fleet import Id
from hanse.model.told import UNREADABLE

SEALS_NAME: Final = "seals.log"
IDLE_S_MAX: Final = 60.0
"""An idle site still signs once a minute: a log cut back further than that shows by its silence."""
_RESUME_NAME: Final = "sealed"
RESUME_EVERY: Final = 60
"""Seals: a restart reads at most so many again, and not a year's thirty million."""
READ_BYTES_MAX: Final = 8 << 20
"""Read per chain and seal: 50,000 records, ten times what a worker writes in a second."""
_CONTEXT: Final = b"hanse-seal/1\x00"

Hash = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Count = Annotated[int, msgspec.Meta(ge=0)]


class Segment(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True
):
    """What one seal says about one chain: its records [first, count)."""

    chain: str
    first: Count
    count: Count
    head: Hash
    """Of the chain after record count - 1, the last of its batch."""
    root: Hash
    bytes_start: Count
    bytes_end: Count


class SealBody(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    array_like=True,
    tag="hanse-seal/1",
):
    """The signed part."""

    site: Id
    seq: Count
    at_s: float
    previous: Hash
    """Head of the seal log before this seal."""
    certificate_sha256: Hash
    certificate: bytes
    """DER, where the seal before was signed under another; else empty."""
    segments: tuple[Segment, ...]


class Seal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True):
    """One record of `seals.log`."""

    body: bytes
    signature: Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode_seal: Final = msgspec.msgpack.Decoder(Seal).decode
_decode_body: Final = msgspec.msgpack.Decoder(SealBody).decode


def decode_seal(raw: bytes) -> tuple[Seal, SealBody]:
    """Bytes to a seal and its body; nothing is verified yet.

    Raises:
        ValueError: not a seal of this version.
    """
    seal = _decode_seal(raw)
    return seal, _decode_body(seal.body)


def seal_flaw(
    seal: Seal, body: SealBody, certificate: x509.Certificate, authority: x509.Certificate
) -> str | None:
    """Why a seal does not hold under this certificate and trust anchor; None: it does."""
    flaw = certificate_flaw(certificate, authority, body.at_s)
    if flaw is not None:
        return f"site certificate: {flaw}"
    name = name_of(certificate)
    if name is None or name.site != body.site:
        return f"seal of site {body.site} under the certificate of {name}"
    der = certificate.public_bytes(Encoding.DER)
    if sha256(der).digest() != body.certificate_sha256:
        return "signed under another certificate"
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        return "certificate holds no Ed25519 key"
    try:
        key.verify(seal.signature, _CONTEXT + seal.body)
    except InvalidSignature:
        return "signature does not fit"
    return None


class SealEntry(NamedTuple):
    """A seal as it stands in the log."""

    frame: Frame
    seal: Seal
    body: SealBody
    certificate_der: bytes
    """From this seal or the last one before that carried it; empty where none did."""


class SealLog(NamedTuple):
    """A read seal log; framing looked at, signatures not."""

    entries: list[SealEntry]
    ending: Ending
    bytes_end: int
    """End of the last good seal."""
    flaw: str | None
    """First frame that is altered or no seal; later ones are not read."""


def read_seals(path: Path, known: SealLog | None = None) -> SealLog:
    """Read a seal log as far as it makes sense.

    Args:
        path: The log.
        known: What an earlier call returned; only what came since is read, and `known.entries` grows.
    """
    entries = known.entries if known else []
    start = known.bytes_end if known else 0
    certificate = entries[-1].certificate_der if entries else b""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    head = entries[-1].frame.head if entries else GENESIS
    found = scan(data, seq=len(entries), head=head, start=start)
    flaw = None if found.ending != "damaged" else f"unreadable from byte {found.bytes_end} on"
    for frame in found.frames:
        try:
            seal, body = decode_seal(frame.raw)
        except ValueError as error:
            flaw = f"seal {frame.seq}: {error}"
            break
        previous = entries[-1].frame.head if entries else GENESIS
        if not frame.intact or body.seq != frame.seq or body.previous != previous:
            flaw = f"seal {frame.seq}: altered, removed, repeated or out of order"
            break
        certificate = body.certificate or certificate
        entries.append(SealEntry(frame, seal, body, certificate))
    bytes_end = entries[-1].frame.bytes_end if entries else 0
    return SealLog(entries, found.ending, bytes_end, flaw)


class SealPlace(msgspec.Struct, frozen=True, kw_only=True):
    """A place in a seal log, between two seals."""

    seals: int = 0
    head: bytes = GENESIS
    bytes_end: int = 0


class SealReader:
    """Reads a seal log on from a place and keeps nothing of it: a busy site signs every second, for years.

    Iterating gives the seals that came since the last time; framing looked at, signatures not. A certificate stands only with the seal
    that carries it.
    """

    def __init__(self, path: Path, place: SealPlace) -> None:
        self.path = path
        self.place = place
        """After the last seal that was given out."""
        self.flaw: str | None = None
        """First frame that is altered or no seal; nothing is read after it."""

    def __iter__(self) -> Iterator[SealEntry]:
        while self.flaw is None and self.path.exists():
            place = self.place
            with self.path.open("rb") as file:
                file.seek(place.bytes_end)
                data = file.read(READ_BYTES_MAX)
            found = scan(data, seq=place.seals, head=place.head, start=place.bytes_end)
            for frame in found.frames:
                entry = self._entry(frame)
                if entry is None:
                    return
                self.place = SealPlace(
                    seals=frame.seq + 1, head=frame.head, bytes_end=frame.bytes_end
                )
                yield entry
            if found.ending == "damaged":
                self.flaw = f"unreadable from byte {found.bytes_end} on"
            if self.place == place:
                return

    def _entry(self, frame: Frame) -> SealEntry | None:
        try:
            seal, body = decode_seal(frame.raw)
        except ValueError as error:
            self.flaw = f"seal {frame.seq}: {error}"
            return None
        if not frame.intact or body.seq != frame.seq or body.previous != self.place.head:
            self.flaw = f"seal {frame.seq}: altered, removed, repeated or out of order"
            return None
        return SealEntry(frame, seal, body, body.certificate)


class _Resume(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sealer goes on without reading its log from the beginning; only that: what was damaged before, an audit finds."""

    place: SealPlace
    sealed_at_s: float
    certificate_sha256: bytes
    tails: dict[str, tuple[int, bytes, int, float, int]]
    """Chain -> records, head, bytes, instant and end in the log of the seal that covers them."""


class Sealed(NamedTuple):
    """What one turn of the sealer did."""

    body: SealBody | None
    """None: nothing new, and the last seal is young."""
    problems: dict[str, str]
    """Chains that cannot be sealed any more, and why; their later records stay unproven."""


class _Tail:
    """How far one chain is sealed."""

    __slots__ = ("bytes_end", "count", "head", "log_end", "problem", "sealed_at_s")

    def __init__(self, count: int = 0, head: bytes = GENESIS, bytes_end: int = 0) -> None:
        self.count = count
        self.head = head
        self.bytes_end = bytes_end
        self.problem = ""
        self.sealed_at_s = 0.0
        self.log_end = 0


class SealedChain(NamedTuple):
    """How far one chain is sealed."""

    chain: str
    records: int
    head: bytes
    bytes_end: int
    sealed_at_s: float
    """Of the last seal that covers more of it."""
    log_end: int
    """Where that seal ends in the seal log: who has so much of it has the whole chain, up to there."""


class Sealer:
    """Signs the chains of one site's evidence directory; one process at a time.

    Resumes from the last whole seal: heads, counts and offsets are in the seals themselves, so no chain is read twice.
    """

    def __init__(self, directory: Path, identity: Identity, *, durable: bool = True) -> None:
        """Open or create the seal log.

        Args:
            directory: Where the site's workers write their chains.
            identity: Signs; its site must be the chains' site.
            durable: Wait for the disk before signing and after, so that what is sealed survives a power loss. Only tests and
                benchmarks say no.

        Raises:
            SiteError: another process seals here, or the log is damaged.
        """
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._durable = durable
        self._tails: dict[str, _Tail] = {}
        self._forgotten: set[str] = set()
        self._seq, self._sealed_at_s, self._certificate_sha256 = 0, float("-inf"), b""
        self._log = self._open_log(directory / SEALS_NAME)
        self.renew(identity)

    @property
    def count(self) -> int:
        """Seals in the log."""
        return self._seq

    @property
    def log_head(self) -> bytes:
        """Head of the seal log: what a witness keeps (`audit.Witness`)."""
        return self._log.head

    @property
    def place(self) -> SealPlace:
        """The end of the log."""
        return SealPlace(seals=self._seq, head=self._log.head, bytes_end=self._log.bytes_end)

    def renew(self, identity: Identity) -> None:
        """Sign with this identity from now on: first use, or a renewed certificate."""
        self._identity = identity
        self._der = identity.certificate_der()

    def forget(self, chain: str) -> None:
        """Its file is deleted by rule: that it is gone is no problem."""
        self._forgotten.add(chain)
        self._tails.pop(chain, None)

    def sealed(self) -> list[SealedChain]:
        """Chains by the order in which they first were sealed; those that are gone by rule are left out."""
        return [
            SealedChain(chain, t.count, t.head, t.bytes_end, t.sealed_at_s, t.log_end)
            for chain, t in self._tails.items()
            if t.count
        ]

    def covers(self, chain: str, seq: int) -> bool:
        """Whether a record is under a seal."""
        tail = self._tails.get(chain)
        return tail is not None and tail.count > seq

    def seal(self, now_s: float) -> Sealed:
        """Sign what came since the last seal; call once a second."""
        segments = []
        names = {path.stem: path for path in self._directory.glob("*.log")}
        names.pop(Path(SEALS_NAME).stem, None)
        for chain in sorted((names.keys() | self._tails.keys()) - self._forgotten):
            tail = self._tails.setdefault(chain, _Tail())
            if chain not in names:
                tail.problem = "the file is gone"
            if not tail.problem:
                segment = self._advance(names[chain], chain, tail)
                segments += [] if segment is None else [segment]
        problems = {chain: tail.problem for chain, tail in self._tails.items() if tail.problem}
        if not segments and now_s - self._sealed_at_s < IDLE_S_MAX:
            return Sealed(None, problems)
        return Sealed(self._sign(tuple(segments), now_s), problems)

    def close(self) -> None:
        self._log.close()

    def _open_log(self, path: Path) -> FrameWriter:
        fd = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise SiteError(
                str(path), got="a second sealer", fix="stop the other agent of this site"
            ) from None
        reader = self._resume(path)
        if reader.flaw is not None:
            os.close(fd)
            raise SiteError(
                str(path),
                got=reader.flaw,
                # The hub has the log of this id and takes no other beginning of it.
                fix="keep the directory for `hanse audit`; join under another id (`hanse token`)",
            )
        place = reader.place
        os.ftruncate(fd, place.bytes_end)  # a torn seal was never anybody's
        self._seq = place.seals
        return FrameWriter(path, fd, head=place.head, count=place.seals, bytes_end=place.bytes_end)

    def _resume(self, path: Path) -> SealReader:
        """Read on from the last note, or all of it where the note does not fit."""
        known = _read_resume(path.with_name(_RESUME_NAME))
        if known is not None and path.stat().st_size >= known.place.bytes_end:
            self._sealed_at_s, self._certificate_sha256 = (
                known.sealed_at_s,
                known.certificate_sha256,
            )
            for chain, (count, head, end, at_s, log_end) in known.tails.items():
                tail = self._tails[chain] = _Tail(count, head, end)
                tail.sealed_at_s, tail.log_end = at_s, log_end
            reader = SealReader(path, known.place)
            self._read_on(reader)
            if reader.flaw is None:
                return reader
            self._tails.clear()
            self._sealed_at_s, self._certificate_sha256 = float("-inf"), b""
        reader = SealReader(path, SealPlace())
        self._read_on(reader)
        return reader

    def _read_on(self, reader: SealReader) -> None:
        for entry in reader:
            self._certificate_sha256 = entry.body.certificate_sha256
            self._sealed_at_s = entry.body.at_s
            for part in entry.body.segments:
                tail = self._tails[part.chain] = _Tail(part.count, part.head, part.bytes_end)
                tail.sealed_at_s, tail.log_end = entry.body.at_s, entry.frame.bytes_end

    def _note(self) -> None:
        """Where a restart goes on; one that cannot be written costs it time and nothing else."""
        tails = {
            chain: (t.count, t.head, t.bytes_end, t.sealed_at_s, t.log_end)
            for chain, t in self._tails.items()
            if t.count
        }
        known = _Resume(
            place=self.place,
            sealed_at_s=self._sealed_at_s,
            certificate_sha256=self._certificate_sha256,
            tails=tails,
        )
        with contextlib.suppress(OSError):
            replace_file(self._directory / _RESUME_NAME, msgspec.msgpack.encode(known))

    def _advance(self, path: Path, chain: str, tail: _Tail) -> Segment | None:
        """The chain's new whole records; None where there are none."""
        size = path.stat().st_size
        if size == tail.bytes_end:
            return None
        if size < tail.bytes_end:
            tail.problem = f"cut off at byte {size}, sealed up to {tail.bytes_end}"
            return None
        with path.open("rb") as file:
            file.seek(tail.bytes_end)
            data = file.read(READ_BYTES_MAX)
            if self._durable:
                os.fdatasync(file.fileno())
        found = scan_batches(data, head=tail.head, start=tail.bytes_end)
        batches = list(takewhile(lambda batch: batch.intact, found.batches))
        leaves = [sha256(b"\x00" + raw).digest() for batch in batches for raw in batch.raws]
        if found.ending == "damaged" or len(batches) < len(found.batches):
            tail.problem = f"damaged at record {tail.count + len(leaves)}"
        if tail.count == 0 and batches and not self._opens(batches[0].raws[0], chain):
            tail.problem = f"does not open as chain {chain} of site {self._identity.site}"
            return None
        if not batches:
            return None
        segment = Segment(
            chain=chain,
            first=tail.count,
            count=tail.count + len(leaves),
            head=batches[-1].head,
            root=root_of(leaves),
            bytes_start=tail.bytes_end,
            bytes_end=batches[-1].bytes_end,
        )
        tail.count, tail.head, tail.bytes_end = segment.count, segment.head, segment.bytes_end
        return segment

    def _opens(self, raw: bytes, chain: str) -> bool:
        try:
            record = decode_record(raw)
        except ValueError:
            return False
        return (
            isinstance(record, Opened)
            and record.chain == chain
            and record.site == self._identity.site
        )

    def _sign(self, segments: tuple[Segment, ...], now_s: float) -> SealBody:
        digest = sha256(self._der).digest()
        body = SealBody(
            site=self._identity.site,
            seq=self._seq,
            at_s=now_s,
            previous=self._log.head,
            certificate_sha256=digest,
            certificate=b"" if digest == self._certificate_sha256 else self._der,
            segments=segments,
        )
        raw = _encode(body)
        signature = self._identity.key.sign(_CONTEXT + raw)
        self._log.write_raw(_encode(Seal(body=raw, signature=signature)))
        if self._durable:
            self._log.sync()
        self._seq += 1
        self._sealed_at_s, self._certificate_sha256 = now_s, digest
        for segment in segments:
            tail = self._tails[segment.chain]
            tail.sealed_at_s, tail.log_end = now_s, self._log.bytes_end
        if self._seq % RESUME_EVERY == 0:
            self._note()
        return body


def _read_resume(path: Path) -> _Resume | None:
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=_Resume)
    except (*UNREADABLE, OSError):
        return None
