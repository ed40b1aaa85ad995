"""Kernels called without numba's dispatcher.

Here: `direct`, and a router that uses it. Not here: what the kernels do (`dispatch`).

Finding out which compiled version fits the arguments costs five times what the choice itself does (6.3 against 1.0 us here). A
gateway's arrays never change their types while it runs, so the version is looked up once per table. The price: arguments must
have exactly the types of the samples, or memory is read wrongly; callers convert, and everything goes through this module.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import typeof

from hanse.dispatch import choose as kernels
from hanse.dispatch import load as load_kernels
from hanse.dispatch.router import NONE_CACHED, NONE_TRIED, Router

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hanse.dispatch.load import Load
    from hanse.dispatch.table import Table

TRIED_MAX = kernels.TRIED_MAX


def direct(kernel: Any, *samples: object) -> Callable[..., Any]:
    """The compiled version of a kernel for arguments of exactly the samples' types."""
    entry: Callable[..., Any] = kernel.compile(tuple(map(typeof, samples)))
    return entry


class DirectRouter(Router):
    """A router whose `ask` costs what the choice costs."""

    def __init__(self, table: Table, load: Load, origin: int) -> None:
        super().__init__(table, load, origin)
        request = (1.0, 1.0, 1.0, 1.0)
        # The asked-offers and cached arrays are writable copies: read-only arrays are another type to numba.
        self._none_tried = NONE_TRIED.copy()
        self._none_cached = NONE_CACHED.copy()
        self._cells: Any = memoryview(self._row)
        fixed = (self._table, self._lists, self._load)
        rest = (self._none_tried, self._none_cached, self._row)
        self._choose = direct(kernels.choose, *fixed, 0, 0, origin, request, 1.0, 1.0, 1.0, *rest)
        self._lists_at: dict[int, tuple[Any, Any, Any]] = {}

    def ask(
        self,
        service: int,
        subject: int,
        request: tuple[float, float, float, float],
        now_s: float,
        tried: list[int],
        cached: NDArray[np.int64] | None,
    ) -> int:
        """As `route`; `request` is (tokens in, tokens out, deadline ms, body bytes), all floats."""
        asked = self._none_tried
        if tried:
            asked = self._tried
            asked[:] = -1
            last = tried[-TRIED_MAX:]
            asked[: len(last)] = last
        chosen: int = self._choose(
            self._table,
            self._lists,
            self._load,
            service,
            subject,
            self.origin,
            request,
            now_s,
            self._valid_until_s,
            self._heard_stale_s,
            asked,
            self._none_cached if cached is None else cached,
            self._row,
        )
        return chosen

    def ask_at(
        self,
        site: int,
        service: int,
        subject: int,
        request: tuple[float, float, float, float],
        now_s: float,
        tried: list[int],
    ) -> int:
        """As `ask`, among the offers of one site: every gate holds, whatever other sites could do."""
        lists = self._lists_at.get(site)
        if lists is None:
            lists = self._lists_at[site] = self._only(site)
        every, self._lists = self._lists, lists
        try:
            return DirectRouter.ask(self, service, subject, request, now_s, tried, None)
        finally:
            self._lists = every

    def _only(self, site: int) -> tuple[Any, Any, Any]:
        """The lists of the kernel without other sites' offers."""
        candidate, listed, first = self._lists
        table = self.table
        here = listed[table.offers["site"][listed] == site]
        counts = np.zeros((len(table.services), len(table.sites)), np.int64)
        np.add.at(counts, (table.offers["service"][here], site), 1)
        ends = np.cumsum(counts).reshape(counts.shape)
        only = np.zeros_like(first)
        only[:, 1:] = ends
        only[:, 0] = ends[:, 0] - counts[:, 0]
        return np.full_like(candidate, -1), here, only

    def figures(self) -> list[float]:
        """Columns `OUT_*` of the last offer that `ask` returned."""
        figures: list[float] = self._cells.tolist()  # half of what numpy's own takes
        return figures


class DirectLoad:
    """The counting kernels of one `Load`."""

    def __init__(self, load: Load) -> None:
        own = load.own
        self.begin = direct(load_kernels.begin, own, 0, 0, 0, 0)
        self.first_byte = direct(load_kernels.first_byte, own, 0, 0, 0)
        self.end = direct(load_kernels.end, own, 0, 0, 0, 0)
        self.arrived = direct(load_kernels.arrived, load.services, 0, 1.0, 1.0)
        self.observed = direct(load_kernels.observed, load.offers, 0, 1.0, 1.0)
        self.ratios = direct(load_kernels.ratios, 1.0, 1.0, 1.0, 1.0, 1.0, 1)
        self.as_now = direct(load_kernels.as_now, load.offers, 0, 1.0, 1.0, 1.0, 1.0, 1.0)
