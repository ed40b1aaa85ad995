"""Traces made of traces: a window, more or less demand, one after another, several at once, names given and changed.

Here: functions from traces to a trace; each reads its inputs in chunks whenever it is read itself. Not here: making
requests from nothing (`generate`). Whatever is drawn depends on the seed and on the conversation (or the request's
number, where it stands alone), never on chunks: turns of a conversation stay together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError, FeedError
from hanse.signals.traces.trace import (
    INDEX_COLUMNS,
    Chunk,
    Origin,
    Requests,
    Trace,
    TraceMeta,
    cut,
    empty_requests,
    join,
    pack,
    take,
)

Ids = NDArray[np.int64]
FIELDS: Final = {"service": "services", "cls": "classes", "origin": "origins", "tenant": "tenants"}
OWN_IDS_BELOW: Final = 1 << 40
"""Ids below this are numbered by somebody, so that copies of a trace can be given numbers of their own; others are hashes."""
COPY_DELAY_S: Final = 60.0
"""A copy's conversations come up to a minute later, else every request would arrive twice in the same instant."""


def window(trace: Trace, from_s: float, until_s: float) -> Trace:
    """Requests in `[from_s, until_s)`, counted from the new start."""
    if not 0.0 <= from_s < until_s:
        allowed = "a begin of 0 or later and an end after it"
        raise ConfigError("window", got=f"{from_s} to {until_s}", allowed=allowed)
    until_s = min(until_s, np.nextafter(trace.meta.duration_s, np.inf))
    start_at_s = trace.meta.start_at_s + from_s if trace.meta.start_at_s else 0.0
    duration_s = max(0.0, min(until_s, trace.meta.duration_s) - from_s)

    def pieces() -> Iterator[Chunk]:
        for chunk in trace.chunks():
            first, last = np.searchsorted(chunk.requests["at_s"], (from_s, until_s))
            if first < last:
                yield _moved(cut(chunk, int(first), int(last)), -from_s)
            if last < len(chunk.requests):
                return

    return _with(trace, pieces, start_at_s=start_at_s, duration_s=duration_s, count=-1)


def shifted(trace: Trace, by_s: float) -> Trace:
    """All requests later by so much; the window begins where it did."""
    if by_s < 0.0:
        fix = "cut the beginning off with `window`, or turn the day with `rotated`"
        raise ConfigError("shift", got=by_s, allowed="0 or more", fix=fix)

    def pieces() -> Iterator[Chunk]:
        return (_moved(chunk, by_s) for chunk in trace.chunks())

    return _with(trace, pieces, duration_s=trace.meta.duration_s + by_s)


def rotated(trace: Trace, by_s: float) -> Trace:
    """Later by so much, and what would leave the window comes in at its beginning: a region in another time zone."""
    if not trace.meta.duration_s or not by_s % trace.meta.duration_s:
        return trace
    by_s %= trace.meta.duration_s
    head = trace.meta.duration_s - by_s
    turned = concatenated(
        [window(trace, head, np.inf), window(trace, 0.0, head)], ids="same", name=trace.meta.name
    )
    return Trace(trace.meta, lambda: turned.chunks())


def concatenated(
    traces: Sequence[Trace], *, ids: Literal["own", "same"] = "own", name: str = ""
) -> Trace:
    """One after another, each when the window of the one before ends.

    `ids`: whether equal conversation and block numbers in two traces mean different things (`own`) or the same.
    """
    meta, aligned = _aligned(traces, ids, name)
    begins = np.cumsum([0.0, *(trace.meta.duration_s for trace in traces)]).tolist()

    def pieces() -> Iterator[Chunk]:
        for begin_s, one in zip(begins, aligned, strict=False):
            for chunk in one.chunks():
                yield _moved(chunk, begin_s)

    count = sum(t.meta.count for t in traces) if all(t.meta.count >= 0 for t in traces) else -1
    return Trace(msgspec.structs.replace(meta, duration_s=begins[-1], count=count), pieces)


def merged(
    traces: Sequence[Trace],
    *,
    ids: Literal["own", "same"] = "own",
    name: str = "",
    by_clock: bool = False,
) -> Trace:
    """All at once, each from its own start; of equal times the earlier named trace's come first.

    `by_clock`: each from its own date instead, where all have one, the earliest at the start.
    """
    if by_clock and all(trace.meta.start_at_s for trace in traces):
        start_at_s = min((trace.meta.start_at_s for trace in traces), default=0.0)
        later = [shifted(trace, trace.meta.start_at_s - start_at_s) for trace in traces]
        traces = [_with(t, t.chunks, start_at_s=start_at_s) for t in later]
    meta, aligned = _aligned(traces, ids, name)
    duration_s = max(trace.meta.duration_s for trace in traces)
    count = sum(t.meta.count for t in traces) if all(t.meta.count >= 0 for t in traces) else -1
    meta = msgspec.structs.replace(meta, duration_s=duration_s, count=count)
    return Trace(meta, lambda: merge_sorted([one.chunks() for one in aligned]))


