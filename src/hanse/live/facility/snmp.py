"""SNMP v2c and v3: UPSes (UPS-MIB), rack PDUs of APC, and single objects of any agent.

Here: `SnmpDriver`. Not here: writing; nothing here sets an object. Objects are asked by number, so no MIB file is needed.

UPS-MIB is RFC 1628. APC's are of PowerNet-MIB: `rPDU2` (1.3.6.1.4.1.318.1.1.26) of today's, `rPDU` (...12) of those before; -1 stands for
what a model does not measure. A v2c community travels in clear: use v3 where the agent has it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from hanse.errors import ConfigError, SiteError
from hanse.live.facility.access import secret_of
from hanse.live.facility.readings import Reading, needed
from hanse.model.fleet import Facility, Quantity

PORT: Final = 161
ANSWER_S_MAX: Final = 2.0
RETRIES: Final = 1
"""UDP: one lost datagram is no failure, two are a network that is down."""
ROWS_MAX: Final = 256
"""Of one table: outlets of the largest rack PDU are 48."""
BULK: Final = 24

UPS: Final = "1.3.6.1.2.1.33.1"
RPDU2: Final = "1.3.6.1.4.1.318.1.1.26"
RPDU: Final = "1.3.6.1.4.1.318.1.1.12"
ON_BATTERY: Final = 5
"""`upsOutputSource`."""
BATTERY_LOW: Final = (3, 4)
"""`upsBatteryStatus`: low, depleted."""

Objects = dict[str, float]
"""Number of the object -> value; what is no number is left out."""


class _Object(NamedTuple):
    point: str
    quantity: Quantity
    scale: float


_UPS_SCALARS: Final = {
    f"{UPS}.2.4.0": _Object("battery.charge", "charge_share", 0.01),
    f"{UPS}.2.5.0": _Object("battery.voltage", "voltage_v", 0.1),
    f"{UPS}.2.7.0": _Object("battery.temp", "temp_c", 1.0),
    f"{UPS}.4.2.0": _Object("output.frequency", "frequency_hz", 0.1),
}
_UPS_STATES: Final = (f"{UPS}.2.1.0", f"{UPS}.4.1.0")
_UPS_TABLES: Final = {
    f"{UPS}.3.3.1.3": _Object("input", "voltage_v", 1.0),
    f"{UPS}.3.3.1.4": _Object("input", "current_a", 0.1),
    f"{UPS}.3.3.1.5": _Object("input", "power_w", 1.0),
    f"{UPS}.4.4.1.2": _Object("output", "voltage_v", 1.0),
    f"{UPS}.4.4.1.3": _Object("output", "current_a", 0.1),
    f"{UPS}.4.4.1.4": _Object("output", "power_w", 1.0),
}
_PDU_TABLES: Final = {
    f"{RPDU2}.4.3.1.5": _Object("device", "power_w", 10.0),  # hundredths of a kW
    f"{RPDU2}.4.3.1.9": _Object("device", "energy_wh", 100.0),  # tenths of a kWh
    f"{RPDU2}.6.3.1.5": _Object("phase", "current_a", 0.1),
    f"{RPDU2}.6.3.1.6": _Object("phase", "voltage_v", 1.0),
    f"{RPDU2}.6.3.1.7": _Object("phase", "power_w", 10.0),
    f"{RPDU2}.10.2.2.1.8": _Object("sensor", "temp_c", 0.1),
}
_PDU_OLD_POWER: Final = f"{RPDU}.1.16.0"
_NAMES: Final[dict[str, str]] = {
    "power_w": "power",
    "energy_wh": "energy",
    "voltage_v": "voltage",
    "current_a": "current",
    "temp_c": "temp",
}


class SnmpDriver:
    """One agent."""

    def __init__(self, facility: Facility, home: Path) -> None:
        self._facility, self._home = facility, home
        parts = urlsplit(facility.url)
        self._address = parts.hostname or "", parts.port or PORT
        self._api = needed("pysnmp.hlapi.v3arch.asyncio", "pysnmp", "snmp")
        self._commands = needed("pysnmp.entity.rfc3413.cmdgen", "pysnmp", "snmp")
        self._rfc1902 = needed("pysnmp.proto.rfc1902", "pysnmp", "snmp")
        configurator = needed("pysnmp.hlapi.v3arch.asyncio.lcd", "pysnmp", "snmp")
        self._lcd = configurator.CommandGeneratorLcdConfigurator()
        self._engine: Any = None
        self._target: Any = None

    async def read(self) -> tuple[Reading, ...]:
        """All objects of the profile and of the fleet file.

        Raises:
            SiteError: no answer, or an error of the agent.
        """
        scalars, tables, make = _asked(self._facility.profile)
        own = {oid.oid: oid for oid in self._facility.oids}
        found = await self._get([*scalars, *own])
        for table in tables:
            found |= await self._walk(table)
        now_s = time.time()
        readings = [
            Reading(point=o.point, quantity=o.quantity, value=found[number] * o.scale, at_s=now_s)
            for number, o in own.items()
            if number in found
        ]
        readings += make(found, now_s)
        if not readings:
            raise SiteError(
                self._where,
                got="none of the objects asked for",
                allowed="an agent that has them",
                fix="correct profile and oid, or the view of the community or user",
            )
        return tuple(readings)

    async def close(self) -> None:
        """Let go of the socket."""
        if self._engine is not None:
            self._engine.close_dispatcher()
            self._engine = self._target = None

    @property
    def _where(self) -> str:
        host, port = self._address
        return f"snmp {self._facility.id} ({host}:{port})"

    async def _get(self, numbers: list[str]) -> Objects:
        found: Objects = {}
        for start in range(0, len(numbers), BULK):
            told = await self._send(
                self._commands.GetCommandGenerator(), numbers[start : start + BULK]
            )
            found |= dict(_numbers(self._checked(*told)))
        return found

    async def _walk(self, table: str) -> Objects:
        """Rows of one column."""
        found: Objects = {}
        last = table
        while len(found) < ROWS_MAX:
            told = await self._send(self._commands.BulkCommandGenerator(), [last], 0, BULK)
            rows = self._checked(*told)
            for name, value in rows:
                if not str(name).startswith(table + "."):
                    return found
                found |= dict(_numbers([(name, value)]))
            if not rows or str(rows[-1][0]) == last:
                return found
            last = str(rows[-1][0])
        return found

    async def _send(self, generator: Any, numbers: list[str], *bulk: int) -> tuple[Any, ...]:
        """One request. Below the library's high-level calls, which would look each number up in MIB files and fetch those."""
        if self._engine is None:
            self._engine = self._api.SnmpEngine()
            self._target = await self._api.UdpTransportTarget.create(
                self._address, timeout=ANSWER_S_MAX, retries=RETRIES
            )
        context = self._facility.context.encode()
        address, _ = self._lcd.configure(self._engine, self._identity(), self._target, context)
        answered: asyncio.Future[tuple[Any, ...]] = asyncio.get_running_loop().create_future()

        def told(_engine: Any, _handle: Any, *answer: Any) -> None:
            if not answered.done():
                answered.set_result(answer[:4])

        null = self._rfc1902.Null("")
        asked = [(self._rfc1902.ObjectName(number), null) for number in numbers]
        generator.send_varbinds(self._engine, address, None, context, *bulk, asked, told, None)
        return await answered

    def _identity(self) -> Any:
        facility, api = self._facility, self._api
        secret = secret_of(facility, self._home)
        if facility.version == "2c":
            return api.CommunityData(secret or "public", mpModel=1)
        phrases = secret.splitlines()
        if len(phrases) != 2 or min(map(len, phrases)) < 8:
            raise ConfigError(
                f"facility {facility.id!r}: the secret",
                got=f"{len(phrases)} lines",
                allowed="two lines of at least 8 characters: of authentication, of privacy",
            )
        auth = api.USM_AUTH_HMAC192_SHA256 if facility.auth == "sha256" else api.USM_AUTH_HMAC96_SHA
        return api.UsmUserData(
            facility.user,
            authKey=phrases[0],
            privKey=phrases[1],
            authProtocol=auth,
            privProtocol=api.USM_PRIV_CFB128_AES,
        )

    def _checked(self, trouble: Any, status: Any, index: Any, rows: Any) -> list[tuple[Any, Any]]:
        if trouble:
            told = str(trouble)
            silent = "timeout" in told.lower() or "No SNMP response" in told
            fix = "see that the agent runs and knows the community or user" if silent else None
            raise SiteError(self._where, got=told, allowed="an answer", fix=fix)
        if status:
            got = f"{status.prettyPrint()} at object {index}"
            raise SiteError(self._where, got=got, allowed="values")
        return [(row[0], row[1]) for row in rows]


