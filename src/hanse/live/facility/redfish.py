"""Redfish: power, temperature and energy of servers, their power limits, and resets out of band.

Here: `RedfishDriver`. Not here: HTTP itself (`web`), which reading counts as what (`metering`).

After DMTF DSP0266 (protocol) and DSP0268 (data model). A service is walked once: chassis with `EnvironmentMetrics`, `PowerSubsystem` and
`ThermalSubsystem`, or, where it has none of them (before release 2020.4), `Power` and `Thermal`; systems with processors that have
`EnvironmentMetrics` of their own (GPUs). Afterwards only what tells something is asked. A walk is made again after `WALK_AGAIN_S` and when
a known resource is gone: boards are added and firmware is replaced.

Changes name the ETag they were made from (some services insist), and what counts is what is read back.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from hanse.errors import SiteError
from hanse.live.facility.access import secret_of, tls_of
from hanse.live.facility.readings import Cap, Reading, ResetKind
from hanse.live.facility.web import Answer, Web
from hanse.model.fleet import Facility, Quantity
from hanse.units import SECONDS_PER_HOUR

ROOT: Final = "/redfish/v1/"
WALK_AGAIN_S: Final = SECONDS_PER_HOUR
"""A board is added with the machine off, which ends the session and walks anyway; an hour finds the rest."""
MEMBERS_MAX: Final = 64
"""Chassis, systems and processors that one BMC tells of; a rack manager of 72 GPUs has them in several."""
LINK_PATH: Final = re.compile(r"^/redfish/v1/[A-Za-z0-9_./~()$-]*$")
"""Paths of our own origin: a link may not lead elsewhere."""
RESETS: Final = ("On", "ForceOff", "ForceRestart", "GracefulRestart", "PowerCycle")


class _Source(NamedTuple):
    """A resource that tells something."""

    kind: str
    path: str
    name: str
    """Of the part, as points begin."""


class RedfishDriver:
    """One service; one request at a time, as BMCs like it."""

    def __init__(self, facility: Facility, home: Path) -> None:
        self._facility, self._home = facility, home
        self._web = Web(
            facility.url,
            tls=tls_of(facility, home),
            fingerprint_sha256=facility.fingerprint_sha256,
        )
        self._token = self._session = ""
        self._basic = False
        """The service has no sessions: each request carries the password."""
        self._sources: list[_Source] = []
        self._walked_at_s = float("-inf")

    # --- PlantDriver

    async def read(self) -> tuple[Reading, ...]:
        """All that its resources tell.

        Raises:
            SiteError: no answer, or not one of a Redfish service.
        """
        if time.monotonic() - self._walked_at_s > WALK_AGAIN_S:
            await self._walk()
        found: list[Reading] = []
        for source in list(self._sources):
            answer = await self._ask("GET", source.path)
            if answer.status == 404:
                self._walked_at_s = float("-inf")  # gone: look again at the next reading
                continue
            found += _readings(source, self._taken(answer, source.path), time.time())
        if not found:
            self._walked_at_s = float("-inf")
            raise SiteError(
                self._where,
                got="no power and no temperature",
                allowed="a chassis with EnvironmentMetrics, PowerSubsystem, ThermalSubsystem, Power or Thermal",
            )
        return tuple(found)

    async def close(self) -> None:
        """End the session: services hold few of them, some eight."""
        session, self._session = self._session, ""
        if session:
            with contextlib.suppress(SiteError):  # it ends by itself after its timeout
                await self._web.ask("DELETE", session, headers={"X-Auth-Token": self._token})
        self._token = ""
        await self._web.close()

    # --- PowerCapper

    async def cap(self, limit_w: float | None) -> tuple[Cap, ...]:
        """A limit for the whole device, in equal parts; None lifts it.

        Raises:
            SiteError: nothing here can be limited, or the service refused.
        """
        if not self._sources:
            await self._walk()
        places = await self._places()
        if not places:
            raise SiteError(self._where, got="no power limit", allowed="a device that has one")
        share_w = None if limit_w is None else limit_w / len(places)
        return tuple([await self._cap_at(source, share_w) for source in places])

    async def _places(self) -> list[_Source]:
        """Whole chassis where they can be limited, else their GPUs."""
        kinds = ("chassis", "power", "processor")
        for kind in kinds:
            found = []
            for source in self._sources:
                if source.kind == kind:
                    body = self._taken(await self._ask("GET", source.path), source.path)
                    if _holds_limit(kind, body):
                        found.append(source)
            if found:
                return found
        return []

    async def _cap_at(self, source: _Source, asked_w: float | None) -> Cap:
        for last in (False, True):
            answer = await self._ask("GET", source.path)
            body = self._taken(answer, source.path)
            asked_w = _allowed(body, asked_w)
            etag = answer.headers.get("etag") or body.get("@odata.etag", "")
            headers = {"If-Match": etag} if etag else {}
            answer = await self._ask(
                "PATCH", source.path, _order(source.kind, body, asked_w), headers
            )
            if answer.status == 412 and not last:
                continue  # somebody else changed it meanwhile: look again, once
            self._taken(answer, source.path)
            break
        held = self._taken(await self._ask("GET", source.path), source.path)
        return Cap(
            point=f"{source.name}.limit", limit_w=_limit_of(source.kind, held), asked_w=asked_w
        )

    # --- Resetter

    async def reset(self, system: str, kind: ResetKind) -> None:
        """Order a ComputerSystem's reset; empty: the only one there is.

        Raises:
            SiteError: there is no such system, or the service refused.
        """
        paths = [path async for path, _ in self._members(ROOT + "Systems")]
        named = [p for p in paths if not system or p.rstrip("/").rpartition("/")[2] == system]
        if len(named) != 1:
            known = ", ".join(p.rpartition("/")[2] for p in paths)
            raise SiteError(self._where, got=f"system {system!r}", allowed=f"one of {known}")
        body = self._taken(await self._ask("GET", named[0]), named[0])
        action = body.get("Actions", {}).get("#ComputerSystem.Reset", {})
        target = str(action.get("target", named[0] + "/Actions/ComputerSystem.Reset"))
        allowed = action.get("ResetType@Redfish.AllowableValues", RESETS)
        if kind not in allowed or not LINK_PATH.match(target):
            raise SiteError(self._where + target, got=kind, allowed=f"one of {', '.join(allowed)}")
        self._taken(await self._ask("POST", target, {"ResetType": kind}), target, empty=True)

    # --- the walk

    async def _walk(self) -> None:
        sources: list[_Source] = []
        async for path, chassis in self._members(ROOT + "Chassis"):
            sources += await self._of_chassis(path, chassis)
        async for path, system in self._members(ROOT + "Systems"):
            name = path.rpartition("/")[2]
            if listed := _link(system, "Processors"):
                async for _, processor in self._members(listed):
                    if metrics := _link(processor, "EnvironmentMetrics"):
                        part = f"{name}.{processor.get('Id', 'processor')}"
                        sources.append(_Source("processor", metrics, part))
        self._sources = sources
        self._walked_at_s = time.monotonic()

    async def _of_chassis(self, path: str, chassis: dict[str, Any]) -> list[_Source]:
        name = path.rpartition("/")[2]
        found: list[_Source] = []
        if metrics := _link(chassis, "EnvironmentMetrics"):
            found.append(_Source("chassis", metrics, name))
        if power := _link(chassis, "PowerSubsystem"):
            body = self._taken(await self._ask("GET", power), power)
            if supplies := _link(body, "PowerSupplies"):
                async for at, supply in self._members(supplies):
                    if metrics := _link(supply, "Metrics"):
                        part = f"{name}.psu-{at.rpartition('/')[2]}"
                        found.append(_Source("supply", metrics, part))
        elif power := _link(chassis, "Power"):
            found.append(_Source("power", power, name))
        if thermal := _link(chassis, "ThermalSubsystem"):
            body = self._taken(await self._ask("GET", thermal), thermal)
            if metrics := _link(body, "ThermalMetrics"):
                found.append(_Source("thermal-metrics", metrics, name))
        elif thermal := _link(chassis, "Thermal"):
            found.append(_Source("thermal", thermal, name))
        return found

    async def _members(self, path: str) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Each member's path and content; those that cannot be read are left out."""
        answer = await self._ask("GET", path)
        if answer.status == 404:
            return
        listed = self._taken(answer, path).get("Members", [])
        for member in listed[:MEMBERS_MAX]:
            at = _path_of(member)
            if not at:
                continue
            answer = await self._ask("GET", at)
            if answer.status == 200:
                yield at.rstrip("/"), answer.json(self._where + at)

    # --- requests

    @property
    def _where(self) -> str:
        return f"{self._facility.driver} {self._facility.id} ({self._web.url})"

    async def _ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """As somebody the service knows; a session that has ended is begun anew once."""
        if not self._token and not self._basic and self._facility.user:
            await self._log_in()
        answer = await self._web.ask(method, path, body, self._identity() | (headers or {}))
        if answer.status == 401 and self._token:
            self._token = self._session = ""
            await self._log_in()
            answer = await self._web.ask(method, path, body, self._identity() | (headers or {}))
        return answer

    def _identity(self) -> dict[str, str]:
        if self._token:
            return {"X-Auth-Token": self._token, "OData-Version": "4.0"}
        if self._basic:
            secret = f"{self._facility.user}:{secret_of(self._facility, self._home)}"
            return {"Authorization": "Basic " + b64encode(secret.encode()).decode()}
        return {"OData-Version": "4.0"}

    async def _log_in(self) -> None:
        asked = {
            "UserName": self._facility.user,
            "Password": secret_of(self._facility, self._home),
        }
        answer = await self._web.ask("POST", ROOT + "SessionService/Sessions", asked)
        token = answer.headers.get("x-auth-token", "")
        if answer.status == 201 and token:
            self._token = token
            location = answer.headers.get("location", "")
            self._session = (
                location[location.find("/redfish/") :] if "/redfish/" in location else ""
            )
        elif answer.status in (404, 405, 501):
            self._basic = True
        else:
            self._taken(answer, ROOT + "SessionService/Sessions")
            raise SiteError(self._where, got="a session without a token", allowed="X-Auth-Token")

    def _taken(self, answer: Answer, path: str, *, empty: bool = False) -> dict[str, Any]:
        """The content of a success.

        Raises:
            SiteError: it was none; with what the service says is wrong.
        """
        where = self._where + path
        if 200 <= answer.status < 300:
            return {} if empty or not answer.body else answer.json(where)
        fix = {
            401: "correct user and secret",
            403: "give the account the role Operator (reading) or Administrator (power limits)",
        }.get(answer.status)
        got = f"{answer.status}: {_message(answer)}"
        raise SiteError(where, got=got, allowed="success", fix=fix)


