"""`hanse check`: every wrong meaning of a fleet file at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.output import print_json, say
from hanse.twin.fleet_file import checked_fleet, problem_of, problems_of, read_policies

if TYPE_CHECKING:
    from hanse.model.problem import Problem

__all__ = ["check", "checked_fleet", "problems_of", "read_policies"]


def check(fleet: Path, /, *, json: bool = False) -> int:
    """List everything that is wrong with a fleet file: where, what it says, what is allowed, what to do.

    All on standard output. Exit code 0 when nothing is wrong, warnings or not, else 2. Example: `hanse check examples/league.toml`

    Parameters
    ----------
    fleet
        Path of the fleet file.
    json
        Print the problems as one JSON document on standard output.
    """
    from hanse.cli.hosts import misfits
    from hanse.errors import ConfigError, ConfigErrors
    from hanse.model.read import read_fleet
    from hanse.twin.fleet_file import warnings_of

    try:
        decoded = read_fleet(fleet)
    except ConfigError as error:
        if not fleet.is_file():
            raise
        wrong = error.each if isinstance(error, ConfigErrors) else (error,)
        return _tell(fleet, [problem_of(one) for one in wrong], [], "", json)
    problems = problems_of(decoded, fleet.parent)
    warnings = warnings_of(decoded, fleet.parent)
    if not problems:
        warnings += misfits(decoded)
    counted = (
        f"{len(decoded.sites)} sites, {len(decoded.services)} services, "
        f"{len(decoded.tenants)} tenants, nothing wrong"
    )
    return _tell(fleet, problems, warnings, counted, json)


def _tell(
    fleet: Path, problems: list[Problem], warnings: list[Problem], right: str, json: bool
) -> int:
    """All on standard output: it is what was asked for."""
    if json:
        print_json({"file": str(fleet), "problems": problems, "warnings": warnings})
        return 2 if problems else 0
    for problem in problems:
        say(str(problem))
    for warning in warnings:
        say(f"warning: {warning}")
    if not problems:
        say(f"{fleet}: {right}")
    return 2 if problems else 0
