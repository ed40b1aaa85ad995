"""One design under one set of draws: what all parts of the cost model look up in the same way.

Here: `Case` with its figures as arrays that broadcast with [site, year, draw], and marks of its sites. Not here: any cost.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError
from hanse.plan.assumptions import Values
from hanse.plan.inventory import Inventory, Place
from hanse.plan.study_file import PolicyEntry, Study

Floats = NDArray[np.float64]


class Case(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A design, the draws, the study and the policies that hold."""

    inventory: Inventory
    values: Values
    study: Study
    policies: tuple[PolicyEntry, ...]

    def of(self, id: str) -> Floats:
        """A figure, [1, 1, draw]."""
        found = self.values.get(id)
        if found is None:
            raise ConfigError(
                f"assumptions.{id}",
                got="nothing",
                allowed="a figure",
                fix=f"add {id} to the study's assumptions, with its source",
            )
        return found.reshape(1, 1, -1)

    def grown(self, id: str, sign: float = 1.0) -> Floats:
        """(1 + sign x figure)^year, [1, year, draw]: 1 in the first year."""
        year = np.arange(self.inventory.years, dtype=np.float64).reshape(1, -1, 1)
        return np.asarray((1.0 + sign * self.of(id)) ** year, np.float64)

    def fallen(self, id: str) -> Floats:
        """(1 - figure)^year, [1, year, draw]."""
        return self.grown(id, -1.0)

    def site(self, mark: Callable[[Place], float]) -> Floats:
        """A figure of each site, [site, 1, 1]."""
        return np.array([mark(p) for p in self.places], np.float64).reshape(-1, 1, 1)

    @property
    def places(self) -> tuple[Place, ...]:
        """[site]."""
        return self.inventory.places

    @property
    def shape(self) -> tuple[int, int, int]:
        """Sites, years, draws."""
        draws = {v.size for v in self.values.values()}
        for name in Inventory.__struct_fields__:
            field = getattr(self.inventory, name)
            for array in field.values() if isinstance(field, dict) else (field,):
                if isinstance(array, np.ndarray):
                    draws.add(array.shape[2])
        return len(self.places), self.inventory.years, max(draws)

    @property
    def it_kw(self) -> Floats:
        """IT power that stands, at least [site, year, 1]."""
        shape = (len(self.places), self.inventory.years, self.inventory.it_kw.shape[2])
        return np.broadcast_to(self.inventory.it_kw, shape)

    @property
    def extent_kw(self) -> Floats:
        """What land and network are for: the full size, of a leased row what stands, [site, year, draw or 1]."""
        leased = self.site(lambda p: float(p.size.leased))
        full = self.site(lambda p: p.size.it_kw)
        return np.where(leased > 0.0, self.it_kw, full * np.ones_like(self.it_kw))

    @property
    def open(self) -> Floats:
        """1 where and when a site stands, [site, year, draw or 1]."""
        return (self.it_kw > 0.0).astype(np.float64)

    @property
    def staffed(self) -> Floats:
        """1 for sites with people of their own, [site, 1, draw]: large enough, and no rented room."""
        own = self.site(lambda p: 0.0 if p.size.room else p.size.it_kw)
        return (own >= self.of("staffed_above_kw")).astype(np.float64)

    @property
    def rooms(self) -> Floats:
        """1 for sites in an existing building, [site, 1, 1]."""
        return self.site(lambda p: float(p.size.room))

    @property
    def towers(self) -> Floats:
        """1 for cabinets at a tower, [site, 1, 1]."""
        return self.site(lambda p: float(p.size.kind == "edge"))
