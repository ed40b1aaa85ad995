"""How long a gateway waits: for a first byte before it looks elsewhere, and for anybody to take what failed.

Here: the deadline of one attempt, compiled, and whether a request that was begun and failed is held. Not here: what is done then
(`live.gateway.entry`, `twin.gateway`).
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from hanse.compiled import HOT, KERNEL
from hanse.dispatch.choose import DEAD, ROOM, STALE

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
"""How long a request whose attempt failed is held while nobody can take it. A gateway that was stalled itself finds everybody's load
stale (`heard_stale_s`, 2 s) until it has read what they told meanwhile; a peer that seems gone is asked again within 0.5 s."""
HELD_ASKS_EVERY_S: Final = 0.1


@njit(**KERNEL)
def worth_holding(
    reason: int,
    offers: Any,
    sites: Any,
    law: Any,
    subject: Any,
    service: int,
    origin: int,
    tried: Any,
) -> bool:
    """Whether time may heal that nobody takes a request that was begun.

    Everyone who may is full; or, of an offer at another site where it was not yet tried, nothing is heard. Engines of the entry site are
    not waited for: what failed there is not tried there again. Fields are named so that it runs without being compiled, too.

    Args:
        reason: Why there is no offer, see `reasons.Reason`.
        offers: `OFFER_DTYPE`, of the table in force.
        sites: `SITE_DTYPE`.
        law: [profile, site].
        subject: The row of the request's subject.
        service: Index.
        origin: Site of the gateway.
        tried: Offers it was sent to, -1 padded.
    """
    if reason == ROOM:
        return True
    if reason not in (DEAD, STALE):
        return False
    for o in range(offers.shape[0]):
        offer = offers[o]
        site = offer["site"]
        if offer["service"] != service or site == origin or offer["replicas"] == 0:
            continue
        if offer["quality"] < subject["quality_min"] or law[subject["profile"], site] == 0:
            continue
        asked = sites[site]["drained"] != 0  # or as good as asked
        for i in range(tried.shape[0]):
            asked = asked or tried[i] == o
        if not asked:
            return True
    return False
