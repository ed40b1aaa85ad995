"""A gateway of the simulation: hears load, chooses, sends, retries, and books how requests end.

Here: what `live.gateway` does around the same kernels of `dispatch`: `choose`, `choose_engine`, `load.*`, `prefix.*`. Not here: engines
(`engine`), how load is heard (`hearing`), what each result is summed into (`books`), when any of this happens (`loop`).
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from hanse.compiled import HOT, KERNEL
from hanse.dispatch import choose as kernels
from hanse.dispatch import load as loads
from hanse.dispatch.patience import HELD_ASKS_EVERY_S, HELD_S, first_byte_s, worth_holding
from hanse.twin.affinity import (
    answered,
    believe_site,
    look_up_prefixes,
    pick_engine,
    remember_engine,
)
from hanse.twin.arrays import (
    ANSWERED,
    ARRIVE,
    ASK_AGAIN,
    BACK,
    BROKEN,
    FAILED,
    FAILED_OUT,
    FREE,
    HELD,
    LOST,
    OPTION_POLICY,
    OPTION_STALE_S,
    REFUSED,
    REFUSED_OUT,
    TO_SITE,
    TRIED_MAX,
)
from hanse.twin.books import book
from hanse.twin.engine import drop, enqueue, waste
from hanse.twin.hearing import hear, hear_head, refresh
from hanse.twin.picking import pick
from hanse.twin.queues import free_slot, push, take_slot, unwatch, watch

ATTEMPTS_MAX: Final = 8
WAIT_AGAIN_S: Final = 1.0
"""As `live.gateway.entry`: how long a late attempt is waited for once more when nothing else would take the request."""
EXPIRE_SWEEPS: Final = 50
"""Every 5 s all streams' deadlines are looked at: a live gateway does it twice a second, of deadlines of a minute."""
BYTES_PER_TOKEN: Final = 4.0
BODY_BYTES: Final = 200.0
"""JSON around a prompt."""


@njit(**HOT)
def ask(w: Any, a: int, t: float) -> int:
    """`choose` for this request now, from this gateway's table and load."""
    attempt = w.attempts[a]
    g, v = attempt.gateway, w.version[attempt.gateway]
    if w.options[OPTION_POLICY] != 0.0:
        return ask_policy(w, a, t)
    q, profile = attempt.service, w.subjects[v, attempt.subject].profile
    refresh(w, g, t)
    for i in range(kernels.CANDIDATES_MAX):
        o = w.candidate[v, g, q, profile, i]
        if o < 0:
            break
        s = w.offers[v, o].site
        if w.heard[g, s].count != w.frame_count[s]:
            hear(w, g, s, t)
    chosen: int = -1
    for look in range(2):
        chosen = ask_once(w, a, t)
        if look == 1 or (chosen >= 0 and w.out[kernels.OUT_SLO_MISSED] == 0.0):
            break
        # The kernel has looked beyond the candidates: then all sites have to be heard.
        for s in range(w.site_up.shape[0]):
            hear(w, g, s, t)
    return chosen


@njit(**KERNEL)
def ask_policy(w: Any, a: int, t: float) -> int:
    """The same question to the run's policy, which looks at every offer."""
    attempt = w.attempts[a]
    for s in range(w.site_up.shape[0]):
        hear(w, attempt.gateway, s, t)
    chosen: int = pick(w, a, t, BODY_BYTES + BYTES_PER_TOKEN * attempt.guess_in)
    return chosen


@njit(**HOT)
def ask_once(w: Any, a: int, t: float) -> int:
    """One call of the kernel."""
    attempt = w.attempts[a]
    g, v = attempt.gateway, w.version[attempt.gateway]
    table = (w.offers[v], w.sites[v], w.services, w.subjects[v], w.paths[g], w.law[v])
    lists = (w.candidate[v, g], w.listed[v], w.first[v])
    load = (w.load_offers[g], w.load_sites[g], w.load_services[g], w.own[g])
    request = (
        float(attempt.guess_in),
        float(attempt.guess_out),
        (attempt.expires_at_s - t) * 1000.0,
        BODY_BYTES + BYTES_PER_TOKEN * attempt.guess_in,
    )
    chosen: int = kernels.choose(
        table, lists, load, attempt.service, attempt.subject, g, request, t, w.valid_until_s[v],
        w.options[OPTION_STALE_S], w.scratch_tried, w.cached, w.out,
    )  # fmt: skip
    return chosen


