"""A fleet's Dispatcher that places, asked and answered as a shell would; also the log that its controller would write."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from dispatch.fleets import NOW_S, fleet, service, site, tenant
from hanse.dispatch import actions as act
from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.eventlog import MAGIC, frame
from hanse.dispatch.place import PlaceAnswer, PlaceProblem, check, solve
from hanse.model.fleet import Link, Placement, Pool, Power, Slo, SlowLoop
from hanse.signals.outlook import DemandOutlook, Outlook, SiteOutlook

OWN = Pool(id="gpu", accelerator="l4", count=4)
SLO = Slo(ttft_ms=1000.0, tpot_ms=100.0)


def placed(site_id: str, **fields: Any) -> Placement:
    return Placement(service="chat", variant="v0", site=site_id, pool="gpu", **fields)


class Fleet:
    """Sites a, b, c in Germany, each with one pool `gpu`; users of `chat` at a."""

    def __init__(self, *pools: Pool, placements: tuple[Placement, ...], slo: Slo = SLO) -> None:
        names = "abc"[: len(pools)]
        sites = tuple(
            site(n, "DE", lat_deg=50.0 + i, pools=(pools[i],), power=Power(grid_kw_max=20.0))
            for i, n in enumerate(names)
        )
        links = tuple(
            Link(a=a, b=b, rtt_ms=8.0, mbit_s=1000.0)
            for i, a in enumerate(names)
            for b in names[i + 1 :]
        )
        made = fleet(
            sites,
            services=(service(slo=slo),),
            tenants=(tenant("t", ("DE",)),),
            links=links,
            placements=placements,
        )
        loop = SlowLoop(places=True, place_every_s=900.0)
        self.names = names
        self.at_s = NOW_S
        self.dispatcher = Dispatcher("fleet")
        self.log = MAGIC
        self.tell(ev.FleetLoaded(at_s=NOW_S, fleet=replace(made, slow_loop=loop)))
        self.tell(ev.EpochGranted(at_s=NOW_S, epoch=1))

    def tell(self, event: ev.Event) -> list[act.Action]:
        actions = self.dispatcher.handle(event)
        self.log += frame(event, actions)
        return list(actions)

    def expect(
        self,
        rate: float = 3.0,
        tokens_in: float = 400.0,
        cooled: float = 1.0,
        pv_kw: float = 0.0,
        grid_kw: float = 20.0,
    ) -> None:
        steps = 2
        demand = DemandOutlook(
            service="chat",
            tenant="t",
            data_class="public",
            country="DE",
            origin="a",
            requests_per_s=(rate,) * steps,
            requests_per_s_high=(1.3 * rate,) * steps,
            input_tokens=tokens_in,
            output_tokens=150.0,
        )
        sites = tuple(
            SiteOutlook(
                site=name,
                price_usd_per_kwh=(0.2,) * steps,
                carbon_g_per_kwh=(300.0,) * steps,
                carbon_signal="average_location",
                pue=(1.3,) * steps,
                pv_kw=(pv_kw,) * steps,
                wind_kw=(0.0,) * steps,
                grid_kw_max=(grid_kw,) * steps,
                cooled_share=(cooled,) * steps,
            )
            for name in self.names
        )
        outlook = Outlook(
            issued_at_s=self.at_s, start_s=NOW_S, step_s=3600.0, demand=(demand,), sites=sites
        )
        self.tell(ev.OutlookIssued(at_s=self.at_s, outlook=outlook))

    def asked(self) -> PlaceProblem:
        self.at_s += 1000.0
        (problem,) = (
            one.problem
            for one in self.tell(ev.Ticked(at_s=self.at_s))
            if isinstance(one, act.SolvePlacement)
        )
        return problem

    def place(self) -> tuple[PlaceProblem, PlaceAnswer]:
        """One round; a refused answer fails."""
        problem = self.asked()
        answer = solve(problem)
        assert check(problem, answer) == []
        said = self.tell(ev.PlacementSolved(at_s=self.at_s, answer=answer))
        assert not [x for x in said if isinstance(x, act.Log) and "refused" in x.text], said
        return problem, answer

    def at(self, name: str) -> list[Placement]:
        belief = self.dispatcher.belief
        assert belief is not None
        return [p for p in belief.placements if p.site == name]
