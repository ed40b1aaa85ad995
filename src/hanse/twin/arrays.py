"""The state of a simulated fleet as arrays that compiled code reads and writes.

Here: record types, their constants, `World` (all arrays of one run in one tuple). Not here: filling them from a fleet (`world`), the
events that change them (`loop`, `engine`, `gateway`).

Axes: S sites (each has one gateway and the engines at it), E engines = replicas, O offers, Q services, C data classes,
R origins (cities where users are), A attempts in flight, V versions of the routing table kept. Gateway index = site index.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

# Stages of an attempt. Each slot in use has exactly one owner of its next change.
FREE: Final = 0
TO_SITE: Final = 1
"""On the way to the serving site; an event is pending."""
AT_ENGINE: Final = 2
"""In an engine's queue or batch; the engine's next event will tell."""
BACK: Final = 3
"""Its end is on the way to the gateway; an event is pending."""
LOST: Final = 4
"""What it waits for was lost on a cut link (`lost_kind`) or with its site (0): nothing is pending, the gateway has to notice."""
HELD: Final = 5
"""Failed, and nobody can take it now: its gateway asks again; an event is pending."""

# Modes of an engine.
IDLE: Final = 0
BOUNDARY: Final = 1
"""Between two steps at its next change: the next step is put together then."""
STEP: Final = 2
"""One step with prompts in it ends at the next change."""
BULK: Final = 3
"""`bulk_steps` steps of pure decoding, none of which changes the batch, end at the next change."""
FROZEN: Final = 4
"""Accepts and never answers."""
DOWN: Final = 5

# Kinds of events on the heap.
ARRIVE: Final = 1
REFUSED: Final = 2
FIRST_BYTE: Final = 3
END: Final = 4
FAILED: Final = 5
ASK_AGAIN: Final = 6

# How a request ended.
ANSWERED: Final = 0
REFUSED_OUT: Final = 1
FAILED_OUT: Final = 2
BROKEN: Final = 3

# Why `loop.run` came back.
RAN_OUT: Final = 0
"""All requests of the chunk have arrived; give it the next."""
TIME: Final = 1
"""The wanted instant is reached."""
ROOM: Final = 2
"""No free slot is left for attempts, events or rows; enlarge and go on."""

BINS: Final = 820
BIN_MS_MIN: Final = 0.1
BIN_RATIO: Final = 1.02
"""Histograms are logarithmic: 0.1 ms to 1e6 ms in steps of 2 %, so a quantile errs by at most 1 %."""

READY: Final = 1 << 16
"""More than any engine has slots: all of them may end in one step."""
RING: Final = 16
"""Load frames kept of each site: at two a second 8 s, longer than any path's delay."""
VERSIONS: Final = 4
"""Tables kept: a gateway that hears late still routes by the one it has."""
NEVER: Final = 1 << 62
TRIED_MAX: Final = 8
SPARE: Final = 64
"""Free slots at which the loop asks for more: no single cause takes so many."""

ATTEMPT_DTYPE: Final = np.dtype(
    [
        ("stage", "i4"),
        ("dropped", "i4"),
        ("byteless", "i4"),
        ("number", "i4"),
        ("gateway", "i4"),
        ("site", "i4"),
        ("offer", "i4"),
        ("engine", "i4"),
        ("service", "i4"),
        ("subject", "i4"),
        ("cls", "i4"),
        ("origin", "i4"),
        ("tokens_in", "i4"),
        ("tokens_out", "i4"),
        ("guess_in", "i4"),
        ("guess_out", "i4"),
        ("tried_count", "i4"),
        ("switches", "i4"),
        ("late", "i4"),
        ("executed", "i4"),
        ("answering", "i4"),
        ("cut", "i4"),
        ("lost_kind", "i4"),
        ("block_count", "i4"),
        ("blocks_held", "i4"),
        ("block_last", "i4"),
        ("block_at", "i8"),
        ("excluded", "i8"),
        ("slow", "i8"),
        ("slow_engines", "i8"),
        ("full", "i8"),
        ("request", "i8"),
        ("next", "i4"),
        ("previous", "i4"),
        ("queued_next", "i4"),
        ("prefill_left", "i4"),
        ("prefill_done", "i4"),
        ("take", "i4"),
        ("cached", "i4"),
        ("generated", "i4"),
        ("finish_step", "i8"),
        ("counted_prefill", "i4"),
        ("counted_tokens", "i4"),
        ("told_prefill", "i4"),
        ("told_tokens", "i4"),
        ("head_requests", "f8"),
        ("head_tokens", "f8"),
        ("head_prefill", "f8"),
        ("table", "i4"),
        ("reason", "i4"),
        ("believed_site", "i8"),
        ("believed_engine", "i8"),
        ("user_ms", "f8"),
        ("started_at_s", "f8"),
        ("began_at_s", "f8"),
        ("first_at_s", "f8"),
        ("heard_at_s", "f8"),
        ("expires_at_s", "f8"),
        ("held_at_s", "f8"),
        ("deadline_at_s", "f8"),
        ("ttft_ms_predicted", "f8"),
        ("tpot_ms_predicted", "f8"),
        ("e2e_ms_predicted", "f8"),
        ("path_ms", "f8"),
        ("ttft_factor", "f8"),
        ("tpot_factor", "f8"),
        ("joules", "f8"),
        ("share_mark_j", "f8"),
    ],
    align=True,
)
"""[A]: one try of a request at one engine; a retry is a new row with the request's fields copied. `heard_at_s` is when its first token
reaches its gateway; 0: not sent. `slow` and `full` are masks over the request's places in `tried`, `slow_engines` over `excluded`: given up
as late, or refused for room, and nothing worse. `held_at_s`: since when nobody takes it; negative: somebody has it, or it is new."""

