"""`Answer`: what a study came to, as one frozen value: what `--json` prints, Python gets and the report shows.

Here: the types, with what each figure means. Not here: computing them (`plan.solve`), drawing them (`plan.report`).

Ranges over draws are quantiles 5, 50 and 95 %. None: not known, or of nothing. Location-based, market-based and marginal carbon answer three
questions about the same energy and are never added; embodied carbon stands beside each.
"""

from __future__ import annotations

from collections.abc import Sequence

from hanse.model.fleet import Value
from hanse.plan.doubt import Curve, Flip, Swing
from hanse.plan.held import Away, Held
from hanse.plan.shifting import Shifting
from hanse.plan.validate import Round


class Range(Value, frozen=True, kw_only=True):
    """A figure over all draws."""

    p5: float
    p50: float
    p95: float


class SiteAnswer(Value, frozen=True, kw_only=True):
    """One site of a design, as planned."""

    id: str
    city: str
    country: str
    lat_deg: float
    lon_deg: float
    size: str
    kind: str
    it_kw: tuple[float, ...]
    """Plant by year."""
    chips: dict[str, int]
    """Accelerators in the last year."""
    pv_kw: float
    wind_kw: float
    battery_kwh: float
    battery_kw: float
    pue: float | None
    """Of the first year; a hall that fills up gets better."""
    ups_load_share: float | None
    """Mean IT load of the first year over the rating of the UPS."""
    ups_efficiency: float | None
    """IT energy over what went into the UPS for it, first year: at that load, hour by hour."""
    wue_l_per_kwh: float | None
    carbon_free_share: float | None
    """Hour by hour."""
    carbon_free_hours: tuple[float, ...]
    """[hour of the UTC day] of the year's mean, for the heat map."""
    price_usd_per_kwh: float
    usd_per_year: float
    """What belongs to the site, median of draws, mean of years."""
    next_best: str
    """What leaving it out would cost."""


class DesignAnswer(Value, frozen=True, kw_only=True):
    """One way to build."""

    id: str
    name: str
    sites: tuple[SiteAnswer, ...]
    rented_share: float
    """Of demand, always rented; busy hours that are rented come on top."""
    served_share: float
    """Of the tokens asked for, delivered within the SLO, median of draws."""
    usd_per_mtoken: Range
    usd_npv: Range
    usd_by_group: dict[str, float]
    """A year, median of draws and mean of years."""
    usd_by_item: dict[str, float]
    kwh_per_mtoken: Range
    water_l_per_mtoken: Range
    location_g_per_mtoken: Range
    market_g_per_mtoken: Range
    marginal_g_per_mtoken: Range | None
    embodied_g_per_mtoken: Range
    win_share: float
    """Share of draws in which it costs least per delivered token."""
    win_share_carbon: float
    """Share of draws in which it emits least (location-based and embodied)."""
    ttft_ms_p50: float | None
    ttft_ms_p95: float | None
    """Planned, interactive requests of the first year."""
    ttft_curve_ms: tuple[float, ...]
    """Quantiles 0, 1, ... 100 %."""
    rtt_ms_p95: float | None
    idle_share: float | None
    """Of installed chips' work, mean of years, median of draws."""
    stranded_usd_per_year: float
    """Capital of chips and plant times what stands idle."""
    pooling_extra_share: float | None
    """Slots that separate sites need over one pool of the same demand, less 1."""
    pue: float | None
    ups_loss_share: float | None
    """Of IT energy."""
    ups_load_share: float | None
    """Mean IT load of the first year over the ratings of all UPS."""
    ups_load_share_last: float | None
    """Same of the last year."""
    ups_efficiency: float | None
    """IT energy over what went into the UPS for it, first year."""
    carbon_free_share: float | None
    """Hour by hour."""
    annual_match_share: float | None
    """Own generation over use, summed over the year: what annual matching would claim."""
    hourly_match_share: float | None
    """Own generation that reaches the load over use: what is left of `annual_match_share` when hours count. From batteries counts what they give
    back, not what they are charged with."""
    own_power_used_share: float | None
    """Of own generation, neither sold nor thrown away; what batteries are charged with counts, their losses included."""
    wan_gb_per_year: float
    away: tuple[Away, ...]
    """What goes over the WAN because none of its small sites holds the model; and what would, of larger models."""
    shifting: Shifting | None
    """The most that moving work by the hour could save; None where nothing is built."""
    available: float
    """Expected share of interactive demand that can be served, all sites' availabilities together."""
    served_without: tuple[float, ...]
    """Share of interactive demand that is served when the k largest sites are gone, k = 0, 1, 2, 3."""
    staff_fte: float
    operator_actions_per_month: float
    jurisdictions: int
    duties: tuple[str, ...]
    """Sites that had to be mended to be lawful."""
    rounds: tuple[Round, ...]
    """What the twin said; empty: not asked."""
    fleet_file: str
    trace_file: str
    gap: float
    notes: tuple[str, ...]


