"""Conversions between units; the only module that may hold a bare 3600.

Here: exact factors between the units that names carry (``_s``, ``_ms``, ``_wh``, ``_kwh``, ``_j``, ``_g``, ``_t``,
``_bytes``, ``_gb``, ``_mbit_s``). All prefixes are decimal (SI): 1 GB is 1e9 bytes. Not here: physics, prices and
anything that needs a source. Every function also takes a numpy array where it takes a float, element by element.
"""

from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Q = TypeVar("Q", float, "NDArray[np.float64]")

SECONDS_PER_HOUR: Final = 3600.0
SECONDS_PER_DAY: Final = 24.0 * SECONDS_PER_HOUR
JOULES_PER_WH: Final = 3600.0  # a watt for an hour, and a watt is a joule a second
JOULES_PER_KWH: Final = 1000.0 * JOULES_PER_WH
GRAMS_PER_TONNE: Final = 1e6
MS_PER_S: Final = 1000.0
BYTES_PER_GB: Final = 1e9
BITS_PER_BYTE: Final = 8.0
BYTES_PER_S_PER_MBIT_S: Final = 1e6 / BITS_PER_BYTE


def hours_from_s(duration_s: Q) -> Q:
    """Seconds to hours."""
    return duration_s / SECONDS_PER_HOUR


def s_from_hours(duration_h: Q) -> Q:
    """Hours to seconds."""
    return duration_h * SECONDS_PER_HOUR


def ms_from_s(duration_s: Q) -> Q:
    """Seconds to milliseconds."""
    return duration_s * MS_PER_S


def s_from_ms(duration_ms: Q) -> Q:
    """Milliseconds to seconds."""
    return duration_ms / MS_PER_S


def wh_from_j(energy_j: Q) -> Q:
    """Joules to watt-hours."""
    return energy_j / JOULES_PER_WH


def j_from_wh(energy_wh: Q) -> Q:
    """Watt-hours to joules."""
    return energy_wh * JOULES_PER_WH


def kwh_from_j(energy_j: Q) -> Q:
    """Joules to kilowatt-hours."""
    return energy_j / JOULES_PER_KWH


def j_from_kwh(energy_kwh: Q) -> Q:
    """Kilowatt-hours to joules."""
    return energy_kwh * JOULES_PER_KWH


def kwh_from_wh(energy_wh: Q) -> Q:
    """Watt-hours to kilowatt-hours."""
    return energy_wh / 1000.0


def wh_from_kwh(energy_kwh: Q) -> Q:
    """Kilowatt-hours to watt-hours."""
    return energy_kwh * 1000.0


def per_wh_from_per_kwh(rate_per_kwh: Q) -> Q:
    """A price or a carbon intensity per kWh to the same per Wh."""
    return rate_per_kwh / 1000.0


def per_kwh_from_per_mwh(rate_per_mwh: Q) -> Q:
    """A wholesale price per MWh to the same per kWh."""
    return rate_per_mwh / 1000.0


def per_g_from_per_t(rate_per_t: Q) -> Q:
    """A price per tonne (of CO2e) to the same per gram."""
    return rate_per_t / GRAMS_PER_TONNE


def per_t_from_per_g(rate_per_g: Q) -> Q:
    """A price per gram (of CO2e) to the same per tonne."""
    return rate_per_g * GRAMS_PER_TONNE


def gb_from_bytes(size_bytes: Q) -> Q:
    """Bytes to gigabytes of 1e9 bytes."""
    return size_bytes / BYTES_PER_GB


def bytes_from_gb(size_gb: Q) -> Q:
    """Gigabytes of 1e9 bytes to bytes."""
    return size_gb * BYTES_PER_GB


def bytes_per_s_from_mbit_s(rate_mbit_s: Q) -> Q:
    """A link's rate in Mbit/s (1e6 bits) to bytes per second."""
    return rate_mbit_s * BYTES_PER_S_PER_MBIT_S


def mbit_s_from_bytes_per_s(rate_bytes_per_s: Q) -> Q:
    """Bytes per second to Mbit/s (1e6 bits)."""
    return rate_bytes_per_s / BYTES_PER_S_PER_MBIT_S
