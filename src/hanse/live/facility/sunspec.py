"""SunSpec: where a device's values lie in its registers, and what they are.

Here: the models that matter for a site's power (inverters 101 to 103 and 111 to 113, meters 201 to 204 and 211 to 214, DER measurements 701,
batteries 802), finding and decoding them. Not here: asking for registers (`modbus`).

After the SunSpec Device Information Model specification 1.1: a map begins with `SunS` at one of three addresses; each model is its id, its
length, and so many registers. An integer is scaled by 10 to the power of a scale factor elsewhere in the model. A value that a device does not
have is the type's own "not implemented".
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from hanse.live.facility.readings import Reading
from hanse.model.fleet import Quantity

MARK: Final = (0x5375, 0x6E53)
"""`SunS`."""
STARTS: Final = (40_000, 0, 50_000)
"""Where a map may begin."""
END: Final = 0xFFFF
FACTOR_MAX: Final = 10
"""Of a scale factor, either way (specification, type sunssf)."""
MODELS_MAX: Final = 64
LENGTH_MAX: Final = 1024

Kind = str
_MISSING: Final[dict[Kind, int]] = {
    "i16": 0x8000,
    "u16": 0xFFFF,
    "acc32": 0,
    "u32": 0xFFFF_FFFF,
    "acc64": 0,
}
_WIDTH: Final[dict[Kind, int]] = {"i16": 1, "u16": 1, "acc32": 2, "u32": 2, "f32": 2, "acc64": 4}


class Point(NamedTuple):
    """One value of a model; offsets count from the model's id."""

    name: str
    """As points are called here."""
    label: str
    """As the specification calls it."""
    quantity: Quantity
    offset: int
    kind: Kind
    factor: int = 0
    """Offset of its scale factor; 0: it has none."""
    scale: float = 1.0


class Model(NamedTuple):
    """A model in a device's map."""

    number: int
    address: int
    length: int


def _inverter(number: int) -> tuple[Point, ...]:
    name = "inverter"
    if number > 103:
        return (
            Point(f"{name}.power", "W", "power_w", 22, "f32"),
            Point(f"{name}.energy", "WH", "energy_wh", 32, "f32"),
            Point(f"{name}.current", "A", "current_a", 2, "f32"),
            Point(f"{name}.voltage", "PhVphA", "voltage_v", 16, "f32"),
            Point(f"{name}.frequency", "Hz", "frequency_hz", 24, "f32"),
            Point(f"{name}.temp", "TmpCab", "temp_c", 40, "f32"),
            Point(f"{name}.state", "St", "state", 48, "u16"),
        )
    return (
        Point(f"{name}.power", "W", "power_w", 14, "i16", 15),
        Point(f"{name}.energy", "WH", "energy_wh", 24, "acc32", 26),
        Point(f"{name}.current", "A", "current_a", 2, "u16", 6),
        Point(f"{name}.voltage", "PhVphA", "voltage_v", 10, "u16", 13),
        Point(f"{name}.frequency", "Hz", "frequency_hz", 16, "u16", 17),
        Point(f"{name}.temp", "TmpCab", "temp_c", 33, "i16", 37),
        Point(f"{name}.state", "St", "state", 38, "u16"),
    )


def _meter(number: int) -> tuple[Point, ...]:
    name = "meter"
    if number > 204:
        return (
            Point(f"{name}.power", "W", "power_w", 28, "f32"),
            Point(f"{name}.energy-export", "TotWhExp", "energy_wh", 60, "f32"),
            Point(f"{name}.energy", "TotWhImp", "energy_wh", 68, "f32"),
            Point(f"{name}.current", "A", "current_a", 2, "f32"),
            Point(f"{name}.voltage", "PhV", "voltage_v", 10, "f32"),
            Point(f"{name}.frequency", "Hz", "frequency_hz", 26, "f32"),
        )
    return (
        Point(f"{name}.power", "W", "power_w", 18, "i16", 22),
        Point(f"{name}.energy-export", "TotWhExp", "energy_wh", 38, "acc32", 54),
        Point(f"{name}.energy", "TotWhImp", "energy_wh", 46, "acc32", 54),
        Point(f"{name}.current", "A", "current_a", 2, "i16", 6),
        Point(f"{name}.voltage", "PhV", "voltage_v", 7, "i16", 15),
        Point(f"{name}.frequency", "Hz", "frequency_hz", 16, "i16", 17),
    )


MODELS: Final[dict[int, tuple[Point, ...]]] = {
    **{number: _inverter(number) for number in (101, 102, 103, 111, 112, 113)},
    **{number: _meter(number) for number in (201, 202, 203, 204, 211, 212, 213, 214)},
    701: (
        Point("der.power", "W", "power_w", 10, "i16", 116),
        Point("der.energy", "TotWhInj", "energy_wh", 19, "acc64", 120),
        Point("der.current", "A", "current_a", 14, "i16", 113),
        Point("der.voltage", "LNV", "voltage_v", 16, "u16", 114),
        Point("der.frequency", "Hz", "frequency_hz", 17, "u32", 115),
        Point("der.temp", "TmpCab", "temp_c", 36, "i16", 122),
    ),
    802: (
        Point("battery.charge", "SoC", "charge_share", 11, "u16", 56, 0.01),
        Point("battery.voltage", "V", "voltage_v", 34, "u16", 59),
        Point("battery.current", "A", "current_a", 44, "i16", 61),
        Point("battery.power", "W", "power_w", 47, "i16", 63),
        Point("battery.state", "State", "state", 22, "u16"),
    ),
}


def decode(number: int, registers: Sequence[int], part: str, at_s: float) -> list[Reading]:
    """What a model tells.

    Args:
        registers: All of the model, id and length first.
        part: Put before each point where a device has several of one model; empty for the first.
    """
    found = []
    for point in MODELS.get(number, ()):
        value = _value(point, registers)
        if value is not None:
            name = f"{part}{point.name}"
            found.append(Reading(point=name, quantity=point.quantity, value=value, at_s=at_s))
    return found


def _value(point: Point, registers: Sequence[int]) -> float | None:
    """Scaled; None where the device does not have it or its model ends before."""
    words = registers[point.offset : point.offset + _WIDTH[point.kind]]
    if len(words) < _WIDTH[point.kind]:
        return None
    if point.kind == "f32":
        (real,) = struct.unpack(">f", struct.pack(">2H", *words))
        return float(real) * point.scale if math.isfinite(real) else None
    number = 0
    for word in words:
        number = number << 16 | word
    if number == _MISSING[point.kind]:
        return None
    if point.kind == "i16":
        number = _signed(number)
    if not point.factor:
        return number * point.scale
    factor = _signed(registers[point.factor]) if point.factor < len(registers) else -0x8000
    if abs(factor) > FACTOR_MAX:
        return None  # "not implemented", or nonsense: without its scale the number means nothing
    return float(number * 10.0**factor * point.scale)


def _signed(word: int) -> int:
    return word - 0x1_0000 if word & 0x8000 else word
