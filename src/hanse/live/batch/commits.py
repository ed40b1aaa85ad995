"""The stream in which each line of a batch is committed once.

Here: BATCH, a JetStream stream of the home's own leaf (domain = site id), one subject a line: `batch.<batch>.<line>`. A commit expects that
nothing was ever stored under its subject (`Nats-Expected-Last-Subject-Sequence: 0`), so the first of several runs wins, whoever sends
it. Not here: what a result looks like (`results`), the hub: the stream is in the leaf's own account, in which no other server takes
part (`live.bus`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeoutError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError, NotFoundError

from hanse.errors import SiteError
from hanse.live.batch.values import Tally
from hanse.live.bus import BATCH, BATCH_SUBJECTS

API_S_MAX: Final = 5.0
FETCH: Final = 200
FETCH_BYTES: Final = 16 * 1024**2
"""Asked for at once, of contents. A server closes a connection on which more than 64 MiB wait to be read."""
CONTENTS_AT_ONCE: Final = 3
"""Single contents on their way at a time where some are large: 11 MiB each at most, as the server writes them, beside what is fetched."""
LARGE_BYTES: Final = 256 * 1024
"""Where no content has more, a standby's copy waits for as many at a time as it asks for."""
SIZE: Final = "Nats-Msg-Size"
"""JetStream's header of a message that comes without its content."""
HEAD_BYTES: Final = 1024
"""What subject and headers of a commit take, generously."""
WRONG_LAST_SEQUENCE: Final = 10071
"""JetStream's error code: the subject has another last message than was expected."""
STORE_FAILED: Final = 10077
"""JetStream's error code: it could not be stored; whether because the stream is full is said in words only."""
FULL: Final = "maximum bytes exceeded"
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"
NOTE: Final = "Hanse-Note"
STREAM_BYTES_MAX: Final = 4 * 1024**3
"""Half of what a leaf may store; when it is full new commits are refused until the batch that takes most of it has failed (`runner`)."""


class StreamFull(SiteError):
    """There is no room for one more commit."""


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a commit beside its content: a header of its message."""

    run: str
    """Which run it was, to know one's own commit again."""
    ok: bool
    tokens_in: int = 0
    tokens_out: int = 0
    wh: float = 0.0
    g: float = 0.0
    usd: float = 0.0
    extra_runs: int = 0
    extra_wh: float = 0.0


_encode_note = msgspec.json.Encoder().encode
_decode_note = msgspec.json.Decoder(Note).decode


def add(tally: Tally, note: Note) -> Tally:
    """The sums with one more commit."""
    return Tally(
        completed=tally.completed + (1 if note.ok else 0),
        failed=tally.failed + (0 if note.ok else 1),
        tokens_in=tally.tokens_in + note.tokens_in,
        tokens_out=tally.tokens_out + note.tokens_out,
        energy_wh=tally.energy_wh + note.wh,
        carbon_g=tally.carbon_g + note.g,
        cost_usd=tally.cost_usd + note.usd,
        extra_runs=tally.extra_runs + note.extra_runs,
        extra_wh=tally.extra_wh + note.extra_wh,
    )


