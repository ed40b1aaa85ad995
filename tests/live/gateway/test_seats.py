"""Engines come and go under a running worker; a site short of power says no by class, over real sockets."""

from __future__ import annotations

import asyncio
import time

from hanse.dispatch.belief import EngineSpec
from hanse.live.gateway.worker import Worker
from hanse.live.seats import Seats, write_seats
from hanse.live.shared import (
    ENGINE_ALIVE,
    ENGINE_DEAD,
    ENGINE_DRAINING,
    ENGINE_STATE,
    FLAG_AGENT_AT_S,
    FLAG_POWER_CAUSE,
    FLAG_POWER_SHED,
    FLAG_SEATS_VERSION,
    WORKER_SEATS_VERSION,
)
from live.gateway.mock_engine import MockEngine
from live.gateway.rig import SiteRig, ask, chat, run, start


def spec(index: int, name: str, url: str, service: str = "chat", variant: str = "q4") -> EngineSpec:
    return EngineSpec(
        name=name,
        index=index,
        site="lyon",
        service=service,
        variant=variant,
        model="m",
        precision="p",
        served_names=("chat",),
        pool="mock",
        driver="process",
        url=url,
        chips=1,
        slots=8,
        context_tokens=1000,
        embedding=False,
    )


class Agent:
    """Writes what a site's agent writes."""

    def __init__(self, site: SiteRig) -> None:
        self.site, self.worker = site, site.worker
        self.specs = {
            e.index: spec(e.index, f"old-{e.index}", e.seat.url, e.seat.service, e.seat.variant)
            for e in self.worker.engines
        }
        self.version = 0

    def says(self, **states: int) -> None:
        """`row_0=ENGINE_ALIVE`, ...; an agent that lives."""
        page = self.worker.page
        page.flags[FLAG_AGENT_AT_S] = time.time() + 1000.0
        for row, state in states.items():
            page.engines[int(row.removeprefix("row_")), ENGINE_STATE] = state

    async def seats(self, *specs: EngineSpec) -> None:
        self.version += 1
        seats = Seats(version=self.version, engines=specs)
        write_seats(self.site.home / "seats.json", seats)
        self.worker.page.flags[FLAG_SEATS_VERSION] = self.version
        for _ in range(100):
            if self.worker.page.workers[0, WORKER_SEATS_VERSION] == self.version:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the worker read no new seats")


def posts(site: SiteRig) -> list[int]:
    return [len(engine.posts()) for engine in site.engines]


def test_a_row_that_changes_hands_gets_the_next_requests_and_the_waiting_one_moves(tmp_path):
    async def test():
        site = (await start(tmp_path, replicas=2, central=False))["lyon"]
        agent = Agent(site)
        agent.says(row_0=ENGINE_DEAD, row_1=ENGINE_ALIVE, row_2=ENGINE_ALIVE)
        await asyncio.sleep(0.05)
        site.engines[1].hold = asyncio.Event()
        waiting = asyncio.create_task(ask(site.port, chat("first")))
        await site.engines[1].arrived.wait()
        fresh = MockEngine(name="fresh")
        site.engines.append(fresh)
        url = await fresh.start()
        agent.says(row_0=ENGINE_ALIVE)
        await agent.seats(agent.specs[0], spec(1, "new-1", url), agent.specs[2])
        assert (await waiting).status == 200, "its engine is gone: another one answered"
        agent.says(row_0=ENGINE_DRAINING)
        await asyncio.sleep(0.05)
        for _ in range(3):
            assert (await ask(site.port, chat("more"))).status == 200
        assert len(fresh.posts()) >= 3
        site.engines[1].hold.set()
        await site.idle()
        records = [r for r in site.records() if getattr(r, "engine", "")]
        assert records[-1].engine == "new-1"

    run(test)


def test_an_engine_that_drains_ends_what_it_has_and_gets_nothing_new(tmp_path):
    async def test():
        site = (await start(tmp_path, replicas=2, central=False))["lyon"]
        agent = Agent(site)
        agent.says(row_0=ENGINE_ALIVE, row_1=ENGINE_ALIVE, row_2=ENGINE_ALIVE)
        site.engines[0].hold = asyncio.Event()
        waiting = asyncio.create_task(ask(site.port, chat("first")))
        await site.engines[0].arrived.wait()
        agent.says(row_0=ENGINE_DRAINING)
        await asyncio.sleep(0.1)
        for _ in range(4):
            assert (await ask(site.port, chat("next"))).status == 200
        assert posts(site)[:2] == [1, 4]
        site.engines[0].hold.set()
        assert (await waiting).status == 200
        assert posts(site)[:2] == [1, 4], "the first was not sent again"

    run(test)


def test_a_seat_may_stand_empty_and_a_row_may_be_added(tmp_path):
    async def test():
        site = (await start(tmp_path, central=False))["lyon"]
        agent = Agent(site)
        agent.says(row_0=ENGINE_ALIVE, row_1=ENGINE_ALIVE, row_3=ENGINE_ALIVE)
        fresh = MockEngine(name="fresh")
        site.engines.append(fresh)
        url = await fresh.start()
        await agent.seats(agent.specs[1], spec(3, "far", url))
        worker: Worker = site.worker
        assert [e.vacant for e in worker.engines] == [True, False, True, False]
        await asyncio.sleep(0.05)
        assert (await ask(site.port, chat("hello"))).status == 200
        assert len(fresh.posts()) == 1
        await agent.seats(agent.specs[1])
        await asyncio.sleep(0.05)
        assert (await ask(site.port, chat("hello"))).status == 503

    run(test)


def test_a_site_short_of_power_refuses_by_class_and_says_why(tmp_path):
    """Classes of the rig: health and public, both of priority 50 unless told otherwise."""

    async def test():
        from live.gateway import rig

        text = rig.FLEET
        rig.FLEET = text.replace('id = "public"\n', 'id = "public"\npriority = 10\n', 1)
        try:
            site = (await start(tmp_path, central=False))["lyon"]
        finally:
            rig.FLEET = text
        page = site.worker.page
        page.flags[FLAG_POWER_CAUSE] = 2.0

        async def level(number: int, **how: object):
            page.flags[FLAG_POWER_SHED] = number
            await asyncio.sleep(0.05)
            return await ask(site.port, chat("hello"), **how)

        for number in (0, 1, 2):  # deferrable work, others' work
            assert (await level(number, headers={"x-hanse-class": "public"})).status == 200
        refused = await level(3, headers={"x-hanse-class": "public"})
        assert (refused.status, refused.code) == (503, "power")
        assert refused.headers["retry-after"]
        shed = refused.json["error"]["hanse"]["shed"]
        assert shed == {"rule": "hanse:power-priority-10", "class": "public", "cause": "heat"}
        assert "priority 10" in refused.json["error"]["message"]
        assert (await level(4, headers={"x-hanse-class": "health"})).status == 200
        last = await level(5, headers={"x-hanse-class": "health"})
        assert (last.status, last.code) == (503, "power")
        assert (await level(0, headers={"x-hanse-class": "public"})).status == 200

    run(test)


def test_others_work_is_refused_before_own(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"), central=False)
        lyon, tallinn = league["lyon"], league["tallinn"]
        tallinn.worker.page.flags[FLAG_POWER_SHED] = 2
        await asyncio.sleep(0.7)  # the next check tells
        for engine in lyon.engines[:-1]:
            await engine.stop()
        for _ in range(3):
            answer = await ask(lyon.port, chat("hello"))
            assert answer.status in (502, 503)
        assert len(tallinn.engines[0].posts()) == 0
        assert (await ask(tallinn.port, chat("hello"))).status == 200

    run(test)
