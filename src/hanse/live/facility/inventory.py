"""A fleet as the objects of a DCIM: what NetBox calls sites, power panels and feeds, device types and devices.

Here: `netbox_objects` and `push`. Not here: cables and racks, which a fleet file does not know, and reading anything back: the fleet file is the
truth about a league, NetBox about the building.

Shapes are those of NetBox's REST API 4: a list posted to an endpoint is created whole or not at all, and an object names another by a value that is
unique to it (`{"slug": ...}`). Whatever is made here carries the tag `hanse`. A push makes what is missing and corrects the fields that it made;
it deletes nothing, and what people added to an object stays.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlencode

from hanse.catalogue import accelerator
from hanse.errors import ConfigError, SiteError
from hanse.live.facility.web import Answer, Web
from hanse.model.fleet import Facility, Fleet, Pool, Site, Value

TAG: Final = {"name": "hanse", "slug": "hanse"}
ENDPOINTS: Final = (
    "extras/tags",
    "dcim/sites",
    "dcim/manufacturers",
    "dcim/device-types",
    "dcim/device-roles",
    "dcim/power-panels",
    "dcim/power-feeds",
    "dcim/devices",
)
"""In the order in which one needs another."""
KEYS: Final[dict[str, tuple[str, ...]]] = {
    "dcim/power-panels": ("site", "name"),
    "dcim/power-feeds": ("power_panel", "name"),
    "dcim/devices": ("site", "name"),
}
"""What makes an object one of a kind; elsewhere its slug."""
BULK_MAX: Final = 50
"""Objects in one post: NetBox checks each in the same request."""
VOLTAGE_V: Final = 400
"""Of a three-phase low-voltage feed in most of the world."""
AMPERAGE_MAX: Final = 32_767
"""A small integer in NetBox; a larger connection is written in the site's comments alone."""
NAME_MAX: Final = 64
ROLES: Final = {
    "pool": ("AI engines", "4caf50"),
    "bmc": ("Management controller", "9e9e9e"),
    "ups": ("UPS", "ff9800"),
    "pdu": ("Power distribution", "ff5722"),
    "meter": ("Meter or inverter", "2196f3"),
    "bms": ("Building system", "795548"),
    "grid": ("Grid connection", "607d8b"),
}

Objects = dict[str, list[dict[str, Any]]]
"""Endpoint -> its objects."""


def netbox_objects(fleet: Fleet) -> Objects:
    """All objects of a fleet, by endpoint, in the order in which they can be made."""
    found: Objects = {endpoint: [] for endpoint in ENDPOINTS}
    found["extras/tags"] = [TAG | {"color": "1565c0", "description": "From a Hanse fleet file"}]
    makers: dict[str, str] = {}
    types: dict[str, dict[str, Any]] = {}
    roles: set[str] = set()
    for site in fleet.sites:
        found["dcim/sites"].append(_site(fleet, site))
        found["dcim/power-panels"].append(
            {"site": {"slug": site.id}, "name": f"{site.id} supply", "tags": [TAG]}
        )
        found["dcim/power-feeds"] += _feed(site)
        for pool in site.pools:
            maker, model = _chip(pool)
            _type(makers, types, maker, model)
            roles.add("pool")
            found["dcim/devices"].append(_device_of_pool(fleet, site, pool, maker, model))
    for facility in fleet.facilities:
        role = _role(facility)
        model = f"{ROLES[role][0]} by {facility.driver}"
        _type(makers, types, "Generic", model)
        roles.add(role)
        found["dcim/devices"].append(_device_of_facility(facility, role, model))
    found["dcim/manufacturers"] = [
        {"name": name, "slug": slug, "tags": [TAG]} for slug, name in sorted(makers.items())
    ]
    found["dcim/device-types"] = [types[slug] for slug in sorted(types)]
    found["dcim/device-roles"] = [
        {"name": f"Hanse: {ROLES[r][0]}", "slug": f"hanse-{r}", "color": ROLES[r][1], "tags": [TAG]}
        for r in sorted(roles)
    ]
    return found


