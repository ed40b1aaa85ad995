"""The shared page of a site: one small memory-mapped file for what must be seen at once by all of its processes.

Here: the fixed layout, typed views, nothing else. Not here: who decides what stands in it (agent, gateway workers, site
group), requests, content, secrets.

Little endian, fixed layout; a reader of another layout version refuses the file. Every region has a single writer, so there
are no locks: a reader may see one number of a pair newer than the other, never a torn number (aligned 8-byte stores).

| region | axes | writer |
|---|---|---|
| flags | power_shed (steps of the order in force), seal_count, agent_at_s (when the agent last wrote engine states), table_version, seats_version, power_cause, disk_level (0 room, 1 low, 2 full) | agent |
| engines | [engine] (state, generation, cpu_w, busy_s) | agent |
| workers | [worker] (pid, alive_at_s, table_version, seats_version) | that worker |
| own | [worker, offer] (requests, tokens, prefill_tokens): in flight from this site's gateway, by global offer index | that worker |
| exec | [worker, engine] (requests, tokens, prefill_tokens): in flight at each local engine | that worker |
| begun | [worker, engine]: requests ever handed to each local engine; its growth is the arrival rate | that worker |
| counters | [worker, counter]: metrics, see `live.gateway.metrics` | that worker |
| prefixes | [slot] (digest, site and tokens, at_s): which site holds which prompt prefix, as `dispatch.prefix` lays it out | all workers |
| engine_prefixes | [slot] the same of this site's engines | all workers |
| buckets | [key row] (tokens, at_s): rate limits, shared by all workers | all workers |
| peers | [worker, peer] (digest, state): whether a site's hop port answers the worker's checks, see `live.gateway.seen` | that worker |
| notes | [slot] 256 bytes: measured values of late requests, see `live.gateway.notes` | all workers |

Buckets have many writers: two workers that spend a token in the same microsecond may count one. That errs by at most
one request per collision and worker, which a rate limit can bear and a lock could not. A note carries its request id at both
ends, so a reader sees a whole one or none.
"""

from __future__ import annotations

import mmap
import os
import struct
import sys
from collections.abc import MutableSequence
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from hanse.errors import SiteError
from hanse.model import versions

MAGIC: Final = b"HANSESHM"
LAYOUT_VERSION: Final = int(versions.PAGE.now)

WORKERS_MAX: Final = 16
OFFERS_MAX: Final = 4096
"""Global offers: (site, service, variant). A thousand sites with four variants each."""
ENGINES_MAX: Final = 64
COUNTERS_MAX: Final = 512
KEYS_MAX: Final = 4096
PREFIXES_MAX: Final = 16_384
"""Held prompt prefixes known to a gateway: some 2,000 conversations of eight messages, 24 bytes each."""
PEERS_MAX: Final = 1024
"""Other sites of a league of a thousand."""
FLAGS_MAX: Final = 16
NOTES_MAX: Final = 8192
NOTE_BYTES: Final = 256

ENGINE_DEAD, ENGINE_ALIVE, ENGINE_DRAINING = 0, 1, 2

FLAG_POWER_SHED, FLAG_SEAL_COUNT, FLAG_AGENT_AT_S, FLAG_TABLE_VERSION = range(4)
FLAG_SEATS_VERSION, FLAG_POWER_CAUSE, FLAG_DISK_LEVEL = 4, 5, 6
ENGINE_STATE, ENGINE_GENERATION, ENGINE_CPU_W, ENGINE_BUSY_S = range(4)
WORKER_PID, WORKER_ALIVE_AT_S, WORKER_TABLE_VERSION, WORKER_SEATS_VERSION = range(4)
DISK_ROOM, DISK_LOW, DISK_FULL = 0.0, 1.0, 2.0
"""Of `disk_level`."""
CAUSES: Final = ("grid cap", "battery low", "heat", "load target")
"""Of a brownout, by the number in `power_cause`."""

_HEADER: Final = struct.Struct("<8sIIIIII")
_HEADER_BYTES: Final = 64
_F8: Final = 8

