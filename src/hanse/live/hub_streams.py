"""The hub's streams as files, and files as streams, by the snapshots that JetStream itself makes and takes.

Here: `save_streams` from a running bus, `load_streams` into a bus. Not here: what else a backup holds (`live.backup`), what the
streams are for (`live.bus`).

A snapshot is of one instant of its stream, with its consumers and how far each had got; writers go on meanwhile. It comes in pieces
to a subject of the asker's, each acknowledged, and ends with an empty one; a restore goes the other way, a request a piece.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nats.aio.client import Client

from hanse.errors import SiteError
from hanse.live.bus import API_S_MAX
from hanse.model.fleet import Value

PIECE_BYTES: Final = 128 * 1024
"""What the server takes by itself."""
PIECE_S_MAX: Final = 30.0
"""A disk under load; afterwards the server has given up too."""
NO_CONTENT: Final = "204"


class SavedStream(Value, frozen=True, kw_only=True):
    """What a restore has to know of a stream beside its bytes."""

    name: str
    messages: int
    last_seq: int
    request: str
    """JSON of configuration and state, as the server gave them and wants them back."""


async def stream_names(client: Client) -> list[str]:
    """All streams of the account."""
    answer = await _ask(client, "$JS.API.STREAM.NAMES", {})
    return sorted(answer.get("streams") or [])


async def save_streams(client: Client, folder: Path) -> list[SavedStream]:
    """Write each stream to `<folder>/<name>`.

    Raises:
        SiteError: the bus did not answer, or gave up in the middle.
    """
    return [await _save(client, name, folder / name) for name in await stream_names(client)]


async def _save(client: Client, name: str, path: Path) -> SavedStream:
    subject = client.new_inbox()
    pieces: asyncio.Queue[Any] = asyncio.Queue()
    listening = await client.subscribe(subject, cb=pieces.put)
    try:
        asked = {"deliver_subject": subject, "chunk_size": PIECE_BYTES}
        answer = await _ask(client, f"$JS.API.STREAM.SNAPSHOT.{name}", asked)
        with path.open("wb") as file:
            while True:
                async with asyncio.timeout(PIECE_S_MAX):
                    piece = await pieces.get()
                if not piece.data:
                    break
                file.write(piece.data)
                if piece.reply:
                    await client.publish(piece.reply, b"")
    except TimeoutError:
        raise SiteError(f"stream {name}", got="a snapshot that stopped", fix="try again") from None
    finally:
        await listening.unsubscribe()
    status = (piece.headers or {}).get("Status", NO_CONTENT)
    if not status.startswith(NO_CONTENT):
        raise SiteError(f"stream {name}", got=f"snapshot ended with {status}", fix="try again")
    state = answer["state"]
    return SavedStream(
        name=name,
        messages=int(state["messages"]),
        last_seq=int(state["last_seq"]),
        request=json.dumps({"config": answer["config"], "state": state}),
    )


async def load_streams(client: Client, saved: list[SavedStream], folder: Path) -> None:
    """Make streams of what `save_streams` wrote; none of them may be there.

    Raises:
        SiteError: the server did not take one.
    """
    for stream in saved:
        subject = f"$JS.API.STREAM.RESTORE.{stream.name}"
        answer = await _ask(client, subject, json.loads(stream.request))
        deliver = answer["deliver_subject"]
        for piece in _pieces(folder / stream.name):
            told = await client.request(deliver, piece, timeout=PIECE_S_MAX)
            if told.data:
                _checked(deliver, json.loads(told.data))
        done = await client.request(deliver, b"", timeout=PIECE_S_MAX)
        state = _checked(subject, json.loads(done.data))["state"]
        if (state["messages"], state["last_seq"]) != (stream.messages, stream.last_seq):
            raise SiteError(
                f"stream {stream.name}",
                got=f"{state['messages']} messages up to {state['last_seq']}",
                allowed=f"{stream.messages} up to {stream.last_seq}",
            )


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


async def _ask(client: Client, subject: str, asked: dict[str, Any]) -> dict[str, Any]:
    try:
        answer = await client.request(subject, json.dumps(asked).encode(), timeout=API_S_MAX)
    except Exception as error:
        raise SiteError(subject, got=repr(error), allowed="an answer of the hub's bus") from error
    return _checked(subject, json.loads(answer.data))


def _checked(subject: str, answer: dict[str, Any]) -> dict[str, Any]:
    if answer.get("error"):
        raise SiteError(subject, got=str(answer["error"].get("description")))
    return answer
