"""Quarters of an hour added up: what a site drew over a day or month, and how far its parts are from its meter.

Here: `summed`. Not here: drawing a quarter up (`live.site_books`), a tenant's part (`statement`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from hanse.energy.ledger import worst_method
from hanse.live.evidence.chain import Metered
from hanse.model.fleet import Value

CLOSES_SHARE: Final = 0.02
"""Requests, idle, overhead and others are to come this near to the meter."""


class SiteSum(Value, frozen=True, kw_only=True):
    """A site's quarters together."""

    site: str
    quarters: int
    seen_share: float
    """Of their time, in which the agent looked."""
    drawn_wh: float
    drawn_method: str
    """The weakest among the quarters."""
    drawn_error_share: float
    """As if all quarters erred the same way, which one meter does."""
    it_wh: float
    requests: int
    requests_wh: dict[str, float]
    idle_wh: float
    overhead_wh: float
    others_wh: float
    missing_wh: float
    excess_wh: float
    open_share: float
    """(missing + excess) of all quarters over what was drawn."""


def summed(quarters: Sequence[Metered]) -> SiteSum:
    """Quarters of one site, at least one."""
    assert quarters and len({q.site for q in quarters}) == 1, "a site has quarters of its own"

    def total(name: str) -> float:
        return math.fsum(getattr(q, name) for q in quarters)

    drawn_wh = total("drawn_wh")
    methods = sorted({method for q in quarters for method in q.requests_wh})
    error_wh = math.fsum(q.drawn_error_share * q.drawn_wh for q in quarters)
    open_wh = total("missing_wh") + total("excess_wh")
    return SiteSum(
        site=quarters[0].site,
        quarters=len(quarters),
        seen_share=total("seen_s") / math.fsum(q.until_s - q.start_s for q in quarters),
        drawn_wh=drawn_wh,
        drawn_method=worst_method(q.drawn_method for q in quarters),
        drawn_error_share=error_wh / drawn_wh if drawn_wh > 0.0 else 0.0,
        it_wh=total("it_wh"),
        requests=sum(q.requests for q in quarters),
        requests_wh={m: math.fsum(q.requests_wh.get(m, 0.0) for q in quarters) for m in methods},
        idle_wh=total("idle_wh"),
        overhead_wh=total("overhead_wh"),
        others_wh=total("others_wh"),
        missing_wh=total("missing_wh"),
        excess_wh=total("excess_wh"),
        open_share=open_wh / drawn_wh if drawn_wh > 0.0 else 0.0,
    )