ENGINE_DTYPE: Final = np.dtype(
    [
        # What it is: fields of `serving.StepModel`.
        ("weights_ms", "f8"),
        ("routed_ms", "f8"),
        ("routed_miss", "f8"),
        ("kv_ms_per_token", "f8"),
        ("compute_ms_per_token", "f8"),
        ("attention_ms_per_pair", "f8"),
        ("step_ms_fixed", "f8"),
        ("request_ms", "f8"),
        ("comm_ms_per_token", "f8"),
        ("ttft_ms_fixed", "f8"),
        ("idle_w", "f8"),
        ("decode_w_base", "f8"),
        ("decode_w_per_log2", "f8"),
        ("prefill_w", "f8"),
        ("kv_tokens_max", "f8"),
        ("weights_bytes", "f8"),
        ("chips", "f8"),
        # How it is set up.
        ("site", "i4"),
        ("offer", "i4"),
        ("slots", "i4"),
        ("chunk_tokens", "i4"),
        ("kv_max", "i8"),
        # Where it stands.
        ("mode", "i4"),
        ("running", "i4"),
        ("prefilling", "i4"),
        ("purge", "i4"),
        ("queue_head", "i4"),
        ("queue_tail", "i4"),
        ("bulk_steps", "i8"),
        ("steps", "i8"),
        ("context", "i8"),
        ("kv_used", "i8"),
        ("blocks_made", "i4"),
        ("blocks_spare", "i4"),
        ("blocks_idle", "i8"),
        ("speed", "f8"),
        ("granted", "f8"),
        ("demand", "f8"),
        ("step_cpu_s", "f8"),
        ("at_s", "f8"),
        # What it has done.
        ("busy_s", "f8"),
        ("dynamic_j", "f8"),
        ("prefill_j", "f8"),
        ("share_j", "f8"),
        ("tokens_prefilled", "i8"),
        ("tokens_decoded", "i8"),
        ("preempted", "i8"),
        ("batch_s", "f8"),
        ("step_prompt_j", "f8"),
        ("wasted_j", "f8"),
        ("served_j", "f8"),
        ("cpu_s", "f8"),
    ],
    align=True,
)
"""[E]. `at_s` is the last step boundary whose effects are applied; `batch_s` is the integral of the batch size over time. `granted` is
the part of its core that an engine gets where engines share a machine (`OPTION_CORES`), `demand` the cores that it and what carries its
tokens ask for meanwhile, `cpu_s` what it computed, at whatever speed."""

STEP_FIELDS: Final = ENGINE_DTYPE.names[:17] if ENGINE_DTYPE.names else ()
"""What an engine takes over from its `serving.StepModel`, by name."""

SITE_LOAD_DTYPE: Final = np.dtype(
    [("requests", "i8"), ("tokens", "i8"), ("prefill_tokens", "i8"), ("begun", "i8")], align=True
)
"""[O] what the serving site has at an offer's engines now, and how many requests it began since the last frame."""

FRAME_DTYPE: Final = np.dtype(
    [
        ("replicas", "f8"),
        ("requests", "f8"),
        ("tokens", "f8"),
        ("prefill_tokens", "f8"),
        ("rate_rps", "f8"),
    ],
    align=True,
)
"""[RING, O] a site's frames."""

HEARD_DTYPE: Final = np.dtype([("count", "i8")], align=True)
"""[S, S] a record, so that it can lie beside others."""