def _site(fleet: Fleet, site: Site) -> dict[str, Any]:
    power = site.power
    own = [f"PV {power.pv_kw_peak:g} kW peak"] if power.pv_kw_peak else []
    own += [f"wind {power.wind_kw_rated:g} kW"] if power.wind_kw_rated else []
    own += [f"battery {power.battery_kwh:g} kWh"] if power.battery_kwh else []
    lines = [
        f"A {site.kind} site of the league {fleet.name}, in {site.city}, {site.country}.",
        f"Operator under the law of {site.operator_hq}.",
        f"Connection {power.grid_kw_max:g} kW" + (f"; {', '.join(own)}." if own else "."),
    ]
    return {
        "name": site.id,
        "slug": site.id,
        "status": "active",
        "latitude": round(site.lat_deg, 6),
        "longitude": round(site.lon_deg, 6),
        "physical_address": f"{site.city}, {site.country}",
        "comments": "\n\n".join(lines),
        "tags": [TAG],
    }


def _feed(site: Site) -> list[dict[str, Any]]:
    """The connection as a three-phase feed: I = P / (sqrt(3) U)."""
    amperes = math.ceil(site.power.grid_kw_max * 1e3 / (math.sqrt(3.0) * VOLTAGE_V))
    if not 0 < amperes <= AMPERAGE_MAX:
        return []
    return [
        {
            "power_panel": {"name": f"{site.id} supply", "site": {"slug": site.id}},
            "name": "grid",
            "status": "active",
            "type": "primary",
            "supply": "ac",
            "phase": "three-phase",
            "voltage": VOLTAGE_V,
            "amperage": amperes,
            "max_utilization": 100,
            "tags": [TAG],
        }
    ]


def _chip(pool: Pool) -> tuple[str, str]:
    chip = accelerator(pool.accelerator)
    return chip.vendor, chip.name


def _type(makers: dict[str, str], types: dict[str, dict[str, Any]], maker: str, model: str) -> None:
    makers[_slug(maker)] = maker
    types[_slug(model)] = {
        "manufacturer": {"slug": _slug(maker)},
        "model": model,
        "slug": _slug(model),
        "u_height": 0,
        "tags": [TAG],
    }


def _device_of_pool(fleet: Fleet, site: Site, pool: Pool, maker: str, model: str) -> dict[str, Any]:
    here = [p for p in fleet.placements if (p.site, p.pool) == (site.id, pool.id)]
    served = ", ".join(f"{p.replicas} x {p.service}/{p.variant}" for p in here) or "nothing placed"
    return {
        "name": _name(f"{site.id}/{pool.id}"),
        "site": {"slug": site.id},
        "device_type": {"slug": _slug(model), "manufacturer": {"slug": _slug(maker)}},
        "role": {"slug": "hanse-pool"},
        "status": "active",
        "comments": f"{pool.count} x {model}, driver {pool.driver}: {served}.",
        "tags": [TAG],
    }


def _device_of_facility(facility: Facility, role: str, model: str) -> dict[str, Any]:
    where = facility.url or f"the site's own bus at {facility.listen}"
    return {
        "name": _name(f"{facility.site}/plant/{facility.id}"),
        "site": {"slug": facility.site},
        "device_type": {"slug": _slug(model), "manufacturer": {"slug": "generic"}},
        "role": {"slug": f"hanse-{role}"},
        "status": "active",
        "comments": f"Asked by {facility.driver} at {where}.",
        "tags": [TAG],
    }


def _role(facility: Facility) -> str:
    if facility.driver == "snmp":
        return {"ups-mib": "ups", "apc-pdu": "pdu"}.get(facility.profile, "meter")
    by_driver = {"redfish": "bmc", "modbus": "meter", "nvml": "bmc", "dcgm": "bmc", "mqtt": "bms"}
    return by_driver.get(facility.driver, "grid")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100] or "unknown"


def _name(text: str) -> str:
    """At most as long as NetBox lets a device's name be, and still one of a kind."""
    if len(text) <= NAME_MAX:
        return text
    mark = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{text[: NAME_MAX - 9]}-{mark}"


# --- into a running NetBox


class Pushed(Value, frozen=True, kw_only=True):
    """What a push did, by endpoint."""

    made: dict[str, int]
    corrected: dict[str, int]
    unchanged: dict[str, int]


