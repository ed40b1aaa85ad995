"""Mock engines on real sockets for a whole league, one a site, in one thread; they keep every body they read."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from live.gateway.mock_engine import MockEngine

T = TypeVar("T")


class Gate:
    """An event of the engines' thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: MockEngine) -> None:
        self._loop = loop
        self._engine = engine
        self.event = asyncio.Event()

    def let_others_pass(self) -> None:
        """Streams that begin from now on are not held."""
        self._engine.gate = None

    def set(self) -> None:
        self._loop.call_soon_threadsafe(self.event.set)


class MockFleet:
    """Started and ended by `with`."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        self._engines = {site: MockEngine(name=site, tokens=1) for site in sites}
        self._urls: dict[str, str] = {}
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # engines are ended in mid-sentence
        self._thread = threading.Thread(target=self._loop.run_forever, name="mock engines")

    def __enter__(self) -> MockFleet:
        self._thread.start()
        for site, engine in self._engines.items():
            self._urls[site] = self._run(engine.start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def urls(self) -> dict[str, str]:
        return self._urls

    def behave(self, site: str, mode: str) -> None:
        """See `MockEngine.mode`."""
        self._engines[site].mode = mode

    def hold(self, site: str, wait_s: float) -> None:
        """Answers of requests from now on come after so long."""
        self._engines[site].wait_s = wait_s

    def hold_streams(self, site: str) -> Gate:
        """Streams that begin there from now on stand still after their first event, until the gate is set."""
        gate = Gate(self._loop, self._engines[site])
        self._engines[site].gate = gate.event
        return gate

    def kill(self, site: str) -> None:
        """Every connection is reset, the port refuses."""
        self._run(self._engines[site].stop())

    def restart(self, site: str) -> None:
        self._run(self._engines[site].restart())

    def all_well(self) -> None:
        for engine in self._engines.values():
            engine.mode = "ok"

    def bodies(self, site: str) -> list[bytes]:
        """Of every request that its engine has read."""
        return [one.body for one in self._engines[site].posts()]

    async def _stop(self) -> None:
        for engine in self._engines.values():
            await engine.stop()
        others = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
