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

from hanse.errors import ConfigError, all_of
from hanse.model.fleet import Fleet, Value
from hanse.model.problem import Problem
from hanse.model.read import explained, toml_of
from hanse.signals import Feed, Override
from hanse.signals.feed import FACTOR_MAX

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

    @property
    def text(self) -> str:
        """What happens and where, for people."""
        where = " ".join(word for word in (self.kind, self.site, self.other, self.service) if word)
        if self.factor is None:
            return where
        told = {"clouds": f"{self.factor:g} %", "heat_wave": f"{self.factor:+g} K"}
        return f"{where} {told.get(self.kind, f'x {self.factor:g}')}"


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
        raise all_of([explained(error, raw, Scenario, "scenario")], within=str(path)) from None
    wrong = [one for i, fault in enumerate(scenario.faults) for one in problems(fault, i, fleet)]
    if wrong:
        raise all_of([one.error() for one in wrong], within=str(path))
    return scenario


def problems(fault: Fault, at: int, fleet: Fleet) -> list[Problem]:
    """What is wrong with one fault."""
    sites = {site.id: site for site in fleet.sites}

    def wrong(field: str, got: object, allowed: str, fix: str = "") -> Problem:
        where = f"fault[{at}] ({fault.kind}).{field}"
        return Problem(where=where, got=str(got), allowed=allowed, fix=fix)

    found = []
    if fault.kind in NEEDS_SITE and fault.site not in sites:
        found.append(wrong("site", repr(fault.site), f"one of {', '.join(sites)}"))
    elif fault.site and fault.site not in sites:
        found.append(wrong("site", repr(fault.site), f"one of {', '.join(sites)}, or none"))
    if fault.kind in NEEDS_OTHER and (fault.other not in sites or fault.other == fault.site):
        others = ", ".join(site for site in sites if site != fault.site)
        found.append(wrong("other", repr(fault.other), f"another site of the fleet ({others})"))
    if fault.kind == "law" and not fault.policy:
        found.append(wrong("policy", "nothing", "a Cedar file"))
    services = [service.id for service in fleet.services]
    if fault.service and fault.kind != "engine_no_start":
        found.append(wrong("service", repr(fault.service), "none: only engine_no_start has one"))
    elif fault.service and fault.service not in services:
        allowed = f"one of {', '.join(services)}, or none"
        found.append(wrong("service", repr(fault.service), allowed))
    if fault.engine >= 0 and fault.kind == "engine_no_start":
        found.append(wrong("engine", fault.engine, "none", "name a service"))
    elif fault.engine >= 0 and fault.site in sites:
        count = sum(p.replicas for p in fleet.placements if p.site == fault.site)
        if fault.engine >= count:
            found.append(wrong("engine", fault.engine, f"0 to {count - 1}"))
    if wanted := _factor_wanted(fault):
        got = "nothing" if fault.factor is None else f"{fault.factor:g}"
        found.append(wrong("factor", got, *wanted))
    return found


def _factor_wanted(fault: Fault) -> tuple[str, str] | None:
    """What a fault's factor may be and what to do, where it is something else."""
    kind, factor = fault.kind, fault.factor
    if kind not in NEEDS_FACTOR:
        kinds = ", ".join(sorted(NEEDS_FACTOR))
        return None if factor is None else (f"none: only {kinds} have one", "remove it")
    high = 100.0 if kind == "clouds" else FACTOR_MAX
    low = -high if kind == "heat_wave" else 0.0
    if kind in ("engine_slow", "link_slow"):
        if factor is None or not 0.0 < factor <= high:
            instead = "engine_freeze" if kind == "engine_slow" else "link_cut"
            return f"above 0, up to {high:g}", f"use {instead} for 0" if factor == 0.0 else ""
    elif factor is None or not low <= factor <= high:
        return f"{low:g} to {high:g}" + (" (percent)" if kind == "clouds" else ""), ""
    return None


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
