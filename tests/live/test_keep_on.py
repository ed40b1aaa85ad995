"""Duties end when they are told to, also where what they await forgets it."""

from __future__ import annotations

import asyncio

import pytest

from hanse.live.agent import _every
from hanse.live.keep_on import every


@pytest.mark.parametrize("loop", [every, lambda pause_s, duty: _every("duty", pause_s, duty)])
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