_REGIONS: Final = (
    ("flags", "<f8", (FLAGS_MAX,)),
    ("engines", "<f8", (ENGINES_MAX, 4)),
    ("workers", "<f8", (WORKERS_MAX, 4)),
    ("own", "<i8", (WORKERS_MAX, OFFERS_MAX, 3)),
    ("exec", "<i8", (WORKERS_MAX, ENGINES_MAX, 3)),
    ("begun", "<f8", (WORKERS_MAX, ENGINES_MAX)),
    ("counters", "<f8", (WORKERS_MAX, COUNTERS_MAX)),
    ("buckets", "<f8", (KEYS_MAX, 2)),
    ("notes", "<i8", (NOTES_MAX, NOTE_BYTES // _F8)),
    ("prefixes", "<i8", (PREFIXES_MAX, 3)),
    ("engine_prefixes", "<i8", (PREFIXES_MAX, 3)),
    ("peers", "<i8", (WORKERS_MAX, PEERS_MAX, 2)),
)

PAGE_BYTES: Final = _HEADER_BYTES + sum(int(np.prod(shape)) * _F8 for _, _, shape in _REGIONS)

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class SharedPage:
    """Views of the page that write through: in flight int64, all else float64.

    Attributes:
        flags: `[flag]`, indices `FLAG_*`.
        engines: `[engine, ENGINE_*]`.
        workers: `[worker, WORKER_*]`.
        own: `[worker, offer, (requests, tokens, prefill_tokens)]`.
        exec: `[worker, engine, (requests, tokens, prefill_tokens)]`.
        begun: `[worker, engine]`.
        counters: `[worker, counter]`.
        buckets: `[key row, (tokens, at_s)]`.
        notes: bytes, `NOTE_BYTES` a slot.
        peers: `[worker, peer, (digest, state)]`.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        views: dict[str, NDArray[Any]] = {}
        at = _HEADER_BYTES
        for name, dtype, shape in _REGIONS:
            count = int(np.prod(shape))
            flat = np.frombuffer(memory, dtype=dtype, count=count, offset=at)
            views[name] = flat.reshape(shape)
            at += count * _F8
        self.flags: Floats = views["flags"]
        self.engines: Floats = views["engines"]
        self.workers: Floats = views["workers"]
        self.own: Counts = views["own"]
        self.exec: Counts = views["exec"]
        self.begun: Floats = views["begun"]
        self.counters: Floats = views["counters"]
        self.buckets: Floats = views["buckets"]
        self.prefixes: Counts = views["prefixes"]
        self.engine_prefixes: Counts = views["engine_prefixes"]
        self.peers: Counts = views["peers"]
        self.notes = memoryview(cast("Any", views["notes"].reshape(-1))).cast("B")

    @classmethod
    def open(cls, path: Path) -> SharedPage:
        """Map the page, creating it (all zero) where there is none.

        Safe against two processes that start together: the file appears whole, by link.

        Raises:
            SiteError: the file has another layout.
        """
        if not path.exists():
            _create(path)
        with path.open("r+b") as file:
            memory = mmap.mmap(file.fileno(), 0)
        if len(memory) != PAGE_BYTES or memory[:_HEADER_BYTES] != _header():
            raise SiteError(
                str(path),
                got="a page of another layout",
                allowed=f"layout {LAYOUT_VERSION} of {PAGE_BYTES} bytes",
                fix="stop the site, remove the file, start the site",
            )
        return cls(memory)

    @classmethod
    def private(cls) -> SharedPage:
        """A page of this process only, for a gateway without a site around it."""
        memory = mmap.mmap(-1, PAGE_BYTES)
        memory[:_HEADER_BYTES] = _header()
        return cls(memory)

    def clear_worker(self, worker: int) -> None:
        """Forget what a dead worker had in flight; counters stay, they only ever grow."""
        self.own[worker] = 0
        self.exec[worker] = 0
        self.peers[worker] = 0
        self.workers[worker] = 0.0


def cells(array: Floats) -> MutableSequence[float]:
    """Single cells of a contiguous row, read and written at a third of numpy's cost."""
    return cast("MutableSequence[float]", memoryview(cast("Any", array)))


def count_cells(array: Counts) -> MutableSequence[int]:
    """The same for a row of counts."""
    return cast("MutableSequence[int]", memoryview(cast("Any", array)))


def _header() -> bytes:
    packed = _HEADER.pack(
        MAGIC, LAYOUT_VERSION, WORKERS_MAX, OFFERS_MAX, ENGINES_MAX, COUNTERS_MAX, KEYS_MAX
    )
    return packed.ljust(_HEADER_BYTES, b"\0")


def _create(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        # No sparse file: a worker that touches a hole of it on a full disk is killed (SIGBUS).
        os.posix_fallocate(file.fileno(), 0, PAGE_BYTES)
        file.write(_header())
    draft.chmod(0o600)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()


def main(arguments: list[str]) -> None:
    """`python -m hanse.live.shared PAGE WORKER`: forget what a dead worker had in flight."""
    SharedPage.open(Path(arguments[1])).clear_worker(int(arguments[2]))


if __name__ == "__main__":
    main(sys.argv)
