"""A tenant's account of a period: requests, tokens, places, Wh, gCO2e, USD, law, and a root over its receipts.

Here: `statements`, from the records of all sites and nothing else, so that what a request is charged is what its receipt says.
Not here: reading logs (`audit`), how a statement is written (`statement_files`).

A request belongs to the period in which it was first decided. Its charges are those of its one `ended` record at the entry site,
and so is where it ran by its `executed` record; one without such a record is counted as unfinished and charged nothing. Sums are
`math.fsum` of figures in a fixed order, so that the order in which records arrived changes no digit.

The three carbon figures answer three questions about the same Wh and are never added: `location` is what receipts say; `market`
and `marginal` are the same Wh by the factors of the executing site's quarter (`chain.Metered`), and say for how many Wh nobody
knows a factor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from hanse.energy.ledger import ESTIMATED_ERROR_SHARE, MODELLED_ERROR_SHARE, QUARTER_S
from hanse.live.evidence.audit import Logs
from hanse.live.evidence.chain import Decided, Ended, Executed, Metered
from hanse.live.evidence.judge import LAW_REFUSALS, Found, Judgement, LawCheck, judge
from hanse.live.evidence.merkle import leaf_hash, root_of
from hanse.model.fleet import Value
from hanse.units import SECONDS_PER_DAY

MARGIN_S: Final = SECONDS_PER_DAY
"""Records of a request lie at most so far apart: deadlines are minutes, and of a batch's line hours."""
LATE_S: Final = 120.0
"""A site that is idle signs once a minute, and what is shipped arrives within seconds."""
REASONS_MAX: Final = 20
METERED_ERROR_SHARE: Final = 0.02
"""Of a request whose engine tells its own energy: a meter of class 2, as `PlantMeter.error_share`."""
ERROR_SHARES: Final = {
    "measured": METERED_ERROR_SHARE,
    "estimated": ESTIMATED_ERROR_SHARE,
    "modelled": MODELLED_ERROR_SHARE,
}

Fate = Literal["answered", "failed", "broken", "cancelled", "refused", "unfinished"]
FATES: Final[tuple[Fate, ...]] = (
    "answered",
    "failed",
    "broken",
    "cancelled",
    "refused",
    "unfinished",
)


class Place(Value, frozen=True, kw_only=True):
    """What ran at one site."""

    site: str
    """Empty: nothing shows where it ran."""
    country: str
    requests: int
    tokens_in: int
    tokens_out: int
    energy_wh: dict[str, float]
    """By method."""
    carbon_location_g: float
    cost_usd: float


class Carbon(Value, frozen=True, kw_only=True):
    """Three answers to three questions; never a sum."""

    location_g: float
    market_g: float
    market_unknown_wh: float
    """Of the energy, for which no factor is known; not in `market_g`."""
    marginal_g: float
    marginal_unknown_wh: float


class Residency(Value, frozen=True, kw_only=True):
    """What the audit shows of law."""

    lawful: int
    """Executed at sites that were shown to be allowed, by their own tables and by the law asked again."""
    refused_by_law: int
    refused_otherwise: int
    """For room, power and the like: shown to have run nowhere."""
    unproven: int
    against_law: int
    """Of those, requests that a site processed, or was trusted with, against the law."""
    rules: dict[str, int]
    """Refusals by law, by the rule that barred sites; one refusal may name several."""
    reasons: dict[str, int]
    """Why requests are unproven; the most frequent."""


class Extent(Value, frozen=True, kw_only=True):
    """How far the copy of a site's log reaches."""

    site: str
    sealed_until_s: float


class Statement(Value, frozen=True, kw_only=True):
    """One tenant's account of a period; tenant empty: of all."""

    schema: Literal["hanse-statement/1"] = "hanse-statement/1"
    fleet: str
    tenant: str
    from_s: float
    until_s: float
    """Not included."""
    requests: int
    fates: dict[str, int]
    tokens_in: int
    tokens_out: int
    places: tuple[Place, ...]
    energy_wh: dict[str, float]
    """By method."""
    energy_error_share: dict[str, float]
    """Of each method, two standard errors or the range of what it rests on."""
    carbon: Carbon
    cost_usd: float
    residency: Residency
    receipts_root: str
    """Merkle root (RFC 9162) over the leaves of all requests, in the order of their ids; hex."""
    complete: bool
    missing: tuple[str, ...]
    """What this statement cannot know; empty where it is complete."""
    extents: tuple[Extent, ...]


