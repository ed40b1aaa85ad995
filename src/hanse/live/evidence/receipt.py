"""Receipts: one request's records with what it takes to check them far from any log.

Here: gathering a site's part, putting a receipt together, and verifying one with nothing but the document and the fleet's
authority certificate. Not here: asking the serving site for its part (`live.gateway`), checks over whole logs (`audit`).
"""

from __future__ import annotations

import mmap
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec
from cryptography import x509

from hanse.live.evidence.chain import (
    FRAME_HEAD_BYTES,
    Decided,
    Executed,
    Record,
    RequestRecord,
    decode_record,
    framed_bytes,
    scan,
)
from hanse.live.evidence.judge import CLOCK_SKEW_S_MAX, Found, Status, judge, kind_of
from hanse.live.evidence.merkle import leaf_hash, path_to, root_from, root_of
from hanse.live.evidence.seal import (
    SEALS_NAME,
    Seal,
    SealBody,
    SealEntry,
    SealPlace,
    SealReader,
    Segment,
    decode_seal,
    seal_flaw,
)
from hanse.live.identity import read_certificate

LOADED_MAX: Final = 64
"""Seals that were read again and are kept, by chain: a request's records lie under one or two."""
RECEIPT_BYTES_MAX: Final = 4 << 20
"""A receipt is a few kB; what is larger is not read."""
NOT_PROVEN: Final = (
    "where a site physically is: a certificate names a site, its operator placed the machine",
    "that the fleet file tells the truth about a site's country, operator or meters",
    "what was asked or answered: no log or receipt holds content or a digest of it",
    "that a site kept no copy, or ran nothing beside what it recorded",
    "that this receipt is complete: records left out of it show only in an audit of the logs",
)


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """JSON; bytes are base64."""


class PartSeal(_Document, frozen=True, kw_only=True):
    """A signed seal, as in the site's log."""

    body: bytes
    signature: bytes


class PartRecord(_Document, frozen=True, kw_only=True):
    """A record and its way to a signed root."""

    chain: str
    seq: int
    record: bytes
    seal: int
    """Index in the part's `seals`."""
    path: tuple[bytes, ...]


class SitePart(_Document, frozen=True, kw_only=True):
    """What one site's log says about the request."""

    site: str
    certificates: tuple[bytes, ...]
    """DER; each signed at least one of the seals."""
    seals: tuple[PartSeal, ...]
    records: tuple[PartRecord, ...]


class Receipt(_Document, frozen=True, kw_only=True):
    """The document a client keeps."""

    schema: Literal["hanse-receipt/1"]
    request_id: str
    """32 hex digits."""
    parts: tuple[SitePart, ...]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Why a site can give no part now: a value, not an exception."""

    reason: Literal["unknown request", "not sealed yet", "the log is damaged"]


# --- making ------------------------------------------------------------------------------------


class _Place(NamedTuple):
    """A sealed stretch of a chain."""

    segment: Segment
    entry: SealEntry


class _Stretches:
    """A chain's sealed stretches, in 24 bytes each: a busy site has 86,400 a day."""

    __slots__ = ("bytes_end", "loaded", "seal_start", "sealed_at_s")

    def __init__(self) -> None:
        self.bytes_end = array("q")
        self.sealed_at_s = array("d")
        self.seal_start = array("q")
        """Where the seal that covers it begins in the seal log."""
        self.loaded: dict[int, _Place] = {}


