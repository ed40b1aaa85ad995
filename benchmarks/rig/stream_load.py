"""Load program for streams: time to first token of 1 or many streams, printed as one JSON line.

Run as a module (`python -m rig.stream_load`) with one JSON argument (`Plan`). `burst`: all streams of a round start at once;
`spread`: each starts at its own seeded moment and goes on in a closed loop.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Literal

import msgspec
import uvloop

from rig import payload
from rig.client import Answer, Connection, connect


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """What to run."""

    port: int
    streams: int
    rounds: int
    chunks: int
    mode: Literal["burst", "spread"]
    seed: int


class Outcome(msgspec.Struct, kw_only=True, frozen=True):
    """What was seen; the warm-up round's times are left out, its events are not."""

    ttft_ms: list[float]
    e2e_ms: list[float]
    events: int
    failed: int


async def run(plan: Plan) -> Outcome:
    """One warm-up round, then the measured rounds."""
    request = payload.build_request(
        payload.build_chat("Count the ships.", stream=True, tokens_max=plan.chunks)
    )
    connections = [await connect(plan.port) for _ in range(plan.streams)]
    warm = await asyncio.gather(*(one.send(request) for one in connections))
    rounds = run_burst if plan.mode == "burst" else run_spread
    answers = await rounds(plan, connections, request)
    for one in connections:
        one.close()
    return summarise(list(warm), answers)


async def run_burst(plan: Plan, connections: list[Connection], request: bytes) -> list[Answer]:
    answers: list[Answer] = []
    for _ in range(plan.rounds):
        answers += await asyncio.gather(*(one.send(request) for one in connections))
    return answers


async def run_spread(plan: Plan, connections: list[Connection], request: bytes) -> list[Answer]:
    draw = random.Random(plan.seed)
    length_s = plan.chunks * payload.CHUNK_EVERY_S

    async def run_one(connection: Connection, delay_s: float) -> list[Answer]:
        await asyncio.sleep(delay_s)
        return [await connection.send(request) for _ in range(plan.rounds)]

    delays_s = [draw.random() * length_s for _ in connections]
    nested = await asyncio.gather(*map(run_one, connections, delays_s))
    return [answer for each in nested for answer in each]


def summarise(warm: list[Answer], answers: list[Answer]) -> Outcome:
    good = [one for one in answers if one.status == 200 and one.first_at_s and not one.broken]
    return Outcome(
        ttft_ms=[(one.first_at_s - one.sent_at_s) * 1e3 for one in good],
        e2e_ms=[(one.ended_at_s - one.sent_at_s) * 1e3 for one in good],
        events=sum(one.events for one in warm + answers),
        failed=len(answers) - len(good),
    )


if __name__ == "__main__":
    outcome = uvloop.run(run(msgspec.json.decode(sys.argv[1], type=Plan)))
    sys.stdout.write("RESULT " + msgspec.json.encode(outcome).decode() + "\n")
