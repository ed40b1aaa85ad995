"""Numbers on the command line that cannot be meant are refused here, before anything is read or computed.

Here: types of options that several commands have, and `within` to make such a type. Not here: what depends on more than the number
(a city, a horizon of data): the command that reads it says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Final

from cyclopts import Parameter

from hanse.errors import ConfigError

SEED_MAX: Final = 2**53
"""Every reader of JSON keeps such a number whole."""
HOURS_MAX: Final = 24 * 60
"""Of a forecast: of the 200 days that it learns from, longer ones leave too few cases that have ended."""


def within(
    where: str, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> Callable[[Any, Any], None]:
    """A check of an option's value, for `Parameter(validator=...)`: finite, at least, above, at most.

    Raises:
        ConfigError: by the check, where the number is not.
    """
    said = [
        *([f"{least:g} or more"] if least > -math.inf else []),
        *([f"above {above:g}"] if above > -math.inf else []),
        *([f"at most {most:.0f}"] if most < math.inf else []),
    ]

    def check(_type: Any, value: Any) -> None:
        if value is None or (
            math.isfinite(value) and value >= least and value > above and value <= most
        ):
            return
        raise ConfigError(where, got=value, allowed=", ".join(said) or "a finite number")

    return check


Plain = Parameter(negative=())
"""Of a flag that says no itself: without `--no-no-...`."""
Seed = Annotated[int, Parameter(validator=within("--seed", least=0, most=SEED_MAX))]
Scale = Annotated[float, Parameter(validator=within("--scale", above=0.0, most=10_000.0))]
Draws = Annotated[int, Parameter(validator=within("--draws", least=1))]
Hours = Annotated[int, Parameter(validator=within("--hours", least=1, most=HOURS_MAX))]
Runs = Annotated[int, Parameter(validator=within("--runs", least=1))]
Processes = Annotated[int, Parameter(validator=within("--processes", least=1))]
Workers = Annotated[int, Parameter(validator=within("--workers", least=0))]
