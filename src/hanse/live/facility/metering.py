"""Readings become what a site draws: which meters count, how old they may be, how wrong they are, and how many Wh came together.

Here: `measure` (power now) and `EnergyAccount` (Wh over time). Not here: asking devices (the drivers), splitting Wh among requests
(`energy.meters`).

A kind of measurement counts only when all of its meters are fresh: half of the servers are not the site. What a stale one leaves is an estimate,
and says so. Errors of several meters are added up as if all erred the same way, which is the worst case and often the true one: current
transformers of one make do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from hanse.live.facility.readings import Reading
from hanse.model.fleet import PlantMeter, Value
from hanse.units import wh_from_j

GAP_S_MAX: Final = 60.0
"""Power is not added up over more than this: what happened meanwhile is not known."""

Key = tuple[str, str]
"""(facility, point)."""


class Power(Value, frozen=True, kw_only=True):
    """One measured power, W, with its error as a share (two standard errors)."""

    w: float
    error_share: float
    at_s: float
    """Of the oldest reading in it."""


class Measured(Value, frozen=True, kw_only=True):
    """What a site's meters tell now; None: nothing that counts."""

    it: Power | None = None
    site: Power | None = None
    pv: Power | None = None
    wind: Power | None = None
    pools: dict[str, Power] = {}
    """IT power of single pools."""
    stale: tuple[str, ...] = ()
    """Meters whose readings are too old, or never came."""

    @property
    def sources(self) -> tuple[str, ...]:
        """For people: what is measured, and how well."""
        listed = (("IT", self.it), ("site", self.site), ("PV", self.pv), ("wind", self.wind))
        told = [
            f"{name} power measured, within {power.error_share:.0%}"
            for name, power in listed
            if power is not None
        ]
        stale = [f"meter {name} is silent: estimated in its place" for name in self.stale]
        return (*told, *stale)


def measure(
    meters: Sequence[PlantMeter], readings: Mapping[Key, Reading], now_s: float
) -> Measured:
    """Power by kind, where all meters of the kind are fresh."""
    stale = [m.id for m in meters if _fresh(m, readings, now_s) is None]
    pools = sorted({m.pool for m in meters if m.pool is not None})
    by_pool = {
        pool: power
        for pool in pools
        if (power := _sum([m for m in meters if m.pool == pool], readings, now_s)) is not None
    }

    def of(kind: str) -> Power | None:
        return _sum([m for m in meters if m.measures == kind], readings, now_s)

    return Measured(
        it=of("it"),
        site=of("site"),
        pv=of("pv"),
        wind=of("wind"),
        pools=by_pool,
        stale=tuple(stale),
    )


def _fresh(meter: PlantMeter, readings: Mapping[Key, Reading], now_s: float) -> Reading | None:
    """Its reading, where it counts: recent, of power, and not of the future by more than clocks err."""
    reading = readings.get((meter.facility, meter.point))
    if reading is None or reading.quantity != "power_w":
        return None
    return reading if -meter.stale_s <= now_s - reading.at_s <= meter.stale_s else None


def _sum(
    meters: Sequence[PlantMeter], readings: Mapping[Key, Reading], now_s: float
) -> Power | None:
    if not meters:
        return None
    w = error_w = 0.0
    at_s = now_s
    for meter in meters:
        reading = _fresh(meter, readings, now_s)
        if reading is None:
            return None
        # A meter that shows power flowing back has it from a source that is counted elsewhere.
        own_w = max(reading.value, 0.0)
        w += own_w
        error_w += own_w * meter.error_share
        at_s = min(at_s, reading.at_s)
    error = error_w / w if w > 0.0 else max(m.error_share for m in meters)
    return Power(w=w, error_share=error, at_s=at_s)


class AccountKept(Value, frozen=True, kw_only=True, omit_defaults=True):
    """An account as it lies on disk, so that it goes on after a restart."""

    facility: str
    point: str
    energy_point: str
    wh: float
    counted_wh: float
    gap_s: float
    power: Reading | None = None
    counter: Reading | None = None
    high: Reading | None = None
    since_wh: float = 0.0


class EnergyAccount:
    """Wh of one meter since this account was opened; it only ever grows.

    By the device's own counter where it has one, else power added up between readings (trapezoids). A counter that runs backwards was reset or
    replaced: its first value afterwards is where it goes on, and the time between counts by power. Should it show what it showed before, or
    more, it had not been reset (a device that starts may show 0 first): then it goes on from there, less what was counted meanwhile. Time
    without any reading counts nothing, and is told as `gap_s`.
    """

    def __init__(self, meter: PlantMeter) -> None:
        self.meter = meter
        self.wh = 0.0
        self.counted_wh = 0.0
        """Part of `wh` that the device's own counter told."""
        self.gap_s = 0.0
        self._power: Reading | None = None
        self._counter: Reading | None = None
        self._high: Reading | None = None
        """Of the counter, before it last ran back."""
        self._since_wh = 0.0
        """Counted since then."""

    def kept(self) -> AccountKept:
        """For the disk."""
        meter = self.meter
        return AccountKept(
            facility=meter.facility,
            point=meter.point,
            energy_point=meter.energy_point,
            wh=self.wh,
            counted_wh=self.counted_wh,
            gap_s=self.gap_s,
            power=self._power,
            counter=self._counter,
            high=self._high,
            since_wh=self._since_wh,
        )

    def restore(self, kept: AccountKept) -> None:
        """Go on from there; where the meter reads something else now, only its sums are kept."""
        self.wh, self.counted_wh, self.gap_s = kept.wh, kept.counted_wh, kept.gap_s
        meter = self.meter
        if (kept.facility, kept.point) == (meter.facility, meter.point):
            self._power = kept.power
            if kept.energy_point == meter.energy_point:
                self._counter, self._high = kept.counter, kept.high
                self._since_wh = kept.since_wh

    def take(self, readings: Mapping[Key, Reading]) -> float:
        """Note what the device says now; Wh since the last call."""
        power = readings.get((self.meter.facility, self.meter.point))
        key = self.meter.facility, self.meter.energy_point
        counter = readings.get(key) if self.meter.energy_point else None
        by_power = self._by_power(power)
        by_counter = self._by_counter(counter)
        added = by_power if by_counter is None else by_counter
        self.wh += added
        self.counted_wh += by_counter or 0.0
        self._since_wh += added
        return added

    def _by_counter(self, now: Reading | None) -> float | None:
        """None: the counter says nothing yet, or was set back."""
        before, high = self._counter, self._high
        if now is None or now.quantity != "energy_wh":
            return None
        self._counter = now
        if before is None:
            return None
        if now.value < before.value:
            if high is None or before.value >= high.value:
                self._high, self._since_wh = before, 0.0
            return None
        if high is None or now.value < high.value:
            return now.value - before.value
        self._high = None
        return max(now.value - high.value - self._since_wh, 0.0)

    def _by_power(self, now: Reading | None) -> float:
        before = self._power
        if now is None or now.quantity != "power_w":
            return 0.0
        self._power = now
        if before is None or now.at_s <= before.at_s:
            return 0.0
        elapsed_s = now.at_s - before.at_s
        if elapsed_s > max(GAP_S_MAX, self.meter.stale_s):
            self.gap_s += elapsed_s
            return 0.0
        return wh_from_j((max(now.value, 0.0) + max(before.value, 0.0)) / 2.0 * elapsed_s)