CLOCK_DTYPE: Final = np.dtype(
    [
        ("now_s", "f8"),
        ("seq", "i8"),
        ("ready_head", "i8"),
        ("ready_tail", "i8"),
        ("heap_size", "i8"),
        ("free", "i8"),
        ("arrived", "i8"),
        ("waiting", "i8"),
        ("tick", "i8"),
        ("tick_s", "f8"),
        ("sweep_s", "f8"),
        ("sweeps", "i8"),
        ("rows", "i8"),
        ("slots_used", "i8"),
        ("blocks_at", "i8"),
        ("requests", "i8"),
        ("events", "i8"),
        ("unlawful", "i8"),
        ("attempts", "i8"),
        ("hops", "i8"),
        ("steps", "i8"),
        ("turn", "i8"),
    ],
    align=True,
)
"""[1] scalars of a run. `free` and `waiting` head linked lists of attempts, -1 ends them; slots from `slots_used` on were never used and are in no list."""

ROW_DTYPE: Final = np.dtype(
    [
        ("request", "i8"),
        ("at_s", "f8"),
        ("service", "i4"),
        ("cls", "i4"),
        ("origin", "i4"),
        ("entry", "i4"),
        ("site", "i4"),
        ("offer", "i4"),
        ("outcome", "i4"),
        ("reason", "i4"),
        ("attempts", "i4"),
        ("tokens_in", "i4"),
        ("tokens_out", "i4"),
        ("cached", "i4"),
        ("ttft_ms", "f8"),
        ("tpot_ms", "f8"),
        ("e2e_ms", "f8"),
        ("user_rtt_ms", "f8"),
        ("ttft_ms_predicted", "f8"),
        ("e2e_ms_predicted", "f8"),
        ("energy_wh", "f8"),
        ("carbon_g", "f8"),
        ("cost_usd", "f8"),
    ],
    align=True,
)
"""One a finished request, for people who want them all."""

# Columns of `World.sums` [K, SUMS].
(
    SUM_SERVED,
    SUM_REFUSED,
    SUM_FAILED,
    SUM_BROKEN,
    SUM_GOOD,
    SUM_TOKENS_IN,
    SUM_TOKENS_OUT,
    SUM_CACHED,
    SUM_TTFT_MS,
    SUM_TPOT_MS,
    SUM_E2E_MS,
    SUM_PATH_MS,
    SUM_WH,
    SUM_G,
    SUM_USD,
    SUM_RETRIES,
    SUM_HOPS,
) = range(17)
SUMS: Final = 17

REASONS: Final = 14
"""`-Reason` as a column, plus 12: entry barred by law everywhere, 13: class or country not allowed to the key."""
REASON_NO_ENTRY: Final = 12
REASON_NOT_ALLOWED: Final = 13


