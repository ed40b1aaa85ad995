"""One figure of a planning report: a drawing and the table that it was drawn from.

Here: `Figure`. Not here: which figures there are (`figures`).
"""

from __future__ import annotations

from typing import Final

from hanse.model.fleet import Value
from hanse.plan.report.table import Column, Table

DESIGN: Final = Column(key="design", head="design", kind="text")


class Figure(Value, frozen=True, kw_only=True):
    """One figure; `panels` are (heading, SVG), none where there is nothing to draw."""

    table: Table
    panels: tuple[tuple[str, str], ...]
    caption: str
    """With the unit."""
    methods: tuple[str, ...]
    empty: str
    """Why there may be nothing to draw."""
    narrow: bool = False
    """Panels stand two beside each other."""

    @property
    def key(self) -> str:
        """Name of the CSV."""
        return self.table.key
