"""What simulated sites give up when power runs short: the order and rules of `dispatch.shed`, at the end of every five minutes.

Here: `Brownouts`. Not here: the balance (`power`), the order (`dispatch.shed`), refusing a request (`choose`, `gateway`). What each kind of
work draws is split as live agents do, by requests at the engines; batteries and heat bound by `energy.limits`, as there.
Jobs hear of it at their next look (`operation`); idle engines stay on: their step of the order passes without effect.
"""

from __future__ import annotations

import numpy as np

from hanse.dispatch.shed import (
    NOTHING_SHED,
    Draw,
    Shedding,
    power_gate,
    shed,
    shed_rank,
    shed_reasons,
    shed_steps,
)
from hanse.energy.limits import PowerLimit, power_limit
from hanse.model.fleet import Fleet
from hanse.twin.arrays import AT_ENGINE, World
from hanse.twin.power import STEP_S, SitePower


class Brownouts:
    """One `Shedding` a site."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._steps = shed_steps(fleet.classes)
        self._ranks = shed_rank(fleet.classes)
        self._rank_count = max(self._ranks.values(), default=0)
        self._priority = {self._ranks[c.id]: c.priority for c in fleet.classes}
        self.sites: list[Shedding] = [NOTHING_SHED] * len(fleet.sites)
        self._low = [False] * len(fleet.sites)

    def step(
        self, world: World, power: SitePower, now_s: float
    ) -> list[tuple[int, int, tuple[str, ...]]]:
        """Judge the last step; (site, how many steps of the order were in force, what is given up now) where that has changed."""
        changed = []
        for s in range(len(self._fleet.sites)):
            before = self.sites[s]
            drawn_kw = float(power.out["facility_kw"][s])
            limit = self._limit(power, s, drawn_kw)
            short = drawn_kw > limit.available_kw
            if not before.level and not short:
                continue
            draws = self._draws(world, power, s) if short else ()
            self.sites[s] = now = shed(
                self._steps,
                before,
                now_s,
                available_kw=limit.available_kw,
                drawn_kw=drawn_kw,
                cause=limit.cause,
                draws=draws,
            )
            if now.level != before.level:
                world.power_ok[s] = power_gate(now.level, self._rank_count)
                changed.append((s, before.level, shed_reasons(self._steps, now)))
        return changed

    def _limit(self, power: SitePower, s: int, drawn_kw: float) -> PowerLimit:
        params, outside, out = power.params[s], power.outside_now[s], power.out[s]
        up = outside["grid_up"] > 0.0
        lit = up or params["island"] != 0
        it_kw = float(out["it_kw"])
        limit = power_limit(
            grid_kw=float(params["grid_kw_max"]) if up else 0.0,
            generated_kw=float(outside["pv_kw"] + outside["wind_kw"]) if lit else 0.0,
            load_kw=drawn_kw,
            stored_kwh=float(power.state[s]["battery_kwh"]),
            battery_kwh=float(params["battery_kwh"]),
            battery_kw_max=float(params["battery_kw_max"]),
            efficiency=float(params["discharge_efficiency"]),
            step_s=STEP_S,
            outdoor_c=float(outside["outdoor_c"]),
            base_kw=float(params["base_kw"]),
            it_kw_rated=float(params["it_kw_rated"]),
            pue=(drawn_kw - float(params["base_kw"])) / it_kw if it_kw > 0.0 else 1.0,
            was_low=self._low[s],
        )
        self._low[s] = limit.battery_low
        return limit

    def _draws(self, world: World, power: SitePower, s: int) -> tuple[Draw, ...]:
        """By requests at the site's engines now, and what jobs drew; idle engines give nothing here."""
        it_kw = float(power.out["it_kw"][s])
        own_kw = float(power.out["facility_kw"][s]) - float(power.params[s]["base_kw"])
        pue = own_kw / it_kw if it_kw > 0.0 else 1.0
        jobs = Draw(work="deferrable", kw=float(power.deferrable_kw[s]) * pue)
        nothing = jobs, Draw(work="idle", kw=0.0)
        attempts = world.attempts[: int(world.clock[0]["slots_used"])]
        here = attempts[(attempts["stage"] == AT_ENGINE) & (attempts["site"] == s)]
        if not len(here):
            return nothing
        each_kw = power.dynamic_kw[s] * pue / len(here)
        mine = here[here["gateway"] == s]
        ranks = np.array([self._ranks[c.id] for c in self._fleet.classes])
        counts = np.bincount(ranks[mine["cls"]], minlength=self._rank_count + 1)
        classes = tuple(
            Draw(work="class", priority=priority, kw=float(each_kw * counts[rank]))
            for rank, priority in sorted(self._priority.items())
        )
        others = Draw(work="others", kw=float(each_kw * (len(here) - len(mine))))
        return (*nothing, others, *classes)