class ReceiptBook:
    """Finds requests in one site's evidence directory.

    It keeps no index of requests: an id is 16 random bytes, so the chains themselves are searched (about 1 GB/s). Not thread-safe;
    a search of a large log belongs in a thread or in the agent, not in a gateway worker's event loop.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = SealReader(directory / SEALS_NAME, SealPlace())
        self._stretches: dict[str, _Stretches] = {}
        self._certificates: dict[bytes, bytes] = {}
        """DER by SHA-256."""

    def part(self, request_id: bytes, since_s: float = float("-inf")) -> SitePart | Missing:
        """All sealed records of a request at this site.

        Args:
            request_id: 16 bytes.
            since_s: Seals before this instant are not searched: when the request began, where that is known.
        """
        self._read_new_seals()
        hits: list[tuple[_Place, PartRecord]] = []
        for path in sorted(self._directory.glob("*.log")):
            if path.name == SEALS_NAME:
                continue
            start = self._start(path.stem, since_s)
            places = [self._place_at(path.stem, at) for at in _search(path, request_id, start)]
            for place in {id(place): place for place in places}.values():
                if place is None:
                    return Missing(reason="not sealed yet")
                found = _records_in(path, place, request_id)
                if found is None:
                    return Missing(reason="the log is damaged")
                hits += found
        return _part(hits) if hits else Missing(reason="unknown request")

    def _read_new_seals(self) -> None:
        start = self._log.place.bytes_end
        for entry in self._log:
            body = entry.body
            if body.certificate:
                self._certificates[body.certificate_sha256] = body.certificate
            for segment in body.segments:
                known = self._stretches.setdefault(segment.chain, _Stretches())
                known.bytes_end.append(segment.bytes_end)
                known.sealed_at_s.append(body.at_s)
                known.seal_start.append(start)
            start = entry.frame.bytes_end

    def _start(self, chain: str, since_s: float) -> int:
        known = self._stretches.get(chain)
        if known is None:
            return 0
        first = bisect_right(known.sealed_at_s, since_s)
        # One seal earlier than asked: the workers' clock and the sealer's are read at different instants.
        return known.bytes_end[first - 2] if first >= 2 else 0

    def _place_at(self, chain: str, at: int) -> _Place | None:
        known = self._stretches.get(chain)
        if known is None:
            return None
        index = bisect_right(known.bytes_end, at)
        if index >= len(known.bytes_end):
            return None
        found = known.loaded.get(index)
        if found is None:
            found = known.loaded[index] = self._load(chain, known.seal_start[index])
            if len(known.loaded) > LOADED_MAX:
                del known.loaded[next(iter(known.loaded))]
        return found

    def _load(self, chain: str, start: int) -> _Place:
        """A seal again, from its place in the log."""
        with self._log.path.open("rb") as file:
            file.seek(start)
            data = file.read(FRAME_HEAD_BYTES)
            data += file.read(framed_bytes(data) - len(data))
        frame = scan(data, start=start).frames[0]
        seal, body = decode_seal(frame.raw)
        segment = next(one for one in body.segments if one.chain == chain)
        der = self._certificates.get(body.certificate_sha256, b"")
        return _Place(segment, SealEntry(frame, seal, body, der))


def make_receipt(request_id: bytes, parts: Sequence[SitePart]) -> bytes:
    """The document: the entry site's part first, then those of serving sites that answered."""
    receipt = Receipt(schema="hanse-receipt/1", request_id=request_id.hex(), parts=tuple(parts))
    return msgspec.json.format(msgspec.json.encode(receipt), indent=1)


def encode_part(part: SitePart) -> bytes:
    """A serving site's answer to the entry site that asks for its part."""
    return msgspec.json.encode(part)


def decode_part(data: bytes) -> SitePart:
    """The other end of `encode_part`.

    Raises:
        ValueError: not a part.
    """
    return msgspec.json.decode(data, type=SitePart)


def _search(path: Path, request_id: bytes, start: int) -> Iterator[int]:
    """Offsets of the id in a chain file."""
    with path.open("rb") as file:
        try:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # an empty file cannot be mapped
            return
        with view:
            at = view.find(request_id, start)
            while at >= 0:
                yield at
                at = view.find(request_id, at + 1)