def unlike(ranked: Sequence[DesignAnswer]) -> tuple[DesignAnswer, ...]:
    """Without those that cost the very same as one before them: a mix may come to a design of one kind."""
    found: list[DesignAnswer] = []
    for design in ranked:
        if all(design.usd_per_mtoken != other.usd_per_mtoken for other in found):
            found.append(design)
    return tuple(found)


def away_gb(design: DesignAnswer) -> float | None:
    """GB a day of what is asked for that no small site of the design holds in time; None without small sites, where nothing could be held."""
    if all(site.kind == "region" for site in design.sites):
        return None
    return sum(a.gb_per_day for a in design.away if not a.reference)


class TrainingAnswer(Value, frozen=True, kw_only=True):
    """One training job: in one place or across sites."""

    id: str
    choice: str
    why: str
    days_central: float | None
    days_across: float | None
    utilisation_across: float | None
    loss_penalty_pct: float | None
    usd_central: float | None
    usd_across: float | None
    kwh_central: float | None
    kwh_across: float | None
    wan_gbit_s: float | None
    notes: tuple[str, ...]


class PolicyAnswer(Value, frozen=True, kw_only=True):
    """The answer without a rule with dates; all other rules hold."""

    id: str
    kind: str
    source: str
    usd_by_design: dict[str, float]
    """What the rule does: present value of each design's cost with it less without it, median of draws."""
    usd_per_mtoken_without: dict[str, float | None]
    """Median of draws, by design; None: nothing is delivered."""
    win_share_without: dict[str, float]
    """Share of draws in which a design is the cheapest."""
    winner_without: str
    """The cheapest design, by the median."""
    resited: bool
    """The rule says where one may build: without it the sites were searched anew."""


class ClaimAnswer(Value, frozen=True, kw_only=True):
    """A claim that is usually made, and what was found."""

    id: str
    claim: str
    by_design: dict[str, str]
    """Measured value with its unit, by design."""
    condition: str
    verdict: str
    """`holds`, `does not hold` or `depends on X`, with the break-even of X."""


class AssumptionAnswer(Value, frozen=True, kw_only=True):
    """A figure that the answer rests on."""

    id: str
    group: str
    unit: str
    low: float
    mid: float
    high: float
    basis: str
    source: str
    note: str


class Answer(Value, frozen=True, kw_only=True):
    """All of it."""

    schema: str = "hanse-plan/1"
    study: str
    start: str
    years: int
    draws: int
    seed: int
    software: str
    command: str
    """Repeats the study."""
    tokens_per_day: float
    """Asked for in the first year."""
    designs: tuple[DesignAnswer, ...]
    """Cheapest first, by the median."""
    swings: tuple[Swing, ...]
    """Of the difference between the first two designs."""
    flips: tuple[Flip, ...]
    """Of figures with a range, nearest first."""
    curves: tuple[Curve, ...] = ()
    """Break-even curves: premium, growth, carbon price, latency limit, size of demand."""
    trainings: tuple[TrainingAnswer, ...]
    held: tuple[Held, ...]
    """Models beside the memory of each size class."""
    policies: tuple[PolicyAnswer, ...]
    claims: tuple[ClaimAnswer, ...]
    assumptions: tuple[AssumptionAnswer, ...]
    notes: tuple[str, ...]

    def design(self, id: str) -> DesignAnswer:
        """A design by id."""
        return next(d for d in self.designs if d.id == id)
