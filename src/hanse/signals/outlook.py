"""What the next hours are expected to bring, as one value: demand by subject and entry, and each site's power.

Here: `Outlook`, which forecasts make and the slow loop decides from; an event of the decision core carries it, so that a replay
needs no forecast. Not here: how anything is forecast (`forecast`), what is decided (`dispatch`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec.structs import replace

from hanse.model.fleet import CarbonSignal, CountryCode, Id, Value
from hanse.signals.clock import TRUE_CLOCK, Clock

__all__ = [
    "UNBOUND_KW",
    "CarbonSignal",
    "DemandOutlook",
    "Outlook",
    "SiteOutlook",
    "TotalOutlook",
    "bounded",
]

UNBOUND_KW: Final = 1e9
"""Where nothing bounds a site; a number, since a log has no infinities."""
Bound = tuple[float, float, float]
"""From, until (Unix seconds UTC, the later may be infinite), kW."""


class DemandOutlook(Value, frozen=True, kw_only=True):
    """Requests of one service from one subject of law at one entry; all tuples [step]."""

    service: Id
    tenant: Id
    data_class: Id
    country: CountryCode
    """Of legal origin; with tenant and class it names the subject (`LawTable.find`)."""
    origin: Id
    """Site whose gateway users of this demand are nearest to."""
    requests_per_s: tuple[float, ...]
    """Expected means of the steps."""
    requests_per_s_high: tuple[float, ...]
    """What nineteen of twenty steps stay under, at equal `issued_at_s`."""
    input_tokens: float
    """Mean of a request."""
    output_tokens: float
    cached_share: float = 0.0
    """Of prompt tokens, found again in a prefix cache."""
    waits: bool = False
    """Work that may wait: it needs room, and none that outlives a failure."""


class TotalOutlook(Value, frozen=True, kw_only=True):
    """All requests of a service together, [step]: their peaks are lower than the sum of each origin's own."""

    service: Id
    requests_per_s_high: tuple[float, ...]
    """What nineteen of twenty steps stay under."""


class SiteOutlook(Value, frozen=True, kw_only=True):
    """Power at one site; all tuples [step]. Own generation is at the site's terminals, before any use."""

    site: Id
    price_usd_per_kwh: tuple[float, ...]
    carbon_g_per_kwh: tuple[float, ...]
    carbon_signal: CarbonSignal
    """Kind of `carbon_g_per_kwh`: sums over sites need equal kinds."""
    pue: tuple[float, ...]
    pv_kw: tuple[float, ...]
    wind_kw: tuple[float, ...]
    grid_kw_max: tuple[float, ...]
    """What may be imported: the connection, less a brownout."""
    load_kw_max: tuple[float, ...] = ()
    """What a grid's operator, or a person, lets the site draw in all, its own generation counted too; empty: nobody asks for less."""
    cooled_share: tuple[float, ...] = ()
    """Of the rated IT power, what can be cooled in the weather foreseen; empty: nobody knows the weather."""


class Outlook(Value, frozen=True, kw_only=True):
    """All forecasts of one instant on one axis of steps."""

    issued_at_s: float
    """Unix seconds UTC: nothing later was known."""
    start_s: float
    step_s: float
    demand: tuple[DemandOutlook, ...]
    sites: tuple[SiteOutlook, ...]
    totals: tuple[TotalOutlook, ...] = ()
    """Of services whose origins were foreseen together, too; of others every origin is thought to peak at once."""
    clock: Clock = TRUE_CLOCK
    """By which all instants and durations here are told; requests a second are true seconds, always."""

    def __post_init__(self) -> None:
        lengths = {len(d.requests_per_s) for d in self.demand} | {
            len(d.requests_per_s_high) for d in self.demand
        }
        lengths |= {len(t.requests_per_s_high) for t in self.totals}
        for site in self.sites:
            lengths |= {
                len(site.price_usd_per_kwh), len(site.carbon_g_per_kwh), len(site.pue),
                len(site.pv_kw), len(site.wind_kw), len(site.grid_kw_max),
                len(site.cooled_share) or len(site.grid_kw_max),
                len(site.load_kw_max) or len(site.grid_kw_max),
            }  # fmt: skip
        assert len(lengths) <= 1 and 0 not in lengths, "one axis for all"
        assert len({site.carbon_signal for site in self.sites}) <= 1, "one kind of carbon in a sum"

    @property
    def count(self) -> int:
        """Steps."""
        return len(self.sites[0].pue) if self.sites else 0


def bounded(outlook: Outlook, bounds: Mapping[str, Sequence[Bound]]) -> Outlook:
    """An outlook with what sites are asked to draw at most, by the true clock; a step that a bound touches is bound as a whole."""
    clock = outlook.clock
    edges_s = [clock.true_s(outlook.start_s + n * outlook.step_s) for n in range(outlook.count + 1)]
    sites = []
    for site in outlook.sites:
        most = [UNBOUND_KW] * outlook.count
        for from_s, until_s, kw in bounds.get(site.site, ()):
            for n in range(outlook.count):
                if from_s < edges_s[n + 1] and until_s > edges_s[n]:
                    most[n] = min(most[n], kw)
        asked = any(kw < UNBOUND_KW for kw in most)
        sites.append(replace(site, load_kw_max=tuple(most) if asked else ()))
    return replace(outlook, sites=tuple(sites))