class Leaf(NamedTuple):
    """What a statement's root holds of one request."""

    request_id: bytes
    leaf: bytes


class Stated(NamedTuple):
    """A statement with what its root was made of."""

    statement: Statement
    leaves: tuple[Leaf, ...]


class Period(NamedTuple):
    """Requests first decided in [from_s, until_s)."""

    from_s: float
    until_s: float

    def keeps(self, at_s: float) -> bool:
        """Whether a record may belong to a request of the period."""
        return self.from_s - MARGIN_S <= at_s < self.until_s + MARGIN_S


class _Charged(NamedTuple):
    """One request, as a statement counts it."""

    leaf: Leaf
    tenant: str
    fate: Fate
    site: str
    tokens_in: int
    tokens_out: int
    energy_wh: float
    method: str
    carbon_g: float
    cost_usd: float
    market_g: float | None
    marginal_g: float | None
    judgement: Judgement
    refusal: str
    rules: tuple[str, ...]


def request_leaf(request_id: bytes, leaves: Collection[bytes]) -> Leaf:
    """A request's leaf, from the hashes of its records at its entry site: decisions, execution there, and the end with all charges.

    A receipt holds those records too, so it leads to the same leaf; those of other sites may have come later than either.
    """
    body = b"hanse-request/1\x00" + request_id + b"".join(sorted(set(leaves)))
    return Leaf(request_id, leaf_hash(body))


def entry_leaf(request_id: bytes, found: Iterable[Found]) -> Leaf:
    """The same from records as they were found; all those that the entry site's log has of the request."""
    held = list(found)
    entry = _entry_of(held)
    return request_leaf(request_id, [f.leaf for f in held if f.site == entry])


def statements(
    logs: Logs,
    period: Period,
    *,
    fleet: str,
    countries: Mapping[str, str],
    tenants: Collection[str],
    law: LawCheck | None,
    now_s: float,
) -> dict[str, Stated]:
    """Statements of all tenants, and of all together under the empty name.

    Args:
        logs: Read with `keep=lambda record: period.keeps(record.at_s)`, or more.
        countries: Country of each site.
        tenants: That are to have a statement even without a request.
        law: Asked again for every site that was trusted with a request; None: it is not.
        now_s: A period that ends later is not over, and the statement says so.
    """
    factors = {(q.site, q.start_s): q for q in logs.quarters}
    charged = []
    for request_id in sorted(logs.requests):
        one = _charge(request_id, logs.requests[request_id], period, law, factors)
        charged += [] if one is None else [one]
    missing = _missing(logs, period, countries, now_s)
    extents = tuple(
        Extent(site=one.site, sealed_until_s=one.sealed_until_s)
        for one in sorted(logs.sites, key=lambda one: one.site)
        if one.site in countries
    )
    disputed = _disputed(logs, period)
    names = sorted({*tenants, *disputed, *(one.tenant for one in charged)} - {""})
    made = {}
    for tenant in ("", *names):
        own = [one for one in charged if tenant in ("", one.tenant)]
        told = missing
        if n := disputed[tenant]:
            told += (f"{n} requests are claimed by several entry sites or for several tenants",)
        statement = _statement(fleet, tenant, period, own, countries, told, extents)
        made[tenant] = Stated(statement, tuple(one.leaf for one in own))
    return made


