"""What starts, drains, stops and watches engines: one small protocol, and the driver for engines that run elsewhere.

Here: `Driver`, `Seen`, `ExternalDriver`. Not here: engines as processes (`live.engines`), in Kubernetes (`live.kubernetes`), when to
do what (`dispatch.site_scope`).
"""

from __future__ import annotations

from typing import Protocol

from hanse.dispatch.belief import EngineSpec
from hanse.model.fleet import Value


class Seen(Value, frozen=True, kw_only=True):
    """One engine as its driver sees it; whether it answers is another matter (`live.engines.probe`)."""

    url: str = ""
    """Base URL; empty: there is nothing to reach yet."""
    gone: str = ""
    """Why it cannot come up or is no more; empty: it may be well."""
    pid: int = 0
    """Of a process on this machine."""
    away: str = ""
    """Why one that served cannot be reached now, though it comes back by itself; one that starts has not been there yet."""
    loads: bool = False
    """It is there, is not ready yet, and nothing is known to be wrong: its time to answer has not begun."""


class Driver(Protocol):
    """All calls return at once; what takes time goes on by itself and shows in `observe`."""

    def start(self, spec: EngineSpec) -> None:
        """Make it run. One that runs already is taken over as it is."""

    def restart(self, spec: EngineSpec) -> None:
        """End it by force where it is still there, and make it run again."""

    def drain(self, spec: EngineSpec) -> None:
        """It gets no new requests and will be stopped: a driver that can choose what ends first takes note."""

    def keep(self, spec: EngineSpec) -> None:
        """It answers and is to stay: a drain, if there was one, is revoked."""

    def stop(self, spec: EngineSpec) -> None:
        """End it."""

    def observe(self, spec: EngineSpec) -> Seen:
        """What is known of it now."""

    def runs(self, spec: EngineSpec) -> bool:
        """Whether an engine that an earlier agent started is still there."""


class ExternalDriver:
    """Engines that somebody else starts and stops: watched, never touched."""

    def start(self, spec: EngineSpec) -> None:
        """It runs, or its operator sees to it."""

    restart = drain = keep = stop = start

    def observe(self, spec: EngineSpec) -> Seen:
        """Its URL is in the fleet file."""
        return Seen(url=spec.url)

    def runs(self, spec: EngineSpec) -> bool:
        """It does not end with the agent."""
        return True
