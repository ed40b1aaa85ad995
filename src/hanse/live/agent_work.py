"""What a site's engines draw, for which work, and which have nothing to do.

Here: `Meter`: power by CPU time, the kinds of work it is for, idle engines. Not here: the supply (`live.agent_power`), what is shed
(`dispatch.shed`).

What a kind of work draws is an estimate. Other sites' share is that of requests at the engines that this site's own gateway did not
send. Own work is split by class as the energy of the last minute's answers was. Idle power is nobody's: it ends only with an engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

from hanse.catalogue import Accelerator, accelerator
from hanse.dispatch.belief import EngineSpec
from hanse.dispatch.shed import Draw
from hanse.live.facility.metering import Measured
from hanse.live.shared import ENGINE_BUSY_S, ENGINE_CPU_W, SharedPage
from hanse.model.fleet import Fleet
from hanse.view import DecisionRow

METER_S: Final = 1.0
"""CPU time counts in ticks of 10 ms: a second gives 1 %."""
IDLE_S: Final = 10.0
"""Without a request for so long an engine has nothing to do; a chat's next turn comes within such a time or much later."""
CLASSES_S: Final = 60.0
"""Answers of the last minute say how own work is split."""


class Meter:
    """The power account of one site's engines."""

    def __init__(self, fleet: Fleet, site_id: str, page: SharedPage) -> None:
        self._page = page
        self._site_id = site_id
        self._chips: dict[str, Accelerator] = {}
        self.follow(fleet)
        self._cpu_s: dict[str, tuple[float, float]] = {}
        self._watts: dict[str, float] = {}
        self._estimated_w: dict[str, float] = {}
        self._it_measured_w: float | None = None
        self._idle_w: dict[str, float] = {}
        self._busy_at_s: dict[str, float] = {}
        self._answers: deque[tuple[float, int, float]] = deque()
        """(instant, priority, Wh)."""

    def follow(self, fleet: Fleet) -> None:
        """The fleet in force: chips of pools and ranks of classes. Pools that are gone stay known: engines drain there yet."""
        self._chips |= {
            pool.id: accelerator(pool.accelerator)
            for site in fleet.sites
            if site.id == self._site_id
            for pool in site.pools
        }
        self._priority = {c.id: c.priority for c in fleet.classes}

    def look(self, spec: EngineSpec, cpu_s: float, now_s: float) -> None:
        """Watts since the last look: idle and full power of the threads, by the share of time they ran."""
        before_at_s, before_cpu_s = self._cpu_s.get(spec.name, (now_s, cpu_s))
        if now_s - before_at_s < METER_S and spec.name in self._cpu_s:
            return
        self._cpu_s[spec.name] = (now_s, cpu_s)
        if cpu_s >= before_cpu_s and now_s > before_at_s:
            idle_w, full_w = self._rated_w(spec)
            share = min(1.0, (cpu_s - before_cpu_s) / (now_s - before_at_s))
            self._watts[spec.name] = idle_w + (full_w - idle_w) * share
            self._estimated_w[spec.name] = self._watts[spec.name]
            self._idle_w[spec.name] = idle_w
        row = self._page.engines[spec.index]
        row[ENGINE_CPU_W], row[ENGINE_BUSY_S] = self.watts(spec.name), cpu_s

    def busy(self, spec: EngineSpec, running: float, now_s: float) -> None:
        """How many requests are at an engine now."""
        if running > 0.0 or spec.name not in self._busy_at_s:
            self._busy_at_s[spec.name] = now_s

    def forget(self, spec: EngineSpec) -> None:
        """It draws nothing any more."""
        for known in (self._cpu_s, self._watts, self._estimated_w, self._idle_w, self._busy_at_s):
            known.pop(spec.name, None)
        self._page.engines[spec.index, ENGINE_CPU_W] = 0.0

    def answered(self, row: DecisionRow) -> None:
        """An answer that this site's gateway gave, wherever it was made."""
        if row.site == self._site_id and row.measured is not None:
            priority = self._priority.get(row.data_class, 0)
            self._answers.append((row.at_s, priority, row.measured.energy_wh))

    def watts(self, name: str) -> float:
        """Of one engine; 0 where nobody tells."""
        return self._watts.get(name, 0.0)

    def see_measured(self, measured: Measured, engines: Sequence[EngineSpec]) -> None:
        """Meters' figures take the place of estimates: each engine gets its part of what was measured.

        The part is by estimated power where there is one, else by running requests; an engine that has none idles at its chips' figure.
        """
        self._it_measured_w = None if measured.it is None else measured.it.w
        groups = [
            (power.w, [e for e in engines if e.pool == pool])
            for pool, power in measured.pools.items()
        ]
        if not groups and measured.it is not None:
            groups = [(measured.it.w, list(engines))]
        for watts, own in groups:
            self._part(watts, own)

    def _part(self, watts: float, engines: Sequence[EngineSpec]) -> None:
        weights = []
        for spec in engines:
            idle_w, _ = self._rated_w(spec)
            self._idle_w[spec.name] = idle_w
            running = float(self._page.exec[:, spec.index, 0].sum())
            estimated_w = self._estimated_w.get(spec.name, 0.0)
            weights.append(estimated_w or max(idle_w, 1.0) * (1.0 + running))
        total = sum(weights)
        for spec, weight in zip(engines, weights, strict=True):
            self._watts[spec.name] = watts * weight / total
            self._page.engines[spec.index, ENGINE_CPU_W] = self._watts[spec.name]

    def it_w(self) -> float:
        """IT power, W: measured where meters tell it, else of all engines by their CPU time (threads' figures of the catalogue)."""
        if self._it_measured_w is not None:
            return self._it_measured_w
        return sum(self._watts.values())

    def busy_w(self, engines: Sequence[EngineSpec]) -> tuple[float, float]:
        """Watts of engines that have a request, as gateways share them out; and idle figures of those whose power nobody tells."""
        running = self._page.exec[:, :, 0].sum(axis=0)
        busy = silent = 0.0
        for spec in engines:
            watts = self._watts.get(spec.name, 0.0)
            if watts <= 0.0:
                silent += self._rated_w(spec)[0]
            elif running[spec.index] > 0:
                busy += watts
        return busy, silent

    def _rated_w(self, spec: EngineSpec) -> tuple[float, float]:
        """Idle and full power of an engine's chips; of a pool that went before this agent began nobody knows them: none."""
        chip = self._chips.get(spec.pool)
        if chip is None:
            return 0.0, 0.0
        return (chip.idle_w or 0.0) * spec.chips, (chip.tdp_w or 0.0) * spec.chips

    def idle(self, now_s: float) -> tuple[str, ...]:
        """Engines that had no request for a while."""
        return tuple(name for name, at_s in self._busy_at_s.items() if now_s - at_s >= IDLE_S)

    def draws(self, local_offers: Sequence[int], pue: float, now_s: float) -> tuple[Draw, ...]:
        """What each kind of work draws at the meter; empty where no request runs.

        Args:
            local_offers: Indices of this site's offers in the table in force.
        """
        dynamic_kw = pue * max(self.it_w() - sum(self._idle_w.values()), 0.0) / 1000.0
        idle_kw = Draw(
            work="idle",
            kw=pue * sum(self._idle_w.get(name, 0.0) for name in self.idle(now_s)) / 1000.0,
        )
        requests = float(self._page.exec[:, :, 0].sum())
        if requests <= 0.0:
            return (idle_kw,)
        own = float(self._page.own[:, list(local_offers), 0].sum()) if local_offers else 0.0
        own_share = min(own / requests, 1.0)
        found = [Draw(work="others", kw=dynamic_kw * (1.0 - own_share)), idle_kw]
        for priority, share in self._shares(now_s).items():
            found.append(Draw(work="class", priority=priority, kw=dynamic_kw * own_share * share))
        return tuple(found)

    def _shares(self, now_s: float) -> dict[int, float]:
        """Priority -> share of own work; empty while no answer says."""
        answers = self._answers
        while answers and now_s - answers[0][0] > CLASSES_S:
            answers.popleft()
        wh = dict.fromkeys(sorted(set(self._priority.values())), 0.0)
        for _, priority, energy_wh in answers:
            wh[priority] = wh.get(priority, 0.0) + energy_wh
        total_wh = sum(wh.values())
        return {p: part / total_wh for p, part in wh.items()} if total_wh > 0.0 else {}
