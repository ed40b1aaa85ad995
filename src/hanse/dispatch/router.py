"""One gateway's way to ask the kernels: names to indices, arrays that are packed once, answers a person can read.

Here: `Router` (table + load + entry site), `Predicted`, `OfferVerdict`, `warm`. Not here: the decision itself
(`choose`), counting requests (`load`), anything about HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch import choose as kernels
from hanse.dispatch.load import OWN_DTYPE, Load
from hanse.dispatch.patience import worth_holding
from hanse.dispatch.prefix import WAYS, PrefixTable, prefixes_of
from hanse.dispatch.reasons import Reason
from hanse.dispatch.table import ARRAYS, Records, ServiceMeta, SiteMeta, Table, TableMeta
from hanse.model.fleet import Slo, Value

REFERENCE_TOKENS_IN: Final = 512.0
REFERENCE_TOKENS_OUT: Final = 128.0
"""The request by which candidates are ranked: a short chat turn. Rankings differ little, since the list is wide."""
REFERENCE_BYTES: Final = 2048.0
NONE_TRIED: Final[NDArray[np.int64]] = np.full(kernels.TRIED_MAX, -1, np.int64)
NONE_CACHED: Final[NDArray[np.int64]] = np.full((kernels.CACHED_MAX, 2), -1, np.int64)


class Predicted(Value, frozen=True, kw_only=True):
    """What the chosen offer was predicted to take. Columns of `choose`, in their order."""

    ttft_ms: float
    tpot_ms: float
    e2e_ms: float
    wh: float
    g: float
    usd: float
    """Energy, carbon price and egress; not the value of waiting."""
    cost_usd: float
    """What was minimised: `usd` and the value of waiting."""
    path_ms: float
    """Of the network alone; the rest of `ttft_ms` is the engine's."""
    slo_missed: bool
    requests: float
    """In flight at the offer when it was chosen, as far as was known."""
    tokens: float
    prefill_tokens: float
    cached_tokens: float
    batch: float

    @classmethod
    def of_row(cls, row: Sequence[float]) -> Predicted:
        """From an output row of `choose`."""
        return cls(
            ttft_ms=row[0],
            tpot_ms=row[1],
            e2e_ms=row[2],
            wh=row[3],
            g=row[4],
            usd=row[5],
            cost_usd=row[6],
            path_ms=row[7],
            slo_missed=row[8] != 0.0,
            requests=row[9],
            tokens=row[10],
            prefill_tokens=row[11],
            cached_tokens=row[12],
            batch=row[13],
        )


class OfferVerdict(Value, frozen=True, kw_only=True):
    """Why an offer was or was not eligible, for people."""

    site: str
    service: str
    variant: str
    eligible: bool
    chosen: bool
    gate: str
    """Name of the gate at which it fell out; OK where it passed all."""
    rules: tuple[str, ...] = ()
    entry_rules: tuple[str, ...] = ()
    """Rules that bar the entry site itself, whichever site would execute."""
    predicted: Predicted | None = None


