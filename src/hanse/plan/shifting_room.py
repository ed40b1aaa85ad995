"""Moving work by the hour within the room that stands: a transport problem for each hour of some days.

Here: `roomed`. Not here: bounds without room (`shifting`), who is served where when sizes are decided (`assign`).

Room is what the chips of a workload at a site serve within its SLO, those that stand by included. Work that may wait is taken as level over the day, as
its chips are sized for. `DAYS` days, evenly spaced, stand for the year; all three figures are of these days.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanse.milp import INF, Model, Solver
from hanse.plan.capacity import Fit
from hanse.plan.demand import HOURS, Demand
from hanse.plan.design import Design
from hanse.plan.operate import capacity_tokens_s, first_replicas
from hanse.plan.study_file import Study
from hanse.units import SECONDS_PER_HOUR

Floats = NDArray[np.float64]
DAYS: Final = 6
"""Every second month's middle: sun's and winter's ends are among them; 24 problems a day and workload."""
CELLS_MAX: Final = 20_000
"""Groups of rows times sites, of one workload: beyond it the hours take minutes."""


class Room(NamedTuple):
    """One workload's rows."""

    w: int
    series: Floats
    """[site, hour] cost of a token."""
    tokens: Floats
    """[row, hour of the day]"""
    share: Floats
    """[row, site], sums to 1."""
    may: NDArray[np.bool_]
    """[row, site]"""


def roomed(
    design: Design, study: Study, demand: Demand, rooms: Sequence[Room]
) -> tuple[float | None, float | None, float | None]:
    """Cost of a year as assigned, at the best fixed shares, and hour by hour; None where there is nothing to choose."""
    if len(design.places) < 2 or not rooms:
        return None, None, None
    replicas, _ = first_replicas(design, study, demand, 0)
    total = np.zeros(3)
    for room in rooms:
        may, group = np.unique(room.may, axis=0, return_inverse=True)
        if may.size > CELLS_MAX:
            return None, None, None
        tokens = _level(room.tokens, study.workloads[room.w].slack_h)
        load = np.zeros((len(may), HOURS))
        np.add.at(load, group.ravel(), tokens)
        mine = room.share.T @ tokens
        # What the design puts at a site has room there, whatever the formulas of a busy hour say.
        held = np.maximum(_held(design, study, room.w, replicas), mine.max(axis=1))
        total += _of_work(room.series, may, load, held, mine)
    days = rooms[0].series.shape[1] / HOURS / DAYS
    return float(total[0] * days), float(total[1] * days), float(total[2] * days)


def _held(design: Design, study: Study, w: int, replicas: dict[tuple[int, int], int]) -> Floats:
    """[site] tokens in an hour within the SLO."""
    out = np.zeros(len(design.places))
    for s in range(len(design.places)):
        fit: Fit | None = design.fits[w][s]
        if fit is not None and (w, s) in replicas:
            count = np.array(float(replicas[w, s]))
            out[s] = float(capacity_tokens_s(fit, study, w, count)) * SECONDS_PER_HOUR
    return out


def _level(tokens: Floats, slack_h: float) -> Floats:
    if slack_h < 1.0:
        return tokens
    return np.repeat(tokens.mean(axis=1, keepdims=True), HOURS, axis=1)


def _of_work(
    series: Floats, may: NDArray[np.bool_], load: Floats, held: Floats, mine: Floats
) -> Floats:
    """[assigned, fixed shares, hour by hour] on the days that stand for the year; `mine` [site, hour] is where the work is."""
    whole = series.shape[1] // HOURS
    days = np.linspace(0, whole, DAYS, endpoint=False).astype(int) + whole // (2 * DAYS)
    on_days = series.reshape(len(series), -1, HOURS)[:, days]
    assigned = float((mine * on_days.sum(axis=1)).sum())
    # Solvers want figures near one.
    tokens = max(float(load.mean()), 1e-12)
    cost = max(float(on_days[may.any(axis=0)].mean()), 1e-30)
    scaled = on_days / cost, may, load / tokens, held / tokens
    fixed, hourly = (float(f(*scaled)) * cost * tokens for f in (_fixed, _hourly))
    return np.array([assigned, min(fixed, assigned), min(hourly, fixed, assigned)])


def _fixed(series: Floats, may: NDArray[np.bool_], load: Floats, held: Floats) -> float:
    """Least cost of shares that stay, with room in every hour of the day."""
    group, site = np.nonzero(may)
    cost = series.sum(axis=1)
    model = Model()
    x = model.add_columns("share", (load[group] * cost[site]).sum(axis=1))
    serve = model.add_rows("serve", 1.0, 1.0, (len(may),))
    room = model.add_rows("room", -INF, np.repeat(held[:, None], HOURS, axis=1), (len(held), HOURS))
    model.put(serve[group], x, 1.0)
    for hour in range(HOURS):
        model.put(room[site, hour], x, load[group, hour])
    return float(Solver(model).relaxed().objective)


def _hourly(series: Floats, may: NDArray[np.bool_], load: Floats, held: Floats) -> float:
    """Least cost of each hour by itself; the next hour's problem begins at the last one's basis."""
    group, site = np.nonzero(may)
    model = Model()
    x = model.add_columns("tokens", np.zeros(len(group)))
    serve = model.add_rows("serve", 0.0, 0.0, (len(may),))
    room = model.add_rows("room", -INF, held, (len(held),))
    model.put(serve[group], x, 1.0)
    model.put(room[site], x, 1.0)
    solver = Solver(model)
    total = 0.0
    for hour in range(HOURS):
        solver.set_rows(serve, load[:, hour], load[:, hour])
        for day in range(series.shape[1]):
            solver.set_costs(x, series[site, day, hour])
            total += float(solver.relaxed().objective)
    return total
