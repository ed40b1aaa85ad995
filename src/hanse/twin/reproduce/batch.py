"""When a batch job runs: six policies for jobs that can wait, on an hourly carbon signal.

Time is cut into slots of 5 s. A job arrives in a slot, needs a number of slots and may wait a number of slots before it
starts; one that can be suspended may spend them at any time, so it ends at most length + wait after it arrived. Power is
1 W a CPU. Every policy returns the pieces in which jobs run. Carbon is known exactly for the time looked at.

The policies, after Hanafy et al., "Going Green for Less Green", ASPLOS 2024 (repository umassos/GAIA, commit 62a5efc):

* `at_once`: start on arrival.
* `lowest_slot`: start in the slot of lowest carbon intensity within the wait, the earliest of equals. Job length is not
  used; intensity changes at full hours, so the start is now or a full hour.
* `lowest_window`: of the starts 0, 1, 2 ... hours after arrival within the wait, the one whose window of the *expected*
  length has the least carbon, the earliest of equals. Expected is the mean length of the queue the job is in.
* `saving_per_wait`: of the same starts, the one with the largest (carbon now - carbon then) / (wait + expected length),
  both for the expected length; the earliest of equals.
* `below_threshold`: run while intensity is below the 30 % quantile (linear) of the 24 hours from arrival, else pause;
  when all the wait is spent, run on to the end. Suspends and resumes without cost.
* `cleanest_slots`: run in the slots of lowest intensity out of length + wait from arrival, the earliest of equals; knows
  the job's length. No schedule within the same limits emits less.

Not here: capacity (every job finds room), the cost of suspending, forecasts that err.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hanse.model.fleet import Value
from hanse.units import SECONDS_PER_HOUR

SLOT_S = 5
SLOTS_PER_HOUR = round(SECONDS_PER_HOUR / SLOT_S)
SHORT_SLOTS = 2 * SLOTS_PER_HOUR
"""A job shorter than 2 h is in the short queue; one of exactly 2 h is in the long one."""
THRESHOLD_QUANTILE = 0.3
THRESHOLD_SLOTS = 24 * SLOTS_PER_HOUR

Slots = NDArray[np.int64]
Plan = Callable[[Slots, NDArray[np.float64], int, int, "Signal"], tuple[Slots, Slots]]
"""(bounds, intensities, length, wait, signal) -> (where it starts to run in each stretch, how long)."""


class Jobs(Value, frozen=True, kw_only=True):
    """Batch jobs, arrays [job]; times in slots from the start of the signal."""

    arrival: Slots
    length: Slots
    cpus: Slots
    wait_max: Slots
    expected: Slots
    """What a policy that does not know the length takes it to be."""


class Pieces(Value, frozen=True, kw_only=True):
    """Stretches in which jobs run, arrays [piece], by job and then by time."""

    job: Slots
    start: Slots
    length: Slots


class Outcome(Value, frozen=True, kw_only=True):
    """What a policy came to, over all jobs."""

    carbon_g: float
    wait_h_per_piece: float
    """Mean over pieces of start - arrival; for jobs in one piece the waiting before the start."""
    delay_h_per_job: float
    """Mean over jobs of end - arrival - length: all waiting, before and between pieces."""
    pieces: int


class Signal:
    """Hourly carbon intensity as slots: the sum over any stretch in constant time."""

    def __init__(self, hourly_g_per_kwh: NDArray[np.float64]) -> None:
        self.hourly = np.ascontiguousarray(hourly_g_per_kwh, np.float64)
        self.slots = len(self.hourly) * SLOTS_PER_HOUR
        self._before = np.concatenate(([0.0], np.cumsum(self.hourly * SLOTS_PER_HOUR)))

    def until(self, slot: Slots) -> NDArray[np.float64]:
        """Sum of intensity over all slots before each given slot."""
        hour, rest = np.divmod(slot, SLOTS_PER_HOUR)
        # The last instant of the signal lies in no hour.
        inside = np.minimum(hour, len(self.hourly) - 1)
        return np.asarray(self._before[hour] + rest * self.hourly[inside])

    def over(self, start: Slots, length: Slots) -> NDArray[np.float64]:
        """Sum of intensity over stretches, g/kWh times slots."""
        return self.until(start + length) - self.until(start)

    def hours(self, start: int, end: int) -> tuple[Slots, NDArray[np.float64]]:
        """The stretches of constant intensity in [start, end): their bounds (one more) and intensities."""
        first, last = start // SLOTS_PER_HOUR, -(-end // SLOTS_PER_HOUR)
        bounds = np.arange(first, last + 1, dtype=np.int64) * SLOTS_PER_HOUR
        bounds[0], bounds[-1] = start, end
        return bounds, self.hourly[first:last]


def outcome(jobs: Jobs, pieces: Pieces, signal: Signal) -> Outcome:
    """Carbon and waiting of a schedule."""
    cpus = jobs.cpus[pieces.job]
    watt_slots_g_per_kwh = float(signal.over(pieces.start, pieces.length) @ cpus)
    end = np.zeros(len(jobs.arrival), np.int64)
    np.maximum.at(end, pieces.job, pieces.start + pieces.length)
    waits = pieces.start - jobs.arrival[pieces.job]
    return Outcome(
        carbon_g=watt_slots_g_per_kwh / SLOTS_PER_HOUR / 1000.0,
        wait_h_per_piece=float(waits.mean()) / SLOTS_PER_HOUR,
        delay_h_per_job=float((end - jobs.arrival - jobs.length).mean()) / SLOTS_PER_HOUR,
        pieces=len(pieces.job),
    )


def at_once(jobs: Jobs, signal: Signal) -> Pieces:
    """Start on arrival."""
    return _whole(jobs, jobs.arrival)


def lowest_slot(jobs: Jobs, signal: Signal) -> Pieces:
    """Start in the slot of lowest intensity within the wait."""
    hour = jobs.arrival // SLOTS_PER_HOUR
    ahead = np.arange(int(jobs.wait_max.max()) // SLOTS_PER_HOUR + 2)
    starts = np.maximum((hour[:, None] + ahead) * SLOTS_PER_HOUR, jobs.arrival[:, None])
    within = starts <= (jobs.arrival + jobs.wait_max)[:, None]
    index = np.minimum(hour[:, None] + ahead, len(signal.hourly) - 1)
    intensity = np.where(within, signal.hourly[index], np.inf)
    return _whole(jobs, _taken(starts, intensity.argmin(1)))


def lowest_window(jobs: Jobs, signal: Signal) -> Pieces:
    """Start the expected window of least carbon, hours after arrival."""
    starts, carbon = _windows(jobs, signal)
    return _whole(jobs, _taken(starts, carbon.argmin(1)))


def saving_per_wait(jobs: Jobs, signal: Signal) -> Pieces:
    """Start where each slot until the expected end has saved most."""
    starts, carbon = _windows(jobs, signal)
    until_end = starts - jobs.arrival[:, None] + jobs.expected[:, None]
    rate = (carbon[:, :1] - carbon) / until_end  # -inf outside the wait
    return _whole(jobs, _taken(starts, rate.argmax(1)))


def below_threshold(jobs: Jobs, signal: Signal) -> Pieces:
    """Run while intensity is low for the day ahead, until the wait is spent."""
    return _in_pieces(jobs, signal, _below_threshold)


def cleanest_slots(jobs: Jobs, signal: Signal) -> Pieces:
    """Run in the cleanest slots that the limits allow."""
    return _in_pieces(jobs, signal, _cleanest)


def whole_ones_at_once(jobs: Jobs, pieces: Pieces) -> Pieces:
    """The same schedule, but every job that it left in one piece starts on arrival.

    What GAIA did before 2024-03-16: a job of one piece was queued under its start counted from arrival instead of from
    the start of the signal, so its time had nearly always come already.
    """
    alone = np.bincount(pieces.job, minlength=len(jobs.arrival))[pieces.job] == 1
    counted_from_arrival = pieces.start - jobs.arrival[pieces.job]
    start = np.maximum(jobs.arrival[pieces.job], counted_from_arrival)
    return Pieces(job=pieces.job, start=np.where(alone, start, pieces.start), length=pieces.length)


def _whole(jobs: Jobs, start: Slots) -> Pieces:
    return Pieces(job=np.arange(len(start), dtype=np.int64), start=start, length=jobs.length)


def _taken(starts: Slots, choice: NDArray[np.intp]) -> Slots:
    return np.asarray(starts[np.arange(len(starts)), choice])


def _windows(jobs: Jobs, signal: Signal) -> tuple[Slots, NDArray[np.float64]]:
    """Starts at whole hours after arrival, [job, start], and the carbon of the expected window; inf beyond the wait."""
    after = np.arange(int(jobs.wait_max.max()) // SLOTS_PER_HOUR + 1) * SLOTS_PER_HOUR
    starts = jobs.arrival[:, None] + after
    within = after <= jobs.wait_max[:, None]
    clipped = np.where(within, starts, jobs.arrival[:, None])
    carbon = signal.over(clipped, np.broadcast_to(jobs.expected[:, None], starts.shape))
    return starts, np.where(within, carbon, np.inf)


def _in_pieces(jobs: Jobs, signal: Signal, plan: Plan) -> Pieces:
    """Apply a plan to each job: how much of each stretch of constant intensity it runs, and from where."""
    owners, starts, lengths = [], [], []
    for job in range(len(jobs.arrival)):
        begin, length = int(jobs.arrival[job]), int(jobs.length[job])
        bounds, intensity = signal.hours(begin, begin + length + int(jobs.wait_max[job]))
        start, ran = plan(bounds, intensity, length, int(jobs.wait_max[job]), signal)
        assert int(ran.sum()) == length, "a job runs for exactly its length"
        used = np.flatnonzero(ran)
        start, ran = start[used], ran[used]
        joined = np.flatnonzero(np.append(True, start[1:] != (start + ran)[:-1]))
        owners.append(np.full(len(joined), job, np.int64))
        starts.append(start[joined])
        lengths.append(np.add.reduceat(ran, joined))
    return Pieces(
        job=np.concatenate(owners), start=np.concatenate(starts), length=np.concatenate(lengths)
    )


def _cleanest(
    bounds: Slots, intensity: NDArray[np.float64], length: int, wait: int, signal: Signal
) -> tuple[Slots, Slots]:
    size = np.diff(bounds)
    order = np.argsort(intensity, kind="stable")
    before = np.cumsum(size[order]) - size[order]
    ran = np.zeros(len(size), np.int64)
    ran[order] = np.clip(length - before, 0, size[order])
    return bounds[:-1], ran


def _below_threshold(
    bounds: Slots, intensity: NDArray[np.float64], length: int, wait: int, signal: Signal
) -> tuple[Slots, Slots]:
    limit = day_ahead_quantile(signal, int(bounds[0]))
    start, ran = bounds[:-1].copy(), np.zeros(len(intensity), np.int64)
    for i, size in enumerate(np.diff(bounds).tolist()):
        paused = 0 if intensity[i] < limit else min(wait, size)
        wait -= paused
        start[i] += paused
        ran[i] = min(length, size - paused)
        length -= int(ran[i])
    return start, ran


def day_ahead_quantile(signal: Signal, slot: int) -> float:
    """The intensity below which the cleanest 30 % of the next 24 hours lie, linear between neighbouring slots."""
    bounds, intensity = signal.hours(slot, min(slot + THRESHOLD_SLOTS, signal.slots))
    order = np.argsort(intensity, kind="stable")
    upto = np.cumsum(np.diff(bounds)[order])
    rank = THRESHOLD_QUANTILE * (int(upto[-1]) - 1)
    low, high = np.searchsorted(upto, [int(rank), min(int(rank) + 1, int(upto[-1]) - 1)], "right")
    below, above = intensity[order[low]], intensity[order[high]]
    return float(below + (rank - int(rank)) * (above - below))
