"""The siting problem and its answer, as values.

Here: `Siting` (demand rows, candidate sites, size classes, prices, refusals, limits), `SitingAnswer`, `Violation`. Not
here: solving (`candidates`), rows and columns (`siting_model`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.model.fleet import Value

Floats = NDArray[np.float64]


class Siting(Value, frozen=True, kw_only=True, eq=False):
    """One siting problem. Units of demand and capacity are the caller's, and the same; USD are of one year."""

    demand_ids: tuple[str, ...]
    site_ids: tuple[str, ...]
    size_ids: tuple[str, ...]
    """From small to large."""
    demand: Floats
    """[year, demand]; one year for an unstaged plan."""
    unit_usd: Floats
    """[demand, site] or [year, demand, site]: a unit of demand served there for a year: energy, WAN, carbon."""
    capacity: Floats
    """[size]: units that a site of that size serves."""
    fixed_usd: Floats
    """[site, size] or [year, site, size]: capital as a yearly cost and all that does not depend on use."""
    refusal: NDArray[np.int64]
    """[demand, site]: 0 where lawful and in time, else an index into `reasons`."""
    reasons: tuple[str, ...] = ("", "law", "rtt")
    allowed: NDArray[np.bool_] | None = None
    """[site, size]; absent: all."""
    forced: tuple[str, ...] = ()
    """Sites that stand from the first year on, at any allowed size."""
    sites_max: int | None = None
    budget_usd: float | None = None
    """Of fixed cost, each year."""
    rate: float = 0.08
    """Discounts year t by (1 + r)^-t; 8 % is a usual cost of capital of data centers."""
    survive_share: Floats | None = None
    """[demand]: the part that must fit into what is left after any failure; absent: none."""
    failures: tuple[tuple[str, ...], ...] | None = None
    """Groups of sites that fail together; absent: any one site."""
    unserved_usd: float | Floats | None = None
    """Price of a unit not served for a year, one or [year, demand]; absent: 100 times what the cheapest site for that demand alone costs, so that
    at most a hundredth of a row is left out to save a site."""
    uncovered_usd: float | None = None
    """Price of a unit that would not survive a failure, a year; absent: 1,000 times the dearest site over all demand."""
    standby_usd: float = 0.0
    """Price of a unit that stands by, a year. What stands by for the loss of any one site is the most that one site has of what must survive; paid for
    each class of rows."""
    standby_class: NDArray[np.int64] | None = None
    """[demand]: rows whose reserve can be one: classes from 0; -1: none stands by. Absent: none for anybody."""

    def __post_init__(self) -> None:
        years, n, m, k = (
            len(self.demand),
            *map(len, (self.demand_ids, self.site_ids, self.size_ids)),
        )
        shapes: dict[str, tuple[Any, tuple[tuple[int, ...], ...]]] = {
            "demand": (self.demand, ((years, n),)),
            "unit_usd": (self.unit_usd, ((n, m), (years, n, m))),
            "capacity": (self.capacity, ((k,),)),
            "fixed_usd": (self.fixed_usd, ((m, k), (years, m, k))),
            "refusal": (self.refusal, ((n, m),)),
            "allowed": (self.allowed, ((m, k),)),
            "survive_share": (self.survive_share, ((n,),)),
            "unserved_usd": (self.unserved_usd, ((), (years, n))),
            "standby_usd": (self.standby_usd, ((),)),
        }
        for name, (array, fits) in shapes.items():
            if array is not None and np.shape(array) not in fits:
                raise ConfigError(name, got=f"shape {np.shape(array)}", allowed=f"one of {fits}")
            if array is not None and not (
                np.isfinite(array).all() and (np.asarray(array) >= 0).all()
            ):
                raise ConfigError(name, got="a negative figure or NaN", allowed="0 or more")
        self._check_names()

    def _check_names(self) -> None:
        if (np.diff(self.capacity) <= 0.0).any() or self.capacity[0] <= 0.0:
            raise ConfigError("capacity", got=list(self.capacity), allowed="rising, above 0")
        if self.refusal.max(initial=0) >= len(self.reasons):
            raise ConfigError(
                "refusal", got=int(self.refusal.max()), allowed=f"below {len(self.reasons)}"
            )
        named = {*self.forced, *(site for group in self.failures or () for site in group)}
        if unknown := sorted(named - set(self.site_ids)):
            raise ConfigError("forced, failures", got=unknown, allowed="ids of `site_ids`")
        for site in self.forced:
            if not self.sizes_allowed[self.site_ids.index(site)].any():
                raise ConfigError(f"forced: {site}", got="no allowed size", allowed="one at least")

    @property
    def eligible(self) -> NDArray[np.bool_]:
        """[demand, site]."""
        return np.asarray(self.refusal == 0)

    @property
    def sizes_allowed(self) -> NDArray[np.bool_]:
        """[site, size]."""
        shape = (len(self.site_ids), len(self.size_ids))
        return np.ones(shape, bool) if self.allowed is None else np.asarray(self.allowed, bool)

    @property
    def reserves(self) -> tuple[Floats, ...]:
        """Of each class that stands by: [demand] the part that must survive, 0 of other rows."""
        if self.standby_class is None or self.survive_share is None or self.standby_usd <= 0.0:
            return ()
        classes = np.unique(self.standby_class[self.standby_class >= 0])
        return tuple(np.where(self.standby_class == c, self.survive_share, 0.0) for c in classes)

    @property
    def failure_sets(self) -> tuple[tuple[int, ...], ...]:
        """Site indices of each failure."""
        if self.survive_share is None:
            return ()
        groups = tuple((s,) for s in self.site_ids) if self.failures is None else self.failures
        return tuple(tuple(self.site_ids.index(s) for s in group) for group in groups)


class ChosenSite(Value, frozen=True, kw_only=True):
    """One site of the answer."""

    id: str
    sizes: tuple[str | None, ...]
    """[year]: None while it is not built."""
    used_share: tuple[float, ...]
    """[year]: of its capacity; 0 while it is not built."""


class Violation(Value, frozen=True, kw_only=True):
    """A wish that the answer does not meet."""

    kind: str
    """`unserved`, `uncovered`, `budget` or `sites_max`."""
    where: str
    year: int
    amount: float
    """Units, USD or sites that are missing or too many."""
    why: str
    cure: str


class SitingAnswer(Value, frozen=True, kw_only=True, eq=False):
    """What to build, and what is proven of it."""

    sites: tuple[ChosenSite, ...]
    size: NDArray[np.int64]
    """[year, site]: index of its size, -1 where none stands."""
    shares: Floats
    """[year, demand, site]: of each row's demand."""
    unserved: Floats
    """[year, demand]: share."""
    fixed_usd: Floats
    """[year], not discounted."""
    running_usd: Floats
    """[year], not discounted."""
    usd: float
    """Fixed and running, discounted."""
    penalty_usd: float
    """Of unserved and uncovered units that money could have cured; in the objective, not in `usd`."""
    bound_usd: float
    """No plan has `usd + penalty_usd` below it."""
    gap: float
    """(usd + penalty_usd - bound_usd) / usd: a proven distance from the optimum."""
    stopped_by: str
    """`gap` or `nodes`."""
    nodes: int
    cuts: int
    """Rows that survival needed."""
    violations: tuple[Violation, ...]
