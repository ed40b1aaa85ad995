"""One request, one choice: the kernel that picks an offer, and the one that picks a replica at the chosen site.

Here: `choose` and what it is made of (`assess` = gates and prediction of one offer), `candidates`, `choose_engine`.
Not here: names and objects (`router`), where load figures come from (`load`), tables (`table`, `build`).

Rules of this file: arrays in, an offer index or a negative `Reason` out; no allocation, no object, only + - * /, min,
max and comparisons, in one fixed order, no fastmath, so that a replay on another machine gives the same bits.
Ties go to the lowest index. A helper of a cached kernel lives in this file: numba does not see changes elsewhere.

An offer passes the gates of `reasons.Reason` in their order. Among those that pass, one that is predicted to meet the
service's SLO and the deadline beats one that is not; then the least cost in USD wins:

    cost = usd_per_latency_s * E2E + energy * price + carbon * carbon price + bytes * egress price

If none meets them, the least value of waiting wins and the choice is flagged. First up to 32 candidates by cost on an
idle fleet are looked at, with every offer of the entry site and of sites that hold the prompt's prefix; only if
none of these meets the SLO are all offers of the service.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

LAW: Final = -1
QUALITY: Final = -2
LENGTH: Final = -3
TRIED: Final = -4
POWER: Final = -5
DEAD: Final = -6
STALE: Final = -7
ROOM: Final = -8
DEADLINE: Final = -9
NO_OFFER: Final = -10
TABLE_EXPIRED: Final = -11

CANDIDATES_MAX: Final = 32
"""Enough that losing half of a league to faults leaves a choice; few enough to look at in half a microsecond."""
TRIED_MAX: Final = 8
CACHED_MAX: Final = 4
WIRE_BYTES_PER_TOKEN_OUT: Final = 200.0
"""One server-sent event of a chat chunk: JSON with id, model and choice around a few letters."""

OUT_TTFT_MS: Final = 0
OUT_TPOT_MS: Final = 1
OUT_E2E_MS: Final = 2
OUT_WH: Final = 3
OUT_G: Final = 4
OUT_USD: Final = 5
OUT_COST_USD: Final = 6
OUT_PATH_MS: Final = 7
OUT_SLO_MISSED: Final = 8
OUT_REQUESTS: Final = 9
OUT_TOKENS: Final = 10
OUT_PREFILL_TOKENS: Final = 11
OUT_CACHED_TOKENS: Final = 12
OUT_BATCH: Final = 13
OUT_WAIT_USD: Final = 14
OUT_COUNT: Final = 15
"""Columns of an output row. Row 0 is the choice, row 1 scratch."""


@njit(cache=True)
def effective(load_row: Any, peers_ratio: float, own: Any, offer: int, out: Any) -> None:
    """Requests, tokens and unread prompt tokens at an offer now, as far as this gateway can know.

    Heard, plus own change since, plus as much again for each peer of our size: peers heard the same figures and
    choose by the same rule, so what we sent there since then, they sent too. Never less than our own.
    """
    requests = 0
    tokens = 0
    prefill = 0
    for worker in range(own.shape[0]):
        requests += own[worker, offer].requests
        tokens += own[worker, offer].tokens
        prefill += own[worker, offer].prefill_tokens
    change = float(requests - load_row.own_requests_at)
    out[9] = max(load_row.requests + change + max(change, 0.0) * peers_ratio, float(requests))
    change = float(tokens - load_row.own_tokens_at)
    out[10] = max(load_row.tokens + change + max(change, 0.0) * peers_ratio, float(tokens))
    change = float(prefill - load_row.own_prefill_at)
    out[11] = max(load_row.prefill_tokens + change + max(change, 0.0) * peers_ratio, float(prefill))


@njit(cache=True)
def predict(
    offer: Any,
    site: Any,
    service: Any,
    path: Any,
    load_row: Any,
    tokens_in: float,
    tokens_out: float,
    deadline_ms: float,
    body_bytes: float,
    out: Any,
) -> None:
    """Milliseconds, energy and money of one more request at an offer whose load is in `out`."""
    requests = out[9]
    replicas = load_row.replicas
    slots_all = offer.slots * replicas
    batch = min(min(requests, slots_all) / replicas + 1.0, offer.slots)
    step_ms = offer.tpot_ms_base + offer.tpot_ms_per_running * batch
    uncached = max(tokens_in - out[12], 1.0)
    queue_ms = 0.0
    if requests + 1.0 > slots_all:
        full_ms = offer.tpot_ms_base + offer.tpot_ms_per_running * offer.slots
        service_ms = offer.prefill_ms_per_token * tokens_in + full_ms * tokens_out
        queue_ms = (requests + 1.0 - slots_all) * service_ms / slots_all
    ahead_ms = out[11] / replicas * offer.prefill_ms_per_token
    prompt_ms = offer.prefill_ms_per_token * uncached
    engine_ms = offer.ttft_ms_fixed + queue_ms + ahead_ms + prompt_ms + step_ms
    path_ms = path.rtt_ms + path.ms_per_byte * body_bytes
    ttft_ms = path_ms + engine_ms * load_row.ttft_factor
    tpot_ms = step_ms * load_row.tpot_factor
    e2e_ms = ttft_ms + tpot_ms * tokens_out
    decode_wh = (offer.decode_wh_shared / batch + offer.decode_wh_per_token) * tokens_out
    wh = (offer.prefill_wh_per_token * uncached + decode_wh) * site.pue
    g = wh * site.g_per_wh
    egress_usd = path.usd_per_byte * (body_bytes + WIRE_BYTES_PER_TOKEN_OUT * tokens_out)
    usd = wh * site.usd_per_wh + g * service.usd_per_g + egress_usd
    wait_usd = service.usd_per_latency_s * (e2e_ms * 0.001)
    late = ttft_ms > service.ttft_ms_slo or tpot_ms > service.tpot_ms_slo or e2e_ms > deadline_ms
    out[0] = ttft_ms
    out[1] = tpot_ms
    out[2] = e2e_ms
    out[3] = wh
    out[4] = g
    out[5] = usd
    out[6] = usd + wait_usd
    out[7] = path_ms
    out[8] = 1.0 if late else 0.0
    out[13] = batch
    out[14] = wait_usd


@njit(cache=True)
def assess(
    offers: Any,
    sites: Any,
    services: Any,
    subjects: Any,
    paths: Any,
    law: Any,
    load_offers: Any,
    load_sites: Any,
    load_services: Any,
    own: Any,
    o: int,
    subject: int,
    origin: int,
    tokens_in: float,
    tokens_out: float,
    deadline_ms: float,
    body_bytes: float,
    now_s: float,
    heard_stale_s: float,
    tried: Any,
    cached: Any,
    out: Any,
) -> int:
    """Gates and prediction of one offer: 0 and a full row `out`, or the gate at which it fell out."""
    offer = offers[o]
    s = offer.site
    if law[subjects[subject].profile, s] == 0:
        return LAW
    if offer.quality < subjects[subject].quality_min:
        return QUALITY
    if tokens_in >= offer.request_tokens_max:
        return LENGTH
    for i in range(TRIED_MAX):
        if tried[i] == o:
            return TRIED
    heard_site = load_sites[s]
    if heard_site.power_ok == 0:
        return POWER
    path = paths[origin, s]
    if heard_site.reachable == 0 or sites[s].drained != 0 or not path.rtt_ms < 1e9:
        return DEAD
    if s != origin and not now_s - heard_site.sampled_at_s <= heard_stale_s:
        return STALE
    load_row = load_offers[o]
    replicas = load_row.replicas
    if not replicas > 0.0:
        return DEAD
    effective(load_row, load_services[offer.service].peers_ratio, own, o, out)
    tokens = tokens_in + tokens_out
    if (
        out[9] + 1.0 > offer.requests_max * replicas
        or out[10] + tokens > offer.tokens_max * replicas
    ):
        return ROOM
    out[12] = 0.0
    for i in range(CACHED_MAX):
        if cached[i, 0] == s:
            out[12] = max(out[12], min(float(cached[i, 1]), tokens_in))
    service = services[offer.service]
    predict(
        offer,
        sites[s],
        service,
        path,
        load_row,
        tokens_in,
        tokens_out,
        deadline_ms,
        body_bytes,
        out,
    )
    if out[0] > deadline_ms:
        return DEADLINE
    return 0


@njit(cache=True)
def better(out: Any, o: int, best: int) -> bool:
    """Whether scratch row 1 of offer `o` beats row 0 of offer `best`; one total order, ties to the lower index."""
    if best < 0:
        return True
    if out[1, 8] != out[0, 8]:
        return bool(out[1, 8] < out[0, 8])
    column = 6 if out[1, 8] == 0.0 else 14
    if out[1, column] != out[0, column]:
        return bool(out[1, column] < out[0, column])
    return o < best


@njit(cache=True)
def choose(
    offers: Any,
    sites: Any,
    services: Any,
    subjects: Any,
    paths: Any,
    law: Any,
    candidate: Any,
    listed: Any,
    listed_first: Any,
    load_offers: Any,
    load_sites: Any,
    load_services: Any,
    own: Any,
    service: int,
    subject: int,
    origin: int,
    tokens_in: float,
    tokens_out: float,
    deadline_ms: float,
    body_bytes: float,
    now_s: float,
    valid_until_s: float,
    heard_stale_s: float,
    tried: Any,
    cached: Any,
    out: Any,
) -> int:
    """The offer for one request, or the furthest gate that any offer reached.

    Args beyond the table's and the load's arrays:
        candidate: [service, profile, 32] offers by cost on an idle fleet as seen from `origin`, -1 behind the last.
        listed: Offers by service, then site; `listed_first` [service, site + 1] says where each begins.
        tried: [8] offers already asked, -1 padded.
        cached: [4, 2] (site, prompt tokens it holds), -1 padded.
        out: [2, 15] row 0 takes the prediction of the choice.
    """
    if not now_s <= valid_until_s:
        return TABLE_EXPIRED
    last = law.shape[1]
    if listed_first[service, last] == listed_first[service, 0]:
        return NO_OFFER
    profile = subjects[subject].profile
    if law[profile, origin] == 0:
        return LAW
    best = -1
    reason = 0
    # Rounds: the candidates; then the entry site and up to four that hold the prefix; then, if need be, everything.
    for part in range(CACHED_MAX + 3):
        first = 0
        end = CANDIDATES_MAX
        if part > 0:
            s = origin
            if part == CACHED_MAX + 2:
                if best >= 0 and out[0, 8] == 0.0:
                    break
                s = -1
            elif part > 1:
                s = cached[part - 2, 0]
                if s < 0:
                    continue
            first = listed_first[service, 0 if s < 0 else s]
            end = listed_first[service, last if s < 0 else s + 1]
        for i in range(first, end):
            o = candidate[service, profile, i] if part == 0 else listed[i]
            if o < 0:
                break
            gate = assess(
                offers, sites, services, subjects, paths, law, load_offers, load_sites,
                load_services, own, o, subject, origin, tokens_in, tokens_out, deadline_ms,
                body_bytes, now_s, heard_stale_s, tried, cached, out[1],
            )  # fmt: skip
            if gate < 0:
                reason = min(reason, gate)
            elif better(out, o, best):
                best = o
                out[0, :] = out[1, :]
    return best if best >= 0 else reason


@njit(cache=True)
def candidates(
    offers: Any,
    sites: Any,
    services: Any,
    paths: Any,
    law: Any,
    listed: Any,
    listed_first: Any,
    load_offers: Any,
    origin: int,
    tokens_in: float,
    tokens_out: float,
    candidate: Any,
    out: Any,
) -> None:
    """Fill `candidate` [service, profile, 32] with lawful offers by cost on an idle fleet, -1 behind the last."""
    last = law.shape[1]
    costs = out[2:]
    for q in range(candidate.shape[0]):
        for p in range(candidate.shape[1]):
            count = 0
            for i in range(listed_first[q, 0], listed_first[q, last]):
                o = listed[i]
                offer = offers[o]
                path = paths[origin, offer.site]
                replicas = load_offers[o].replicas
                if law[p, offer.site] == 0 or not path.rtt_ms < 1e9 or not replicas > 0.0:
                    continue
                out[1, 9] = out[1, 10] = out[1, 11] = out[1, 12] = 0.0
                predict(
                    offer, sites[offer.site], services[q], path, load_offers[o], tokens_in,
                    tokens_out, 1e9, 4.0 * tokens_in, out[1],
                )  # fmt: skip
                cost = out[1, 6]
                at = min(count, CANDIDATES_MAX)
                while at > 0 and cost < costs[at - 1, 0]:
                    if at < CANDIDATES_MAX:
                        costs[at, 0] = costs[at - 1, 0]
                        candidate[q, p, at] = candidate[q, p, at - 1]
                    at -= 1
                if at < CANDIDATES_MAX:
                    costs[at, 0] = cost
                    candidate[q, p, at] = o
                    count = min(count + 1, CANDIDATES_MAX)
            for at in range(count, CANDIDATES_MAX):
                candidate[q, p, at] = -1


@njit(cache=True)
def choose_engine(
    engine_offer: Any,
    requests_max: Any,
    tokens_max: Any,
    states: Any,
    executing: Any,
    offer: int,
    tokens: float,
) -> int:
    """The replica of an offer with the least requests, or DEAD or ROOM. All arrays but `executing` are [engine].

    `executing` is [worker, engine] with fields `requests` and `tokens`; `states` holds 1 where alive.
    """
    best = -1
    best_requests = 0
    reason = DEAD
    for engine in range(engine_offer.shape[0]):
        if engine_offer[engine] != offer or states[engine] != 1:
            continue
        requests = 0
        held = 0
        for worker in range(executing.shape[0]):
            requests += executing[worker, engine].requests
            held += executing[worker, engine].tokens
        if requests + 1.0 > requests_max[engine] or held + tokens > tokens_max[engine]:
            reason = ROOM
        elif best < 0 or requests < best_requests:
            best = engine
            best_requests = requests
    return best if best >= 0 else reason