@njit(**KERNEL)
def seek(w: Any, a: int, t: float) -> None:
    """Find an offer for a request that has none and begin there, or hold or refuse it."""
    attempt = w.attempts[a]
    more = attempt.number <= ATTEMPTS_MAX
    found = find(w, a, t) if more else kernels.TRIED
    if found < 0 and more and (attempt.slow != 0 or attempt.slow_engines != 0):
        forgive(w, a, attempt.slow)
        attempt.excluded &= ~attempt.slow_engines
        attempt.slow_engines = 0
        found = find(w, a, t)
    if found < 0 and not hold(w, a, found, t):
        refuse(w, a, found, t)


@njit(**KERNEL)
def forgive(w: Any, a: int, places: int) -> None:
    """What stands in these places of `tried` may be asked again: it was only slow, or had no room then."""
    attempt = w.attempts[a]
    slow, full, kept = 0, 0, 0
    for i in range(attempt.tried_count):
        if (places >> i) & 1 == 0:
            w.tried[a, kept] = w.tried[a, i]
            slow |= ((attempt.slow >> i) & 1) << kept
            full |= ((attempt.full >> i) & 1) << kept
            kept += 1
    attempt.tried_count, attempt.slow, attempt.full = kept, slow, full


@njit(**KERNEL)
def hold(w: Any, a: int, reason: int, t: float) -> bool:
    """What was begun and failed is not lost for a moment in which nobody takes it: its gateway asks again soon."""
    attempt = w.attempts[a]
    if attempt.executed == 0 or attempt.number > ATTEMPTS_MAX:
        return False
    if attempt.held_at_s >= 0.0 and t - attempt.held_at_s >= HELD_S:
        return False
    forgive(w, a, attempt.full)
    for i in range(TRIED_MAX):
        w.scratch_tried[i] = w.tried[a, i] if i < attempt.tried_count else -1
    g, v = attempt.gateway, w.version[attempt.gateway]
    table = (w.offers[v], w.sites[v], w.services, w.subjects[v], w.paths[g], w.law[v])
    lists = (w.candidate[v, g], w.listed[v], w.first[v])
    if not worth_holding(
        table, lists, attempt.service, attempt.subject, g, reason, float(attempt.guess_in), w.scratch_tried
    ):  # fmt: skip
        return False
    if attempt.held_at_s < 0.0:
        attempt.held_at_s = t
    attempt.stage = HELD
    attempt.engine = -1
    attempt.heard_at_s = 0.0
    push(w, t + HELD_ASKS_EVERY_S, ASK_AGAIN, a)
    return True


@njit(**KERNEL)
def ask_again(w: Any, a: int, t: float) -> None:
    """A held request's next look around."""
    attempt = w.attempts[a]
    if attempt.dropped != 0:
        waste(w, a)
    elif t >= attempt.expires_at_s:
        book(w, a, t, FAILED_OUT, kernels.DEADLINE)
        free_slot(w, a)
    else:
        seek(w, a, t)


@njit(**KERNEL)
def find(w: Any, a: int, t: float) -> int:
    """Begin the request at the best offer that takes it; the offer, or why there is none."""
    attempt = w.attempts[a]
    g = attempt.gateway
    count = attempt.tried_count
    for i in range(TRIED_MAX):
        w.scratch_tried[i] = w.tried[a, i] if i < count else -1
    known = look_up_prefixes(w, a, t)
    worst = 0
    while True:
        o = ask(w, a, t)
        if o < 0:
            return min(o, worst)
        s = w.offers[w.version[g], o].site
        believe_site(w, a, s, known, t)
        if s != g:
            begin(w, a, o, s, t)
            send(w, a, t)
            return o
        e = pick_engine(w, a, t, g, o, attempt.excluded)
        if e >= 0:
            begin(w, a, o, s, t)
            execute(w, a, e, t)
            return o
        worst = min(worst, e)
        if count >= TRIED_MAX:
            return worst
        w.scratch_tried[count] = o
        count += 1