def _charge(
    request_id: bytes,
    found: Sequence[Found],
    period: Period,
    law: LawCheck | None,
    factors: Mapping[tuple[str, float], Metered],
) -> _Charged | None:
    """A request of the period; None: of another one."""
    entry = _entry_of(found)
    decided = sorted(
        (d for d in _claims(found) if d.entry_site == entry), key=lambda d: (d.attempt, d.at_s)
    )
    begun_s = decided[0].at_s if decided else min(f.record.at_s for f in found)
    if not period.from_s <= begun_s < period.until_s:
        return None
    judgement = judge(sorted(found, key=lambda f: (f.site, f.leaf)), law)
    ends = [
        f.record
        for f in found
        if isinstance(f.record, Ended) and f.record.role == "entry" and f.site == entry
    ]
    end = ends[0] if len(ends) == 1 else None
    last = decided[-1] if decided else None
    site = judgement.executing_site or (_ran_at(found, end) if end is not None else "")
    refused = last is not None and bool(last.refusal)
    quarter = None if end is None else factors.get((site, end.at_s // QUARTER_S * QUARTER_S))
    return _Charged(
        leaf=entry_leaf(request_id, found),
        tenant=min(_tenants_of([f for f in found if f.site == entry] or found), default=""),
        fate=end.outcome if end is not None else "refused" if refused else "unfinished",
        site=site,
        tokens_in=0 if end is None else end.tokens_in,
        tokens_out=0 if end is None else end.tokens_out,
        energy_wh=0.0 if end is None else end.energy_wh,
        method="" if end is None else end.method,
        carbon_g=0.0 if end is None else end.carbon_g,
        cost_usd=0.0 if end is None else end.cost_usd,
        market_g=_grams(end, None if quarter is None else quarter.market_g_per_kwh),
        marginal_g=_grams(end, None if quarter is None else quarter.marginal_g_per_kwh),
        judgement=judgement,
        refusal="" if last is None else last.refusal,
        rules=() if last is None else last.rules,
    )


def _claims(found: Iterable[Found]) -> list[Decided]:
    """Decisions in the log of the site that calls itself the entry; what another site's log says of an entry is only its own word."""
    return [
        f.record for f in found if isinstance(f.record, Decided) and f.site == f.record.entry_site
    ]


def _entry_of(found: Iterable[Found]) -> str:
    """The site whose log is the entry site's by the request's own decisions; empty: no decision was found."""
    return min((d.entry_site for d in _claims(found)), default="")


def _tenants_of(found: Iterable[Found]) -> list[str]:
    """Who is said to have asked: by the decisions of the entry site, or where there are none by who executed."""
    held = list(found)
    claims = _claims(held)
    executed = (f.record for f in held if isinstance(f.record, Executed))
    return sorted({one.tenant for one in claims or executed})


def _disputed(logs: Logs, period: Period) -> Counter[str]:
    """By tenant, and under the empty name altogether: requests of the period that several entry sites, or for several tenants, claim."""
    counted: Counter[str] = Counter()
    for found in logs.requests.values():
        claims, tenants = _claims(found), _tenants_of(found)
        if len({d.entry_site for d in claims}) < 2 and len(tenants) < 2:
            continue
        if any(period.from_s <= f.record.at_s < period.until_s for f in found):
            counted.update({"", *tenants})
    return counted


def _ran_at(found: Sequence[Found], end: Ended) -> str:
    """Where an engine had it, though the story as a whole is not proven."""
    ran = [f.record for f in found if isinstance(f.record, Executed) and f.record.engine]
    of_attempt = [x for x in ran if end.attempt in (0, x.attempt)]
    return max(of_attempt, key=lambda x: (x.attempt, x.at_s)).site if of_attempt else ""


def _grams(end: Ended | None, g_per_kwh: float | None) -> float | None:
    if end is None or end.energy_wh == 0.0:
        return 0.0
    return None if g_per_kwh is None else end.energy_wh * g_per_kwh / 1000.0


def _statement(
    fleet: str,
    tenant: str,
    period: Period,
    own: Sequence[_Charged],
    countries: Mapping[str, str],
    missing: tuple[str, ...],
    extents: tuple[Extent, ...],
) -> Statement:
    fates = Counter(one.fate for one in own)
    ran = [one for one in own if one.fate != "refused"]
    places = sorted({(countries.get(one.site, ""), one.site) for one in ran})
    unfinished = fates["unfinished"]
    if unfinished:
        missing = (*missing, f"{unfinished} requests have no end here: nothing is charged for them")
    return Statement(
        fleet=fleet,
        tenant=tenant,
        from_s=period.from_s,
        until_s=period.until_s,
        requests=len(own),
        fates={fate: fates[fate] for fate in FATES},
        tokens_in=sum(one.tokens_in for one in own),
        tokens_out=sum(one.tokens_out for one in own),
        places=tuple(
            _place(site, country, [one for one in ran if one.site == site])
            for country, site in places
        ),
        energy_wh=_by_method(own),
        energy_error_share={m: ERROR_SHARES[m] for m in _by_method(own)},
        carbon=_carbon(own),
        cost_usd=math.fsum(one.cost_usd for one in own),
        residency=_residency(own),
        receipts_root=root_of([one.leaf.leaf for one in own]).hex(),
        complete=not missing,
        missing=missing,
        extents=extents,
    )


def _place(site: str, country: str, own: Sequence[_Charged]) -> Place:
    return Place(
        site=site,
        country=country,
        requests=len(own),
        tokens_in=sum(one.tokens_in for one in own),
        tokens_out=sum(one.tokens_out for one in own),
        energy_wh=_by_method(own),
        carbon_location_g=math.fsum(one.carbon_g for one in own),
        cost_usd=math.fsum(one.cost_usd for one in own),
    )


def _by_method(own: Sequence[_Charged]) -> dict[str, float]:
    methods = sorted({one.method for one in own} - {""})
    return {m: math.fsum(one.energy_wh for one in own if one.method == m) for m in methods}


def _carbon(own: Sequence[_Charged]) -> Carbon:
    return Carbon(
        location_g=math.fsum(one.carbon_g for one in own),
        market_g=math.fsum(one.market_g for one in own if one.market_g is not None),
        market_unknown_wh=math.fsum(one.energy_wh for one in own if one.market_g is None),
        marginal_g=math.fsum(one.marginal_g for one in own if one.marginal_g is not None),
        marginal_unknown_wh=math.fsum(one.energy_wh for one in own if one.marginal_g is None),
    )


def _residency(own: Sequence[_Charged]) -> Residency:
    denied = [one for one in own if one.judgement.status == "denied"]
    by_law = [one for one in denied if one.refusal in LAW_REFUSALS]
    unproven = [one for one in own if one.judgement.status == "unproven"]
    rules = Counter(rule for one in by_law for rule in dict.fromkeys(one.rules))
    reasons = Counter(reason for one in unproven for reason in one.judgement.reasons)
    frequent = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))[:REASONS_MAX]
    return Residency(
        lawful=sum(one.judgement.status == "proven" for one in own),
        refused_by_law=len(by_law),
        refused_otherwise=len(denied) - len(by_law),
        unproven=len(unproven),
        against_law=sum(any(map(_unlawful, one.judgement.reasons)) for one in unproven),
        rules=dict(sorted(rules.items())),
        reasons=dict(frequent),
    )


