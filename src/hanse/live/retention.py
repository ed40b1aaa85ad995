"""How long what is written down is kept: chains of records, logs; and what a disk that fills up costs, in which order.

Here: the rules as functions of what lies there (`chains_due`, `level_of`), moving logs aside, deleting what a rule names. Not here:
who applies them at a site (`live.site_retention`) and at the hub (`live.archive`), what a record of a deletion proves
(`evidence.audit`).

    what                              goes                                                   never
    logs of processes, of decisions   by age and size; first when the disk is low
    chains at a site                  whole, closed, sealed, and the hub has them: by age    what the hub has not got
                                      and size; second when the disk is low
    chains at the hub                 by age and size                                        for a full disk
    seals, quarters, deletions        never

A deletion is a record under a seal before the file goes. So an audit tells what was deleted by rule from what is missing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from hanse.live.evidence.chain import OWN_WORKER, Dropped
from hanse.live.evidence.seal import SealedChain
from hanse.live.logline import log_line
from hanse.live.shared import DISK_FULL, DISK_LOW, DISK_ROOM
from hanse.live.supervise import signal_pid
from hanse.model.fleet import Retention
from hanse.units import BYTES_PER_GB, SECONDS_PER_DAY

BYTES_PER_MB: Final = 1e6
LOW_SHARE_MAX: Final = 0.1
FULL_SHARE_MAX: Final = 0.02
"""Of small disks the absolute bounds of the fleet file would be most."""
BACK: Final = 1.25
"""A level is left only with so many times its bound free: a disk at the bound must not refuse and serve by turns."""

Rule = Literal["age", "size", "disk"]


class Disk(NamedTuple):
    """A file system, as its user may use it."""

    free_bytes: int
    size_bytes: int


def look_at(path: Path) -> Disk:
    """The file system that a path is on."""
    found = os.statvfs(path)
    return Disk(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)


def bounds_of(rule: Retention, size_bytes: int) -> tuple[float, float]:
    """Free bytes below which a disk is low, and full."""
    low = min(rule.disk_low_gb * BYTES_PER_GB, LOW_SHARE_MAX * size_bytes)
    full = min(rule.disk_full_gb * BYTES_PER_GB, FULL_SHARE_MAX * size_bytes)
    return low, min(low, full)


def level_of(disk: Disk, rule: Retention, before: float) -> float:
    """`shared.DISK_ROOM`, `DISK_LOW` or `DISK_FULL`."""
    low, full = bounds_of(rule, disk.size_bytes)
    if disk.free_bytes < full * (BACK if before >= DISK_FULL else 1.0):
        return DISK_FULL
    if disk.free_bytes < low * (BACK if before >= DISK_LOW else 1.0):
        return DISK_LOW
    return DISK_ROOM


class ChainFile(NamedTuple):
    """A chain on disk."""

    sealed: SealedChain
    size_bytes: int
    held: bool
    """Somebody else has all of it, or nobody has to."""


def chains_due(
    chains: Sequence[ChainFile],
    *,
    kept_s: float,
    bytes_max: float,
    now_s: float,
    bytes_wanted: float = 0.0,
) -> list[tuple[ChainFile, Rule]]:
    """Chains that are to go, each with the rule that says so.

    Args:
        chains: By the order in which they first were sealed; own ones are never due.
        bytes_wanted: That a disk lacks.
    """
    open_chains = set(_newest(chains))
    total = sum(one.size_bytes for one in chains)
    freed = 0.0
    due: list[tuple[ChainFile, Rule]] = []
    for one in sorted(chains, key=lambda c: (c.sealed.sealed_at_s, c.sealed.chain)):
        name = one.sealed.chain
        whole = one.sealed.bytes_end == one.size_bytes
        if worker_of(name) == OWN_WORKER or name in open_chains or not (whole and one.held):
            continue
        rule: Rule
        if one.sealed.sealed_at_s + kept_s <= now_s:
            rule = "age"
        elif total > bytes_max:
            rule = "size"
        elif freed < bytes_wanted:
            rule = "disk"
        else:
            continue
        due.append((one, rule))
        total -= one.size_bytes
        freed += one.size_bytes
    return due


def worker_of(chain: str) -> int:
    """The number in a chain's name."""
    return int(chain.rsplit("-", 2)[1])