# --- what a resource tells


def _readings(source: _Source, body: dict[str, Any], now_s: float) -> list[Reading]:
    found: list[Reading] = []

    def tell(point: str, quantity: Quantity, value: object, scale: float = 1.0) -> None:
        if isinstance(value, dict):
            value = value.get("Reading")
        if isinstance(value, int | float) and not isinstance(value, bool):
            name = f"{source.name}.{point}"
            found.append(Reading(point=name, quantity=quantity, value=value * scale, at_s=now_s))

    if source.kind in ("chassis", "processor"):
        tell("power", "power_w", body.get("PowerWatts"))
        tell("energy", "energy_wh", body.get("EnergykWh"), 1000.0)
        tell("temp", "temp_c", body.get("TemperatureCelsius"))
        tell("limit", "limit_w", _limit_of(source.kind, body))
    elif source.kind == "supply":
        tell("power", "power_w", body.get("InputPowerWatts"))
        tell("energy", "energy_wh", body.get("EnergykWh"), 1000.0)
        tell("voltage", "voltage_v", body.get("InputVoltage"))
    elif source.kind == "power":
        for index, control in enumerate(body.get("PowerControl", ())):
            part = "" if index == 0 else f"-{index}"
            tell(f"power{part}", "power_w", control.get("PowerConsumedWatts"))
            tell(f"limit{part}", "limit_w", (control.get("PowerLimit") or {}).get("LimitInWatts"))
        for index, supply in enumerate(body.get("PowerSupplies", ())):
            tell(f"psu-{index}.power", "power_w", supply.get("PowerInputWatts"))
            tell(f"psu-{index}.voltage", "voltage_v", supply.get("LineInputVoltage"))
    elif source.kind == "thermal":
        for index, sensor in enumerate(body.get("Temperatures", ())):
            name = _slug(str(sensor.get("Name") or index))
            tell(f"temp-{name}", "temp_c", sensor.get("ReadingCelsius"))
    else:
        for name, sensor in (body.get("TemperatureSummaryCelsius") or {}).items():
            if not name.startswith("@"):
                tell(f"temp-{_slug(name)}", "temp_c", sensor)
        for index, sensor in enumerate(body.get("TemperatureReadingsCelsius", ())):
            name = _slug(str(sensor.get("DeviceName") or index))
            tell(f"temp-{name}", "temp_c", sensor)
    return found


