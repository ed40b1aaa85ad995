"""What a client's connection needs of others.

Here: `Door`, its port, and `Running`, whoever answers its request. Not here: the connection (`incoming`), what is asked (`doors`, `entry`, `hop`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from hanse.live.gateway.heads import Heads, KnownHead
    from hanse.live.gateway.incoming import Incoming, Limits


class Running(Protocol):
    """Whatever is answering a request on this connection."""

    def client_gone(self) -> None: ...
    def client_paused(self) -> None: ...
    def client_resumed(self) -> None: ...


class Door(Protocol):
    """What a port does with requests."""

    limits: Limits
    open_connections: set[Incoming]
    date_line: bytes
    heads: Heads[KnownHead]
    """Heads of whole requests of this port; empty where none is ever learned."""

    def known_read(self, link: Incoming, known: KnownHead, body: bytes) -> bool:
        """A whole request with a known head: answer it, now or later. False, and nothing is changed: read it as any other."""

    def head_read(self, link: Incoming) -> None:
        """Headers are complete: refuse (by `link.refuse`) or set `link.body_bytes_max`."""

    def request_read(self, link: Incoming) -> None:
        """The body is complete too: answer, now or later."""
