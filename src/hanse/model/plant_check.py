"""Wrong meanings of a fleet's plant: `[[facility]]` and `[[meter]]`.

Here: `plant_problems`. Not here: ranges of numbers (`check`), whether a device answers (`live.facility`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hanse.model.fleet import Facility, FacilityDriver, Fleet, PlantMeter
from hanse.model.problem import Problem, unknown

SCHEMES: Final[dict[FacilityDriver, tuple[str, ...]]] = {
    "redfish": ("https", "http"),
    "snmp": ("snmp",),
    "modbus": ("modbus",),
    "nvml": (),
    "dcgm": ("http", "https"),
    "mqtt": ("mqtt", "mqtts"),
    "dsx-flex": ("mqtt", "mqtts"),
    "openadr": ("https", "http"),
}
OWN_BUS: Final = ("mqtt", "dsx-flex")
"""Drivers that without a `url` use the listener of the site's own bus."""
PROFILES: Final[dict[str, tuple[str, ...]]] = {
    "snmp": ("", "ups-mib", "apc-pdu"),
    "modbus": ("", "sunspec"),
}
ALONE: Final[dict[str, tuple[str, ...]]] = {
    "registers": ("modbus",),
    "oids": ("snmp",),
    "signers": ("dsx-flex",),
    "signing_key_file": ("dsx-flex",),
    "program": ("openadr",),
    "caps_power": ("redfish", "nvml"),
    "resets": ("redfish",),
    "fingerprint_sha256": ("redfish", "dcgm", "openadr"),
}
"""Fields that only these drivers read."""
_FINGERPRINT = re.compile(r"^[0-9a-f]{64}$")
_OID = re.compile(r"^1(\.\d+){3,127}$")
_TAG = re.compile(r"^[A-Za-z0-9_.-]{1,64}$")


def plant_problems(fleet: Fleet) -> Iterator[Problem]:
    """Every one, in file order."""
    sites = {site.id: {pool.id for pool in site.pools} for site in fleet.sites}
    for noun, ids in (
        ("facility", [f.id for f in fleet.facilities]),
        ("meter", [m.id for m in fleet.meters]),
    ):
        yield from _doubled(noun, ids)
    for index, facility in enumerate(fleet.facilities):
        where = f"facility[{index}]"
        if facility.site not in sites:
            yield unknown(f"{where}.site", facility.site, sites, "site")
        yield from _address(where, facility)
        yield from _fields(where, facility)
        yield from _points(where, facility)
        for r, pool in enumerate(facility.resets):
            if facility.site in sites and pool not in sites[facility.site]:
                known = sites[facility.site]
                yield unknown(f"{where}.resets[{r}]", pool, known, "pool of the site")
    yield from _flex_alone(fleet)
    yield from _listeners(fleet)
    for index, meter in enumerate(fleet.meters):
        yield from _meter(f"meter[{index}]", meter, fleet, sites)


def _doubled(noun: str, ids: list[str]) -> Iterator[Problem]:
    for index, id in enumerate(ids):
        if id in ids[:index]:
            yield Problem(
                where=f"{noun}[{index}].id",
                got=f"{id!r}, which {noun}[{ids.index(id)}] has",
                allowed="an id of its own",
                fix="rename one of the two",
            )


def _address(where: str, facility: Facility) -> Iterator[Problem]:
    schemes = SCHEMES[facility.driver]
    scheme, mark, rest = facility.url.partition("://")
    if not schemes:
        if facility.url:
            yield Problem(where=f"{where}.url", got=repr(facility.url), allowed="none with nvml")
        return
    if not facility.url:
        if facility.driver not in OWN_BUS:
            yield Problem(where=f"{where}.url", got="none", allowed=f"{schemes[0]}://HOST[:PORT]")
        return
    host = rest.split("/")[0].rpartition("@")[2]
    if not mark or scheme not in schemes or not host:
        allowed = " or ".join(f"{known}://HOST[:PORT]" for known in schemes)
        yield Problem(where=f"{where}.url", got=repr(facility.url), allowed=allowed)
    elif "@" in rest.split("/")[0]:
        yield Problem(
            where=f"{where}.url",
            got="a user in the address",  # perhaps with a password: never shown
            allowed="the address alone",
            fix="write user, and secret_file or secret_env",
        )


