"""Tables of what speaks against small sites and for them and is no single figure: models that they cannot hold, moving work by the hour.

Here: `held`, `wan`, `shifting`, from the answer and nothing else. Not here: other tables (`tables`).
"""

from __future__ import annotations

from typing import Final

from hanse.plan.answer import Answer
from hanse.plan.report.table import Cell, Column, Kind, Table
from hanse.plan.report.verdict import NO_SMALL, moved, names_of
from hanse.plan.shifting import Ways
from hanse.units import BITS_PER_BYTE, SECONDS_PER_DAY

FOR_SCALE: Final = "for scale"
NO_DESIGN: Final = "the study has no interactive work"


def held(answer: Answer) -> Table:
    """Each model in each size class."""
    heads: tuple[tuple[str, str, str, Kind], ...] = (
        ("weights_gb", "weights", "GB", "number"), ("replica_gb", "largest replica", "GB", "number"), ("site_gb", "whole site", "GB", "usd"),
    )  # fmt: skip
    columns = (
        Column(key="workload", head="workload", kind="text"),
        Column(key="model", head="model", kind="text"),
        Column(key="precision", head="precision", kind="text"),
        Column(key="size", head="size class", kind="text"),
        *(Column(key=k, head=h, unit=u, kind=c, method="held") for k, h, u, c in heads),
        Column(key="held", head="held", kind="text"),
        Column(key="in_time", head="within the SLO", kind="text"),
        Column(key="why", head="the number that decides", kind="text"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            h.workload or FOR_SCALE, h.model, h.precision, h.size, h.weights_gb, h.replica_gb, h.site_gb,
            "yes" if h.held else "no", "yes" if h.in_time else "no", h.why,
        )
        for h in answer.held
    )  # fmt: skip
    return Table(key="held", title="Models and the memory of each size class", columns=columns, rows=rows)  # fmt: skip


def wan(answer: Answer) -> Table:
    """What crosses the WAN because small sites cannot do it: inference by design, training across sites."""
    names = names_of(answer)
    rows: list[tuple[Cell, ...]] = []
    for d in answer.designs:
        small = any(s.kind != "region" for s in d.sites)
        for a in d.away:
            said = "no small site of the design holds it in time" if small else NO_SMALL
            if a.held_by:
                said = f"held by {', '.join(a.held_by)}"
            rows.append((
                names[d.id], a.work, a.model, "no" if a.reference else "yes", a.share, a.requests_per_day, a.gb_per_day, a.added_ms,
                a.usd_per_year, a.unserved_share, said,
            ))  # fmt: skip
    for t in answer.trainings:
        gb = None if t.wan_gbit_s is None else t.wan_gbit_s / BITS_PER_BYTE * SECONDS_PER_DAY
        rows.append((
            "across sites", t.id, "training", "yes", None, None, gb, None, None, None,
            f"training, mean a site while it runs; chosen: {t.choice}",
        ))  # fmt: skip
    none = "nothing goes away for that, or training, which makes no requests"
    columns = (
        Column(key="design", head="design", kind="text"),
        Column(key="work", head="work", kind="text"),
        Column(key="model", head="model", kind="text"),
        Column(key="asked", head="asked for", kind="text"),
        Column(key="share", head="goes away", unit="share of requests", kind="percent", method="away", why=none),
        Column(key="requests_per_day", head="requests", unit="a day", kind="usd", method="away", why=none),
        Column(key="gb_per_day", head="WAN", unit="GB a day", kind="usd", method="away", why="it cannot be trained across sites"),
        Column(key="added_ms", head="added round trip", unit="ms", method="away", why=none),
        Column(key="usd_per_year", head="its traffic", unit="USD a year", kind="usd", method="away", why=none),
        Column(key="unserved_share", head="nobody may take", unit="share of requests", kind="percent", method="away", why=none),
        Column(key="why", head="why", kind="text"),
    )  # fmt: skip
    notes = (
        "asked for: no means for scale only, as if all interactive work of the study asked for that model",
    )
    return Table(key="wan", title="What goes over the WAN because small sites cannot do it", columns=columns, rows=tuple(rows), notes=notes)  # fmt: skip


GAINS: Final = (
    ("static", "assigned", "best of its own sites, all year"),
    ("hourly", "static", "by the hour, beyond that"),
    ("room_static", "room_assigned", "best of its own sites within their room"),
    ("room_hourly", "room_static", "by the hour within their room, beyond that"),
    ("deferred", "assigned", "waiting within slack"),
    ("sited", "assigned", "best of all places, all year"),
    ("sited_hourly", "sited", "by the hour over all places, beyond that"),
    ("sited_deferred", "sited", "waiting within slack at the best of all places"),
)


def shifting(answer: Answer) -> Table:
    """What moving work saves at most: in space and time, in carbon and money."""
    names = names_of(answer)
    rows: list[tuple[Cell, ...]] = []
    for d in answer.designs:
        for what, unit, ways in moved(d):
            saved = [ways.gain(less, over) for less, over, _ in GAINS]
            deferrable = d.shifting.deferrable_share if d.shifting else None
            rows.append((names[d.id], what, unit, ways.assigned, _amount(ways), deferrable, *saved))
    why = "one site, or too many rows to solve hour by hour"
    columns = (
        Column(key="design", head="design", kind="text"),
        Column(key="of", head="of", kind="text"),
        Column(key="unit", head="unit", kind="text"),
        Column(key="assigned", head="as designed", unit="a year", kind="usd", method="shifting"),
        Column(key="by_hour", head="moving by the hour saves at most", unit="a year, over the best fixed sites", kind="usd", method="shifting"),
        Column(key="deferrable_share", head="may wait", unit="share of energy", kind="percent", method="shifting", why="no energy"),
        *(
            Column(key=f"{less}_over_{over}", head=head, unit="share saved at most", kind="percent", method="shifting", why=why)
            for less, over, head in GAINS
        ),
    )  # fmt: skip
    notes = (
        "perfect foresight, no cost of moving, all energy moves along: upper bounds; carbon by location",
        "no hourly prices are recorded for places of a plan: in USD only sites' prices and the carbon price tell hours apart;"
        " what hours of recorded markets gain says hanse reproduce spatial-shift",
    )
    return Table(key="shifting", title="How little moving work by the hour gains over siting it well", columns=columns, rows=tuple(rows), notes=notes)  # fmt: skip


def _amount(ways: Ways) -> float:
    """Saved by the hour over the best fixed sites, within room where that is known."""
    if ways.room_static is not None and ways.room_hourly is not None:
        return ways.room_static - ways.room_hourly
    return ways.static - ways.hourly


def fits_everywhere(answer: Answer) -> str:
    """Which model of the study decides, in words with numbers."""
    asked = [h for h in answer.held if h.workload]
    if not asked:
        return "the study asks no model for an answer"
    late = [h for h in asked if not h.in_time]
    largest = max(asked, key=lambda h: h.weights_gb)
    least = min(asked, key=lambda h: h.replica_gb)
    whole = f"the largest model has {largest.weights_gb:,.0f} GB of weights, the smallest server {least.replica_gb:,.0f} GB ({least.size}, {least.chip})"
    if not late:
        return f"Every model of the study is held, within its SLO, by every size class: {whole}."
    big = [h for h in late if not h.held]
    said = "; ".join(f"{h.workload} in {h.size}: {h.why}" for h in late)
    memory = "Memory alone holds every model everywhere" if not big else f"{len(big)} pairs of model and size class lack memory"  # fmt: skip
    return f"{memory}: {whole}. Not in time: {said}."
