"""What a run is started with: a fleet, a trace that fits it, a scenario, an instant, a way to choose; each from what a person gives.

Here: `read_inputs`; giving a trace the services, classes and origins that it does not say, and saying so. Not here: the run (`runs`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

from msgspec.structs import replace

from hanse.catalogue.cities import cities
from hanse.dispatch.policies import PolicyText
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet
from hanse.serving.measured import MeasuredTable, read_table
from hanse.signals.traces import Chunk, Origin, Trace, TraceMeta, open_trace, shipped_trace
from hanse.signals.traces.trace import INDEX_COLUMNS
from hanse.signals.traces.trace import SHIPPED as SHIPPED_FOLDER
from hanse.signals.traces.transform import FIELDS, assigned, merged, rotated, scaled, thinned
from hanse.twin.central import central_fleet
from hanse.twin.fleet_file import checked_fleet, problems_of, read_policies
from hanse.twin.policies import Policy, resolve
from hanse.twin.scenario import Scenario, read_scenario
from hanse.units import SECONDS_PER_HOUR

SEED: Final = 1358
"""Any constant will do; this is the year the Hanse first called itself by that name."""
SHIPPED_POLICY: Final = "shipped"
CITIES: Final = 20
"""Origins given to a trace without any: most of a country's city dwellers live in its largest few."""
COPIES: Final = (0.63212056, 0.26424112, 0.08030140, 0.01898816, 0.00365985)
"""Probability that a Poisson variate of mean 1 is at least 1, 2, ...: how many copies a bootstrap takes of a conversation."""
COPY_S: Final = 97.0
"""Further copies of a conversation come this much later each: more than a few service times, far less than a day's shape."""


PLACES_HELD: Final = "[slow_loop] places = true: live the controller would place again; here placements hold as in the file"


class Inputs(NamedTuple):
    """Everything that a simulation is made from."""

    fleet: Fleet
    policies: tuple[PolicyText, ...]
    trace: Trace
    scenario: Scenario
    scenario_dir: Path
    start_at_s: float
    policy: str
    seed: int
    scale: float
    notes: tuple[str, ...]
    """What was assumed for the trace."""
    measured: MeasuredTable | None = None
    """Steps that engines take where it has their replica."""


class Central(NamedTuple):
    """The one big site that a fleet names, in place of the fleet."""

    of: Fleet | Path | str


FleetLike = Fleet | Path | str | Central


def read_inputs(
    fleet: FleetLike,
    trace: Trace | Path | str | None = None,
    *,
    scenario: Scenario | Path | str | None = None,
    start: str | datetime | None = None,
    scale: float = 1.0,
    seed: int = SEED,
    policy: str = SHIPPED_POLICY,
    draw: int = 0,
    fit: FleetLike | None = None,
    measured: MeasuredTable | Path | str | None = None,
) -> Inputs:
    """Read and check all of it.

    Args:
        fleet: A fleet, its file, or the one big site that either names.
        trace: A trace, its file, a spec to generate one from (`.toml`), or None: the day that ships with Hanse.
        scenario: Faults, or their file.
        start: ISO 8601; without a zone UTC. None: as the trace says, else the first hour of 2026.
        scale: Demand times this.
        seed: Of everything that is drawn.
        policy: How to choose.
        draw: 0: the trace as it is. n: another draw of it; a generated one with another seed, a recorded one by bootstrap.
        measured: Table of measured steps, or its file (docs/predict.md).
        fit: Fleet whose services, classes and countries a trace gets that names none; None: this one.

    Raises:
        ConfigError: what is wrong with any of it.
    """
    found, folder = _fleet(fleet)
    requests = _trace(trace, seed, draw)
    model = found if fit is None else _fleet(fit)[0]
    foreign = _foreign(requests.meta, model) if trace is None else ()
    requests, notes = fitted(without(requests, foreign), model, seed)
    if foreign:
        notes.insert(
            0,
            "the shipped day was made for the example league; only its times and lengths are used",
        )
    began_at_s = requests.meta.start_at_s
    if start is None and began_at_s % SECONDS_PER_HOUR:
        at = datetime.fromtimestamp(began_at_s, UTC).isoformat(timespec="seconds")
        notes.append(
            f"the trace begins at {at}: weather and prices are those of the full hour before"
        )
    if found.slow_loop.places:
        notes.append(PLACES_HELD)
    if scale != 1.0:
        requests = scaled(requests, scale, seed + draw)
    faults, faults_dir = _scenario(scenario, found)
    texts = read_policies(found, folder)
    return Inputs(
        fleet=found,
        policies=tuple(PolicyText(name=name, text=text) for name, text in texts.items()),
        trace=requests,
        scenario=faults,
        scenario_dir=faults_dir,
        start_at_s=_start(start),
        policy=policy,
        seed=seed,
        scale=scale,
        notes=tuple(notes),
        measured=read_table(Path(measured)) if isinstance(measured, (Path, str)) else measured,
    )


def chosen_policy(name: str) -> Policy:
    """A policy by name, as `Simulation` takes it."""
    return resolve(name)


