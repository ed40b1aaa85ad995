"""The league beside one big site: who is better at what, in plain words.

Here: one line per metric from the three tallies, a headline, and a like-for-like check over the
requests that both sides answer. Not here: HTML, and any claim that mixes measured with predicted:
verdicts compare prediction with prediction. Even those differ in one respect, which the page says:
both are corrected by what the league's engines were seen to take; one big site's rest on declared hardware otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from hanse.view import DecisionRow, LeagueView, Tally
from hanse.web.figures import count, number, rough, scale_for

Better = Literal["league", "central", "even", "unknown"]
EVEN_WITHIN = 0.01
"""Relative difference below which two means are called the same: they are printed to 3 digits."""
NOTHING_YET = "Nothing to compare yet"
_WHO = {"league": "The league", "central": "One big site"}


@dataclass(frozen=True, kw_only=True)
class Line:
    """One metric of the comparison, ready to print."""

    key: str
    name: str
    unit: str
    cells: tuple[str, str, str]
    """League measured, league predicted, one big site predicted."""
    better: Better
    verdict: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All of it."""

    headline: str
    lines: tuple[Line, ...]
    like_for_like: str


def compare(view: LeagueView) -> Comparison:
    """The comparison of a picture; before any request everything reads as unknown."""
    measured, predicted, central = view.tallies
    sides = (measured, predicted, central)
    return Comparison(
        headline=_headline(measured, central),
        lines=(
            _answered(measured, predicted, central),
            _mean(sides, "ttft", "First token, mean", lambda t: t.ttft_ms_mean),
            _mean(sides, "e2e", "Whole answer, mean", lambda t: t.e2e_ms_mean),
            _per_answer(sides, "energy", "Energy per answer", "Wh", lambda t: t.energy_wh),
            _per_answer(sides, "carbon", "Carbon per answer", "gCO2e", lambda t: t.carbon_g),
            _per_answer(sides, "cost", "Cost", "USD", lambda t: t.cost_usd),
            _law(measured, predicted, central),
            _lost(measured, predicted, central),
        ),
        like_for_like=_like_for_like(view.decisions),
    )


def _headline(league: Tally, central: Tally) -> str:
    if league.requests == 0:
        return "No request yet: the comparison starts with the first."
    said = f"The league answered {count(league.served)} of {_requests(league.requests)}."
    if central.requests == 0:
        return said + " Nobody asked what one big site would have done."
    would = f" One big site would have answered {count(central.served)}"
    if central.requests != league.requests:
        would += f" of the {count(central.requests)} it was asked about"
    if central.refused_law:
        would += f"; law bars {count(central.refused_law)} from it"
    return said + would + "."


def _requests(requests: int) -> str:
    return "1 request" if requests == 1 else f"{count(requests)} requests"


def _answered(measured: Tally, predicted: Tally, central: Tally) -> Line:
    better, verdict = _more_answers(measured, central)
    return Line(
        key="served",
        name="Answered",
        unit="of " + _requests(measured.requests),
        cells=(count(measured.served), count(predicted.served), count(central.served)),
        better=better,
        verdict=verdict,
    )


def _more_answers(league: Tally, central: Tally) -> tuple[Better, str]:
    if central.requests == 0 or league.requests == 0:
        return "unknown", NOTHING_YET
    # Shares, not counts: the shadow may have been asked about fewer requests.
    share_league = league.served / league.requests
    share_central = central.served / central.requests
    if share_league == share_central:
        return "even", "Both answer as many"
    better: Better = "league" if share_league > share_central else "central"
    if league.requests == central.requests:
        more = abs(league.served - central.served)
        return better, f"{_WHO[better]} answers {count(more)} more"
    shares = f"{100 * share_league:.1f} %, one big site {100 * share_central:.1f} %"
    return better, f"The league answers {shares}"


def _mean(
    sides: tuple[Tally, Tally, Tally], key: str, name: str, of: Callable[[Tally], float]
) -> Line:
    values = tuple(of(side) if side.served else None for side in sides)
    better, difference = _less(values[1], values[2])
    return Line(
        key=key,
        name=name,
        unit="ms",
        cells=_three(number(value) for value in values),
        better=better,
        verdict=_said(better, f"is {rough(difference)} ms sooner"),
    )


