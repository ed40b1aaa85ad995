"""What a driver of a device is, and what it gives.

Here: `Reading`, the drivers' protocols, the error that names the extra. Not here: any device's protocol.
"""

from __future__ import annotations

import importlib
from typing import Any, Final, Literal, Protocol, runtime_checkable

from hanse.errors import ConfigError
from hanse.model.fleet import Quantity, Value

UNITS: Final[dict[Quantity, str]] = {
    "power_w": "W",
    "energy_wh": "Wh",
    "temp_c": "degC",
    "voltage_v": "V",
    "current_a": "A",
    "frequency_hz": "Hz",
    "charge_share": "share",
    "limit_w": "W",
    "flow_l_per_min": "L/min",
    "state": "",
}
ResetKind = Literal["On", "ForceOff", "ForceRestart", "GracefulRestart", "PowerCycle"]
"""Of Redfish (`Resource.ResetType`)."""


class Reading(Value, frozen=True, kw_only=True):
    """One value of a device."""

    point: str
    quantity: Quantity
    value: float
    at_s: float
    """When it was true, by the device's word, else when it was read."""


class Cap(Value, frozen=True, kw_only=True):
    """A power limit as the device holds it, read back after it was set."""

    point: str
    limit_w: float | None
    """None: it holds none."""
    asked_w: float | None

    @property
    def held(self) -> bool:
        """Whether it is what was asked for (to the watt: devices round)."""
        if self.asked_w is None or self.limit_w is None:
            return self.asked_w is self.limit_w
        return abs(self.limit_w - self.asked_w) <= 1.0


class PlantDriver(Protocol):
    """Asks one device."""

    async def read(self) -> tuple[Reading, ...]:
        """All of its readings now.

        Raises:
            SiteError: it did not answer, or not as its protocol says.
        """
        ...

    async def close(self) -> None:
        """End its session and connection."""
        ...


@runtime_checkable
class PowerCapper(Protocol):
    """A device whose power can be limited."""

    async def cap(self, limit_w: float | None) -> tuple[Cap, ...]:
        """Share a limit among its parts, or lift it; what they hold then.

        Raises:
            SiteError: as `read`, or the device refused.
        """
        ...


@runtime_checkable
class Resetter(Protocol):
    """A device that can reset nodes out of band."""

    async def reset(self, system: str, kind: ResetKind) -> None:
        """Order it; the node takes a minute or more.

        Raises:
            SiteError: as `read`, or the device refused.
        """
        ...


def needed(module: str, package: str, driver: str) -> Any:
    """A library that only this driver needs.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"driver {driver!r}",
            got=f"{package} is not installed ({error})",
            allowed="the libraries of devices",
            fix="pip install 'hanse[facility]'",
        ) from error
