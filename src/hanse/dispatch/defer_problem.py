"""What may wait, what it may use until then, and the answer, as values.

Here: `DeferProblem` (jobs, sites, ways between them on one axis of steps), `DeferAnswer`, the axis itself. Both stand alone: a
problem holds all that its answer depends on, so that `solve(problem)` is the same everywhere. Not here: solving (`defer`), rows
and columns (`defer_model`), how a problem is made of a belief (`defer_build`), what runs this very second (`defer_now`).

Flows are unsigned mean powers over a step at the site's supply; `_kw` of chips are IT power, before PUE.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from hanse.energy.balance import WINDOW_S
from hanse.model.fleet import Id, Value
from hanse.model.job import Job
from hanse.signals.axis import STEP_S
from hanse.signals.outlook import CarbonSignal
from hanse.units import SECONDS_PER_HOUR, s_from_hours

HORIZON_S: Final = s_from_hours(48.0)
"""Two days: a job of a day's patience always sees its deadline, and beyond that forecasts of wind and sun know little."""
FINE_S: Final = s_from_hours(2.0)
"""Five-minute steps so far, hours beyond: what is decided before the next forecast (an hour) is decided finely."""

LATE_USD_PER_CHIP_H: Final = 2.0
"""A chip hour's work done after its deadline: about what renting an H100 elsewhere for it would have cost (2 to 3 USD in 2025).
Far above power (0.1 USD) and carbon (0.05 USD at 100 USD/t), so nothing is late to save either."""
LATER_USD_PER_CHIP_H: Final = 0.5
"""The same for each hour later: of two late jobs none waits without end."""


class DeferBattery(Value, frozen=True, kw_only=True):
    """A battery and what it holds; shares are of `kwh`."""

    kwh: float
    kw_max: float
    held_kwh: float
    charge_efficiency: float
    discharge_efficiency: float
    self_discharge_per_h: float = 0.0
    soc_min: float = 0.0
    soc_max: float = 1.0
    soc_reserve: float = 0.0
    """No plan goes below it; load beyond the connection may."""
    export: bool = False
    """It may sell."""
    usd_per_kwh_out: float = 0.0
    """Wear, on what is taken out."""
    stored_usd_per_kwh: float = 0.0
    """What a kWh still held at the end is worth; at 0 every plan ends empty."""


class DeferPool(Value, frozen=True, kw_only=True):
    """Identical chips of a site that deferrable work may use."""

    pool: Id
    accelerator: str
    chips_free: tuple[float, ...]
    """[step] what interactive work leaves of them."""
    chip_kw_idle: float
    """IT power of a free chip that nothing runs on."""
    chip_kw_full: float
    """IT power of one at work, its share of the server included."""


class DeferSite(Value, frozen=True, kw_only=True):
    """A site's supply and chips; all tuples [step]."""

    site: Id
    price_usd_per_kwh: tuple[float, ...]
    carbon_g_per_kwh: tuple[float, ...]
    pue: tuple[float, ...]
    """Of the next kW, which is what deferrable work adds."""
    pv_kw: tuple[float, ...]
    wind_kw: tuple[float, ...]
    grid_kw_max: tuple[float, ...]
    base_kw: tuple[float, ...]
    """All the site draws but its free chips: interactive work and its overhead, tenants, lights."""
    load_kw_max: tuple[float, ...] = ()
    """What heat, or a load target, lets it draw with work that may wait; other work it serves beyond that all the same. Empty: as much as it likes."""
    export_kw_max: float = 0.0
    export_usd_per_kwh: float = 0.0
    usd_per_kw_month: float = 0.0
    peak_import_kw: float = 0.0
    """This month's so far: import below it adds nothing to the demand charge."""
    battery: DeferBattery | None = None
    pools: tuple[DeferPool, ...] = ()


class DeferPath(Value, frozen=True, kw_only=True):
    """What moving data from one site to another takes."""

    source: Id
    target: Id
    mbit_s: float
    usd_per_gb: float


