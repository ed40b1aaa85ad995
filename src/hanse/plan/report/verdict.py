"""What an answer says, in words with numbers: who is cheapest and how surely, what would change that, and small sites against large ones.

Here: `headline`, `nearest_flip`, `Effect`, `EFFECTS`, `contrast`. The same words go to the page and the screen. Not here: tables (`tables`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from hanse.model.fleet import Value
from hanse.plan.answer import Answer, AssumptionAnswer, DesignAnswer, away_gb, unlike
from hanse.plan.doubt import Curve, Flip
from hanse.plan.report.table import Column, Kind, large, shown
from hanse.plan.shifting import Ways
from hanse.twin.report.tables import percent
from hanse.web.figures import number

SAME: Final = 0.01
"""Figures nearer to each other than this share speak for nobody."""
LEFT_SHARE: Final = 0.005
"""Of demand: less is an outage here and there, which the cost has in it."""
NO_SMALL: Final = "the design has no small site"


class Effect(Value, frozen=True, kw_only=True):
    """A figure of a design on which small and large sites differ, and which way is better."""

    column: Column
    get: Callable[[DesignAnswer], float | None]
    more_is_better: bool = False


class Contrast(Value, frozen=True, kw_only=True):
    """The design with the smallest sites beside that with the largest."""

    small: DesignAnswer
    large: DesignAnswer
    speaks_for: tuple[tuple[Effect, str], ...]
    """Effects on which small sites do better, with both figures in words."""
    speaks_against: tuple[tuple[Effect, str], ...]
    same: tuple[Effect, ...]
    unknown: tuple[Effect, ...]


def names_of(answer: Answer) -> dict[str, str]:
    """Design by id to its name; two of the same name get their ids too."""
    names = [d.name for d in answer.designs]
    return {
        d.id: d.name if names.count(d.name) == 1 else f"{d.name} ({d.id})" for d in answer.designs
    }


def headline(answer: Answer) -> tuple[str, str]:
    """Two sentences: which design is cheapest and in how many draws; what flips that."""
    names = names_of(answer)
    first = answer.designs[0]
    cost = first.usd_per_mtoken
    said = (
        f"{opened(names[first.id])} costs least: {number(cost.p50)} USD per million tokens delivered "
        f"({number(cost.p5)} to {number(cost.p95)} in nine of ten draws)"
    )
    if len(answer.designs) == 1:
        return f"{said}; it is the only design of this study.", _only(answer)
    others = unlike(answer.designs)[1:]
    second = others[0] if others else answer.designs[1]
    said += (
        f", and it is the cheapest in {percent(first.win_share)} of {answer.draws:,} draws; "
        f"second is {names[second.id]} with {number(second.usd_per_mtoken.p50)} USD."
    )
    said += _left(answer, names)
    often = max(answer.designs, key=lambda d: d.win_share)
    if often.win_share > first.win_share:
        said += f" More draws, {percent(often.win_share)}, are won by {names[often.id]}."
    return said, _flips(answer, names)


def _left(answer: Answer, names: dict[str, str]) -> str:
    """What the cheapest leaves, where another one delivers more: a cost per delivered token says nothing of it."""
    first = answer.designs[0]
    if max(d.served_share for d in answer.designs) - first.served_share <= LEFT_SHARE:
        return ""
    said = f" It delivers {percent(first.served_share)} of what is asked for"
    for d in answer.designs[1:]:
        if d.served_share >= 1.0 - LEFT_SHARE:
            return f"{said}; the cheapest that delivers all is {names[d.id]} with {number(d.usd_per_mtoken.p50)} USD."
    return f"{said}."


def opened(name: str) -> str:
    """A name as a sentence opens with it."""
    return name[:1].upper() + name[1:]


def nearest_flip(answer: Answer) -> Flip | None:
    """The break-even that takes the smallest part of its figure's or input's range to reach."""
    known = {a.id: a for a in answer.assumptions}
    inputs = {c.id: c for c in answer.curves if c.resited}

    def part(flip: Flip) -> tuple[float, str]:
        if flip.id in inputs:
            return _part_of_input(inputs[flip.id], flip), flip.id
        figure = known.get(flip.id)
        return (_part(figure, flip) if figure else math.inf), flip.id

    return min(
        (*answer.flips, *(f for c in inputs.values() for f in c.flips)), key=part, default=None
    )


def _part(figure: AssumptionAnswer, flip: Flip) -> float:
    """Share of the way from the most likely value to the end of the range that the flip takes."""
    way = figure.high - figure.mid if flip.at > flip.mid else figure.mid - figure.low
    return abs(flip.at - flip.mid) / way if way > 0.0 else math.inf


def _part_of_input(curve: Curve, flip: Flip) -> float:
    """Same of an input, whose range is what was tried: in steps of its logarithm, since twice and half are equally far."""
    end = curve.high if flip.at > flip.mid else curve.low
    way = abs(math.log(end / flip.mid))
    return abs(math.log(flip.at / flip.mid)) / way if way > 0.0 else math.inf


def _flips(answer: Answer, names: dict[str, str]) -> str:
    flip = nearest_flip(answer)
    if flip is None:
        inputs = [c for c in answer.curves if c.resited]
        tried = ", ".join(f"{c.name} from {large(c.low)} to {large(c.high)} {c.unit}" for c in inputs)  # fmt: skip
        return (
            f"No single figure or input that was tried, moved alone within its range{f' ({tried})' if tried else ''}, makes another design the "
            "cheapest; draws in which another one wins take several at once."
        )
    curve = next((c for c in answer.curves if c.resited and c.id == flip.id), None)
    unit = next(
        (a.unit for a in answer.assumptions if a.id == flip.id), curve.unit if curve else ""
    )
    way = "rises" if flip.at > flip.mid else "falls"
    ids = {f.id for f in answer.flips} | {c.id for c in answer.curves if c.resited and c.flips}
    more = len(ids) - 1
    others = (
        f"; {more} more figures can do that"
        if more > 1
        else "; one more figure can do that"
        if more
        else ""
    )
    return (
        f"The answer flips to {names.get(flip.winner, flip.winner)} where {curve.name if curve else flip.id} {way} from "
        f"{large(flip.mid)} to {large(flip.at)} {unit}, all else most likely{others}."
    )


def without_policies(answer: Answer) -> tuple[str, ...]:
    """A sentence for each policy: what the answer would be without it."""
    names = names_of(answer)
    first = answer.designs[0].id
    found = []
    for p in answer.policies:
        same = p.winner_without == first
        verb = "stays" if same else "would be"
        effect = p.usd_by_design.get(first, 0.0)
        does = f"it {'adds' if effect >= 0.0 else 'takes'} {large(abs(effect))} USD {'to' if effect >= 0.0 else 'off'} {names[first]}"
        found.append(
            f"without {p.id} ({p.kind.replace('_', ' ')}) the cheapest {verb} {names.get(p.winner_without, p.winner_without)}, "
            f"in {percent(p.win_share_without.get(p.winner_without))} of draws; {does}"
        )
    return tuple(found)


def _only(answer: Answer) -> str:
    served = answer.designs[0].served_share
    return f"It delivers {percent(served)} of what is asked for within the SLO; with nothing to compare, nothing can flip."


def size_kw(design: DesignAnswer) -> float | None:
    """Mean IT power of a site in the last year."""
    last = [site.it_kw[-1] if site.it_kw else 0.0 for site in design.sites]
    return sum(last) / len(last) if last else None


def without_largest(design: DesignAnswer) -> float | None:
    """Served share when the largest site is gone."""
    return design.served_without[1] if len(design.served_without) > 1 and design.sites else None


def actions_per_site(design: DesignAnswer) -> float | None:
    """Operator actions a month over sites."""
    return design.operator_actions_per_month / len(design.sites) if design.sites else None


def moved(design: DesignAnswer) -> tuple[tuple[str, str, Ways], ...]:
    """What moving work could save, of what and in which unit."""
    if design.shifting is None:
        return ()
    return (
        ("carbon, location-based", "gCO2e", design.shifting.carbon_g),
        ("energy and carbon price", "USD", design.shifting.usd),
    )


def by_hour(design: DesignAnswer) -> float | None:
    """Share of carbon that routing by the hour saves at most over the best fixed sites, within room where that is known."""
    if design.shifting is None or len(design.sites) < 2:
        return None
    inside = design.shifting.carbon_g.gain("room_hourly", "room_static")
    return design.shifting.carbon_g.gain("hourly", "static") if inside is None else inside


def by_waiting(design: DesignAnswer) -> float | None:
    """Share of carbon that waiting within slack saves at most at the sites that are."""
    return (
        None if design.shifting is None else design.shifting.carbon_g.gain("deferred", "assigned")
    )


def away_ms(design: DesignAnswer) -> float | None:
    """Mean round trip that is added to those requests; None without any, or without small sites."""
    if away_gb(design) is None:
        return None
    gone = [a for a in design.away if not a.reference and a.added_ms is not None]
    whole = sum(a.requests_per_day for a in gone)
    return sum(a.requests_per_day * (a.added_ms or 0.0) for a in gone) / whole if whole else None


def _column(
    key: str, head: str, unit: str, method: str, kind: Kind = "number",
    why: str = "the design builds no site, or nobody publishes it",
) -> Column:  # fmt: skip
    return Column(key=key, head=head, unit=unit, method=method, kind=kind, why=why)


EFFECTS: Final = (
    Effect(column=_column("usd_per_mtoken", "cost", "USD per million tokens", "usd"), get=lambda d: d.usd_per_mtoken.p50),
    Effect(column=_column("location_g", "carbon, location-based", "gCO2e per million tokens", "location"), get=lambda d: d.location_g_per_mtoken.p50),
    Effect(column=_column("embodied_g", "carbon, embodied", "gCO2e per million tokens", "embodied"), get=lambda d: d.embodied_g_per_mtoken.p50),
    Effect(column=_column("kwh", "energy at the meter", "kWh per million tokens", "kwh"), get=lambda d: d.kwh_per_mtoken.p50),
    Effect(column=_column("water_l", "water", "litres per million tokens", "water"), get=lambda d: d.water_l_per_mtoken.p50),
    Effect(column=_column("ttft_ms_p95", "TTFT p95, planned", "ms", "ttft"), get=lambda d: d.ttft_ms_p95),
    Effect(column=_column("rtt_ms_p95", "round trip p95", "ms", "rtt"), get=lambda d: d.rtt_ms_p95),
    Effect(column=_column("served_without_1", "served when the largest site is gone", "share of interactive", "available", "percent"), get=without_largest, more_is_better=True),
    Effect(column=_column("available", "availability", "share of interactive", "available", "nines"), get=lambda d: d.available if d.sites else None, more_is_better=True),
    Effect(column=_column("pooling_extra_share", "pooling loss: slots more than one pool needs", "share", "pooling", "percent"), get=lambda d: d.pooling_extra_share),
    Effect(column=_column("idle_share", "idle chips", "share of installed work", "idle", "percent"), get=lambda d: d.idle_share),
    Effect(column=_column("stranded_usd_per_year", "stranded capital", "USD a year", "idle", "usd"), get=lambda d: d.stranded_usd_per_year if d.sites else None),
    Effect(column=_column("pue", "PUE", "kWh per kWh", "pue"), get=lambda d: d.pue),
    Effect(column=_column("ups_load_share", "load of the UPS, mean of the first year", "share of its rating", "ups", "percent"), get=lambda d: d.ups_load_share, more_is_better=True),
    Effect(column=_column("ups_efficiency", "efficiency of the UPS at that load", "IT over input", "ups", "percent"), get=lambda d: d.ups_efficiency, more_is_better=True),
    Effect(column=_column("ups_loss_share", "UPS loss", "share of IT energy", "ups", "percent"), get=lambda d: d.ups_loss_share),
    Effect(column=_column("staff_fte", "staff", "full-time people", "staff"), get=lambda d: d.staff_fte),
    Effect(column=_column("operator_actions_per_month", "operator actions", "a month", "staff"), get=lambda d: d.operator_actions_per_month),
    Effect(column=_column("wan_gb_per_year", "WAN traffic", "GB a year", "wan", "usd"), get=lambda d: d.wan_gb_per_year),
    Effect(column=_column("away_gb_per_day", "inference over the WAN: no small site holds the model", "GB a day", "away", "usd", NO_SMALL), get=away_gb),
    Effect(column=_column("jurisdictions", "jurisdictions", "countries", "law", "count"), get=lambda d: float(d.jurisdictions) if d.sites else None),
    Effect(column=_column("carbon_free_share", "carbon-free hour by hour", "share of energy", "hours", "percent"), get=lambda d: d.carbon_free_share, more_is_better=True),
    Effect(column=_column("annual_match_share", "own generation over use, by the year", "share", "hours", "percent"), get=lambda d: d.annual_match_share, more_is_better=True),
    Effect(column=_column("hourly_match_share", "own generation over use, hour by hour", "share", "hours", "percent"), get=lambda d: d.hourly_match_share, more_is_better=True),
)  # fmt: skip
"""What decides between small and large, most asked for first."""


def contrast(answer: Answer) -> Contrast | None:
    """The smallest sites against the largest, figure by figure; None where no two designs differ in the size of their sites."""
    sized = [(kw, d) for d in answer.designs if (kw := size_kw(d))]
    if len(sized) < 2:
        return None
    small, big = min(sized, key=lambda p: p[0]), max(sized, key=lambda p: p[0])
    if small[0] >= big[0] * (1.0 - SAME):
        return None
    better: list[tuple[Effect, str]] = []
    worse: list[tuple[Effect, str]] = []
    same, unknown = [], []
    for effect in EFFECTS:
        a, b = effect.get(small[1]), effect.get(big[1])
        if a is None or b is None or not (math.isfinite(a) and math.isfinite(b)):
            unknown.append(effect)
        elif _alike(effect, a, b):
            same.append(effect)
        else:
            side = better if (a > b) == effect.more_is_better else worse
            side.append((effect, _beside(effect, a, b)))
    return Contrast(
        small=small[1],
        large=big[1],
        speaks_for=tuple(better),
        speaks_against=tuple(worse),
        same=tuple(same),
        unknown=tuple(unknown),
    )


def _alike(effect: Effect, a: float, b: float) -> bool:
    """Too near to speak for anybody; of shares near one, what is missing to one counts."""
    if effect.column.kind == "nines":
        a, b = 1.0 - a, 1.0 - b
    return abs(a - b) <= SAME * max(abs(a), abs(b))


def _beside(effect: Effect, small: float, big: float) -> str:
    unit = "" if effect.column.kind in ("percent", "nines") else f" {effect.column.unit}"
    return f"{shown(effect.column, small)} against {shown(effect.column, big)}{unit}"


def tokens(per_day: float) -> str:
    """Tokens a day in words."""
    return f"{large(per_day)} tokens a day"
