"""What a site's agent shows to Prometheus: power, plant, targets and engines, as text beside the gateway's own metrics.

Here: `plant_text` and its names. Not here: the page itself; the agent writes the text to a file, and the site's gateways add it to their
`/metrics` while it is fresh. Names are documented in `docs/facility.md`, and a test compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from hanse.dispatch.load_targets import FOREVER
from hanse.live.facility.metering import EnergyAccount
from hanse.live.facility.readings import Reading
from hanse.model.fleet import Quantity
from hanse.units import BYTES_PER_GB, JOULES_PER_WH
from hanse.view import SiteStatus

FILE: Final = "agent.prom"
FRESH_S: Final = 15.0
"""The agent writes every two seconds; older is of an agent that is gone, whose figures must not look alive."""

READING_NAMES: Final[dict[Quantity, tuple[str, float]]] = {
    "power_w": ("hanse_facility_power_watts", 1.0),
    "energy_wh": ("hanse_facility_energy_joules", JOULES_PER_WH),
    "temp_c": ("hanse_facility_temperature_celsius", 1.0),
    "voltage_v": ("hanse_facility_voltage_volts", 1.0),
    "current_a": ("hanse_facility_current_amperes", 1.0),
    "frequency_hz": ("hanse_facility_frequency_hertz", 1.0),
    "charge_share": ("hanse_facility_charge_ratio", 1.0),
    "limit_w": ("hanse_facility_power_limit_watts", 1.0),
    "flow_l_per_min": ("hanse_facility_flow_litres_per_minute", 1.0),
    "state": ("hanse_facility_state", 1.0),
}
ENGINE_STATES: Final = ("starting", "up", "dead", "draining", "resting", "failing")

Row = tuple[str, dict[str, str], float]


def plant_text(
    status: SiteStatus,
    readings: Iterable[tuple[str, Reading]],
    accounts: Sequence[EnergyAccount],
    resets: int,
    closed_until_s: float = 0.0,
) -> bytes:
    """Prometheus text (format 0.0.4) of a site.

    Args:
        readings: (facility, reading).
        closed_until_s: Until when its silence is no alarm.
    """
    closed: Row = ("hanse_site_maintenance_until_timestamp_seconds", {}, closed_until_s)
    rows = [closed, *_site(status, resets), *_facilities(status), *_accounts(accounts)]
    for facility, reading in readings:
        name, factor = READING_NAMES[reading.quantity]
        labels = {"facility": facility, "point": reading.point}
        rows.append((name, labels, reading.value * factor))
    lines: list[str] = []
    last = ""
    for name, labels, value in sorted(rows, key=lambda row: row[0]):
        if name != last:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines.append(f"# TYPE {name} {kind}")
            last = name
        inner = ",".join(
            f'{k}="{_escaped(v)}"' for k, v in ({"site": status.site} | labels).items()
        )
        lines.append(f"{name}{{{inner}}} {_number(value)}")
    return ("\n".join(lines) + "\n").encode()


def fresh_text(home: Path, now_s: float) -> bytes:
    """The text that the agent left at a site; empty where it is of an agent that is gone."""
    path = home / FILE
    try:
        return path.read_bytes() if now_s - path.stat().st_mtime <= FRESH_S else b""
    except OSError:
        return b""


def _site(status: SiteStatus, resets: int) -> Iterator[Row]:
    power = status.power
    flows = {
        "it": (power.it_kw, power.it_method),
        "drawn": (power.drawn_kw, power.drawn_method),
        "available": (power.available_kw, "modelled"),
        "pv": (power.pv_kw, "modelled"),
        "wind": (power.wind_kw, "modelled"),
        "import": (power.import_kw, "modelled"),
        "export": (power.export_kw, "modelled"),
    }
    for flow, (kw, _) in flows.items():
        yield "hanse_site_power_watts", {"flow": flow}, kw * 1e3
    for flow, method in (("it", power.it_method), ("drawn", power.drawn_method)):
        yield "hanse_site_power_measured", {"flow": flow}, float(method == "measured")
    for flow, error in (("it", power.it_error_share), ("drawn", power.drawn_error_share)):
        if error is not None:
            yield "hanse_site_power_error_ratio", {"flow": flow}, error
    yield "hanse_site_pue_ratio", {}, power.pue
    yield "hanse_site_hub_connected", {}, float(status.hub_connected)
    yield "hanse_site_shed_level", {}, float(status.shed_level)
    yield "hanse_site_running_requests", {}, status.running
    yield "hanse_site_waiting_requests", {}, status.waiting
    yield "hanse_site_gateway_workers", {}, float(status.gateway_workers)
    yield "hanse_site_node_resets_total", {}, float(resets)
    for state in ENGINE_STATES:
        count = sum(engine.state == state for engine in status.engines)
        yield "hanse_site_engines", {"state": state}, float(count)
    if status.disk is not None:
        levels = ("room", "low", "full")
        yield "hanse_site_disk_free_bytes", {}, status.disk.free_gb * BYTES_PER_GB
        yield "hanse_site_disk_size_bytes", {}, status.disk.size_gb * BYTES_PER_GB
        yield "hanse_site_disk_level", {}, float(levels.index(status.disk.level))
    target = status.load_target
    yield "hanse_site_load_target_active", {}, float(target is not None)
    if target is not None:
        yield "hanse_site_load_target_watts", {}, target.limit_kw * 1e3
        yield "hanse_site_load_target_compliant", {}, float(target.compliant)
        if target.end_at_s != FOREVER:
            yield "hanse_site_load_target_end_timestamp_seconds", {}, target.end_at_s


def _facilities(status: SiteStatus) -> Iterator[Row]:
    for facility in status.facilities:
        labels = {"facility": facility.id, "driver": facility.driver}
        yield "hanse_facility_up", labels, float(facility.state == "up")
        if facility.age_s is not None:
            yield "hanse_facility_reading_age_seconds", labels, facility.age_s
        if facility.cap_w is not None:
            yield "hanse_facility_cap_watts", labels, facility.cap_w


def _accounts(accounts: Sequence[EnergyAccount]) -> Iterator[Row]:
    for account in accounts:
        meter = account.meter
        labels = {"meter": meter.id, "measures": meter.measures}
        joules = JOULES_PER_WH
        yield "hanse_meter_energy_joules_total", labels, account.wh * joules
        yield "hanse_meter_counted_joules_total", labels, account.counted_wh * joules
        yield "hanse_meter_gap_seconds_total", labels, account.gap_s
        yield "hanse_meter_error_ratio", labels, meter.error_share


def _number(value: float) -> str:
    return "+Inf" if value == math.inf else f"{value:.10g}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
