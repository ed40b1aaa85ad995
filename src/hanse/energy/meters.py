"""Splitting what a meter measured over an interval among the requests that ran in it; the month's peak that a demand charge is levied on.

Here: the arithmetic and its conservation. Not here: reading meters, what a unit of work is (`serving` weighs prefill and decode
tokens), the same peak over simulated steps (`balance.account`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from hanse.energy.balance import WINDOW_S
from hanse.units import SECONDS_PER_HOUR


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


class ImportPeak(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The highest quarter of an hour of import of a calendar month (UTC), so far; a value that `with_import` moves on."""

    month: str = ""
    """`2026-11`."""
    kw: float = 0.0
    """Of quarters that are over."""
    window: int = -1
    """Number of the quarter that still counts, since 1970."""
    window_kwh: float = 0.0

    def with_import(self, import_kw: float, since_s: float, now_s: float) -> ImportPeak:
        """After `since_s` seconds of a steady import that end at `now_s` (Unix seconds); all of them count where they end.

        A quarter of which only a part was seen counts as if nothing had been drawn in the rest: never too high.
        """
        assert import_kw >= 0.0 and since_s >= 0.0, "flows are unsigned"
        month = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m")
        window = int(now_s // WINDOW_S)
        kw, kwh = self.kw, self.window_kwh
        if window != self.window:
            kw, kwh = max(kw, kwh * SECONDS_PER_HOUR / WINDOW_S), 0.0
        if month != self.month:
            kw = kwh = 0.0
        kwh += import_kw * min(since_s, WINDOW_S) / SECONDS_PER_HOUR
        return ImportPeak(month=month, kw=kw, window=window, window_kwh=kwh)
