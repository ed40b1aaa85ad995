"""What goes wrong, and when: a scenario file.

Here: `Fault`, `Scenario`, reading and checking them. Not here: what a fault does (`faults`, `keeper`, `simulate`).

    [[fault]]
    kind = "link_cut"
    site = "tallinn"
    other = "frankfurt"
    at_s = 3600
    for_s = 600
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from hanse.errors import ConfigError
from hanse.model.fleet import Fleet, Value
from hanse.model.read import toml_of
from hanse.signals import Feed, Override

FaultKind = Literal[
    "site_down",
    "engine_kill",
    "engine_freeze",
    "engine_slow",
    "engine_no_start",
    "link_cut",
    "link_cut_one_way",
    "link_slow",
    "hub_loss",
    "grid_outage",
    "grid_cap",
    "telemetry_lost",
    "telemetry_wrong",
    "heat_wave",
    "clouds",
    "carbon",
    "price",
    "law",
    "drain",
]
NEEDS_SITE: Final = frozenset(FaultKind.__args__) - {"hub_loss", "law", "carbon", "price"}  # type: ignore[attr-defined]
NEEDS_OTHER: Final = frozenset(("link_cut", "link_cut_one_way", "link_slow"))
NEEDS_FACTOR: Final = frozenset(
    (
        "engine_slow",
        "link_slow",
        "telemetry_wrong",
        "heat_wave",
        "clouds",
        "carbon",
        "price",
        "grid_cap",
    )
)


class Fault(Value, frozen=True, kw_only=True):
    """One thing that happens to the world."""

    kind: FaultKind
    at_s: Annotated[float, Meta(ge=0)]
    """After the start of the run."""
    for_s: Annotated[float, Meta(gt=0)] = float("inf")
    """Until it is over; infinite: to the end."""
    site: str = ""
    """Where; `carbon` and `price` without a site hold everywhere."""
    other: str = ""
    """Of a link: the other end (one way: from `site` to `other`)."""
    engine: int = -1
    """Number of the engine at the site, in the order of placements; -1: all of them (a rack)."""
    service: str = ""
    """`engine_no_start`: of which service; empty: of all."""
    factor: float | None = None
    """`engine_slow`: of the speed. `link_slow`: of the round-trip time. `telemetry_wrong`: of the told load. `heat_wave`: degrees
    added. `clouds`: cover in percent. `carbon`, `price`: of the grid's figure. `grid_cap`: of the connection."""
    policy: str = ""
    """`law`: a Cedar file, relative to the scenario, whose rules hold from then on."""


class Scenario(Value, frozen=True, kw_only=True, rename={"faults": "fault"}):
    """All of them."""

    name: str = "scenario"
    faults: tuple[Fault, ...] = ()


def read_scenario(path: Path, fleet: Fleet) -> Scenario:
    """Read a scenario file and check it against the fleet; all that is wrong is said at once.

    Raises:
        ConfigError: it does not parse, or names what the fleet does not have.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), got=str(error), allowed="a TOML file") from None
    raw = toml_of(content, source=str(path))
    try:
        scenario = msgspec.convert(raw, Scenario)
    except msgspec.ValidationError as error:
        raise ConfigError(
            str(path), got=str(error), allowed="[[fault]] entries as in docs/twin.md"
        ) from None
    wrong = [text for i, fault in enumerate(scenario.faults) for text in problems(fault, i, fleet)]
    if wrong:
        raise ConfigError(str(path), got="; ".join(wrong), allowed="see docs/twin.md, Faults")
    return scenario


def problems(fault: Fault, at: int, fleet: Fleet) -> list[str]:
    """What is wrong with one fault."""
    sites = {site.id: site for site in fleet.sites}
    where = f"fault[{at}] {fault.kind}"
    found = []
    if fault.kind in NEEDS_SITE and fault.site not in sites:
        found.append(f"{where}.site: got {fault.site!r}, need one of {', '.join(sites)}")
    elif fault.site and fault.site not in sites:
        found.append(f"{where}.site: got {fault.site!r}, need one of {', '.join(sites)} or none")
    if fault.kind in NEEDS_OTHER and (fault.other not in sites or fault.other == fault.site):
        found.append(f"{where}.other: got {fault.other!r}, need another site of the fleet")
    if fault.kind in NEEDS_FACTOR and fault.factor is None:
        found.append(f"{where}.factor: missing")
    if fault.factor is not None and fault.kind != "heat_wave" and fault.factor < 0.0:
        found.append(f"{where}.factor: got {fault.factor}, need 0 or more")
    if fault.kind in ("engine_slow", "link_slow") and fault.factor == 0.0:
        found.append(f"{where}.factor: got 0, need more; use engine_freeze or link_cut")
    if fault.kind == "law" and not fault.policy:
        found.append(f"{where}.policy: missing, need a Cedar file")
    services = [service.id for service in fleet.services]
    if fault.service and fault.kind != "engine_no_start":
        found.append(f"{where}.service: got {fault.service!r}, only engine_no_start has one")
    elif fault.service and fault.service not in services:
        found.append(
            f"{where}.service: got {fault.service!r}, need one of {', '.join(services)} or none"
        )
    if fault.engine >= 0 and fault.kind == "engine_no_start":
        found.append(f"{where}.engine: got {fault.engine}, need none; name a service")
    elif fault.engine >= 0 and fault.site in sites:
        count = sum(p.replicas for p in fleet.placements if p.site == fault.site)
        if fault.engine >= count:
            found.append(f"{where}.engine: got {fault.engine}, need 0 to {count - 1}")
    return found


def with_overrides(feed: Feed, scenario: Scenario, start_s: float) -> Feed:
    """A feed in which a scenario's clouds, carbon and prices hold, from a run's start on."""
    kinds = {"clouds": "cloud_pct", "carbon": "carbon_factor", "price": "price_factor"}
    for fault in scenario.faults:
        if fault.kind in kinds:
            assert fault.factor is not None
            feed = feed.with_override(
                Override(
                    kind=kinds[fault.kind],  # type: ignore[arg-type]
                    place=fault.site or "*",
                    value=fault.factor,
                    from_s=start_s + fault.at_s,
                    until_s=start_s + fault.at_s + fault.for_s,
                    reason=scenario.name,
                )
            )
    return feed