class Refused(Value, frozen=True, kw_only=True):
    """A site where a job may not run, and by which rules."""

    site: Id
    rules: tuple[str, ...]


class DeferJob(Value, frozen=True, kw_only=True):
    """A job, where law lets it run, and where it is now."""

    job: Job
    sites: tuple[Id, ...]
    """Lawful ones; no other may read its data."""
    refused: tuple[Refused, ...] = ()
    state_at: Id
    """Site that holds its newest checkpoint; its home before it first runs."""
    data_at: tuple[Id, ...] = ()
    """Sites besides its home that hold its data already."""
    pool: Id | None = None
    """Of `state_at`, where it runs now."""
    chips: int = 0
    """On which it runs now."""
    slack_s: float = 0.0
    """Before its deadline, for replicas that will move onto its chips."""

    @property
    def due_s(self) -> float:
        """By when it is to be done, Unix seconds: early enough before its deadline to yield once (to work again what was not in a
        checkpoint, and to restart), because requests of people come first whatever was planned.
        """
        once_s = self.job.checkpoint_every_s + self.job.restart_s
        return self.job.deadline_at_s - once_s - self.slack_s


class DeferProblem(Value, frozen=True, kw_only=True):
    """Everything that the answer depends on."""

    issued_at_s: float
    """Unix seconds UTC: nothing later was known."""
    start_s: float
    step_s: tuple[float, ...]
    """Lengths of the steps."""
    carbon_signal: CarbonSignal
    """Kind of every `carbon_g_per_kwh` here; kinds never meet in a sum."""
    usd_per_tonne_co2e: float
    late_usd_per_chip_h: float = LATE_USD_PER_CHIP_H
    later_usd_per_chip_h: float = LATER_USD_PER_CHIP_H
    link_share: float = 0.5
    """Of a path's rate that jobs may take; requests keep the other half."""
    sites: tuple[DeferSite, ...]
    paths: tuple[DeferPath, ...] = ()
    jobs: tuple[DeferJob, ...]

    def __post_init__(self) -> None:
        count = len(self.step_s)
        assert count > 0 and min(self.step_s) > 0.0, "steps take time"
        for site in self.sites:
            rows = (
                site.price_usd_per_kwh, site.carbon_g_per_kwh, site.pue, site.pv_kw, site.wind_kw,
                site.grid_kw_max, site.base_kw, *(pool.chips_free for pool in site.pools),
            )  # fmt: skip
            assert {len(row) for row in rows} == {count}, f"{site.site}: one axis for all"
        assert len({s.site for s in self.sites}) == len(self.sites), "a site twice"
        assert len({j.job.id for j in self.jobs}) == len(self.jobs), "a job twice"

    @property
    def end_s(self) -> float:
        """Of the last step."""
        return self.start_s + sum(self.step_s)

    def digest(self) -> str:
        """Of its bytes: an answer names the problem that it answers."""
        return hashlib.blake2b(msgspec.msgpack.encode(self), digest_size=16).hexdigest()


class JobRun(Value, frozen=True, kw_only=True):
    """Chips of one pool that one job gets."""

    site: Id
    pool: Id
    chips: tuple[float, ...]
    """[step] means; `defer_now` makes whole chips of them."""


class JobPlan(Value, frozen=True, kw_only=True):
    """One job over the horizon."""

    job: Id
    runs: tuple[JobRun, ...]
    finish_at_s: float | None
    """Predicted; None: not within the horizon."""
    late_s: float
    """Of the predicted finish; where that lies beyond the horizon, at least so much."""
    done_share: float
    """Of what was left of it, within the horizon."""
    moved_gb: float
    move_usd: float


