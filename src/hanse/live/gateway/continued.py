"""A stream whose engine, site or link dies in the middle goes on elsewhere, in the same open answer.

Here: whether and where it can (`go_on`), the seam (`resume`), what the first part took (`Carried`). Not here: what was said and how the
rest is asked for (`told`), choosing (`entry`, by the same gates as any attempt), a stream that nobody goes on with (`exchange`).

    winner breaks --what is missing is only the end--> answered
                  --another may go on--> attempts in flight --first byte--> winner of the rest
                  --nobody can now--> held, asked again; after 3 s of that: error event
                  --nobody can--> error event

Only entry sites do this: a serving site says that its engine broke, and its entry site knows better places. A stream that stands still
because its site does not answer is given up only for another that takes it, for a link that heals brings the rest.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

import msgspec

from hanse.live.gateway.attempt import Attempt
from hanse.live.gateway.measured import Measured
from hanse.live.gateway.metrics import CONTINUED_STREAMS
from hanse.live.gateway.sse import StreamTap
from hanse.live.gateway.told import Further, Rewrite, Told, go_on_with

if TYPE_CHECKING:
    from hanse.live.gateway.entry import Entry
    from hanse.live.gateway.outgoing import Outgoing

QUIET = "the site stopped answering in mid-stream"


class Carried(msgspec.Struct, eq=False):
    """What a client has of an answer whose rest is sought, and what that took."""

    told: Told
    body: bytes
    """The request as it came."""
    tokens_in: int
    tokens_out: int
    """Guessed before the first attempt."""
    reason: str
    """Why the last attempt broke."""
    tokens: int = 0
    """Of the answer, before the attempt that goes on."""
    energy_wh: float = 0.0
    method: str = ""
    first_byte_at_s: float = 0.0
    """Of the attempt that goes on."""

    def charge(self, measured: Measured) -> None:
        """Add what the broken attempts took."""
        measured.energy_wh += self.energy_wh
        measured.method = measured.method or self.method


def tap_of(entry: Entry, attempt: Attempt) -> StreamTap:
    """What the winner's stream goes through, at its entry site."""
    carried = entry.carried
    told = Told() if carried is None else carried.told
    again = carried is not None and (told.first is not None or told.role)
    return StreamTap(
        drop_usage=entry.drop_usage,
        last_comment=entry.last_comment,
        from_peer=attempt.engine < 0,
        told=told,
        keeping=True,
        rewrite=Rewrite(told) if again else None,
    )


def go_on(entry: Entry, attempt: Attempt, reason: str) -> bool:
    """End the answer well, or send for its rest. False: neither can be, `not_continued` says why, and nothing was done."""
    tap = entry.tap
    assert tap is not None and tap.told is not None
    tap.take_down()
    told = tap.told
    if told.finish:
        _end(entry, attempt, b"")
        return True
    further = _further(entry, told)
    if isinstance(further, str):
        entry.not_continued = further
        return False
    if further.complete:
        _end(entry, attempt, told.last_chunk(entry.path))
        return True
    return _send(entry, attempt, reason, further)


def _further(entry: Entry, told: Told) -> Further | str:
    """The request for the rest, or why there is none."""
    if entry.deferrable:
        return "lines of batches are asked again as a whole"
    body = entry.body if entry.carried is None else entry.carried.body
    further = go_on_with(entry.path, body, told)
    if isinstance(further, Further) and len(further.body) > entry.service.body_bytes_max:
        return "with the text so far it is too long a request"
    return further


def _send(entry: Entry, attempt: Attempt, reason: str, further: Further) -> bool:
    """Choose who goes on, and ask there, or as soon as somebody can. False: nobody can."""
    tap, before, now_s = entry.tap, entry.carried, time()
    assert tap is not None and tap.told is not None
    told, was = tap.told, (entry.tokens_in, entry.tokens_out)
    if before is None:
        carried = Carried(told, entry.body, *was, reason)
    else:
        carried = Carried(told, before.body, before.tokens_in, before.tokens_out, reason)
    entry.tokens_in = carried.tokens_in + told.tokens
    entry.tokens_out = max(carried.tokens_out - told.tokens, 1)
    entry.carried = carried
    found, elsewhere = entry.other(attempt, now_s), True
    if not isinstance(found, Attempt) and (entry.slow or entry.full):
        entry.forgive(entry.slow)
        entry.forgive(entry.full)
        found = entry.other(attempt, now_s)
    if not isinstance(found, Attempt) and attempt.engine < 0 and reason != QUIET:
        # Its gateway may live: an engine broke there, or the connection alone.
        found, elsewhere = entry.again(now_s), False
    entry.refused_only = False
    if not isinstance(found, Attempt) and (reason == QUIET or not entry.may_hold(found, now_s)):
        entry.carried, (entry.tokens_in, entry.tokens_out) = before, was
        name = entry.worker.routing.reason_name(found).lower()
        entry.not_continued = f"nobody else can take it now ({name})"
        return False
    _charge(entry, attempt, carried, before, was[0])
    entry.body, entry.up_name, entry.up_body = further.body, "", b""
    entry.leave(attempt, exclude=elsewhere)
    if isinstance(found, Attempt):
        entry.go(found)
    else:
        entry.hold(now_s)
    return True


def resume(entry: Entry, attempt: Attempt, out: Outgoing) -> None:
    """The first bytes of the rest."""
    carried = entry.carried
    assert carried is not None
    if out.status != 200 or not entry.is_stream(out):
        attempt.drop()
        entry.last_failure = f"{attempt.offer.site} answered {out.status}"
        entry.failed_again(attempt, "status")
        return
    first_byte_at_s = entry.first_byte_at_s
    carried.first_byte_at_s = entry.won(attempt, out)
    entry.first_byte_at_s = first_byte_at_s
    entry.worker.routing.first_byte(attempt)
    entry.worker.counts.row[CONTINUED_STREAMS] += 1.0
    entry.tap = tap_of(entry, attempt)
    data = out.take()
    attempt.body_bytes += len(data)
    comment = b": continued at %b\n\n" % attempt.offer.site.encode()
    entry.pass_on(attempt, out, comment + entry.tap.feed(data))
    entry.pass_pause()


def _end(entry: Entry, attempt: Attempt, data: bytes) -> None:
    """Only the end was missing."""
    tap = entry.tap
    assert tap is not None
    tap.tail, tap.rewrite, tap.lost = b"", None, ""
    attempt.drop()
    entry.end_stream(attempt, None, tap.feed(data + b"data: [DONE]\n\n"))


def _charge(
    entry: Entry, attempt: Attempt, carried: Carried, before: Carried | None, tokens_in: int
) -> None:
    """What the attempt took until it broke: at an engine here as if it had ended, elsewhere at least its prompt."""
    routing = entry.worker.routing
    carried.tokens = carried.told.tokens
    took = Measured(tokens_in, carried.tokens - (0 if before is None else before.tokens))
    if attempt.engine >= 0:
        took.charge_local(attempt, routing)
    else:
        took.charge_dropped(attempt, routing)
    attempt.charged = True
    if before is not None:
        before.charge(took)
    carried.energy_wh, carried.method = took.energy_wh, took.method
