"""What this gateway knows of load: own requests in flight, heard figures with their age, learned corrections.

Here: the record arrays and the kernels that alone change them (`begin, first_byte, end, heard, lost, observed,
arrived`), and `Load`, which holds one gateway worker's arrays and counts each request exactly once. Not here: what is
made of the figures (`choose`), frames and sockets (`live`).

Effective load of an offer = heard + own change since that sample + what peers, who heard the same, will have sent.
"Own" is all workers of this gateway: rows `[worker, offer]`, each written by one worker only and possibly in memory
that the workers share.

Corrections. For each offer the ratio of observed to predicted engine time is followed by
`factor += SHARE (factor observed / predicted - factor)`, within 1/20 to 200, for TTFT and TPOT apart. Answers tell of a load
that is seconds old; learning as fast as they come made gateways run after each other from site to site. So a small error moves
the factor slowly, and only one that no load explains moves it at once. An offer with nothing of ours in flight forgets with
a time constant of a minute, so that a site once slow is tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numba import njit

from hanse.compiled import HOT
from hanse.dispatch.table import Records, Table

if TYPE_CHECKING:
    from hanse.dispatch.router import Predicted

OWN_DTYPE: Final = np.dtype(
    [("requests", "i8"), ("tokens", "i8"), ("prefill_tokens", "i8")], align=True
)
"""[worker, offer]: in flight now. `tokens` counts prompt and guessed answer, `prefill_tokens` the prompts of those
without a first byte."""

LOAD_OFFER_DTYPE: Final = np.dtype(
    [
        ("requests", "f8"),
        ("tokens", "f8"),
        ("prefill_tokens", "f8"),
        ("replicas", "f8"),
        ("rate_rps", "f8"),
        ("own_requests_at", "i8"),
        ("own_tokens_at", "i8"),
        ("own_prefill_at", "i8"),
        ("ttft_factor", "f8"),
        ("tpot_factor", "f8"),
    ],
    align=True,
)
"""[offer]: as heard, and this gateway's own sums when it was; and the learned factors."""

LOAD_SITE_DTYPE: Final = np.dtype(
    [("sampled_at_s", "f8"), ("reachable", "i8"), ("power_ok", "i8")], align=True
)
"""[site]: when the heard sums were true, whether the site answers, and what it sheds (`shed.power_gate`; of peers 0 or 1)."""

LOAD_SERVICE_DTYPE: Final = np.dtype(
    [
        ("heard_rps", "f8"),
        ("peers_ratio", "f8"),
        ("window_at_s", "f8"),
        ("begun_now", "f8"),
        ("begun_before", "f8"),
    ],
    align=True,
)
"""[service]: all arrivals heard of, peers' arrivals over own, and own arrivals of this and the last window."""

GUESS_OUT_FIRST: Final = 128.0
"""Guess of an answer's tokens before any was seen: a short chat turn, as candidates are ranked."""
GUESS_SHARE: Final = 0.05
"""Of a new answer in the guess: twenty answers move most of the way."""
FACTOR_MIN: Final = 1 / 20
FACTOR_MAX: Final = 200.0
"""A model wrong by more than this is a fault, not a bias; 200 is one thread predicted, a frozen engine observed."""
FACTOR_SHARE: Final = 0.004
"""Of a small error: some minutes at a few answers a second, many times what an answer takes. At 0.1 five gateways swung together
between five sites (`benchmarks/multisite.py`)."""
FACTOR_SHARE_SURE: Final = 0.1
"""Of an error that is none of load: ten requests move most of the way."""
TTFT_RATIO_SURE: Final = 10.0
"""A first token waits for a step of prompts, up to half a second where 100 ms are usual; ten times as long is another matter."""
TPOT_RATIO_SURE: Final = 4.0
"""Tokens come evenly: a full batch over a short one is a factor of three."""
FACTOR_MEMORY_S: Final = 60.0
RATE_WINDOW_S: Final = 2.0
"""Own arrival rate is counted over one to two of these; four heard frames long."""
PEERS_RATIO_MAX: Final = 64.0
"""At most so many peers of our own size are assumed; caps what a nearly idle gateway expects of others."""


