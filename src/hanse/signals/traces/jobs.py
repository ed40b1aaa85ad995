"""Batch jobs as data: when each arrives, how long it runs and how much it needs.

Here: their record and the reader of GAIA's repackaged traces. Not here: requests (`trace`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hanse.errors import FeedError
from hanse.model.fleet import Value
from hanse.signals.traces import rows
from hanse.signals.traces.rows import BadRows
from hanse.units import s_from_hours

JOB_DTYPE: Final = np.dtype(
    [
        ("arrival_s", "f8"),  # seconds from the trace's start
        ("length_s", "f8"),  # how long it runs, not interrupted
        ("size", "i4"),  # units it needs at once, as `JobMeta.unit` says
    ],
    align=True,
)
Jobs: TypeAlias = NDArray[np.void]
GAIA_SOURCE: Final = "GAIA (umassos/GAIA, MIT); Hanafy et al., ASPLOS 2024"
ARRIVALS: Final = {"arrival_s": 1.0, "arrival_h": s_from_hours(1.0)}
LENGTHS: Final = {"length_s": 1.0, "length_h": s_from_hours(1.0)}


class JobMeta(Value, frozen=True, kw_only=True):
    """What a trace of jobs says of itself."""

    name: str
    source: str
    licence: str
    unit: str
    count: int
    duration_s: float
    """Until the last arrival."""


class JobTrace:
    """Jobs in order of arrival, to be read as often as one likes."""

    def __init__(self, meta: JobMeta, path: Path) -> None:
        self.meta = meta
        self._path = path

    def chunks(self, size: int = 65_536) -> Iterator[Jobs]:
        """Arrays of `JOB_DTYPE` with `size` jobs; only the last is shorter."""
        held = np.empty(0, JOB_DTYPE)
        for piece in _pieces(self._path):
            held = np.concatenate((held, piece))
            while len(held) >= size:
                yield held[:size]
                held = held[size:]
        if len(held):
            yield held


def read_gaia(path: Path) -> JobTrace:
    """A file of GAIA's job traces: `arrival_s` or `arrival_h`, `length_s` or `length_h`, `cpus`.

    Raises:
        FeedError: at the first bad row, or where jobs are not in order of arrival.
    """
    count, last_s = 0, 0.0
    for piece in _pieces(path):
        arrivals = np.concatenate(([last_s], piece["arrival_s"]))
        if (np.diff(arrivals) < 0.0).any():
            row = count + int(np.argmax(np.diff(arrivals) < 0.0))
            allowed = "jobs in order of arrival"
            raise FeedError(
                f"{path}, job {row}", got=float(arrivals[row - count + 1]), allowed=allowed
            )
        count, last_s = count + len(piece), float(arrivals[-1])
    if not count:
        raise FeedError(str(path), got="no row", allowed="one job at least")
    meta = JobMeta(
        name=f"gaia-{path.name.split('.')[0]}",
        source=GAIA_SOURCE,
        licence="MIT; upstream CC-BY-4.0 (Alibaba PAI, Azure) and Atlas (LANL Mustang)",
        unit="units requested (GPU-job instances in PAI, CPUs elsewhere)",
        count=count,
        duration_s=last_s,
    )
    return JobTrace(meta, path)


def _pieces(path: Path) -> Iterator[Jobs]:
    header, _ = rows.header_of(path)
    arrival = next((name for name in ARRIVALS if name in header), "")
    length = next((name for name in LENGTHS if name in header), "")
    if not arrival or not length or "cpus" not in header:
        allowed = "arrival_s or arrival_h, length_s or length_h, cpus"
        raise FeedError(str(path), got=f"columns {', '.join(header)}", allowed=allowed)
    bad = BadRows(path, "csv", skip=False)
    for batch in rows.csv_batches(path, [arrival, length, "cpus"], bad):
        jobs = np.empty(len(batch), JOB_DTYPE)
        jobs["arrival_s"] = rows.numbers(batch, arrival, bad) * ARRIVALS[arrival]
        jobs["length_s"] = rows.numbers(batch, length, bad) * LENGTHS[length]
        jobs["size"], _ = rows.whole_numbers(batch, "cpus", bad)
        yield jobs
