"""A recorded league's own traffic as a trace: what users asked, of input logs.

Here: `recorded_requests` (ended requests of all logs, with their prompts' digests), `recorded_trace`. Not here: the logs' form
(`dispatch.journal`), a trace's file (`signals.traces`), times and tokens of engines (`calibrate`).

A trace is demand. Requests that were refused or failed after they were let in are part of it; what they would have been answered is
unknown, so they get the median answer of their service. Requests turned away at the door (key, rate, entry) are not: nothing was read
of them. Those that a killed worker had in hand are not either: nobody saw their end.

Conversations and shared prefixes are known where the gateway looked prompts up: prompts of more than 256 bytes of services that more
than one site has. They are known by keyed digests at ends of messages and every 2,048 bytes; blocks between two such places are told
apart by the later one, so two prompts share blocks as far as they share digests, never further. Keys of digests differ between sites.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch import journal as form
from hanse.dispatch.journal import Ended
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.signals.traces.trace import NO_BLOCKS, Origin, Trace, TraceMeta, empty_requests, pack
from hanse.twin.replay import journal_files, records_with_state

BLOCK_TOKENS: Final = 16
"""vLLM's default, and that of its prefix cache."""
DIGESTS_KEPT: Final = 65_536
"""Prompts of one log that are looked up and not over yet."""
SESSION_MASK: Final = (1 << 63) - 1
_ODD: Final = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9)
"""Multipliers of splitmix64 (Steele, Lea, Flood 2014)."""


class Seen(NamedTuple):
    """One ended request with its names."""

    ended: Ended
    site: str
    service: str
    offer: str
    """`site/service/variant` of the attempt that answered, else of the last; empty: none."""
    digests: NDArray[np.uint64] | None
    tokens: NDArray[np.int64] | None
    """Of the prompt, at the ends of its known prefixes."""


class Recording(Value, frozen=True, kw_only=True):
    """What a trace was made of."""

    requests: int
    unanswered: int
    """Of them: their answers' length is the median of their service."""
    with_blocks: int
    conversations: int
    sites: tuple[str, ...]


def recorded_requests(path: Path) -> Iterator[Seen]:
    """Every ended request of one log, as entry and as serving site."""
    prompts: dict[int, tuple[NDArray[np.uint64], NDArray[np.int64]]] = {}
    for record, rebuilt in records_with_state(path, whole=False):
        if record.kind == form.LOOK_UP:
            digests, tokens = form.digests_of(record)
            if len(digests):
                prompts[int(digests[-1])] = digests, tokens
                if len(prompts) > DIGESTS_KEPT:
                    del prompts[next(iter(prompts))]
        elif record.kind == form.ENDED and rebuilt.table is not None:
            ended, meta = form.ended_of(record, rebuilt.names), rebuilt.table.meta
            known = prompts.get(ended.digest) if ended.digest else None
            yield Seen(
                ended=ended,
                site=rebuilt.head.site,
                service=meta.services[ended.service].id if ended.service >= 0 else "",
                offer=meta.offers[ended.offer] if ended.offer >= 0 else "",
                digests=None if known is None else known[0],
                tokens=None if known is None else known[1],
            )


