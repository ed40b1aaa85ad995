"""Between requests and the decision core: one worker's tables, loads and local engines.

Here: offers with everything a request needs of them prepared (targets, header lines), `route`, `engine`, counting an attempt
in and out, the site's own load as heard by itself and as told to peers, guesses of answer length. Not here: the decision
(`dispatch.choose`), engines' health (`engines`), the shadow (`shadow`).
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.choose import (
    CACHED_MAX,
    OUT_BATCH,
    OUT_PATH_MS,
    OUT_TPOT_MS,
    OUT_TTFT_MS,
    choose_engine,
)
from hanse.dispatch.load import GUESS_OUT_FIRST, GUESS_SHARE, OWN_DTYPE, Load
from hanse.dispatch.reasons import Reason
from hanse.dispatch.shed import OPEN, ShedStep, power_gate, shed_steps
from hanse.live.evidence.chain import CONTINUED
from hanse.live.gateway import kernels
from hanse.live.gateway.direct import DirectLoad, DirectRouter, direct
from hanse.live.gateway.frames import LoadFrame, OfferLoad, header_value
from hanse.live.gateway.records import FirstLocal, decided_middle, executed_middle
from hanse.live.shared import CAUSES, FLAG_POWER_CAUSE, FLAG_POWER_SHED

if TYPE_CHECKING:
    from hanse.dispatch.table import ServiceMeta, Table
    from hanse.live.gateway.attempt import Attempt
    from hanse.live.gateway.engines import Engine
    from hanse.live.gateway.journal import InputLog
    from hanse.live.gateway.kernels import Kernels
    from hanse.live.gateway.outgoing import Target
    from hanse.live.gateway.policy import Grant
    from hanse.live.gateway.settings import GatewaySettings
    from hanse.live.shared import SharedPage

FRAME_EVERY_S = 0.005
"""A load header is made anew after this; its age then errs by less than a hop's jitter."""
RATE_EVERY_S = 0.5
REFRESH_S_MAX = 0.25
"""Sums that did not change are told again after this: an eighth of the age at which they would be stale."""


class ServiceRow:
    """One service, ready for use by requests."""

    __slots__ = (
        "body_bytes_max",
        "deadline_s",
        "endpoints",
        "guess_out",
        "id",
        "index",
        "output_tokens_max",
        "prefixes",
        "spread",
        "usd_per_g",
    )

    def __init__(self, table: Table, index: int, meta: ServiceMeta) -> None:
        self.index = index
        self.id = meta.id
        self.endpoints = meta.endpoints
        self.body_bytes_max = meta.body_bytes_max
        self.output_tokens_max = meta.output_tokens_max
        self.deadline_s = meta.slo.deadline_s
        self.usd_per_g = float(table.services[index]["usd_per_g"])
        self.guess_out = GUESS_OUT_FIRST
        """Output tokens of an answer, as answers were lately."""
        self.spread = False
        """Whether more than one site serves it: only then can a held prefix choose between sites."""
        self.prefixes = False
        """Whether a held prefix can choose between anything: sites, or engines here."""

    def guess_tokens_out(self, limit: int | None) -> int:
        """How long the answer will be: what answers of this service were, within the client's limit."""
        guess, most = int(self.guess_out), self.output_tokens_max
        if limit is not None and limit < most:
            most = limit
        if guess > most:
            guess = most
        return guess if guess > 1 else 1

    def seen_tokens_out(self, tokens_out: int) -> None:
        """An answer was this long."""
        self.guess_out += GUESS_SHARE * (tokens_out - self.guess_out)