class Router:
    """Routes requests that enter at one site, by one table and one load.

    Attributes:
        out: [0, column] prediction of the last choice; columns `OUT_*` of `choose`, in the order of `Predicted`.
    """

    def __init__(self, table: Table, load: Load, origin: int) -> None:
        assert load.table is table, "adopt the table before routing by it"
        self.table = table
        self.load = load
        self.origin = origin
        self.out: NDArray[np.float64] = np.zeros((1, kernels.OUT_COUNT))
        self._row = self.out[0]
        self._table = (
            table.offers,
            table.sites,
            table.services,
            table.subjects,
            table.paths_from(origin),
            table.law,
        )
        listed, first = listed_offers(table)
        self._lists = candidate_offers(table, self._table, listed, first), listed, first
        self._load = load.offers, load.sites, load.services, load.own
        self._tried = NONE_TRIED.copy()
        self._valid_until_s = table.meta.valid_until_s
        self._heard_stale_s = table.meta.heard_stale_s

    def worth_holding(
        self, reason: int, service: int, subject: int, tokens_in: int, tried: Sequence[int]
    ) -> bool:
        """Whether a request that was begun, failed and finds nobody is held: see `patience`. `tried` may be of any length."""
        held: bool = worth_holding(
            self._table,
            self._lists,
            service,
            subject,
            self.origin,
            int(reason),
            float(tokens_in),
            np.array([*tried, -1], np.int64),
        )
        return held

    def route(
        self,
        service: int,
        subject: int,
        *,
        tokens_in: int,
        tokens_out: int,
        deadline_ms: float,
        body_bytes: int,
        now_s: float,
        tried: Sequence[int] = (),
        cached: NDArray[np.int64] = NONE_CACHED,
    ) -> int:
        """The offer to send a request to, or a negative `Reason`; `predicted()` then tells what it will take.

        Args:
            tokens_in: Tokens of the prompt.
            tokens_out: Guess of the answer's tokens.
            tried: Offers this request was already sent to; at most 8 count.
            cached: [4, 2] (site, prompt tokens it holds), as `prefix.PrefixTable.lookup` fills it.
        """
        asked = NONE_TRIED
        if tried:
            asked = self._tried
            asked[:] = -1
            asked[: len(tried)] = tried[-kernels.TRIED_MAX :]
        chosen: int = kernels.choose(
            self._table,
            self._lists,
            self._load,
            service,
            subject,
            self.origin,
            (float(tokens_in), float(tokens_out), float(deadline_ms), float(body_bytes)),
            float(now_s),
            self._valid_until_s,
            self._heard_stale_s,
            asked,
            cached,
            self._row,
        )
        return chosen

    def predicted(self) -> Predicted:
        """Prediction of the last offer that `route` returned."""
        return Predicted.of_row(self._row.tolist())

    def entry_lawful(self, subject: int) -> bool:
        """Whether this site may even read the request."""
        return self.table.lawful(subject, self.origin)

    def lawful_entries(self, subject: int) -> list[str]:
        """Sites that may read such a request, nearest to this one first; drained ones only where there is no other."""
        rtt_ms = self.table.paths_from(self.origin)["rtt_ms"]
        order = np.argsort(rtt_ms, kind="stable")
        names, drained = self.table.meta.sites, self.table.sites["drained"]
        found = [i for i in order.tolist() if self.table.lawful(subject, i)]
        return [names[i].id for i in [i for i in found if not drained[i]] or found]

    def explain(
        self,
        service: int,
        subject: int,
        *,
        tokens_in: int,
        tokens_out: int,
        deadline_ms: float,
        body_bytes: int,
        now_s: float,
        tried: Sequence[int] = (),
        cached: NDArray[np.int64] = NONE_CACHED,
    ) -> tuple[int, list[OfferVerdict]]:
        """What `route` answers to the same question, and the verdict on every offer of the service."""
        chosen = self.route(
            service,
            subject,
            tokens_in=tokens_in,
            tokens_out=tokens_out,
            deadline_ms=deadline_ms,
            body_bytes=body_bytes,
            now_s=now_s,
            tried=tried,
            cached=cached,
        )
        asked = NONE_TRIED.copy()
        asked[: len(tried)] = list(tried)[-kernels.TRIED_MAX :]
        request = float(tokens_in), float(tokens_out), float(deadline_ms), float(body_bytes)
        _, listed, first = self._lists
        verdicts = [
            self._verdict(o, subject, request, float(now_s), asked, cached, chosen)
            for o in sorted(listed[first[service, 0] : first[service, -1]].tolist())
        ]
        return chosen, verdicts

    def _verdict(
        self,
        offer: int,
        subject: int,
        request: tuple[float, float, float, float],
        now_s: float,
        tried: NDArray[np.int64],
        cached: NDArray[np.int64],
        chosen: int,
    ) -> OfferVerdict:
        table, row = self.table, np.zeros(kernels.OUT_COUNT)
        gate = kernels.assess(
            self._table,
            self._load,
            offer,
            subject,
            self.origin,
            request,
            now_s,
            self._heard_stale_s,
            tried,
            cached,
            row,
        )
        entry_rules = table.rules(subject, self.origin)
        if entry_rules:
            gate = Reason.LAW
        if not now_s <= self._valid_until_s:
            gate = Reason.TABLE_EXPIRED
        site, service, variant = table.offer_names[offer]
        return OfferVerdict(
            site=site,
            service=service,
            variant=variant,
            eligible=gate == Reason.OK,
            chosen=offer == chosen,
            gate=Reason(gate).name,
            rules=table.rules(subject, int(table.offers[offer]["site"])),
            entry_rules=entry_rules,
            predicted=Predicted.of_row(row.tolist()) if gate == Reason.OK else None,
        )