def recorded_trace(where: Path, *, name: str = "", licence: str = "own") -> tuple[Trace, Recording]:
    """The traffic of all logs at a path.

    Raises:
        ConfigError: no log, or no request in one.
    """
    seen: list[Seen] = []
    places: dict[str, tuple[float, float, str]] = {}
    for path in journal_files(where):
        found = recorded_requests(path)
        seen += [one for one in found if not one.ended.serving and one.service]
        places |= site_places(path)
    if not seen:
        raise ConfigError(
            str(where), got="logs without a request that ended", allowed="at least one request"
        )
    seen.sort(key=lambda one: (one.ended.started_at_s, one.ended.request_id))
    start_s = float(int(seen[0].ended.started_at_s))
    names = _Names(seen, places)
    requests = empty_requests(len(seen))
    requests["session"] = _sessions(seen)
    blocks = [_blocks(one) for one in seen]
    usual = _usual_tokens_out(seen)
    for row, one, ids in zip(requests, seen, blocks, strict=True):
        ended = one.ended
        row["at_s"] = ended.started_at_s - start_s
        row["service"] = names.services.index(one.service)
        row["cls"] = names.classes.index(ended.data_class)
        row["origin"] = names.origin_of[one.site, ended.country]
        row["tenant"] = names.tenants.index(ended.tenant)
        row["tokens_in"] = ended.tokens_in
        row["tokens_out"] = ended.tokens_out if _answered(one) else usual[one.service]
        row["block_count"] = len(ids)
    chunk = pack(requests, np.concatenate(blocks))
    with_blocks = int((requests["block_count"] > 0).sum())
    meta = TraceMeta(
        name=name or where.name,
        source="input logs of a live league",
        licence=licence,
        services=names.services,
        classes=names.classes,
        origins=names.origins,
        tenants=names.tenants,
        block_tokens=BLOCK_TOKENS if with_blocks else 0,
        count=len(seen),
        duration_s=max(one.ended.ended_at_s for one in seen) - start_s,
        start_at_s=start_s,
        note="origins are entry sites; conversations and prefixes as far as gateways saw them",
    )
    made = Recording(
        requests=len(seen),
        unanswered=sum(not _answered(one) for one in seen),
        with_blocks=with_blocks,
        conversations=len(set(requests["session"].tolist()) - {-1}),
        sites=tuple(sorted({one.site for one in seen})),
    )
    return Trace.of(meta, chunk.requests, chunk.blocks), made


def _answered(one: Seen) -> bool:
    return one.ended.outcome == "answered" and one.ended.status == 200


def site_places(path: Path) -> dict[str, tuple[float, float, str]]:
    """(latitude, longitude, country) of every site that a log's tables name."""
    found: dict[str, tuple[float, float, str]] = {}
    for record, rebuilt in records_with_state(path, whole=False):
        if record.kind == form.TABLE and rebuilt.table is not None:
            for site in rebuilt.table.meta.sites:
                found[site.id] = site.lat_deg, site.lon_deg, site.country
    return found


class _Names:
    """Every name that a trace's columns point to, sorted."""

    def __init__(self, seen: Sequence[Seen], places: dict[str, tuple[float, float, str]]) -> None:
        self.services = tuple(sorted({one.service for one in seen}))
        self.classes = tuple(sorted({one.ended.data_class for one in seen}))
        self.tenants = tuple(sorted({one.ended.tenant for one in seen}))
        pairs = sorted({(one.site, one.ended.country) for one in seen})
        self.origin_of = {pair: i for i, pair in enumerate(pairs)}
        self.origins = tuple(_origin(site, country, *places[site]) for site, country in pairs)


def _origin(site: str, country: str, lat_deg: float, lon_deg: float, own: str) -> Origin:
    """One for each entry site and country that requests claimed there; the site's own country has the site's name."""
    name = site if country == own else f"{site}/{country}"
    return Origin(id=name, lat_deg=lat_deg, lon_deg=lon_deg, country=country)


def _usual_tokens_out(seen: Sequence[Seen]) -> dict[str, int]:
    lengths: dict[str, list[int]] = {one.service: [] for one in seen}
    for one in seen:
        if _answered(one):
            lengths[one.service].append(one.ended.tokens_out)
    return {service: int(median(found)) if found else 1 for service, found in lengths.items()}


def _sessions(seen: Sequence[Seen]) -> list[int]:
    """A request goes on with the conversation whose whole earlier prompt it begins with; -1 where nothing is known."""
    session_of: dict[int, int] = {}
    found = []
    for one in seen:
        if one.digests is None:
            found.append(-1)
            continue
        digests = one.digests.tolist()
        earlier = next((session_of[d] for d in reversed(digests) if d in session_of), None)
        session = len(session_of) if earlier is None else earlier
        session_of[digests[-1]] = session
        found.append(session)
    return found


def _blocks(one: Seen) -> NDArray[np.int64]:
    """Ids of the prompt's whole blocks of `BLOCK_TOKENS`."""
    if one.digests is None or one.tokens is None:
        return NO_BLOCKS
    count = min(int(one.tokens[-1]), one.ended.tokens_in) // BLOCK_TOKENS
    if count <= 0:
        return NO_BLOCKS
    number = np.arange(1, count + 1)
    by = one.digests[np.searchsorted(one.tokens, number * BLOCK_TOKENS)]
    mixed = (by + number.astype(np.uint64) * np.uint64(_ODD[0])) * np.uint64(_ODD[1])
    return ((mixed ^ (mixed >> np.uint64(31))) & np.uint64(SESSION_MASK)).astype(np.int64)