def _holds_limit(kind: str, body: dict[str, Any]) -> bool:
    if kind == "power":
        return any("PowerLimit" in control for control in body.get("PowerControl", ()))
    return isinstance(body.get("PowerLimitWatts"), dict)


def _limit_of(kind: str, body: dict[str, Any]) -> float | None:
    """The limit in force, W; None: none is."""
    if kind == "power":
        controls = body.get("PowerControl") or [{}]
        held = (controls[0].get("PowerLimit") or {}).get("LimitInWatts")
    else:
        limit = body.get("PowerLimitWatts") or {}
        held = None if limit.get("ControlMode") == "Disabled" else limit.get("SetPoint")
    return float(held) if isinstance(held, int | float) and not isinstance(held, bool) else None


def _allowed(body: dict[str, Any], asked_w: float | None) -> float | None:
    """Within what the part bears: less than its least would be refused, and then nothing would be limited."""
    limit = body.get("PowerLimitWatts") or {}
    if asked_w is None:
        return None
    low, high = limit.get("AllowableMin"), limit.get("AllowableMax")
    asked_w = max(asked_w, float(low)) if isinstance(low, int | float) else asked_w
    asked_w = min(asked_w, float(high)) if isinstance(high, int | float) else asked_w
    return float(round(asked_w))