class OfferRow:
    """One offer, ready for use by requests."""

    __slots__ = (
        "continues",
        "decided",
        "decode_wh_per_token",
        "decode_wh_shared",
        "engines",
        "executed",
        "first_local",
        "index",
        "key",
        "lines",
        "prefill_wh_per_token",
        "served_model",
        "service",
        "site",
        "site_index",
        "slots",
        "target",
        "variant",
    )

    def __init__(self, table: Table, index: int) -> None:
        record = table.offers[index]
        self.index = index
        self.site, self.service, self.variant = table.offer_names[index]
        self.key = f"{self.service}/{self.variant}"
        self.site_index = int(record["site"])
        self.served_model = table.variant(index).served_model or self.service
        self.continues = bool(table.continues[index])
        """Its engines go on with an answer that others began."""
        self.slots = float(record["slots"])
        self.prefill_wh_per_token = float(record["prefill_wh_per_token"])
        self.decode_wh_shared = float(record["decode_wh_shared"])
        self.decode_wh_per_token = float(record["decode_wh_per_token"])
        self.decided: dict[Grant, bytes] = {}
        """Middle of a decision's record, by who asks."""
        self.executed: dict[tuple[Grant, int], bytes] = {}
        """Middle of an execution's record, by who asks and engine."""
        self.first_local: dict[tuple[Grant, int], FirstLocal] = {}
        """Both records of a first attempt at a local engine, by who asks and engine."""
        self.engines: tuple[int, ...] = ()
        self.target: Target | None = None
        self.lines = f"x-hanse-site: {self.site}\r\nx-hanse-variant: {self.variant}\r\n".encode()


class Site:
    """Prices and factors of one site, as plain floats."""

    __slots__ = ("g_per_wh", "pue", "usd_per_byte", "usd_per_wh")

    def __init__(self, table: Table, site: int, origin: int) -> None:
        record = table.sites[site]
        self.pue = float(record["pue"])
        self.usd_per_wh = float(record["usd_per_wh"])
        self.g_per_wh = float(record["g_per_wh"])
        self.usd_per_byte = float(table.paths_from(origin)[site]["usd_per_byte"])


