"""A link to the hub that hangs although the hub can be reached: the site's bus is started anew.

Here: `LinkWatch`, the decision, and `LinkKeeper`, which asks and acts. Not here: what NATS does by itself (a connection whose packets vanish
misses two pings of 2 s and is made anew, `live.bus`), sources that stand still (`live.bus_sources`).

Why. Leaf connections have been seen not to come back for hours although the network had (nats-server 7615: a leaf over LTE, eight hours;
7530, 6206, 3553); and a bus that is frozen holds every connection open and says nothing. So: for `WEDGED_S` nothing of the hub is heard through
the bus, and all that time the hub's port takes connections from here. Then the bus is ended by force, since what hangs may not heed a request;
its keeper starts it again. Streams are on its disk. Engines, agent and gateways are not touched. A hub that refuses this site on purpose (its
certificate was revoked) looks the same, so each restart in vain doubles the wait, to an hour.
"""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path
from typing import Final

from hanse.live.logline import log_line
from hanse.live.supervise import signal_pid
from hanse.units import SECONDS_PER_HOUR

WEDGED_S: Final = 15.0
"""NATS notices a dead connection after 4 to 6 s, tries again each second, and gives a handshake 5 s: it should be back by then."""
WEDGED_S_MAX: Final = SECONDS_PER_HOUR
ASK_EVERY_S: Final = 3.0
"""The hub's log has a line for each connection that says nothing."""
ANSWER_S_MAX: Final = 2.0


class LinkWatch:
    """When to start the bus anew. No clock, no socket."""

    def __init__(self) -> None:
        self.wait_s = WEDGED_S
        self._since_s: float | None = None
        """Since when the hub was reached each time it was tried, and not heard through the bus."""

    def look(self, now_s: float, *, heard: bool, reached: bool) -> bool:
        """Whether to start it anew now.

        Args:
            now_s: Any clock that only goes forward.
            heard: The hub answered through the bus.
            reached: The hub's port took a connection just now.
        """
        if heard:
            self.wait_s = WEDGED_S
        if heard or not reached:
            self._since_s = None
            return False
        if self._since_s is None:
            self._since_s = now_s
        if now_s - self._since_s < self.wait_s:
            return False
        self._since_s = None
        self.wait_s = min(2.0 * self.wait_s, WEDGED_S_MAX)
        return True


class LinkKeeper:
    """The watch of one site, called each second."""

    def __init__(self, home: Path, hub_leaf: str) -> None:
        self._home = home
        self._hub_leaf = hub_leaf
        self._watch = LinkWatch()
        self._asked_s = float("-inf")

    async def see(self, heard: bool) -> None:
        """What the bus says of the hub."""
        now_s = time.monotonic()
        if not self._hub_leaf or (not heard and now_s - self._asked_s < ASK_EVERY_S):
            return
        self._asked_s = now_s
        reached = not heard and await takes_connections(self._hub_leaf)
        waited_s = self._watch.wait_s
        if self._watch.look(time.monotonic(), heard=heard, reached=reached) and signal_pid(
            self._home / "pid" / "nats.pid", signal.SIGKILL
        ):
            log_line(
                f"bus: started anew, for the hub can be reached and was not heard for {waited_s:.0f} s"
            )


async def takes_connections(address: str) -> bool:
    """Whether a port takes a connection; nothing is said on it."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(ANSWER_S_MAX):
            _, writer = await asyncio.open_connection(host, int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
