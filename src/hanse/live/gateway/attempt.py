"""One try of a request at one engine or one peer.

Here: `Attempt`: it owns the connection, knows its deadline until the first byte, and hands what it hears to its exchange. Not
here: choosing (`routing`), what the client gets (`exchange`).

    queued --evidence on disk--> sent --first byte--> won --end--> settled
    queued, sent --refused, failed, late, client gone--> settled
    won --breaks--> settled, and another attempt may go on

Every attempt is settled exactly once; that is when its load and its Wh are booked. All attempts are charged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from hanse.live.gateway.outgoing import Outgoing, Target

if TYPE_CHECKING:
    from hanse.dispatch.load import Load
    from hanse.live.gateway.engines import Engine
    from hanse.live.gateway.exchange import Exchange
    from hanse.live.gateway.heads import KnownAnswer
    from hanse.live.gateway.routing import OfferRow

HOLD_BYTES = 1024 * 1024
"""A plain answer up to this size waits for its end, so that its head can carry measured values."""
HOLD_BYTES_MAX = 8 * 1024 * 1024
"""A larger one too, up to this size, while a worker holds no more than `HOLD_ALL_BYTES_MAX` beyond that."""
HOLD_ALL_BYTES_MAX = 128 * 1024 * 1024

RETRY_STATUS = frozenset((500, 502, 503, 504, 529))
"""Answers that say something about the engine and nothing about the request."""


class Attempt(msgspec.Struct, eq=False):
    """See the module; implements `outgoing.Owner`."""

    exchange: Exchange
    offer: OfferRow
    engine: int
    """Row of the local engine, or -1 for a peer."""
    target: Target
    number: int
    figures: list[float]
    """Prediction: columns of `dispatch.choose`."""
    began_at_s: float
    deadline_at_s: float = float("inf")
    hedge_at_s: float = float("inf")
    # What was counted for it, and must be taken back: see `routing`.
    load: Load | None = None
    """Where it counts as this gateway's own; None where it does not (any more)."""
    counted: Engine | None = None
    tokens_counted: int = 0
    prefill_counted: int = 0
    prefill_told: int = 0
    share_wh: float = 0.0
    factors: tuple[float, float] = (1.0, 1.0)
    """Learned corrections of TTFT and TPOT that its prediction was made with."""
    believed_site: int = 0
    believed_engine: int = 0
    """What site and engine were believed to have of the prompt when it was sent: see `dispatch.prefix.believed`."""
    out: Outgoing | None = None
    abandoned: bool = False
    settled: bool = False
    won: bool = False
    late: bool = False
    hedge: bool = False
    unrecorded: bool = False
    """It could not be put on record: nothing went on, and no end of it may be written either."""
    reached: bool = False
    """Its bytes went out on a connection: the engine may have worked on it."""
    body_bytes: int = 0
    quiet_bytes: int = -1
    """`body_bytes` when its site was last found not to answer."""
    charged: bool = False
    """Its Wh were booked when its stream broke."""
    held_bytes: int = 0
    """Of a plain answer larger than `HOLD_BYTES`, that count against what its worker may hold."""
    request: bytes = b""
    """The whole request, where it is the same on every connection to the target."""

    def recorded(self, *, written: bool) -> None:
        """The evidence is written, so send; or it could not be, so nothing may go on."""
        if self.settled:
            return
        if not written:
            self.unrecorded = True
            self.exchange.unrecorded(self)
            return
        idle = self.target.idle
        if self.request and idle and not idle[-1].transport.is_closing():
            self.out = out = idle.pop()
            self.reached = True
            out.post(self, self.request)
        else:
            self.target.send(self)

    # --- outgoing.Owner

    def request_for(self, out: Outgoing) -> bytes | None:
        """Bytes of the whole request, for this connection."""
        if self.request:
            return self.request
        return self.exchange.request_bytes(self, out)

    def connected(self, out: Outgoing) -> None:
        """A connection was made (or made again) for this attempt."""
        self.out = out
        self.reached = True

    def whole_read(self, known: KnownAnswer, body: bytes) -> bool:
        return not self.won and self.exchange.answer_plain(self, known, body)

    def answer_read(self, out: Outgoing) -> None:
        if self.won:
            self.exchange.more(self, out)
            return
        status, exchange = out.status, self.exchange
        if status == 200:
            if exchange.is_stream(out):
                if out.parts or out.done:
                    exchange.win(self, out)
            elif out.done:
                exchange.win_whole(self, out)
            elif out.got_bytes > HOLD_BYTES:
                exchange.go_on(self, out)
        elif status in RETRY_STATUS or (status == 409 and self.engine < 0):
            if out.done or out.got_bytes > HOLD_BYTES:
                self.out = None
                if not out.done:
                    out.abandon()
                exchange.turned_down(self, out)
        elif out.done:
            exchange.win_whole(self, out)
        elif out.got_bytes > HOLD_BYTES:
            exchange.win(self, out)

    def answer_lost(self, out: Outgoing | None, reason: str) -> None:
        self.out = None
        if self.won:
            self.exchange.broke(self, reason)
        elif not self.settled:
            self.exchange.failed(self, "connect" if out is None else "broken", reason)

    def unsent(self, out: Outgoing) -> None:
        self.out = None
        if self.engine >= 0:
            self.target.send(self, fresh=True)
        elif not self.settled:
            # A peer may have read it: the same attempt number again would be a replay to it.
            self.exchange.failed(self, "stale", "the peer closed an idle connection")

    # --- for the exchange

    def drop(self) -> None:
        """Nobody wants the rest: closing the connection makes the engine stop."""
        self.abandoned = True
        out, self.out = self.out, None
        if out is not None:
            out.abandon()
