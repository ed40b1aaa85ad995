"""The most memory that this process has held. Not `ru_maxrss`: Linux lets a child begin with its parent's."""

from pathlib import Path


def rss_mib() -> float:
    """VmHWM of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024
