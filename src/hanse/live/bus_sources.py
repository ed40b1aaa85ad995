"""Keeps streams flowing between JetStream domains after cuts: a watch that restarts stalled sources.

Here: `watch_sources`, run by the controller for EVIDENCE and by each site's agent for TABLES. Not
here: the streams themselves (`live.bus`).

Why. A NATS server that asks for a source's consumer waits 30 s for an answer that a cut swallowed, and
backs off further after each failure, so a stream may stand still for half a minute after its link is
back. A source that flows is heard from every second (its consumer's heartbeat). So: the other domain
answers, and the source was silent for `SILENT_S_MAX`: take the source out of the stream and put it in
again. The server then looks up in the stored messages where it was and goes on from there; nothing is
skipped or doubled.

A hub that lost its disk counts its tables from 1 again, while a leaf waits for the one after the last it
knows. A table is whole by itself, so there the leaf's copy is emptied and read anew (`standalone`).
Evidence is a sequence, so there nothing is ever emptied.

The same for an origin that was restored from a backup: it counts on where the backup ended, but to a server of 2.15 it is another stream, and
a source that says where it was is refused ("consumer's stream identity does not match", error 10225) as often as it is put in again.
Nobody tells the leaf, so it is known by that: put in again `IN_VAIN_MAX` times, never heard, and the origin has what is missing here.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import re
from collections.abc import Callable
from typing import Any, Final

from nats.aio.client import Client

from hanse.live.keep_on import end_if_cancelled

SILENT_S_MAX: Final = 3.0
"""Three missed heartbeats."""
CHECK_EVERY_S: Final = 1.0
ANSWER_S_MAX: Final = 1.0
"""The longest RTT on earth is under 0.4 s; later means cut or overloaded, and either way: next time."""
NS_PER_S: Final = 1e9
IN_VAIN_MAX: Final = 4
"""A source that may flow does so after one; the others are for an origin that has just started."""
RESET_CHECKED_EVERY: Final = 5
"""Checks between two looks at where the origin counts: each is a question across the WAN."""

_SOURCE_SEQ = re.compile(rb"Nats-Stream-Source: \S+ (\d+)")
"""Header of a sourced message: name of the source, sequence there, filter and more."""


async def watch_sources(
    client: Client,
    stream: str,
    *,
    standalone: bool = False,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Check every second, for ever; a server that is away is simply asked again.

    Args:
        client: Connected to the server that holds the stream.
        stream: Its name.
        standalone: Each message is whole by itself, and there is one source: when the origin counts
            from 1 again, follow it.
        wanted: Whether it is this process's turn: of several hubs one watches.
    """
    watch = SourceWatch(client, stream)
    for turn in itertools.count():
        if wanted():
            with contextlib.suppress(Exception):
                await watch.check()
                due = turn % RESET_CHECKED_EVERY == 0 or watch.in_vain >= IN_VAIN_MAX
                if standalone and due:
                    await watch.follow_reset()
        end_if_cancelled()
        await asyncio.sleep(CHECK_EVERY_S)


class SourceWatch:
    """The sources of one stream of the connected server."""

    def __init__(self, client: Client, stream: str) -> None:
        self._client = client
        self._stream = stream
        self.restarts_total = 0
        self.in_vain = 0
        """Checks in a row that found a silent source whose origin answers."""

    async def check(self) -> list[str]:
        """Restart every silent source whose origin answers; returns their API prefixes."""
        info = await self._ask(f"$JS.API.STREAM.INFO.{self._stream}")
        if info is None:
            return []
        silent = [source for source in info.get("sources", []) if _is_silent(source)]
        answers = await asyncio.gather(*(self._answers(source) for source in silent))
        restarted = [
            str(source["external"]["api"])
            for source, there in zip(silent, answers, strict=True)
            if there
        ]
        self.in_vain = self.in_vain + 1 if restarted else 0
        if restarted:
            await self._restart(info["config"], restarted)
            self.restarts_total += len(restarted)
        return restarted

    async def follow_reset(self) -> bool:
        """Empty the stream and read its source anew where the origin is behind what we have of it, or ahead and will not say what it has."""
        info = await self._ask(f"$JS.API.STREAM.INFO.{self._stream}")
        if info is None or not info["state"]["messages"] or len(info.get("sources", [])) != 1:
            return False
        source = info["sources"][0]
        request = {"seq": info["state"]["last_seq"]}
        newest = await self._ask(f"$JS.API.STREAM.MSG.GET.{self._stream}", request)
        origin = await self._ask(_info_subject(source))
        if newest is None or origin is None:
            return False
        headers = base64.b64decode(newest["message"].get("hdrs", ""))
        known = _SOURCE_SEQ.search(headers)
        if known is None:
            return False
        ours, theirs = int(known[1]), int(origin["state"]["last_seq"])
        refused = theirs > ours and self.in_vain >= IN_VAIN_MAX
        if ours <= theirs and not refused:
            return False
        self.in_vain = 0
        await self._ask(f"$JS.API.STREAM.PURGE.{self._stream}")
        await self._restart(info["config"], [source["external"]["api"]])
        return True

    async def _answers(self, source: dict[str, Any]) -> bool:
        return await self._ask(_info_subject(source)) is not None

    async def _restart(self, config: dict[str, Any], apis: list[str]) -> None:
        kept = [s for s in config["sources"] if s.get("external", {}).get("api") not in apis]
        update = f"$JS.API.STREAM.UPDATE.{self._stream}"
        await self._ask(update, config | {"sources": kept})
        await self._ask(update, config)

    async def _ask(self, subject: str, payload: dict[str, Any] | None = None) -> Any:
        """The answer's body; None where there is none, or an error."""
        data = b"" if payload is None else json.dumps(payload).encode()
        try:
            answer = await self._client.request(subject, data, timeout=ANSWER_S_MAX)
        except Exception:
            return None
        body = json.loads(answer.data)
        return None if "error" in body else body


def _info_subject(source: dict[str, Any]) -> str:
    return f"{source['external']['api']}.STREAM.INFO.{source['name']}"


def _is_silent(source: dict[str, Any]) -> bool:
    """`active` is the time since it was last heard, -1 where it never was."""
    active_ns = float(source.get("active", -1))
    return "external" in source and (active_ns < 0 or active_ns > SILENT_S_MAX * NS_PER_S)
