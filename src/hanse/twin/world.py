"""From a fleet, its routing table and a trace's names to the arrays of a simulation.

Here: `build_world`, `write_table`, sizes. Not here: what happens afterwards (`loop`), faults and weather (`simulate`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import accelerator, ai_model, distance_km, rtt_ms_floor
from hanse.dispatch.belief import EngineSpec, all_engines
from hanse.dispatch.choose import CACHED_MAX, CANDIDATES_MAX, OUT_COUNT, QUEUE_PER_SLOT_MAX
from hanse.dispatch.load import (
    GUESS_OUT_FIRST,
    LOAD_OFFER_DTYPE,
    LOAD_SERVICE_DTYPE,
    LOAD_SITE_DTYPE,
    OWN_DTYPE,
)
from hanse.dispatch.paths import PATH_DTYPE
from hanse.dispatch.prefix import DIGESTS_MAX, PREFIX_DTYPE, first_trust
from hanse.dispatch.router import candidate_offers, listed_offers
from hanse.dispatch.table import OFFER_DTYPE, SITE_DTYPE, SUBJECT_DTYPE, Table
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet, Placement
from hanse.serving.measured import MeasuredReplica, MeasuredTable
from hanse.serving.steps import StepModel, step_model
from hanse.signals.traces.trace import REQUEST_DTYPE, TraceMeta
from hanse.twin import arrays as ar
from hanse.twin.arrays import World
from hanse.twin.blocks import no_blocks
from hanse.twin.policies import FEATURE_DTYPE

USER_ACCESS_MS: Final = 10.0
"""Round trip over the last mile, added to light in fibre: FTTH 2 to 10 ms, 5G 15 to 30 ms."""
CHUNK_TOKENS: Final = 2048
CHUNK_TOKENS_LARGE: Final = 8192
"""vLLM v1's `max_num_batched_tokens` for online serving: 8192 on chips of at least 70 GiB, else 2048. llama.cpp's server puts a step
together in the same way, a token of each answer and then prompts of all slots up to `n_batch`, whose default is 2048 too."""
LARGE_GB: Final = 70.0
ENTRIES: Final = 4
"""Nearest lawful gateways that a client tries."""
PROFILES_SPARE: Final = 32
"""Rows of law that a change of law during the run may add."""
PREFIX_SLOTS: Final = 8192
"""Of each gateway: a live one has 65,536 for itself; here a hundred gateways share a machine."""
SLOTS_SPARE: Final = 4096
LINE_BYTES: Final = 64


def build_world(
    fleet: Fleet,
    placements: tuple[Placement, ...],
    table: Table,
    trace: TraceMeta,
    *,
    rows: int = 0,
    start_s: float = 0.0,
    measured: MeasuredTable | None = None,
    one_entry: bool = False,
) -> World:
    """An empty fleet at `start_s`, every engine loaded and idle, with the table in force everywhere.

    Args:
        fleet: The fleet.
        placements: What runs where.
        table: Its routing table.
        trace: Names of the requests to come.
        rows: Finished requests that are kept between two calls of the loop; 0: none.
        start_s: Simulated instant of the start.
        measured: Steps that engines take where it has their replica.
        one_entry: All requests enter at the fleet's central site.

    Raises:
        ConfigError: the trace names a service or class that the fleet does not have.
    """
    specs = all_engines(fleet, placements)
    sites, offers, services = len(fleet.sites), len(table.offers), len(fleet.services)
    profiles = table.law.shape[0] + PROFILES_SPARE
    subjects = len(table.subjects) + PROFILES_SPARE
    blocks = trace.block_tokens > 0
    engines_most = max(Counter(s.offer.partition("/")[0] for s in specs).values(), default=1)
    parts = (
        _attempts(int(sum(s.slots * QUEUE_PER_SLOT_MAX for s in specs) * 1.5) + SLOTS_SPARE)
        | _engines(fleet, table, specs, trace.block_tokens, measured)
        | _tables(sites, offers, services, profiles, subjects)
        | _gateways(sites, offers, services, engines_most, blocks=blocks)
        | _ways(fleet, table, trace)
        | _requests(fleet, table, trace, subjects)
        | _results(services, len(fleet.classes), sites, max(len(trace.origins), 1), rows)
    )
    w = World(**parts | _side_by_side(sites, offers, parts["ways"]))
    w.options[ar.OPTION_ROWS] = float(rows > 0)
    w.options[ar.OPTION_STALE_S] = table.meta.heard_stale_s
    w.options[ar.OPTION_BLOCK_TOKENS] = float(trace.block_tokens)
    central = table.site_index[fleet.central.site] if fleet.central else -1
    w.options[ar.OPTION_CENTRAL] = float(central)
    w.options[ar.OPTION_ENTRY] = float(central + 1) if one_entry else 0.0
    clock = w.clock[0]
    clock["now_s"] = clock["tick_s"] = clock["sweep_s"] = start_s
    write_table(w, 0, table, fleet, trace)
    return w


def _ways(fleet: Fleet, table: Table, trace: TraceMeta) -> dict[str, Any]:
    sites = len(fleet.sites)
    paths = np.stack([table.paths_from(i) for i in range(sites)]).astype(PATH_DTYPE)
    first, at_sites = site_offer_lists(table)
    return {
        "ways": paths,
        "telemetry": np.ones(sites),
        "link_up": np.ones((sites, sites), np.int64),
        "link_both": np.ones((sites, sites), np.int8),
        "link_busy_s": np.zeros((sites, sites)),
        "site_up": np.ones(sites, np.int64),
        "power_ok": np.ones(sites, np.int64),
        "user_ms": user_ms(fleet, trace),
        "site_offer_first": first,
        "site_offers": at_sites,
        "site_pue": table.sites["pue"].copy(),
        "site_g_per_wh": table.sites["g_per_wh"].copy(),
        "site_usd_per_wh": table.sites["usd_per_wh"].copy(),
    }


def _requests(fleet: Fleet, table: Table, trace: TraceMeta, subjects: int) -> dict[str, Any]:
    origins, classes = max(len(trace.origins), 1), len(fleet.classes)
    return {
        "services": table.services.copy(),
        "entry": np.full((origins, subjects, ENTRIES), -1, np.int64),
        "subject_of": np.zeros((len(trace.tenants) + 1, classes, origins), np.int64),
        "deadline_s": np.array([s.slo.deadline_s for s in fleet.services]),
        "chunk": np.zeros(0, REQUEST_DTYPE),
        "chunk_blocks": np.zeros(1, np.int64),
        "service_of": _numbers("service", trace.services, _service_numbers(fleet)),
        "class_of": _numbers(
            "class", trace.classes, {c.id: i for i, c in enumerate(fleet.classes)}
        ),
    }


def _results(services: int, classes: int, sites: int, origins: int, rows: int) -> dict[str, Any]:
    groups = 1 + services + classes + sites + origins
    return {
        "hist": np.zeros((groups, 3, ar.BINS), np.int64),
        "sums": np.zeros((groups, ar.SUMS)),
        "refused": np.zeros((services, classes, ar.REASONS), np.int64),
        "flow": np.zeros((origins, sites), np.int64),
        "rows": np.zeros(max(rows, 1), ar.ROW_DTYPE),
        "options": np.zeros(ar.OPTIONS),
    }


def write_table(w: World, row: int, table: Table, fleet: Fleet, trace: TraceMeta) -> None:
    """Put a table into row `row` of the tables; gateways that use the row use it from now on."""
    count, (profiles, sites) = len(table.offers), table.law.shape
    if profiles > w.law.shape[1] or count > w.offers.shape[1]:
        raise ConfigError(
            "routing table during the simulation",
            got=f"{profiles} rows of law, {count} offers",
            allowed=f"at most {w.law.shape[1]} and {w.offers.shape[1]}",
            fix="start the simulation with the fleet that has the most",
        )
    w.offers[row, :count] = table.offers
    w.sites[row] = table.sites
    w.law[row] = 0
    w.law[row, :profiles] = table.law
    w.subjects[row, : len(table.subjects)] = table.subjects
    w.valid_until_s[row] = table.meta.valid_until_s
    listed, first = listed_offers(table)
    w.listed[row] = -1
    w.listed[row, : len(listed)] = listed
    w.first[row] = first
    for origin in range(sites):
        arrays = (
            table.offers, table.sites, table.services, table.subjects, table.paths_from(origin), table.law,
        )  # fmt: skip
        w.candidate[row, origin, :, :profiles] = candidate_offers(table, arrays, listed, first)
    write_entries(w, table, fleet, trace)


def write_entries(w: World, table: Table, fleet: Fleet, trace: TraceMeta) -> None:
    """Which subject a request is, and which gateways may read it, nearest first."""
    w.subject_of[:] = subject_numbers(fleet, table, trace, w.subject_of.shape)
    order = np.argsort(w.user_ms, axis=1, kind="stable")
    w.entry[:] = -1
    only = int(w.options[ar.OPTION_ENTRY]) - 1
    for subject in range(1, len(table.subjects)):
        lawful = table.law[table.subjects[subject]["profile"]] != 0
        for origin in range(w.entry.shape[0]):
            near = order[origin][lawful[order[origin]]]
            near = near[near == only][:1] if only >= 0 else near[:ENTRIES]
            w.entry[origin, subject, : len(near)] = near


def subject_numbers(
    fleet: Fleet, table: Table, trace: TraceMeta, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """[tenant + 1, class, origin] row of law; -1 where no key of the tenant may send the class.

    The first row is of requests without a tenant: the first key that may send the class from there speaks for them. A key
    that does not list the user's country speaks for its own first one, as the gateway does.
    """
    found = np.full(shape, -1, np.int64)
    for row, tenant in enumerate(("", *trace.tenants)):
        keys = [k for k in table.meta.keys.values() if tenant in ("", k.tenant)]
        for number, name in enumerate(c.id for c in fleet.classes):
            able = [k for k in keys if name in k.subjects]
            for origin in range(shape[2]):
                country = trace.origins[origin].country if trace.origins else ""
                named = [k for k in able if country in k.subjects[name]]
                if named:
                    found[row, number, origin] = named[0].subjects[name][country]
                elif able:
                    found[row, number, origin] = able[0].subjects[name][able[0].countries[0]]
    return found


def user_ms(fleet: Fleet, trace: TraceMeta) -> NDArray[np.float64]:
    """[origin, site] round trip between users and gateways: light in fibre and the last mile."""
    if not trace.origins:
        return np.full((1, len(fleet.sites)), USER_ACCESS_MS)
    return np.array(
        [
            [
                rtt_ms_floor(distance_km(o.lat_deg, o.lon_deg, s.lat_deg, s.lon_deg))
                + USER_ACCESS_MS
                for s in fleet.sites
            ]
            for o in trace.origins
        ]
    )


@cache
def step_of(model: str, precision: str, hardware: str, chips: int, slots: int) -> StepModel:
    """Steps of one kind of replica."""
    return step_model(ai_model(model), precision, accelerator(hardware), count=chips, slots=slots)


def measured_replica(
    measured: MeasuredTable | None, spec: EngineSpec, hardware: str
) -> MeasuredReplica | None:
    """What a table of measured steps says of an engine; None: nothing."""
    if measured is None:
        return None
    return measured.replica(ai_model(spec.model), spec.precision, accelerator(hardware), spec.chips)


def _attempts(count: int) -> dict[str, Any]:
    """Zeros that nothing is written to take no memory until they are used."""
    clock = np.zeros(1, ar.CLOCK_DTYPE)
    clock["waiting"] = clock["free"] = -1
    heap = 3 * count + 1024
    return {
        "clock": clock,
        "attempts": np.zeros(count, ar.ATTEMPT_DTYPE),
        "tried": np.zeros((count, ar.TRIED_MAX), np.int64),
        "heap_s": np.zeros(heap),
        "heap_seq": np.zeros(heap, np.int64),
        "heap_item": np.zeros(heap, np.int64),
        "ready": np.zeros(ar.READY, np.int64),
    }


def _engines(
    fleet: Fleet,
    table: Table,
    specs: Sequence[EngineSpec],
    block_tokens: int,
    measured: MeasuredTable | None,
) -> dict[str, Any]:
    if not specs:
        raise ConfigError(
            "placement", got="no replica anywhere", allowed="at least one [[placement]]"
        )
    engines = np.zeros(len(specs), ar.ENGINE_DTYPE)
    hardware = {(s.id, p.id): p.accelerator for s in fleet.sites for p in s.pools}
    for row, spec in zip(engines, specs, strict=True):
        chip = accelerator(hardware[spec.site, spec.pool])
        model = step_of(spec.model, spec.precision, chip.id, spec.chips, spec.slots)
        found = measured_replica(measured, spec, chip.id)
        if found is not None:
            model = found.adjusted(model)
        for name in ar.STEP_FIELDS:
            row[name] = getattr(model, name)
        row["site"] = table.site_index[spec.site]
        row["offer"] = table.offer_index[spec.offer]
        row["slots"] = spec.slots
        row["chunk_tokens"] = (
            CHUNK_TOKENS_LARGE if (chip.memory_gb or 0.0) >= LARGE_GB else CHUNK_TOKENS
        )
        row["kv_max"] = int(min(spec.context_tokens, model.kv_tokens_max))
    engines["queue_head"] = engines["queue_tail"] = -1
    engines["speed"] = engines["granted"] = 1.0
    count = len(specs)
    records = table.offers[engines["offer"]]
    at_site = np.bincount(engines["site"], minlength=len(fleet.sites))
    return {
        "engines": engines,
        "running": np.full((count, int(engines["slots"].max())), -1, np.int64),
        "due": np.full((count, int(engines["slots"].max())), ar.NEVER, np.int64),
        **_tournament(count),
        "engine_offer": engines["offer"].astype(np.int64),
        "engine_state": np.ones(count, np.int64),
        "engine_requests_max": records["requests_max"].astype(np.float64),
        "engine_tokens_max": records["tokens_max"].astype(np.float64),
        "executing": np.zeros((1, count), OWN_DTYPE),
        "scratch_state": np.zeros(count, np.int64),
        "engine_first": np.concatenate([[0], np.cumsum(at_site)]).astype(np.int64),
        **no_blocks(count, int(engines["kv_max"].max()), block_tokens),
    }


def _tournament(engines: int) -> dict[str, Any]:
    """Nobody's change is due, so everywhere the lowest number leads."""
    leaves = 1 << max(engines - 1, 1).bit_length()
    node = np.arange(2 * leaves)
    rounds = np.floor(np.log2(np.maximum(node, 1))).astype(np.int64)
    first = (node << (leaves.bit_length() - 1 - rounds)) - leaves
    return {"tree_s": np.full(2 * leaves, np.inf), "tree_engine": np.maximum(first, 0)}


