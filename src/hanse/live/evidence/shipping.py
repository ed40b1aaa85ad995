"""Shipping: the log on its way to a copy at the hub, in order and exactly once.

Here: what to send next, what has arrived, and the receiving end. Not here: NATS (the agent publishes `pending`, with the subject's
expected last sequence, and calls `acked`).

A message is a list of pieces (file, offset, bytes). Messages are numbered from 1 and follow from the seal log alone: for each
seal, the chain bytes it covers, then the seal. So a sender that lost its memory makes the same messages again, and a receiver
that has them already compares instead of writing. A copy never holds a record that no seal covers, and is never overwritten:
what a site ships twice in two versions is refused, which makes the hub a witness.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec

from hanse.errors import SiteError
from hanse.live.evidence.chain import GENESIS
from hanse.live.evidence.seal import SEALS_NAME, SealEntry, SealPlace, SealReader
from hanse.model.fleet import Id

MESSAGE_BYTES_MAX: Final = 512 * 1024
"""Half of the bus's default payload limit of 1 MiB."""
MESSAGES_MAX: Final = 16
"""Handed out at once: 8 MiB, a second's worth of a 64 Mbit/s link."""
_STATE_NAME: Final = "shipped"
_FILE_PATTERN: Final = r"^([a-z0-9][a-z0-9-]{0,62}-\d{1,6}-[0-9a-f]{8,32}|seals)\.log$"