class Commits:
    """One home's stream."""

    def __init__(self, client: Client) -> None:
        self._js = client.jetstream(timeout=API_S_MAX)
        self._fetching = asyncio.Lock()
        self._contents = asyncio.Semaphore(CONTENTS_AT_ONCE)
        self._largest = 0
        """Bytes of the largest content that was committed or noted here."""

    async def ensure(self) -> None:
        """Make the stream where it is missing."""
        config = StreamConfig(
            name=BATCH,
            subjects=[BATCH_SUBJECTS],
            storage=StorageType.FILE,
            discard=DiscardPolicy.NEW,
            max_bytes=STREAM_BYTES_MAX,
        )
        try:
            await self._js.stream_info(BATCH)
        except NotFoundError:
            await self._js.add_stream(config)

    async def commit(self, batch_id: str, line: int, payload: bytes, note: Note) -> Note:
        """Commit a line; the note of the run that is committed, this one or an earlier. After a `SiteError`, call again with the same arguments.

        Raises:
            StreamFull: it is not stored, since there is no room.
            SiteError: the stream did not answer, so whether it is stored is unknown.
        """
        headers = {EXPECTED: "0", NOTE: _encode_note(note).decode()}
        subject = f"batch.{batch_id}.{line}"
        self._largest = max(self._largest, len(payload))
        try:
            await self._js.publish(subject, payload, headers=headers)
        except APIError as error:
            if error.err_code == STORE_FAILED and FULL in str(error.description):
                raise StreamFull(subject, got=FULL, fix="make room, then send it again") from error
            if error.err_code != WRONG_LAST_SEQUENCE:
                raise SiteError(subject, got=str(error), fix="send it again") from error
            return await self._stored(subject)
        except (TimeoutError, NatsError, OSError) as error:
            raise SiteError(subject, got=repr(error), fix="send it again") from error
        return note

    async def _stored(self, subject: str) -> Note:
        """A commit whose answer was lost is found again by its run."""
        try:
            async with self._few():
                stored = await self._js.get_last_msg(BATCH, subject)
        except (TimeoutError, NatsError, OSError) as error:
            raise SiteError(subject, got=repr(error), fix="send it again") from error
        return _note_of(stored.headers)

    async def notes(self, batch_id: str) -> AsyncIterator[tuple[int, Note]]:
        """(line, note) of every commit, without contents."""
        async for message in self._messages(batch_id):
            self._largest = max(self._largest, int((message.headers or {})[SIZE]))
            yield _line_of(message), _note_of(message.headers)

    async def read(self, batch_id: str) -> AsyncIterator[tuple[int, Note, bytes]]:
        """(line, note, content) of every commit, in the order of committing."""
        sizes = await self._sizes(batch_id)
        async for message in self._messages(batch_id, sizes):
            yield _line_of(message), _note_of(message.headers), bytes(message.data)

    async def stored_bytes(self, batch_id: str) -> int:
        """What the contents of a batch's commits take.

        Raises:
            SiteError: the stream did not answer.
        """
        return sum(await self._sizes(batch_id))

    async def _sizes(self, batch_id: str) -> list[int]:
        return [int((one.headers or {})[SIZE]) async for one in self._messages(batch_id)]

    def _few(self) -> AbstractAsyncContextManager[None]:
        return self._contents if self._largest > LARGE_BYTES else nullcontext()

    async def forget(self, batch_id: str) -> None:
        """Remove the commits of a batch whose output is on disk.

        Raises:
            SiteError: the stream did not answer.
        """
        try:
            await self._js.purge_stream(BATCH, subject=f"batch.{batch_id}.*")
        except (TimeoutError, NatsError, OSError) as error:
            raise SiteError(batch_id, got=repr(error), fix="forget it again") from error

    async def content(self, batch_id: str, line: int) -> bytes | None:
        """What is committed of a line; None where nothing is.

        Raises:
            SiteError: the stream did not answer.
        """
        subject = f"batch.{batch_id}.{line}"
        try:
            async with self._few():
                return bytes((await self._js.get_last_msg(BATCH, subject)).data or b"")
        except NotFoundError:
            return None
        except (TimeoutError, NatsError, OSError) as error:
            raise SiteError(subject, got=repr(error), fix="ask again") from error

    async def _messages(self, batch_id: str, sizes: list[int] | None = None) -> AsyncIterator[Msg]:
        """Its commits in the order of committing: with contents where their sizes are known, else without."""
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE, headers_only=sizes is None, inactive_threshold=60.0
        )
        subject = f"batch.{batch_id}.*"
        try:
            reading = await self._js.pull_subscribe(subject, stream=BATCH, config=config)
            try:
                at, end = 0, (await reading.consumer_info()).num_pending or 0
                while at < end:
                    count = FETCH if sizes is None else fitting(sizes, at)
                    async with self._fetching:
                        messages = await reading.fetch(min(end - at, count), timeout=API_S_MAX)
                    at += len(messages)
                    for message in messages:
                        yield message
            finally:
                await reading.unsubscribe()
        except (NatsError, NatsTimeoutError, OSError) as error:
            raise SiteError(subject, got=repr(error), fix="read it again") from error


def fitting(sizes: list[int], at: int) -> int:
    """How many contents from one on may be asked for at once: one at least, and one where no size is known."""
    count, size = 0, 0
    for content_bytes in sizes[at : at + FETCH]:
        size += content_bytes + HEAD_BYTES
        if size > FETCH_BYTES:
            break
        count += 1
    return max(count, 1)


def _line_of(message: Msg) -> int:
    return int(message.subject.rpartition(".")[2])


def _note_of(headers: dict[str, Any] | None) -> Note:
    return _decode_note((headers or {})[NOTE])
