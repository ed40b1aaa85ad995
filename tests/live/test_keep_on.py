"""Duties end when they are told to, also where what they await forgets it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from hanse.live.agent import _every
from hanse.live.archive import _archive, _through_losses
from hanse.live.keep_on import every

Duty = Callable[[], Awaitable[None]]


class Bus:
    """A client whose stream always has something to say, which `duty` awaits."""

    def __init__(self, duty: Duty) -> None:
        self._duty = duty

    def jetstream(self, **_: Any) -> Bus:
        return self

    async def add_consumer(self, *_: Any) -> None:
        """There it is."""

    async def pull_subscribe_bind(self, *_: Any) -> Bus:
        return self

    async def fetch(self, *_: Any, **__: Any) -> list[Any]:
        await self._duty()
        return []


@pytest.mark.parametrize(
    "loop",
    [
        every,
        lambda pause_s, duty: _every("duty", pause_s, duty),
        lambda _, duty: _through_losses("duty", lambda: _archive(Bus(duty), None, "")),  # type: ignore[arg-type]
    ],
    ids=["every", "agent", "archive"],
)
def test_a_cancellation_that_a_duty_swallows_ends_its_loop(loop) -> None:  # type: ignore[no-untyped-def]
    async def body() -> int:
        calls = 0
        begun = asyncio.Event()

        async def duty() -> None:
            """As `asyncio.wait_for` of Python 3.11 where the answer comes together with the cancellation."""
            nonlocal calls
            calls += 1
            begun.set()
            try:
                await asyncio.sleep(60.0)
            except asyncio.CancelledError:
                return

        task = asyncio.ensure_future(loop(0.0, duty))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5.0)
        return calls

    assert asyncio.run(body()) == 1