def _per_answer(
    sides: tuple[Tally, Tally, Tally],
    key: str,
    name: str,
    quantity: str,
    of: Callable[[Tally], float],
) -> Line:
    values = tuple(of(side) / side.served if side.served else None for side in sides)
    scale = scale_for(values, quantity)
    better, difference = _less(values[1], values[2])
    larger = max((value for value in values[1:] if value is not None), default=0.0)
    percent = rough(100 * difference / larger) if larger > 0 else "0"
    return Line(
        key=key,
        name=name,
        unit=scale.unit,
        cells=_three(scale.show(value) for value in values),
        better=better,
        verdict=_said(better, f"takes {percent} % less"),
    )


def _said(better: Better, what: str) -> str:
    if better == "unknown":
        return NOTHING_YET
    return "No difference worth naming" if better == "even" else f"{_WHO[better]} {what}"


def _less(league: float | None, central: float | None) -> tuple[Better, float]:
    if league is None or central is None:
        return "unknown", 0.0
    difference = abs(league - central)
    if difference <= EVEN_WITHIN * max(abs(league), abs(central)):
        return "even", difference
    return ("league" if league < central else "central"), difference


def _law(measured: Tally, predicted: Tally, central: Tally) -> Line:
    cells = _three(count(side.refused_law) for side in (measured, predicted, central))
    league_n, central_n = measured.refused_law, central.refused_law
    if central.requests == 0:
        better, verdict = _unknown()
    elif league_n == central_n == 0:
        better, verdict = "even", "Law bars nothing on either side"
    elif league_n == central_n:
        better, verdict = "even", "Law bars as many on both sides"
    elif league_n < central_n:
        better, verdict = (
            "league",
            f"Law bars {count(central_n - league_n)} more from one big site",
        )
    else:
        better, verdict = (
            "central",
            f"Law bars {count(league_n - central_n)} more from the league",
        )
    return Line(
        key="law",
        name="Refused by law",
        unit="requests",
        cells=cells,
        better=better,
        verdict=verdict,
    )


def _lost(measured: Tally, predicted: Tally, central: Tally) -> Line:
    league_n, central_n = measured.lost_failure, central.lost_failure
    if central.requests == 0:
        better, verdict = _unknown()
    elif league_n == central_n:
        better, verdict = (
            "even",
            "Nothing is lost on either side" if league_n == 0 else "As many are lost on both sides",
        )
    elif league_n < central_n:
        better, verdict = "league", f"The league loses {count(central_n - league_n)} fewer"
    else:
        better, verdict = "central", f"One big site loses {count(league_n - central_n)} fewer"
    return Line(
        key="lost",
        name="Lost by failure",
        unit="requests",
        cells=_three(count(side.lost_failure) for side in (measured, predicted, central)),
        better=better,
        verdict=verdict,
    )


def _unknown() -> tuple[Better, str]:
    return "unknown", NOTHING_YET


def _like_for_like(rows: Iterable[DecisionRow]) -> str:
    """Means over the kept rows that both sides answer: neither is flattered by what it refuses."""
    pairs = [
        (row.predicted, row.central.predicted)
        for row in rows
        if row.outcome == "served"
        and row.predicted is not None
        and row.central is not None
        and row.central.outcome == "served"
        and row.central.predicted is not None
    ]
    if not pairs:
        return "None of the latest requests is answered by both sides."
    league = [one for one, _ in pairs]
    central = [two for _, two in pairs]
    ttft = (_average(c.ttft_ms for c in league), _average(c.ttft_ms for c in central))
    carbon = (_average(c.carbon_g for c in league), _average(c.carbon_g for c in central))
    scale = scale_for(carbon, "gCO2e")
    return (
        f"Like for like, over the {count(len(pairs))} latest requests that both answer: "
        f"first token after {number(ttft[0])} ms in the league and {number(ttft[1])} ms at one big "
        f"site; {scale.show(carbon[0])} and {scale.show(carbon[1])} {scale.unit} an answer."
    )


def _average(values: Iterable[float]) -> float:
    kept = list(values)
    return sum(kept) / len(kept)


def _three(cells: Iterable[str]) -> tuple[str, str, str]:
    first, second, third = cells
    return first, second, third
