"""How far the controller believes what a site says of more than itself; a site that was taken over says what it likes.

Here: epochs, decisions, demand. Not here: the form of what is said (`model.told`), who may say anything on which subject (`live.bus`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from hanse.live.demand import DemandReport
from hanse.live.logline import log_line
from hanse.model.fleet import Fleet
from hanse.view import DecisionRow

REPORT_BYTES_MAX: Final = 1024 * 1024
"""Of one message from a site: a status of 500 engines is 150 kB."""
EPOCH_JUMP_MAX: Final = 2**32
"""An epoch is at least the bus's count of renewals of the lease: 170 years of one each 1.25 s."""
EPOCH_AGAIN_S: Final = 60.0
"""A site that has made a leader take another epoch obeys that one within a second; before this it has nothing new to tell."""


class EpochClaims:
    """A site has seen a higher epoch than ours: then another leader has led, or the site lies.

    The first costs nothing more than another epoch. So that the second costs no more than that, and the counter cannot be run up to
    its end, no site is believed a leap, or twice in a row.
    """

    def __init__(self) -> None:
        self._believed_at_s: dict[str, float] = {}
        self._doubted: set[str] = set()

    def believed(self, site: str, epoch: int, ours: int, now_s: float) -> int:
        """The epoch that a site's report counts with; `now_s` is of a clock that only rises."""
        if epoch <= ours:
            self._doubted.discard(site)
            return epoch
        soon = now_s - self._believed_at_s.get(site, float("-inf")) < EPOCH_AGAIN_S
        if soon or epoch - ours > EPOCH_JUMP_MAX:
            if site not in self._doubted:
                log_line(f"{site} says epoch {epoch}, ours is {ours}: not believed")
            self._doubted.add(site)
            return ours
        self._believed_at_s[site] = now_s
        return epoch


def own_rows(rows: Collection[DecisionRow], site: str, known: Collection[str]) -> list[DecisionRow]:
    """Decisions that a site may tell of: those of its own gateways, at sites that there are."""
    return [row for row in rows if row.entry == site and (not row.site or row.site in known)]


def own_demand(report: DemandReport, site: str, fleet: Fleet) -> str:
    """Why a report of demand is not counted; empty: it is. Every kind that is counted is kept for weeks, so none is made up."""
    services = {service.id for service in fleet.services}
    tenants = {tenant.id for tenant in fleet.tenants}
    classes = {one.id for one in fleet.classes}
    if report.site != site:
        return f"speaks for {report.site}"
    for one in report.counts:
        key = one.key
        if key.origin != site:
            return f"speaks for {key.origin}"
        known = key.service in services and key.tenant in tenants and key.data_class in classes
        if not known:
            return f"names what the fleet has not: {key.service}, {key.tenant}, {key.data_class}"
    return ""
