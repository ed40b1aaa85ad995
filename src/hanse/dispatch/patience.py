"""How long a gateway waits for a first byte before it looks elsewhere.

Here: the deadline of one attempt, compiled. Not here: what is done when it passes (`live.gateway.entry`, `twin.gateway`).
"""

from __future__ import annotations

from typing import Final

from numba import njit

from hanse.compiled import HOT

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