@njit(**HOT)
def begin(w: Any, a: int, o: int, s: int, t: float) -> None:
    """Count an attempt as this gateway's own and note what was predicted for it."""
    attempt, out = w.attempts[a], w.out
    g = attempt.gateway
    attempt.offer = o
    attempt.site = s
    attempt.engine = -1
    attempt.began_at_s = t
    attempt.first_at_s = attempt.heard_at_s = 0.0
    attempt.held_at_s = -1.0
    attempt.joules = 0.0
    attempt.generated = 0
    attempt.dropped = attempt.late = attempt.answering = attempt.cut = 0
    attempt.ttft_ms_predicted = out[kernels.OUT_TTFT_MS]
    attempt.tpot_ms_predicted = out[kernels.OUT_TPOT_MS]
    attempt.e2e_ms_predicted = out[kernels.OUT_E2E_MS]
    attempt.path_ms = out[kernels.OUT_PATH_MS]
    attempt.ttft_factor = w.load_offers[g, o].ttft_factor
    attempt.tpot_factor = w.load_offers[g, o].tpot_factor
    attempt.deadline_at_s = t + first_byte_s(attempt.ttft_ms_predicted, attempt.switches)
    attempt.counted_prefill = attempt.guess_in
    attempt.counted_tokens = attempt.guess_in + attempt.guess_out
    loads.begin(w.own[g], 0, o, attempt.counted_prefill, attempt.counted_tokens)
    loads.arrived(w.load_services[g], attempt.service, 1.0, t)
    watch(w, a)


@njit(**HOT)
def send(w: Any, a: int, t: float) -> None:
    """To another site: half a round trip, behind whatever else that path is carrying."""
    attempt = w.attempts[a]
    g, s = attempt.gateway, attempt.site
    path = w.ways[g, s]
    w.clock[0].hops += 1
    attempt.stage = TO_SITE
    if w.link_up[g, s] == 0:
        attempt.stage = LOST  # the deadline, silence or the link's return will tell
        attempt.lost_kind = ARRIVE
        return
    bytes_ms = path.ms_per_byte * (BODY_BYTES + BYTES_PER_TOKEN * attempt.guess_in)
    start_s = max(t, w.link_busy_s[g, s])
    w.link_busy_s[g, s] = start_s + bytes_ms * 0.001
    push(w, w.link_busy_s[g, s] + 0.0005 * path.rtt_ms, ARRIVE, a)


@njit(**KERNEL)
def execute(w: Any, a: int, e: int, t: float) -> None:
    """The site hands the request to one of its engines."""
    attempt = w.attempts[a]
    site_load, executing = w.site_load[attempt.offer], w.executing[0, e]
    attempt.told_tokens = attempt.guess_in + attempt.guess_out
    attempt.told_prefill = attempt.guess_in
    site_load.requests += 1
    site_load.tokens += attempt.told_tokens
    site_load.prefill_tokens += attempt.told_prefill
    site_load.begun += 1
    executing.requests += 1
    executing.tokens += attempt.told_tokens
    executing.prefill_tokens += attempt.told_prefill
    v = w.version[attempt.site]
    if w.law[v, w.subjects[v, attempt.subject].profile, attempt.site] == 0:
        w.clock[0].unlawful += 1  # must stay 0: a test, and the report, look at it
    remember_engine(w, a, e, t)
    enqueue(w, e, a, t)


@njit(**HOT)
def arrive(w: Any, a: int, t: float) -> None:
    """At the serving site: law and room again, by its own table; a no goes back."""
    attempt = w.attempts[a]
    s = attempt.site
    if attempt.dropped != 0:
        waste(w, a)
        return
    if w.site_up[s] == 0:
        answer_back(w, a, t, FAILED, kernels.DEAD)
        return
    v = w.version[s]
    e = kernels.LAW
    if w.law[v, w.subjects[v, attempt.subject].profile, s] != 0:
        e = kernels.TABLE_EXPIRED
        if t <= w.valid_until_s[v]:
            e = kernels.POWER
            if w.power_ok[s] == 1:
                e = pick_engine(w, a, t, s, attempt.offer, 0)
    if e >= 0:
        execute(w, a, e, t)
    else:
        answer_back(w, a, t, REFUSED, e)


@njit(**KERNEL)
def answer_back(w: Any, a: int, t: float, kind: int, reason: int) -> None:
    """Something short goes back to the gateway."""
    attempt = w.attempts[a]
    attempt.reason = reason
    if w.link_up[attempt.site, attempt.gateway] == 0:
        attempt.stage = LOST
        attempt.lost_kind = kind
        return
    attempt.stage = BACK
    push(w, t + 0.0005 * w.ways[attempt.site, attempt.gateway].rtt_ms, kind, a)


@njit(**HOT)
def settle(w: Any, a: int, t: float) -> None:
    """Take the attempt out of this gateway's own counts, after what was heard while it was in them."""
    attempt = w.attempts[a]
    if attempt.site != attempt.gateway:
        hear(w, attempt.gateway, attempt.site, t)
    loads.end(
        w.own[attempt.gateway], 0, attempt.offer, attempt.counted_prefill, attempt.counted_tokens
    )
    attempt.counted_prefill = attempt.counted_tokens = 0
    unwatch(w, a)


