"""A fleet file for whoever runs it: read, checked in every way, with its operator's policies.

Here: `checked_fleet`, `read_policies`, `problems_of`, which need no compiler. Not here: what the checks are (`model.check`,
`dispatch.law`), printing (`cli.check`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.model.check import Problem
    from hanse.model.fleet import Fleet


def checked_fleet(path: Path) -> Fleet:
    """Read a fleet for a command that needs a right one.

    Raises:
        ConfigError: the first problem; the message names `hanse check` for the rest.
    """
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
    from hanse.model.check import check_fleet
    from hanse.model.known_ids import check_known_ids

    known = check_known_ids(
        fleet,
        accelerators=all_accelerators().keys(),
        models={model.id: model.kind for model in ai_models().values()},
        countries=all_countries().keys(),
    )
    texts = read_policies(fleet, directory)
    law = law_check(tuple(PolicyText(name=name, text=text) for name, text in texts.items()))
    wrong = [*law, *_feed_errors(fleet, directory)]
    return [*check_fleet(fleet), *known, *(_problem(error) for error in wrong)]


def _feed_errors(fleet: Fleet, directory: Path) -> list[ConfigError]:
    from hanse.signals.providers import read_settings

    if not fleet.feeds:
        return []
    try:
        read_settings(directory / fleet.feeds)
    except ConfigError as error:
        return [error]
    return []


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
