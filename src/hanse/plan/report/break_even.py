"""Break-even curves: cost of every design over one figure or input, the study's own value marked, and where another becomes the cheapest.

Here: the figure. Not here: computing it (`plan.curves`).
"""

from __future__ import annotations

import math
from typing import Final

from hanse.plan.answer import Answer
from hanse.plan.doubt import Curve
from hanse.plan.report.charts import lines
from hanse.plan.report.figure import DESIGN, Figure
from hanse.plan.report.table import Cell, Column, Table, large
from hanse.plan.report.verdict import names_of

APART: Final = 0.09
"""Least distance between two labels, over the width."""


def break_even(answer: Answer) -> Figure:
    """A panel for each curve."""
    names = names_of(answer)
    rows: list[tuple[Cell, ...]] = []
    for curve in answer.curves:
        for k, value in enumerate(curve.values):
            for id, cost in curve.usd_per_mtoken.items():
                winner = names.get(curve.winners[k], curve.winners[k])
                share = curve.served_share[id][k]
                rows.append(
                    (names.get(id, id), curve.id, curve.unit, value, cost[k], share, winner)
                )
    columns = (
        DESIGN,
        Column(key="figure", head="figure", kind="figure"),
        Column(key="unit", head="unit", kind="text", why="a plain number"),
        Column(key="value", head="value", method="flip"),
        Column(key="usd_per_mtoken", head="cost", unit="USD per million tokens", method="usd", why="the design delivers nothing there"),
        Column(key="served_share", head="served", unit="share of tokens", kind="percent", method="served"),
        Column(key="cheapest", head="cheapest", kind="text"),
    )  # fmt: skip
    return Figure(
        table=Table(key="break-even", title="Break-even curves", columns=columns, rows=tuple(rows)),
        panels=tuple((_said(c, names), _drawn(c, names)) for c in answer.curves),
        caption="USD per million tokens over one figure or input, all else most likely; the label in brackets is the study's own value. For latency "
        "limit and demand every point is a search for sites of its own, without own power; scales of both are logarithmic. A design that serves less "
        "pays for what is lost; the CSV has the served share",
        methods=("flip", "usd"),
        empty="nothing was asked",
    )


def _said(curve: Curve, names: dict[str, str]) -> str:
    """What the curve says."""
    here = curve.winners[curve.values.index(curve.at)]
    said = (
        f"{curve.name} ({curve.unit}): at {large(curve.at)} {names.get(here, here)} is the cheapest"
    )
    turns = [
        f"{names.get(f.winner, f.winner)} {'from' if f.at > f.mid else 'down from'} {large(f.at)}"
        for f in curve.flips
    ]
    return f"{said}; {', '.join(turns)}" if turns else f"{said}, and in the whole range"


def _drawn(curve: Curve, names: dict[str, str]) -> str:
    place = {v: math.log(v) if curve.resited else v for v in curve.values}
    series = {
        names.get(id, id): [(place[v], c) for v, c in zip(curve.values, cost, strict=True) if c is not None]
        for id, cost in curve.usd_per_mtoken.items()
    }  # fmt: skip
    known = {name: line for name, line in series.items() if line}
    return lines(known, _ticks(curve, place), "USD/Mtoken", span=True)


def _ticks(curve: Curve, place: dict[float, float]) -> list[tuple[float, str]]:
    """Ends, the study's own value, and what has room between."""
    low, high = place[curve.values[0]], place[curve.values[-1]]
    least = APART * max(high - low, 1e-12)
    kept = [place[curve.at]]
    for value in (curve.values[0], curve.values[-1], *(f.at for f in curve.flips), *curve.values):
        if all(abs(place[value] - other) >= least for other in kept):
            kept.append(place[value])
    shown = sorted({v for v in curve.values if place[v] in kept})
    return [(place[v], f"[{large(v)}]" if v == curve.at else large(v)) for v in shown]
