"""Faults of a scenario, as they strike a run and end.

Here: `Strikes`, one method for the begin of each kind and one for its end. Not here: what may be asked for (`scenario`), what it does
to requests in flight (`faults`), how engines come back (`keeper`), weather and grid (`power`, which reads the scenario itself).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from hanse.dispatch import events as ev
from hanse.dispatch.policies import PolicyText
from hanse.errors import ConfigError
from hanse.twin import faults
from hanse.twin.scenario import Fault

if TYPE_CHECKING:
    from hanse.twin.simulate import Simulation

SILENCE_S: Final = 1.75
"""Three missed checks half a second apart, the first a quarter of a second after the fault on average."""


class Strikes:
    """What happens to one run."""

    def __init__(self, simulation: Simulation) -> None:
        self._sim = simulation
        self._outages, self._unpowered = set[int](), dict[int, int]()
        """Sites without a grid, and those of them that nothing carries any more, with their place in the log."""

    def power_ends(self, now_s: float) -> None:
        """Sites without a grid whose UPS and battery are empty go dark."""
        sim = self._sim
        empty = sim.power.unserved() & (sim.world.site_up != 0)
        for s in sorted(self._outages & set(np.flatnonzero(empty).tolist())):
            self._unpowered[s] = len(sim.log)
            sim.log.append((now_s, f"out of power {sim.fleet.sites[s].id}"))
            self._darken(s, now_s)

    def strike(self, fault: Fault, now_s: float) -> None:
        """It begins, and will end where it does."""
        sim = self._sim
        if math.isfinite(fault.for_s):
            sim.until_s[len(sim.log)] = now_s + fault.for_s
        sim.log.append((now_s, fault.text))
        getattr(self, f"_begin_{fault.kind}")(fault, now_s)
        if fault.for_s < float("inf") and hasattr(self, f"_end_{fault.kind}"):
            sim.at(
                now_s + fault.for_s, lambda at_s: getattr(self, f"_end_{fault.kind}")(fault, at_s)
            )

    def _engines(self, fault: Fault) -> range:
        sim = self._sim
        s = sim.index[fault.site]
        first, end = (int(sim.world.engine_first[i]) for i in (s, s + 1))
        return (
            range(first, end)
            if fault.engine < 0
            else range(first + fault.engine, first + fault.engine + 1)
        )

    def _begin_engine_kill(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        sim.keep(fault.site, now_s)
        for e in self._engines(fault):
            faults.kill_engine(sim.handle, e, now_s, True)

    def _begin_engine_freeze(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        sim.keep(fault.site, now_s)
        for e in self._engines(fault):
            faults.freeze_engine(sim.handle, e, now_s)

    def _begin_engine_slow(self, fault: Fault, now_s: float) -> None:
        assert fault.factor is not None
        for e in self._engines(fault):
            faults.set_speed(self._sim.handle, e, now_s, fault.factor)

    def _end_engine_slow(self, fault: Fault, now_s: float) -> None:
        for e in self._engines(fault):
            faults.set_speed(self._sim.handle, e, now_s, 1.0)

    def _begin_engine_no_start(self, fault: Fault, now_s: float) -> None:
        keeper = self._sim.keeper(fault.site, now_s)
        keeper.unable = (*keeper.unable, fault.service)

    def _end_engine_no_start(self, fault: Fault, now_s: float) -> None:
        keeper = self._sim.keeper(fault.site, now_s)
        left = list(keeper.unable)
        left.remove(fault.service)
        keeper.unable = tuple(left)

    def _begin_site_down(self, fault: Fault, now_s: float) -> None:
        self._darken(self._sim.index[fault.site], now_s)

    def _darken(self, s: int, now_s: float) -> None:
        sim = self._sim
        faults.darken_site(sim.handle, s, now_s)
        sim.at(now_s + SILENCE_S, lambda at_s: self._all_notice(s, at_s))

    def _all_notice(self, s: int, now_s: float) -> None:
        sim = self._sim
        if sim.world.site_up[s]:
            return
        for g in range(len(sim.fleet.sites)):
            if g != s:
                faults.notice_silence(sim.handle, g, s, now_s)
        sim.tell(ev.SiteLost(at_s=sim.start_at_s + now_s, site=sim.fleet.sites[s].id))

    def _end_site_down(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        s = sim.index[fault.site]
        if sim.world.site_up[s]:
            return
        for g in range(len(sim.fleet.sites)):
            if g != s:  # connections of before are reset
                faults.notice_silence(sim.handle, g, s, now_s)
        sim.world.site_up[s] = 1
        sim.world.engine_state[sim.world.engine_first[s] : sim.world.engine_first[s + 1]] = 0
        if sim.operator is not None:
            sim.operator.changed(fault.site, now_s)
            sim.operator.heard_again(now_s)
        sim.keep(fault.site, now_s)

    def _begin_link_cut(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        self._begin_link_cut_one_way(fault, now_s)
        faults.cut_link(sim.handle, sim.index[fault.other], sim.index[fault.site])

    def _begin_link_cut_one_way(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        a, b = sim.index[fault.site], sim.index[fault.other]
        faults.cut_link(sim.handle, a, b)
        sim.at(now_s + SILENCE_S, lambda at_s: self._pair_notices(a, b, at_s))

    def _pair_notices(self, a: int, b: int, now_s: float) -> None:
        """A check needs both directions, so both ends hear nothing of each other."""
        sim = self._sim
        if sim.world.link_up[a, b] and sim.world.link_up[b, a]:
            return
        faults.notice_silence(sim.handle, a, b, now_s)
        faults.notice_silence(sim.handle, b, a, now_s)

    def _end_link_cut(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        a, b = sim.index[fault.site], sim.index[fault.other]
        faults.heal_link(sim.handle, a, b, now_s)
        faults.heal_link(sim.handle, b, a, now_s)

    def _end_link_cut_one_way(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        faults.heal_link(sim.handle, sim.index[fault.site], sim.index[fault.other], now_s)

    def _begin_link_slow(self, fault: Fault, now_s: float) -> None:
        self._scale_way(fault, fault.factor or 1.0)

    def _end_link_slow(self, fault: Fault, now_s: float) -> None:
        self._scale_way(fault, 1.0)

    def _scale_way(self, fault: Fault, factor: float) -> None:
        sim = self._sim
        a, b = sim.index[fault.site], sim.index[fault.other]
        for one, two in ((a, b), (b, a)):
            sim.world.ways[one, two]["rtt_ms"] = sim.world.paths[one, two]["rtt_ms"] * factor

    def _begin_hub_loss(self, fault: Fault, now_s: float) -> None:
        self._sim.hub_up = False

    def _end_hub_loss(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        sim.hub_up = True
        if sim.operator is not None:
            sim.operator.heard_again(now_s)
        sim.observe(now_s)

    def _begin_telemetry_lost(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        sim.world.telemetry[sim.index[fault.site]] = -1.0

    def _begin_telemetry_wrong(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        sim.world.telemetry[sim.index[fault.site]] = fault.factor

    def _end_telemetry_lost(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        sim.world.telemetry[sim.index[fault.site]] = 1.0

    _end_telemetry_wrong = _end_telemetry_lost

    def _begin_drain(self, fault: Fault, now_s: float) -> None:
        self._drain(fault, now_s, drained=True)

    def _end_drain(self, fault: Fault, now_s: float) -> None:
        self._drain(fault, now_s, drained=False)

    def _drain(self, fault: Fault, now_s: float, *, drained: bool) -> None:
        sim = self._sim
        sim.tell(ev.DrainRequested(at_s=sim.start_at_s + now_s, site=fault.site, drained=drained))
        sim.tick(now_s)

    def _begin_law(self, fault: Fault, now_s: float) -> None:
        """The operator publishes a policy: the same event as live."""
        sim = self._sim
        path = sim.scenario_dir / fault.policy
        try:
            text = path.read_text()
        except OSError as error:
            raise ConfigError(
                f"scenario policy {path}", got=str(error), allowed="a readable Cedar file"
            ) from None
        sim.policies = (*sim.policies, PolicyText(name=fault.policy, text=text))
        sim.load_fleet(now_s)
        sim.tick(now_s)

    def _begin_grid_outage(self, fault: Fault, now_s: float) -> None:
        """The balance knows of it; the site goes dark when UPS and battery are empty (`power_ends`)."""
        self._outages.add(self._sim.index[fault.site])

    def _end_grid_outage(self, fault: Fault, now_s: float) -> None:
        s = self._sim.index[fault.site]
        self._outages.discard(s)
        if s in self._unpowered:
            self._sim.until_s[self._unpowered.pop(s)] = now_s
            self._end_site_down(fault, now_s)

    def _begin_grid_cap(self, fault: Fault, now_s: float) -> None:
        """The grid's operator takes some of the connection away."""
        sim = self._sim
        assert fault.factor is not None
        site = sim.fleet.sites[sim.index[fault.site]]
        sim.power.params[sim.index[fault.site]]["grid_kw_max"] = (
            site.power.grid_kw_max * fault.factor
        )

    def _end_grid_cap(self, fault: Fault, now_s: float) -> None:
        sim = self._sim
        site = sim.fleet.sites[sim.index[fault.site]]
        sim.power.params[sim.index[fault.site]]["grid_kw_max"] = site.power.grid_kw_max

    def _begin_heat_wave(self, fault: Fault, now_s: float) -> None:
        """The balance knows of it."""

    _begin_clouds = _begin_carbon = _begin_price = _begin_heat_wave
