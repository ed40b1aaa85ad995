"""A fleet file for whoever runs it: read, checked in every way, with its operator's policies.

Here: `checked_fleet`, `read_policies`, `problems_of`, `warnings_of`, which need no compiler. Not here: what the checks are (`model.check`,
`dispatch.law`), printing (`cli.check`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from hanse.errors import ConfigError

SIGNAL_QUANTITIES: Final = {
    "marginal": "marginal_intensity",
    "average_market": "residual_intensity",
}
"""Carbon signals that not every zone has, and what a feed of them is called."""

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
        more = f"`hanse check {path}` lists all {len(problems)}" if len(problems) > 1 else ""
        fix = "; ".join(text for text in (first.fix, more) if text)
        raise ConfigError(
            f"{path}: {first.where}", got=first.got, allowed=first.allowed, fix=fix or None
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
    return [*check_fleet(fleet), *known, *(problem_of(error) for error in wrong)]


def warnings_of(fleet: Fleet, directory: Path) -> list[Problem]:
    """What is allowed and hardly meant: a signal that nobody tells, a load that no supply can carry."""
    from hanse.model.check import Problem

    found = []
    for s, site in enumerate(fleet.sites):
        power = site.power
        most_kw = power.grid_kw_max + power.pv_kw_peak + power.wind_kw_rated
        if most_kw < power.base_kw:
            allowed = f"at most {most_kw:g}: what grid, PV and wind give at their best"
            where = f"site[{s}].power.base_kw"
            found.append(Problem(where=where, got=f"{power.base_kw:g}", allowed=allowed))
    untold = _without_signal(fleet, directory)
    if untold:
        signal = fleet.slow_loop.carbon_signal
        quantity = SIGNAL_QUANTITIES[signal]
        found.append(
            Problem(
                where="slow_loop.carbon_signal",
                got=f"{signal!r}, which nobody tells for {', '.join(untold)}",
                allowed=f"a feed of {quantity} for every site's grid",
                fix="add one to the file that `feeds` names (docs/feeds.md), or set 'average_location'",
            )
        )
    return found


def _without_signal(fleet: Fleet, directory: Path) -> list[str]:
    """Sites for whose grid neither a feed nor a recording tells the carbon signal that is decided by."""
    from hanse.signals import recorded
    from hanse.signals.feed import site_places
    from hanse.signals.providers import read_settings

    quantity = SIGNAL_QUANTITIES.get(fleet.slow_loop.carbon_signal)
    if quantity is None:
        return []
    try:
        feeds = read_settings(directory / fleet.feeds) if fleet.feeds else ()
    except ConfigError:
        return []  # a problem of its own
    told = {one.zone for one in feeds if one.quantity == quantity}
    if quantity == "marginal_intensity":
        told |= {one.zone for one in feeds if one.provider == "watttime"}
    return [
        site.id
        for site in fleet.sites
        if not told & set(site_places(site))
        and not (
            quantity == "marginal_intensity"
            and recorded(site.grid_zone or site.country, "marginal_intensity")
        )
    ]


def _feed_errors(fleet: Fleet, directory: Path) -> list[ConfigError]:
    from hanse.signals.providers import read_settings

    if not fleet.feeds:
        return []
    try:
        read_settings(directory / fleet.feeds)
    except ConfigError as error:
        return [error]
    return []


def problem_of(error: ConfigError) -> Problem:
    """The same as a value."""
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