def _records_in(
    path: Path, place: _Place, request_id: bytes
) -> list[tuple[_Place, PartRecord]] | None:
    """The request's records in one sealed stretch; None where the stretch is not what was sealed."""
    segment = place.segment
    with path.open("rb") as file:
        file.seek(segment.bytes_start)
        data = file.read(segment.bytes_end - segment.bytes_start)
    frames = scan(data, seq=segment.first, start=segment.bytes_start).frames
    leaves = [frame.leaf for frame in frames]
    if len(leaves) != segment.count - segment.first or root_of(leaves) != segment.root:
        return None
    return [
        (
            place,
            PartRecord(
                chain=segment.chain,
                seq=frame.seq,
                record=frame.raw,
                seal=place.entry.body.seq,  # made an index into the part by _part
                path=path_to(leaves, frame.seq - segment.first),
            ),
        )
        for frame in frames
        if request_id in frame.raw and _is_of(decode_record(frame.raw), request_id)
    ]


def _is_of(record: Record, request_id: bytes) -> bool:
    return isinstance(record, RequestRecord) and record.request_id == request_id


def _part(hits: list[tuple[_Place, PartRecord]]) -> SitePart:
    entries = {place.entry.body.seq: place.entry for place, _ in hits}
    order = {seq: index for index, seq in enumerate(sorted(entries))}
    used = [entries[seq] for seq in sorted(entries)]
    return SitePart(
        site=used[0].body.site,
        certificates=tuple(dict.fromkeys(entry.certificate_der for entry in used)),
        seals=tuple(PartSeal(body=e.seal.body, signature=e.seal.signature) for e in used),
        records=tuple(msgspec.structs.replace(hit, seal=order[hit.seal]) for _, hit in hits),
    )


# --- verifying ---------------------------------------------------------------------------------


class ShownRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the receipt, decoded for people."""

    site: str
    chain: str
    seq: int
    kind: str
    sealed_at_s: float
    fields: dict[str, object]
    """The record's fields by name, the request id in hex; for display, not for decisions."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What a receipt proves and what it does not."""

    status: Status
    request_id: str
    entry_site: str
    executing_site: str
    proven: tuple[str, ...]
    """Sentences; empty where the status is unproven."""
    reasons: tuple[str, ...]
    """Why it is unproven."""
    notes: tuple[str, ...]
    not_proven: tuple[str, ...]
    """What no receipt proves."""
    records: tuple[ShownRecord, ...]


def verify_receipt(document: bytes, authority_pem: bytes) -> Verdict:
    """Check a receipt; needs no log, no network and no trust in who handed it over.

    Args:
        document: The receipt as it was given out.
        authority_pem: The fleet's `ca.pem`, obtained by another way than the receipt: it is the trust anchor.
    """
    if len(document) > RECEIPT_BYTES_MAX:
        return _refused("", f"{len(document)} bytes, a receipt has at most {RECEIPT_BYTES_MAX}")
    try:
        authority = x509.load_pem_x509_certificate(authority_pem)
    except ValueError:
        return _refused("", "the trust anchor is no certificate in PEM form")
    try:
        receipt = msgspec.json.decode(document, type=Receipt)
        request_id = bytes.fromhex(receipt.request_id)
    except ValueError as error:
        return _refused("", f"not a receipt: {error}")
    sites = [part.site for part in receipt.parts]
    flaws = [] if len(set(sites)) == len(sites) else ["two parts of the same site"]
    found: list[Found] = []
    shown: list[ShownRecord] = []
    for part in receipt.parts:
        seals, more = _check_seals(part, authority)
        flaws += more
        for held in part.records:
            flaw = _check_record(part, held, seals, request_id, found, shown)
            flaws += [] if flaw is None else [f"site {part.site}, record {held.seq}: {flaw}"]
    return _verdict(receipt.request_id, flaws, found, shown)


