"""Kinds of signal that never meet in one sum: `one_kind` refuses at run time, type parameters before.

Here: the check, and `Emitted`, grams that remember which intensity they were counted with. Not here: the kinds
themselves (`series.SignalType`), forecasts, which add up under the same rule (`forecast.value`).

Sums that mix location and market based figures overstate savings by up to 55 % (Green Mirage, 2024), and a marginal
intensity answers another question than an average one; so a sum over kinds is an error, never a warning.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.signals.outlook import CarbonSignal
from hanse.signals.series import SignalType

S = TypeVar("S", bound=SignalType)
C = TypeVar("C", bound=CarbonSignal)


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


class Emitted(Value, Generic[C], frozen=True, kw_only=True):
    """Grams of CO2e, and the kind of intensity that they were counted with."""

    grams: float
    signal: C
    unit: str = "gCO2e"

    def __add__(self, other: Emitted[C]) -> Emitted[C]:
        if not isinstance(other, Emitted):
            return NotImplemented
        one_kind(self, other)
        return Emitted(grams=self.grams + other.grams, signal=self.signal, unit=self.unit)

    def __lt__(self, other: Emitted[C]) -> bool:
        if not isinstance(other, Emitted):
            return NotImplemented
        one_kind(self, other)
        return self.grams < other.grams


def emitted(energy_kwh: float, intensity_g_per_kwh: float, signal: C) -> Emitted[C]:
    """Emissions of an amount of energy under an intensity of a kind."""
    return Emitted(grams=energy_kwh * intensity_g_per_kwh, signal=signal)
