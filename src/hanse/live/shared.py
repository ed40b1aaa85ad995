"""The shared page of a site: one small memory-mapped file for what must be seen at once by all of its processes.

Here: the fixed layout, typed views, nothing else. Not here: who decides what stands in it (agent, gateway workers, site
group), requests, content, secrets.

Little endian, fixed layout; a reader of another layout version refuses the file. Every region has a single writer, so there
are no locks: a reader may see one number of a pair newer than the other, never a torn number (aligned 8-byte stores).

| region | axes | writer |
|---|---|---|
| flags | power_shed, seal_count, agent_at_s (when the agent last wrote engine states), table_version | agent |
| engines | [engine] (state, generation, cpu_w, busy_s) | agent |
| workers | [worker] (pid, alive_at_s, table_version) | that worker |
| own | [worker, offer] (requests, tokens): in flight from this site's gateway, by global offer index | that worker |
| exec | [worker, engine] (requests, tokens): in flight at each local engine | that worker |
| counters | [worker, counter]: metrics, see `live.gateway.metrics` | that worker |
| buckets | [key row] (tokens, at_s): rate limits, shared by all workers | all workers |

Buckets have many writers: two workers that spend a token in the same microsecond may count one. That errs by at most
one request per collision and worker, which a rate limit can bear and a lock could not.
"""

from __future__ import annotations

import mmap
import os
import struct
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.errors import SiteError

MAGIC: Final = b"HANSESHM"
LAYOUT_VERSION: Final = 1

WORKERS_MAX: Final = 16
OFFERS_MAX: Final = 4096
"""Global offers: (site, service, variant). A thousand sites with four variants each."""
ENGINES_MAX: Final = 64
COUNTERS_MAX: Final = 512
KEYS_MAX: Final = 4096
FLAGS_MAX: Final = 16

ENGINE_DEAD, ENGINE_ALIVE, ENGINE_DRAINING = 0, 1, 2

FLAG_POWER_SHED, FLAG_SEAL_COUNT, FLAG_AGENT_AT_S, FLAG_TABLE_VERSION = range(4)
ENGINE_STATE, ENGINE_GENERATION, ENGINE_CPU_W, ENGINE_BUSY_S = range(4)
WORKER_PID, WORKER_ALIVE_AT_S, WORKER_TABLE_VERSION = range(3)

_HEADER: Final = struct.Struct("<8sIIIIII")
_HEADER_BYTES: Final = 64
_F8: Final = 8

_REGIONS: Final = (
    ("flags", (FLAGS_MAX,)),
    ("engines", (ENGINES_MAX, 4)),
    ("workers", (WORKERS_MAX, 4)),
    ("own", (WORKERS_MAX, OFFERS_MAX, 2)),
    ("exec", (WORKERS_MAX, ENGINES_MAX, 2)),
    ("counters", (WORKERS_MAX, COUNTERS_MAX)),
    ("buckets", (KEYS_MAX, 2)),
)

PAGE_BYTES: Final = _HEADER_BYTES + sum(int(np.prod(shape)) * _F8 for _, shape in _REGIONS)

Floats = NDArray[np.float64]


class SharedPage:
    """Views of the page; all arrays are float64 and write through.

    Attributes:
        flags: `[flag]`, indices `FLAG_*`.
        engines: `[engine, ENGINE_*]`.
        workers: `[worker, WORKER_*]`.
        own: `[worker, offer, (requests, tokens)]`.
        exec: `[worker, engine, (requests, tokens)]`.
        counters: `[worker, counter]`.
        buckets: `[key row, (tokens, at_s)]`.
    """

    def __init__(self, memory: mmap.mmap) -> None:
        self._memory = memory
        views: dict[str, Floats] = {}
        at = _HEADER_BYTES
        for name, shape in _REGIONS:
            count = int(np.prod(shape))
            flat = np.frombuffer(memory, dtype="<f8", count=count, offset=at)
            views[name] = flat.reshape(shape)
            at += count * _F8
        self.flags = views["flags"]
        self.engines = views["engines"]
        self.workers = views["workers"]
        self.own = views["own"]
        self.exec = views["exec"]
        self.counters = views["counters"]
        self.buckets = views["buckets"]

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
        self.own[worker] = 0.0
        self.exec[worker] = 0.0
        self.workers[worker] = 0.0


def _header() -> bytes:
    packed = _HEADER.pack(
        MAGIC, LAYOUT_VERSION, WORKERS_MAX, OFFERS_MAX, ENGINES_MAX, COUNTERS_MAX, KEYS_MAX
    )
    return packed.ljust(_HEADER_BYTES, b"\0")


def _create(path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    with draft.open("wb") as file:
        file.write(_header())
        file.truncate(PAGE_BYTES)
    draft.chmod(0o600)
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
