"""Results as tables of text, the same on the screen and on the page.

Here: `sheets`. Not here: how they are drawn (`cli.simulate`, `page`).

Every latency stands beside the use of the engines that gave it: a fast answer from an empty machine is no merit. Idle capacity, PUE at
the load that was, and what separate sites cost in room stand in the same tables as what they save.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from hanse.model.fleet import Value
from hanse.twin.result import GroupResult, Result, SiteResult
from hanse.units import wh_from_kwh
from hanse.web.figures import MISSING, Scale, count, number, scale_for


class Sheet(Value, frozen=True, kw_only=True):
    """A table of text; the first column names the row."""

    key: str
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    screen: tuple[int, ...] = ()
    """Columns that a terminal of 80 characters has room for; none: only the page shows the table."""
    screen_rows: int = 25
    """The first so many."""
    total: bool = False
    """The last row is of all others together, and always shown."""


SITES_MAX: Final = 10
"""Columns of sites that a page is wide enough for."""


UNSERVED_KWH_MIN = 1e-6
"""Less is what rounding leaves."""
SHARE_NONE = 1e-9
"""What sums in another order leave of nothing."""


def percent(share: float | None) -> str:
    """A share; small ones keep a digit that says something."""
    if share is None:
        return MISSING
    if abs(share) < SHARE_NONE:
        share = 0.0
    small = 0.0 < abs(share) < 0.001
    return f"{number(100.0 * share)}%" if small else f"{share:.1%}"


def sheets(result: Result) -> tuple[Sheet, ...]:
    """All tables, the most asked for first."""
    made = [
        _answers(result),
        _work(result),
        _sites(result),
        _energy(result),
        _supply(result),
        _carbon(result),
        _reasons(result),
        _pooling(result),
        _returns(result),
        _flows(result),
        _residency(result),
        _barred(result),
        _happened(result),
        _assumptions(result),
    ]
    return tuple(sheet for sheet in made if sheet.rows)


def _answers(result: Result) -> Sheet:
    groups = [g for g in result.groups if g.kind != "site" and g.requests]
    busy = percent(result.fleet.busy_share)
    few = [g for g in groups if g.kind != "origin"]
    origins = sorted((g for g in groups if g.kind == "origin"), key=lambda g: -g.requests)
    rows = tuple(_answer_row(g, busy) for g in (*few, *origins[:12]))
    more = (f"and {len(origins) - 12} more origins in the JSON",) if len(origins) > 12 else ()
    return Sheet(
        key="answers",
        screen=(0, 1, 3, 4, 5, 6, 7, 8, 13),
        screen_rows=len(few),
        title="Answers; latencies in ms",
        columns=(
            "", "requests", "answered", "refused", "failed", "within SLO", "engines busy",
            "TTFT p50", "TTFT p95", "TTFT p99", "TPOT p50", "TPOT p95", "E2E p50", "E2E p95", "forwarded",
        ),
        rows=rows,
        notes=(
            "TTFT and E2E as the user sees them, round trip to the gateway included; quantiles err by at most 1 % (bins of 2 %)",
            "within SLO: of all requests, refused and failed ones too; failed: broken answers included",
            *more,
        ),
    )  # fmt: skip


def _work(result: Result) -> Sheet:
    groups = [g for g in result.groups if g.kind != "origin" and g.served]
    energy = scale_for([g.energy_wh / g.served for g in groups], "Wh")
    carbon = scale_for([g.carbon_g / g.served for g in groups], "gCO2e")
    rows = tuple(
        (
            "all" if g.kind == "all" else f"{g.kind} {g.name}",
            count(g.tokens_in),
            percent(g.tokens_cached / g.tokens_in if g.tokens_in else None),
            count(g.tokens_out),
            count(g.forwarded),
            number(g.path_rtt_ms_mean),
            count(g.retries),
            _in(energy, g.energy_wh / g.served),
            _in(carbon, g.carbon_g / g.served),
            number(1000.0 * g.cost_usd / g.served),
        )
        for g in groups
    )
    return Sheet(
        key="work",
        title="Work, and what the requests themselves caused",
        columns=(
            "", "tokens in", "of these cached", "tokens out", "forwarded", "way ms mean", "retries",
            f"{energy.unit} an answer", f"{carbon.unit} an answer", "USD per 1,000 answers",
        ),
        rows=rows,
        notes=("dynamic energy with the site's PUE, its carbon and price, and egress; idle power is in the energy table",),
    )  # fmt: skip


def _answer_row(g: GroupResult, busy: str) -> tuple[str, ...]:
    name = "all" if g.kind == "all" else f"{g.kind} {g.name}"
    times = (g.ttft_ms.p50, g.ttft_ms.p95, g.ttft_ms.p99, g.tpot_ms.p50, g.tpot_ms.p95)
    return (
        name,
        count(g.requests),
        count(g.served),
        count(sum(g.refused.values())),
        count(sum(g.failed.values()) + g.broken),
        percent(g.goodput_share),
        busy,
        *(number(ms) for ms in (*times, g.e2e_ms.p50, g.e2e_ms.p95)),
        percent(g.forwarded / g.served if g.served else None),
    )


def _sites(result: Result) -> Sheet:
    rows = []
    for site in _with_fleet(result):
        kind = "all" if site.kind == "fleet" else "site"
        g = result.group(kind, "all" if kind == "all" else site.id)  # type: ignore[arg-type]
        rows.append(
            (
                _name(site),
                "" if site.kind == "fleet" else site.kind,
                f"{site.engines} / {site.slots}",
                count(site.served),
                number(g.ttft_ms.p50),
                number(g.ttft_ms.p95),
                number(g.tpot_ms.p95),
                number(g.e2e_ms.p95),
                percent(site.busy_share),
                percent(site.idle_share),
                percent(site.slots_share),
                number(site.slots_used_max),
                percent(site.it_load_share),
                number(site.pue),
                number(site.pue_full_load),
            )
        )
    return Sheet(
        key="sites",
        total=True,
        screen=(0, 3, 4, 5, 7, 8, 9, 12, 13, 14),
        title="Sites: latency in ms beside the use of engines",
        columns=(
            "site", "kind", "engines / slots", "answered", "TTFT p50", "TTFT p95", "TPOT p95", "E2E p95", "busy",
            "idle capacity", "slots used", "slots, 5 min max", "IT load of rated", "PUE at that load",
            "PUE full",
        ),
        rows=tuple(rows),
        notes=(
            "idle capacity: engine time without any request; it drew idle power, which stands in the energy table",
            "PUE full: of the same plant in the same weather with all of its rated load",
        ),
    )  # fmt: skip


def _energy(result: Result) -> Sheet:
    parts: tuple[tuple[str, Callable[[SiteResult], float]], ...] = (
        ("prefill", lambda s: s.energy.prefill_kwh),
        ("decode", lambda s: s.energy.decode_kwh),
        ("of these wasted", lambda s: s.energy.wasted_kwh),
        ("jobs", lambda s: s.energy.deferrable_kwh),
        ("idle", lambda s: s.energy.idle_kwh),
        ("cooling", lambda s: s.energy.cooling_kwh),
        ("UPS", lambda s: s.energy.ups_kwh),
        ("other", lambda s: s.energy.other_kwh),
        ("others' load", lambda s: s.energy.base_kwh),
        ("meter", lambda s: s.energy.facility_kwh),
    )
    sites = _with_fleet(result)
    whole = result.fleet.energy
    engines_wh = wh_from_kwh(whole.facility_kwh - whole.base_kwh)
    scale = scale_for(
        [max(engines_wh, 1.0)], "Wh"
    )  # never below Wh: the meter stands in the same row
    answer = scale_for([s.wh_per_answer for s in sites], "Wh")
    rows = tuple(
        (
            _name(s),
            *(_in(scale, wh_from_kwh(get(s))) for _, get in parts),
            f"{abs(wh_from_kwh(s.energy.difference_kwh)) * scale.factor:.0e}",
            _in(answer, s.wh_per_answer),
        )
        for s in sites
    )
    return Sheet(
        key="energy",
        total=True,
        screen=(0, 1, 2, 4, 5, 6, 7, 9, 11),
        title=f"Energy by stage, {scale.unit}",
        columns=(
            "site",
            *(name for name, _ in parts),
            "parts miss meter by",
            f"{answer.unit} an answer, all in",
        ),
        rows=rows,
        notes=(
            "all in: everything but others' load, idle and overhead included, over answers; a site that stood by counts too",
        ),
    )


def _supply(result: Result) -> Sheet:
    rows = tuple(
        (
            _name(s),
            number(s.supply.import_kwh),
            number(s.supply.export_kwh),
            f"{number(s.supply.pv_used_kwh)} / {number(s.supply.pv_kwh)}",
            f"{number(s.supply.wind_used_kwh)} / {number(s.supply.wind_kwh)}",
            number(s.supply.curtailed_kwh),
            f"{number(s.supply.charge_kwh)} / {number(s.supply.discharge_kwh)}",
            number(s.supply.battery_end_kwh - s.supply.battery_start_kwh),
            number(s.supply.unserved_kwh),
            number(s.supply.import_kw_max),
            number(s.supply.water_l),
            percent(s.carbon_free_share),
        )
        for s in _with_fleet(result)
    )
    return Sheet(
        key="supply",
        total=True,
        screen=(0, 1, 2, 3, 4, 6, 8, 9, 11),
        title="Supply, kWh, whole meter",
        columns=(
            "site", "import", "export", "PV used / made", "wind used / made", "curtailed", "battery in / out",
            "battery, end less start", "unserved", "peak kW", "water l", "carbon-free",
        ),
        rows=rows,
        notes=(*_balance(result), "the fleet's peak is the sum of the sites' own peaks: each pays for its connection"),
    )  # fmt: skip


def _balance(result: Result) -> tuple[str, ...]:
    """How supply adds up to the energy table's meter, and who was short."""
    short = [s for s in result.sites if s.supply.unserved_kwh > UNSERVED_KWH_MIN]
    named = ", ".join(f"{number(s.supply.unserved_kwh)} kWh at {s.id}" for s in short)
    lines = (
        "import, PV and wind used, battery out and unserved add up to the energy table's meter, battery in, and what the battery "
        "sold; a UPS is not in them",
    )
    brownout = f"brownout: {named} were asked for and not there; the meter counts them"
    return (*lines, brownout) if short else lines


