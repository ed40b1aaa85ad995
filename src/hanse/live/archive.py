"""The hub's copy of every site's evidence: what makes the hub a witness against a site that rewrites its log.

Here: taking messages from the hub's EVIDENCE stream into files, in order, each once; telling sites what is held; letting go of what
is in files already, and of copies that are old. Not here: what a copy accepts (`live.evidence.shipping`), the stream (`live.bus`),
judging (`hanse audit hub/evidence`).

The hub keeps a log of its own in `evidence/hub`: what it deleted of whom by which rule, under its own seals.

Of several hubs each keeps a copy of its own. Sites are told what most hubs have, and the stream lets go of that; a hub that was away for
longer, or is new, gets the rest from another's copy (`live.archive_fill`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from hanse.errors import HanseError
from hanse.live.archive_fill import fill
from hanse.live.bus import API_S_MAX, EVIDENCE, site_subject
from hanse.live.evidence import EvidenceCopy
from hanse.live.evidence.seal import SEALS_NAME, SealedChain, Sealer, SealPlace, SealReader
from hanse.live.evidence_ship import HubHolds
from hanse.live.hubs import Peers
from hanse.live.identity import Identity, load_identity
from hanse.live.keep_on import end_if_cancelled
from hanse.live.logline import log_line
from hanse.live.retention import (
    chain_files,
    chains_due,
    dropped,
    level_of,
    look_at,
    wake_bus,
)
from hanse.live.runtime import HUB, StateDir
from hanse.live.shared import DISK_FULL, DISK_ROOM
from hanse.live.site_books import own_chain
from hanse.model.fleet import Fleet, Retention
from hanse.units import BYTES_PER_GB, SECONDS_PER_DAY

DURABLE = "archive"
BATCH = 16
"""Messages fetched at once, of at most 512 KiB each."""
WAIT_S = 5.0
RETRY_S = 1.0
REDELIVER_S = 30.0
"""A message that found a gap before it comes again after this, and twice as late each time; the one it waits for may come first."""
REDELIVER_S_MAX = 480.0
TELL_EVERY_S: Final = 5.0
LET_GO_EVERY_S: Final = 60.0
"""What is in files needs no place in the stream, whose store has a bound for all sites together."""
LOOK_EVERY_S: Final = 5.0
DROP_EVERY_S: Final = SECONDS_PER_DAY
"""Rules of age are of days."""


async def archive_evidence(
    client: Client, state: StateDir, fleet: Callable[[], Fleet], peers: Peers | None = None
) -> None:
    """Copy messages to `hub/evidence/<site>/` until cancelled, through every loss of the bus; `peers`: the other hubs, where there may be any."""
    directory = state.hub / "evidence"
    peers = peers or Peers(HUB, fleet)
    copy = EvidenceCopy(directory)
    await asyncio.gather(
        _through_losses("evidence copy", lambda: _archive(client, copy, durable(peers.own))),
        _through_losses("evidence held", lambda: _tell(client, directory, peers)),
        _through_losses("evidence stream", lambda: _let_go(client, directory, peers)),
        _through_losses("evidence of other hubs", lambda: fill(client, directory, copy, peers)),
        keep_copies(state, fleet),
    )


def durable(hub: str) -> str:
    """Name of one hub's place in the stream."""
    return DURABLE if hub == HUB else f"{DURABLE}-{hub}"


async def keep_copies(state: StateDir, fleet: Callable[[], Fleet]) -> None:
    """Delete copies by rule until cancelled, and warn of a disk that fills up; one process a hub does."""
    level, dropped_at_s = DISK_ROOM, float("-inf")
    while True:
        rule, name, now_s = fleet().retention, fleet().name, time.time()
        try:
            before, level = level, level_of(look_at(state.hub), rule, level)
            if level != before:
                log_line(f"disk of the hub: level {level:g} (0 room, 1 low, 2 full)")
            if before >= DISK_FULL > level:
                wake_bus(state.hub)
            if now_s - dropped_at_s >= DROP_EVERY_S:
                dropped_at_s = now_s
                identity = load_identity(state.site(HUB) / "identity", name, HUB, now_s)
                directory = state.hub / "evidence"
                await asyncio.to_thread(drop_old_copies, directory, identity, rule, now_s)
        except (HanseError, OSError) as error:
            log_line(f"evidence copies: {error}")
        await asyncio.sleep(LOOK_EVERY_S)


