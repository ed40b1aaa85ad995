"""What does not start somewhere: when an engine counts as failing, and what of it the fleet's Dispatcher is told.

Here: `fails`, `failing_of`, `Failures`, which compares what a site says with what it said before. Not here: starts, waits and restarts
(`site_scope`), placing elsewhere (`slow`, `place_problem`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hanse.dispatch.belief import EngineBelief, FailingKey
from hanse.dispatch.events import EngineFailing
from hanse.dispatch.site_scope import RAN_WELL_S

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
    """What each site last said that fails. It is over when nothing was said of it for `RAN_WELL_S`: an engine that comes up and soon dies
    again is no reason to place everything anew each minute.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[FailingKey, tuple[str, float]]] = {}

    def events(self, site: str, found: dict[FailingKey, str], now_s: float) -> list[EngineFailing]:
        """What has changed: once when it begins, once when it is over."""
        known = self._known.setdefault(site, {})
        changed = [(key, why) for key, why in found.items() if known.get(key, ("", 0.0))[0] != why]
        known.update({key: (why, now_s) for key, why in found.items()})
        for key in [key for key, (_, said_s) in known.items() if now_s - said_s >= RAN_WELL_S]:
            del known[key]
            changed.append((key, ""))
        return [
            EngineFailing(
                at_s=now_s, site=site, service=key[0], variant=key[1], pool=key[2], why=why
            )
            for key, why in changed
        ]

    def due_s(self, site: str) -> float:
        """When something that a site said is over, if it is not said again."""
        said = (said_s + RAN_WELL_S for _, said_s in self._known.get(site, {}).values())
        return min(said, default=float("inf"))
