"""Who owns a batch of two homes: one answer for the whole league, from the hub.

Here: OWNERS, a stream at the hub with one subject a batch and site, `site.<site>.own.<batch>`. A claim names the sequence of the last
claim of that batch by any site (`Nats-Expected-Last-Subject-Sequence` with `...-Subject: site.*.own.<batch>`), so of two that claim at
once one is refused; its own sequence is the epoch. A site can only write below its own prefix, so nobody claims in another's name.
Not here: when to claim (`standby`). Messages hold no more than one word: whether the batch has ended.
"""

from __future__ import annotations

from base64 import b64decode
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from hanse.errors import SiteError
from hanse.live.bus import OWNERS, site_subject
from hanse.live.runtime import HUB
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE

ANSWER_S_MAX: Final = 3.0
"""The hub is at most a few hundred milliseconds away; a cut is known after 4 to 6 s."""
OPEN: Final = b"open"
ENDED: Final = b"ended"
EXPECTED: Final = "Nats-Expected-Last-Subject-Sequence"


class Owner(Value, frozen=True, kw_only=True):
    """The last claim of a batch."""

    site: str
    epoch: int
    ended: bool


class Owners:
    """Claims of one site."""

    def __init__(self, client: Client, site: str) -> None:
        self._client = client
        self._site = site

    async def claim(self, batch_id: str, after: int, *, ended: bool = False) -> int:
        """The epoch of a new claim after the one known; 0 where another site has claimed since.

        Raises:
            SiteError: the hub does not answer.
        """
        subject = site_subject(self._site, f"own.{batch_id}")
        headers = {EXPECTED: str(after), f"{EXPECTED}-Subject": f"site.*.own.{batch_id}"}
        answer = await self._ask(subject, ENDED if ended else OPEN, headers)
        if "error" not in answer:
            return int(answer["seq"])
        # The answer to an earlier try of ours may have been lost.
        last = await self.owner(batch_id)
        mine = last is not None and last.site == self._site and last.epoch > after
        return last.epoch if last is not None and mine and last.ended == ended else 0

    async def owner(self, batch_id: str) -> Owner | None:
        """The last claim; None where nobody ever claimed it.

        Raises:
            SiteError: the hub does not answer.
        """
        asked = msgspec.json.encode({"last_by_subj": f"site.*.own.{batch_id}"})
        answer = await self._ask(f"$JS.{HUB}.API.STREAM.MSG.GET.{OWNERS}", asked, None)
        message = answer.get("message")
        if message is None:
            return None
        return Owner(
            site=str(message["subject"]).split(".")[1],
            epoch=int(message["seq"]),
            ended=b64decode(message.get("data", "")) == ENDED,
        )

    async def _ask(
        self, subject: str, payload: bytes, headers: dict[str, str] | None
    ) -> dict[str, Any]:
        try:
            answer = await self._client.request(
                subject, payload, timeout=ANSWER_S_MAX, headers=headers
            )
            found: dict[str, Any] = msgspec.json.decode(answer.data)
        except (*UNREADABLE, TimeoutError, NatsError, OSError) as error:
            raise SiteError("hub", got=repr(error), allowed="an answer about owners") from error
        return found
