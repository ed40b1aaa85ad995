"""How long a gateway waits: for a first byte before it looks elsewhere, and for anybody to take what failed.

Here: the deadline of one attempt, compiled, and whether a request that was begun and failed is held. Not here: what is done then
(`live.gateway.entry`, `twin.gateway`).
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from hanse.compiled import HOT, KERNEL
from hanse.dispatch.choose import DEAD, PATH_MS_MAX, ROOM, STALE, TRIED

FIRST_BYTE_S_MIN: Final = 1.0
"""Floor: predictions of a few ms must not make a busy moment a failure."""
FIRST_BYTE_FACTOR: Final = 3.0
"""Of the prediction, whose error is about 50 % where a queue forms: twice that and then some."""


@njit(**HOT)
def first_byte_s(predicted_ms: float, switches: int) -> float:
    """Seconds to the deadline of an attempt; doubled by each switch, so that engines that are all merely slow are not made
    slower by work that every one of them begins and none ends.

    Args:
        predicted_ms: TTFT of a stream, E2E of a plain answer.
        switches: Attempts of this request given up as late so far.
    """
    patience_s = max(FIRST_BYTE_FACTOR * predicted_ms * 0.001, FIRST_BYTE_S_MIN)
    return patience_s * 2.0**switches


HELD_S: Final = 3.0
"""How long a request whose attempt failed is held while nobody can take it, each time anew. A gateway that was stalled itself finds everybody's load
stale (`heard_stale_s`, 2 s) until it has read what they told meanwhile; a peer that seems gone is asked again within 0.5 s."""
HELD_ASKS_EVERY_S: Final = 0.1


@njit(**KERNEL)
def worth_holding(
    table: Any,
    lists: Any,
    service: int,
    subject: int,
    origin: int,
    reason: int,
    tokens_in: float,
    tried: Any,
) -> bool:
    """Whether time may heal that nobody takes a request that was begun.

    Everyone who may is full; or there is an offer at another site where it was not yet tried, which is dead or not heard of now, or was full
    when it was (then it is in `tried` no more). Engines of the entry site are not waited for: what failed there is not tried there again.

    Args:
        table: As `choose` has it.
        lists: As `choose` has it.
        service: Index.
        subject: Row.
        origin: Site of the gateway.
        reason: Why there is no offer, see `reasons.Reason`.
        tokens_in: Of the prompt.
        tried: [any] offers that it was sent to, or that cannot take it at all; -1 padded.
    """
    if reason == ROOM:
        return True
    if reason not in (TRIED, DEAD, STALE):
        return False
    offers, sites, _, subjects, paths, law = table
    _, listed, first = lists
    who = subjects[subject]
    for i in range(first[service, 0], first[service, law.shape[1]]):
        o = listed[i]
        offer = offers[o]
        if offer.site == origin or law[who.profile, offer.site] == 0:
            continue
        if offer.quality < who.quality_min or tokens_in >= offer.request_tokens_max:
            continue
        if sites[offer.site].drained != 0 or not paths[offer.site].rtt_ms < PATH_MS_MAX:
            continue
        asked = False
        for j in range(tried.shape[0]):
            asked = asked or tried[j] == o
        if not asked:
            return True
    return False