class SitePlan(Value, frozen=True, kw_only=True):
    """One site over the horizon; all tuples [step].

    pv + wind + discharge + import + unserved = facility + charge + export + curtailed.
    """

    site: Id
    facility_kw: tuple[float, ...]
    charge_kw: tuple[float, ...]
    """With `discharge_kw` what the battery rule `plan` of `energy.balance` follows."""
    discharge_kw: tuple[float, ...]
    import_kw: tuple[float, ...]
    export_kw: tuple[float, ...]
    curtailed_kw: tuple[float, ...]
    unserved_kw: tuple[float, ...]
    battery_kwh: tuple[float, ...]
    """At the end of each step."""


class DeferCosts(Value, frozen=True, kw_only=True):
    """USD over the horizon, by item; what sites draw anyway is in it."""

    energy_usd: float
    export_usd: float
    """Earned; the only item that counts less."""
    carbon_usd: float
    carbon_g: float
    demand_usd: float
    """Of the peak beyond this month's so far."""
    wear_usd: float
    move_usd: float
    late_usd: float
    unserved_usd: float
    later_usd: float
    """Guessed cost of what is left for the time after the horizon."""
    stored_usd: float
    """Worth of what batteries hold at the end beyond what they held at the start; counts less."""

    @property
    def usd(self) -> float:
        """What the schedule minimises."""
        return (
            self.energy_usd - self.export_usd + self.carbon_usd + self.demand_usd + self.wear_usd
            + self.move_usd + self.late_usd + self.unserved_usd + self.later_usd - self.stored_usd
        )  # fmt: skip


ViolationKind = Literal["late", "unfinished", "no_site", "no_chip", "power"]


class DeferViolation(Value, frozen=True, kw_only=True):
    """A wish that the schedule does not meet."""

    kind: ViolationKind
    where: str
    """Job or site."""
    amount: float
    """Seconds late, chip hours unfinished or kWh unserved."""
    why: str
    cure: str


class DeferAnswer(Value, frozen=True, kw_only=True):
    """When and where each job runs, and what the batteries do."""

    problem: str
    """`DeferProblem.digest()`."""
    issued_at_s: float
    start_s: float
    step_s: tuple[float, ...]
    jobs: tuple[JobPlan, ...]
    sites: tuple[SitePlan, ...]
    costs: DeferCosts
    bound_usd: float
    """No schedule of fractions of chips costs less; equal to `costs.usd` but for negative prices, emergencies and a
    battery below its reserve (docs/defer.md)."""
    violations: tuple[DeferViolation, ...]

    def plan_of(self, job: Id) -> JobPlan | None:
        """One job's plan."""
        return next((one for one in self.jobs if one.job == job), None)


def axis(fine_s: float = FINE_S, horizon_s: float = HORIZON_S) -> tuple[float, ...]:
    """Five-minute steps, then hours. The same lengths at every solve, so that a solver starts from where it was."""
    fine = round(fine_s / STEP_S)
    coarse = round((horizon_s - fine * STEP_S) / SECONDS_PER_HOUR)
    assert coarse >= 0, "the horizon holds its fine steps"
    return (STEP_S,) * fine + (SECONDS_PER_HOUR,) * coarse


def quarters(step_s: tuple[float, ...]) -> tuple[int, ...]:
    """[step] number of the quarter of an hour, counted from the start, that a demand charge takes the mean of."""
    found, number, filled = [], -1, WINDOW_S
    for length_s in step_s:
        if filled + length_s > WINDOW_S + 1e-6:
            number, filled = number + 1, 0.0
        filled += length_s
        found.append(number)
    return tuple(found)


def highest_quarter_kw(import_kw: Sequence[float], step_s: tuple[float, ...]) -> float:
    """The highest mean over a quarter of an hour, which a demand charge is levied on; both [step]."""
    numbers = quarters(step_s)
    kj, long_s = [0.0] * (numbers[-1] + 1), [0.0] * (numbers[-1] + 1)
    for number, kw, length_s in zip(numbers, import_kw, step_s, strict=True):
        kj[number] += kw * length_s
        long_s[number] += length_s
    return max(total / length_s for total, length_s in zip(kj, long_s, strict=True))
