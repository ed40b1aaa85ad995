"""Kinds of signal that never meet in one sum or comparison: `one_kind` refuses them.

Here: the check. Not here: the kinds themselves (`series.SignalType`), who is checked: a provider's forecast before one's own
(`forecast.value`), the grids of all sites in one outlook (`energy.outlook`).

Sums that mix location and market based figures overstate savings by up to 55 % (Green Mirage, 2024), and a marginal
intensity answers another question than an average one; so a sum over kinds is an error, never a warning.
"""

from __future__ import annotations

from typing import Final, Protocol

from hanse.errors import ConfigError

LIFECYCLE: Final = "gCO2e/kWh"
"""Unit of every average that counts: with fuel and plant. `gCO2/kWh`, what stacks emit alone, is some 20 g lower and never meets it."""


class Kinded(Protocol):
    """Anything that says what its figures mean and in which unit."""

    @property
    def signal(self) -> str: ...
    @property
    def unit(self) -> str: ...


def one_kind(*parts: Kinded) -> None:
    """Raise unless all parts are of one kind of signal and one unit.

    Raises:
        ConfigError: which kinds and units met.
    """
    for what in ("signal", "unit"):
        found = sorted({str(getattr(part, what)) for part in parts})
        if len(found) > 1:
            raise ConfigError(
                f"{what} of a sum or comparison",
                got=" and ".join(found),
                allowed=f"one {what} throughout",
                fix="configure feeds of one kind for all sites, or keep the sums apart",
            )