def _carbon(result: Result) -> Sheet:
    sites = _with_fleet(result)
    answer = scale_for([s.g_per_answer for s in sites], "gCO2e")
    rows = tuple(
        (
            _name(s),
            *(
                number(None if g is None else g / 1000.0)
                for g in (
                    s.carbon.location_g,
                    s.carbon.marginal_g,
                    s.carbon.market_g,
                    s.carbon.own_g,
                )
            ),
            percent(s.ai_share),
            _in(answer, s.g_per_answer),
            number(s.cost.energy_usd),
            number(s.cost.export_usd),
            number(s.cost.demand_usd),
            number(s.cost.egress_usd),
            number(None if s.usd_per_answer is None else 1000.0 * s.usd_per_answer),
        )
        for s in sites
    )
    return Sheet(
        key="carbon",
        total=True,
        screen=(0, 1, 2, 3, 5, 6, 7, 11),
        title="Carbon, kg, and money, USD, whole meter",
        columns=(
            "site", "location", "marginal", "market", "own", "share of AI", f"{answer.unit} an answer", "energy", "export earned",
            "demand charge", "egress", "USD per 1,000 answers",
        ),
        rows=rows,
        notes=(
            "location, marginal and market answer three questions about the same energy: never add them",
            "an answer is charged the AI share of location and own carbon and of money, what the battery lost of its first content, "
            "and its egress; hardware, staff and buildings are not counted",
        ),
    )  # fmt: skip


