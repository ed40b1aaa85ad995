"""Modbus TCP: meters and inverters, by a map of registers in the fleet file or by SunSpec's own.

Here: `ModbusDriver`. Not here: what SunSpec's models hold (`sunspec`). Nothing here writes a register.

After the Modbus application protocol 1.1b3: functions 3 (holding) and 4 (input) read at most 125 registers. Registers of a map that lie near
one another are read together; a device's own gaps are respected where it refuses them.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from hanse.errors import SiteError
from hanse.live.facility.readings import Reading, needed
from hanse.live.facility.sunspec import (
    END,
    LENGTH_MAX,
    MARK,
    MODELS,
    MODELS_MAX,
    STARTS,
    Model,
    decode,
)
from hanse.model.fleet import Facility, Register, RegisterKind

PORT: Final = 502
ANSWER_S_MAX: Final = 3.0
READ_MAX: Final = 125
GAP_MAX: Final = 8
"""Registers between two points that are read along: an answer's 16 bytes more against another round trip."""
_FORMATS: Final[dict[RegisterKind, str]] = {
    "u16": ">H",
    "i16": ">h",
    "u32": ">I",
    "i32": ">i",
    "u64": ">Q",
    "f32": ">f",
    "f64": ">d",
}


class ModbusDriver:
    """One unit behind one TCP address."""

    def __init__(self, facility: Facility, home: Path) -> None:
        self._facility = facility
        self._api = needed("pymodbus.client", "pymodbus", "modbus")
        self._errors = needed("pymodbus.exceptions", "pymodbus", "modbus")
        parts = urlsplit(facility.url)
        self._address = parts.hostname or "", parts.port or PORT
        self._client: Any = None
        self._models: list[Model] = []
        self._alone: set[Register] = set()
        """Registers whose neighbours the device refuses: read by themselves."""

    async def read(self) -> tuple[Reading, ...]:
        """All registers of the map, or of the models that the device has.

        Raises:
            SiteError: no answer, or a register that the device does not have.
        """
        if self._facility.profile == "sunspec":
            return await self._sunspec()
        found: list[Reading] = []
        for group in grouped(self._facility.registers, self._alone):
            found += await self._group(group)
        return tuple(found)

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    # --- a map of the fleet file

    async def _group(self, group: Sequence[Register]) -> list[Reading]:
        first, last = group[0].address, group[-1].address + width(group[-1].kind)
        try:
            words = await self._words(first, last - first, input=group[0].input)
        except SiteError:
            if len(group) == 1 or self._client is None:
                raise
            self._alone |= set(group)  # the gap, or one of them, is what it refuses: say which
            return [r for one in group for r in await self._group([one])]
        now_s = time.time()
        return [
            Reading(
                point=register.point,
                quantity=register.quantity,
                value=value * register.scale,
                at_s=now_s,
            )
            for register in group
            if (value := number(register, words[register.address - first :])) == value
        ]

    # --- SunSpec

    async def _sunspec(self) -> tuple[Reading, ...]:
        if not self._models:
            self._models = await self._map()
        found: list[Reading] = []
        count: dict[str, int] = {}
        for model in self._models:
            words: list[int] = []
            while len(words) < model.length + 2:
                more = min(READ_MAX, model.length + 2 - len(words))
                words += await self._words(model.address + len(words), more)
            if words[:2] != [model.number, model.length]:
                self._models = []  # another device, or other firmware: look again at the next reading
                raise SiteError(self._where, got="another map than before", allowed="the same")
            kind = MODELS[model.number][0].name.partition(".")[0]
            count[kind] = count.get(kind, 0) + 1
            part = "" if count[kind] == 1 else f"{count[kind]}."
            found += decode(model.number, words, part, time.time())
        return tuple(found)

    async def _map(self) -> list[Model]:
        """The models known here, in the order of the device.

        Raises:
            SiteError: there is no map at any of the three addresses, or nothing in it that is known here.
        """
        start = await self._start()
        address, listed, known = start + 2, [], []
        for _ in range(MODELS_MAX):
            number_, length = await self._words(address, 2)
            if number_ == END:
                break
            if length > LENGTH_MAX:
                raise SiteError(self._where, got=f"model {number_} of {length}", allowed="less")
            listed.append(number_)
            if number_ in MODELS:
                known.append(Model(number_, address, length))
            address += 2 + length
        if not known:
            got = f"models {', '.join(map(str, listed))}" if listed else "no model"
            raise SiteError(self._where, got=got, allowed="an inverter, a meter or a battery")
        return known

    async def _start(self) -> int:
        for start in STARTS:
            try:
                if tuple(await self._words(start, 2)) == MARK:
                    return start
            except SiteError:
                if self._client is None:
                    raise
        raise SiteError(
            self._where,
            got="no SunSpec map at 40000, 0 or 50000",
            allowed="a SunSpec device",
            fix="switch SunSpec on at the device, correct unit, or write a map of [[facility.register]]",
        )

    # --- registers

    @property
    def _where(self) -> str:
        host, port = self._address
        return f"modbus {self._facility.id} ({host}:{port} unit {self._facility.unit})"

    async def _words(self, address: int, count: int, *, input: bool = False) -> list[int]:
        client = await self._connected()
        ask = client.read_input_registers if input else client.read_holding_registers
        try:
            answer = await ask(address, count=count, device_id=self._facility.unit)
        except (self._errors.ModbusException, OSError, TimeoutError) as error:
            await self.close()
            raise SiteError(self._where, got=repr(error), allowed="an answer") from error
        if answer.isError() or len(answer.registers) != count:
            got = f"exception {getattr(answer, 'exception_code', '')} for {count} registers from {address}"
            raise SiteError(
                self._where,
                got=got,
                allowed="registers that the device has",
                fix="compare address and input with the device's manual: it may count from 1",
            )
        return list(answer.registers)

    async def _connected(self) -> Any:
        if self._client is None or not self._client.connected:
            await self.close()
            host, port = self._address
            client = self._api.AsyncModbusTcpClient(
                host, port=port, timeout=ANSWER_S_MAX, retries=1, reconnect_delay=0
            )
            try:
                connected = await client.connect()
            except (self._errors.ModbusException, OSError, TimeoutError) as error:
                client.close()
                raise SiteError(self._where, got=repr(error), allowed="a device") from error
            if not connected:
                client.close()
                raise SiteError(self._where, got="no connection", allowed="a device that listens")
            self._client = client
        return self._client


def width(kind: RegisterKind) -> int:
    """Registers of a number."""
    return struct.calcsize(_FORMATS[kind]) // 2


def number(register: Register, words: Sequence[int]) -> float:
    """The number at the start of `words`, unscaled; NaN stays NaN."""
    own = list(words[: width(register.kind)])
    if register.low_word_first:
        own.reverse()
    (found,) = struct.unpack(_FORMATS[register.kind], struct.pack(f">{len(own)}H", *own))
    return float(found)


def grouped(
    registers: Sequence[Register], alone: Set[Register] = frozenset()
) -> list[list[Register]]:
    """Registers that one request reads: of one kind, near one another, at most `READ_MAX` together."""
    groups: list[list[Register]] = []
    for register in sorted(registers, key=lambda r: (r.input, r.address)):
        end = register.address + width(register.kind)
        if groups and register not in alone and groups[-1][-1] not in alone:
            first, last = groups[-1][0], groups[-1][-1]
            near = register.address - (last.address + width(last.kind)) <= GAP_MAX
            if first.input == register.input and near and end - first.address <= READ_MAX:
                groups[-1].append(register)
                continue
        groups.append([register])
    return groups