def thinned(trace: Trace, keep: float, seed: int) -> Trace:
    """A random part of the conversations, each with probability `keep`."""
    if not 0.0 <= keep <= 1.0:
        raise ConfigError("keep", got=keep, allowed="0 to 1")

    def pieces() -> Iterator[Chunk]:
        for chunk, uniform in _uniform(trace, seed):
            yield take(chunk, uniform < keep)

    return _with(trace, pieces, count=-1)


def scaled(trace: Trace, factor: float, seed: int) -> Trace:
    """Demand times `factor`: whole copies, each conversation of a further one up to a minute later, and a part of one.

    Copies have conversations and prefixes of their own, so that a cache is not flattered by asking everything twice.
    """
    if not 0.0 <= factor <= 10_000.0:
        raise ConfigError("scale", got=factor, allowed="0 to 10,000")
    whole, part = int(factor), factor - int(factor)
    copies = [_delayed(trace, seed + i) if i else trace for i in range(whole)]
    if part > 0.0 or not copies:
        last = _delayed(trace, seed + whole) if whole else trace
        copies.append(thinned(last, part, seed))
    if len(copies) == 1:
        return copies[0]
    return merged(copies, name=trace.meta.name)


def assigned(
    trace: Trace,
    column: str,
    names: Sequence[str] | Sequence[Origin],
    weights: Sequence[float],
    seed: int,
) -> Trace:
    """A column drawn anew by weight, one draw a conversation: `service`, `cls`, `origin` or `tenant`."""
    share = np.array(weights, np.float64)
    if len(share) != len(names) or not len(share) or share.min() < 0.0 or share.sum() <= 0.0:
        allowed = "a weight for each name, none negative, one above 0"
        raise ConfigError(f"weights of {column}", got=list(weights), allowed=allowed)
    upto = np.cumsum(share) / share.sum()
    upto[-1] = 1.0
    salt = seed + (1 + INDEX_COLUMNS.index(column) << 32)  # columns are independent of each other

    def pieces() -> Iterator[Chunk]:
        for chunk, uniform in _uniform(trace, salt):
            requests = chunk.requests.copy()
            requests[column] = np.searchsorted(upto, uniform, side="right")
            yield Chunk(requests, chunk.blocks)

    return _with(trace, pieces, **{FIELDS[column]: tuple(names)})


def renamed(trace: Trace, column: str, names: Mapping[str, str]) -> Trace:
    """Other names for a column's, such as services of a recording for those of a fleet; two may become one."""
    old = trace.meta.names(column)
    for name in names:
        if name not in old:
            raise ConfigError(
                f"rename {column}", got=repr(name), allowed=f"one of {', '.join(old)}"
            )
    if column == "origin":
        raise ConfigError("rename origin", got="origins", allowed="service, cls or tenant")
    new = tuple(dict.fromkeys(names.get(name, name) for name in old))
    table = {column: [new.index(names.get(name, name)) for name in old]}

    def pieces() -> Iterator[Chunk]:
        return (_reindexed(chunk, table) for chunk in trace.chunks())

    return _with(trace, pieces, **{FIELDS[column]: new})


def merge_sorted(streams: Sequence[Iterator[Chunk]]) -> Iterator[Chunk]:
    """Sorted streams as one; equal times in the order of the streams."""
    held: list[Chunk] = [join([]) for _ in streams]
    open_streams = set(range(len(streams)))
    while True:
        # A stream's next request is not before the last one it has shown: up to the least of those all is known.
        for i in sorted(open_streams):
            while not len(held[i].requests) or held[i].requests["at_s"][-1] <= _head_s(held):
                following = next(streams[i], None)
                if following is None:
                    open_streams.discard(i)
                    break
                held[i] = join([held[i], following])
        if not open_streams:
            rest = _together(held)
            if len(rest.requests):
                yield rest
            return
        known_s = min(float(held[i].requests["at_s"][-1]) for i in open_streams)
        ready = [int(np.searchsorted(chunk.requests["at_s"], known_s)) for chunk in held]
        yield _together([cut(chunk, 0, n) for chunk, n in zip(held, ready, strict=True)])
        held = [cut(chunk, n, len(chunk.requests)) for chunk, n in zip(held, ready, strict=True)]


def mixed(values: NDArray[Any], salt: int) -> NDArray[np.uint64]:
    """64 bits of each value that look random (SplitMix64: Steele, Lea, Flood, OOPSLA 2014, doi 10.1145/2660193.2660195)."""
    step = np.uint64(0x9E3779B97F4A7C15)
    key = np.uint64((salt * 0xD1342543DE82EF95 + 1) % (1 << 64))
    with np.errstate(over="ignore"):
        z = (values.astype(np.uint64) ^ key) + step
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)), np.uint64)


def _head_s(held: list[Chunk]) -> float:
    """The earliest request that is held."""
    return min((float(c.requests["at_s"][0]) for c in held if len(c.requests)), default=-np.inf)


def _together(chunks: list[Chunk]) -> Chunk:
    chunk = join([c for c in chunks if len(c.requests)])
    order = np.argsort(chunk.requests["at_s"], kind="stable")
    return take(chunk, order)