def listed_offers(table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offers with a replica by service, then site, then index; and where each (service, site) begins."""
    offers = table.offers
    placed = np.flatnonzero(offers["replicas"] > 0)
    service, site = offers["service"][placed], offers["site"][placed]
    listed = placed[np.lexsort((placed, site, service))].astype(np.int64)
    counts = np.zeros((len(table.services), len(table.sites)), np.int64)
    np.add.at(counts, (service, site), 1)
    ends = np.cumsum(counts).reshape(counts.shape)
    first = np.zeros((counts.shape[0], counts.shape[1] + 1), np.int64)
    first[:, 1:] = ends
    first[:, 0] = ends[:, 0] - counts[:, 0] if ends.size else 0
    return listed, first


def candidate_offers(
    table: Table,
    arrays: tuple[Records, ...],
    listed: NDArray[np.int64],
    first: NDArray[np.int64],
) -> NDArray[np.int32]:
    """[service, profile, 20] offers by cost on an idle fleet, as seen from the site whose paths are in `arrays`."""
    shape = (len(table.services), table.law.shape[0], kernels.CANDIDATES_MAX)
    candidate = np.full(shape, -1, np.int32)
    idle = Load.of_shadow(table)
    request = REFERENCE_TOKENS_IN, REFERENCE_TOKENS_OUT, kernels.PATH_MS_MAX, REFERENCE_BYTES
    scratch = np.zeros(kernels.CANDIDATES_MAX)
    kernels.candidates(arrays, listed, first, idle.offers, request, candidate, scratch)
    return candidate


def choose_engine(
    engine_offer: NDArray[np.int64],
    requests_max: NDArray[np.float64],
    tokens_max: NDArray[np.float64],
    states: NDArray[np.int64],
    executing: NDArray[np.void],
    *,
    offers: Records,
    offer: int,
    tokens_in: int,
    tokens_out: int,
    held: NDArray[np.int64] = NONE_CACHED,
) -> int:
    """The replica of an offer at which one more request takes the least time of all, or `Reason.DEAD` or `Reason.ROOM`."""
    assert executing.dtype == OWN_DTYPE
    engine: int = kernels.choose_engine(
        engine_offer, requests_max, tokens_max, states, executing, offers, offer, float(tokens_in),
        float(tokens_out), held,
    )  # fmt: skip
    return engine


def warm() -> None:
    """Compile every kernel of the decision core and leave it in the cache on disk; seconds once, then milliseconds."""
    site = SiteMeta(id="a", kind="micro", city="", country="DE", lat_deg=0.0, lon_deg=0.0)
    slo = Slo(ttft_ms=1e3, tpot_ms=1e2)
    service = ServiceMeta(
        id="q",
        protocol="openai",
        endpoints=("chat",),
        aliases=(),
        slo=slo,
        body_bytes_max=1,
        output_tokens_max=1,
        variants=(),
    )
    meta = TableMeta(
        version=1,
        epoch=1,
        issued_at_s=0.0,
        valid_until_s=2.0,
        fleet="warm",
        heard_stale_s=2.0,
        sites=(site,),
        services=(service,),
        offers=("a/q/v",),
        keys={},
        subjects=(),
        rule_sets=((),),
        rule_texts={},
    )
    arrays = {
        name: np.ones((1,) * dimensions, dtype) for name, (dtype, dimensions) in ARRAYS.items()
    }
    for name, (dtype, _) in ARRAYS.items():
        for column in dtype.names or ():
            if dtype[column].kind == "i" and column != "replicas":
                arrays[name][column] = 0
    arrays["rule_set"][:] = 0
    table = Table(meta, arrays)
    load = Load(table)
    router = Router(table, load, 0)
    load.heard(0, 1.0, age_s=0.0, power_ok=True, offers=[(0, 1.0, 0.0, 0.0, 0.0, 0.0)])
    prefixes = prefixes_of([("user", b"warm")], b"key", b"q")
    held = PrefixTable(slots_max=WAYS)
    held.remember(prefixes, 0, 1.0)
    router.explain(
        0,
        0,
        tokens_in=0,
        tokens_out=0,
        deadline_ms=1e6,
        body_bytes=0,
        now_s=1.0,
        cached=held.look_up(prefixes, 1.0),
    )
    held.forget(0)
    ticket = load.begin(0, 1, 1, 1.0)
    load.first_byte(ticket)
    load.observed(0, router.predicted(), ttft_ms=1.0, tpot_ms=1.0)
    load.end(ticket)
    router.worth_holding(Reason.DEAD, 0, 0, 1, ())
    integers, floats = np.zeros(1, np.int64), np.ones(1)
    choose_engine(
        integers, floats, floats, integers, load.own, offers=table.offers, offer=0, tokens_in=1, tokens_out=1
    )  # fmt: skip