def _tables(sites: int, offers: int, services: int, profiles: int, subjects: int) -> dict[str, Any]:
    v = ar.VERSIONS
    return {
        "offers": np.zeros((v, offers), OFFER_DTYPE),
        "sites": np.zeros((v, sites), SITE_DTYPE),
        "law": np.zeros((v, profiles, sites), np.uint8),
        "subjects": np.zeros((v, subjects), SUBJECT_DTYPE),
        "candidate": np.full((v, sites, services, profiles, CANDIDATES_MAX), -1, np.int32),
        "listed": np.full((v, offers), -1, np.int64),
        "first": np.zeros((v, services, sites + 1), np.int64),
        "valid_until_s": np.full(v, -np.inf),
        "version": np.zeros(sites, np.int64),
    }


def _gateways(
    sites: int, offers: int, services: int, engines_most: int, *, blocks: bool
) -> dict[str, Any]:
    prefix = np.zeros((sites, PREFIX_SLOTS if blocks else 4), PREFIX_DTYPE)
    prefix["at_s"] = -np.inf
    return {
        "load_services": np.zeros((sites, services), LOAD_SERVICE_DTYPE),
        "site_load": np.zeros(offers, ar.SITE_LOAD_DTYPE),
        "frames": np.zeros((ar.RING, offers), ar.FRAME_DTYPE),
        "frame_at_s": np.full((sites, ar.RING), -np.inf),
        "frame_power": np.ones((sites, ar.RING), np.int64),
        "frame_open": np.ones((sites, ar.RING, sites), np.int8),
        "frame_count": np.zeros(sites, np.int64),
        "refreshed_s": np.full(sites, -np.inf),
        "tick_site": np.argsort((np.arange(sites) * 0.6180339887498949) % 1.0).astype(np.int64),
        "guess_out": np.full((sites, services), GUESS_OUT_FIRST),
        "prefix": prefix,
        "engine_prefix": prefix.copy(),
        "trust": first_trust(sites, sites),
        "engine_trust": first_trust(sites, engines_most),
        "held_engines": np.full((CACHED_MAX, 2), -1, np.int64),
        "blocks": np.zeros(1 << 22 if blocks else 1, np.int64),
        "digests": np.zeros(DIGESTS_MAX, np.uint64),
        "digest_tokens": np.zeros(DIGESTS_MAX, np.int64),
        "scratch_tried": np.full(ar.TRIED_MAX, -1, np.int64),
        "cached": np.full((CACHED_MAX, 2), -1, np.int64),
        "out": np.zeros(OUT_COUNT),
        "features": np.zeros(offers, FEATURE_DTYPE),
        "turns": np.full((sites, services), -1, np.int64),
        "engine_turns": np.full(sites, -1, np.int64),
    }