def fitted(trace: Trace, fleet: Fleet, seed: int) -> tuple[Trace, list[str]]:
    """The trace with a service, class and origin for every request, and what was assumed for that."""
    notes = []
    meta = trace.meta
    services = [s.id for s in fleet.services]
    if not meta.services:
        trace = assigned(trace, "service", services[:1], [1.0], seed)
        notes.append(f"the trace names no service: all requests are for {services[0]}")
    else:
        _check_names(
            "service", meta.services, [*services, *(a for s in fleet.services for a in s.aliases)]
        )
    if not meta.classes:
        able = [c.id for c in fleet.classes if any(c.id in t.classes for t in fleet.tenants)]
        trace = assigned(trace, "cls", able, [1.0] * len(able), seed)
        notes.append(f"the trace names no data class: equal shares of {', '.join(able)}")
    else:
        _check_names("class", meta.classes, [c.id for c in fleet.classes])
    _check_names("tenant", meta.tenants, [t.id for t in fleet.tenants])
    if not meta.origins:
        places, weights, countries = _cities(fleet)
        trace = assigned(trace, "origin", places, weights, seed)
        notes.append(
            f"the trace names no origins: users in the {len(places)} largest cities of {', '.join(countries)} "
            "(countries of the fleet's keys), by population"
        )
    return trace, notes


def without(trace: Trace, columns: Sequence[str]) -> Trace:
    """The trace without what it says in some index columns."""
    if not columns:
        return trace

    def pieces() -> Iterator[Chunk]:
        for requests, blocks in trace.chunks():
            less = requests.copy()
            for column in columns:
                less[column] = -1
            yield Chunk(less, blocks)

    return Trace(replace(trace.meta, **{FIELDS[c]: () for c in columns}), pieces)


def bootstrapped(trace: Trace, seed: int) -> Trace:
    """Another draw of a recorded trace: each conversation 0, 1, 2, ... times, Poisson with mean 1.

    The Poisson bootstrap (Hanley and MacGibbon, Comput. Methods Programs Biomed. 83, 2006) over whole conversations: it keeps the
    day's shape and the expected demand, and varies who comes. It does not vary the days themselves: intervals made from it
    speak of days like this one.
    """
    later_s = min(COPY_S, trace.meta.duration_s / (len(COPIES) + 1))
    # The same seed draws the same number for a conversation: who comes three times also came twice. Copies that would come after
    # the end come at the beginning, so that none is lost.
    copies = [rotated(thinned(trace, share, seed), i * later_s) for i, share in enumerate(COPIES)]
    return merged(copies, name=trace.meta.name)


def _fleet(fleet: FleetLike) -> tuple[Fleet, Path]:
    if isinstance(fleet, Central):
        found, folder = _fleet(fleet.of)
        return central_fleet(found), folder
    if not isinstance(fleet, Fleet):
        return checked_fleet(Path(fleet)), Path(fleet).parent
    problems = problems_of(fleet, Path())
    if problems:
        first = problems[0]
        raise ConfigError(
            f"fleet: {first.where}", got=first.got, allowed=first.allowed, fix=first.fix
        )
    return fleet, Path()


def _trace(trace: Trace | Path | str | None, seed: int, draw: int) -> Trace:
    if trace is None and draw == 0:
        return shipped_trace()
    if trace is None:
        trace = SHIPPED_FOLDER / "league_day.toml"
    if isinstance(trace, Trace):
        return bootstrapped(trace, seed + draw) if draw else trace
    path = Path(trace)
    if path.suffix == ".toml":
        from hanse.signals.traces.generate import generate
        from hanse.signals.traces.spec import read_spec

        return generate(replace(read_spec(path), seed=seed + draw))
    found = open_trace(path)
    return bootstrapped(found, seed + draw) if draw else found


def _scenario(scenario: Scenario | Path | str | None, fleet: Fleet) -> tuple[Scenario, Path]:
    if scenario is None:
        return Scenario(name="none"), Path()
    if isinstance(scenario, Scenario):
        return scenario, Path()
    return read_scenario(Path(scenario), fleet), Path(scenario).parent


def _start(start: str | datetime | None) -> float:
    if start is None:
        return 0.0
    try:
        at = datetime.fromisoformat(start) if isinstance(start, str) else start
    except ValueError:
        allowed = "ISO 8601 such as 2026-07-01T06:00Z"
        raise ConfigError("--start", got=repr(start), allowed=allowed) from None
    at_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if at_s % SECONDS_PER_HOUR or at_s <= 0.0:
        raise ConfigError(
            "--start",
            got=at.isoformat(),
            allowed="a full hour after 1970, UTC",
            fix="round it to the hour",
        )
    return at_s


def _foreign(meta: TraceMeta, fleet: Fleet) -> tuple[str, ...]:
    """Every index column, where the fleet does not know all services, classes, tenants and countries of a trace; else none."""
    keys = [key for tenant in fleet.tenants for key in tenant.keys]
    known = (
        set(meta.services) <= {n for s in fleet.services for n in (s.id, *s.aliases)}
        and set(meta.classes) <= {c.id for c in fleet.classes}
        and set(meta.tenants) <= {t.id for t in fleet.tenants}
        and {o.country for o in meta.origins} <= {c for key in keys for c in key.countries}
    )
    return () if known else INDEX_COLUMNS


def _check_names(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        options = {
            "service": f"--rename {unknown[0]}={known[0]}",
            "class": f"--classes {known[0]}",
            "tenant": f"--tenants {known[0]}",
        }
        raise ConfigError(
            f"trace, {what}",
            got=", ".join(unknown),
            allowed=f"those of the fleet: {', '.join(known)}",
            fix=f"`hanse trace change FILE {options[what]} --out OTHER`, or add the {what} to the fleet",
        )


def _cities(fleet: Fleet) -> tuple[list[Origin], list[float], list[str]]:
    """Where people are who may use the fleet: not where its sites are, which would flatter whoever has many."""
    countries = list(dict.fromkeys(c for t in fleet.tenants for k in t.keys for c in k.countries))
    largest = [c for c in cities() if c.iso2 in countries][:CITIES]
    places = [
        Origin(id=f"{c.name}, {c.iso2}", lat_deg=c.lat, lon_deg=c.lon, country=c.iso2)
        for c in largest
    ]
    return places, [float(c.population) for c in largest], countries
