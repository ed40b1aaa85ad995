"""A secret in a command line, taken out of sight: other users read `/proc/<pid>/cmdline` as long as the process lives.

Here: overwriting one argument of this process in place. Not here: the shell's history, which the shell keeps (`hanse join` without a token
reads standard input).
"""

from __future__ import annotations

import ctypes
from pathlib import Path


def hide_argument(secret: str) -> bool:
    """Overwrite every argument that is this text with `x`; whether there was one. Linux only: elsewhere it stays.

    The kernel shows the memory between `arg_start` and `arg_end` of the process (proc_pid_stat(5), fields 48 and 49); it is ours to write.
    """
    needle = secret.encode()
    try:
        shown = Path("/proc/self/cmdline").read_bytes()
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
    except (OSError, ValueError, IndexError):
        return False
    if not needle or start == 0 or end - start != len(shown):
        return False
    found = False
    at = shown.find(needle)
    while at >= 0:
        whole = shown[at - 1 : at] in (b"", b"\0") and shown[at + len(needle) :][:1] in (b"", b"\0")
        if whole:
            ctypes.memset(start + at, ord("x"), len(needle))
            found = True
        at = shown.find(needle, at + 1)
    return found
