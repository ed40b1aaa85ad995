"""The Modbus driver against a pymodbus server on a real socket, and its SunSpec maps against the specification's own files."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import struct
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import SiteError
from hanse.live.facility.modbus import GAP_MAX, READ_MAX, ModbusDriver, grouped, number, width
from hanse.live.facility.sunspec import MODELS, decode
from hanse.model.fleet import Facility, Register, RegisterKind

if importlib.util.find_spec("pymodbus") is None:
    pytest.skip("pymodbus is not installed: pip install pymodbus", allow_module_level=True)
from live.facility.modbus_server import modbus_server

KINDS: tuple[RegisterKind, ...] = ("u16", "i16", "u32", "i32", "u64", "f32", "f64")
FORMATS = {
    "u16": ">H",
    "i16": ">h",
    "u32": ">I",
    "i32": ">i",
    "u64": ">Q",
    "f32": ">f",
    "f64": ">d",
}


def words(format: str, value: float) -> list[int]:
    raw = struct.pack(format, value)
    return list(struct.unpack(f">{len(raw) // 2}H", raw))


def at(address: int, *numbers: int) -> dict[int, int]:
    return {address + i: n for i, n in enumerate(numbers)}


def read(url: str, times: int = 1, **fields: Any) -> dict[str, float]:
    facility = Facility(id="meter", site="here", driver="modbus", url=url, **fields)

    async def run() -> dict[str, float]:
        driver = ModbusDriver(facility, Path())
        try:
            for _ in range(times - 1):
                await driver.read()
            return {r.point: r.value for r in await driver.read()}
        finally:
            await driver.close()

    return asyncio.run(run())


MAP = (
    Register(point="power", quantity="power_w", address=10, kind="f32"),
    Register(point="energy", quantity="energy_wh", address=14, kind="u32", scale=100.0, low_word_first=True),
    Register(point="inlet", quantity="temp_c", address=40, kind="i16", scale=0.1),
    Register(point="flow", quantity="flow_l_per_min", address=3, input=True, scale=0.01),
)  # fmt: skip


def test_a_map_of_the_fleet_file_is_read_with_its_scales_and_word_orders() -> None:
    low, high = words(">I", 70_001)[::-1]
    holding = at(10, *words(">f", 4321.5), 0, 0, low, high) | at(40, 0x10000 - 55)
    with modbus_server(holding, at(3, 1234)) as (url, live):
        found = read(url, registers=MAP, times=2)
        assert found == pytest.approx(
            {"power": 4321.5, "energy": 7_000_100.0, "inlet": -5.5, "flow": 12.34}
        )
        live |= at(10, *words(">f", float("nan")))
        assert "power" not in read(url, registers=MAP)


def test_a_gap_that_the_device_refuses_is_not_read_along() -> None:
    near = (
        Register(point="a", quantity="power_w", address=0),
        Register(point="b", quantity="power_w", address=5),
    )
    assert len(grouped(near)) == 1
    with modbus_server(at(0, 7) | at(5, 9)) as (url, _):
        assert read(url, registers=near, times=2) == {"a": 7.0, "b": 9.0}


def test_a_register_that_is_not_there_is_named() -> None:
    missing = Register(point="x", quantity="power_w", address=900)
    with modbus_server(at(0, 1)) as (url, _), pytest.raises(SiteError, match=r"from 900.*manual"):
        read(url, registers=(missing,))


def test_a_device_that_is_gone_is_an_error_and_comes_back() -> None:
    register = (Register(point="a", quantity="power_w", address=0),)
    with modbus_server(at(0, 7)) as (url, _):
        assert read(url, registers=register) == {"a": 7.0}
    with pytest.raises(SiteError, match="modbus meter"):
        read(url, registers=register)


def inverter_103() -> list[int]:
    """Three phases, as an inverter of 10 kW tells them: 8,765 W, 12,345.6 kWh."""
    model = [103, 50] + [0xFFFF] * 50
    model[2], model[6] = 1270, 0xFFFE  # 12.70 A
    model[10], model[13] = 2301, 0xFFFF  # 230.1 V
    model[14], model[15] = 8765, 0
    model[16], model[17] = 4999, 0xFFFE
    model[24:26], model[26] = words(">I", 123_456), 2
    model[33], model[37] = 0x8000, 0x8000  # no sensor
    model[38] = 4
    return model


def meter_213() -> list[int]:
    model = [213, 124] + [0] * 124
    nan = words(">f", float("nan"))
    for offset in range(2, 126, 2):
        model[offset : offset + 2] = nan
    for offset, value in ((2, 13.5), (10, 229.5), (26, 50.01), (28, -640.25), (60, 1e6), (68, 5e5)):
        model[offset : offset + 2] = words(">f", value)
    return model


def battery_802() -> list[int]:
    model = [802, 62] + [0xFFFF] * 62
    model[11], model[56] = 735, 0xFFFF  # 73.5 %
    model[47], model[63] = 0x10000 - 250, 1  # -2,500 W: it charges
    model[34], model[59] = 0xFFFF, 0xFFFF
    return model


def suns(*models: list[int], start: int = 40_000) -> dict[int, int]:
    common = [1, 66, *([0x2020] * 66)]
    words_ = [0x5375, 0x6E53, *common]
    for model in models:
        words_ += model
    return at(start, *words_, 0xFFFF, 0)


@pytest.mark.parametrize("start", [40_000, 0, 50_000])
def test_a_sunspec_device_is_found_and_read(start: int) -> None:
    holding = suns(inverter_103(), meter_213(), battery_802(), start=start)
    with modbus_server(holding) as (url, live):
        found = read(url, profile="sunspec", times=2)
        assert found["inverter.power"] == 8765.0
        assert found["inverter.energy"] == 12_345_600.0
        assert found["inverter.voltage"] == pytest.approx(230.1)
        assert found["inverter.current"] == pytest.approx(12.7)
        assert "inverter.temp" not in found
        assert found["meter.power"] == -640.25
        assert (found["meter.energy"], found["meter.energy-export"]) == (5e5, 1e6)
        assert found["battery.charge"] == pytest.approx(0.735)
        assert found["battery.power"] == -2500.0
        assert "battery.voltage" not in found
        live[start + 2 + 68 + 14] = 4000
        assert read(url, profile="sunspec")["inverter.power"] == 4000.0


def test_two_inverters_at_one_address_keep_apart() -> None:
    second = inverter_103()
    second[14] = 1000
    with modbus_server(suns(inverter_103(), second)) as (url, _):
        found = read(url, profile="sunspec")
    assert (found["inverter.power"], found["2.inverter.power"]) == (8765.0, 1000.0)


def test_a_device_without_a_map_is_told_what_to_do() -> None:
    with (
        modbus_server(at(0, 1, 2)) as (url, _),
        pytest.raises(SiteError, match=r"facility\.register"),
    ):
        read(url, profile="sunspec")
    with modbus_server(suns()) as (url, _), pytest.raises(SiteError, match="got models 1"):
        read(url, profile="sunspec")


def test_offsets_and_types_are_those_of_the_specification() -> None:
    """The models' own files, as the SunSpec Alliance publishes them (in the package pysunspec2)."""
    spec = importlib.util.find_spec("sunspec2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("pysunspec2 is not installed: pip install pysunspec2")
    folder = Path(spec.submodule_search_locations[0]) / "models" / "json"
    kinds = {"i16": ("int16",), "u16": ("uint16", "enum16"), "acc32": ("acc32",), "u32": ("uint32",),
             "f32": ("float32",), "acc64": ("uint64", "acc64")}  # fmt: skip
    for model, points in MODELS.items():
        listed = json.loads((folder / f"model_{model}.json").read_text())["group"]["points"]
        offsets, offset = {}, 0
        for one in listed:
            offsets[one["name"]] = offset, one
            offset += one["size"]
        for point in points:
            where, one = offsets[point.label]
            assert (where, one["type"] in kinds[point.kind]) == (point.offset, True), (model, point)
            factor = offsets[one["sf"]][0] if one.get("sf") else 0
            assert factor == point.factor, (model, point)


@given(st.sampled_from(KINDS), st.integers(0, 2**64 - 1), st.booleans())
def test_a_number_is_what_was_written_whatever_its_word_order(
    kind: RegisterKind, raw: int, low: bool
) -> None:
    size = width(kind)
    own = [raw >> 16 * i & 0xFFFF for i in range(size)]
    (expected,) = struct.unpack(FORMATS[kind], struct.pack(f">{size}H", *own))
    register = Register(point="x", quantity="power_w", address=0, kind=kind, low_word_first=low)
    found = number(register, (own[::-1] if low else own) + [1, 2, 3])
    assert found == float(expected) or (found != found and expected != expected)


@given(st.lists(st.tuples(st.integers(0, 400), st.sampled_from(KINDS), st.booleans()), max_size=30))
def test_groups_hold_each_register_once_and_are_never_too_long(
    many: list[tuple[int, RegisterKind, bool]],
) -> None:
    registers = tuple(
        Register(point=f"p{i}", quantity="power_w", address=a, kind=k, input=n)
        for i, (a, k, n) in enumerate(many)
    )
    groups = grouped(registers)
    assert sorted(r.point for g in groups for r in g) == sorted(r.point for r in registers)
    for group in groups:
        assert len({r.input for r in group}) == 1
        end = max(r.address + width(r.kind) for r in group)
        assert end - group[0].address <= max(READ_MAX, width(group[0].kind))
        for a, b in pairwise(group):
            assert b.address - (a.address + width(a.kind)) <= GAP_MAX


@given(st.sampled_from(sorted(MODELS)), st.lists(st.integers(0, 0xFFFF), max_size=130))
def test_any_registers_decode_to_finite_numbers(model: int, registers: list[int]) -> None:
    for reading in decode(model, registers, "", 0.0):
        assert abs(reading.value) < float("inf")
