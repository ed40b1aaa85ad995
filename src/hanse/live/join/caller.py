"""One connection at the door: who says nothing, or holds many, keeps no other out.

Here: how long a request may take to arrive, and how many connections one address may hold. Not here: how many are answered at once,
what is answered (`join.door`).
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

ARRIVES_S_MAX: Final = 10.0
"""A request is a few kB; a connection that waits longer for the rest of one, or for another, is closed within twice that."""
OF_AN_ADDRESS_MAX: Final = 8
"""A quarter of what is answered at once: sites behind one address join one after the other."""


class Caller(H11Protocol):
    """A connection that is closed where nothing comes."""

    _due: asyncio.TimerHandle | None = None
    _seen: Any = None
    """The request at the last look."""
    _waited: bool = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        address = self.client and self.client[0]
        held = sum(bool(c.client) and c.client[0] == address for c in self.connections)  # type: ignore[union-attr,index]
        if held > OF_AN_ADDRESS_MAX:
            transport.abort()
        else:
            self._due = self.loop.call_later(ARRIVES_S_MAX, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._due is not None:
            self._due.cancel()
        super().connection_lost(exc)

    def _look(self) -> None:
        cycle: Any = self.cycle  # None before the first request, whatever is annotated
        waits = cycle is None or cycle.response_complete or cycle.more_body
        if waits and self._waited and cycle is self._seen:
            self.transport.abort()
            return
        self._waited, self._seen = waits, cycle
        self._due = self.loop.call_later(ARRIVES_S_MAX, self._look)
