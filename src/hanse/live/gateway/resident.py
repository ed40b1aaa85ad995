"""Memory that a process has mapped and needs no more.

Here: giving clean pages of a library back to the kernel. Not here: anything that would free what is in use: a page that is touched
again is read from the file again.

The compiler's library is 100 MB, of which loading kernels from the cache touches two thirds, once. A worker runs for months after
that; on a small site these 60 MB are a fifth of all that its processes take.
"""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Final

MADV_DONTNEED: Final = 4  # asm-generic/mman-common.h
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)\s*(.*)$")


def give_back(library: str) -> int:
    """Bytes of a library's mappings given back. Only pages that are as in the file: a mapping with any page changed stays whole."""
    given = 0
    try:
        libc = ctypes.CDLL(None)
        libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        for start, end, changed_kb in _mappings(library):
            if changed_kb == 0 and libc.madvise(start, end - start, MADV_DONTNEED) == 0:
                given += end - start
    except (OSError, AttributeError):
        return given
    return given


def _mappings(library: str) -> list[tuple[int, int, int]]:
    """(first byte, end, kB that differ from the file) of each read-only mapping of a library."""
    found: list[tuple[int, int, int]] = []
    ours = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            ours = library in mapping[5] and "w" not in mapping[3]
            if ours:
                found.append((int(mapping[1], 16), int(mapping[2], 16), 0))
        elif ours and line.startswith(("Anonymous:", "Private_Dirty:", "Swap:")):
            start, end, changed = found[-1]
            found[-1] = start, end, changed + int(line.split()[1])
    return found
