"""What a simulated gateway hears of load: frames that sites make, and heads of answers.

Here: making a frame, taking frames in, a gateway's look at its own site. Not here: what is decided by them (`gateway`), what they mean (`dispatch.load`).

Load is heard late, never known: a frame is made by each site twice a second and reaches a gateway half a round trip later, and the head of
every answer from another site tells the load of its offer as it was when the answer began. Frames are taken in when a gateway is about to
choose among the sites they speak of, or to change its own count there, which is as good as when they came: nothing looks at them before.
"""

from __future__ import annotations

from typing import Any, Final

from numba import njit

from hanse.compiled import KERNEL
from hanse.dispatch import load as loads
from hanse.twin.arrays import RING

REFRESH_S: Final = 0.02
"""A live gateway looks at its own site's engines every 20 ms."""


@njit(**KERNEL)
def hear(w: Any, g: int, s: int, t: float) -> None:
    """Take in the newest frame of site `s` that has reached gateway `g`."""
    if g == s:
        refresh(w, g, t)
        return
    count = w.frame_count[s]
    known = w.heard[g, s].count
    if count == known:
        return
    reached_s = t - 0.0005 * w.ways[s, g].rtt_ms
    at = count
    while at > known and at > count - RING:
        slot = (at - 1) % RING
        if w.frame_at_s[s, slot] <= reached_s and w.frame_open[s, slot, g] != 0:
            break
        at -= 1
    if at == known or at <= count - RING:
        return
    slot = (at - 1) % RING
    w.heard[g, s].count = at
    take_in(w, g, s, w.frame_at_s[s, slot], w.frame_power[s, slot], slot)


@njit(**KERNEL)
def take_in(w: Any, g: int, s: int, sampled_at_s: float, power: int, slot: int) -> None:
    """What `Load.heard` does with a frame."""
    row = w.load_sites[g, s]
    elapsed_s = sampled_at_s - row.sampled_at_s if row.sampled_at_s > -1e300 else 0.0
    row.sampled_at_s = sampled_at_s
    row.reachable = 1
    row.power_ok = power
    for i in range(w.site_offer_first[s], w.site_offer_first[s + 1]):
        o = w.site_offers[i]
        frame = w.frames[slot, o]
        loads.heard(
            w.load_offers[g], w.load_services[g], w.own[g], o, w.offers[w.version[g], o].service,
            frame.replicas, frame.requests, frame.tokens, frame.prefill_tokens, frame.rate_rps, elapsed_s,
        )  # fmt: skip


@njit(**KERNEL)
def replicas_alive(w: Any, s: int, o: int) -> int:
    """Engines of an offer that the site believes alive."""
    alive = 0
    for e in range(w.engine_first[s], w.engine_first[s + 1]):
        if w.engine_offer[e] == o and w.engine_state[e] == 1:
            alive += 1
    return alive


@njit(**KERNEL)
def refresh(w: Any, g: int, t: float) -> None:
    """A gateway's own site, as it is: every 20 ms at most."""
    if t - w.refreshed_s[g] < REFRESH_S:
        return
    w.refreshed_s[g] = t
    row = w.load_sites[g, g]
    elapsed_s = t - row.sampled_at_s if row.sampled_at_s > -1e300 else 0.0
    row.sampled_at_s = t
    row.reachable = 1
    row.power_ok = w.power_ok[g]
    last = (w.frame_count[g] - 1) % RING
    for i in range(w.site_offer_first[g], w.site_offer_first[g + 1]):
        o = w.site_offers[i]
        site_load = w.site_load[o]
        rate_rps = w.frames[last, o].rate_rps if w.frame_count[g] > 0 else 0.0
        loads.heard(
            w.load_offers[g], w.load_services[g], w.own[g], o, w.offers[w.version[g], o].service,
            float(replicas_alive(w, g, o)), float(site_load.requests), float(site_load.tokens),
            float(site_load.prefill_tokens), rate_rps, elapsed_s,
        )  # fmt: skip


@njit(**KERNEL)
def make_frame(w: Any, s: int, t: float, every_s: float) -> None:
    """A site notes its load for its peers."""
    slot = w.frame_count[s] % RING
    w.frame_count[s] += 1
    w.frame_at_s[s, slot] = t
    w.frame_power[s, slot] = 1 if w.power_ok[s] == 1 else 0
    for g in range(w.site_up.shape[0]):
        w.frame_open[s, slot, g] = w.link_both[s, g]
    factor = w.telemetry[s]
    for i in range(w.site_offer_first[s], w.site_offer_first[s + 1]):
        o = w.site_offers[i]
        site_load, frame = w.site_load[o], w.frames[slot, o]
        frame.replicas = float(replicas_alive(w, s, o))
        frame.requests = factor * site_load.requests
        frame.tokens = factor * site_load.tokens
        frame.prefill_tokens = factor * site_load.prefill_tokens
        frame.rate_rps = site_load.begun / every_s
        site_load.begun = 0


@njit(**KERNEL)
def hear_head(w: Any, a: int) -> None:
    """The load of its offer that an answer from another site begins with; live it speaks of the site's other offers too."""
    attempt = w.attempts[a]
    g, o = attempt.gateway, attempt.offer
    if attempt.head_requests < 0.0:
        return
    row = w.load_offers[g, o]
    loads.heard(
        w.load_offers[g], w.load_services[g], w.own[g], o, attempt.service, row.replicas, attempt.head_requests,
        attempt.head_tokens, attempt.head_prefill, row.rate_rps, 0.0,
    )  # fmt: skip