def _newest(chains: Iterable[ChainFile]) -> Iterable[str]:
    """The chain of each worker that may still be written to: its last."""
    return {worker_of(one.sealed.chain): one.sealed.chain for one in chains}.values()


def dropped(site: str, one: ChainFile, rule: Rule, kept_s: float, now_s: float) -> Dropped:
    """The record of a deletion."""
    sealed = one.sealed
    return Dropped(
        at_s=now_s,
        site=site,
        chain=sealed.chain,
        count=sealed.records,
        head=sealed.head,
        size_bytes=one.size_bytes,
        sealed_at_s=sealed.sealed_at_s,
        rule=rule,
        kept_s=kept_s,
    )


def chain_files(
    directory: Path, sealed: Iterable[SealedChain], held_until: float
) -> list[ChainFile]:
    """Sealed chains whose files are here; `held_until`: bytes of the seal log that whoever keeps a copy has."""
    found = []
    for one in sealed:
        with contextlib.suppress(FileNotFoundError):
            size = (directory / f"{one.chain}.log").stat().st_size
            found.append(ChainFile(one, size, one.log_end <= held_until))
    return found


def wake_bus(home: Path) -> None:
    """Let the bus of a site or hub be started anew, after its disk was full.

    A JetStream file store that has met a full disk once (nats-server 2.15) stores nothing more in that stream, however much room there
    is afterwards, and says so to its own log alone. Whoever keeps the bus running starts it again within a second; its clients come back
    by themselves, and no request needs it.
    """
    if signal_pid(home / "pid" / "nats.pid", signal.SIGTERM):
        log_line("bus: started anew, for one that has met a full disk stores nothing more")


# --- logs ----------------------------------------------------------------------------------------


def tend_logs(folder: Path, rule: Retention, now_s: float) -> None:
    """Move aside what is too long; delete what was moved aside too long ago.

    Processes append to their logs with O_APPEND: what is cut to nothing goes on at its new end.
    """
    for path in folder.glob("*.log"):
        if _size(path) > rule.log_mb_max * BYTES_PER_MB:
            _move_aside(path)
    _delete_old(folder.glob("*.log.1"), rule.log_days, now_s)


def tend_inputs(folder: Path, rule: Retention, now_s: float) -> None:
    """Delete logs of decisions that nobody has written to for so long."""
    _delete_old(folder.glob("*.jnl"), rule.log_days, now_s)


def give_up_logs(folder: Path) -> int:
    """Bytes freed by deleting what was moved aside and cutting what is longer than a screen's worth of reading."""
    freed = 0
    for path in folder.glob("*.log.1"):
        freed += _size(path)
        path.unlink(missing_ok=True)
    for path in folder.glob("*.log"):
        if (size := _size(path)) > BYTES_PER_MB:
            freed += size
            with contextlib.suppress(OSError):
                os.truncate(path, 0)
    return freed


def give_up_inputs(folder: Path) -> int:
    """Bytes freed by deleting logs of decisions but the newest of each worker, which is written to."""
    by_worker: dict[str, list[Path]] = {}
    for path in folder.glob("*.jnl"):
        by_worker.setdefault(path.stem.rsplit("-", 1)[0], []).append(path)
    freed = 0
    for paths in by_worker.values():
        for path in sorted(paths, key=_changed_at_s)[:-1]:
            freed += _size(path)
            path.unlink(missing_ok=True)
    return freed


def _move_aside(path: Path) -> None:
    with contextlib.suppress(OSError):
        shutil.copyfile(path, aside := path.with_suffix(".log.1"))
        aside.chmod(0o600)
        os.truncate(path, 0)


def _delete_old(paths: Iterable[Path], days: float, now_s: float) -> None:
    for path in paths:
        if _changed_at_s(path) < now_s - days * SECONDS_PER_DAY:
            path.unlink(missing_ok=True)


def _changed_at_s(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