@njit(**KERNEL)
def refused(w: Any, a: int, t: float) -> None:
    """A peer said no: nothing was executed, the next offer is tried."""
    if w.attempts[a].dropped != 0:
        waste(w, a)
        return
    settle(w, a, t)
    attempt, count = w.attempts[a], w.attempts[a].tried_count
    exclude(w, a)
    if attempt.reason == kernels.ROOM and attempt.tried_count > count:
        attempt.full |= 1 << count
    again(w, a, t)


@njit(**KERNEL)
def failed(w: Any, a: int, t: float) -> None:
    """The attempt is over without a first byte, or broke after it."""
    attempt = w.attempts[a]
    if attempt.dropped != 0:
        waste(w, a)
        return
    if attempt.answering == 1:  # bytes have gone to the client: nothing may be sent again
        settle(w, a, t)
        book(w, a, t, BROKEN, 0)
        waste(w, a)
        return
    settle(w, a, t)
    attempt.executed = 1
    if attempt.engine < 0 and attempt.site != attempt.gateway:
        w.load_sites[attempt.gateway, attempt.site].reachable = 0
    exclude(w, a)
    again(w, a, t)


@njit(**KERNEL)
def exclude(w: Any, a: int) -> None:
    """Not there again: a peer's offer, or one engine here."""
    attempt = w.attempts[a]
    if attempt.site != attempt.gateway:
        if attempt.tried_count < TRIED_MAX:
            w.tried[a, attempt.tried_count] = attempt.offer
            attempt.tried_count += 1
    elif attempt.engine >= 0:
        at = attempt.engine - w.engine_first[attempt.site]
        attempt.excluded |= 1 << min(at, 62)


@njit(**KERNEL)
def again(w: Any, a: int, t: float) -> None:
    """The same request, next attempt, in the same slot: nothing else refers to it."""
    attempt = w.attempts[a]
    if attempt.engine >= 0:
        w.engines[attempt.engine].wasted_j += attempt.joules
    attempt.number += 1
    seek(w, a, t)


@njit(**HOT)
def first_byte(w: Any, a: int, t: float) -> None:
    """The first token has reached the gateway; of an attempt that is over by now, or whose slot is another's, nothing is taken."""
    attempt = w.attempts[a]
    if attempt.stage == FREE or attempt.dropped != 0 or attempt.heard_at_s != t:
        return
    attempt.answering = 1
    if attempt.site != attempt.gateway:
        hear(w, attempt.gateway, attempt.site, t)
        hear_head(w, a)
    loads.first_byte(w.own[attempt.gateway], 0, attempt.offer, attempt.counted_prefill)
    attempt.counted_prefill = 0
    unwatch(w, a)


@njit(**HOT)
def as_now(w: Any, a: int) -> tuple[float, float]:
    """TTFT and TPOT of an attempt as they would be predicted now."""
    attempt = w.attempts[a]
    first, each = loads.as_now(
        w.load_offers[attempt.gateway], attempt.offer, attempt.ttft_ms_predicted, attempt.tpot_ms_predicted,
        attempt.path_ms, attempt.ttft_factor, attempt.tpot_factor,
    )  # fmt: skip
    return first, each


@njit(**HOT)
def ended(w: Any, a: int, t: float) -> None:
    """The last token has reached the gateway."""
    attempt = w.attempts[a]
    if attempt.dropped != 0:
        waste(w, a)
        return
    g, o = attempt.gateway, attempt.offer
    settle(w, a, t)
    engine = w.engines[attempt.engine]
    back_s = 0.0005 * w.ways[attempt.site, g].rtt_ms
    ttft_ms = (attempt.first_at_s + back_s - attempt.began_at_s) * 1000.0 + engine.ttft_ms_fixed
    e2e_ms = (t - attempt.began_at_s) * 1000.0 + engine.ttft_ms_fixed
    first_ms, each_ms = as_now(w, a)
    loads.learned(
        w.load_offers[g], o, first_ms, each_ms, attempt.path_ms, ttft_ms, e2e_ms, attempt.tokens_out
    )
    guess = w.guess_out[g, attempt.service]
    w.guess_out[g, attempt.service] = guess + loads.GUESS_SHARE * (attempt.tokens_out - guess)
    answered(w, a, t)
    outcome = ANSWERED if t <= attempt.expires_at_s else BROKEN
    book(w, a, t, outcome, 0)
    free_slot(w, a)