async def push(objects: Objects, web: Web, token: str, say: Callable[[str], None]) -> Pushed:
    """Make what NetBox lacks, correct what differs.

    Raises:
        ConfigError: NetBox does not know the token, or it may not write.
        SiteError: NetBox does not answer, or refuses an object.
    """
    made, corrected, unchanged = (dict.fromkeys(objects, 0) for _ in range(3))
    there = _Netbox(web, token)
    for endpoint, wanted in objects.items():
        missing: list[dict[str, Any]] = []
        for one in wanted:
            known = await there.find(endpoint, one)
            if known is None:
                missing.append(one)
            elif change := _difference(one, known):
                await there.call("PATCH", f"{endpoint}/{known['id']}/", change)
                corrected[endpoint] += 1
            else:
                unchanged[endpoint] += 1
        for start in range(0, len(missing), BULK_MAX):
            part = missing[start : start + BULK_MAX]
            await there.call("POST", f"{endpoint}/", part)
            made[endpoint] += len(part)
        say(
            f"{endpoint}: {made[endpoint]} made, {corrected[endpoint]} corrected, {unchanged[endpoint]} as they are"
        )
    return Pushed(made=made, corrected=corrected, unchanged=unchanged)


class _Netbox:
    """Calls to its REST API."""

    def __init__(self, web: Web, token: str) -> None:
        self._web, self._token = web, token

    async def find(self, endpoint: str, one: Mapping[str, Any]) -> dict[str, Any] | None:
        """The object of the same key, by NetBox's filters."""
        query = urlencode([*_filters(endpoint, one), ("limit", "10")])
        answer = await self.call("GET", f"{endpoint}/?{query}")
        found: list[dict[str, Any]] = answer.json(self._web.url).get("results", [])
        same = [f for f in found if _is(endpoint, one, f)]
        return same[0] if same else None

    async def call(self, method: str, path: str, body: Any = None) -> Answer:
        """One request; its answer where that is a success.

        Raises:
            ConfigError, SiteError: as `push`.
        """
        target = f"{self._web.base_path}/api/{path}"
        headers = {"Authorization": f"Token {self._token}"}
        answer = await self._web.ask(method, target, body, headers)
        if 200 <= answer.status < 300:
            return answer
        told = bytes(answer.body[:400]).decode(errors="replace")
        if answer.status in (401, 403):
            raise ConfigError(
                "--token-file",
                got=f"{answer.status}: {told}",
                allowed="a token that may read and write dcim and extras",
                fix="make one in NetBox under Admin, API Tokens, with write enabled",
            )
        raise SiteError(self._web.url + target, got=f"{answer.status}: {told}", allowed="success")


def _filters(endpoint: str, one: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in KEYS.get(endpoint, ("slug",)):
        value = one[name]
        if name == "power_panel":
            yield "site", value["site"]["slug"]
        else:
            yield name, value["slug"] if isinstance(value, dict) else value


def _is(endpoint: str, one: Mapping[str, Any], found: Mapping[str, Any]) -> bool:
    return all(not _differs(one[name], found.get(name)) for name in KEYS.get(endpoint, ("slug",)))


def _difference(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that NetBox has otherwise; tags that people added stay."""
    change = {
        name: value
        for name, value in wanted.items()
        if name != "tags" and _differs(value, found.get(name))
    }
    tags = found.get("tags") or []
    if "tags" in wanted and all(tag.get("slug") != TAG["slug"] for tag in tags):
        change["tags"] = [*({"slug": tag["slug"]} for tag in tags), TAG]
    return change


def _differs(value: object, found: object) -> bool:
    """NetBox shows a choice as value and label, and another object with more than was named of it."""
    if isinstance(found, dict) and "value" in found and not isinstance(value, dict):
        found = found["value"]
    if isinstance(value, dict) and isinstance(found, dict):
        # A nested object is shown in brief: what is not shown cannot be compared.
        return any(_differs(v, found[k]) for k, v in value.items() if k in found)
    if isinstance(value, float | int) and isinstance(found, float | int | str):
        try:
            return abs(float(value) - float(found)) > 1e-6
        except ValueError:
            return True
    return value != found


def count(objects: Mapping[str, Sequence[object]]) -> int:
    """How many there are."""
    return sum(len(listed) for listed in objects.values())
