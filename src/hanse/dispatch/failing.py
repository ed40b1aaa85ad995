"""What does not start somewhere: when an engine counts as failing, and what of it the fleet's Dispatcher is told.

Here: `fails`, `failing_of`, `Failures`, which compares what a site says with what it said before. Not here: starts, waits and restarts
(`site_scope`), placing elsewhere (`slow`, `place_problem`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hanse.dispatch.belief import EngineBelief, FailingKey
from hanse.dispatch.events import EngineFailing

FAILING_FROM: Final = 3
"""Deaths in a row, after 1 and 2 s of waiting: once may be chance, twice a port or a disk that was busy."""


def fails(engine: EngineBelief) -> bool:
    """Whether an engine died so often that its next start says nothing."""
    return engine.attempts >= FAILING_FROM and engine.state in ("starting", "dead")


def failing_of(engines: Mapping[str, EngineBelief]) -> dict[FailingKey, str]:
    """What fails at a site, and why."""
    return {
        (e.spec.service, e.spec.variant, e.spec.pool): e.why or "no reason known"
        for e in engines.values()
        if fails(e)
    }


class Failures:
    """What each site last said that fails."""

    def __init__(self) -> None:
        self._known: dict[str, dict[FailingKey, str]] = {}

    def events(self, site: str, found: dict[FailingKey, str], now_s: float) -> list[EngineFailing]:
        """What has changed: once when it begins, once when it is over."""
        known = self._known.get(site, {})
        self._known[site] = found
        changed = [(key, why) for key, why in found.items() if known.get(key) != why]
        changed += [(key, "") for key in known if key not in found]
        return [
            EngineFailing(
                at_s=now_s, site=site, service=key[0], variant=key[1], pool=key[2], why=why
            )
            for key, why in changed
        ]