@njit(**HOT)
def begin(own: Any, worker: int, offer: int, prefill_tokens: int, tokens: int) -> None:
    """A request was sent to an offer."""
    row = own[worker, offer]
    row.requests += 1
    row.tokens += tokens
    row.prefill_tokens += prefill_tokens


@njit(**HOT)
def first_byte(own: Any, worker: int, offer: int, prefill_tokens: int) -> None:
    """Its first byte came: the prompt is read."""
    own[worker, offer].prefill_tokens -= prefill_tokens


@njit(**HOT)
def end(own: Any, worker: int, offer: int, prefill_tokens: int, tokens: int) -> None:
    """It is over, however it ended; `prefill_tokens` is 0 if a first byte came."""
    row = own[worker, offer]
    row.requests -= 1
    row.tokens -= tokens
    row.prefill_tokens -= prefill_tokens


@njit(**HOT)
def arrived(services: Any, service: int, workers: float, now_s: float) -> None:
    """Count an own arrival; all workers of a gateway are taken to get the same share."""
    row = services[service]
    elapsed_s = now_s - row.window_at_s
    if elapsed_s >= RATE_WINDOW_S:
        row.begun_before = row.begun_now if elapsed_s < 2.0 * RATE_WINDOW_S else 0.0
        row.begun_now = 0.0
        row.window_at_s = now_s
        elapsed_s = 0.0
    row.begun_now += 1.0
    seen_s = elapsed_s + (RATE_WINDOW_S if row.begun_before > 0.0 else 0.0)
    own_rps = workers * (row.begun_now + row.begun_before) / max(seen_s, RATE_WINDOW_S)
    row.peers_ratio = min(max(row.heard_rps / own_rps - 1.0, 0.0), PEERS_RATIO_MAX)


@njit(**HOT)
def heard(
    load: Any,
    services: Any,
    own: Any,
    offer: int,
    service: int,
    replicas: float,
    requests: float,
    tokens: float,
    prefill_tokens: float,
    rate_rps: float,
    elapsed_s: float,
) -> None:
    """A site told the sums of one of its offers; `elapsed_s` since it last did."""
    row = load[offer]
    services[service].heard_rps = max(0.0, services[service].heard_rps + rate_rps - row.rate_rps)
    row.replicas = replicas
    row.requests = requests
    row.tokens = tokens
    row.prefill_tokens = prefill_tokens
    row.rate_rps = rate_rps
    row.own_requests_at = 0
    row.own_tokens_at = 0
    row.own_prefill_at = 0
    for worker in range(own.shape[0]):
        mine = own[worker, offer]
        row.own_requests_at += mine.requests
        row.own_tokens_at += mine.tokens
        row.own_prefill_at += mine.prefill_tokens
    if row.own_requests_at > 0:
        return
    forget = min(max(elapsed_s, 0.0) / FACTOR_MEMORY_S, 1.0)
    row.ttft_factor += (1.0 - row.ttft_factor) * forget
    row.tpot_factor += (1.0 - row.tpot_factor) * forget


@njit(**HOT)
def share(ratio: float, sure: float) -> float:
    """How far an observation moves a factor."""
    return FACTOR_SHARE_SURE if ratio > sure or ratio * sure < 1.0 else FACTOR_SHARE


@njit(**HOT)
def observed(load: Any, offer: int, ttft_ratio: float, tpot_ratio: float) -> None:
    """Observed over predicted engine time of a request; 0 where it was not observed."""
    row = load[offer]
    if ttft_ratio > 0.0:
        ideal = min(max(row.ttft_factor * ttft_ratio, FACTOR_MIN), FACTOR_MAX)
        row.ttft_factor += share(ttft_ratio, TTFT_RATIO_SURE) * (ideal - row.ttft_factor)
    if tpot_ratio > 0.0:
        ideal = min(max(row.tpot_factor * tpot_ratio, FACTOR_MIN), FACTOR_MAX)
        row.tpot_factor += share(tpot_ratio, TPOT_RATIO_SURE) * (ideal - row.tpot_factor)