def _order(kind: str, body: dict[str, Any], asked_w: float | None) -> dict[str, Any]:
    whole = None if asked_w is None else int(asked_w)
    if kind == "power":
        return {"PowerControl": [{"PowerLimit": {"LimitInWatts": whole}}]}
    if whole is not None:
        return {"PowerLimitWatts": {"SetPoint": whole, "ControlMode": "Automatic"}}
    if "ControlMode" in (body.get("PowerLimitWatts") or {}):
        return {"PowerLimitWatts": {"ControlMode": "Disabled"}}
    return {
        "PowerLimitWatts": {"SetPoint": (body.get("PowerLimitWatts") or {}).get("AllowableMax")}
    }


def _message(answer: Answer) -> str:
    try:
        error = json.loads(bytes(answer.body))["error"]
        told = [info.get("Message", "") for info in error.get("@Message.ExtendedInfo", ())]
        return "; ".join(text for text in told if text) or str(error.get("message", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        return bytes(answer.body[:120]).decode(errors="replace")


def _link(body: dict[str, Any], name: str) -> str:
    return _path_of(body.get(name))


def _path_of(link: object) -> str:
    path = link.get("@odata.id", "") if isinstance(link, dict) else ""
    return path if isinstance(path, str) and LINK_PATH.match(path) else ""


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "sensor"
