"""One request, one choice: the kernel that picks an offer, and the one that picks a replica at the chosen site.

Here: `choose` and what it is made of (`assess` = gates and prediction of one offer), `candidates`; `choose_engine`, and `least_requests`
for comparison.
Not here: names and objects (`router`), where load figures come from (`load`), tables (`table`, `build`).

Rules of this file: arrays in, an offer index or a negative `Reason` out; no allocation, no object, only + - * /, min,
max and comparisons, in one fixed order, no fastmath, so that a replay on another machine gives the same bits.
Ties go to the lowest index. Indices are made unsigned (`uintp`), which spares numba's test for negative ones. A helper of a cached kernel lives in this file: numba does not see changes elsewhere.

An offer passes the gates of `reasons.Reason` in their order. Among those that pass, one that is predicted to meet the
service's SLO and the deadline beats one that is not; then the least cost in USD wins:

    cost = usd_per_latency_s * E2E + energy * price + carbon * carbon price + bytes * egress price

If none meets them, the least value of waiting wins, a quarter as much counted at home, and the choice is flagged. First up to 20 candidates by cost on an
idle fleet are looked at, with every offer of the entry site and of sites that hold the prompt's prefix; only if
none of these meets the SLO are all offers of the service.

Arguments that many kernels share:
    table: (offers, sites, services, subjects, paths from `origin` [site], law) of a `Table`.
    lists: (candidate, listed, listed_first): [service, profile, 20] offers by cost on an idle fleet as seen from
        `origin`, -1 behind the last; offers by service and site; [service, site + 1] where each begins.
    load: (offers, sites, services, own) of a `Load`.
    request: (tokens in, tokens out guessed, deadline ms, body bytes), all floats.
    tried: [8] offers already asked, -1 padded.
    cached: [4, 2] (site, prompt tokens it holds), -1 padded.
    out: [14] takes a prediction, columns `OUT_*`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from hanse.compiled import HOT, INLINED, KERNEL

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

CANDIDATES_MAX: Final = 20
"""Enough that losing half of a league to faults leaves a choice; few enough to look at in half a microsecond."""
TRIED_MAX: Final = 8
PATH_MS_MAX: Final = 1e9
CACHED_MAX: Final = 4
QUEUE_PER_SLOT_MAX: Final = 4.0
"""Requests in flight at a replica per decoding slot, the running one included: three service times of waiting are
more than any SLO here survives, and far less than what an engine would hold."""
FIRST_WORTH: Final = 10.0
"""A second of waiting for the first token, over one of writing the answer: of what an SLO allows, TTFT is about a tenth. At 1, long prompts
gathered at whichever engine had the fewest requests beside them, waited there for each other, and were given up and read twice."""
LATE_AT_HOME: Final = 0.25
"""What cannot be in time stays where it came in, unless it would take less than a quarter of the time elsewhere: in an overload, regions
that still keep the SLO go on doing so, instead of all missing it together. At a half, `benchmarks/multisite.py` had 24 to 30 % of overloaded
requests in time, at a quarter 34, below that no more."""
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
OUT_COUNT: Final = 14
"""Columns of an output row."""


@njit(**INLINED)
def effective(heard: float, own: int, own_at: int, peers_ratio: float) -> float:
    """A load figure of an offer now, as far as this gateway can know.

    Heard, plus own change since, plus as much again for each peer of our size: peers heard the same figures and
    choose by the same rule, so what we sent there since then, they sent too. Never less than our own.
    """
    change = float(own - own_at)
    return max(heard + change + max(change, 0.0) * peers_ratio, float(own))


@njit(**INLINED)
def admit(
    offer: Any,
    offer_index: int,
    sites: Any,
    subject: Any,
    path: Any,
    law: Any,
    load_row: Any,
    load_site: Any,
    origin: int,
    tokens_in: float,
    now_s: float,
    heard_stale_s: float,
    tried: Any,
) -> int:
    """The gates that need no figures: 0, or the one at which the offer fell out."""
    s = np.uintp(offer.site)
    if law[np.uintp(subject.profile), s] == 0:
        return LAW
    if offer.quality < subject.quality_min:
        return QUALITY
    if tokens_in >= offer.request_tokens_max:
        return LENGTH
    if tried[0] >= 0:
        for i in range(TRIED_MAX):
            if tried[i] == offer_index:
                return TRIED
    if load_site.power_ok != 1 and (
        load_site.power_ok == 0 or subject.shed_rank < -load_site.power_ok
    ):
        return POWER
    if load_site.reachable == 0 or sites[s].drained != 0 or not path.rtt_ms < PATH_MS_MAX:
        return DEAD
    if offer.site != origin and not now_s - load_site.sampled_at_s <= heard_stale_s:
        return STALE
    if not load_row.replicas > 0.0:
        return DEAD
    return 0


@njit(**INLINED)
def held(cached: Any, site: int, tokens_in: float) -> float:
    """Prompt tokens that a site need not read again."""
    most = 0.0
    if cached[0, 0] >= 0:
        for i in range(CACHED_MAX):
            if cached[i, 0] == site:
                most = max(most, min(float(cached[i, 1]), tokens_in))
    return most


@njit(**INLINED)
def predict(
    offer: Any,
    site: Any,
    service: Any,
    path: Any,
    load_row: Any,
    requests: float,
    tokens: float,
    prefill_tokens: float,
    cached_tokens: float,
    tokens_in: float,
    tokens_out: float,
    deadline_ms: float,
    body_bytes: float,
) -> tuple[float, float, float, float, float, float, float, float, bool, float]:
    """One more request at a load: TTFT, TPOT, E2E, Wh, g, USD, value of waiting, path, late?, batch."""
    # Per replica; one division instead of three, since a choice is a few dozen of these.
    share = 1.0 / load_row.replicas
    mine = requests * share
    batch = min(mine + 1.0, offer.slots)
    step_ms = offer.tpot_ms_base + offer.tpot_ms_per_running * batch
    uncached = max(tokens_in - cached_tokens, 1.0)
    over = 0.0
    if mine + share > offer.slots:
        over = (mine + share - offer.slots) / offer.slots
    kv_tokens = offer.tokens_max * (1.0 / QUEUE_PER_SLOT_MAX)
    short = (tokens + tokens_in - cached_tokens + tokens_out) * share - kv_tokens
    if short > 0.0:
        # Memory is full, or requests share it: who waits for memory has had no first token, so no more wait than that.
        waiting = prefill_tokens * share * (1.0 + tokens_out / max(tokens_in, 1.0))
        over = max(over, min(short, waiting) / kv_tokens)
    queue_ms = 0.0
    if over > 0.0:
        full_ms = offer.tpot_ms_base + offer.tpot_ms_per_running * batch
        service_ms = offer.prefill_ms_per_token * tokens_in + full_ms * tokens_out
        queue_ms = over * service_ms
    ahead_ms = prefill_tokens * share * offer.prefill_ms_per_token
    prompt_ms = offer.prefill_ms_per_token * uncached
    engine_ms = offer.ttft_ms_fixed + queue_ms + ahead_ms + prompt_ms + step_ms
    path_ms = path.rtt_ms + path.ms_per_byte * body_bytes
    ttft_ms = path_ms + engine_ms * load_row.ttft_factor
    # While this request writes its answer, the requests beside it are replaced about once each, and every step in which one
    # of the new prompts is read takes longer for all. Prompts to come are taken to be as long as those there now.
    beside = max(tokens * share - mine * tokens_out, 0.0)
    beside_ms = (
        beside * offer.prefill_ms_per_token * (1.0 / tokens_out if tokens_out > 1.0 else 0.0)
    )
    tpot_ms = (step_ms + beside_ms) * load_row.tpot_factor
    e2e_ms = ttft_ms + tpot_ms * tokens_out
    decode_wh = (offer.decode_wh_shared / batch + offer.decode_wh_per_token) * tokens_out
    wh = (offer.prefill_wh_per_token * uncached + decode_wh) * site.pue
    g = wh * site.g_per_wh
    egress_usd = path.usd_per_byte * (body_bytes + WIRE_BYTES_PER_TOKEN_OUT * tokens_out)
    usd = wh * site.usd_per_wh + g * service.usd_per_g + egress_usd
    # While a prompt is read everyone beside it waits too; what is cached spares them that.
    spared_ms = offer.prefill_ms_per_token * cached_tokens * (batch - 1.0)
    wait_usd = service.usd_per_latency_s * (max(e2e_ms - spared_ms, 0.0) * 0.001)
    late = ttft_ms > service.ttft_ms_slo or tpot_ms > service.tpot_ms_slo or e2e_ms > deadline_ms
    return ttft_ms, tpot_ms, e2e_ms, wh, g, usd, wait_usd, path_ms, late, batch


@njit(**INLINED)
def weigh(
    table: Any,
    load: Any,
    o: int,
    subject: int,
    origin: int,
    request: Any,
    now_s: float,
    heard_stale_s: float,
    tried: Any,
    cached: Any,
) -> tuple[int, float, float, float, Any]:
    """One offer: gate, requests, tokens and unread prompt tokens there, prediction."""
    offers, sites, services, subjects, paths, law = table
    load_offers, load_sites, load_services, own = load
    tokens_in, tokens_out, deadline_ms, body_bytes = request
    at = np.uintp(o)
    offer = offers[at]
    s = np.uintp(offer.site)
    path = paths[s]
    load_row = load_offers[at]
    nothing = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, True, 0.0)
    gate = admit(
        offer, o, sites, subjects[subject], path, law, load_row, load_sites[s], origin, tokens_in,
        now_s, heard_stale_s, tried,
    )  # fmt: skip
    if gate < 0:
        return gate, 0.0, 0.0, 0.0, nothing
    own_requests = 0
    own_tokens = 0
    own_prefill = 0
    for worker in range(own.shape[0]):
        mine = own[np.uintp(worker), at]
        own_requests += mine.requests
        own_tokens += mine.tokens
        own_prefill += mine.prefill_tokens
    ratio = load_services[np.uintp(offer.service)].peers_ratio
    requests = effective(load_row.requests, own_requests, load_row.own_requests_at, ratio)
    tokens = effective(load_row.tokens, own_tokens, load_row.own_tokens_at, ratio)
    prefill = effective(load_row.prefill_tokens, own_prefill, load_row.own_prefill_at, ratio)
    replicas = load_row.replicas
    # What peers are guessed to have sent makes an offer dearer; it is no reason to refuse. The serving site knows its room.
    sure_requests = effective(load_row.requests, own_requests, load_row.own_requests_at, 0.0)
    sure_tokens = effective(load_row.tokens, own_tokens, load_row.own_tokens_at, 0.0)
    if (
        sure_requests + 1.0 > offer.requests_max * replicas
        or sure_tokens + tokens_in + tokens_out > offer.tokens_max * replicas
    ):
        return ROOM, requests, tokens, prefill, nothing
    predicted = predict(
        offer, sites[s], services[np.uintp(offer.service)], path, load_row, requests, tokens, prefill,
        held(cached, offer.site, tokens_in), tokens_in, tokens_out, deadline_ms, body_bytes,
    )  # fmt: skip
    if predicted[0] > deadline_ms:
        return DEADLINE, requests, tokens, prefill, predicted
    return 0, requests, tokens, prefill, predicted


@njit(**INLINED)
def fill(
    out: Any, requests: float, tokens: float, prefill: float, cached_tokens: float, predicted: Any
) -> None:
    """Write an output row."""
    out[OUT_TTFT_MS] = predicted[0]
    out[OUT_TPOT_MS] = predicted[1]
    out[OUT_E2E_MS] = predicted[2]
    out[OUT_WH] = predicted[3]
    out[OUT_G] = predicted[4]
    out[OUT_USD] = predicted[5]
    out[OUT_COST_USD] = predicted[5] + predicted[6]
    out[OUT_PATH_MS] = predicted[7]
    out[OUT_SLO_MISSED] = 1.0 if predicted[8] else 0.0
    out[OUT_BATCH] = predicted[9]
    out[OUT_REQUESTS] = requests
    out[OUT_TOKENS] = tokens
    out[OUT_PREFILL_TOKENS] = prefill
    out[OUT_CACHED_TOKENS] = cached_tokens


@njit(**KERNEL)
def assess(
    table: Any,
    load: Any,
    o: int,
    subject: int,
    origin: int,
    request: Any,
    now_s: float,
    heard_stale_s: float,
    tried: Any,
    cached: Any,
    out: Any,
) -> int:
    """Gate of one offer, with all that is known of it in the row `out`."""
    gate, requests, tokens, prefill, predicted = weigh(
        table, load, o, subject, origin, request, now_s, heard_stale_s, tried, cached
    )
    fill(out, requests, tokens, prefill, held(cached, table[0][o].site, request[0]), predicted)
    answer: int = gate
    return answer


@njit(**INLINED)
def span(part: int, first: Any, service: int, origin: int, cached: Any) -> tuple[int, int]:
    """Where in the candidates (part 0) or in the listed offers a part of the search begins and ends.

    The candidates; the entry site's offers; those of up to four sites that hold the prefix; everything.
    """
    if part == 0:
        return 0, CANDIDATES_MAX
    if part == CACHED_MAX + 2:
        return first[service, 0], first[service, first.shape[1] - 1]
    s = origin if part == 1 else cached[part - 2, 0]
    if s < 0 or s + 1 >= first.shape[1]:  # nothing known, or a site of a table that was larger
        return 0, 0
    return first[service, s], first[service, s + 1]


@njit(**INLINED)
def beats(late: bool, value: float, o: int, best_late: bool, best_value: float, best: int) -> bool:
    """One total order: on time before late, then the lower value, then the lower index."""
    if best < 0:
        return True
    if late != best_late:
        return best_late
    if value != best_value:
        return value < best_value
    return o < best


@njit(**HOT)
def choose(
    table: Any,
    lists: Any,
    load: Any,
    service: int,
    subject: int,
    origin: int,
    request: Any,
    now_s: float,
    valid_until_s: float,
    heard_stale_s: float,
    tried: Any,
    cached: Any,
    out: Any,
) -> int:
    """The offer for one request, or the furthest gate that any offer reached; `out` tells what it will take."""
    law = table[5]
    candidate, listed, first = lists
    last = law.shape[1]
    profile = table[3][subject].profile
    if not now_s <= valid_until_s:
        return TABLE_EXPIRED
    if first[service, last] == first[service, 0]:
        return NO_OFFER
    if law[profile, origin] == 0:
        return LAW
    best: int = -1
    best_late = True
    best_value = 0.0
    reason: int = 0
    for part in range(CACHED_MAX + 3):
        if part == CACHED_MAX + 2 and best >= 0 and not best_late:
            break
        start, end = span(part, first, service, origin, cached)
        for i in range(start, end):
            o = candidate[service, profile, i] if part == 0 else listed[i]
            if o < 0:
                break
            weighed = weigh(
                table, load, o, subject, origin, request, now_s, heard_stale_s, tried, cached
            )
            if weighed[0] < 0:
                reason = min(reason, weighed[0])
                continue
            predicted = weighed[4]
            late = predicted[8]
            value = predicted[5] + predicted[6]
            if late:
                value = predicted[6] * LATE_AT_HOME if table[0][o].site == origin else predicted[6]
            if beats(late, value, o, best_late, best_value, best):
                best, best_late, best_value = o, late, value
                credit = held(cached, table[0][o].site, request[0])
                fill(out, weighed[1], weighed[2], weighed[3], credit, predicted)
    return best if best >= 0 else reason


@njit(**KERNEL)
def candidates(
    table: Any,
    listed: Any,
    first: Any,
    load_offers: Any,
    request: Any,
    candidate: Any,
    costs: Any,
) -> None:
    """Fill `candidate` [service, profile, 20] with lawful offers by cost on an idle fleet, -1 behind the last.

    `costs` [20] is scratch, `load_offers` that of an idle fleet.
    """
    offers, sites, services, _, paths, law = table
    tokens_in, tokens_out, deadline_ms, body_bytes = request
    for q in range(candidate.shape[0]):
        for p in range(candidate.shape[1]):
            count = 0
            for i in range(first[q, 0], first[q, law.shape[1]]):
                o = listed[i]
                offer = offers[o]
                path = paths[offer.site]
                if law[p, offer.site] == 0 or not path.rtt_ms < PATH_MS_MAX:
                    continue
                predicted = predict(
                    offer, sites[offer.site], services[q], path, load_offers[o], 0.0, 0.0, 0.0, 0.0,
                    tokens_in, tokens_out, deadline_ms, body_bytes,
                )  # fmt: skip
                cost = predicted[5] + predicted[6]
                at = count
                while at > 0 and cost < costs[at - 1]:
                    if at < CANDIDATES_MAX:
                        costs[at] = costs[at - 1]
                        candidate[q, p, at] = candidate[q, p, at - 1]
                    at -= 1
                if at < CANDIDATES_MAX:
                    costs[at] = cost
                    candidate[q, p, at] = o
                    count = min(count + 1, CANDIDATES_MAX)
            for at in range(count, CANDIDATES_MAX):
                candidate[q, p, at] = -1


@njit(**HOT)
def choose_engine(
    engine_offer: Any,
    requests_max: Any,
    tokens_max: Any,
    states: Any,
    executing: Any,
    offers: Any,
    offer: int,
    tokens_in: float,
    tokens_out: float,
    cached: Any,
) -> int:
    """The replica of an offer at which one more request takes the least time of all together, or DEAD or ROOM.

    All arrays but `executing` and `offers` are [engine]; `executing` is [worker, engine] of `OWN_DTYPE`; `states` holds 1 where alive;
    `cached` is [4, 2] (engine, prompt tokens it holds), -1 padded.
    """
    record = offers[np.uintp(offer)]
    best = -1
    best_ms = 0.0
    reason = DEAD
    for engine in range(engine_offer.shape[0]):
        if engine_offer[engine] != offer or states[engine] != 1:
            continue
        requests = 0
        tokens = 0
        prefill = 0
        for worker in range(executing.shape[0]):
            mine = executing[worker, engine]
            requests += mine.requests
            tokens += mine.tokens
            prefill += mine.prefill_tokens
        if (
            requests + 1.0 > requests_max[engine]
            or tokens + tokens_in + tokens_out > tokens_max[engine]
        ):
            reason = ROOM
            continue
        kv_tokens = tokens_max[engine] * (1.0 / QUEUE_PER_SLOT_MAX)
        unread = max(tokens_in - held(cached, engine, tokens_in), 1.0)
        ms = added_ms(
            record, float(requests), float(tokens), float(prefill), kv_tokens, tokens_in, tokens_out, unread
        )  # fmt: skip
        if best < 0 or ms < best_ms:
            best = engine
            best_ms = ms
    return best if best >= 0 else reason


@njit(**INLINED)
def added_ms(
    offer: Any,
    requests: float,
    tokens: float,
    prefill_tokens: float,
    kv_tokens: float,
    tokens_in: float,
    tokens_out: float,
    unread: float,
) -> float:
    """What one more request at a replica costs itself and those beside it, but for what it costs at any replica.

    It waits for the prompts before its own; as long for a first token is worse than somewhere in the answer (`FIRST_WORTH`). While its own
    is read, everyone in the batch waits with it. Each of its tokens makes the step longer for everyone, as each of them makes it longer for
    this one. Beyond slots or memory it waits for others to end.
    """
    beside = min(requests, offer.slots)
    ahead = FIRST_WORTH * prefill_tokens
    read_ms = offer.prefill_ms_per_token * (ahead + unread * (1.0 + beside))
    write_ms = offer.tpot_ms_per_running * tokens_out * (1.0 + 2.0 * beside)
    over = max(requests + 1.0 - offer.slots, 0.0) / offer.slots
    over = max(over, (tokens + tokens_in + tokens_out - kv_tokens) / kv_tokens)
    if over > 0.0:
        step_ms = offer.tpot_ms_base + offer.tpot_ms_per_running * offer.slots
        write_ms += over * (offer.prefill_ms_per_token * tokens_in + step_ms * tokens_out)
    total: float = read_ms + write_ms
    return total


@njit(**KERNEL)
def least_requests(
    engine_offer: Any,
    requests_max: Any,
    tokens_max: Any,
    states: Any,
    executing: Any,
    offer: int,
    tokens: float,
) -> int:
    """The replica of an offer with the fewest requests, or DEAD or ROOM: what most balancers do, for comparison."""
    best = -1
    best_requests = 0
    reason = DEAD
    for engine in range(engine_offer.shape[0]):
        if engine_offer[engine] != offer or states[engine] != 1:
            continue
        requests = 0
        there = 0
        for worker in range(executing.shape[0]):
            requests += executing[worker, engine].requests
            there += executing[worker, engine].tokens
        if requests + 1.0 > requests_max[engine] or there + tokens > tokens_max[engine]:
            reason = ROOM
        elif best < 0 or requests < best_requests:
            best = engine
            best_requests = requests
    return best if best >= 0 else reason
