"""What sites cannot start, as events for the fleet Dispatcher: once when it begins, once when it is over.

Here: `Failures`, which compares reports. Not here: when an engine counts as failing (`dispatch.site_scope`), placing elsewhere.
"""

from __future__ import annotations

from hanse.dispatch.events import EngineFailing
from hanse.view import SiteStatus


class Failures:
    """What each site last reported as failing."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[str, str, str], str]] = {}

    def events(self, status: SiteStatus, now_s: float) -> list[EngineFailing]:
        """What has changed with a report."""
        known = self._known.get(status.site, {})
        found = {
            (e.service, e.variant, e.pool): e.why or "no reason known"
            for e in status.engines
            if e.state == "failing"
        }
        self._known[status.site] = found
        changed = [(key, why) for key, why in found.items() if known.get(key) != why]
        changed += [(key, "") for key in known if key not in found]
        return [
            EngineFailing(
                at_s=now_s, site=status.site, service=key[0], variant=key[1], pool=key[2], why=why
            )
            for key, why in changed
        ]