def _unlawful(reason: str) -> bool:
    """By the two sentences of `judge` that say so."""
    return reason.startswith("the law bars") or "against the law" in reason


def _missing(
    logs: Logs, period: Period, countries: Mapping[str, str], now_s: float
) -> tuple[str, ...]:
    """What is not here, as sentences."""
    said = []
    if now_s < period.until_s:
        said.append("the period is not over")
    here = {one.site: one for one in logs.sites}
    end_s = min(period.until_s, now_s)
    for site in sorted(countries):
        if site not in here:
            said.append(f"site {site}: no log of it here")
        elif here[site].sealed_until_s < end_s:
            late_s = end_s - here[site].sealed_until_s
            if now_s < period.until_s and late_s < LATE_S:
                continue  # what is on its way is part of a period that is not over
            said.append(f"site {site}: its log here ends {late_s:.0f} s before the period does")
    # A chain is of a day; one whose last seal is of the period held requests of it.
    gone = Counter(d.site for d in logs.dropped if d.sealed_at_s >= period.from_s)
    said += [f"site {s}: {n} chains deleted by rule" for s, n in sorted(gone.items())]
    said += [
        f"site {f.site}: {f.kind}: {f.chain or 'seals'} from {f.seq} on: {f.detail}"
        for f in sorted(logs.findings, key=lambda f: (f.site, f.chain, f.seq, f.kind))
        if f.kind != "site missing"
    ]
    return tuple(said)
