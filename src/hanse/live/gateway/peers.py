"""Other sites' hop ports: connections with a session, and checks twice a second.

Here: `PeerTarget` (mutual TLS, the envelope session of its certificate), `Peer` (checks: load and liveness travel on the data path,
so they survive the hub), one-off questions. Not here: forwarding requests (`entry`), what load means (`dispatch.load`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import time
from typing import TYPE_CHECKING

from hanse.live.gateway.frames import LoadFrame, read_json
from hanse.live.gateway.outgoing import Outgoing, Question, Target
from hanse.live.identity import HopSession, Identity, host_name, peer_session

if TYPE_CHECKING:
    import ssl

CHECK_MISSES_LOST = 3
"""Unanswered checks in a row before a peer counts as unreachable: 1.5 s, within the 2 s of stale load."""


class PeerTarget(Target):
    """A peer's hop port."""

    def __init__(
        self,
        site: str,
        address: str,
        identity: Identity,
        tls: ssl.SSLContext,
        loop: asyncio.AbstractEventLoop,
        *,
        trusts: Callable[[bytes | None], bool],
    ) -> None:
        super().__init__(f"https://{address}", loop, tls=tls, server_name=host_name(site))
        self.site = site
        self.session: HopSession | None = None
        """Known after the first handshake; the certificate must name the site that was dialled."""
        self._identity = identity
        self._trusts = trusts
        self.on_connect = self._meet

    def _meet(self, out: Outgoing) -> None:
        tls = out.transport.get_extra_info("ssl_object")
        if tls is None or not self._trusts(tls.getpeercert(binary_form=True)):
            self.session = None
            out.transport.abort()
            return
        session = peer_session(self._identity, tls, dialled=True)
        if session is not None and session.serving_site == self.site:
            self.session = session


class Peer:
    """The checks of one peer."""

    def __init__(
        self,
        target: PeerTarget,
        heard: Callable[[LoadFrame, str, float], None],
        lost: Callable[[str], None],
    ) -> None:
        self.target = target
        self.rtt_ms = 0.0
        """Of the last check, on a kept connection; 0 before the first."""
        self._heard = heard
        self._lost = lost
        self._misses = 0
        self._asked: Question | None = None
        self._asked_at_s = 0.0

    def check(self) -> None:
        """Every 500 ms: the last check's time is over, ask again."""
        if self._asked is not None:
            self._asked.drop()
            self._missed()
        self._asked_at_s = time()
        self._asked = Question(b"/hanse/v1/check", self._answered)
        self.target.send(self._asked, fresh=self._misses > 0)

    @property
    def silent(self) -> bool:
        """Whether so many checks in a row were missed that the peer counts as gone."""
        return self._misses >= CHECK_MISSES_LOST

    def _answered(self, status: int, body: bytes) -> None:
        self._asked = None
        frame = read_json(body) if status == 200 else None
        if frame is None:
            self._missed()
            if status == 0:
                self._lost(self.target.site)
            return
        now_s = time()
        self._misses = 0
        self.rtt_ms = (now_s - self._asked_at_s) * 1000.0
        self._heard(frame, self.target.site, now_s)

    def _missed(self) -> None:
        self._misses += 1
        if self.silent:
            self._lost(self.target.site)
