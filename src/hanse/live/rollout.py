"""A staged rollout: group by group, each site is drained, restarted, probed and put back; the first failure stops it.

Here: the order and the probes, over what the hub sees of its sites. Not here: draining (`live.ask_change`), which installation a site
starts with (`live.interpreter`), what is said on screen (`cli.upgrade`).

A site that fails stays drained: it gets no requests until somebody has looked, and no site after it is touched.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Final

from hanse.errors import ConfigError, SiteError
from hanse.live import interpreter
from hanse.live.runtime import StateDir
from hanse.live.supervise import running_pid
from hanse.model.fleet import Value
from hanse.view import EngineStatus, LeagueView, SiteView

EMPTY_S_MAX: Final = 120.0
"""Twice the usual deadline of a request: what runs ends by itself."""
END_S_MAX: Final = 15.0
"""A group ends within 6.5 s (`live.site_keep`)."""
POLL_S: Final = 0.25

Say = Callable[[str], None]


class Plan(Value, frozen=True, kw_only=True):
    """What is wanted."""

    groups: tuple[tuple[str, ...], ...]
    python: str = ""
    """Interpreter of the other installation, for sites on this machine."""
    run: str = ""
    """Command that restarts a site elsewhere; `{site}` is its id."""
    probe_s_max: float = 120.0
    """A site without compiled kernels takes a minute to start."""
    soak_s: float = 10.0
    """How long a site must stay well, in service, before the next."""


class Stopped(Exception):
    """A site did not do its part; the rollout stops there. `out`: it is out of service, and stays so."""

    def __init__(self, site: str, why: str, *, out: bool = True) -> None:
        super().__init__(f"{site}: {why}")
        self.site, self.why, self.out = site, why, out


class Hands(Value, frozen=True, kw_only=True):
    """How a rollout sees and moves the league."""

    view: Callable[[], LeagueView]
    drain: Callable[[str], None]
    resume: Callable[[str], None]


def check_plan(plan: Plan, state: StateDir, sites: Sequence[str]) -> None:
    """Raise what is wrong with a plan before anything is touched.

    Raises:
        ConfigError: unknown or doubled sites, nothing that restarts one of them, or an installation that cannot run beside this one.
    """
    named = [site for group in plan.groups for site in group]
    unknown = [site for site in named if site not in sites]
    if unknown:
        raise ConfigError("--group", got=repr(unknown[0]), allowed=f"sites: {', '.join(sites)}")
    if len(set(named)) < len(named):
        raise ConfigError("--group", got="a site twice", allowed="each site once")
    here = set(state.read_runtime().sites)
    for site in named:
        if site not in here and not plan.run:
            raise ConfigError(
                "--run",
                got=f"nothing, and {site} is on another machine",
                allowed="a command that restarts it there",
                fix="e.g. --run 'ssh {site} systemctl restart hanse-site@{site}'",
            )
        if site in here and not plan.run and not plan.python:
            raise ConfigError("--python", got="nothing", allowed="an interpreter to restart with")
    if plan.python:
        interpreter.refuse_apart(plan.python)


def roll_out(plan: Plan, state: StateDir, hands: Hands, say: Say) -> None:
    """Carry a plan out.

    Raises:
        Stopped: a site failed; it stays drained.
    """
    for number, group in enumerate(plan.groups, 1):
        say(f"group {number} of {len(plan.groups)}: {', '.join(group)}")
        before = {site: _site(hands.view(), site) for site in group}
        for site in group:
            _one(plan, state, hands, before[site], say)
        _soak(plan, hands, group, say)


def _one(plan: Plan, state: StateDir, hands: Hands, before: SiteView, say: Say) -> None:
    site = before.id
    engines = _engines_well(before)
    try:
        hands.drain(site)
    except ConfigError as error:
        raise Stopped(site, str(error), out=False) from error
    _until(lambda: _empty(hands, site), EMPTY_S_MAX, site, "does not get empty")
    old_s, began_s = _started_s(_site(hands.view(), site)), time.monotonic()
    _restart(plan, state, site)
    _until(
        lambda: _well(hands, site, old_s, engines, drained=True),
        plan.probe_s_max,
        site,
        "does not answer as before",
    )
    now = _site(hands.view(), site)
    release = now.status.release if now.status is not None else ""
    say(f"{site}: back after {time.monotonic() - began_s:.0f} s, release {release}")
    hands.resume(site)
    _until(
        lambda: _well(hands, site, old_s, engines, drained=False),
        plan.probe_s_max,
        site,
        "is not in service again",
    )
    say(f"{site}: in service")


def _soak(plan: Plan, hands: Hands, group: Sequence[str], say: Say) -> None:
    started = {site: _started_s(_site(hands.view(), site)) for site in group}
    end_s = time.monotonic() + plan.soak_s
    while time.monotonic() < end_s:
        try:
            view = hands.view()
        except SiteError:  # the controller is away for a moment; sites go on
            time.sleep(POLL_S)
            continue
        for site in group:
            one = _site(view, site)
            if _started_s(one) != started[site]:
                raise _stop(hands, site, "its agent was started again by itself")
            if one.state == "silent" or any(e.state == "failing" for e in _engines(one)):
                raise _stop(hands, site, f"is {one.state}, or an engine of it fails")
        time.sleep(POLL_S)
    say(f"well for {plan.soak_s:.0f} s: {', '.join(group)}")


def _stop(hands: Hands, site: str, why: str) -> Stopped:
    hands.drain(site)
    return Stopped(site, why)


# --- looking


def _site(view: LeagueView, site: str) -> SiteView:
    found = next((one for one in view.sites if one.id == site), None)
    if found is None:
        raise Stopped(site, "is not in the fleet any more")
    return found


def _engines(site: SiteView) -> Sequence[EngineStatus]:
    return () if site.status is None else site.status.engines


def _engines_well(site: SiteView) -> int:
    return sum(engine.state in ("up", "draining", "resting") for engine in _engines(site))


def _started_s(site: SiteView) -> float:
    return 0.0 if site.status is None else site.status.started_at_s


def _empty(hands: Hands, site: str) -> str:
    one = _site(hands.view(), site)
    if one.state in ("silent", "never seen") or one.status is None:
        return ""  # nobody can be waited for
    left = round(one.status.running + one.status.waiting)
    return f"{left} requests run" if left else ""


def _well(hands: Hands, site: str, old_s: float, engines: int, *, drained: bool) -> str:
    """Why a site is not yet what it was; empty: it is, in another process than the one begun at `old_s` by the site's own clock."""
    one = _site(hands.view(), site)
    if one.not_understood:
        raise Stopped(site, one.not_understood)
    if one.state in ("silent", "never seen") or one.status is None:
        return "not heard"
    if one.status.started_at_s == old_s:
        return "the old process still reports"
    if one.status.gateway_workers < 1:
        return "no gateway worker"
    if not one.fleet_in_force:
        return "the fleet in force has not arrived"
    if (one.standing is not None) != drained:
        return "not in service" if one.standing is not None else "not drained"
    well = _engines_well(one)
    if drained:
        return "" if well >= engines else f"{well} of {engines} engines answer"
    up = sum(engine.state in ("up", "resting") for engine in _engines(one))
    return "" if up >= engines else f"{up} of {engines} engines are up"


