"""Wrong meanings of a fleet's hubs: `[hub]` and `[[hub.others]]`.

Here: `hub_problems`. Not here: ranges of ports (`check`), whether a hub answers (`live.hub_duties`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hanse.model.fleet import Fleet
from hanse.model.problem import Problem

FIRST: Final = "hub"
OTHERS_MAX: Final = 2
"""Three decide while one is lost. More would not decide more often, and each keeps a copy of everything."""


def hub_problems(fleet: Fleet) -> Iterator[Problem]:
    """Too many hubs, one without a way to it, and two things of one name."""
    others = fleet.hub.others
    if len(others) > OTHERS_MAX:
        got = f"{len(others)} further hubs"
        yield Problem(where="hub.others", got=got, allowed=f"none, or at most {OTHERS_MAX}")
    if others and not fleet.hub.cluster_port:
        yield Problem(
            where="hub.cluster_port",
            got="0",
            allowed="a port that the other hubs dial",
            fix="take [hub] over from STATE/fleet.toml, where `hanse join` had it written",
        )
    taken = {FIRST, *(site.id for site in fleet.sites)}
    for index, other in enumerate(others):
        if other.id in taken:
            allowed = "an id that no site and no other hub has"
            yield Problem(where=f"hub.others[{index}].id", got=repr(other.id), allowed=allowed)
        taken.add(other.id)
