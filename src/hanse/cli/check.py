"""`hanse check`: every wrong meaning of a fleet file at once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.output import print_json, say

if TYPE_CHECKING:
    from hanse.errors import ConfigError
    from hanse.model.check import Problem
    from hanse.model.fleet import Fleet


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
    for problem in problems:
        say(str(problem))
    if not problems and not json:
        say(
            f"{fleet}: {len(decoded.sites)} sites, {len(decoded.services)} services, "
            f"{len(decoded.tenants)} tenants, nothing wrong"
        )
    return 2 if problems else 0


def checked_fleet(path: Path) -> Fleet:
    """Read a fleet for a command that needs a right one.

    Raises:
        ConfigError: the first problem; the message names `hanse check` for the rest.
    """
    from hanse.errors import ConfigError
    from hanse.model.read import read_fleet

    fleet = read_fleet(path)
    problems = problems_of(fleet, path.parent)
    if problems:
        first = problems[0]
        more = f"; `hanse check {path}` lists all {len(problems)}"
        raise ConfigError(
            f"{path}: {first.where}", got=first.got, allowed=first.allowed, fix=first.fix + more
        )
    return fleet


def problems_of(fleet: Fleet, directory: Path) -> list[Problem]:
    """Meaning, names of the catalogue, and the operator's policies, checked together."""
    from hanse.catalogue import ai_models, all_accelerators, all_countries
    from hanse.dispatch.law import law_check
    from hanse.dispatch.policies import PolicyText
    from hanse.model.check import check_fleet, check_known_ids

    known = check_known_ids(
        fleet,
        accelerators=all_accelerators().keys(),
        models=ai_models().keys(),
        countries=all_countries().keys(),
    )
    texts = read_policies(fleet, directory)
    law = law_check(tuple(PolicyText(name=name, text=text) for name, text in texts.items()))
    return [*check_fleet(fleet), *known, *(_problem(error) for error in law)]


def _problem(error: ConfigError) -> Problem:
    from hanse.model.check import Problem

    return Problem(
        where=error.where, got=str(error.got), allowed=error.allowed or "", fix=error.fix or ""
    )


def read_policies(fleet: Fleet, directory: Path) -> dict[str, str]:
    """The operator's Cedar files by name, as text.

    Raises:
        ConfigError: a file is missing or unreadable.
    """
    from hanse.errors import ConfigError

    texts = {}
    for index, name in enumerate(fleet.policy.cedar_files):
        try:
            texts[name] = (directory / name).read_text()
        except OSError as error:
            raise ConfigError(
                f"policy.cedar_files[{index}]",
                got=f"{name}: {error.strerror}",
                allowed="a readable file beside the fleet file",
            ) from error
    return texts
