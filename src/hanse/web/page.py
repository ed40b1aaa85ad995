"""Pictures as HTML: the whole page, its live sections, and the details of one thing.

Here: what templates are given. Not here: HTTP. Everything passes through autoescaping templates,
so a hostile id or reason is text and nothing else; the browser swaps sections in as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import jinja2

from hanse.view import Cost, DecisionRow, LeagueView, LinkStatus, SiteView, link_id
from hanse.web import figures
from hanse.web.reasons import reason_text
from hanse.web.verdict import compare

DECISIONS_SHOWN_MAX = 30
"""Rows one can take in; the picture keeps more, and /api/view.json has them."""
WORK_MAX = 12
SPANS_MAX = 3
"""Batches, and spans of each: what is due first and begins first. The picture has all of them."""
BARRED_MAX = 6
"""Rules listed for one big site: what bars most comes first, the tail says little."""
SECTIONS = ("head", "verdict", "sites", "work", "refusals", "links", "decisions")
_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class RefusalLine:
    """One reason and how often."""

    reason: str
    text: str
    count: int
    permille: int
    """Of the most frequent one, for the bar."""


@dataclass(frozen=True, kw_only=True)
class LinkLine:
    """One WAN link in words."""

    id: str
    status: LinkStatus
    state: str
    words: str


class Pages:
    """Renders; holds compiled templates and the texts of law rules."""

    def __init__(self, rule_texts: Mapping[str, str]) -> None:
        self._rule_texts = rule_texts  # not copied: the texts come with the first table
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "number": figures.number,
            "count": figures.count,
            "power": figures.power,
            "clock": figures.clock,
            "moment": figures.moment,
            "stamp": figures.stamp,
            "age": figures.age,
            "part": lambda text: quote(text, safe=""),
            "reason": lambda text: reason_text(text, self._rule_texts),
        }

    def whole(self, view: LeagueView) -> str:
        """The page, complete without JavaScript."""
        return self._render("page.html", view=view, sections=self.sections(view))

    def sections(self, view: LeagueView) -> dict[str, str]:
        """The parts that move, by the id of the element that holds them."""
        context = self._context(view)
        return {name: self._render(f"{name}.html", view=view, **context) for name in SECTIONS}

    def site(self, view: LeagueView, site: SiteView) -> str:
        """Everything about one site."""
        return self._render("site.html", view=view, site=site)

    def decision(self, row: DecisionRow) -> str:
        """Everything about one request."""
        scales = {
            "energy": figures.scale_for((c.energy_wh for c in _costs(row)), "Wh"),
            "carbon": figures.scale_for((c.carbon_g for c in _costs(row)), "gCO2e"),
            "cost": figures.scale_for((c.cost_usd for c in _costs(row)), "USD total"),
        }
        return self._render("decision.html", row=row, scales=scales)

    def alone(self, title: str, body: str) -> str:
        """A fragment as a page of its own, for readers without JavaScript."""
        return self._render("alone.html", title=title, body=body)

    def _context(self, view: LeagueView) -> dict[str, object]:
        shown = view.decisions[:DECISIONS_SHOWN_MAX]
        costs = [row.measured or row.predicted for row in shown]
        known = [cost for cost in costs if cost is not None]
        return {
            "comparison": compare(view),
            "refusals": self._refusals(view.refusals),
            "barred": self._refusals(_barred_centrally(view)),
            "asked": sum(row.central is not None for row in view.decisions),
            "links": _links(view),
            "shown": shown,
            "energy": figures.scale_for((cost.energy_wh for cost in known), "Wh"),
            "carbon": figures.scale_for((cost.carbon_g for cost in known), "gCO2e"),
            "table_lag": _table_lag(view),
            "work_max": WORK_MAX,
            "spans_max": SPANS_MAX,
        }

    def _refusals(self, counts: Sequence[tuple[str, int]]) -> tuple[RefusalLine, ...]:
        most = max((count for _, count in counts), default=1)
        return tuple(
            RefusalLine(
                reason=reason or "unstated",
                text=reason_text(reason, self._rule_texts),
                count=count,
                permille=round(1000 * count / most),
            )
            for reason, count in counts
        )

    def _render(self, template: str, /, **context: object) -> str:
        return self._templates.get_template(template).render(**context)


def _costs(row: DecisionRow) -> tuple[Cost, ...]:
    central = row.central.predicted if row.central else None
    return tuple(cost for cost in (row.predicted, row.measured, central) if cost is not None)


def _barred_centrally(view: LeagueView) -> list[tuple[str, int]]:
    """Rules that bar the kept requests from one big site, most frequent first."""
    verdicts = (row.central for row in view.decisions if row.central is not None)
    return Counter(rule for verdict in verdicts for rule in verdict.rules).most_common(BARRED_MAX)


def _links(view: LeagueView) -> tuple[LinkLine, ...]:
    """Links between sites first, then those to the hub."""
    sites = {site.id for site in view.sites}
    inner = sorted(view.links, key=lambda link: not {link.a, link.b} <= sites)
    return tuple(_link_line(link) for link in inner)


def _link_line(link: LinkStatus) -> LinkLine:
    state = link_state(link)
    words = {
        "open": "open",
        "cut": "cut both ways",
        "one-way": f"only {link.a} → {link.b}"
        if link.a_to_b == "open"
        else f"only {link.b} → {link.a}",
    }[state]
    return LinkLine(id=link_id(link.a, link.b), status=link, state=state, words=words)


def link_state(link: LinkStatus) -> str:
    """What the two directions add up to: open, one-way or cut."""
    open_ways = (link.a_to_b == "open") + (link.b_to_a == "open")
    return ("cut", "one-way", "open")[open_ways]


def _table_lag(view: LeagueView) -> str:
    heard = [site.status for site in view.sites if site.status is not None]
    newest = sum(status.table_version == view.table_version for status in heard)
    return f"{newest} of {len(view.sites)} sites hold it"
