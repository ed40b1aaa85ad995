"""Choosing by a policy: every lawful offer with room is described, scored, and the lowest score wins.

Here: `pick`, compiled, in place of `choose` where a run has a policy; the call of a function by its address. Not here: the policies and
what they see (`policies`); gates and predictions, which are `dispatch.choose.weigh`, so that no policy gets past them.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit, types
from numba.extending import intrinsic

from hanse.compiled import KERNEL
from hanse.dispatch import choose as kernels
from hanse.dispatch.choose import QUEUE_PER_SLOT_MAX
from hanse.twin.arrays import (
    OPTION_CENTRAL,
    OPTION_POLICY,
    OPTION_SCORE,
    OPTION_STALE_S,
)
from hanse.twin.policies import OWN, score_built_in

INF: Final = float("inf")


def _call_score(_typing: Any, address: Any, row: Any) -> Any:
    """Call the C function at `address` with the address of a record; numba keeps a record as exactly that."""
    signature = types.float64(types.int64, row)

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        from llvmlite import ir

        pointer = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.DoubleType(), [pointer]).as_pointer()
        called = builder.inttoptr(args[0], function)
        return builder.call(called, [builder.bitcast(args[1], pointer)])

    return signature, codegen


call_score: Final[Any] = intrinsic(_call_score)


@njit(**KERNEL)
def pick(w: Any, a: int, t: float, body_bytes: float) -> int:
    """The offer that the run's policy likes best, or the furthest gate that any offer reached; `w.out` tells what it will take."""
    attempt = w.attempts[a]
    g, v, q = attempt.gateway, w.version[attempt.gateway], attempt.service
    table = (w.offers[v], w.sites[v], w.services, w.subjects[v], w.paths[g], w.law[v])
    load = (w.load_offers[g], w.load_sites[g], w.load_services[g], w.own[g])
    request = (
        float(attempt.guess_in),
        float(attempt.guess_out),
        (attempt.expires_at_s - t) * 1000.0,
        body_bytes,
    )
    begin, end = w.first[v, q, 0], w.first[v, q, w.law.shape[2]]
    if not t <= w.valid_until_s[v]:
        return kernels.TABLE_EXPIRED
    if begin == end:
        return kernels.NO_OFFER
    if w.law[v, w.subjects[v, attempt.subject].profile, g] == 0:
        return kernels.LAW
    count: int = 0
    reason: int = 0
    for i in range(begin, end):
        o = w.listed[v, i]
        weighed = kernels.weigh(
            table, load, o, attempt.subject, g, request, t, w.options[OPTION_STALE_S],
            w.scratch_tried, w.cached,
        )  # fmt: skip
        if weighed[0] < 0:
            reason = min(reason, weighed[0])
            continue
        describe(w, w.features[count], g, v, o, request, weighed[1], weighed[2], weighed[3])
        predicted(w.features[count], weighed[4])
        row = w.features[count]
        row.after_last = float((i - begin - w.turns[g, q] - 1) % (end - begin))
        count += 1
    best = lowest(w, count)
    if best < 0:  # the policy declined all that passed
        return reason if reason < 0 else kernels.NO_OFFER
    w.turns[g, q] = int(w.features[best].after_last + w.turns[g, q] + 1) % (end - begin)
    chosen = int(w.features[best].offer)
    kernels.assess(
        table, load, chosen, attempt.subject, g, request, t, w.options[OPTION_STALE_S],
        w.scratch_tried, w.cached, w.out,
    )  # fmt: skip
    return chosen


@njit(**KERNEL)
def describe(
    w: Any,
    row: Any,
    g: int,
    v: int,
    o: int,
    request: Any,
    requests: float,
    tokens: float,
    prefill: float,
) -> None:
    """What is known of an offer and of the request."""
    offer = w.offers[v, o]
    s = offer.site
    service = w.services[offer.service]
    path = w.paths[g, s]
    heard = w.load_offers[g, o]
    row.offer = float(o)
    row.is_local = 1.0 if s == g else 0.0
    row.is_central = 1.0 if float(s) == w.options[OPTION_CENTRAL] else 0.0
    row.rtt_ms = path.rtt_ms
    row.replicas = heard.replicas
    row.slots = offer.slots
    row.requests = requests
    row.tokens = tokens
    row.prefill_tokens = prefill
    row.load = requests / heard.replicas
    kv_tokens = offer.tokens_max / QUEUE_PER_SLOT_MAX * heard.replicas
    full = requests + 1.0 > offer.slots * heard.replicas
    row.pending = 1.0 if full or tokens + request[0] > kv_tokens else 0.0
    row.tokens_in, row.tokens_out, row.deadline_ms = request[0], request[1], request[2]
    row.cached_tokens = kernels.held(w.cached, s, request[0])
    row.prefill_ms_per_token = offer.prefill_ms_per_token
    row.ttft_ms_slo = service.ttft_ms_slo
    row.tpot_ms_slo = service.tpot_ms_slo
    row.quality = offer.quality


@njit(**KERNEL)
def predicted(row: Any, prediction: Any) -> None:
    """What `dispatch.choose.predict` says of the offer."""
    row.ttft_ms = prediction[0]
    row.tpot_ms = prediction[1]
    row.e2e_ms = prediction[2]
    row.wh = prediction[3]
    row.g = prediction[4]
    row.usd = prediction[5]
    row.cost_usd = prediction[5] + prediction[6]
    row.path_ms = prediction[7]
    row.late = 1.0 if prediction[8] else 0.0


@njit(**KERNEL)
def lowest(w: Any, count: int) -> int:
    """Row of the lowest score, of the lowest offer among equals; -1: infinity or NaN for all."""
    least, most, cached = INF, 0.0, 0.0
    for i in range(count):
        row = w.features[i]
        least, most = min(least, row.load), max(most, row.load)
        if row.pending == 0.0:
            cached = max(cached, row.cached_tokens)
    policy = int(w.options[OPTION_POLICY])
    best: int = -1
    best_score = INF
    for i in range(count):
        row = w.features[i]
        row.load_least, row.load_most, row.cached_most = least, most, cached
        if policy == OWN:
            score = call_score(int(w.options[OPTION_SCORE]), w.features[i])
        else:
            score = score_built_in(policy, w.features[i])
        tie = best >= 0 and score == best_score and row.offer < w.features[best].offer
        if score < best_score or tie:
            best, best_score = i, score
    return best
