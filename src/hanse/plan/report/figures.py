"""Figures of a planning report: a drawing, the table that it was drawn from, and where its figures are explained.

Here: `figures`. A figure's CSV is its table, and it is drawn from that table, so the two cannot differ. Not here: drawing (`charts`), the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from hanse.plan.answer import Answer, DesignAnswer, Range, SiteAnswer, unlike
from hanse.plan.report.break_even import break_even
from hanse.plan.report.charts import lines, ranges, site_map, tornado
from hanse.plan.report.figure import DESIGN, Figure
from hanse.plan.report.table import Cell, Column, Table, large
from hanse.plan.report.verdict import names_of
from hanse.twin.report.atlas import frame_of
from hanse.twin.report.charts import heat_strip, quantile_curves, stacked_bars
from hanse.twin.report.tables import percent
from hanse.web.figures import power

ROWS_MAX: Final = 12
"""Sites of a design whose hours are drawn, the largest; the CSV has all."""


def figures(answer: Answer, tables: dict[str, Table]) -> dict[str, Figure]:
    """All figures by key."""
    made = [
        _cost(answer), _map(answer), _stack(tables["cost-stack"]), _latency(answer), _carbon(answer), _hours(answer),
        _gone(answer), _building(tables["building"]), _wins(answer), _tornado(answer), break_even(answer),
    ]  # fmt: skip
    return {figure.key: figure for figure in made}


def _columns(*heads: tuple[str, str]) -> tuple[Column, ...]:
    return tuple(Column(key=key, head=key, unit=unit) for key, unit in heads)


def _cost(answer: Answer) -> Figure:
    names = names_of(answer)
    table = Table(
        key="cost",
        title="Cost over all draws",
        columns=(DESIGN, *_columns(("usd_per_mtoken_p5", "USD"), ("usd_per_mtoken_p50", "USD"), ("usd_per_mtoken_p95", "USD"))),
        rows=tuple((names[d.id], *_three(d.usd_per_mtoken)) for d in answer.designs),
    )  # fmt: skip
    drawn = {str(name): _range(row) for name, *row in table.rows}
    return Figure(
        table=table,
        panels=_panel(ranges(drawn, "USD/Mtoken")),
        caption="USD per million tokens delivered within the SLO: dot p50, bar p5 to p95",
        methods=("usd",),
        empty="no design delivers anything",
    )


def _three(r: Range | None) -> tuple[Cell, Cell, Cell]:
    return (None, None, None) if r is None else (r.p5, r.p50, r.p95)


def _range(row: Sequence[Cell]) -> Range:
    p5, p50, p95 = (v if isinstance(v, float) else math.nan for v in row)
    return Range(p5=p5, p50=p50, p95=p95)


def _carbon(answer: Answer) -> Figure:
    names = names_of(answer)
    methods: tuple[tuple[str, Callable[[DesignAnswer], Range | None]], ...] = (
        ("location", lambda d: d.location_g_per_mtoken),
        ("market", lambda d: d.market_g_per_mtoken),
        ("marginal", lambda d: d.marginal_g_per_mtoken),
        ("embodied", lambda d: d.embodied_g_per_mtoken),
    )
    rows = [(names[d.id], m, *_three(get(d))) for m, get in methods for d in answer.designs]
    table = Table(
        key="carbon",
        title="Carbon by method",
        columns=(DESIGN, Column(key="method", head="method", kind="text"),
                 *_columns(("g_per_mtoken_p5", "gCO2e"), ("g_per_mtoken_p50", "gCO2e"), ("g_per_mtoken_p95", "gCO2e"))),
        rows=tuple(rows),
    )  # fmt: skip
    panels = []
    for method, _ in methods:
        drawn = {str(row[0]): _range(row[2:]) for row in table.rows if row[1] == method}
        svg = ranges(drawn, "gCO2e/Mtoken")
        panels.append((method if svg else f"{method}: nobody publishes it for these grids", svg))
    return Figure(
        table=table,
        panels=tuple(panels),
        caption="gCO2e per million tokens by method, each with its own scale: dot p50, bar p5 to p95. Three methods are three questions about the "
        "same energy: never add them; embodied carbon stands beside each",
        methods=("location", "market", "marginal", "embodied"),
        empty="no design delivers anything",
    )


def _map(answer: Answer) -> Figure:
    names = names_of(answer)
    heads = (("lat_deg", "°"), ("lon_deg", "°"), ("it_kw_last_year", "kW"))
    texts = (
        Column(key=k, head=k, kind="text") for k in ("site", "city", "country", "size", "kind")
    )
    rows = [
        (names[d.id], s.id, s.city, s.country, s.size, s.kind, s.lat_deg, s.lon_deg, s.it_kw[-1] if s.it_kw else None)
        for d in answer.designs
        for s in d.sites
    ]  # fmt: skip
    table = Table(key="map", title="Where the sites stand", columns=(DESIGN, *texts, *_columns(*heads)), rows=tuple(rows))  # fmt: skip
    sites = [s for d in answer.designs for s in d.sites]
    panels = []
    if sites:
        frame = frame_of([(s.lon_deg, s.lat_deg) for s in sites])
        most_kw = max((s.it_kw[-1] for s in sites if s.it_kw), default=0.0)
        for i, d in enumerate(answer.designs):
            said = f"{names[d.id]}: {_sites_said(d.sites)}"
            svg = site_map(d.sites, frame, most_kw, f"map{i}", names[d.id]) if d.sites else ""
            panels.append((said, svg))
    return Figure(
        table=table,
        panels=tuple(panels),
        caption="Sites by design. Area of a circle: IT kW in the last year, the same scale for all designs; colour: kind of site",
        methods=("site", "build"),
        empty="no design builds a site",
        narrow=True,
    )


def _sites_said(sites: Sequence[SiteAnswer]) -> str:
    if not sites:
        return "no site, all rented"
    whole = power(sum(s.it_kw[-1] for s in sites if s.it_kw))
    return f"{len(sites)} site{'s' if len(sites) > 1 else ''}, {whole} IT"


def _stack(table: Table) -> Figure:
    names = [column.head for column in table.columns[1:]]
    groups = [str(row[0]) for row in table.rows]
    drawn = {name: [_figure(row[i + 1]) for row in table.rows] for i, name in enumerate(names)}
    return Figure(
        table=table,
        panels=_panel(stacked_bars(drawn, groups, lambda v: large(v))),
        caption="USD a year by group, median of draws, mean of years; left of the line: earned, which the sum at the end of a bar takes off",
        methods=("group",),
        empty="nothing costs anything",
    )


def _latency(answer: Answer) -> Figure:
    names = names_of(answer)
    rows: list[tuple[Cell, ...]] = []
    for d in answer.designs:
        last = max(len(d.ttft_curve_ms) - 1, 1)
        rows += [(names[d.id], k / last, ms) for k, ms in enumerate(d.ttft_curve_ms)]
    columns = (DESIGN, *_columns(("share", ""), ("ttft_ms", "ms")))
    table = Table(key="latency", title="Time to first token", columns=columns, rows=tuple(rows))
    curves = {}
    for name in names.values():
        mine = [(_figure(r[1]), _figure(r[2])) for r in table.rows if r[0] == name]
        if not all(math.isfinite(ms) for _, ms in mine):
            continue
        curves[name] = ([p[0] for p in mine], [p[1] for p in mine])
    return Figure(
        table=table,
        panels=_panel(quantile_curves(curves, "ms")),
        caption="Share of interactive requests (up) that get their first token within so many ms (across, logarithmic); planned, first year",
        methods=("ttft", "rtt"),
        empty="no interactive request is answered",
    )


def _hours(answer: Answer) -> Figure:
    names = names_of(answer)
    rows: list[tuple[Cell, ...]] = []
    panels = []
    for d in answer.designs:
        by_size = sorted(d.sites, key=lambda s: (-(s.it_kw[-1] if s.it_kw else 0.0), s.id))
        mine = [(names[d.id], s.id, hour, v) for s in by_size for hour, v in enumerate(s.carbon_free_hours)]  # fmt: skip
        rows += mine
        shown = [s.id for s in by_size if s.carbon_free_hours][:ROWS_MAX]
        strips = {id: [_known(r[3]) for r in mine if r[1] == id] for id in shown}
        more = len(by_size) - len(shown)
        said = f"{names[d.id]}" + (f", its {len(shown)} largest sites of {len(by_size)}" if more else "")  # fmt: skip
        panels += [(said, heat_strip(strips, 0, 1))] if strips else []
    columns = (
        DESIGN,
        Column(key="site", head="site", kind="text"),
        *_columns(("hour_utc", "h"), ("share", "")),
    )
    table = Table(key="carbon-free-hours", title="Carbon-free, hour by hour", columns=columns, rows=tuple(rows))  # fmt: skip
    return Figure(
        table=table,
        panels=tuple(panels),
        caption="Share of a site's energy that is carbon-free, by hour of the day (UTC), mean of the year, and its mean over hours at the end; "
        "darker is more, grey: nobody publishes it",
        methods=("hours",),
        empty="no design builds a site, or nobody publishes the mix of its grids",
    )


def _gone(answer: Answer) -> Figure:
    names = names_of(answer)
    rows = [
        (names[d.id], float(k), share)
        for d in answer.designs
        if d.sites
        for k, share in enumerate(d.served_without)
    ]
    columns = (DESIGN, *_columns(("sites_gone", ""), ("served_share", "")))
    table = Table(key="sites-gone", title="Served when the largest sites are gone", columns=columns, rows=tuple(rows))  # fmt: skip
    series = {
        name: [(_figure(r[1]), 100.0 * _figure(r[2])) for r in table.rows if r[0] == name]
        for name in names.values()
    }
    known = {name: line for name, line in series.items() if line}
    most = max((int(p[0]) for line in known.values() for p in line), default=0)
    ticks = [(float(k), "none gone" if k == 0 else f"{k} gone") for k in range(most + 1)]
    return Figure(
        table=table,
        panels=_panel(lines(known, ticks, "% served", high=100.0)),
        caption="Percent of interactive demand that is served in a busy hour when the largest sites are gone (rented chips are not conjured up)",
        methods=("available",),
        empty="no design builds a site; a cloud's outages are not in this study",
    )


def _building(table: Table) -> Figure:
    series = {}
    for i, column in enumerate(table.columns[1:], 1):
        line = [(float(k), row[i]) for k, row in enumerate(table.rows)]
        if all(isinstance(v, float) for _, v in line):
            series[column.head] = [(at, _figure(v)) for at, v in line]
    ticks = [(float(k), str(row[0])) for k, row in enumerate(table.rows)]
    return Figure(
        table=table,
        panels=_panel(lines(series, ticks, "IT kW")),
        caption="IT kW of plant that stands in each year, all sites of a design, median of draws",
        methods=("build",),
        empty="no design builds a site",
    )


def _wins(answer: Answer) -> Figure:
    names = names_of(answer)
    table = Table(
        key="wins",
        title="Who wins in how many draws",
        columns=(
            DESIGN,
            Column(
                key="cheapest_share",
                head="costs least",
                unit="share of draws",
                kind="percent",
                method="win",
            ),
            Column(
                key="least_carbon_share",
                head="emits least",
                unit="share of draws",
                kind="percent",
                method="win",
            ),
        ),
        rows=tuple((names[d.id], d.win_share, d.win_share_carbon) for d in answer.designs),
    )
    drawn = {
        "costs least": [_figure(row[1]) for row in table.rows],
        "emits least": [_figure(row[2]) for row in table.rows],
    }
    ends = dict.fromkeys(drawn, "")
    return Figure(
        table=table,
        panels=_panel(stacked_bars(drawn, [str(row[0]) for row in table.rows], percent, ends)),
        caption=f"Share of {answer.draws:,} draws that a design wins by cost per million tokens, and by carbon (location-based and embodied)",
        methods=("win",),
        empty="no design wins a draw",
    )


def _tornado(answer: Answer) -> Figure:
    units = {a.id: a.unit for a in answer.assumptions}
    head = (
        Column(key="figure", head="figure", kind="figure"),
        Column(key="unit", head="unit", kind="text", why="a plain number"),
    )
    columns = (
        *head,
        Column(key="low", head="low end", method="tornado"),
        Column(key="high", head="high end", method="tornado"),
        Column(key="usd_per_mtoken_at_low", head="difference at low", unit="USD per million tokens", method="tornado", why="a design delivers nothing there"),
        Column(key="usd_per_mtoken_at_high", head="difference at high", unit="USD per million tokens", method="tornado", why="a design delivers nothing there"),
    )  # fmt: skip
    rows = tuple((s.id, units.get(s.id, ""), s.low, s.high, s.at_low, s.at_high) for s in answer.swings)  # fmt: skip
    called = names_of(answer)
    names = [called[d.id] for d in unlike(answer.designs)]
    svg = tornado(answer.swings, units, names[0], names[1]) if len(names) > 1 else ""
    pair = f" of {names[0]} less that of {names[1]}" if len(names) > 1 else ""
    return Figure(
        table=Table(key="tornado", title="What moves the answer", columns=columns, rows=rows),
        panels=_panel(svg),
        caption=f"USD per million tokens{pair} when one figure goes to the ends of its range, all others most likely. Figures beside a bar: "
        "those ends, in the unit that the table has",
        methods=("tornado",),
        empty="there is no second design, or no figure moves the difference",
    )


def _panel(svg: str) -> tuple[tuple[str, str], ...]:
    return (("", svg),) if svg else ()


def _figure(value: Cell) -> float:
    assert isinstance(value, float | int), value
    return float(value)


def _known(value: Cell) -> float | None:
    return value if isinstance(value, float) and math.isfinite(value) else None