def _check_seals(part: SitePart, authority: x509.Certificate) -> tuple[list[SealBody], list[str]]:
    """The part's seals, decoded, and what is wrong with them."""
    flaws: list[str] = []
    bodies: list[SealBody] = []
    certificates = {sha256(der).digest(): der for der in part.certificates}
    for index, held in enumerate(part.seals):
        where = f"site {part.site}, seal {index}"
        try:
            raw = msgspec.msgpack.encode(Seal(body=held.body, signature=held.signature))
            seal, body = decode_seal(raw)
            certificate = read_certificate(certificates[body.certificate_sha256])
            flaw = seal_flaw(seal, body, certificate, authority)
        except KeyError:
            return [], [*flaws, f"{where}: its certificate is not in the receipt"]
        except ValueError as error:
            return [], [*flaws, f"{where}: {error}"]
        bodies.append(body)
        if body.site != part.site:
            flaws.append(f"{where}: is of site {body.site}")
        flaws += [] if flaw is None else [f"{where}: {flaw}"]
    if set(certificates) != {body.certificate_sha256 for body in bodies}:
        flaws.append(f"site {part.site}: a certificate that signed no seal")
    return bodies, flaws


def _check_record(
    part: SitePart,
    held: PartRecord,
    seals: list[SealBody],
    request_id: bytes,
    found: list[Found],
    shown: list[ShownRecord],
) -> str | None:
    """Check one record against its seal; a decoded one joins `found` and `shown`."""
    try:
        record = decode_record(held.record)
    except ValueError as error:
        return f"not a record: {error}"
    if not isinstance(record, RequestRecord) or record.request_id != request_id:
        return "of another request"
    if not 0 <= held.seal < len(seals):
        return "its seal is not in the receipt or not readable"
    body = seals[held.seal]
    segment = next((s for s in body.segments if s.chain == held.chain), None)
    if any((held.chain, held.seq) == (other.chain, other.seq) for other in shown):
        return "stands there twice"
    found.append(Found(part.site, record, leaf=leaf_hash(held.record)))
    shown.append(
        ShownRecord(
            site=part.site,
            chain=held.chain,
            seq=held.seq,
            kind=kind_of(record),
            sealed_at_s=body.at_s,
            fields=msgspec.structs.asdict(record) | {"request_id": request_id.hex()},
        )
    )
    if segment is None or not segment.first <= held.seq < segment.count:
        return "its seal does not cover it"
    index, size = held.seq - segment.first, segment.count - segment.first
    if root_from(leaf_hash(held.record), index, size, held.path) != segment.root:
        return "does not lead to the signed root"
    if record.at_s > body.at_s + CLOCK_SKEW_S_MAX:
        return "younger than its seal"
    return None


def _verdict(
    request_id: str, flaws: list[str], found: list[Found], shown: list[ShownRecord]
) -> Verdict:
    judgement = judge(found)
    reasons = (*flaws, *judgement.reasons)
    status: Status = "unproven" if reasons else judgement.status
    return Verdict(
        status=status,
        request_id=request_id,
        entry_site=judgement.entry_site,
        executing_site=judgement.executing_site,
        proven=() if status == "unproven" else tuple(map(_sentence, found, shown)),
        reasons=reasons,
        notes=judgement.notes,
        not_proven=NOT_PROVEN,
        records=tuple(shown),
    )


def _sentence(found: Found, shown: ShownRecord) -> str:
    """One signed statement, as a person reads it."""
    record, site = found.record, found.site
    if isinstance(record, Decided):
        whose = f"class {record.data_class} of tenant {record.tenant} from {record.country}"
        what = f"that {record.site} serves it with {record.service}/{record.variant}"
        if record.refusal:
            what = f"to refuse it: {record.refusal} ({', '.join(record.rules) or 'no rule'})"
        text = f"decided for {whose}, table {record.table_version}, {what}"
    elif isinstance(record, Executed):
        law = "allows" if record.allowed else "bars"
        did = f"gave it to engine {record.engine}" if record.engine else "sent it back"
        text = f"re-checked that table {record.table_version} {law} it and {did}"
    else:
        text = f"recorded its end: {record.outcome}, {record.tokens_out} tokens out"
    return f"site {site} {text}; signed {max(shown.sealed_at_s - record.at_s, 0.0):.1f} s later"


def _refused(request_id: str, reason: str) -> Verdict:
    return Verdict(
        status="unproven",
        request_id=request_id,
        entry_site="",
        executing_site="",
        proven=(),
        reasons=(reason,),
        notes=(),
        not_proven=NOT_PROVEN,
        records=(),
    )
