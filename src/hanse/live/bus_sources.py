"""Keeps streams flowing between JetStream domains after cuts: a watch that restarts stalled sources.

Here: `watch_sources`, run by the controller for EVIDENCE and by each site group for TABLES. Not
here: the streams themselves (`live.bus`).

Why. A NATS server that asks for a source's consumer waits 30 s for an answer that a cut swallowed, and
backs off further after each failure, so a stream may stand still for half a minute after its link is
back. A source that flows is heard from every second (its consumer's heartbeat). So: the other domain
answers, and the source was silent for `SILENT_S_MAX`: take the source out of the stream and put it in
again. The server then looks up in the stored messages where it was and goes on from there; nothing is
skipped or doubled.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any, Final

from nats.aio.client import Client

SILENT_S_MAX: Final = 3.0
"""Three missed heartbeats."""
CHECK_EVERY_S: Final = 1.0
ANSWER_S_MAX: Final = 1.0
"""The longest RTT on earth is under 0.4 s; later means cut or overloaded, and either way: next time."""
NS_PER_S: Final = 1e9


async def watch_sources(client: Client, stream: str) -> None:
    """Check every second, for ever; a server that is away is simply asked again."""
    watch = SourceWatch(client, stream)
    while True:
        with contextlib.suppress(Exception):
            await watch.check()
        await asyncio.sleep(CHECK_EVERY_S)


class SourceWatch:
    """The sources of one stream of the connected server."""

    def __init__(self, client: Client, stream: str) -> None:
        self._client = client
        self._stream = stream
        self.restarts_total = 0

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
        if restarted:
            await self._restart(info["config"], restarted)
            self.restarts_total += len(restarted)
        return restarted

    async def _answers(self, source: dict[str, Any]) -> bool:
        subject = f"{source['external']['api']}.STREAM.INFO.{source['name']}"
        return await self._ask(subject) is not None

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


def _is_silent(source: dict[str, Any]) -> bool:
    """`active` is the time since it was last heard, -1 where it never was."""
    active_ns = float(source.get("active", -1))
    return "external" in source and (active_ns < 0 or active_ns > SILENT_S_MAX * NS_PER_S)
