"""`hanse replay`: decisions of a recorded league asked again, of the same fleet or of another one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.output import print_json, say

if TYPE_CHECKING:
    from hanse.twin.replay import FileReplay, Replayed


def replay(where: Path, /, *, json: bool = False) -> int:
    """Make every decision of recorded gateways again and compare all bits; exit 1 where one differs.

    Example: `hanse up examples/league.toml --record`, then `hanse replay .hanse/league`

    Parameters
    ----------
    where
        State directory of a league, a folder of logs, or one log.
    json
        Print one JSON document on standard output.
    """
    from hanse.twin.replay import replay as replay_all

    found = replay_all(where)
    if json:
        print_json({"compared": found.compared, "mismatches": found.mismatches, "files": found.files})
    else:
        _say(found)
    return 1 if found.mismatches else 0


def _say(found: Replayed) -> None:
    for file in found.files:
        say(_line(file))
        if file.first is not None:
            first = file.first
            say(f"  first: {first.kind} {first.record}, byte {first.byte}")
            say(f"    logged:   {first.logged}")
            say(f"    replayed: {first.replayed}")
    compared = ", ".join(f"{count:,} {_PLURAL[kind]}" for kind, count in found.compared.items())
    verdict = "all bits are the same" if not found.mismatches else f"{found.mismatches:,} differ"
    say(f"{len(found.files)} logs: {compared}: {verdict}")


def _line(file: FileReplay) -> str:
    end = "" if file.closed else ", killed or still running"
    end = ", ended at its limit" if file.full else end
    cut = f", {file.cut_bytes} bytes unfinished" if file.cut_bytes else ""
    return (
        f"{file.site} worker {file.worker} ({file.boot}): {file.compared['choice']:,} choices, "
        f"{file.mismatches:,} mismatches{end}{cut}"
    )


_PLURAL = {
    "choice": "choices of an offer",
    "engine": "of an engine",
    "look_up": "prefix look-ups",
    "learned": "lessons from answers",
    "check": "sums of the whole load",
}
