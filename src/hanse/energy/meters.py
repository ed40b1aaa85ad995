"""Splitting what a meter measured over an interval among the requests that ran in it.

Here: the arithmetic and its conservation. Not here: reading meters, and what a unit of work is
(`serving` weighs prefill and decode tokens).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec


class EnergySplit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Shares of one interval: `sum(request_wh) + site_wh` is what the meter measured."""

    request_wh: tuple[float, ...]
    site_wh: float
    """Idle power and whatever no request caused; belongs to the site, never to a customer."""


def split_energy(*, measured_wh: float, idle_wh: float, work_units: Sequence[float]) -> EnergySplit:
    """Share the energy above idle by work units; idle stays with the site.

    A meter below the idle figure (an old or wrong figure) leaves nothing to share: all of it is
    the site's. So does an interval in which no work was done.
    """
    assert measured_wh >= 0.0, "meters count upwards"
    assert idle_wh >= 0.0, "idle energy is a quantity"
    assert all(w >= 0.0 for w in work_units), "work is a quantity"
    total = math.fsum(work_units)
    dynamic_wh = max(0.0, measured_wh - idle_wh)
    if total <= 0.0 or dynamic_wh <= 0.0:
        return EnergySplit(request_wh=(0.0,) * len(work_units), site_wh=measured_wh)
    # Divide first: a tiny total would overflow the quotient of Wh by units.
    shares = tuple(dynamic_wh * (w / total) for w in work_units)
    return EnergySplit(request_wh=shares, site_wh=max(0.0, measured_wh - math.fsum(shares)))