@njit(**HOT)
def ratios(
    ttft_ms_predicted: float,
    tpot_ms_predicted: float,
    path_ms: float,
    ttft_ms: float,
    e2e_ms: float,
    tokens_out: int,
) -> tuple[float, float]:
    """What `observed` takes, of an answer; `ttft_ms` 0 where only the whole was seen (a plain answer)."""
    engine_ms = ttft_ms_predicted - path_ms
    first = each = 0.0
    if tokens_out <= 0 or engine_ms <= 0.0 or tpot_ms_predicted <= 0.0:
        return first, each
    if ttft_ms > 0.0:
        first = (ttft_ms - path_ms) / engine_ms
        if tokens_out > 1:
            each = (e2e_ms - ttft_ms) / (tokens_out - 1) / tpot_ms_predicted
    else:  # one ratio for both: the whole over the whole
        first = each = (e2e_ms - path_ms) / (engine_ms + tpot_ms_predicted * tokens_out)
    return max(first, 0.0), max(each, 0.0)


@njit(**HOT)
def as_now(
    load: Any,
    offer: int,
    ttft_ms: float,
    tpot_ms: float,
    path_ms: float,
    ttft_factor: float,
    tpot_factor: float,
) -> tuple[float, float]:
    """TTFT and TPOT that were predicted under these factors, as those of now would have them.

    An answer teaches seconds after it was predicted, and a thousand others may have taught meanwhile. Were each to correct what the factor has
    become since by an error of what it was, all would correct the same error again: a loop with a delay, which swings.
    """
    row = load[offer]
    first = path_ms + (ttft_ms - path_ms) * (row.ttft_factor / ttft_factor)
    each = tpot_ms * (row.tpot_factor / tpot_factor)
    return first, each


@njit(**HOT)
def learned(
    load: Any,
    offer: int,
    ttft_ms_predicted: float,
    tpot_ms_predicted: float,
    path_ms: float,
    ttft_ms: float,
    e2e_ms: float,
    tokens_out: int,
) -> None:
    """Learn from an answer."""
    first, each = ratios(ttft_ms_predicted, tpot_ms_predicted, path_ms, ttft_ms, e2e_ms, tokens_out)
    observed(load, offer, first, each)


class Ticket:
    """One attempt in flight: what was counted for it, so that it is taken back exactly once."""

    __slots__ = ("offer", "prefill_tokens", "running", "tokens")

    def __init__(self, offer: int, prefill_tokens: int, tokens: int) -> None:
        self.offer = offer
        self.prefill_tokens = prefill_tokens
        self.tokens = tokens
        self.running = True


