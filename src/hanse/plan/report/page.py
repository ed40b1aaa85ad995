"""The page of a planning report: a template filled with words, tables and figures; everything inline, nothing fetched.

Here: `page`. Not here: what stands in it (`verdict`, `tables`, `figures`, `methods`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from hanse.plan.answer import Answer
from hanse.plan.report.charts import KINDS
from hanse.plan.report.effects import fits_everywhere
from hanse.plan.report.figure import Figure
from hanse.plan.report.methods import METHODS, Method
from hanse.plan.report.table import Cell, Column, Table, anchor, chunks, missing, shown
from hanse.plan.report.verdict import (
    EFFECTS,
    contrast,
    headline,
    names_of,
    nearest_flip,
    opened,
    tokens,
    without_policies,
)
from hanse.twin import report as twin_report
from hanse.twin.report.tables import percent
from hanse.web.figures import number

HERE: Final = Path(__file__).parent
SIDE_MAX: Final = 6
"""Designs beside each other in a table that stands on its side: more do not fit on a page."""


class Context:
    """What the template may ask for."""

    def __init__(
        self, answer: Answer, tables: dict[str, Table], figures: dict[str, Figure]
    ) -> None:
        self.answer, self.tables, self.figures = answer, tables, figures
        self.names = names_of(answer)
        self.known = {a.id for a in answer.assumptions}
        self.groups = list(dict.fromkeys(a.group for a in answer.assumptions))

    def cell(self, column: Column, value: Cell) -> dict[str, Any]:
        """A cell: text, what it links to, and whether it is a figure."""
        link = ""
        if column.kind == "figure" and value in self.known:
            link = "#" + anchor("a", str(value))
        return {
            "text": shown(column, value),
            "link": link,
            "numeric": column.numeric,
            "best": False,
        }

    def head(self, column: Column) -> dict[str, str]:
        """Head of a column with the address of its method."""
        link = f"#{anchor('m', column.method)}" if column.method else ""
        return {
            "head": column.head,
            "unit": column.unit,
            "link": link,
            "kind": "n" if column.numeric else "t",
        }

    def lying(self, table: Table, *, only: str = "", skip: Sequence[str] = ()) -> dict[str, Any]:
        """A table as it is, without some columns; `only`: rows whose first cell is that."""
        kept = [i for i, c in enumerate(table.columns) if c.key not in skip]
        rows = [r for r in table.rows if not only or r[0] == only]
        return {
            "heads": [self.head(table.columns[i]) for i in kept],
            "rows": [[self.cell(table.columns[i], r[i]) for i in kept] for r in rows],
        }

    def standing(
        self, table: Table, *, skip: Sequence[str] = (), best: bool = False
    ) -> list[dict[str, Any]]:
        """A table with its columns as rows and its rows, a few at a time, as columns."""
        columns = [(i, c) for i, c in enumerate(table.columns) if i and c.key not in skip]
        better = {e.column.key: e.more_is_better for e in EFFECTS} if best else {}
        parts = []
        for some in chunks(tuple(str(row[0]) for row in table.rows), SIDE_MAX):
            rows = []
            section = ""
            for i, column in columns:
                cells = [self.cell(column, table.rows[k][i]) for k in some]
                if column.key in better:
                    _mark(cells, [table.rows[k][i] for k in some], better[column.key])
                opens = column.section if column.section != section else ""
                section = column.section
                rows.append({"head": self.head(column), "cells": cells, "opens": opens})
            parts.append({"names": [str(table.rows[k][0]) for k in some], "rows": rows})
        return parts

    def methods(self) -> list[dict[str, Any]]:
        """Lines of methods with links to the assumptions that this answer has."""
        return [
            {
                "id": anchor("m", key),
                "title": m.title,
                "text": m.text,
                "links": self.rests_on(m),
            }
            for key, m in METHODS.items()
        ]

    def rests_on(self, method: Method) -> list[tuple[str, str]]:
        """(name, address) of groups and rows of the table of assumptions."""
        groups = [
            (g.replace("_", " "), "#" + anchor("g", g)) for g in method.groups if g in self.groups
        ]
        return groups + [(i, "#" + anchor("a", i)) for i in method.ids if i in self.known]

    def by_group(self) -> list[dict[str, Any]]:
        """Assumptions by group."""
        table = self.tables["assumptions"]
        found = []
        for group in self.groups:
            rows = [r for r in table.rows if r[1] == group]
            cells = [
                {
                    "id": anchor("a", str(r[0])),
                    "cells": [
                        self.cell(c, v)
                        for c, v in zip(table.columns, r, strict=True)
                        if c.key != "group"
                    ],
                }
                for r in rows
            ]
            found.append(
                {"id": anchor("g", group), "title": group.replace("_", " "), "rows": cells}
            )
        return found

    def no_wind(self) -> bool:
        """No site of any design has a turbine: the page need not say so in every row."""
        return not any(s.wind_kw for d in self.answer.designs for s in d.sites)

    def facts(self) -> list[tuple[str, str, str, str]]:
        """(name, figure, what stands against it, address): no merit without its price."""
        first = self.answer.designs[0]
        twin = (
            f"{number(first.rounds[-1].ttft_ms_p95 or 0.0)} ms in the twin, planned for its hours {number(first.rounds[-1].ttft_ms_p95_planned or 0.0)}"
            if first.rounds
            else "the twin was not asked"
        )
        gone = first.served_without[1] if first.sites and len(first.served_without) > 1 else None
        return [
            ("USD per million tokens", number(first.usd_per_mtoken.p50), f"p5 {number(first.usd_per_mtoken.p5)}, p95 {number(first.usd_per_mtoken.p95)}", "#m-usd"),
            ("cheapest in", percent(first.win_share), f"of {self.answer.draws:,} draws", "#m-win"),
            ("gCO2e per million tokens", number(first.location_g_per_mtoken.p50), f"location-based; embodied {number(first.embodied_g_per_mtoken.p50)} beside it", "#m-location"),
            ("TTFT p95, planned", "–" if first.ttft_ms_p95 is None else f"{number(first.ttft_ms_p95)} ms", twin, "#m-ttft"),
            ("served within SLO", percent(first.served_share), f"{percent(first.rented_share)} of demand always rented", "#m-served"),
            ("idle chips", percent(first.idle_share), f"pooling loss {percent(first.pooling_extra_share)}" if first.sites else "no site of its own", "#m-idle"),
            ("largest site gone", percent(gone), "of interactive demand still served" if first.sites else "no site of its own", "#m-available"),
            ("staff", number(first.staff_fte), f"{number(first.operator_actions_per_month)} operator actions a month, {first.jurisdictions} jurisdictions", "#m-staff"),
        ]  # fmt: skip


def _mark(cells: list[dict[str, Any]], values: Sequence[Cell], more: bool) -> None:
    """The best of a row, where the row has a best."""
    known = [v for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if len(known) < 2 or min(known) == max(known):
        return
    best = max(known) if more else min(known)
    for cell, value in zip(cells, values, strict=True):
        cell["best"] = not missing(value) and value == best


def page(answer: Answer, tables: dict[str, Table], figures: dict[str, Figure]) -> str:
    """The page as text."""
    environment = Environment(
        loader=FileSystemLoader((HERE, Path(twin_report.__file__).parent)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context = Context(answer, tables, figures)
    return environment.get_template("plan.html").render(
        answer=answer,
        context=context,
        tables=tables,
        figures=figures,
        names=context.names,
        headline=headline(answer),
        flip=nearest_flip(answer),
        fits_everywhere=fits_everywhere(answer),
        contrast=contrast(answer),
        tokens=tokens(answer.tokens_per_day),
        kinds=KINDS,
        anchor=anchor,
        svg=_svg,
        breakable=_breakable,
        opened=opened,
        titles=_titles(),
        without_policies=without_policies(answer),
    )


def _svg(text: str) -> Markup:
    return Markup(text)  # noqa: S704 - every text in a chart is escaped


def _breakable(text: str) -> Markup:
    """An id that may go on in the next line after an underscore."""
    return Markup(escape(text).replace("_", Markup("_<wbr>")))  # noqa: S704 - escaped


def _titles() -> Mapping[str, str]:
    return {key: method.title for key, method in METHODS.items()}