def _reasons(result: Result) -> Sheet:
    groups = [g for g in result.groups if g.kind != "site"]
    kinds = {("refused", r): None for g in groups for r in g.refused}
    kinds |= {("failed", r): None for g in groups for r in g.failed}
    if any(g.broken for g in groups):
        kinds[("broken", "")] = None
    rows = []
    for g in groups:
        counts = {("refused", r): n for r, n in g.refused.items()}
        counts |= {("failed", r): n for r, n in g.failed.items()}
        counts[("broken", "")] = g.broken
        name = "all" if g.kind == "all" else f"{g.kind} {g.name}"
        lost = g.requests - g.served
        if lost:
            share = percent(lost / g.requests)
            rows.append((name, share, *(count(counts.get(kind, 0)) for kind in kinds)))
    return Sheet(
        key="reasons",
        title="Not answered, by reason",
        columns=("", "not answered", *(" ".join(kind).strip() for kind in kinds)),
        rows=tuple(rows),
        notes=(
            "docs/choosing.md explains the reasons; NO_ENTRY: no gateway near that may read the request is up; NOT_ALLOWED: no key may "
            "send it",
        ),
        screen=tuple(range(min(len(kinds), 6) + 2)),
        screen_rows=8,
    )


def _pooling(result: Result) -> Sheet:
    p = result.pooling
    return Sheet(
        key="pooling",
        screen=(0, 1),
        title="What it costs to be many",
        columns=("", "figure"),
        rows=(
            ("slots in use, five-minute peak, all sites together", number(p.slots_fleet_max)),
            ("the same, each site's own peak, added", number(p.slots_sites_max)),
            (
                "pooling loss: room that separate sites need more than one pool",
                percent(p.loss_share),
            ),
            ("demand peak of all origins together, requests/s", number(p.demand_fleet_rps_max)),
            ("the same, each origin's own peak, added", number(p.demand_origins_rps_max)),
            ("room that sites would need more if they shared nothing", percent(p.alone_share)),
            ("slots that stood empty on average", percent(p.slots_idle_share)),
        ),
    )


