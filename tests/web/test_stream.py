"""The live stream: newest picture to everyone, and nobody waits for a slow one."""

import asyncio
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2
import msgspec
import numpy as np
import pytest

from hanse.view import LeagueView
from hanse.web.page import SECTIONS
from hanse.web.stream import Feed, Frame, Pace, event
from web.fake_league import FakeLeague
from web.serving import serving


async def events(answer: httpx2.Response) -> AsyncIterator[tuple[str, str]]:
    """(event name, data) of each event; comments and `retry` have no event name."""
    name = data = ""
    async for line in answer.aiter_lines():
        if line.startswith((":", "retry:")):
            yield "", line
        elif line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
        elif not line and name:
            yield name, data
            name = data = ""


async def first(answer: httpx2.Response, name: str, most: int = 1) -> list[str]:
    """Data of the first `most` events of that name."""
    found = []
    async for kind, data in events(answer):
        if kind == name:
            found.append(data)
            if len(found) == most:
                break
    return found


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


def run(scenario: Awaitable[None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scenario

    asyncio.run(bounded())


def test_a_reader_is_told_to_retry_then_gets_the_whole_view(rng: np.random.Generator) -> None:
    async def scenario() -> None:
        league = FakeLeague(rng)
        league.busy_day(20)
        league.tick()
        async with (
            serving(league) as (url, _),
            httpx2.AsyncClient() as client,
            client.stream("GET", f"{url}/api/stream") as answer,
        ):
            assert answer.headers["content-type"].startswith("text/event-stream")
            assert answer.headers["cache-control"] == "no-store"
            got = events(answer)
            assert await anext(got) == ("", "retry: 1000")
            name, data = await anext(got)
            assert name == "view"
            assert msgspec.json.decode(data, type=LeagueView) == league.snapshot()

    run(scenario())


def test_the_pages_own_stream_carries_its_sections_too(rng: np.random.Generator) -> None:
    async def scenario() -> None:
        league = FakeLeague(rng)
        row = league.serve("tallinn", "lyon")
        league.batch("batch-1")
        async with (
            serving(league) as (url, _),
            httpx2.AsyncClient() as client,
            client.stream("GET", f"{url}/api/stream?page=1") as answer,
        ):
            sections = json.loads((await first(answer, "page"))[0])
            assert set(sections) == set(SECTIONS)
            assert f"decision-{row.request_id}" in sections["decisions"]
            assert "work-batch-1" in sections["work"]

    run(scenario())


def test_pictures_come_no_faster_than_the_pace_however_much_happens(
    rng: np.random.Generator,
) -> None:
    async def scenario() -> None:
        league = FakeLeague(rng)

        async def hurry() -> None:
            while True:
                league.tick(0.001)
                await asyncio.sleep(0.001)

        async with (
            serving(league, frame_s_min=0.1, quiet_s_max=0.2) as (url, _),
            httpx2.AsyncClient() as client,
            client.stream("GET", f"{url}/api/stream") as answer,
        ):
            hurrying = asyncio.create_task(hurry())
            begun_s = time.monotonic()
            got = await first(answer, "view", 6)
            took_s = time.monotonic() - begun_s
            hurrying.cancel()
            assert len(got) == 6
            assert took_s >= 4 * 0.1  # the first of the six may be there already

    run(scenario())


def test_a_site_that_falls_silent_is_shown_without_any_news(rng: np.random.Generator) -> None:
    async def scenario() -> None:
        league = FakeLeague(rng)
        league.tick()
        async with (
            serving(league, frame_s_min=0.01, quiet_s_max=0.02) as (url, _),
            httpx2.AsyncClient() as client,
            client.stream("GET", f"{url}/api/stream") as answer,
        ):
            states = []
            async for name, data in events(answer):
                if name == "view":
                    states.append(msgspec.json.decode(data, type=LeagueView).sites[0].state)
                    league.now_s += 1.0  # time passes; nobody reports and nobody tells
                    if states[-1] == "silent":
                        break
            assert states[0] == "up"

    run(scenario())


def test_a_quiet_stream_is_kept_alive(rng: np.random.Generator) -> None:
    async def scenario() -> None:
        async with (
            serving(FakeLeague(rng), frame_s_min=30, quiet_s_max=60, beat_s=0.05) as (url, _),
            httpx2.AsyncClient() as client,
            client.stream("GET", f"{url}/api/stream") as answer,
        ):
            comments = [": still here"] * 2
            async for name, data in events(answer):
                if not name and data in comments:
                    comments.pop()
                    if not comments:
                        break

    run(scenario())


def test_a_reader_that_takes_nothing_holds_nobody_up_and_is_let_go(
    rng: np.random.Generator,
) -> None:
    async def scenario() -> None:
        league = FakeLeague(rng)
        league.busy_day(200)
        async with (
            serving(league, frame_s_min=0.01, quiet_s_max=0.02, send_s_max=0.5) as (url, feed),
            httpx2.AsyncClient() as client,
        ):
            stuck = socket.socket()
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            stuck.connect(("127.0.0.1", int(url.rsplit(":", 1)[1])))
            stuck.sendall(b"GET /api/stream HTTP/1.1\r\nhost: localhost\r\n\r\n")
            with stuck:
                await until(lambda: feed.readers == 1)
                async with client.stream("GET", f"{url}/api/stream") as answer:
                    assert len(await first(answer, "view", 10)) == 10
                    assert (await client.get(f"{url}/healthz")).status_code == 200
                await until(lambda: feed.readers == 0)

    run(scenario())


def test_one_reader_too_many_is_told_so(rng: np.random.Generator) -> None:
    async def scenario() -> None:
        async with (
            serving(FakeLeague(rng), streams_max=1) as (url, feed),
            httpx2.AsyncClient() as client,
        ):
            async with client.stream("GET", f"{url}/api/stream") as answer:
                assert answer.status_code == 200
                refused = await client.get(f"{url}/api/stream")
                assert refused.status_code == 503
                assert refused.headers["retry-after"] == "10"
            await until(lambda: feed.readers == 0)
            async with client.stream("GET", f"{url}/api/stream") as answer:
                assert answer.status_code == 200

    run(scenario())


class Counting:
    """A source that counts how often it is asked, and fails on demand."""

    def __init__(self, view: LeagueView) -> None:
        self.view = view
        self.asked = 0
        self.broken = False

    def snapshot(self) -> LeagueView:
        self.asked += 1
        if self.broken:
            raise ZeroDivisionError("made up")
        return self.view

    async def changed(self) -> None:
        return


def test_nothing_is_made_while_nobody_reads(rng: np.random.Generator) -> None:
    async def scenario() -> None:
        source = Counting(FakeLeague(rng).snapshot())
        frame = Frame(event("view", b"{}"), event("page", b"{}"))
        feed = Feed(source, lambda _: frame, Pace(frame_s_min=0.001, quiet_s_max=0.002))
        await asyncio.sleep(0.02)
        assert source.asked == 0
        assert feed.join()
        await until(lambda: source.asked >= 3)
        feed.leave()
        await asyncio.sleep(0)
        asked = source.asked
        await asyncio.sleep(0.02)
        assert source.asked == asked

    run(scenario())


def test_a_failing_source_ends_the_stream_loudly_and_the_next_reader_starts_anew(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        source = Counting(FakeLeague(rng).snapshot())
        frame = Frame(event("view", b"{}"), event("page", b"{}"))
        feed = Feed(source, lambda _: frame, Pace(frame_s_min=0.001, quiet_s_max=0.002))
        feed.join()
        source.broken = True
        chunks = [chunk async for chunk in feed.chunks(page=False)]
        assert chunks[0].startswith(b"retry:")
        feed.leave()
        source.broken = False
        feed.join()
        renewed = feed.chunks(page=True)
        assert [await anext(renewed), await anext(renewed)][1] == frame.view + frame.page
        feed.leave()

    with caplog.at_level(logging.ERROR):
        run(scenario())
    assert "pump stopped" in caplog.text


def test_an_event_is_one_line_of_data() -> None:
    assert event("view", b"{}") == b"event: view\ndata: {}\n\n"
    with pytest.raises(AssertionError):
        event("view", b"a\nb")
