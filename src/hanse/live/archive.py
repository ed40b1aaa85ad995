"""The hub's copy of every site's evidence: what makes the hub a witness against a site that rewrites its log.

Here: taking messages from the hub's EVIDENCE stream into files, in order, each once. Not here: what a copy
accepts (`live.evidence.shipping`), the stream (`live.bus`), judging (`hanse audit hub/evidence`).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from hanse.live.bus import API_S_MAX, EVIDENCE
from hanse.live.evidence import EvidenceCopy
from hanse.live.logline import log_line

DURABLE = "archive"
BATCH = 16
"""Messages fetched at once, of at most 512 KiB each."""
WAIT_S = 5.0
RETRY_S = 1.0
REDELIVER_S = 30.0
"""A message that found a gap before it comes again after this; the one it waits for comes first."""


async def archive_evidence(client: Client, directory: Path) -> None:
    """Copy messages to `<directory>/<site>/` until cancelled, through every loss of the bus."""
    last_error = ""
    while True:
        try:
            await _archive(client, EvidenceCopy(directory))
        except Exception as error:
            # The bus is gone or starting, or the disk is full: what is not acknowledged comes again.
            if repr(error) != last_error:
                last_error = repr(error)
                log_line(f"evidence copy: {last_error}")
            await asyncio.sleep(RETRY_S)


async def _archive(client: Client, copy: EvidenceCopy) -> None:
    js = client.jetstream(timeout=API_S_MAX)
    config = ConsumerConfig(ack_wait=REDELIVER_S)
    pulled = await js.pull_subscribe("", durable=DURABLE, stream=EVIDENCE, config=config)
    while True:
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
            if received.outcome != "gap":
                await message.ack()