def _numbers(rows: list[tuple[Any, Any]]) -> Iterator[tuple[str, float]]:
    """Integers, counters and gauges; texts, and objects that the agent does not have, are left out."""
    for name, value in rows:
        try:
            yield str(name), float(int(value))
        except (TypeError, ValueError, AttributeError):
            continue


Maker = Callable[[Objects, float], list[Reading]]


def _asked(profile: str) -> tuple[list[str], list[str], Maker]:
    """Scalars, columns, and what is made of them."""
    if profile == "ups-mib":
        return [*_UPS_SCALARS, *_UPS_STATES], list(_UPS_TABLES), _ups
    if profile == "apc-pdu":
        return [_PDU_OLD_POWER], list(_PDU_TABLES), _pdu
    return [], [], lambda _found, _now_s: []


def _ups(found: Objects, now_s: float) -> list[Reading]:
    readings = [
        Reading(point=o.point, quantity=o.quantity, value=found[number] * o.scale, at_s=now_s)
        for number, o in _UPS_SCALARS.items()
        if found.get(number, -1.0) >= 0.0
    ]
    readings += _rows(_UPS_TABLES, found, now_s)
    for side in ("input", "output"):
        lines = [r for r in readings if r.point.startswith(side) and r.quantity == "power_w"]
        if lines:
            total_w = sum(r.value for r in lines)
            point = f"{side}.power"
            readings.append(Reading(point=point, quantity="power_w", value=total_w, at_s=now_s))
    powers = {r.point: r.value for r in readings if r.quantity == "power_w"}
    if powers.get("input.power") == 0.0 < powers.get("output.power", 0.0):
        # An input of nothing that feeds an output is not measured; many cards fill the column with zeros.
        readings = [
            r for r in readings if not (r.quantity == "power_w" and r.point.startswith("input"))
        ]
    status, source = (found.get(number) for number in _UPS_STATES)
    for point, known, holds in (
        ("battery.low", status, status in BATTERY_LOW),
        ("output.on-battery", source, source == ON_BATTERY),
    ):
        if known is not None:
            value = float(holds)
            readings.append(Reading(point=point, quantity="state", value=value, at_s=now_s))
    return readings


def _pdu(found: Objects, now_s: float) -> list[Reading]:
    readings = _rows(_PDU_TABLES, found, now_s)
    old_w = found.get(_PDU_OLD_POWER, -1.0)
    if old_w >= 0.0 and not any(r.point == "device-1.power" for r in readings):
        readings.append(
            Reading(point="device-1.power", quantity="power_w", value=old_w, at_s=now_s)
        )
    return readings


def _rows(tables: dict[str, _Object], found: Objects, now_s: float) -> list[Reading]:
    """`input-1.voltage` and so on; -1 is what a model does not measure."""
    readings = []
    for number, value in found.items():
        column, _, row = number.rpartition(".")
        while column and column not in tables:  # rows of sensors have two numbers
            column, _, more = column.rpartition(".")
            row = f"{more}-{row}"
        if not column or value < 0.0:
            continue
        o = tables[column]
        readings.append(
            Reading(
                point=f"{o.point}-{row}.{_NAMES[o.quantity]}",
                quantity=o.quantity,
                value=value * o.scale,
                at_s=now_s,
            )
        )
    return readings
