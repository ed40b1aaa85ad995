"""Random scheduling problems, small enough for a plain second opinion."""

from __future__ import annotations

import random

from hanse.dispatch.defer_problem import (
    DeferBattery,
    DeferJob,
    DeferPath,
    DeferPool,
    DeferProblem,
    DeferSite,
    axis,
)
from hanse.model.job import Job

START_S = 1_795_000_000.0
SHORT = (300.0, 300.0, 300.0, 3600.0, 3600.0, 3600.0)


def problem(
    seed: int,
    *,
    sites: int = 2,
    jobs: int = 3,
    step_s: tuple[float, ...] = SHORT,
    start_s: float = START_S,
    restarts: bool = True,
) -> DeferProblem:
    """Positive prices; every job has one lawful site at least."""
    rng = random.Random(seed)
    steps = len(step_s)
    names = [f"s{i}" for i in range(sites)]
    return DeferProblem(
        issued_at_s=start_s,
        start_s=start_s,
        step_s=step_s,
        carbon_signal="average_location",
        usd_per_tonne_co2e=rng.choice([0.0, 100.0]),
        sites=tuple(site(rng, name, steps) for name in names),
        paths=tuple(
            DeferPath(source=a, target=b, mbit_s=rng.choice([2.0, 1000.0]), usd_per_gb=0.02)
            for a in names
            for b in names
            if a != b
        ),
        jobs=tuple(
            job(rng, f"j{k}", names, start_s, sum(step_s), restarts=restarts) for k in range(jobs)
        ),
    )


def site(rng: random.Random, name: str, steps: int) -> DeferSite:
    def row(low: float, high: float) -> tuple[float, ...]:
        return tuple(round(rng.uniform(low, high), 3) for _ in range(steps))

    battery = DeferBattery(
        kwh=4.0,
        kw_max=2.0,
        held_kwh=rng.choice([0.0, 2.0, 4.0]),
        charge_efficiency=0.95,
        discharge_efficiency=0.95,
        self_discharge_per_h=0.001,
        soc_reserve=rng.choice([0.0, 0.25]),
        usd_per_kwh_out=0.01,
        stored_usd_per_kwh=rng.choice([0.0, 0.1]),
    )
    pool = DeferPool(
        pool="gpu",
        accelerator=rng.choice(["l4", "h100-sxm"]),
        chips_free=tuple(float(rng.randint(0, 4)) for _ in range(steps)),
        chip_kw_idle=0.1,
        chip_kw_full=1.0,
    )
    return DeferSite(
        site=name,
        price_usd_per_kwh=row(0.02, 0.4),
        carbon_g_per_kwh=row(20.0, 700.0),
        pue=row(1.05, 1.5),
        pv_kw=row(0.0, 3.0),
        wind_kw=row(0.0, 1.0),
        grid_kw_max=row(2.0, 6.0),
        base_kw=row(0.5, 2.0),
        load_kw_max=rng.choice([(), row(1.0, 4.0)]),
        export_kw_max=rng.choice([0.0, 2.0]),
        usd_per_kw_month=rng.choice([0.0, 0.5]),
        peak_import_kw=1.0,
        battery=battery if rng.random() < 0.6 else None,
        pools=(pool,),
    )


def job(
    rng: random.Random,
    name: str,
    sites: list[str],
    start_s: float,
    horizon_s: float,
    *,
    restarts: bool,
) -> DeferJob:
    lawful = sorted(rng.sample(sites, rng.randint(1, len(sites))))
    home = rng.choice(lawful)
    hours = rng.uniform(0.2, 4.0)
    most = rng.randint(1, 3)
    runs = rng.random() < 0.3
    return DeferJob(
        job=Job(
            id=name,
            kind="training",
            tenant="t",
            data_class="public",
            country="DE",
            home=home,
            data_gb=rng.choice([0.0, 2.0]),
            state_gb=rng.choice([0.0, 0.1]),
            submitted_at_s=start_s - 10.0,
            deadline_at_s=start_s + rng.uniform(0.3, 2.0) * horizon_s,
            chip_s={"l4": hours * 7200.0, "h100-sxm": hours * 3600.0},
            chips_min=1,
            chips_max=most,
            checkpoint_every_s=rng.choice([0.0, 60.0, 600.0]),
            restart_s=rng.choice([0.0, 120.0]) if restarts else 0.0,
            weight=rng.choice([1.0, 3.0]),
        ),
        sites=tuple(lawful),
        state_at=home,
        pool="gpu" if runs else None,
        chips=most if runs else 0,
    )


def whole(seed: int, *, sites: int = 5, jobs: int = 8, shift: int = 0) -> DeferProblem:
    """Two days of steps; `shift` five-minute steps later."""
    return problem(seed, sites=sites, jobs=jobs, step_s=axis(), start_s=START_S + 300.0 * shift)
