"""The page: a template of ours filled with tables and charts; everything inline, nothing fetched.

Here: `page`. Not here: tables (`tables`), charts (`charts`, `atlas`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hanse.twin.report.atlas import flow_map
from hanse.twin.report.charts import heat_strip, over_time, quantile_curves, stacked_bars
from hanse.twin.report.tables import percent, sheets
from hanse.twin.result import Result, SiteResult
from hanse.units import hours_from_s, wh_from_kwh
from hanse.web.figures import count, number, scale_for

HERE: Final = Path(__file__).parent
CELLS_MAX: Final = 168
"""Columns of the strip of carbon-free hours: a week, then days or more are put together."""
LINES_MAX: Final = 8
BARS_MAX: Final = 24
"""Of more sites a chart shows the busiest; the tables have all."""


def page(result: Result) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made = sheets(result)
    return environment.get_template("report.html").render(
        result=result,
        sheets={sheet.key: sheet for sheet in made},
        charts={key: Markup(svg) for key, svg in _charts(result).items()},  # noqa: S704 - every text in them is escaped
        headline=_headline(result),
        hours=f"{hours_from_s(result.run.duration_s):,.1f}",
    )


def _headline(result: Result) -> list[tuple[str, str, str]]:
    """(name, figure, what stands against it): no merit without its price."""
    one, fleet = result.group("all"), result.fleet
    refused = sum(one.refused.values())
    return [
        ("answered", percent(one.served / one.requests if one.requests else None), f"{count(refused)} refused, {count(sum(one.failed.values()) + one.broken)} failed"),
        ("within SLO", percent(one.goodput_share), f"{number(one.goodput_per_s)} a second"),
        ("TTFT p95", f"{number(one.ttft_ms.p95)} ms", f"engines busy {percent(fleet.busy_share)}"),
        ("idle capacity", percent(fleet.idle_share), f"pooling loss {percent(result.pooling.loss_share)}"),
        ("energy an answer", _scaled(fleet.wh_per_answer, "Wh"), f"idle and overhead included; PUE {number(fleet.pue)} at {percent(fleet.it_load_share)} load"),
        ("carbon an answer", _scaled(fleet.g_per_answer, "gCO2e"), f"location-based; {percent(fleet.carbon_free_share)} of the sites' energy carbon-free"),
        ("cost of 1,000 answers", f"{number(None if fleet.usd_per_answer is None else 1000 * fleet.usd_per_answer)} USD", "energy and egress; no hardware"),
        ("executed unlawfully", count(result.residency.unlawful + result.residency.unlawful_recount), f"{len(result.residency.barred)} ways closed by law"),
    ]  # fmt: skip


def _charts(result: Result) -> dict[str, str]:
    course, fleet = result.course, result.fleet
    by_work = sorted(result.sites, key=lambda s: -s.served)
    drawn = [s.id for s in result.sites if s in by_work[:LINES_MAX]]
    sites = [s for s in result.sites if s in by_work[:BARS_MAX]]
    faults = result.happened
    stages = ("prefill", "decode", "jobs", "idle", "cooling", "UPS", "other")
    energy = {
        s.id: (
            s.energy.prefill_kwh,
            s.energy.decode_kwh,
            s.energy.deferrable_kwh,
            s.energy.idle_kwh,
            s.energy.cooling_kwh,
            s.energy.ups_kwh,
            s.energy.other_kwh,
        )
        for s in sites
    }
    use = {
        (s.id if s is not fleet else "all sites"): (s.busy_share, 1.0 - s.busy_share)
        for s in (*sites, fleet)
        if s.busy_share is not None
    }
    return {
        "latency": quantile_curves(
            {NAMES[d.what]: (d.share, d.ms) for d in result.distributions}, "ms"
        ),
        "demand": over_time(
            {"arrived": course.arrived_per_s, "not answered": course.unanswered_per_s},
            course.step_s,
            "requests/s",
            faults,
        ),
        "ttft": over_time({"TTFT p95": course.ttft_ms_p95}, course.step_s, "ms, TTFT p95", faults),
        "load": over_time(
            {name: course.slots_used[name] for name in drawn}, course.step_s, "slots in use", faults
        ),
        "use": stacked_bars(
            use,
            ("busy", "idle capacity"),
            percent,
            {name: f"{percent(busy)} busy" for name, (busy, _) in use.items()},
        ),
        "energy": stacked_bars(energy, stages, _energy),
        "hours": _hours(result, sites),
        "map": flow_map(result.flows),
    }


def _hours(result: Result, sites: Sequence[SiteResult]) -> str:
    length = len(result.fleet.carbon_free_hourly)
    together = next(n for n in (1, 6, 24, 168, 730, 8760) if length / n <= CELLS_MAX)
    rows = {}
    for site in (*sites, result.fleet):
        name = "all sites" if site is result.fleet else site.id
        rows[name] = [
            _mean(site.carbon_free_hourly[i : i + together]) for i in range(0, length, together)
        ]
    first = datetime.fromisoformat(result.run.start_at).hour
    return heat_strip(rows, first, together)


def _mean(values: Any) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def _energy(kwh: float) -> str:
    return _scaled(wh_from_kwh(kwh), "Wh")


def _scaled(value: float | None, quantity: str) -> str:
    scale = scale_for([value], quantity)
    return f"{scale.show(value)} {scale.unit}"


NAMES: Final = {"ttft_ms": "TTFT", "tpot_ms": "TPOT", "e2e_ms": "E2E"}
