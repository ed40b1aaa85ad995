"""`hanse check`: every wrong meaning of a fleet file at once."""

from __future__ import annotations

from pathlib import Path

from hanse.cli.output import print_json, say
from hanse.twin.fleet_file import checked_fleet, problems_of, read_policies

__all__ = ["check", "checked_fleet", "problems_of", "read_policies"]


def check(fleet: Path, /, *, json: bool = False) -> int:
    """List everything that is wrong with a fleet file: where, what it says, what is allowed, what to do.

    Exit code 0 when nothing is wrong, else 2. Example: `hanse check examples/league.toml`

    Parameters
    ----------
    fleet
        Path of the fleet file.
    json
        Print the problems as one JSON document on standard output.
    """
    from hanse.model.read import read_fleet

    decoded = read_fleet(fleet)
    problems = problems_of(decoded, fleet.parent)
    if json:
        print_json({"file": str(fleet), "problems": problems})
        return 2 if problems else 0
    for problem in problems:
        say(str(problem))
    if not problems:
        say(
            f"{fleet}: {len(decoded.sites)} sites, {len(decoded.services)} services, "
            f"{len(decoded.tenants)} tenants, nothing wrong"
        )
    return 2 if problems else 0
