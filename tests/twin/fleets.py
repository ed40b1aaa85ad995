"""Fleets, traces and runs for tests of the twin."""

from __future__ import annotations

import numpy as np

from dispatch.fleets import random_fleet
from hanse.catalogue.electricity import electricity_by_country
from hanse.model.fleet import Fleet
from hanse.signals.traces.trace import REQUEST_DTYPE, Origin, Trace, TraceMeta
from hanse.twin.scenario import NEEDS_FACTOR, NEEDS_OTHER, NEEDS_SITE, Fault, Scenario
from hanse.twin.simulate import Simulation

STRIKING = (
    "site_down",
    "engine_kill",
    "engine_freeze",
    "engine_slow",
    "link_cut",
    "link_cut_one_way",
    "link_slow",
    "hub_loss",
    "telemetry_lost",
    "telemetry_wrong",
    "drain",
    "grid_outage",
    "grid_cap",
    "heat_wave",
)
FACTORS = {
    "engine_slow": 0.2,
    "link_slow": 4.0,
    "telemetry_wrong": 0.0,
    "heat_wave": 15.0,
    "grid_cap": 0.3,
}


def powered_fleet(rng: np.random.Generator) -> Fleet:
    """A random fleet in countries whose electricity has figures: few small ones have none."""
    known = electricity_by_country()
    while True:
        made = random_fleet(rng)
        figures = [known.get(site.country) for site in made.sites]
        if all(f is not None and f.carbon_g_per_kwh is not None for f in figures):
            return made


def random_trace(
    made: Fleet,
    rng: np.random.Generator,
    *,
    count: int = 400,
    rate_rps: float = 8.0,
    texts: int = 0,
) -> Trace:
    """Poisson arrivals from every site's city; services, classes and tenants at random.

    Each request is the beginning of one of `texts` texts, in blocks of 16 tokens; 0: nothing is said of prefixes.
    """
    requests = np.zeros(count, REQUEST_DTYPE)
    requests["at_s"] = np.cumsum(rng.exponential(1.0 / rate_rps, count))
    requests["service"] = rng.integers(0, len(made.services), count)
    requests["cls"] = rng.integers(0, len(made.classes), count)
    requests["origin"] = rng.integers(0, len(made.sites), count)
    requests["tenant"] = rng.integers(-1, len(made.tenants), count)
    requests["tokens_in"] = rng.integers(1, 900, count)
    requests["tokens_out"] = rng.integers(1, 300, count)
    meta = TraceMeta(
        name="random",
        source="a test",
        licence="none",
        services=tuple(s.id for s in made.services),
        classes=tuple(c.id for c in made.classes),
        origins=tuple(
            Origin(id=s.id, lat_deg=s.lat_deg, lon_deg=s.lon_deg, country=s.country)
            for s in made.sites
        ),
        tenants=tuple(t.id for t in made.tenants),
        count=count,
        duration_s=float(requests["at_s"][-1]) + 1.0,
        block_tokens=16 if texts else 0,
    )
    if not texts:
        return Trace.of(meta, requests)
    requests["block_count"] = (requests["tokens_in"] + requests["tokens_out"]) // 16
    requests["block_at"] = np.cumsum(requests["block_count"]) - requests["block_count"]
    begins = rng.integers(0, texts, count) * 4096
    blocks = [
        np.arange(begin, begin + n)
        for begin, n in zip(begins, requests["block_count"].tolist(), strict=True)
    ]
    return Trace.of(meta, requests, np.concatenate(blocks).astype(np.int64))


def random_faults(made: Fleet, rng: np.random.Generator, duration_s: float, count: int) -> Scenario:
    """Faults of every kind at random instants and places."""
    found = []
    sites = [site.id for site in made.sites]
    for _ in range(count):
        kind = str(rng.choice(STRIKING))
        if kind in NEEDS_OTHER and len(sites) < 2:
            continue
        one, *rest = (str(x) for x in rng.permutation(sites))
        found.append(
            Fault(
                kind=kind,  # type: ignore[arg-type]
                at_s=float(rng.uniform(0.0, duration_s)),
                for_s=float(rng.uniform(0.5, duration_s)),
                site=one if kind in NEEDS_SITE else "",
                other=rest[0] if kind in NEEDS_OTHER else "",
                factor=FACTORS[kind] if kind in NEEDS_FACTOR else None,
            )
        )
    return Scenario(faults=tuple(found))


def simulated(made: Fleet, trace: Trace, scenario: Scenario | None = None) -> Simulation:
    """A run to its end."""
    run = Simulation(made, trace, scenario=scenario or Scenario())
    run.run()
    return run
