"""Why an offer, or a whole request, was refused.

Here: the gates an offer passes, in order, as negative numbers that kernels return. Not here: HTTP status codes.
A refused request carries the furthest gate that any of its offers reached: if one lawful site exists but is dead,
the answer is `DEAD` and not `LAW`.
"""

from __future__ import annotations

from enum import IntEnum


class Reason(IntEnum):
    """Gates in the order they are tried; the smaller the number, the further the offer came."""

    OK = 0
    LAW = -1
    """Law bars the executing site, or the entry site itself. Rule ids are in the table."""
    QUALITY = -2
    """The variant's quality is below what the data class asks for."""
    LENGTH = -3
    """The prompt alone is longer than one request may be at that engine."""
    TRIED = -4
    """This request was already sent there."""
    POWER = -5
    """The site sheds load: grid, battery or breaker."""
    DEAD = -6
    """No replica alive, or the site is draining or unreachable."""
    STALE = -7
    """Nothing heard of that site for longer than the policy allows."""
    ROOM = -8
    """Running and queued requests, or their tokens, are at the limit."""
    DEADLINE = -9
    """The first token is predicted after the deadline."""
    NO_OFFER = -10
    """The service has no replica placed anywhere."""
    TABLE_EXPIRED = -11
    """The routing table is past `valid_until_s`: it admits nothing."""


RETRY_LATER = frozenset({Reason.POWER, Reason.DEAD, Reason.STALE, Reason.ROOM})
"""Refusals that time may heal; all others need another request, key or fleet."""
