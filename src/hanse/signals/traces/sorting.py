"""Requests that are nearly or not at all in order of time, put in order within bounded memory.

Here: runs that are sorted in memory, spilled to disk where there are several, and merged. Not here: what is sorted.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from hanse.signals.traces.trace import Chunk, Trace, TraceMeta, join, open_trace, take, write_trace
from hanse.signals.traces.transform import merge_sorted

RUN_REQUESTS: Final = 1_000_000
"""Requests sorted at once: 56 MB of records, and their blocks."""
RUN_BLOCKS: Final = 16_000_000


def in_order(pieces: Iterator[Chunk], meta: TraceMeta) -> Iterator[Chunk]:
    """The same requests sorted by time; of equal times the earlier piece's come first."""
    runs = _runs(pieces)
    first, second = next(runs, join([])), next(runs, None)
    if second is None:
        yield first
        return
    with tempfile.TemporaryDirectory(prefix="hanse-trace-") as folder:
        spilled: list[Trace] = []
        for number, run in enumerate(itertools.chain((first, second), runs)):
            path = Path(folder) / f"{number}.parquet"
            write_trace(path, meta, [run])
            spilled.append(open_trace(path))
        del first, second, run
        yield from merge_sorted([one.chunks() for one in spilled])


def _runs(pieces: Iterator[Chunk]) -> Iterator[Chunk]:
    while len((run := _run(pieces)).requests):
        yield run


def _run(pieces: Iterator[Chunk]) -> Chunk:
    held: list[Chunk] = []
    requests = blocks = 0
    for piece in pieces:
        held.append(piece)
        requests += len(piece.requests)
        blocks += len(piece.blocks)
        if requests >= RUN_REQUESTS or blocks >= RUN_BLOCKS:
            break
    chunk = join(held)
    return take(chunk, np.argsort(chunk.requests["at_s"], kind="stable"))
