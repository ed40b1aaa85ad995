"""Whatever mix of answers, failures, breaks and departures: when all is quiet, nothing counts as under way."""

import asyncio
import random

import pytest

from hanse.live.evidence.chain import Decided, Ended, Executed
from hanse.live.gateway import metrics
from live.gateway.rig import ask, chat, connect, request, run, start

MODES = ["ok", "ok", "ok", "error", "cut", "cut_mid", "error_event"]
REQUESTS = 120


async def one(rng: random.Random, port: int) -> None:
    """One client: patient, or gone at some point."""
    body = chat("hello " * rng.randint(1, 60), stream=rng.random() < 0.5)
    patience = rng.choice(["patient", "patient", "leaves_at_once", "leaves_soon", "resets"])
    headers = {"x-hanse-class": rng.choice(["health", "public", "payment"])}
    if patience == "patient":
        await ask(port, body, headers=headers)
        return
    _, writer = await connect(port)
    writer.write(request(body, headers=headers))
    if patience == "leaves_soon":
        await asyncio.sleep(rng.random() * 0.05)
    if patience == "resets":
        writer.transport.abort()
    else:
        writer.close()


async def trouble(rng: random.Random, league, stop: asyncio.Event) -> None:
    """Engines change their minds; now and then one dies and comes back, or a table comes."""
    while not stop.is_set():
        site = league[rng.choice(list(league.sites))]
        engine = rng.choice(site.engines[:2])
        engine.mode = rng.choice(MODES)
        engine.close_after_stream = rng.random() < 0.3
        if rng.random() < 0.1:
            await engine.stop()
            await asyncio.sleep(0.02)
            await engine.restart()
        if rng.random() < 0.1:
            site.worker.use_table(site.worker.routing.table)
        await asyncio.sleep(0.01)


TWO = ("lyon", "tallinn")


@pytest.mark.parametrize(
    ("turn", "sites", "central"),
    [(0, TWO, True), (1, TWO, True), (2, TWO, False), (3, ("lyon",), False), (4, ("lyon",), False)],
)
def test_accounts_return_to_zero_after_any_mix_of_ends(tmp_path, seed, turn, sites, central):
    async def test():
        rng = random.Random(f"{seed}-{turn}")
        league = await start(tmp_path, sites=sites, replicas=2, central=central)
        stop = asyncio.Event()
        troubling = asyncio.ensure_future(trouble(rng, league, stop))
        under_way: set[asyncio.Future] = set()
        for _ in range(REQUESTS):
            port = league[rng.choice(list(league.sites))].port
            under_way.add(asyncio.ensure_future(one(rng, port)))
            if len(under_way) >= 12:
                _, under_way = await asyncio.wait(under_way, return_when="FIRST_COMPLETED")
        await asyncio.gather(*under_way, return_exceptions=True)
        stop.set()
        await troubling
        for site in league.sites.values():
            await site.idle()
            check(site)

    def check(site):
        worker = site.worker
        assert not (worker.page.own < 0).any()
        assert not (worker.page.exec < 0).any()
        records = site.records()
        ended = [r for r in records if isinstance(r, Ended) and r.role == "entry"]
        asked = {r.request_id for r in records if isinstance(r, Decided) and r.site}
        assert {r.request_id for r in ended} == asked  # each exactly once:
        assert len(ended) == len(asked)
        executed = {r.request_id for r in records if isinstance(r, Executed)}
        over = {r.request_id for r in records if isinstance(r, Ended)}
        assert executed <= over
        row = worker.counts.row
        answered = sum(row[metrics.REQUESTS : metrics.REQUESTS + len(metrics.CODES) + 1])
        assert answered >= worker.requests_begun

    run(test)
