"""What a reproduction says: its rows, each a published number beside ours.

Here: the frozen values and how one row is judged. Not here: how any number is computed.
"""

from __future__ import annotations

from hanse.model.fleet import Value


class Row(Value, frozen=True, kw_only=True):
    """One number: published, ours, and whether they agree."""

    name: str
    unit: str
    paper: float | None
    """The published number; None where the source states none."""
    ours: float
    difference: float | None
    """Ours minus the paper's, in the same unit."""
    tolerance: float | None
    """The largest difference that counts as agreement; why it is not zero stands in the notes."""
    also: dict[str, float] = {}
    """Further results of ours for the same case, by column heading."""

    @property
    def agrees(self) -> bool:
        """Whether the difference is within tolerance; a row that nothing was published for cannot disagree."""
        if self.difference is None or self.tolerance is None:
            return True
        return abs(self.difference) <= self.tolerance


class Reproduction(Value, frozen=True, kw_only=True):
    """One published result, rerun."""

    name: str
    question: str
    source: str
    """Who published it, where."""
    method: str
    """How ours is computed, complete enough to do it again."""
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """What a reader has to know before trusting or quoting the rows."""
    files: tuple[str, ...]
    """What was read, relative to the data folder."""
    agrees: bool
    """Whether every row is within its tolerance."""


def row(
    name: str,
    unit: str,
    *,
    ours: float,
    paper: float | None = None,
    tolerance: float | None = None,
    also: dict[str, float] | None = None,
) -> Row:
    """A row with its difference worked out."""
    assert (paper is None) == (tolerance is None), f"{name}: a published number needs a tolerance"
    ours = float(ours)
    return Row(
        name=name,
        unit=unit,
        paper=paper,
        ours=ours,
        difference=None if paper is None else ours - paper,
        tolerance=tolerance,
        also={column: float(value) for column, value in (also or {}).items()},
    )


def agreed(rows: tuple[Row, ...]) -> bool:
    """Whether every row is within its tolerance."""
    return all(one.agrees for one in rows)