@njit(**KERNEL)
def refuse(w: Any, a: int, reason: int, t: float) -> None:
    """No offer (left): one answer that says why."""
    attempt = w.attempts[a]
    failed_out = attempt.executed == 1
    book(w, a, t, FAILED_OUT if failed_out else REFUSED_OUT, reason)
    free_slot(w, a)


@njit(**KERNEL)
def sweep(w: Any, t: float) -> None:
    """Look at every attempt without a first byte: late ones go elsewhere where something else would take them."""
    w.clock[0].sweeps += 1
    if w.clock[0].sweeps % EXPIRE_SWEEPS == 0:
        expire_streams(w, t)
    a = w.clock[0].waiting
    while a >= 0:
        following = w.attempts[a].next
        attempt = w.attempts[a]
        if t >= attempt.expires_at_s:
            expire(w, a, t)
        elif t >= attempt.deadline_at_s:
            overdue(w, a, t)
        a = following


@njit(**KERNEL)
def expire_streams(w: Any, t: float) -> None:
    """Streams whose end was lost, or which go on past the service's deadline."""
    for a in range(w.clock[0].slots_used):
        attempt = w.attempts[a]
        if attempt.stage == FREE or attempt.dropped != 0 or attempt.answering == 0:
            continue
        if t >= attempt.expires_at_s:
            settle(w, a, t)
            book(w, a, t, BROKEN, kernels.DEADLINE)
            drop(w, a, t)


@njit(**KERNEL)
def expire(w: Any, a: int, t: float) -> None:
    """The service's deadline passed without a first byte."""
    settle(w, a, t)
    book(w, a, t, FAILED_OUT, kernels.DEADLINE)
    drop(w, a, t)


@njit(**KERNEL)
def overdue(w: Any, a: int, t: float) -> None:
    """Switch only where another offer takes the request; else waiting is the better chance."""
    attempt = w.attempts[a]
    if attempt.late == 0:
        attempt.late = 1
        engine_ms = as_now(w, a)[0] - attempt.path_ms
        if engine_ms > 0.0:
            least = ((t - attempt.began_at_s) * 1000.0 - attempt.path_ms) / engine_ms
            if least > 1.0:
                loads.observed(w.load_offers[attempt.gateway], attempt.offer, least, 0.0)
    if attempt.number >= ATTEMPTS_MAX or w.clock[0].attempts >= w.attempts.shape[0]:
        attempt.deadline_at_s = t + WAIT_AGAIN_S
        return
    b = take_slot(w)
    other = w.attempts[b]
    copy_request(attempt, other)
    for i in range(attempt.tried_count):
        w.tried[b, i] = w.tried[a, i]
    other.engine = attempt.engine
    other.site = attempt.site
    other.offer = attempt.offer
    count, excluded = other.tried_count, other.excluded
    exclude(w, b)
    if w.load_sites[other.gateway, other.site].reachable != 0:  # slow, and nothing worse
        if other.tried_count > count:
            other.slow |= 1 << count
        other.slow_engines |= other.excluded & ~excluded
    other.switches += 1
    other.number += 1
    other.executed = 1
    if find(w, b, t) < 0:
        free_slot(w, b)
        attempt.deadline_at_s = t + WAIT_AGAIN_S
        return
    settle(w, a, t)
    drop(w, a, t)


@njit(**KERNEL)
def copy_request(a: Any, b: Any) -> None:
    """What belongs to the request rather than to one try of it."""
    b.number = a.number
    b.gateway = a.gateway
    b.service = a.service
    b.subject = a.subject
    b.cls = a.cls
    b.origin = a.origin
    b.tokens_in = a.tokens_in
    b.tokens_out = a.tokens_out
    b.guess_in = a.guess_in
    b.guess_out = a.guess_out
    b.tried_count = a.tried_count
    b.excluded = a.excluded
    b.slow = a.slow
    b.slow_engines = a.slow_engines
    b.full = a.full
    b.switches = a.switches
    b.block_at = a.block_at
    b.block_count = a.block_count
    b.blocks_held = b.block_last = 0
    b.request = a.request
    b.user_ms = a.user_ms
    b.started_at_s = a.started_at_s
    b.expires_at_s = a.expires_at_s
    b.held_at_s = a.held_at_s
    b.executed = a.executed
    b.byteless = 0
    b.dropped = 0
    b.stage = BACK