class Load:
    """The arrays of one gateway worker.

    `own` may lie in memory shared by the gateway's workers: pass the rows of all of them and this worker's number.
    Arrays have room for offers and sites that later tables add; `adopt` says whether a new table still fits.
    """

    def __init__(
        self,
        table: Table,
        *,
        own: Records | None = None,
        worker: int = 0,
        offers_max: int = 0,
    ) -> None:
        count = max(offers_max, len(table.offers), 1)
        self.own = np.zeros((worker + 1, count), OWN_DTYPE) if own is None else own
        assert self.own.dtype == OWN_DTYPE and self.own.shape[1] >= len(table.offers)
        self.worker = worker
        self.offers = np.zeros(self.own.shape[1], LOAD_OFFER_DTYPE)
        self.offers["ttft_factor"] = self.offers["tpot_factor"] = 1.0
        self.sites = np.zeros(max(len(table.sites), 1), LOAD_SITE_DTYPE)
        self.sites["sampled_at_s"] = -np.inf
        self.sites["reachable"] = self.sites["power_ok"] = 1
        self.services = np.zeros(max(len(table.services), 1), LOAD_SERVICE_DTYPE)
        self._read(table)

    def _read(self, table: Table) -> None:
        self.table = table
        self._service_of: list[int] = table.offers["service"].tolist()
        self._at_site: dict[int, list[int]] = {}
        for offer, site in enumerate(table.offers["site"].tolist()):
            self._at_site.setdefault(site, []).append(offer)

    @classmethod
    def of_shadow(cls, table: Table) -> Load:
        """For a table that no site reports on: every placed replica counts as alive and fresh, for ever."""
        load = cls(table)
        load.offers["replicas"][: len(table.offers)] = table.offers["replicas"]
        load.sites["sampled_at_s"] = np.inf
        return load

    def adopt(self, table: Table) -> bool:
        """Use a newer table; False if its axes do not continue the old ones, and a new Load is needed."""
        old, new = self.table.meta, table.meta
        same = (
            new.sites[: len(old.sites)] == old.sites
            and len(new.sites) <= len(self.sites)
            and new.offers[: len(old.offers)] == old.offers
            and len(new.offers) <= len(self.offers)
            and [s.id for s in new.services] == [s.id for s in old.services]
        )
        if same:
            self._read(table)
        return same

    def follow(self, other: Load) -> None:
        """Take over how busy peers are; for a shadow, which hears nothing itself."""
        self.services["peers_ratio"] = other.services["peers_ratio"]

    # --- this worker's requests

    def begin(self, offer: int, tokens_in: int, tokens_out: int, now_s: float) -> Ticket:
        """Count an attempt about to be sent; keep the ticket and `end` it in every case."""
        ticket = Ticket(offer, tokens_in, tokens_in + tokens_out)
        begin(self.own, self.worker, offer, ticket.prefill_tokens, ticket.tokens)
        arrived(self.services, self._service_of[offer], float(self.own.shape[0]), float(now_s))
        return ticket

    def first_byte(self, ticket: Ticket) -> None:
        """Its prompt is read; a second call changes nothing."""
        if ticket.running and ticket.prefill_tokens:
            first_byte(self.own, self.worker, ticket.offer, ticket.prefill_tokens)
            ticket.prefill_tokens = 0

    def end(self, ticket: Ticket) -> None:
        """Answered, failed, cancelled or given up; a second call changes nothing."""
        if ticket.running:
            ticket.running = False
            end(self.own, self.worker, ticket.offer, ticket.prefill_tokens, ticket.tokens)

    # --- what sites tell

    def heard(
        self,
        site: int,
        now_s: float,
        *,
        age_s: float,
        power_ok: int,
        offers: Sequence[tuple[int, float, float, float, float, float]],
    ) -> bool:
        """Take a site's frame: (offer, replicas alive, requests, tokens, prefill tokens, arrivals per second).

        `requests` counts running and waiting. Offers of that site that the frame does not name have no replica
        alive. False, and nothing changes, for a sample older than the one known.
        """
        row = self.sites[site]
        sampled_at_s = now_s - age_s
        before_s = float(row["sampled_at_s"])
        if sampled_at_s < before_s:
            return False
        elapsed_s = sampled_at_s - before_s if before_s > -np.inf else 0.0
        row["sampled_at_s"] = sampled_at_s
        row["reachable"] = 1
        row["power_ok"] = power_ok
        named = {figures[0]: figures[1:] for figures in offers}
        for offer in self._at_site.get(site, ()):
            replicas, requests, tokens, prefill, rate = named.get(offer, (0.0,) * 5)
            heard(
                self.offers,
                self.services,
                self.own,
                offer,
                self._service_of[offer],
                float(replicas),
                float(requests),
                float(tokens),
                float(prefill),
                float(rate),
                elapsed_s,
            )
        return True

    def lost(self, site: int) -> None:
        """A connection to the site was refused or broke: no candidate until it is heard again."""
        self.sites[site]["reachable"] = 0

    def engine_lost(self, offer: int) -> None:
        """A replica of an offer is known to be gone before its site said so."""
        row = self.offers[offer]
        row["replicas"] = max(0.0, float(row["replicas"]) - 1.0)

    def observed(
        self, offer: int, predicted: Predicted, *, ttft_ms: float = 0.0, tpot_ms: float = 0.0
    ) -> None:
        """Learn from a finished request; 0 where a figure was not observed."""
        engine_ms = predicted.ttft_ms - predicted.path_ms
        ttft_ratio = (ttft_ms - predicted.path_ms) / engine_ms if ttft_ms and engine_ms > 0 else 0.0
        tpot_ratio = tpot_ms / predicted.tpot_ms if predicted.tpot_ms > 0 else 0.0
        observed(self.offers, offer, max(ttft_ratio, 0.0), max(tpot_ratio, 0.0))
