"""What a result rests on: engines' predictions with their expected error, where carbon, price and weather come from, constants.

Here: `assumptions_of`. Not here: any of those figures themselves.
"""

from __future__ import annotations

from hanse.catalogue import accelerator, ai_model
from hanse.dispatch.belief import all_engines
from hanse.serving import coefficients
from hanse.serving.measured import MeasuredTable
from hanse.signals import SourceNote
from hanse.twin.loop import FRAME_EVERY_S
from hanse.twin.power import STEP_S
from hanse.twin.result import Assumption
from hanse.twin.simulate import HUB_DELAY_S, Simulation
from hanse.twin.strikes import SILENCE_S
from hanse.twin.world import USER_ACCESS_MS


def assumptions_of(simulation: Simulation) -> tuple[Assumption, ...]:
    """Engines, signals, the trace, constants of the twin."""
    return (*_engines(simulation), *_signals(simulation), *_trace(simulation), *CONSTANTS)


def _engines(simulation: Simulation) -> list[Assumption]:
    fleet = simulation.fleet
    hardware = {(s.id, p.id): p.accelerator for s in fleet.sites for p in s.pools}
    kinds: dict[tuple[str, str, str, int, int], list[str]] = {}
    for spec in all_engines(fleet, fleet.placements):
        chip = hardware[spec.site, spec.pool]
        kind = (spec.model, spec.precision, chip, spec.chips, spec.slots)
        sites = kinds.setdefault(kind, [])
        if spec.site not in sites:
            sites.append(spec.site)
    return [_engine(kind, sites, simulation.measured) for kind, sites in kinds.items()]


def _engine(
    kind: tuple[str, str, str, int, int], sites: list[str], measured: MeasuredTable | None
) -> Assumption:
    model, precision, chip, chips, slots = kind
    points = None
    if measured is not None:
        points = measured.replica(ai_model(model), precision, accelerator(chip), chips)
    if points is not None:
        return Assumption(
            about=", ".join(sites),
            quantity=f"time of {model} {precision} on {chips} x {chip}, {slots} slots",
            method=f"measured: {len(points.points)} steps of the table {points.table}, met in the geometric mean; "
            f"{'power measured' if any(p.power_w for p in points.points) else 'power as predicted'}",
            error="",
            source=f"--measured {points.table}",
        )
    found = coefficients(ai_model(model), precision, accelerator(chip), count=chips, slots=slots)
    return Assumption(
        about=", ".join(sites),
        quantity=f"time and energy of {model} {precision} on {chips} x {chip}, {slots} slots",
        method=found.method,
        error=(
            f"TTFT {found.ttft_error:.0%}, TPOT {found.tpot_error:.0%}, energy {found.energy_error:.0%}"
            " (median of measured cases)"
        ),
        source="hanse.serving; docs/sources.md",
    )


def _signals(simulation: Simulation) -> list[Assumption]:
    """One line for all sites that a figure comes from the same place for."""
    where: dict[tuple[str, str, str], list[str]] = {}
    for site, notes in zip(simulation.fleet.sites, simulation.power.notes, strict=False):
        for note in notes:
            where.setdefault(_key(note), []).append(
                f"{site.id} ({note.zone})" if note.zone else site.id
            )
    return [
        Assumption(
            about=", ".join(sites), quantity=quantity, method=method, error="", source=source
        )
        for (quantity, method, source), sites in sorted(where.items(), key=lambda item: item[0][0])
    ]


def _key(note: SourceNote) -> tuple[str, str, str]:
    year = f" of {note.recorded_year}" if note.recorded_year else ""
    text = f"{note.method}{year}" + (f"; {note.note}" if note.note else "")
    licence = f" ({note.licence})" if note.licence not in ("", "-") else ""
    return QUANTITIES.get(note.quantity, note.quantity), text, note.source + licence


QUANTITIES = {
    "price_usd_per_kwh": "price of a kWh",
    "carbon_g_per_kwh": "average carbon of the grid",
    "marginal_g_per_kwh": "marginal carbon of the grid",
    "residual_g_per_kwh": "residual mix (market-based carbon)",
    "carbon_free_share": "carbon-free share of the grid",
    "contract_kw": "contracted generation",
}
"""As people call them."""


def _trace(simulation: Simulation) -> list[Assumption]:
    meta = simulation.trace.meta
    return [
        Assumption(
            about="requests",
            quantity=f"trace {meta.name}",
            method=meta.note or "as recorded",
            error="",
            source=f"{meta.source} ({meta.licence})",
        )
    ]


CONSTANTS = (
    Assumption(
        about="users",
        quantity="round trip to a gateway",
        method=f"light in fibre over 1.3 times the great circle, and {USER_ACCESS_MS:g} ms of last mile",
        error="a floor: real paths take up to twice as long",
        source="hanse.catalogue.cities",
    ),
    Assumption(
        about="gateways",
        quantity="what they know of each other",
        method=f"frames every {FRAME_EVERY_S:g} s, half a round trip old; silence noticed after {SILENCE_S:g} s; "
        f"tables {HUB_DELAY_S:g} s after they are published",
        error="",
        source="as the live gateway; ARCHITECTURE.md",
    ),
    Assumption(
        about="sites",
        quantity="power",
        method=f"balance every {STEP_S:g} s: cooling, UPS, own generation, battery, grid",
        error="docs/energy.md",
        source="hanse.energy",
    ),
)