def _until(flaw: Callable[[], str], within_s: float, site: str, what: str) -> None:
    end_s = time.monotonic() + within_s
    last = ""
    while time.monotonic() < end_s:
        try:
            last = flaw()
        except SiteError as error:
            last = str(error)
        if not last:
            return
        time.sleep(POLL_S)
    raise Stopped(site, f"{what} within {within_s:.0f} s: {last}")


# --- restarting


def _restart(plan: Plan, state: StateDir, site: str) -> None:
    here = site in state.read_runtime().sites
    home = state.site(site)
    if here and plan.python:
        interpreter.name(home, plan.python)
    if plan.run:
        command = [part.replace("{site}", site) for part in shlex.split(plan.run)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            raise Stopped(site, f"{command[0]} ended with {done.returncode}")
        return
    pid = running_pid(home / "pid" / "site.pid")
    if pid is None and not here:
        raise Stopped(site, "does not run on this machine")
    if pid is not None:
        os.kill(pid, signal.SIGTERM)
    end_s = time.monotonic() + END_S_MAX
    while pid is not None and running_pid(home / "pid" / "site.pid") == pid:
        if time.monotonic() > end_s:
            raise Stopped(site, f"process {pid} does not end")
        time.sleep(POLL_S)
    # `hanse up` starts whatever ended again by itself, also one that ended before.
    if running_pid(state.pid_dir / "up.pid") is None:
        _start_again(state, site)


def _start_again(state: StateDir, site: str) -> None:
    """Nobody keeps it: start it as `hanse join` does."""
    from hanse.live.join.start import start_site

    try:
        start_site(state, site, lambda _text: None)
    except SiteError as error:
        raise Stopped(site, str(error)) from error