def _returns(result: Result) -> Sheet:
    r = result.latency_return
    rows: tuple[tuple[str, ...], ...] = ()
    title = "Return on latency"
    if r is not None:
        title += f", against {r.reference}"
        rows = (
            ("added TTFT, mean", number(r.added_ttft_ms), "ms"),
            ("added E2E, mean", number(r.added_e2e_ms), "ms"),
            ("saved energy", number(r.saved_wh), "Wh an answer"),
            ("saved carbon", number(r.saved_g), "g an answer"),
            ("saved money", number(r.saved_usd), "USD an answer"),
            ("energy per added ms", number(r.wh_per_ms), "Wh"),
            ("carbon per added ms", number(r.g_per_ms), "g"),
            ("money per added ms", number(r.usd_per_ms), "USD"),
        )
    note = "no rate where no latency was added"
    return Sheet(
        key="returns",
        title=title,
        screen=(0, 1, 2),
        columns=("", "", "unit"),
        rows=rows,
        notes=(note,),
    )


def _flows(result: Result) -> Sheet:
    names = [o.id for o in result.flows.origins] or ["everywhere"]
    served = result.flows.served
    sums = [sum(column) for column in zip(*served, strict=True)]
    busy = sorted(range(len(sums)), key=lambda i: -sums[i])[:SITES_MAX]
    shown = sorted(busy)
    rest = len(sums) > len(shown)
    rows = []
    for name, row in sorted(zip(names, served, strict=True), key=lambda pair: -sum(pair[1])):
        cells = [count(row[i]) for i in shown]
        others = sum(row) - sum(row[i] for i in shown)
        rows.append((name, *cells, *([count(others)] if rest else [])))
    sites = [result.flows.sites[i].id for i in shown]
    return _cut(
        Sheet(
            key="flows",
            title="Answers by origin and serving site",
            columns=("from", *sites, *(["other sites"] if rest else [])),
            rows=tuple(rows),
        ),
        40,
    )


def _cut(sheet: Sheet, rows_max: int) -> Sheet:
    """The first rows, and a word on how many more there are."""
    more = len(sheet.rows) - rows_max
    if more <= 0:
        return sheet
    note = f"and {count(more)} more rows in the JSON"
    return replace(sheet, rows=sheet.rows[:rows_max], notes=(*sheet.notes, note))


def _residency(result: Result) -> Sheet:
    r = result.residency
    rows = tuple(
        (
            f"{c.data_class}, from {c.country or 'anywhere'}",
            f"{c.site} ({c.site_country})",
            count(c.executed),
            count(c.entered),
            "yes" if c.lawful else "NO",
        )
        for c in r.cells
    )
    sheet = Sheet(
        key="residency",
        title="Where data was read and worked on",
        columns=("class and country", "site", "executed", "entered here", "lawful"),
        rows=rows,
        notes=(
            f"counted as each request reached an engine, by its own row of law: {r.unlawful} unlawful",
            f"counted again from finished requests and the tables at start and end: {r.unlawful_recount} unlawful",
            f"refused because law left no site, or no gateway that was up: {r.refused_by_law}",
        ),
    )
    return _cut(sheet, 150)


def _barred(result: Result) -> Sheet:
    r = result.residency
    rows = tuple(
        (
            f"{b.data_class}, from {b.country or 'anywhere'}",
            b.site,
            "; ".join(f"{rule}: {r.rules.get(rule, '')}".rstrip(": ") for rule in b.rules),
        )
        for b in r.barred
    )
    sheet = Sheet(
        key="barred",
        title="Closed by law",
        columns=("class and country", "site", "rules"),
        rows=rows,
    )
    return _cut(sheet, 150)


def _happened(result: Result) -> Sheet:
    rows = tuple(
        (str(i), clock_text(h.at_s), clock_text(h.until_s), h.text)
        for i, h in enumerate(result.happened, 1)
    )
    return Sheet(
        key="happened",
        title="Faults",
        screen=(0, 1, 2, 3),
        columns=("", "from", "until", "what"),
        rows=rows,
    )


def _assumptions(result: Result) -> Sheet:
    return Sheet(
        key="assumptions",
        title="What this rests on",
        columns=("quantity", "where", "method", "expected error", "source"),
        rows=tuple((a.quantity, a.about, a.method, a.error, a.source) for a in result.assumptions),
    )


def clock_text(at_s: float | None) -> str:
    """Hours, minutes and seconds after the start."""
    if at_s is None:
        return "the end"
    minutes, seconds = divmod(round(at_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _with_fleet(result: Result) -> tuple[SiteResult, ...]:
    return (*result.sites, result.fleet)


def _name(site: SiteResult) -> str:
    return "all sites" if site.kind == "fleet" else site.id


def _in(scale: Scale, value: float | None) -> str:
    return number(None if value is None else value * scale.factor)
