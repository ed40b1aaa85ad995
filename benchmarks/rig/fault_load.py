"""Load program for faults: closed-loop clients, a signal to one backend, counts per 100 ms.

Run as a module (`python -m rig.fault_load`) with one JSON argument (`Plan`). Prints one JSON line (`Outcome`).
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time

import msgspec
import uvloop

from rig import payload
from rig.client import Connection, connect

BIN_S = 0.1
RECONNECT_S = 0.05
"""Between attempts to reach a gateway that refuses connections; each attempt counts as an error."""


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """What to run; instants are seconds after the start."""

    port: int
    clients: int
    total_s: float
    fault_after_s: float
    victim_pid: int
    signal: int
    timeout_s: float
    seed: int


class Outcome(msgspec.Struct, kw_only=True, frozen=True):
    """Counts per bin of BIN_S, and the slowest good answer of each bin."""

    good: list[int]
    errors: list[int]
    timeouts: list[int]
    slowest_ms: list[float]
    error_kinds: dict[str, int]


class Counter:
    """Bins that the clients write to."""

    def __init__(self, plan: Plan, started_s: float) -> None:
        bins = int(plan.total_s / BIN_S) + 1
        self.started_s = started_s
        self.ends_s = started_s + plan.total_s
        self.good = [0] * bins
        self.errors = [0] * bins
        self.timeouts = [0] * bins
        self.slowest_ms = [0.0] * bins
        self.error_kinds: dict[str, int] = {}

    def find_bin(self, now_s: float) -> int:
        return min(int((now_s - self.started_s) / BIN_S), len(self.good) - 1)

    def count_error(self, now_s: float, kind: str) -> None:
        self.errors[self.find_bin(now_s)] += 1
        self.error_kinds[kind] = self.error_kinds.get(kind, 0) + 1


async def run_client(plan: Plan, counter: Counter, draw: random.Random) -> None:
    """Send, wait, repeat until the end; a new connection after a timeout or a break."""
    requests = [
        payload.build_request(payload.build_tenant_chat(tenant, turn))
        for tenant in range(payload.TENANTS)
        for turn in range(4)
    ]
    connection: Connection | None = None
    while time.monotonic() < counter.ends_s:
        if connection is None:
            connection = await try_connect(plan, counter)
            continue
        if not await send_one(plan, counter, connection, draw.choice(requests)):
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


async def try_connect(plan: Plan, counter: Counter) -> Connection | None:
    try:
        return await connect(plan.port)
    except OSError as error:
        counter.count_error(time.monotonic(), type(error).__name__)
        await asyncio.sleep(RECONNECT_S)
        return None


async def send_one(plan: Plan, counter: Counter, connection: Connection, request: bytes) -> bool:
    """One request, counted; False when the connection must not be used again."""
    loop = asyncio.get_running_loop()
    waiter = connection.send(request)
    limit = loop.call_later(plan.timeout_s, waiter.cancel)
    try:
        answer = await waiter
    except asyncio.CancelledError:
        counter.timeouts[counter.find_bin(time.monotonic())] += 1
        return False
    finally:
        limit.cancel()
    if answer.broken or answer.status != 200:
        kind = "broken connection" if answer.broken else f"status {answer.status}"
        counter.count_error(answer.ended_at_s, kind)
        return not answer.broken and connection.reusable
    at = counter.find_bin(answer.ended_at_s)
    counter.good[at] += 1
    spent_ms = (answer.ended_at_s - answer.sent_at_s) * 1e3
    counter.slowest_ms[at] = max(counter.slowest_ms[at], spent_ms)
    return connection.reusable


async def run(plan: Plan) -> Outcome:
    """All clients, and the signal at its moment."""
    loop = asyncio.get_running_loop()
    counter = Counter(plan, time.monotonic())
    loop.call_later(plan.fault_after_s, os.kill, plan.victim_pid, plan.signal)
    draws = [random.Random(plan.seed * 1000 + index) for index in range(plan.clients)]
    await asyncio.gather(*(run_client(plan, counter, draw) for draw in draws))
    return Outcome(
        good=counter.good,
        errors=counter.errors,
        timeouts=counter.timeouts,
        slowest_ms=counter.slowest_ms,
        error_kinds=counter.error_kinds,
    )


if __name__ == "__main__":
    outcome = uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Plan)))
    sys.stdout.write("RESULT " + msgspec.json.encode(outcome).decode() + "\n")
