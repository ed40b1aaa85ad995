"""A schedule on its way to the sites: each its own part, again and again, so that whoever starts later has it soon.

Here: `Schedules`. Not here: what is in one (`dispatch.follow`), who follows it (`live.batch.follow`, `live.agent_power`).

Plain messages, not a stream: one that is lost comes again, and one that has grown old means nothing.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec
from nats.aio.client import Client

from hanse.dispatch.follow import SiteSchedule
from hanse.live import bus
from hanse.live.logline import log_line

AGAIN_S: Final = 5.0
"""A restarted agent or batch process follows its plan after this."""


class Schedules:
    """The newest of each site."""

    def __init__(self) -> None:
        self._now: tuple[SiteSchedule, ...] = ()
        self._sent_at_s = float("-inf")

    def take(self, sites: tuple[SiteSchedule, ...]) -> None:
        """A schedule holds from now on."""
        self._now, self._sent_at_s = sites, float("-inf")

    def drop(self) -> None:
        """Another leads: what was decided here is told no more."""
        self._now = ()

    async def send(self, client: Client) -> None:
        """To all sites, where it is due; a bus that is away gets it later."""
        if not self._now or time.monotonic() - self._sent_at_s < AGAIN_S:
            return
        try:
            for one in self._now:
                subject = bus.site_subject(one.site, "schedule")
                await client.publish(subject, msgspec.msgpack.encode(one))
        except Exception as error:
            log_line(f"schedule not sent yet: {error!r}")
            return
        self._sent_at_s = time.monotonic()
