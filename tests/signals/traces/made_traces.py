"""Small traces and specs that the tests of traces share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
from hypothesis import strategies as st

from hanse.signals.traces import Chunk, Origin, Trace, TraceMeta
from hanse.signals.traces.spec import TraceSpec
from hanse.signals.traces.trace import empty_requests, join, pack

META = TraceMeta(
    name="made",
    source="made for this test",
    licence="none",
    services=("chat", "embed"),
    classes=("public", "health"),
    origins=(
        Origin(id="lyon", lat_deg=45.76, lon_deg=4.84, country="FR"),
        Origin(id="tallinn", lat_deg=59.44, lon_deg=24.75, country="EE"),
        Origin(id="berlin", lat_deg=52.52, lon_deg=13.4, country="DE"),
    ),
    tenants=("demo",),
    block_tokens=16,
    duration_s=1000.0,
)

SPEC = {
    "schema": "hanse-trace-spec/1",
    "name": "small",
    "seed": 7,
    "start": "2026-03-28T00:00:00+00:00",
    "duration_h": 2.0,
    "requests_per_s": 2.0,
    "block_tokens": 32,
    "origin": [{"city": "Lyon"}, {"city": "Tallinn", "weight": 1e6}],
    "service": [
        {
            "id": "chat",
            "tokens_in": {"kind": "lognormal", "median": 80, "sigma": 1.0, "max": 900},
            "tokens_out": {"kind": "histogram", "bin_low": [1, 50], "share": [1, 3], "max": 300},
            "conversation": {
                "turns_mean": 4,
                "think_s_median": 40,
                "system_tokens": 100,
                "system_prompts": 3,
                "context_tokens_max": 4000,
            },
        }
    ],
}


def made(count: int, seed: int = 0, span_s: float = 1000.0) -> Trace:
    """A random trace in memory, with blocks, sessions and equal times here and there."""
    rng = np.random.default_rng(seed)
    requests = empty_requests(count)
    requests["at_s"] = np.sort(np.round(rng.random(count) * span_s, 1))
    requests["service"] = rng.integers(0, 2, count)
    requests["cls"] = rng.integers(0, 2, count)
    requests["origin"] = rng.integers(0, 3, count)
    requests["tenant"] = rng.integers(-1, 1, count)
    requests["tokens_in"] = rng.integers(0, 500, count)
    requests["tokens_out"] = rng.integers(0, 500, count)
    requests["session"] = rng.integers(-1, max(1, count // 3), count)
    requests["block_count"] = rng.integers(0, 4, count)
    blocks = rng.integers(0, 50, int(requests["block_count"].sum()))
    return Trace.of(META, *pack(requests, blocks))


def whole(trace: Trace, size: int = 1000) -> Chunk:
    return join(list(trace.chunks(size)))


def same(a: Chunk, b: Chunk) -> bool:
    return np.array_equal(a.requests, b.requests) and np.array_equal(a.blocks, b.blocks)


def lists(chunk: Chunk) -> Iterator[tuple[Any, ...]]:
    """Each request as a tuple, its block ids in place of where they lie."""
    for row in chunk.requests:
        at, count = int(row["block_at"]), int(row["block_count"])
        yield (*row.tolist()[:-2], tuple(chunk.blocks[at : at + count].tolist()))


def spec(**changes: Any) -> TraceSpec:
    return msgspec.convert({**SPEC, **changes}, TraceSpec)


TRACES = st.builds(made, st.integers(0, 200), st.integers(0, 1_000_000))
