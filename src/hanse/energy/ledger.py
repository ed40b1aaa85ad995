"""A quarter of an hour of a site's energy: what its meter counted, and what of it requests, idle engines, overhead and others took.

Here: the arithmetic of one quarter (`Quarter`, `parts_of`), kept free of clocks and files. Not here: what a request is charged
(its own record says, and this adds those up), reading meters (`live.facility`), keeping quarters (`live.site_books`).

    drawn + excess = requests + idle + overhead + others + missing

Each part comes from another place, so that the sum is a check and no definition: `drawn` from the meter's own account, `requests`
from the records of what ended, `idle` from looks at engines that run nothing, `overhead` and `others` from the power between meter
and engines. What does not close is told. Without a meter `drawn` is what the parts come to, and its method says so.

A request is charged at the meter: its engine's Wh times the PUE of the routing table that it came under. That part of cooling and
UPS is in `requests`; `overhead` is the rest of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from hanse.energy.balance import WINDOW_S
from hanse.units import wh_from_j

QUARTER_S: Final = WINDOW_S
"""The quarter of demand charges and of meters that are read remotely; four are an hour."""
THROUGHOUT: Final = 0.99
"""Of the time looked at, in which a meter has to have counted for the quarter to be measured."""
ESTIMATED_ERROR_SHARE: Final = 0.4
"""Of IT power by CPU time: idle watts of the five server families behind the catalogue's thread are up to 37 % off their mean."""
MODELLED_ERROR_SHARE: Final = 0.35
"""Of energy by the step model: what docs/predict.md expects of families that were little measured."""
OVERHEAD_ERROR_SHARE: Final = 0.5
"""Of overhead by the model of the plant: small rooms were measured from a PUE of 1.15 to 2.5, where it says about 1.4 (docs/energy.md)."""

How = Literal["measured", "estimated", "modelled", ""]
_WEAKEST_FIRST: Final[tuple[How, ...]] = ("modelled", "estimated", "measured")


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """A site at one instant, W; held until the next look."""

    it_w: float
    """Of engines whose power somebody tells: meters, else CPU time."""
    it_error_share: float | None
    """None: an estimate."""
    drawn_w: float
    """All the site draws: its meter, else `base_w + it_w x pue`."""
    drawn_error_share: float | None
    base_w: float
    """For others."""
    busy_w: float
    """Of `it_w`: engines that have a request."""
    silent_idle_w: float = 0.0
    """Idle figures of engines whose power nobody tells."""
    pue: float = 1.0
    carbon_g_per_kwh: float | None = None
    """Of the site's next kWh, as routing has it; None: nobody knows."""
    market_g_per_kwh: float | None = None
    marginal_g_per_kwh: float | None = None
    price_usd_per_kwh: float | None = None


FACTORS: Final = (
    "carbon_g_per_kwh",
    "market_g_per_kwh",
    "marginal_g_per_kwh",
    "price_usd_per_kwh",
)