def _with(trace: Trace, pieces: Callable[[], Iterator[Chunk]], **changes: Any) -> Trace:
    return Trace(msgspec.structs.replace(trace.meta, **changes), pieces)


def _moved(chunk: Chunk, by_s: float) -> Chunk:
    requests = chunk.requests.copy()
    requests["at_s"] += by_s
    return Chunk(requests, chunk.blocks)


def _uniform(trace: Trace, seed: int) -> Iterator[tuple[Chunk, NDArray[np.float64]]]:
    """Chunks with a number in [0, 1) for each request, the same for all of a conversation."""
    seen = 0
    for chunk in trace.chunks():
        count = len(chunk.requests)
        session = chunk.requests["session"]
        alone = mixed(np.arange(seen, seen + count), 2 * seed + 1)
        bits = np.where(session >= 0, mixed(session, 2 * seed), alone)
        yield chunk, (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        seen += count


def _delayed(trace: Trace, seed: int) -> Trace:
    """Each conversation later by up to `COPY_DELAY_S`; what would leave the window turns back at its end."""
    end_s = trace.meta.duration_s
    delay_s = min(COPY_DELAY_S, end_s / 2.0)

    def pieces() -> Iterator[Chunk]:
        held = join([])
        for chunk, uniform in _uniform(trace, seed):
            later = _moved(chunk, 0.0)
            at_s = later.requests["at_s"] + uniform * delay_s
            later.requests["at_s"] = np.where(at_s > end_s, 2.0 * end_s - at_s, at_s)
            held = _together([held, later])
            known_s = min(float(chunk.requests["at_s"][-1]), end_s - delay_s)
            ready = int(np.searchsorted(held.requests["at_s"], known_s))
            if ready:
                yield cut(held, 0, ready)
                held = cut(held, ready, len(held.requests))
        if len(held.requests):
            yield held

    return _with(trace, pieces)


def _aligned(traces: Sequence[Trace], ids: str, name: str) -> tuple[TraceMeta, list[Trace]]:
    """Traces whose indices point into one set of names, and what all of them say together."""
    if not traces:
        raise ConfigError("traces", got="none", allowed="one or more")
    sizes = sorted({t.meta.block_tokens for t in traces if t.meta.block_tokens})
    if len(sizes) > 1:
        got = ", ".join(f"{size} tokens" for size in sizes)
        raise FeedError("block_tokens", got=got, allowed="blocks of one size in all traces")
    fields: dict[str, Any] = {}
    for column in ("service", "cls", "tenant"):
        names = dict.fromkeys(n for t in traces for n in t.meta.names(column))
        fields[FIELDS[column]] = tuple(names)
    origins: dict[str, Origin] = {}
    for origin in (o for t in traces for o in t.meta.origins):
        if origins.setdefault(origin.id, origin) != origin:
            got = f"{origins[origin.id]} and {origin}"
            raise FeedError(f"origin {origin.id}", got=got, allowed="one place for one id")
    metas = [t.meta for t in traces]
    meta = msgspec.structs.replace(
        metas[0],
        name=name or "+".join(dict.fromkeys(m.name for m in metas)),
        source="; ".join(dict.fromkeys(m.source for m in metas)),
        licence="; ".join(dict.fromkeys(m.licence for m in metas)),
        note="; ".join(dict.fromkeys(m.note for m in metas if m.note)),
        block_tokens=sizes[0] if sizes else 0,
        origins=tuple(origins.values()),
        **fields,
    )
    own = len(traces) if ids == "own" else 1
    return meta, [_renumbered(t, meta, own, i if own > 1 else 0) for i, t in enumerate(traces)]


def _renumbered(trace: Trace, meta: TraceMeta, count: int, number: int) -> Trace:
    tables = {}
    for column in INDEX_COLUMNS:
        where = {name: i for i, name in enumerate(meta.names(column))}
        tables[column] = [where[name] for name in trace.meta.names(column)]

    def pieces() -> Iterator[Chunk]:
        for chunk in trace.chunks():
            requests, blocks = _reindexed(chunk, tables)
            if count > 1:
                requests["session"] = _own(requests["session"], count, number)
                blocks = _own(blocks, count, number)
            yield Chunk(requests, blocks)

    return _with(trace, pieces)


def _own(ids: Ids, count: int, number: int) -> Ids:
    """Numbers that no other of `count` traces has: counted ones interleaved, hashes mixed anew; -1 stays -1."""
    hashed = (mixed(ids, number) >> np.uint64(2)).astype(np.int64) | np.int64(1 << 62)
    return np.where(ids < 0, ids, np.where(ids < OWN_IDS_BELOW, ids * count + number, hashed))


def _reindexed(chunk: Chunk, tables: Mapping[str, Sequence[int]]) -> Chunk:
    requests: Requests = empty_requests(len(chunk.requests))
    requests[:] = chunk.requests
    for column, table in tables.items():
        # The last entry is what index -1 finds.
        requests[column] = np.array([*table, -1], np.int32)[requests[column]]
    return pack(requests, chunk.blocks)