def _side_by_side(sites: int, offers: int, ways: NDArray[Any]) -> dict[str, Any]:
    """What a gateway reads of each candidate, in three cache lines instead of eight: with hundreds of sites none of it is near."""
    of_offers = _rows({"load_offers": LOAD_OFFER_DTYPE, "own": OWN_DTYPE}, (sites, offers))
    of_sites = _rows(
        {"load_sites": LOAD_SITE_DTYPE, "paths": PATH_DTYPE, "heard": ar.HEARD_DTYPE},
        (sites, sites),
    )
    of_offers["load_offers"]["ttft_factor"] = of_offers["load_offers"]["tpot_factor"] = 1.0
    of_offers["own"] = of_offers["own"].reshape(sites, 1, offers)
    of_sites["load_sites"]["sampled_at_s"] = -np.inf
    of_sites["load_sites"]["reachable"] = of_sites["load_sites"]["power_ok"] = 1
    of_sites["paths"][:] = ways
    return of_offers | of_sites


def _rows(dtypes: Mapping[str, np.dtype[Any]], shape: tuple[int, int]) -> dict[str, Any]:
    """Arrays of one shape in one piece of memory: the records of a place follow each other and fill whole cache lines."""
    row_bytes = -(-sum(d.itemsize for d in dtypes.values()) // LINE_BYTES) * LINE_BYTES
    # One row more, since the last array begins later than the first and its records are as long.
    memory = np.zeros((shape[0] * shape[1] + 1) * row_bytes + LINE_BYTES, np.uint8)
    at = -memory.ctypes.data % LINE_BYTES
    found = {}
    for name, dtype in dtypes.items():
        fields: Mapping[str, Any] = dtype.fields or {}
        layout: Any = {
            "names": list(fields),
            "formats": [kind for kind, *_ in fields.values()],
            "offsets": [offset for _, offset, *_ in fields.values()],
            "itemsize": row_bytes,
        }
        found[name] = np.ndarray(shape, np.dtype(layout, align=True), memory, at)
        at += dtype.itemsize
    return found


def site_offer_lists(table: Table) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[S + 1] and [O]: offers of each site, side by side."""
    site = table.offers["site"].astype(np.int64)
    first = np.zeros(len(table.sites) + 1, np.int64)
    np.add.at(first, site + 1, 1)
    return np.cumsum(first), np.argsort(site, kind="stable").astype(np.int64)


def _numbers(what: str, names: tuple[str, ...], known: Mapping[str, int]) -> NDArray[np.int64]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"trace {what}",
            got=", ".join(unknown),
            allowed=f"those of the fleet: {', '.join(known)}",
            fix=f"rename with `--map {what}`, or add the {what} to the fleet file",
        )
    return np.array([known[name] for name in names] or [0], np.int64)


def _service_numbers(fleet: Fleet) -> dict[str, int]:
    aliases = {alias: i for i, s in enumerate(fleet.services) for alias in s.aliases}
    return aliases | {s.id: i for i, s in enumerate(fleet.services)}