class Routing:
    """Everything one worker knows about where requests can go, under one table."""

    def __init__(
        self,
        table: Table,
        settings: GatewaySettings,
        page: SharedPage,
        engines: list[Engine],
        peers: dict[str, Target],
        before: Routing | None = None,
        *,
        compiled: Kernels,
        log: InputLog | None = None,
    ) -> None:
        self.table = table
        self.log = log
        self.load: Load
        self.site = settings.site
        self.worker = settings.worker
        self.origin = table.site_index[settings.site]
        self.page = page
        self.local = engines
        own = page.own[: settings.workers].view(OWN_DTYPE)[..., 0]
        if before is not None and before.load.adopt(table):
            self.load = before.load
        else:
            page.own[self.worker] = 0
            self.load = log.load(table, own) if log else Load(table, own=own, worker=self.worker)
        router, kernels = (log.router, log.kernels) if log else (DirectRouter, DirectLoad)
        self.router = router(table, self.load, self.origin)
        self.kernels = kernels(self.load)
        self.sites = [Site(table, i, self.origin) for i in range(len(table.sites))]
        self.worker_count = settings.workers
        self.share = float(settings.workers)
        self.services = [ServiceRow(table, i, s) for i, s in enumerate(table.meta.services)]
        self.service_named = {name: self.services[i] for name, i in table.service_index.items()}
        self.offers = [OfferRow(table, i) for i in range(len(table.offers))]
        placed = [row for row in self.offers if table.offers[row.index]["replicas"] > 0]
        for service in self.services:
            service.spread = len({row.site for row in placed if row.service == service.id}) > 1
        self.local_offers = [row for row in self.offers if row.site == self.site]
        if before is not None:
            for service in self.services:
                old = before.service_named.get(service.id)
                service.guess_out = old.guess_out if old is not None else service.guess_out
        self._attach(peers)
        for service in self.services:
            many = (len(row.engines) > 1 for row in self.offers if row.service == service.id)
            service.prefixes = service.spread or any(many)
        self._engine_arrays()
        self.places = table.offers, table.sites
        self.end_plain = compiled.end_plain(*self.places, self.executing)
        self._frame = b""
        self._frame_at_s = 0.0
        self._frame_of: LoadFrame | None = None
        self._ranks = len({one.priority for one in table.meta.classes})
        self.shed_level, self.gate = -1, OPEN
        """Steps in force of the order of shedding, and what they leave open (`shed.power_gate`)."""
        self._rates: dict[int, float] = {}
        self._begun_before: NDArray[np.float64] | None = None
        self._rated_at_s = 0.0
        self._seen: list[tuple[bool, int]] = []
        self._refreshed_at_s = 0.0
        self.refresh(time())

    # --- one request

    def engine(
        self,
        offer: int,
        tokens_in: int,
        tokens_out: int,
        excluded: set[int],
        held: NDArray[np.int64] | None,
    ) -> int:
        """A local replica of the offer with room, or negative `Reason`; `held` as `Holders.held` says."""
        states = self._states
        if excluded:
            states = states.copy()
            states[list(excluded)] = 0
        engine: int = self.choose_engine(
            self._engine_offer,
            self._requests_max,
            self._tokens_max,
            states,
            self.executing,
            self.table.offers,
            offer,
            float(tokens_in),
            float(tokens_out),
            self.none_held if held is None else held,
        )
        return engine

    def decided_middle(self, grant: Grant, service: str, offer: OfferRow) -> bytes:
        """The constant part of a decision's record."""
        middle = offer.decided.get(grant)
        if middle is None:
            middle = offer.decided[grant] = decided_middle(grant, service, offer, self)
        return middle

    def continued_middle(self, grant: Grant, service: str, offer: OfferRow) -> bytes:
        """The same of a decision that goes on with a broken stream; rare, so never kept."""
        return decided_middle(grant, service, offer, self, (CONTINUED,))

    def executed_middle(self, grant: Grant, offer: OfferRow, engine: int) -> bytes:
        """The constant part of an execution's record."""
        middle = offer.executed.get((grant, engine))
        if middle is None:
            name = self.local[engine].name
            middle = offer.executed[grant, engine] = executed_middle(grant, offer, name, self)
        return middle

    def first_local(self, grant: Grant, offer: OfferRow, engine: int) -> FirstLocal:
        """The constant part of both records of a first attempt at a local engine."""
        made = offer.first_local[grant, engine] = FirstLocal(
            self.decided_middle(grant, offer.service, offer),
            self.executed_middle(grant, offer, engine),
        )
        return made

    # --- counting attempts

    def begin(
        self, attempt: Attempt, service: int, tokens_in: int, tokens_out: int, now_s: float
    ) -> None:
        """An attempt of this gateway is about to be sent."""
        load = self.load
        tokens = tokens_in + tokens_out
        attempt.load = load
        row = load.offers[attempt.offer.index]
        attempt.factors = float(row["ttft_factor"]), float(row["tpot_factor"])
        attempt.prefill_counted = tokens_in
        attempt.tokens_counted = tokens
        self.kernels.begin(load.own, self.worker, attempt.offer.index, tokens_in, tokens)
        self.kernels.arrived(load.services, service, self.share, now_s)
        if attempt.engine >= 0:
            engine = self.local[attempt.engine]
            attempt.counted = engine
            attempt.prefill_told = tokens_in
            attempt.share_wh = engine.share_wh
            engine.begin(tokens, tokens_in)

    def begin_engine(self, attempt: Attempt, tokens_in: int, tokens: int) -> None:
        """A peer's attempt is about to reach a local engine."""
        engine = self.local[attempt.engine]
        attempt.counted = engine
        attempt.tokens_counted = tokens
        attempt.prefill_told = tokens_in
        attempt.share_wh = engine.share_wh
        engine.begin(tokens, tokens_in)

    def first_byte(self, attempt: Attempt) -> None:
        """Its prompt is read."""
        prefill, attempt.prefill_counted = attempt.prefill_counted, 0
        if prefill and attempt.load is self.load:
            self.kernels.first_byte(self.load.own, self.worker, attempt.offer.index, prefill)
        prefill, attempt.prefill_told = attempt.prefill_told, 0
        if attempt.counted is not None and prefill:
            attempt.counted.count(0, 0, -prefill)

    def end(self, attempt: Attempt) -> None:
        """It is over; a second call changes nothing."""
        load, attempt.load = attempt.load, None
        if load is not None and load is self.load:
            # (A load whose rows a new table has cleared has nothing to take back.)
            self.kernels.end(
                load.own,
                self.worker,
                attempt.offer.index,
                attempt.prefill_counted,
                attempt.tokens_counted,
            )
        engine, attempt.counted = attempt.counted, None
        if engine is not None:
            engine.count(-1, -attempt.tokens_counted, -attempt.prefill_told)

    def observed(self, attempt: Attempt, ttft_ms: float, e2e_ms: float, tokens_out: int) -> None:
        """Learn from an answer; `ttft_ms` 0 where only the whole was seen (a plain answer)."""
        if tokens_out <= 0 or attempt.load is not self.load:
            return
        predicted = self._as_now(attempt)
        if predicted[0] <= predicted[2] or predicted[1] <= 0.0:
            return
        index = attempt.offer.index
        if self.log is not None:
            self.log.recorder.learned(index, predicted, ttft_ms, e2e_ms, tokens_out)
        ratios = self.kernels.ratios(*predicted, ttft_ms, e2e_ms, tokens_out)
        self.kernels.observed(self.load.offers, index, *ratios)

    def local_wh(self, attempt: Attempt, tokens_in: int, cached: int, tokens_out: int) -> float:
        """Modelled Wh of an attempt at one of this site's engines."""
        wh: float = self._local_wh(
            self.table.offers,
            self.table.sites,
            self.executing,
            attempt.engine,
            attempt.offer.index,
            tokens_in,
            cached,
            tokens_out,
            attempt.figures[OUT_BATCH],
        )
        return wh

    def late(self, attempt: Attempt, waited_ms: float) -> None:
        """Learn that a first byte takes at least so long; else an offer that is always given up would never seem slow."""
        if attempt.load is not self.load:
            return
        ttft_ms, _, path_ms = self._as_now(attempt)
        if ttft_ms > path_ms:
            at_least = (waited_ms - path_ms) / (ttft_ms - path_ms)
            if at_least > 1.0:
                self.kernels.observed(self.load.offers, attempt.offer.index, at_least, 0.0)

    def _as_now(self, attempt: Attempt) -> tuple[float, float, float]:
        """TTFT and TPOT of an attempt as they would be predicted now, and its path."""
        f = attempt.figures
        path_ms = f[OUT_PATH_MS]
        first, each = self.kernels.as_now(
            self.load.offers,
            attempt.offer.index,
            f[OUT_TTFT_MS],
            f[OUT_TPOT_MS],
            path_ms,
            *attempt.factors,
        )
        return first, each, path_ms

    # --- load of this site and of others

    def refresh(self, now_s: float) -> None:
        """Every tick: what all workers have at the local engines becomes this site's heard load."""
        seen = [(engine.usable(now_s), engine.running) for engine in self.local]
        level = self.page.flags[FLAG_POWER_SHED]
        if (
            seen == self._seen
            and level == self.shed_level
            and now_s - self._refreshed_at_s < REFRESH_S_MAX
        ):
            return  # an idle site's ticks cost next to nothing
        self._seen, self._refreshed_at_s = seen, now_s
        for engine, (usable, _) in zip(self.local, seen, strict=True):
            self._states[engine.index] = 1 if usable else 0
        if now_s - self._rated_at_s >= RATE_EVERY_S:
            self._rate(now_s)
        rows = []
        self.shed_level = int(self.page.flags[FLAG_POWER_SHED])
        self.gate = power_gate(self.shed_level, self._ranks)
        sums = self.page.exec.sum(axis=0)
        for offer in self.local_offers:
            alive = [e for e in offer.engines if self._states[e]]
            requests, tokens, prefill = sums[list(offer.engines)].sum(axis=0).tolist()
            rate = self._rates.get(offer.index, 0.0)
            rows.append((offer.index, len(alive), requests, tokens, prefill, rate))
        self.load.heard(self.origin, now_s, age_s=0.0, power_ok=self.gate, offers=rows)
        self._frame_of = LoadFrame(
            site=self.site,
            table_version=self.table.meta.version,
            epoch=self.table.meta.epoch,
            age_ms=0.0,
            power_ok=self.gate == OPEN,
            offers=tuple(
                OfferLoad(row.key, alive, requests, tokens, prefill, rate)
                for row, (_, alive, requests, tokens, prefill, rate) in zip(
                    self.local_offers, rows, strict=True
                )
            ),
        )

    def frame(self) -> LoadFrame:
        """This site's load for its peers."""
        assert self._frame_of is not None
        return self._frame_of

    def frame_line(self, now_s: float) -> bytes:
        """`hanse-load:` header line."""
        if now_s - self._frame_at_s > FRAME_EVERY_S:
            self._frame_at_s = now_s
            self._frame = b"hanse-load: " + header_value(self.frame()) + b"\r\n"
        return self._frame

    def heard(self, frame: LoadFrame, from_site: str, now_s: float) -> None:
        """A peer told its load; a frame that speaks for another site is dropped."""
        site = self.table.site_index.get(frame.site, -1)
        if frame.site != from_site or site < 0 or site == self.origin:
            return
        rows = []
        for one in frame.offers:
            offer = self.table.offer_index.get(f"{frame.site}/{one.key}")
            if offer is not None:
                rows.append(
                    (
                        offer,
                        one.replicas,
                        max(0, one.requests),
                        max(0, one.tokens),
                        max(0, one.prefill_tokens),
                        max(0.0, one.rate_rps),
                    )
                )
        rtt_s = float(self.table.paths_from(self.origin)[site]["rtt_ms"]) / 1000.0
        # Never of the future: what it says last would outlive it.
        age_s = max(0.0, frame.age_ms) / 1000.0 + (rtt_s / 2.0 if rtt_s < 10.0 else 0.0)
        self.load.heard(site, now_s, age_s=age_s, power_ok=frame.power_ok, offers=rows)

    def lost(self, site: int) -> None:
        """A peer cannot be reached."""
        self.load.lost(site)

    def shed_for(self, data_class: str) -> tuple[ShedStep, str] | None:
        """The step by which this site refuses a class now, and the cause; None where it does not."""
        if self.shed_level <= 0:
            return None
        for step in shed_steps(self.table.meta.classes)[: self.shed_level]:
            if data_class in step.classes:
                return step, CAUSES[int(self.page.flags[FLAG_POWER_CAUSE])]
        return None

    @property
    def ready(self) -> bool:
        """Whether any offer has a replica alive, here or at a peer heard of."""
        return bool((self.load.offers["replicas"][: len(self.offers)] > 0).any())

    def expired(self, now_s: float) -> bool:
        """Whether the table admits nothing any more."""
        return not now_s <= self.table.meta.valid_until_s

    def reason_name(self, code: int) -> str:
        """Name of a gate."""
        return Reason(code).name

    # --- inside

    def _attach(self, peers: dict[str, Target]) -> None:
        by_key: dict[str, list[int]] = {}
        for engine in self.local:
            by_key.setdefault(f"{engine.seat.service}/{engine.seat.variant}", []).append(
                engine.index
            )
        for row in self.offers:
            if row.site == self.site:
                row.engines = tuple(by_key.get(row.key, ()))
            else:
                row.target = peers.get(row.site)

    def _engine_arrays(self) -> None:
        count = len(self.local)
        self._engine_offer = np.full(count, -1, np.int64)
        self._requests_max = np.zeros(count)
        self._tokens_max = np.zeros(count)
        self._states = np.zeros(count, np.int64)
        for row in self.local_offers:
            record = self.table.offers[row.index]
            for engine in row.engines:
                self._engine_offer[engine] = row.index
                self._requests_max[engine] = record["requests_max"]
                self._tokens_max[engine] = record["tokens_max"]
        executing = self.executing = self.page.exec[: self.worker_count].view(OWN_DTYPE)[..., 0]
        self._local_wh = direct(
            kernels.local_wh, self.table.offers, self.table.sites, executing, 0, 0, 0, 0, 0, 1.0
        )
        self.replicas = (
            self._engine_offer,
            self._requests_max,
            self._tokens_max,
            self._states,
            executing,
            self.table.offers,
        )
        self.none_held = np.full((CACHED_MAX, 2), -1, np.int64)
        entry_point = direct if self.log is None else self.log.engine_choice
        self.choose_engine = entry_point(choose_engine, *self.replicas, 0, 1.0, 1.0, self.none_held)
        """Takes `replicas`, an offer, tokens in and out, and which engines hold the prompt."""
        self.handed = executing, self.page.begun
        self.hand_over = direct(kernels.hand_over, *self.handed, 0, 0, 0, 0)
        """Takes `handed`, this worker, an engine, tokens and unread prompt tokens."""

    def _rate(self, now_s: float) -> None:
        begun = self.page.begun.sum(axis=0)
        before, elapsed_s = self._begun_before, now_s - self._rated_at_s
        if before is not None:
            for row in self.local_offers:
                grown = float((begun - before)[list(row.engines)].sum())
                self._rates[row.index] = max(0.0, grown) / elapsed_s
        self._begun_before, self._rated_at_s = begun, now_s
