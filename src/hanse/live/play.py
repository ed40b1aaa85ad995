"""What happens to a running league, by a script: weather, carbon, prices, connections; sites that die; links that are cut.

Here: `Happening`, `Player` (does each when it is due, undoes it when it is over, and undoes all at the end). Not here: the file that says
when (`twin.scenario`: the same scenario plays in the twin and here), who reads it (`cli.play`), what follows from it (everything else).

All is done as an operator would: a scenario posted to the controller, SIGKILL to the processes of a site, a message to the link
emulator. Instants are of the played clock from its beginning on; at a speed of 60 an hour of the script is a minute here.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import msgspec

from hanse.errors import ConfigError, HanseError, SiteError
from hanse.live.control_client import Scenario, control_key
from hanse.live.link_control import LinkControl
from hanse.live.runtime import Runtime, StateDir
from hanse.live.supervise import running_pid
from hanse.model.fleet import Value
from hanse.signals import Feed, Override
from hanse.signals.clock import Clock
from hanse.view import link_id

Kind = Literal[
    "clouds", "carbon", "price", "grid_cap", "grid_outage", "heat_wave",
    "site_down", "engine_kill", "engine_freeze", "link_cut", "link_slow",
]  # fmt: skip
OVERRIDES: Final = {
    "clouds": "cloud_pct",
    "carbon": "carbon_factor",
    "price": "price_factor",
    "grid_cap": "grid_factor",
    "grid_outage": "grid_factor",
    "heat_wave": "warmer_k",
}
KINDS: Final[tuple[str, ...]] = Kind.__args__  # type: ignore[attr-defined]
ENDLESS_S: Final = 1e10
"""Stands for the end of time in a message: JSON knows no infinity."""
POLL_S: Final = 0.1
POST_S_MAX: Final = 10.0


class Happening(Value, frozen=True, kw_only=True):
    """One thing that happens."""

    kind: Kind
    at_s: float
    """After the beginning, on the played clock."""
    for_s: float = float("inf")
    site: str = ""
    other: str = ""
    engine: int = -1
    factor: float = 0.0


class Player:
    """One script on one league."""

    def __init__(
        self,
        state: StateDir,
        runtime: Runtime,
        happenings: tuple[Happening, ...],
        *,
        speed: float = 1.0,
        offset_s: float = 0.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """A script that begins when it is played.

        Args:
            state: Of the league.
            runtime: Where its parts are.
            happenings: In any order.
            speed: Played seconds in a second.
            offset_s: Added to the instant whose weather and carbon are played.
            say: Told what happens, for people.
        """
        self._state = state
        self._runtime = runtime
        self._happenings = happenings
        self._speed = speed
        self._offset_s = offset_s
        self._say = say
        self._links = LinkControl(state.links_sock)

    def play(self, until_s: float, stop: Callable[[], bool] = lambda: False) -> None:
        """Until an instant of the played clock, or until `stop` says so; then all is as it was.

        Raises:
            SiteError: the controller does not take the scenario.
        """
        began_s = time.time()
        clock = Clock(speed=self._speed, from_s=began_s)
        due = sorted(self._moments(), key=lambda one: one[0])
        with self._undone():
            self._post(self._feed(clock, began_s))
            while not stop():
                at_s = clock.played_s(time.time()) - began_s
                while due and due[0][0] <= at_s:
                    _, act, what = due.pop(0)
                    self._say(f"{at_s:8.0f} s: {what}")
                    act()
                if at_s >= until_s:
                    return
                time.sleep(POLL_S)

    def _feed(self, clock: Clock, began_s: float) -> Feed:
        """All of the sky and the grid at once: each override has its own dates."""
        overrides = []
        for one in self._happenings:
            if one.kind in OVERRIDES:
                end_s = min(one.at_s + one.for_s, ENDLESS_S)
                overrides.append(
                    Override(
                        kind=OVERRIDES[one.kind],  # type: ignore[arg-type]
                        place=one.site or "*",
                        value=0.0 if one.kind == "grid_outage" else one.factor,
                        from_s=clock.true_s(began_s + one.at_s),
                        until_s=clock.true_s(began_s + end_s),
                        reason=f"{one.kind} of a script",
                    )
                )
        return Feed(
            overrides=tuple(overrides),
            clock_offset_s=self._offset_s,
            clock_speed=clock.speed,
            clock_from_s=clock.from_s,
        )

    def _moments(self) -> Iterator[tuple[float, Callable[[], None], str]]:
        for one in self._happenings:
            begin, end = self._acts(one)
            where = "~".join(x for x in (one.site, one.other) if x) or "everywhere"
            yield one.at_s, begin, f"{one.kind} at {where}"
            if one.at_s + one.for_s < ENDLESS_S:
                yield one.at_s + one.for_s, end, f"{one.kind} at {where} is over"

    def _acts(self, one: Happening) -> tuple[Callable[[], None], Callable[[], None]]:
        """What begins and what ends it; the sky is dated, and nobody has to do anything."""
        if one.kind == "site_down":
            return lambda: kill_site(self._state, one.site), lambda: release(self._state, one.site)
        if one.kind in ("link_cut", "link_slow"):
            link = link_id(one.site, one.other)
            if one.kind == "link_cut":
                return lambda: _ignore(self._links.cut(link)), lambda: _ignore(
                    self._links.heal(link)
                )
            slows = partial(self._links.fault, link, "slow", slow_factor=one.factor)
            return lambda: _ignore(slows()), lambda: _ignore(self._links.heal(link))
        if one.kind in ("engine_kill", "engine_freeze"):
            kills = one.kind == "engine_kill"
            first = signal.SIGKILL if kills else signal.SIGSTOP
            return lambda: self._engines(one, first), lambda: self._engines(one, signal.SIGCONT)
        return lambda: None, lambda: None

    def _engines(self, one: Happening, number: signal.Signals) -> None:
        paths = sorted((self._state.site(one.site) / "pid").glob("engine-*.pid"))
        for i, path in enumerate(paths):
            if one.engine in (-1, i):
                _signal(path, number)

    def _post(self, feed: Feed) -> None:
        hub = self._runtime.hub
        if hub is None:
            raise ConfigError("scenario", got="a site alone", allowed="a league with a hub")
        url = urlsplit(f"{hub.dashboard_url}/api/scenario")
        secret = control_key(self._state)
        link = http.client.HTTPConnection(url.hostname or "", url.port, timeout=POST_S_MAX)
        try:
            sent = {"content-type": "application/json", "authorization": f"Bearer {secret}"}
            link.request("POST", url.path, msgspec.json.encode(Scenario.of(feed)), sent)
            answer = link.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException) as error:
            raise SiteError(
                url.geturl(), got=repr(error), allowed="the controller's answer"
            ) from error
        finally:
            link.close()
        if answer.status != 200:
            raise SiteError(url.geturl(), got=f"{answer.status} {text}", allowed="200")

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """Whatever happens inside: sky, links and sites are put back."""
        try:
            yield
        finally:
            with contextlib.suppress(HanseError):
                self._post(Feed())
            for one in self._happenings:
                with contextlib.suppress(HanseError, OSError):
                    self._acts(one)[1]()


def kill_site(state: StateDir, site: str) -> None:
    """SIGKILL to all of a site, its supervisor first; nobody brings it back before `release`."""
    (state.site(site) / "hold").touch()
    pids = state.site(site) / "pid"
    group = state.pid_dir / f"site-{site}.pid"
    for path in (group, pids / "site.pid", *sorted(pids.glob("*.pid"))):
        _signal(path, signal.SIGKILL)


def release(state: StateDir, site: str) -> None:
    """It may come back."""
    (state.site(site) / "hold").unlink(missing_ok=True)


def _signal(path: Path, number: signal.Signals) -> None:
    pid = running_pid(path)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _ignore(_: object) -> None: ...