def drop_old_copies(
    directory: Path, identity: Identity, rule: Retention, now_s: float
) -> list[str]:
    """Chains whose copies are deleted by age or size, each recorded and under the hub's seal before its file goes.

    Raises:
        SiteError: another process keeps the hub's log, or it cannot be written.
    """
    bytes_left = rule.hub_gb_max * BYTES_PER_GB
    gone: list[str] = []
    homes = [path.parent for path in sorted(directory.glob(f"*/{SEALS_NAME}"))]
    due = []
    for home in homes:
        if home.name == HUB:
            continue
        files = chain_files(home, sealed_in(home / SEALS_NAME), float("inf"))
        due += [
            (home, one, why)
            for one, why in chains_due(
                files,
                kept_s=rule.hub_days * SECONDS_PER_DAY,
                bytes_max=bytes_left / max(len(homes), 1),
                now_s=now_s,
            )
        ]
    if not due:
        return gone
    own = directory / HUB
    sealer = Sealer(own, identity)
    try:
        chain = own_chain(own, HUB, now_s)
        for home, one, why in due:
            kept_s = rule.hub_days * SECONDS_PER_DAY
            chain.append(dropped(home.name, one, why, kept_s, now_s))
        chain.close()
        sealer.seal(now_s)
        for home, one, why in due:
            (home / f"{one.sealed.chain}.log").unlink(missing_ok=True)
            gone.append(one.sealed.chain)
            log_line(f"evidence copy: chain {one.sealed.chain} goes by the rule of {why}")
    finally:
        sealer.close()
    return gone


def sealed_in(path: Path) -> list[SealedChain]:
    """Chains as a seal log has them, by the order in which they first were sealed."""
    found: dict[str, SealedChain] = {}
    for entry in SealReader(path, SealPlace()):
        for s in entry.body.segments:
            found[s.chain] = SealedChain(
                s.chain, s.count, s.head, s.bytes_end, entry.body.at_s, entry.frame.bytes_end
            )
    return list(found.values())


async def _through_losses(name: str, act: Callable[[], Awaitable[None]]) -> None:
    last_error = ""
    while True:
        try:
            await act()
        except Exception as error:
            # The bus is gone or starting, or the disk is full: what is not acknowledged comes again.
            if repr(error) != last_error:
                last_error = repr(error)
                log_line(f"{name}: {last_error}")
            end_if_cancelled()
            await asyncio.sleep(RETRY_S)


async def _archive(client: Client, copy: EvidenceCopy, durable: str) -> None:
    """Until an error. One place in the stream for all sites: what one's gap holds up must not count against the others' messages."""
    js = client.jetstream(timeout=API_S_MAX)
    config = ConsumerConfig(
        durable_name=durable,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=REDELIVER_S,
        max_ack_pending=-1,
    )
    await js.add_consumer(EVIDENCE, config)  # one that an earlier release made gets no bound too
    pulled = await js.pull_subscribe_bind(durable, EVIDENCE)
    while True:
        end_if_cancelled()
        try:
            messages = await pulled.fetch(BATCH, timeout=WAIT_S)
        except TimeoutError:
            continue
        for message in messages:
            site = message.subject.split(".")[1]
            received = copy.accept(bytes(message.data), site)
            if received.outcome in ("conflict", "malformed"):
                # Kept out and said aloud: two versions of one log, or a site that speaks for another.
                log_line(f"evidence of {site}: {received.outcome} {received.detail}")
            if received.outcome == "gap":
                again = min(message.metadata.num_delivered or 1, 5) - 1
                await message.nak(delay=min(REDELIVER_S * 2**again, REDELIVER_S_MAX))
            else:
                await message.ack()


async def _tell(client: Client, directory: Path, peers: Peers) -> None:
    """Every site, how much of its log is here: it deletes nothing before, and sends again what was lost on the way."""
    while True:
        for site, size in peers.held(held(directory)).items() if peers.acts else ():
            told = msgspec.msgpack.encode(HubHolds(seals_bytes=size))
            await client.publish(site_subject(site, "kept"), told)
        await asyncio.sleep(TELL_EVERY_S)


async def _let_go(client: Client, directory: Path, peers: Peers) -> None:
    """What is in files goes from the stream, but the last message of each site: the bus goes on after it at a restart."""
    js = client.jetstream(timeout=API_S_MAX)
    while True:
        end_if_cancelled()
        await asyncio.sleep(LET_GO_EVERY_S)
        if peers.acts:
            floors = [await _floor(js, durable(hub)) for hub in peers.ids()]
            floor = sorted(floors, reverse=True)[len(floors) // 2]  # most hubs have it
            for site in held(directory):
                await _purge(js, site_subject(site, "evidence"), floor)


async def _floor(js: Any, durable: str) -> int:
    """Up to which message a hub has all in files."""
    with contextlib.suppress(NotFoundError):
        done = (await js.consumer_info(EVIDENCE, durable)).ack_floor
        return 0 if done is None else int(done.stream_seq)
    return 0


def held(directory: Path) -> dict[str, int]:
    """Bytes of each site's seal log."""
    paths = directory.glob(f"*/{SEALS_NAME}")
    return {path.parent.name: path.stat().st_size for path in paths if path.parent.name != HUB}


async def _purge(js: Any, subject: str, floor: int) -> None:
    with contextlib.suppress(NotFoundError):
        last = await js.get_last_msg(EVIDENCE, subject)
        up_to = min(floor + 1, int(last.seq))  # not included
        if up_to > 1:
            await js.purge_stream(EVIDENCE, seq=up_to, subject=subject)
