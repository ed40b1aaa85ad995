"""Duties that go on through every loss of the bus.

Here: `every`, at an interval, `until_up`, once, `until_signalled`, all of a process, and `end_if_cancelled`. Not here: any duty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from hanse.errors import HanseError
from hanse.live.logline import log_line
from hanse.live.supervise import end_on_signals

T = TypeVar("T")


async def every(interval_s: float, duty: Callable[[], Awaitable[None]]) -> None:
    """Call a duty at an interval for ever; what the bus, the disk or a rule refuses is said once and tried again."""
    said = ""
    while True:
        try:
            await duty()
            said = ""
        except Exception as error:
            if not passes(error):
                raise
            if repr(error) != said:
                said = repr(error)
                log_line(said)
        end_if_cancelled()
        await asyncio.sleep(interval_s)


def end_if_cancelled() -> None:
    """Raise a cancellation that got lost: `asyncio.wait_for` of Python 3.11, which nats-py asks by, returns an answer that comes together with
    one and says nothing of it, and where its connection was closed nats-py makes an error of one. A loop that went on then would never be told
    again, and whoever ended it would wait for ever. For every loop that asks the bus.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def until_up(act_once: Callable[[], Awaitable[T]]) -> T:
    """Try until the bus answers: at a start it may come up after this process."""
    while True:
        try:
            return await act_once()
        except Exception as error:
            if not passes(error):
                raise
            await asyncio.sleep(0.2)


async def until_signalled(
    run: Coroutine[Any, Any, None], close: Callable[[], Awaitable[None]]
) -> None:
    """Run until SIGTERM or Ctrl-C, then close; what ends by itself before is a bug, and raised."""
    ended = end_on_signals(asyncio.get_running_loop())
    running = asyncio.create_task(run)
    ending = asyncio.create_task(ended.wait())
    await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
    ended_by_itself = running.done()
    # Before the bus is left: nats-py turns a cancellation on a closed connection into an error.
    running.cancel()
    await asyncio.wait({running})
    await close()
    if ended_by_itself:
        running.result()


def passes(error: Exception) -> bool:
    """Whether an error is of something that may be well again later; all others are ours."""
    return (
        isinstance(error, HanseError | OSError | TimeoutError) or "nats" in type(error).__module__
    )
