"""What each request adds to the results, at the moment it ends.

Here: `book`, compiled; the groups that sums and histograms are kept for. Not here: quantiles and tables of results (`result`).

Groups K, in this order: all requests, each service, each data class, each serving site, each origin. A refused request counts at no
site. TTFT and E2E are what the user sees: they contain the round trip between user and gateway.
"""

from __future__ import annotations

import math
from typing import Any, Final

from numba import njit

from hanse.compiled import HOT, KERNEL
from hanse.twin.arrays import (
    ANSWERED,
    BIN_MS_MIN,
    BIN_RATIO,
    BINS,
    FAILED_OUT,
    OPTION_ROWS,
    REASONS,
    REFUSED_OUT,
    SUM_BROKEN,
    SUM_CACHED,
    SUM_E2E_MS,
    SUM_FAILED,
    SUM_G,
    SUM_GOOD,
    SUM_HOPS,
    SUM_PATH_MS,
    SUM_REFUSED,
    SUM_RETRIES,
    SUM_SERVED,
    SUM_TOKENS_IN,
    SUM_TOKENS_OUT,
    SUM_TPOT_MS,
    SUM_TTFT_MS,
    SUM_USD,
    SUM_WH,
)
from hanse.units import JOULES_PER_WH

PER_LOG_BIN: Final = 1.0 / math.log(BIN_RATIO)
WIRE_BYTES_IN: Final = 200.0
WH_PER_J: Final = 1.0 / JOULES_PER_WH


@njit(**HOT)
def bin_of(ms: float) -> int:
    """Column of a histogram."""
    if not ms > BIN_MS_MIN:
        return 0
    return min(int(math.log(ms / BIN_MS_MIN) * PER_LOG_BIN) + 1, BINS - 1)


@njit(**KERNEL)
def book(w: Any, a: int, t: float, outcome: int, reason: int) -> None:
    """A request has ended at its gateway at `t`."""
    attempt = w.attempts[a]
    if outcome != ANSWERED:
        book_unanswered(w, a, t, outcome, reason)
        return
    s = attempt.site
    engine = w.engines[attempt.engine]
    path = w.ways[attempt.gateway, s]
    before_ms = attempt.user_ms + engine.ttft_ms_fixed
    back_s = 0.0005 * w.ways[s, attempt.gateway].rtt_ms
    ttft_ms = (attempt.first_at_s + back_s - attempt.started_at_s) * 1000.0 + before_ms
    e2e_ms = (t - attempt.started_at_s) * 1000.0 + before_ms
    tpot_ms = (e2e_ms - ttft_ms) / (attempt.tokens_out - 1) if attempt.tokens_out > 1 else 0.0
    wh = attempt.joules * WH_PER_J * w.site_pue[s]
    g = wh * w.site_g_per_wh[s]
    sent = WIRE_BYTES_IN + 4.0 * attempt.tokens_in + 200.0 * attempt.tokens_out
    usd = wh * w.site_usd_per_wh[s] + path.usd_per_byte * sent
    service = w.services[attempt.service]
    good = 1.0 if ttft_ms <= service.ttft_ms_slo and tpot_ms <= service.tpot_ms_slo else 0.0
    hop = 1.0 if s != attempt.gateway else 0.0
    figures = (ttft_ms, tpot_ms, e2e_ms, path.rtt_ms, wh, g, usd, good, hop)
    book_groups(w, attempt, s, figures)
    w.flow[attempt.origin, s] += 1
    engine.served_j += attempt.joules
    if w.options[OPTION_ROWS] != 0.0:
        row = add_row(w, a, outcome, reason)
        row.ttft_ms, row.tpot_ms, row.e2e_ms = ttft_ms, tpot_ms, e2e_ms
        row.energy_wh, row.carbon_g, row.cost_usd = wh, g, usd


@njit(**HOT)
def book_groups(w: Any, attempt: Any, s: int, figures: Any) -> None:
    """Add an answered request to the groups it belongs to."""
    ttft_ms, tpot_ms, e2e_ms, path_ms, wh, g, usd, good, hop = figures
    one, two, three = bin_of(ttft_ms), bin_of(tpot_ms), bin_of(e2e_ms)
    q, c, sites = w.services.shape[0], w.refused.shape[1], w.site_up.shape[0]
    for i in range(5):
        k = 0
        if i == 1:
            k = 1 + attempt.service
        elif i == 2:
            k = 1 + q + attempt.cls
        elif i == 3:
            k = 1 + q + c + s
        elif i == 4:
            k = 1 + q + c + sites + attempt.origin
        hist, sums = w.hist[k], w.sums[k]
        hist[0, one] += 1
        hist[1, two] += 1
        hist[2, three] += 1
        sums[SUM_SERVED] += 1.0
        sums[SUM_GOOD] += good
        sums[SUM_TOKENS_IN] += attempt.tokens_in
        sums[SUM_TOKENS_OUT] += attempt.tokens_out
        sums[SUM_CACHED] += attempt.cached
        sums[SUM_TTFT_MS] += ttft_ms
        sums[SUM_TPOT_MS] += tpot_ms
        sums[SUM_E2E_MS] += e2e_ms
        sums[SUM_PATH_MS] += path_ms
        sums[SUM_WH] += wh
        sums[SUM_G] += g
        sums[SUM_USD] += usd
        sums[SUM_RETRIES] += attempt.number - 1
        sums[SUM_HOPS] += hop


@njit(**KERNEL)
def book_unanswered(w: Any, a: int, t: float, outcome: int, reason: int) -> None:
    """Refused, failed or broken: counted for everything but a serving site."""
    attempt = w.attempts[a]
    q, c, sites = w.services.shape[0], w.refused.shape[1], w.site_up.shape[0]
    column = SUM_BROKEN
    if outcome == REFUSED_OUT:
        column = SUM_REFUSED
        w.refused[attempt.service, attempt.cls, min(max(-reason, 0), REASONS - 1)] += 1
    elif outcome == FAILED_OUT:
        column = SUM_FAILED
    w.sums[0, column] += 1.0
    w.sums[1 + attempt.service, column] += 1.0
    w.sums[1 + q + attempt.cls, column] += 1.0
    w.sums[1 + q + c + sites + attempt.origin, column] += 1.0
    if w.options[OPTION_ROWS] != 0.0:
        row = add_row(w, a, outcome, reason)
        row.ttft_ms = row.tpot_ms = 0.0
        row.e2e_ms = (t - attempt.started_at_s) * 1000.0 + attempt.user_ms
        row.energy_wh = row.carbon_g = row.cost_usd = 0.0


@njit(**KERNEL)
def add_row(w: Any, a: int, outcome: int, reason: int) -> Any:
    """The next row, with what is known of the request; the loop leaves before the rows run out."""
    attempt = w.attempts[a]
    row = w.rows[w.clock[0].rows]
    w.clock[0].rows += 1
    row.request = attempt.request
    row.at_s = attempt.started_at_s
    row.service = attempt.service
    row.cls = attempt.cls
    row.origin = attempt.origin
    row.entry = attempt.gateway
    row.site = attempt.site
    row.offer = attempt.offer
    row.outcome = outcome
    row.reason = reason
    row.attempts = attempt.number
    row.tokens_in = attempt.tokens_in
    row.tokens_out = attempt.tokens_out
    row.cached = attempt.cached
    row.user_rtt_ms = attempt.user_ms
    row.ttft_ms_predicted = attempt.ttft_ms_predicted
    row.e2e_ms_predicted = attempt.e2e_ms_predicted
    return row