class Quarter(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Sums of one quarter so far, Wh where nothing else is said."""

    start_s: float
    seen_s: float = 0.0
    it_wh: float = 0.0
    it_measured_s: float = 0.0
    it_error_wh: float = 0.0
    drawn_wh: float = 0.0
    drawn_measured_s: float = 0.0
    drawn_error_wh: float = 0.0
    base_wh: float = 0.0
    busy_wh: float = 0.0
    silent_idle_wh: float = 0.0
    pue_s: float = 0.0
    """PUE times seconds."""
    site_meter_wh: float = 0.0
    it_meter_wh: float = 0.0
    site_gap_s: float = 0.0
    it_gap_s: float = 0.0
    requests: int = 0
    requests_wh: dict[str, float] = {}
    """By method."""
    requests_it_wh: dict[str, float] = {}
    factor_s: dict[str, float] = {}
    """By name of a factor: its value times seconds."""
    factor_known_s: dict[str, float] = {}

    def look(self, seen: Look, elapsed_s: float) -> None:
        """So it was for so long."""
        assert elapsed_s >= 0.0, "time goes on"
        self.seen_s += elapsed_s
        self.it_wh += wh_from_j(seen.it_w * elapsed_s)
        self.drawn_wh += wh_from_j(seen.drawn_w * elapsed_s)
        self.base_wh += wh_from_j(seen.base_w * elapsed_s)
        self.busy_wh += wh_from_j(min(seen.busy_w, seen.it_w) * elapsed_s)
        self.silent_idle_wh += wh_from_j(seen.silent_idle_w * elapsed_s)
        self.pue_s += seen.pue * elapsed_s
        if seen.it_error_share is not None:
            self.it_measured_s += elapsed_s
            self.it_error_wh += wh_from_j(seen.it_w * elapsed_s) * seen.it_error_share
        if seen.drawn_error_share is not None:
            self.drawn_measured_s += elapsed_s
            self.drawn_error_wh += wh_from_j(seen.drawn_w * elapsed_s) * seen.drawn_error_share
        for name in FACTORS:
            value = getattr(seen, name)
            if value is not None:
                self.factor_s[name] = self.factor_s.get(name, 0.0) + value * elapsed_s
                self.factor_known_s[name] = self.factor_known_s.get(name, 0.0) + elapsed_s

    def factor(self, name: str) -> float | None:
        """Mean over the quarter; None where it was not known throughout."""
        known_s = self.factor_known_s.get(name, 0.0)
        return self.factor_s[name] / known_s if _throughout(known_s, self) else None

    def count(self, kind: Literal["site", "it"], wh: float, gap_s: float) -> None:
        """What meters of a kind have counted more, and time that they missed."""
        assert wh >= 0.0 and gap_s >= 0.0, "meters count upwards"
        if kind == "site":
            self.site_meter_wh += wh
            self.site_gap_s += gap_s
        else:
            self.it_meter_wh += wh
            self.it_gap_s += gap_s

    def charge(self, method: str, wh: float, pue: float, ended: int) -> None:
        """What records say that requests were charged; `ended` of them end in this quarter."""
        assert wh >= 0.0 and pue >= 1.0, "a request takes energy, and a hall more than its chips"
        self.requests += ended
        self.requests_wh[method] = self.requests_wh.get(method, 0.0) + wh
        self.requests_it_wh[method] = self.requests_it_wh.get(method, 0.0) + wh / pue


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """A quarter drawn up, Wh."""

    drawn_wh: float
    drawn_method: How
    drawn_error_share: float
    it_wh: float
    it_method: How
    it_error_share: float
    requests_wh: dict[str, float]
    requests_it_wh: float
    idle_wh: float
    overhead_wh: float
    others_wh: float
    missing_wh: float
    excess_wh: float

    @property
    def open_share(self) -> float:
        """How far the parts are from the meter."""
        return (self.missing_wh + self.excess_wh) / self.drawn_wh if self.drawn_wh > 0.0 else 0.0


def parts_of(quarter: Quarter) -> Parts:
    """Draw a quarter up."""
    q = quarter
    requests_wh = math.fsum(q.requests_wh.values())
    requests_it_wh = math.fsum(q.requests_it_wh.values())
    it_measured = _throughout(q.it_measured_s, q)
    # Engines of which nobody tells the power are inside an IT meter, and beside any other figure of IT.
    silent_wh = 0.0
    if not it_measured:
        silent_wh = q.silent_idle_wh + q.requests_it_wh.get("modelled", 0.0)
    it_wh = (q.it_meter_wh if _counted("it", q) else q.it_wh) + silent_wh
    idle_wh = q.it_wh - q.busy_wh + (0.0 if it_measured else q.silent_idle_wh)
    site_measured = _throughout(q.drawn_measured_s, q)
    pue = q.pue_s / q.seen_s if q.seen_s > 0.0 else 1.0
    power_wh = q.drawn_wh + (0.0 if site_measured else silent_wh * pue)
    drawn_wh = q.site_meter_wh if _counted("site", q) else power_wh
    over_it_wh = max(power_wh - q.base_wh - q.it_wh - silent_wh, 0.0)
    overhead_wh = max(over_it_wh - (requests_wh - requests_it_wh), 0.0)
    sum_wh = math.fsum((requests_wh, idle_wh, overhead_wh, q.base_wh))
    it_method = _it_method(q, it_measured=it_measured, silent_wh=silent_wh)
    it_error = _it_error(q, it_method, it_wh - silent_wh, silent_wh)
    drawn_method: How = "measured" if _counted("site", q) else _or_estimated(it_method)
    return Parts(
        drawn_wh=drawn_wh,
        drawn_method=drawn_method,
        drawn_error_share=_drawn_error(q, drawn_method, power_wh, it_wh * it_error, over_it_wh),
        it_wh=it_wh,
        it_method=it_method,
        it_error_share=it_error,
        requests_wh=dict(sorted(q.requests_wh.items())),
        requests_it_wh=requests_it_wh,
        idle_wh=idle_wh,
        overhead_wh=overhead_wh,
        others_wh=q.base_wh,
        missing_wh=max(drawn_wh - sum_wh, 0.0),
        excess_wh=max(sum_wh - drawn_wh, 0.0),
    )


def worst_method(methods: Iterable[How]) -> How:
    """The weakest of some ways to know an energy; empty of none."""
    found = set(methods)
    return next((how for how in _WEAKEST_FIRST if how in found), "")


def _throughout(measured_s: float, q: Quarter) -> bool:
    return q.seen_s > 0.0 and measured_s >= THROUGHOUT * q.seen_s


def _counted(kind: Literal["site", "it"], q: Quarter) -> bool:
    """Whether the meters' own account is the quarter's figure: they counted all of the time that was looked at."""
    measured_s, wh, gap_s = (
        (q.drawn_measured_s, q.site_meter_wh, q.site_gap_s)
        if kind == "site"
        else (q.it_measured_s, q.it_meter_wh, q.it_gap_s)
    )
    return _throughout(measured_s, q) and gap_s == 0.0 and wh > 0.0


def _it_method(q: Quarter, *, it_measured: bool, silent_wh: float) -> How:
    if it_measured:
        return "measured"
    return "modelled" if silent_wh > q.it_wh else "estimated"


def _it_error(q: Quarter, method: How, told_wh: float, silent_wh: float) -> float:
    if method == "measured":
        return q.it_error_wh / q.it_wh if q.it_wh > 0.0 else 0.0
    whole_wh = told_wh + silent_wh
    if whole_wh <= 0.0:
        return ESTIMATED_ERROR_SHARE
    return (told_wh * ESTIMATED_ERROR_SHARE + silent_wh * MODELLED_ERROR_SHARE) / whole_wh


def _drawn_error(
    q: Quarter, method: How, power_wh: float, it_error_wh: float, over_it_wh: float
) -> float:
    if method == "measured":
        return q.drawn_error_wh / q.drawn_wh if q.drawn_wh > 0.0 else 0.0
    error_wh = it_error_wh + over_it_wh * OVERHEAD_ERROR_SHARE
    return error_wh / power_wh if power_wh > 0.0 else 0.0


def _or_estimated(it_method: How) -> How:
    """Without a meter of the site the plant is a model, however well IT is known."""
    return "modelled" if it_method == "modelled" else "estimated"


def spread(at_s: float, lasted_s: float) -> Mapping[float, float]:
    """Shares of something that lasted so long and ended then, by the start of the quarter that they fall into."""
    last_s = at_s // QUARTER_S * QUARTER_S
    from_s = at_s - lasted_s
    if from_s >= last_s or lasted_s <= 0.0:
        return {last_s: 1.0}
    shares = {}
    start_s = from_s // QUARTER_S * QUARTER_S
    while start_s <= last_s:
        begun_s, ended_s = max(from_s, start_s), min(at_s, start_s + QUARTER_S)
        shares[start_s] = (ended_s - begun_s) / lasted_s
        start_s += QUARTER_S
    return shares