def _fields(where: str, facility: Facility) -> Iterator[Problem]:
    driver = facility.driver
    for field, drivers in ALONE.items():
        if getattr(facility, field) and driver not in drivers:
            allowed = f"it only with driver {' or '.join(repr(d) for d in drivers)}"
            yield Problem(where=f"{where}.{field}", got=f"a value with {driver!r}", allowed=allowed)
    profiles = PROFILES.get(driver, ("",))
    if facility.profile not in profiles:
        allowed = ", ".join(repr(p) for p in profiles if p) or f"none with driver {driver!r}"
        yield Problem(where=f"{where}.profile", got=repr(facility.profile), allowed=allowed)
    if facility.secret_env and facility.secret_file:
        yield Problem(where=where, got="secret_env and secret_file", allowed="one of them")
    if facility.ca_file and facility.fingerprint_sha256:
        yield Problem(where=where, got="ca_file and fingerprint_sha256", allowed="one of them")
    fingerprint = facility.fingerprint_sha256
    if fingerprint and not _FINGERPRINT.match(fingerprint):
        yield Problem(
            where=f"{where}.fingerprint_sha256",
            got=repr(fingerprint),
            allowed="64 lower-case hexadecimal digits",
            fix="openssl x509 -in CERT -outform der | sha256sum",
        )
    if driver == "snmp" and facility.version == "3" and not facility.user:
        yield Problem(where=f"{where}.user", got="none", allowed="the user of SNMP v3")
    for field in ("identifier", "feed"):
        text = getattr(facility, field)
        if text and not _TAG.match(text):
            allowed = "1 to 64 of letters, digits, _ . -"
            yield Problem(where=f"{where}.{field}", got=repr(text), allowed=allowed)
    if driver == "dsx-flex" and not facility.signers:
        yield Problem(
            where=f"{where}.signer",
            got="none",
            allowed="at least one [[facility.signer]]: a load target that nobody signed binds nobody",
        )


def _points(where: str, facility: Facility) -> Iterator[Problem]:
    if facility.driver == "modbus" and not facility.profile and not facility.registers:
        yield Problem(
            where=f"{where}.register",
            got="none",
            allowed="at least one [[facility.register]], or profile = 'sunspec'",
        )
    if facility.driver == "snmp" and not facility.profile and not facility.oids:
        yield Problem(
            where=f"{where}.oid",
            got="none",
            allowed="at least one [[facility.oid]], or a profile",
        )
    for name, points in (
        ("register", [r.point for r in facility.registers]),
        ("oid", [o.point for o in facility.oids]),
    ):
        for p, point in enumerate(points):
            if point in points[:p]:
                at = f"{where}.{name}[{p}].point"
                yield Problem(where=at, got=f"{point!r} again", allowed="each once")
    for o, oid in enumerate(facility.oids):
        if not _OID.match(oid.oid):
            yield Problem(
                where=f"{where}.oid[{o}].oid",
                got=repr(oid.oid),
                allowed="an object's numbers, such as 1.3.6.1.2.1.33.1.4.4.1.4.1",
            )


def _flex_alone(fleet: Fleet) -> Iterator[Problem]:
    """A site answers for its load once: two flex agents would contradict one another."""
    first: dict[str, int] = {}
    for index, facility in enumerate(fleet.facilities):
        if facility.driver != "dsx-flex":
            continue
        if facility.site in first:
            yield Problem(
                where=f"facility[{index}].driver",
                got=f"a second dsx-flex at {facility.site!r}",
                allowed=f"one a site; facility[{first[facility.site]}] is",
            )
        first.setdefault(facility.site, index)


def _listeners(fleet: Fleet) -> Iterator[Problem]:
    """A site's bus listens at one address, and lets in whom it knows."""
    first: dict[str, str] = {}
    for index, facility in enumerate(fleet.facilities):
        if facility.url or facility.driver not in OWN_BUS:
            continue
        where = f"facility[{index}]"
        if not (facility.user and (facility.secret_file or facility.secret_env)):
            yield Problem(
                where=f"{where}.user",
                got="nobody" if not facility.user else "no secret",
                allowed="the name of who publishes at the site's own bus, with its secret",
                fix="write user and secret_file, or the url of another broker",
            )
        host, _, port = facility.listen.rpartition(":")
        if not host or not port.isdigit() or not 0 < int(port) < 65_536:
            allowed = "HOST:PORT, with a port that publishers can know"
            yield Problem(where=f"{where}.listen", got=repr(facility.listen), allowed=allowed)
        known = first.setdefault(facility.site, facility.listen)
        if known != facility.listen:
            yield Problem(
                where=f"{where}.listen",
                got=repr(facility.listen),
                allowed=f"{known!r}, where the bus of {facility.site!r} listens already",
            )


def _meter(
    where: str, meter: PlantMeter, fleet: Fleet, sites: dict[str, set[str]]
) -> Iterator[Problem]:
    if meter.site not in sites:
        yield unknown(f"{where}.site", meter.site, sites, "site")
        return
    there = {f.id: f for f in fleet.facilities if f.site == meter.site}
    device = there.get(meter.facility)
    if device is None:
        yield unknown(f"{where}.facility", meter.facility, there, "facility of the site")
    elif device.driver in ("dsx-flex", "openadr"):
        yield Problem(
            where=f"{where}.facility",
            got=f"{meter.facility!r}, a {device.driver}",
            allowed="a device that measures",
        )
    if meter.pool is not None and meter.measures != "it":
        yield Problem(
            where=f"{where}.pool", got=repr(meter.pool), allowed="none unless measures = 'it'"
        )
    elif meter.pool is not None and meter.pool not in sites[meter.site]:
        yield unknown(f"{where}.pool", meter.pool, sites[meter.site], "pool of the site")
    if meter.measures == "it" and meter.pool is None:
        others = [
            m.id for m in fleet.meters if m.site == meter.site and m.measures == "it" and m.pool
        ]
        if others:
            yield Problem(
                where=f"{where}.pool",
                got="none, beside meters of single pools",
                allowed="a pool for each IT meter of the site, or for none",
                fix=f"name the pool, as {others[0]!r} does",
            )
