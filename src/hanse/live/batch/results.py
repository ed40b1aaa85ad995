"""The output and error files of a batch, read from the stream of commits alone.

Here: lines with a 200 go to the output file, all others to the error file, both in the order of the input; lines that were never
committed say why in the error file. Not here: committing (`commits`), when this happens (`keeper`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

import msgspec

from hanse.live.batch.commits import Note, add
from hanse.live.batch.values import Tally
from hanse.live.batch.work import Work, error_row

WHY = {
    "expired": (
        "batch_expired",
        "This request could not be executed before the completion window expired.",
    ),
    "failed": (
        "output_too_large",
        "This request was not executed: answers of its batch take all room that there is for them.",
    ),
    "cancelled": ("batch_cancelled", "The batch was cancelled before this request was executed."),
}
"""State that a batch ends in -> error of the lines that it never ran."""


Places = dict[int, tuple[int, int, bool]]
"""Line -> (where in the spool, bytes, whether it is for the output file)."""


async def write_results(
    work: Work,
    commits: AsyncIterator[tuple[int, Note, bytes]],
    end: str,
    output: Path,
    errors: Path,
) -> tuple[int, int, Tally]:
    """(output lines, error lines, sums); both files are on disk when this returns."""
    spool = output.with_name(f"{token_hex(8)}.draft")
    places: Places = {}
    try:
        async for line, note in _spooled(_of(commits, len(work.index)), spool, places):
            work.see(line, note)
        with spool.open("rb") as file:  # beside: 50,000 lines and two fsyncs must not hold up beats
            counts = await asyncio.to_thread(_sort, work, places, file, end, output, errors)
    finally:
        spool.unlink(missing_ok=True)
    tally = work.tally
    never = len(work.index) - len(places)
    return (*counts, msgspec.structs.replace(tally, failed=tally.failed + never))


async def write_committed(
    commits: AsyncIterator[tuple[int, Note, bytes]], output: Path, errors: Path
) -> tuple[int, int, Tally]:
    """The same where the input is gone: what was committed, in its order, and nothing of the rest."""
    spool = output.with_name(f"{token_hex(8)}.draft")
    places: Places = {}
    tally = Tally()
    try:
        async for _, note in _spooled(commits, spool, places):
            tally = add(tally, note)
        with spool.open("rb") as file:
            good, bad = await asyncio.to_thread(_copy, places, file, output, errors)
    finally:
        spool.unlink(missing_ok=True)
    return good, bad, tally


async def _of(
    commits: AsyncIterator[tuple[int, Note, bytes]], lines: int
) -> AsyncIterator[tuple[int, Note, bytes]]:
    """Those of lines that there are."""
    async for line, note, content in commits:
        if line < lines:
            yield line, note, content


async def _spooled(
    commits: AsyncIterator[tuple[int, Note, bytes]], spool: Path, places: Places
) -> AsyncIterator[tuple[int, Note]]:
    """Contents into one file as they come, each line's first; where each is goes to `places`."""
    with _private(spool) as file:  # a local disk
        at = 0
        async for line, note, content in commits:
            if line not in places:
                file.write(content)
                places[line] = (at, len(content), note.ok)
                at += len(content)
                yield line, note


def _copy(places: Places, spool: BinaryIO, output: Path, errors: Path) -> tuple[int, int]:
    good = bad = 0
    with _private(output) as out, _private(errors) as err:
        for _, (at, size, ok) in sorted(places.items()):
            spool.seek(at)
            (out if ok else err).write(spool.read(size) + b"\n")
            good, bad = good + ok, bad + (not ok)
        for file in (out, err):
            file.flush()
            os.fsync(file.fileno())
    return good, bad


def _sort(
    work: Work,
    places: Places,
    spool: BinaryIO,
    end: str,
    output: Path,
    errors: Path,
) -> tuple[int, int]:
    good = bad = 0
    with _private(output) as out, _private(errors) as err:
        for line in range(len(work.index)):
            place = places.get(line)
            if place is None:
                err.write(_never_ran(work, line, end) + b"\n")
                bad += 1
                continue
            spool.seek(place[0])
            (out if place[2] else err).write(spool.read(place[1]) + b"\n")
            good, bad = good + place[2], bad + (not place[2])
        for file in (out, err):
            file.flush()
            os.fsync(file.fileno())
    return good, bad


def _never_ran(work: Work, line: int, end: str) -> bytes:
    return error_row(token_hex(16), work.line(line).custom_id, *WHY[end])


def _private(path: Path) -> BinaryIO:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")