class Piece(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bytes of one file."""

    file: Annotated[str, msgspec.Meta(pattern=_FILE_PATTERN)]
    offset: Annotated[int, msgspec.Meta(ge=0)]
    data: bytes


class Message(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of `site.<id>.evidence`."""

    schema: Literal["hanse-evidence/1"] = "hanse-evidence/1"
    site: Id
    seq: Annotated[int, msgspec.Meta(ge=1)]
    pieces: tuple[Piece, ...]


class _Position(msgspec.Struct, frozen=True, kw_only=True):
    """How far a log is shipped: `seq` messages, ending with part `part` of seal `seal`."""

    seq: int = 0
    seal: int = 0
    part: int = 0
    log_end: int = 0
    """Of the seal before `seal`, in the seal log; with the head after it, so that the log is not read from the beginning."""
    head: bytes = GENESIS


class _Range(msgspec.Struct, frozen=True):
    """Bytes to read when the message is made."""

    file: str
    start: int
    end: int


class ChainShipper:
    """The sending end's memory; one per evidence directory, beside its sealer."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._state = directory / _STATE_NAME
        self._acked = _Position()
        if self._state.exists():
            self._acked = self._placed(_read_position(self._state))
        self._sent: dict[int, _Position] = {}

    @property
    def acked_seq(self) -> int:
        """The last message that has arrived."""
        return self._acked.seq

    def pending(self, after_seq: int) -> list[bytes]:
        """The messages `after_seq + 1`, `after_seq + 2`, ... that are ready, at most `MESSAGES_MAX`.

        Args:
            after_seq: The last message already handed over; at least `acked_seq`.
        """
        assert after_seq >= self._acked.seq
        messages: list[bytes] = []
        for position, site, ranges in self._plan(self._sent.get(after_seq, self._acked)):
            if position.seq <= after_seq:
                continue
            pieces = tuple(p for p in map(self._read, ranges) if p is not None)
            messages.append(
                msgspec.msgpack.encode(Message(site=site, seq=position.seq, pieces=pieces))
            )
            self._sent[position.seq] = position
            if len(messages) == MESSAGES_MAX:
                break
        return messages

    def acked(self, seq: int) -> None:
        """The hub has everything up to and with `seq`; remembered over restarts."""
        if seq <= self._acked.seq:
            return
        position = self._sent.get(seq)
        if position is None:
            # The hub knows more than this memory does: the state file was lost. Find the place again.
            plan = self._plan(self._acked)
            position = next((p for p, _, _ in plan if p.seq == seq), None)
        if position is None:
            raise SiteError(
                str(self._state),
                got=f"message {seq} acknowledged, which this log does not have",
                fix="the hub holds a longer log of this site: audit both before going on",
            )
        self._keep(position)
        self._sent = {s: p for s, p in self._sent.items() if s > seq}

    def lacks(self, held_until: int) -> bool:
        """Whether a receiver that has so many bytes of the seal log lacks what was acknowledged."""
        return held_until < self._acked.log_end

    def next_after(self, held_until: int) -> int:
        """Number of the first message that a receiver lacks who has so many bytes of the seal log."""
        return self._after(held_until).seq + 1

    def messages_after(self, held_until: int, bytes_max: int) -> list[bytes]:
        """What a receiver lacks who has so many bytes of the seal log, as much as fits, one message at least; nothing is remembered of it."""
        messages: list[bytes] = []
        size = 0
        for position, site, ranges in self._plan(self._after(held_until)):
            pieces = tuple(p for p in map(self._read, ranges) if p is not None)
            made = msgspec.msgpack.encode(Message(site=site, seq=position.seq, pieces=pieces))
            size += len(made)
            if messages and size > bytes_max:
                break
            messages.append(made)
        return messages

    def rewind(self, held_until: int) -> bool:
        """Begin again after what the receiver has; False: it has not less than was acknowledged.

        What is sent twice is compared there and no more. Of chains that were deleted by rule meanwhile only the seals can be sent.

        Args:
            held_until: Bytes of the seal log that it has.
        """
        position = self._after(held_until)
        if position.seal >= self._acked.seal:
            return False
        self._keep(position)
        self._sent.clear()
        return True

    def _after(self, held_until: int) -> _Position:
        """After all seals that so many bytes of the seal log hold; read from the beginning, and rarely asked."""
        last = _Position()
        for position, _, _ in self._plan(_Position()):
            if position.part == 0:
                if position.log_end > held_until:
                    break
                last = position
        return last

    def _placed(self, known: _Position) -> _Position:
        """One that an earlier release kept says nothing of the place in the log."""
        if known.seal == 0 or known.log_end:
            return known
        for position, _, _ in self._plan(_Position()):
            if position.seq == known.seq:
                return position
        return known if known.seq == 0 else _Position()

    def _plan(self, at: _Position) -> Iterator[tuple[_Position, str, list[_Range]]]:
        """The messages after a position, in order, from what the seals say about bytes."""
        place = SealPlace(seals=at.seal, head=at.head, bytes_end=at.log_end)
        seq, start, head, first = at.seq, at.log_end, at.head, at.part
        for entry in SealReader(self._directory / SEALS_NAME, place):
            index, parts = entry.body.seq, _parts(entry, start)
            for part in range(first, len(parts)):
                seq += 1
                if part + 1 == len(parts):
                    end = entry.frame.bytes_end
                    position = _Position(
                        seq=seq, seal=index + 1, log_end=end, head=entry.frame.head
                    )
                else:
                    position = _Position(
                        seq=seq, seal=index, part=part + 1, log_end=start, head=head
                    )
                yield position, entry.body.site, parts[part]
            start, head, first = entry.frame.bytes_end, entry.frame.head, 0

    def _keep(self, position: _Position) -> None:
        draft = self._state.with_name(_STATE_NAME + ".new")
        draft.write_bytes(msgspec.json.encode(position))
        os.replace(draft, self._state)
        self._acked = position

    def _read(self, piece: _Range) -> Piece | None:
        """None: its chain is here no more."""
        path = self._directory / piece.file
        if not path.exists() and piece.file != SEALS_NAME:
            return None
        with path.open("rb") as file:
            file.seek(piece.start)
            data = file.read(piece.end - piece.start)
        if len(data) != piece.end - piece.start:
            raise SiteError(
                str(self._directory / piece.file),
                got=f"cut off before byte {piece.end}",
                fix="keep the directory for `hanse audit`",
            )
        return Piece(file=piece.file, offset=piece.start, data=data)


def _read_position(path: Path) -> _Position:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Position)
    except ValueError:
        return _Position()  # start over: the receiver compares what it has


def _parts(entry: SealEntry, seal_start: int) -> list[list[_Range]]:
    """One seal's bytes, cut into messages that are small enough."""
    parts: list[list[_Range]] = [[]]
    room = MESSAGE_BYTES_MAX
    ranges = [(f"{s.chain}.log", s.bytes_start, s.bytes_end) for s in entry.body.segments]
    ranges.append((SEALS_NAME, seal_start, entry.frame.bytes_end))
    for file, start, end in ranges:
        while start < end:
            if room == 0:
                parts.append([])
                room = MESSAGE_BYTES_MAX
            size = min(room, end - start)
            parts[-1].append(_Range(file, start, start + size))
            start, room = start + size, room - size
    return parts


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """What the receiving end did with a message."""

    outcome: Literal["stored", "known", "gap", "conflict", "malformed"]
    """`known`: had it, the same; `gap`: messages before it are missing; `conflict`: another version of what is held."""
    site: str = ""
    seq: int = 0
    detail: str = ""


class EvidenceCopy:
    """The receiving end: `<directory>/<site>/` for each site, byte for byte what the site sealed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def accept(self, data: bytes, site: str) -> Received:
        """Store one message.

        Args:
            data: The payload.
            site: Whose subject it came on; the bus lets a site publish under its own prefix only.
        """
        try:
            message = msgspec.msgpack.decode(data, type=Message)
        except ValueError as error:
            return Received(outcome="malformed", site=site, detail=str(error))
        if message.site != site:
            return Received(outcome="malformed", site=site, detail=f"speaks for {message.site}")
        home = self._directory / site
        if (missing := _gap(home, message)) is not None:
            return Received(outcome="gap", site=site, seq=message.seq, detail=missing)
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        outcome: Literal["stored", "known"] = "known"
        for piece in message.pieces:
            one = _store(home / piece.file, piece)
            if one == "conflict":
                return Received(outcome=one, site=site, seq=message.seq, detail=piece.file)
            outcome = "stored" if one == "stored" else outcome
        return Received(outcome=outcome, site=site, seq=message.seq)


def _gap(home: Path, message: Message) -> str | None:
    """The first file of which bytes before the message's are missing: then nothing of it is stored, for its seal could not be."""
    ends: dict[str, int] = {}
    for piece in message.pieces:
        if piece.file not in ends:
            path = home / piece.file
            ends[piece.file] = path.stat().st_size if path.exists() else 0
        if piece.offset > ends[piece.file]:
            return piece.file
        ends[piece.file] = max(ends[piece.file], piece.offset + len(piece.data))
    return None


def _store(path: Path, piece: Piece) -> Literal["stored", "known", "conflict"]:
    """Append what is new of a piece, which has no gap before it; compare what is not."""
    fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        assert piece.offset <= size, "looked at before"
        file.seek(piece.offset)
        held = file.read(len(piece.data))
        if held != piece.data[: len(held)]:
            return "conflict"
        if len(held) == len(piece.data):
            return "known"
        file.write(piece.data[len(held) :])  # at the end: `held` reached it
    return "stored"
