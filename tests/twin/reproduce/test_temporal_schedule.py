"""The study's rule and the product's schedule are one decision: the program, solved anew each hour, runs the same hours."""

from __future__ import annotations

import numpy as np
import pytest

from hanse.dispatch.defer import DeferSolver, check
from hanse.dispatch.defer_problem import DeferJob, DeferPool, DeferProblem, DeferSite
from hanse.model.job import Job
from hanse.twin.reproduce.temporal import LENGTH_H, WITHIN_H, suspended_hours

START_S = 1_700_000_000.0


def problem(carbon: np.ndarray, at_h: int, submitted_h: int, left_h: int) -> DeferProblem:
    flat = (1.0,) * WITHIN_H
    none = (0.0,) * WITHIN_H
    start_s = START_S + 3600.0 * at_h
    pool = DeferPool(
        pool="gpu", accelerator="l4", chips_free=flat, chip_kw_idle=0.0, chip_kw_full=1.0
    )
    site = DeferSite(
        site="a", price_usd_per_kwh=none, carbon_g_per_kwh=tuple(carbon.tolist()), pue=flat, pv_kw=none,
        wind_kw=none, grid_kw_max=(9.0,) * WITHIN_H, base_kw=none, pools=(pool,),
    )  # fmt: skip
    job = Job(
        id="j", kind="batch", tenant="t", data_class="c", country="DE", home="a",
        submitted_at_s=START_S + 3600.0 * submitted_h,
        deadline_at_s=START_S + 3600.0 * (submitted_h + WITHIN_H), chip_s={"l4": 3600.0 * left_h},
    )  # fmt: skip
    return DeferProblem(
        issued_at_s=start_s, start_s=start_s, step_s=(3600.0,) * WITHIN_H,
        carbon_signal="average_location", usd_per_tonne_co2e=100.0, sites=(site,),
        jobs=(DeferJob(job=job, sites=("a",), state_at="a"),),
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_the_schedule_makes_the_decisions_of_the_study(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth = 300.0 + 150.0 * np.sin(np.arange(80) / 24.0 * 2.0 * np.pi) + rng.normal(0.0, 30.0, 80)
    forecasts = np.stack([truth[h : h + 24] + rng.normal(0.0, 40.0, 24) for h in range(50)])
    forecasts = np.clip(forecasts, 5.0, None)
    solver = DeferSolver()
    for submitted in range(0, 24, 5):
        ran: list[int] = []
        for hour in range(submitted, submitted + WITHIN_H):
            if len(ran) == LENGTH_H:
                break
            one = problem(forecasts[hour], hour, submitted, LENGTH_H - len(ran))
            answer = solver.solve(one)
            assert check(one, answer) == []
            if answer.jobs[0].runs and answer.jobs[0].runs[0].chips[0] > 0.5:
                ran.append(hour)
        assert ran == suspended_hours(forecasts, np.array([submitted]), 0)[0].tolist()