class World(NamedTuple):
    """Everything of one run; compiled code gets it as one value."""

    clock: Any
    """[1] `CLOCK_DTYPE`."""
    attempts: Any
    """[A] `ATTEMPT_DTYPE`."""
    tried: Any
    """[A, 8] offers that the request was sent to, `tried_count` of them."""
    heap_s: Any
    heap_seq: Any
    heap_item: Any
    """[H] events: instant, tie-break counter, kind * 2^32 + attempt."""
    ready: Any
    """[READY] ring of events of this very instant: what an engine tells its own site's gateway."""
    engines: Any
    """[E] `ENGINE_DTYPE`, the engines of a site side by side."""
    running: Any
    """[E, slots] attempts in each engine's batch, in order of admission."""
    due: Any
    """[E, slots] for each in `running`: the step of the engine after which it has all its tokens; NEVER while its prompt is read."""
    tree_s: Any
    tree_engine: Any
    """[2 N], N a power of two >= E: knock-out tournament. Engine e plays from N + e on with the instant of its next change; node k has who
    comes first of nodes 2 k and 2 k + 1, so that node 1 has the next of all."""
    engine_offer: Any
    engine_state: Any
    engine_requests_max: Any
    engine_tokens_max: Any
    """[E] as the site's gateway knows them: offer, 1 where alive, limits."""
    executing: Any
    """[1, E] `load.OWN_DTYPE`: what the site's gateway has at each engine."""
    scratch_state: Any
    """[E]"""
    engine_first: Any
    """[S + 1] where a site's engines begin."""
    kv_blocks: Any
    kv_buckets: Any
    """[E, 1 + most] `blocks.BLOCK_DTYPE`, [E, a power of two]: whole blocks of prompts that each engine has, and where their chains begin."""
    offers: Any
    sites: Any
    law: Any
    subjects: Any
    """[V, ...] of the routing tables."""
    services: Any
    """[Q]"""
    candidate: Any
    """[V, S, Q, P, 20]"""
    listed: Any
    first: Any
    """[V, ...] offers with a replica, by service and site."""
    valid_until_s: Any
    """[V]"""
    version: Any
    """[S] row of V that each gateway routes by."""
    paths: Any
    ways: Any
    """[S, S] `paths.PATH_DTYPE`: as tables say, and as they are."""
    link_up: Any
    """[S, S] 1 where bytes get through, by direction."""
    link_both: Any
    """[S, S] 1 where they do in both."""
    link_busy_s: Any
    """[S, S] until when a path's bytes are queued."""
    site_up: Any
    """[S]"""
    load_offers: Any
    load_sites: Any
    load_services: Any
    own: Any
    """[S, ...] each gateway's `Load`."""
    power_ok: Any
    """[S]"""
    telemetry: Any
    """[S] factor on what a site's frames say; negative: it says nothing."""
    site_load: Any
    """[O] `SITE_LOAD_DTYPE`."""
    site_offer_first: Any
    site_offers: Any
    """[S + 1], [O] offers of each site."""
    frames: Any
    """[RING, O] `FRAME_DTYPE`."""
    frame_at_s: Any
    """[S, RING] when each frame was true."""
    frame_power: Any
    """[S, RING]"""
    frame_open: Any
    """[S, RING, S] 1 where the frame of a site (first) could reach a gateway (last) when it was made."""
    frame_count: Any
    """[S] frames made."""
    heard: Any
    """[S, S] `HEARD_DTYPE`: frames of a site (column) that a gateway (row) has taken in."""
    refreshed_s: Any
    """[S] when a gateway last looked at its own site."""
    tick_site: Any
    """[S] sites in the order in which their frames are due."""
    guess_out: Any
    """[S, Q]"""
    entry: Any
    """[R, U, 4] gateways lawful for a subject, nearest first, -1 padded."""
    user_ms: Any
    """[R, S] round trip between users and gateways."""
    subject_of: Any
    """[T + 1, C, R] row of law; 0 none, -1 class or country not allowed."""
    deadline_s: Any
    """[Q]"""
    site_pue: Any
    site_g_per_wh: Any
    site_usd_per_wh: Any
    """[S] as they are, not as the table believes."""
    prefix: Any
    """[S, slots] `prefix.PREFIX_DTYPE` of each gateway."""
    engine_prefix: Any
    """[S, slots] `prefix.PREFIX_DTYPE` of each site: which of its engines hold what."""
    trust: Any
    engine_trust: Any
    """[S, holder, AGES] how far each gateway's tables of sites and of its own engines are to be believed."""
    held_engines: Any
    """[4, 2] scratch: (engine of the site, prompt tokens it holds)."""
    blocks: Any
    """[B] ring of prefix block ids of requests in flight."""
    digests: Any
    digest_tokens: Any
    """[64] scratch."""
    chunk: Any
    chunk_blocks: Any
    """The requests that arrive now, `signals.traces.REQUEST_DTYPE`."""
    service_of: Any
    class_of: Any
    """Trace's numbers to the fleet's."""
    scratch_tried: Any
    cached: Any
    out: Any
    features: Any
    """[O] `policies.FEATURE_DTYPE`: scratch of a choice by a policy."""
    turns: Any
    """[S, Q] place among a service's offers of the one that a gateway chose last by a policy."""
    engine_turns: Any
    """[S] place among a site's engines of the one that it chose last in turn."""
    hist: Any
    """[K, 3, BINS] TTFT, TPOT, E2E."""
    sums: Any
    """[K, SUMS]; K = all, then services, classes, sites, origins."""
    refused: Any
    """[Q, C, REASONS]"""
    flow: Any
    """[R, S] requests served, by origin and serving site."""
    rows: Any
    """[N] `ROW_DTYPE`; length 1 where nobody wants them."""
    options: Any
    """[OPTIONS] f8 constants of the run."""


OPTION_ROWS: Final = 0
OPTION_STALE_S: Final = 1
OPTION_BLOCK_TOKENS: Final = 2
OPTION_POLICY: Final = 3
OPTION_CENTRAL: Final = 4
"""Index of the central site; -1 none."""
OPTION_SCORE: Final = 5
"""Address of the scoring function of a policy of the user's; below 2^53, which a float holds exactly."""
OPTION_AFFINITY: Final = 6
"""How sites choose engines."""
ENGINES_FEWEST: Final = 0
ENGINES_HELD: Final = 1
"""By `choose_engine`, as live sites do."""
ENGINES_IN_TURN: Final = 2
OPTION_CORES: Final = 7
"""Cores of one machine that all engines share with what carries their tokens; 0: each engine has its own."""
OPTION_TOKEN_S: Final = 8
"""CPU seconds that gateways, links and users of that machine take for each token of an answer."""
OPTION_ENTRY: Final = 9
"""1 + the one gateway at which all requests enter that law lets in there; 0: they enter at the nearest."""
OPTIONS: Final = 10
