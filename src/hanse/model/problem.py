"""What a wrong meaning in a file looks like.

Here: `Problem`, `Range` of a number, and `unknown` for a name that nobody has. Not here: what is checked (`check`, `plant_check`).
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import NamedTuple

from hanse.errors import ConfigError
from hanse.model.fleet import Value


class Problem(Value, frozen=True, kw_only=True):
    """One wrong meaning: where (a path in the file), what stands there, what may, and what to do."""

    where: str
    got: str
    allowed: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.where}: got {self.got}, need {self.allowed}"
        return f"{text}. To fix: {self.fix}" if self.fix else text

    def error(self) -> ConfigError:
        """The same as an exception, for callers that stop at the first."""
        return ConfigError(self.where, got=self.got, allowed=self.allowed, fix=self.fix or None)


class Range(NamedTuple):
    """Closed interval of sense; `above` excludes the lower end."""

    low: float
    high: float
    above: bool = False

    def holds(self, number: float) -> bool:
        """False for NaN and infinities too."""
        return (self.low < number if self.above else self.low <= number) and number <= self.high

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"{self.low:g}"
        return f"a number {low} to {self.high:g}"


def unknown(
    where: str, got: str, known: Collection[str], noun: str, *, hint: str | None = None
) -> Problem:
    """A name that is not among the known ones, with the nearest that is."""
    near = difflib.get_close_matches(got, known, n=1, cutoff=0.6)
    guess = hint or (near[0] if near else None)
    shown = ", ".join(sorted(known)[:12]) + (", ..." if len(known) > 12 else "")
    return Problem(
        where=where,
        got=repr(got),
        allowed=f"a known {noun}" + (f" ({shown})" if known else " (there is none)"),
        fix=f"did you mean {guess!r}?" if guess else "",
    )
