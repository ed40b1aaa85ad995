"""Tables of a planning report, from the answer and nothing else.

Here: `tables`, by key; designs side by side in the order of the answer, cheapest first. Not here: how they are drawn (`page`, `plan.show`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from hanse.plan.answer import Answer, DesignAnswer, Range, away_gb
from hanse.plan.report import effects
from hanse.plan.report.table import Cell, Column, Kind, Table, large
from hanse.plan.report.verdict import (
    EFFECTS,
    NO_SMALL,
    actions_per_site,
    away_ms,
    by_hour,
    by_waiting,
    names_of,
    size_kw,
)
from hanse.plan.tco import GROUPS

NO_SITES: Final = "the design builds no site"
UNASKED: Final = "the twin was not asked"
UNPUBLISHED: Final = "nobody publishes it for one of the grids"
NOTHING_INTERACTIVE: Final = "no interactive request is answered"
Get = Callable[[DesignAnswer], Cell]


def tables(answer: Answer) -> dict[str, Table]:
    """All of them, by key; also the names of their CSVs."""
    made = [
        ranking(answer),
        designs(answer),
        counter_effects(answer),
        effects.shifting(answer),
        effects.held(answer),
        effects.wan(answer),
        cost_groups(answer),
        cost_items(answer),
        building(answer),
        flips(answer),
        policies(answer),
        trainings(answer),
        claims(answer),
        rounds(answer),
        sites(answer),
        assumptions(answer),
    ]
    return {table.key: table for table in made}


def ranking(answer: Answer) -> Table:
    """The designs in a few figures, cheapest first."""
    wanted = (
        "design", "sites", "usd_per_mtoken_p50", "usd_per_mtoken_p5", "usd_per_mtoken_p95", "win_share", "location_g_per_mtoken_p50",
        "market_g_per_mtoken_p50", "marginal_g_per_mtoken_p50", "embodied_g_per_mtoken_p50", "ttft_ms_p95", "served_share", "staff_fte",
    )  # fmt: skip
    whole = designs(answer)
    at = [next(i for i, c in enumerate(whole.columns) if c.key == key) for key in wanted]
    return Table(
        key="ranking",
        title="The designs, cheapest first",
        columns=tuple(whole.columns[i] for i in at),
        rows=tuple(tuple(row[i] for i in at) for row in whole.rows),
        notes=(
            "carbon by three methods answers three questions about the same energy: never add them; embodied carbon stands beside each",
        ),
    )


def designs(answer: Answer) -> Table:
    """Every figure of every design."""
    names = names_of(answer)
    fields = _fields()
    rows = [(names[d.id], d.id, *(get(d) for _, get in fields)) for d in answer.designs]
    head = (
        Column(key="design", head="design", kind="text"),
        Column(key="id", head="id", kind="text"),
    )
    return Table(
        key="designs",
        title="Every design, every figure",
        columns=(*head, *(column for column, _ in fields)),
        rows=tuple(rows),
    )


def _fields() -> list[tuple[Column, Get]]:
    return [*_money_fields(), *_footprint_fields(), *_service_fields(), *_work_fields()]


def _ranged(
    key: str, head: str, unit: str, method: str, get: Callable[[DesignAnswer], Range | None],
    section: str, kind: Kind = "number",
) -> list[tuple[Column, Get]]:  # fmt: skip
    """The three quantiles of a range, the middle first."""

    def part(name: str) -> Get:
        def value(d: DesignAnswer) -> Cell:
            found = get(d)
            return None if found is None else float(getattr(found, name))

        return value

    return [
        (
            Column(key=f"{key}_{p}", head=f"{head} {p}", unit=unit, method=method, section=section, kind=kind, why=UNPUBLISHED if method == "marginal" else "nothing is delivered"),
            part(p),
        )
        for p in ("p50", "p5", "p95")
    ]  # fmt: skip


def _field(
    section: str, key: str, head: str, unit: str, method: str, get: Get,
    kind: Kind = "number", why: str = NO_SITES,
) -> tuple[Column, Get]:  # fmt: skip
    return Column(
        key=key, head=head, unit=unit, method=method, kind=kind, why=why, section=section
    ), get


def _money_fields() -> list[tuple[Column, Get]]:
    s = "Money"
    return [
        *_ranged("usd_per_mtoken", "cost", "USD per million tokens", "usd", lambda d: d.usd_per_mtoken, s),
        _field(s, "win_share", "cheapest in", "share of draws", "win", lambda d: d.win_share, "percent"),
        *_ranged("usd_npv", "present value", "USD", "npv", lambda d: d.usd_npv, s, "usd"),
        _field(s, "stranded_usd_per_year", "stranded capital", "USD a year", "idle", lambda d: d.stranded_usd_per_year if d.sites else None, "usd"),
        _field(s, "gap", "optimiser's gap", "share of cost", "site", lambda d: d.gap, "percent"),
    ]  # fmt: skip


def _footprint_fields() -> list[tuple[Column, Get]]:
    g, s = "gCO2e per million tokens", "Carbon, by method (never add location, market, marginal)"
    e = "Energy and water"
    return [
        *_ranged("location_g_per_mtoken", "location", g, "location", lambda d: d.location_g_per_mtoken, s),
        *_ranged("market_g_per_mtoken", "market", g, "market", lambda d: d.market_g_per_mtoken, s),
        *_ranged("marginal_g_per_mtoken", "marginal", g, "marginal", lambda d: d.marginal_g_per_mtoken, s),
        *_ranged("embodied_g_per_mtoken", "embodied", g, "embodied", lambda d: d.embodied_g_per_mtoken, s),
        _field(s, "win_share_carbon", "emits least in", "share of draws", "win", lambda d: d.win_share_carbon, "percent"),
        *_ranged("kwh_per_mtoken", "energy", "kWh per million tokens", "kwh", lambda d: d.kwh_per_mtoken, e),
        *_ranged("water_l_per_mtoken", "water", "litres per million tokens", "water", lambda d: d.water_l_per_mtoken, e),
        _field(e, "pue", "PUE", "kWh per kWh", "pue", lambda d: d.pue),
        _field(e, "ups_load_share", "UPS load, mean of first year", "share of rating", "ups", lambda d: d.ups_load_share, "percent"),
        _field(e, "ups_load_share_last", "UPS load, last year", "share of rating", "ups", lambda d: d.ups_load_share_last, "percent"),
        _field(e, "ups_efficiency", "UPS efficiency at that load", "IT over input", "ups", lambda d: d.ups_efficiency, "percent"),
        _field(e, "ups_loss_share", "UPS loss", "share of IT energy", "ups", lambda d: d.ups_loss_share, "percent"),
        _field(e, "carbon_free_share", "carbon-free hour by hour", "share of energy", "hours", lambda d: d.carbon_free_share, "percent", "the design builds no site, or nobody publishes its grid's mix"),
        _field(e, "annual_match_share", "own generation over use, by the year", "share", "hours", lambda d: d.annual_match_share, "percent"),
        _field(e, "hourly_match_share", "own generation over use, hour by hour", "share", "hours", lambda d: d.hourly_match_share, "percent"),
        *_shift_fields(),
        _field(e, "own_power_used_share", "own generation used on site", "share", "ownpower", lambda d: d.own_power_used_share, "percent", "the design has no generation of its own"),
    ]  # fmt: skip


def _shift_fields() -> list[tuple[Column, Get]]:
    e, why = "Energy and water", "fewer than two sites"
    return [
        _field(e, "shift_space_share", "routing by the hour saves, at most", "share of gCO2e over the best fixed sites", "shifting", by_hour, "percent", why),
        _field(e, "shift_time_share", "waiting within slack saves, at most", "share of gCO2e", "shifting", by_waiting, "percent"),
    ]  # fmt: skip


def _service_fields() -> list[tuple[Column, Get]]:
    s, r = "Speed and service", "Reliability"
    heads = ("none gone", "largest site gone", "2 largest gone", "3 largest gone")
    gone = [
        _field(r, f"served_without_{k}", f"served, {head}", "share of interactive", "available", _without(k), "percent")
        for k, head in enumerate(heads)
    ]  # fmt: skip
    return [
        _field(s, "ttft_ms_p50", "TTFT p50, planned", "ms", "ttft", lambda d: d.ttft_ms_p50, why=NOTHING_INTERACTIVE),
        _field(s, "ttft_ms_p95", "TTFT p95, planned", "ms", "ttft", lambda d: d.ttft_ms_p95, why=NOTHING_INTERACTIVE),
        _field(s, "hours_ttft_ms_p95", "TTFT p95, planned for the twin's hours", "ms", "twin", lambda d: d.rounds[-1].ttft_ms_p95_planned if d.rounds else None, why=UNASKED),
        _field(s, "twin_ttft_ms_p50", "TTFT p50, twin", "ms", "twin", lambda d: d.rounds[-1].ttft_ms_p50 if d.rounds else None, why=UNASKED),
        _field(s, "twin_ttft_ms_p95", "TTFT p95, twin", "ms", "twin", lambda d: d.rounds[-1].ttft_ms_p95 if d.rounds else None, why=UNASKED),
        _field(s, "twin_good_share", "within SLO, twin", "share of requests", "twin", lambda d: d.rounds[-1].good_share if d.rounds else None, "percent", UNASKED),
        _field(s, "rtt_ms_p95", "round trip p95", "ms", "rtt", lambda d: d.rtt_ms_p95, why=NOTHING_INTERACTIVE),
        _field(s, "served_share", "served", "share of tokens", "served", lambda d: d.served_share, "percent"),
        _field(s, "rented_share", "always rented", "share of demand", "rented", lambda d: d.rented_share, "percent"),
        _field(r, "available", "availability", "share of interactive", "available", lambda d: d.available if d.sites else None, "nines", "a cloud's own availability is not in this study"),
        *gone,
    ]  # fmt: skip


def _without(k: int) -> Get:
    return lambda d: d.served_without[k] if d.sites and k < len(d.served_without) else None


def _work_fields() -> list[tuple[Column, Get]]:
    s, p = "Use and size", "People and law"
    return [
        _field(s, "sites", "sites", "", "site", lambda d: float(len(d.sites)), "count"),
        _field(s, "it_kw_last_year", "IT power, last year", "kW", "build", lambda d: sum(x.it_kw[-1] for x in d.sites if x.it_kw)),
        _field(s, "it_kw_per_site", "IT power a site, mean", "kW", "build", size_kw),
        _field(s, "idle_share", "idle chips", "share of installed work", "idle", lambda d: d.idle_share, "percent"),
        _field(s, "pooling_extra_share", "pooling loss", "slots over one pool's", "pooling", lambda d: d.pooling_extra_share, "percent"),
        _field(s, "wan_gb_per_year", "WAN traffic", "GB a year", "wan", lambda d: d.wan_gb_per_year, "usd"),
        _field(s, "away_gb_per_day", "inference that small sites cannot hold", "GB a day", "away", away_gb, "usd", NO_SMALL),
        _field(s, "away_added_ms", "its added round trip", "ms", "away", away_ms, why=f"nothing goes away for that, or {NO_SMALL}"),
        _field(p, "staff_fte", "staff", "full-time people", "staff", lambda d: d.staff_fte),
        _field(p, "operator_actions_per_month", "operator actions", "a month", "staff", lambda d: d.operator_actions_per_month),
        _field(p, "operator_actions_per_site_month", "operator actions", "a site and month", "staff", actions_per_site),
        _field(p, "jurisdictions", "jurisdictions", "countries", "law", lambda d: float(d.jurisdictions), "count"),
        _field(p, "duties", "sites mended to be lawful", "", "law", lambda d: float(len(d.duties)), "count"),
    ]  # fmt: skip


def _beside(answer: Answer, *, kind: Kind, unit: str, method: str) -> tuple[Column, ...]:
    """A column for each design."""
    return tuple(
        Column(key=id, head=name, unit=unit, kind=kind, method=method, why=NO_SITES)
        for id, name in names_of(answer).items()
    )


def counter_effects(answer: Answer) -> Table:
    """What being many costs and brings; designs in columns, those with the largest sites first."""
    by_size = sorted(answer.designs, key=lambda d: -(size_kw(d) or 0.0))
    names = names_of(answer)
    head = (Column(key="design", head="design", kind="text"),)
    size = Column(key="it_kw_per_site", head="IT power a site, mean", unit="kW", method="build", why=NO_SITES)  # fmt: skip
    actions = Column(key="operator_actions_per_site_month", head="operator actions", unit="a site and month", method="staff", why=NO_SITES)  # fmt: skip
    shift = [column for column, _ in _shift_fields()]
    columns = (*head, size, *(e.column for e in EFFECTS), actions, *shift)
    rows = tuple(
        (
            names[d.id],
            size_kw(d),
            *(e.get(d) for e in EFFECTS),
            actions_per_site(d),
            *(get(d) for _, get in _shift_fields()),
        )
        for d in by_size
    )
    notes = (
        "largest sites first; the best figure of a row is bold",
        "annual matching counts own generation over the year, whenever it comes; carbon-free hour by hour counts each hour by itself, with the grid's share",
    )
    return Table(key="counter-effects", title="What being many costs, and what it brings", columns=columns, rows=rows, notes=notes)  # fmt: skip


def cost_groups(answer: Answer) -> Table:
    """Yearly cost by group."""
    return _costs(answer, "cost-stack", "group", tuple(GROUPS), lambda d: d.usd_by_group)


def cost_items(answer: Answer) -> Table:
    """Yearly cost by item."""
    items = tuple(name for names in GROUPS.values() for name in names)
    return _costs(answer, "cost-items", "item", items, lambda d: d.usd_by_item)


def _costs(
    answer: Answer, key: str, what: str, order: Sequence[str],
    get: Callable[[DesignAnswer], dict[str, float]],
) -> Table:  # fmt: skip
    """Those that any design pays or earns."""
    every = dict.fromkeys(order)
    every |= dict.fromkeys(name for d in answer.designs for name in get(d))
    used = [name for name in every if any(get(d).get(name, 0.0) != 0.0 for d in answer.designs)]
    head = Column(key=what, head=what, kind="text")
    columns = _beside(answer, kind="usd", unit="USD a year", method="group")
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name.replace("_", " "), *(get(d).get(name, 0.0) for d in answer.designs)) for name in used
    )
    return Table(key=key, title=f"Cost by {what}, USD a year", columns=(head, *columns), rows=rows)


def building(answer: Answer) -> Table:
    """IT power by year and design."""
    first = int(answer.start[:4]) if answer.start[:4].isdigit() else 1
    columns = _beside(answer, kind="number", unit="IT kW", method="build")
    rows: list[tuple[Cell, ...]] = []
    for year in range(answer.years):
        sums = [
            sum(s.it_kw[year] for s in d.sites if year < len(s.it_kw)) if d.sites else None
            for d in answer.designs
        ]
        rows.append((str(first + year), *sums))
    head = Column(key="year", head="year", kind="text")
    return Table(key="building", title="Plant that stands, by year", columns=(head, *columns), rows=tuple(rows))  # fmt: skip


def flips(answer: Answer) -> Table:
    """Break-evens."""
    known = {a.id: a for a in answer.assumptions}
    names = names_of(answer)
    rows: list[tuple[Cell, ...]] = []
    for f in answer.flips:
        figure = known.get(f.id)
        ends = (figure.unit, figure.low, figure.high) if figure else ("", None, None)
        rows.append((f.id, ends[0], f.mid, f.at, ends[1], ends[2], names.get(f.winner, f.winner)))
    inputs = [c for c in answer.curves if c.resited]
    rows += [
        (c.name, c.unit, f.mid, f.at, c.low, c.high, names.get(f.winner, f.winner))
        for c in inputs
        for f in c.flips
    ]
    # A range in which nothing flips is an answer too.
    rows += [
        (
            c.name,
            c.unit,
            c.at,
            None,
            c.low,
            c.high,
            f"none other, from {large(c.low)} to {large(c.high)}",
        )
        for c in inputs
        if not c.flips
    ]
    columns = (
        Column(key="figure", head="figure", kind="figure"),
        Column(key="unit", head="unit", kind="text", why="a plain number"),
        Column(key="most_likely", head="most likely", method="flip", kind="usd"),
        Column(
            key="flips_at",
            head="flips at",
            method="flip",
            kind="usd",
            why="within this range no other design becomes the cheapest",
        ),
        Column(key="low", head="range from", method="flip", kind="usd"),
        Column(key="high", head="to", method="flip", kind="usd"),
        Column(key="winner", head="then cheapest", kind="text"),
    )
    return Table(key="flips", title="Break-even: where another design becomes the cheapest", columns=columns, rows=tuple(rows))  # fmt: skip


def policies(answer: Answer) -> Table:
    """With and without each rule."""
    names = names_of(answer)
    with_all = {d.id: d.usd_per_mtoken.p50 for d in answer.designs}
    wins = {d.id: d.win_share for d in answer.designs}
    rows: list[tuple[Cell, ...]] = []
    for p in answer.policies:
        for id, effect in p.usd_by_design.items():
            rows.append((
                p.id, p.kind.replace("_", " "), names.get(id, id), with_all.get(id), p.usd_per_mtoken_without.get(id), effect,
                wins.get(id), p.win_share_without.get(id), p.source,
            ))  # fmt: skip
    per, why = "USD per million tokens", "nothing is delivered"
    columns = (
        Column(key="policy", head="policy", kind="text"),
        Column(key="kind", head="kind", kind="text"),
        Column(key="design", head="design", kind="text"),
        Column(key="usd_per_mtoken_with", head="with all policies", unit=per, method="policy", why=why),
        Column(key="usd_per_mtoken_without", head="without this one", unit=per, method="policy", why=why),
        Column(key="usd_effect", head="what it adds", unit="USD, present value", kind="usd", method="policy"),
        Column(key="win_share_with", head="cheapest in, with", unit="share of draws", kind="percent", method="policy"),
        Column(key="win_share_without", head="without", unit="share of draws", kind="percent", method="policy"),
        Column(key="source", head="source", kind="text", why="the study gives none"),
    )  # fmt: skip
    resited = [p.id for p in answer.policies if p.resited]
    notes = (f"without {', '.join(resited)} the sites were searched anew",) if resited else ()
    return Table(key="policies", title="Policies, with and without", columns=columns, rows=tuple(rows), notes=notes)  # fmt: skip


def trainings(answer: Answer) -> Table:
    """In one place or across sites."""
    why = "it cannot be done that way; see the reason"
    heads = (
        ("days_central", "time in one place", "days"),
        ("days_across", "time across sites", "days"),
        ("usd_central", "cost in one place", "USD"),
        ("usd_across", "cost across sites", "USD"),
        ("kwh_central", "energy in one place", "kWh"),
        ("kwh_across", "energy across sites", "kWh"),
        ("utilisation_across", "utilisation across", "share"),
        ("loss_penalty_pct", "loss of quality across", "%"),
        ("wan_gbit_s", "WAN needed across", "Gbit/s a site"),
    )
    figures = tuple(
        Column(key=key, head=head, unit=unit, method="training", why=why,
               kind="percent" if unit == "share" else "usd" if unit in ("USD", "kWh") else "number")
        for key, head, unit in heads
    )  # fmt: skip
    columns = (
        Column(key="id", head="job", kind="text"),
        Column(key="choice", head="choice", kind="text"),
        *figures,
        Column(key="why", head="why", kind="text", why="none is given"),
        Column(key="notes", head="notes", kind="text", why="nothing to say"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (t.id, t.choice, *(getattr(t, key) for key, _, _ in heads), t.why, "; ".join(t.notes))
        for t in answer.trainings
    )
    return Table(key="training", title="Training: in one place or across sites", columns=columns, rows=rows)  # fmt: skip


def claims(answer: Answer) -> Table:
    """Claims that are usually made, with what was found."""
    names = names_of(answer)
    found = tuple(
        Column(key=id, head=name, unit="measured", kind="text", method="claim", why="not measured on this design")
        for id, name in names.items()
    )  # fmt: skip
    columns = (
        Column(key="claim", head="claim", kind="text"),
        Column(key="verdict", head="verdict", kind="text", method="claim"),
        Column(key="condition", head="under", kind="text", why="no condition"),
        *found,
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (c.claim, c.verdict, c.condition, *(c.by_design.get(id) for id in names))
        for c in answer.claims
    )
    return Table(key="claims", title="Claims, and what was found", columns=columns, rows=rows)


def rounds(answer: Answer) -> Table:
    """What was planned beside what the twin simulated."""
    names = names_of(answer)
    heads: tuple[tuple[str, str, str, Kind], ...] = (
        ("number", "round", "", "count"), ("spare", "capacity over formula", "", "number"), ("requests", "requests", "", "count"),
        ("hours", "simulated", "h", "number"), ("good_share", "within SLO", "share", "percent"), ("ttft_ms_p95_planned", "TTFT p95 planned", "ms", "number"), ("ttft_ms_p95", "TTFT p95 simulated", "ms", "number"),
        ("it_kwh_planned", "IT planned", "kWh", "number"), ("it_kwh", "IT simulated", "kWh", "number"),
        ("facility_kwh_planned", "meter planned", "kWh", "number"), ("facility_kwh", "meter simulated", "kWh", "number"),
        ("energy_usd_planned", "energy planned", "USD", "number"), ("energy_usd", "energy simulated", "USD", "number"),
    )  # fmt: skip
    columns = (
        Column(key="design", head="design", kind="text"),
        *(Column(key=k, head=h, unit=u, kind=c, method="twin", why="no request was answered") for k, h, u, c in heads),
    )  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (names[d.id], *(_or_none(getattr(r, key)) for key, *_ in heads))
        for d in answer.designs
        for r in d.rounds
    )
    return Table(key="rounds", title="The twin's judgement: planned beside simulated", columns=columns, rows=rows)  # fmt: skip


def sites(answer: Answer) -> Table:
    """All sites of all designs."""
    names = names_of(answer)
    none = "the site has none, or nobody publishes it"
    figures: tuple[tuple[str, str, str, Kind, str], ...] = (
        ("it_kw_first", "IT, first year", "kW", "number", "build"), ("it_kw_last", "last year", "kW", "number", "build"),
        ("pv_kw", "PV", "kW", "number", "ownpower"), ("wind_kw", "wind", "kW", "number", "ownpower"),
        ("battery_kwh", "battery", "kWh", "number", "ownpower"), ("battery_kw", "battery", "kW", "number", "ownpower"),
        ("pue", "PUE", "", "number", "pue"), ("wue_l_per_kwh", "WUE", "l/kWh", "number", "pue"),
        ("carbon_free_share", "carbon-free by hour", "share", "percent", "hours"), ("price_usd_per_kwh", "power", "USD/kWh", "number", "site"),
        ("usd_per_year", "cost", "USD a year", "usd", "site"),
    )  # fmt: skip
    words = ("design", "site", "city", "country", "size", "kind", "chips")
    columns = (
        *(Column(key=w, head=w, kind="text", why="none" if w == "chips" else "") for w in words),
        *(Column(key=k, head=h, unit=u, kind=c, method=m, why=none) for k, h, u, c, m in figures),
        Column(key="next_best", head="next best", kind="text", why="not asked"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for d in answer.designs:
        for s in d.sites:
            chips = ", ".join(f"{n:,} {chip}" for chip, n in s.chips.items())
            it_kw = (s.it_kw[0], s.it_kw[-1]) if s.it_kw else (None, None)
            rest = (getattr(s, key) for key, *_ in figures[2:])
            rows.append((names[d.id], s.id, s.city, s.country, s.size, s.kind, chips, *it_kw, *rest, s.next_best))  # fmt: skip
    return Table(key="sites", title="Sites", columns=columns, rows=tuple(rows))


def assumptions(answer: Answer) -> Table:
    """The whole table of figures that the answer rests on."""
    words = {"basis": "", "source": "none is given", "note": "nothing to add"}
    columns = (
        Column(key="id", head="figure", kind="text"),
        Column(key="group", head="group", kind="text"),
        Column(key="unit", head="unit", kind="text", why="a plain number"),
        *(Column(key=k, head=h, kind="number") for k, h in (("low", "low"), ("mid", "most likely"), ("high", "high"))),
        *(Column(key=k, head=k, kind="text", why=why) for k, why in words.items()),
    )  # fmt: skip
    rows = tuple(
        (a.id, a.group, a.unit, a.low, a.mid, a.high, a.basis, a.source, a.note)
        for a in answer.assumptions
    )
    return Table(key="assumptions", title="Assumptions", columns=columns, rows=rows)


def _or_none(value: float | None) -> float | None:
    return None if value is None else float(value)
