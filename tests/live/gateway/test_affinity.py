"""A conversation goes back to the engine that holds it, over real sockets; credit follows what engines tell and do."""

import asyncio

import pytest

from hanse.dispatch.prefix import AGES
from live.gateway.rig import SHOP_KEY, ask, chat, run, start

LONG = "You answer in verse. " * 100
"""Some 500 tokens."""


async def first_turn_at(site, number, **more):
    """A conversation that began at engine `number`, since all before it were busy; what its first turn asked."""
    busy = site.engines[:number]
    waits = []
    for engine in busy:
        engine.hold = asyncio.Event()
        engine.arrived.clear()
        waits.append(asyncio.create_task(ask(site.port, chat("short"))))
        await engine.arrived.wait()
    asked = chat(LONG, **more)
    assert (await ask(site.port, asked)).status == 200
    for engine in busy:
        engine.hold.set()
    await asyncio.gather(*waits)
    for engine in busy:
        engine.hold = None
    await site.idle()
    return asked


def counts(site):
    return [len(engine.posts()) for engine in site.engines[:-1]]


def grown(site, before):
    return [now - then for now, then in zip(counts(site), before, strict=True)]


def with_next_turn(asked, text="And then?"):
    said = [*asked["messages"], {"role": "assistant", "content": "Well."}]
    return asked | {"messages": [*said, {"role": "user", "content": text}]}


@pytest.mark.parametrize("journal", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_the_next_turn_lands_on_the_engine_that_has_the_last(tmp_path, stream, journal):
    async def test():
        site = (await start(tmp_path, replicas=3, journal=journal))["lyon"]
        asked = await first_turn_at(site, 2, stream=stream)
        for turn in range(3):
            before = counts(site)
            asked = with_next_turn(asked, f"turn {turn}")
            assert (await ask(site.port, asked)).status == 200
            await site.idle()
            assert grown(site, before) == [0, 0, 1]
        before = counts(site)
        await ask(site.port, chat("Another matter. " * 40))
        assert grown(site, before) == [1, 0, 0], "others go to the first of equals"

    run(test)


def test_another_tenants_prompt_finds_nothing(tmp_path):
    async def test():
        site = (await start(tmp_path, replicas=2))["lyon"]
        asked = await first_turn_at(site, 1)
        before = counts(site)
        assert (await ask(site.port, asked, key=SHOP_KEY)).status == 200
        assert grown(site, before) == [1, 0]

    run(test)


def test_an_engine_that_died_holds_nothing_when_it_is_back(tmp_path):
    async def test():
        site = (await start(tmp_path, replicas=2))["lyon"]
        asked = await first_turn_at(site, 1)
        await site.engines[1].stop()
        while site.worker.engines[1].usable(asyncio.get_running_loop().time() + 1e9):
            await asyncio.sleep(0.02)
        await site.engines[1].restart()
        while not site.worker.engines[1].usable(1e12):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)  # a tick: the routing sees it alive
        before = counts(site)
        assert (await ask(site.port, with_next_turn(asked))).status == 200
        assert grown(site, before) == [1, 0]

    run(test)


def test_credit_follows_what_engines_say_they_found(tmp_path):
    async def test():
        site = (await start(tmp_path, replicas=2))["lyon"]
        trust = site.worker.affinity.engines.trust
        asked = await first_turn_at(site, 1)
        await ask(site.port, asked)
        assert (trust[:2, 0] == 1.0).all(), "who does not tell teaches nothing"
        engine = site.engines[1]
        engine.cached = 0
        for _ in range(20):
            await ask(site.port, asked)
        assert trust[1, 0] < 0.5 and trust[0, 0] == 1.0
        assert (trust[1, 1 : AGES - 2] == 1.0).all(), "of other ages nothing is known"
        engine.cached = 7
        for _ in range(60):
            await ask(site.port, asked)
        assert trust[1, 0] > 0.95
        assert len(engine.posts()) == 82

    run(test)


def test_a_forwarded_conversation_finds_its_engine_and_its_entry_learns_of_the_site(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"), replicas=2)
        lyon, tallinn = league["lyon"], league["tallinn"]
        for engine in lyon.engines:
            await engine.stop()
        while any(engine.usable(1e12) for engine in lyon.worker.engines):
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.05)
        asked = chat(LONG)
        tallinn.engines[0].hold = asyncio.Event()
        other = asyncio.create_task(ask(lyon.port, chat("short")))
        await tallinn.engines[0].arrived.wait()
        await ask(lyon.port, asked)
        tallinn.engines[0].hold.set()
        await other
        tallinn.engines[1].cached = 0
        site = lyon.worker.routing.table.site_index["tallinn"]
        before = lyon.worker.affinity.sites.trust[site, 0]
        counted = counts(tallinn)
        await ask(lyon.port, with_next_turn(asked))
        assert grown(tallinn, counted) == [0, 1]
        assert lyon.worker.affinity.sites.trust[site, 0] < before == 1.0
        assert tallinn.worker.affinity.engines.trust[1, 0] < 1.0

    run(test)
