"""What a site's modelled battery holds and the plan that it follows, as a file that outlives its agent.

Here: `BatteryFile`, one writer (the agent), by rename. Not here: what the battery does (`dispatch.follow`, `energy`), the month's peak
(`live.agent_power`). While no agent runs the battery is taken to stand still: nobody reckons what it would have done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from hanse.live.logline import log_line
from hanse.live.runtime import replace_file
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE, Amount, Figure
from hanse.units import s_from_hours

FILE: Final = "battery.msgpack"
EVERY_S: Final = 5.0
"""What a crash of the agent loses; at its rated power an hour's battery moves by a seven-hundredth meanwhile."""
KEPT_S_MAX: Final = s_from_hours(1.0)
"""After a longer pause nobody knows what a battery holds."""


class Kept(Value, frozen=True, kw_only=True):
    """A battery as its agent left it."""

    at_s: Figure
    stored_kwh: Amount
    low: bool
    """It was being kept for what cannot be given up."""
    schedule: bytes
    """`SiteSchedule` as it was last heard, without works; empty: none was."""


class BatteryFile:
    """`battery.msgpack` in a site's directory."""

    def __init__(self, home: Path) -> None:
        self._path = home / FILE
        self._kept_at_s = float("-inf")
        self._flaw = ""

    def read(self, now_s: float) -> Kept | None:
        """What an earlier agent left; None: nothing, or it is of another hour."""
        try:
            kept = msgspec.msgpack.decode(self._path.read_bytes(), type=Kept)
        except FileNotFoundError:
            return None
        except (*UNREADABLE, OSError) as error:
            log_line(f"{self._path}: {error!r}; the battery begins anew")
            return None
        # A clock that was set back makes it one of the future.
        return kept if abs(now_s - kept.at_s) <= KEPT_S_MAX else None

    def keep(self, kept: Kept) -> None:
        """Write it, where it is due; a disk that refuses costs the site none of its reports."""
        if abs(kept.at_s - self._kept_at_s) < EVERY_S:
            return
        self._kept_at_s = kept.at_s
        try:
            replace_file(self._path, msgspec.msgpack.encode(kept))
            self._flaw = ""
        except OSError as error:
            if str(error) != self._flaw:
                self._flaw = str(error)
                log_line(f"the battery's content is not kept: {error}")
