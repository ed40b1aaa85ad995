"""`hanse site`: run one site by itself; `hanse site drain|resume|maintenance`: take one out of service and put it back.

Here: what is said and waited for. Not here: what a drained site does (`live.agent`, `dispatch`), asking the hub (`live.ask_change`).
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from cyclopts import App

from hanse.cli import run
from hanse.cli.change import WAIT_S, wait_in_force, who
from hanse.cli.league import hub_dir, read_view
from hanse.cli.options import Plain
from hanse.cli.output import note, say
from hanse.errors import ConfigError, SiteError
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

if TYPE_CHECKING:
    from hanse.live.league_file import Standing
    from hanse.live.runtime import Runtime
    from hanse.view import LeagueView

app = App(
    name="site",
    help="Run one site by itself (hanse site SITE), or take one out of service: drain, resume, maintenance.",
)
app.default(run.site)

EMPTY_S: Final = 600.0
"""Longer than any request may take at the usual deadlines."""
POLL_S: Final = 0.25
_UNITS: Final = {"s": 1.0, "m": 60.0, "h": SECONDS_PER_HOUR, "d": SECONDS_PER_DAY}


@app.command
def drain(
    site: str,
    /,
    *,
    for_: str = "",
    why: str = "",
    state: Path | None = None,
    force: bool = False,
    no_wait: Annotated[bool, Plain] = False,
) -> int:
    """Let a site take no new requests; what runs there ends as it would. Run it at the hub.

    Its gateway goes on as a way in. Refused where requests would be left without a lawful site. Holds over restarts until
    `hanse site resume`. Example: `hanse site drain lyon --why "new disks"`

    Parameters
    ----------
    site
        Id of the site.
    for_
        Resume by itself after so long: 90s, 30m, 2h, 1d.
    why
        For people.
    state
        State directory of the hub; default the only one below `.hanse`.
    force
        Also where some requests have no other lawful site.
    no_wait
        Return when every reachable site knows, without waiting for the site to be empty.
    """
    return _stand("drained", site, for_, why, state, force, no_wait)


@app.command
def maintenance(
    site: str,
    /,
    *,
    for_: str = "",
    why: str = "",
    state: Path | None = None,
    force: bool = False,
    no_wait: Annotated[bool, Plain] = False,
) -> int:
    """Drain a site for work on it: its silence is no alarm, and its gateway tells load balancers to go elsewhere. Run it at the hub.

    Example: `hanse site maintenance lyon --for 2h --why "new disks"`

    Parameters
    ----------
    site
        Id of the site.
    for_
        In service again, and its silence an alarm again, after so long: 90s, 30m, 2h, 1d.
    why
        For people.
    state
        State directory of the hub; default the only one below `.hanse`.
    force
        Also where some requests have no other lawful site.
    no_wait
        Return when every reachable site knows, without waiting for the site to be empty.
    """
    return _stand("maintenance", site, for_, why, state, force, no_wait)


@app.command
def resume(site: str, /, *, why: str = "", state: Path | None = None) -> int:
    """Put a drained site, or one in maintenance, back into service. Run it at the hub.

    Parameters
    ----------
    site
        Id of the site.
    why
        For people.
    state
        State directory of the hub; default the only one below `.hanse`.
    """
    from hanse.live.ask_change import History, ask_again, change_of_standing

    directory, _ = hub_dir(state)
    known = History(directory).newest()
    _known(site, [one.id for one in known.fleet().sites])
    if site not in known.standing:
        say(f"{site} is in service")
        return 0
    revision = ask_again(
        directory,
        lambda known: change_of_standing(
            known, site, None, who(), why or f"{site} resumed", force=True
        ),
    )
    return 1 if wait_in_force(directory.read_runtime(), revision, WAIT_S, end=say) else 0


def _stand(
    kind: str, site: str, for_: str, why: str, state: Path | None, force: bool, no_wait: bool
) -> int:
    from hanse.live.ask_change import History, ask_again, change_of_standing
    from hanse.live.league_file import Standing

    directory, _ = hub_dir(state)
    _known(site, [one.id for one in History(directory).newest().fleet().sites])
    runtime = directory.read_runtime()
    _say_room(runtime, site)
    now_s = time.time()
    until_s = now_s + _duration_s(for_) if for_ else None
    standing: Standing = Standing(
        state="maintenance" if kind == "maintenance" else "drained",
        since_s=now_s,
        until_s=until_s,
        by=who(),
        why=why,
    )
    revision = ask_again(
        directory,
        lambda known: change_of_standing(
            known, site, standing, who(), why or f"{site} {kind}", force=force
        ),
    )
    missing = wait_in_force(runtime, revision, WAIT_S)
    end = f", until {time.strftime('%H:%M:%S', time.localtime(until_s))}" if until_s else ""
    say(f"{site} takes nothing new ({kind}{end})")
    if not no_wait:
        _wait_empty(runtime, site)
    return 1 if missing else 0


def room_elsewhere(view: LeagueView, site: str) -> tuple[float, float] | None:
    """Requests that run or wait at a site now, and slots that others have free of what it serves; None: it is not heard.

    What a site is busy with is told of all its services together, so its free slots are counted for whichever of them may use them.
    """
    status = next((one.status for one in view.sites if one.id == site), None)
    if status is None:
        return None
    served = {placement.service for placement in status.serving}
    free = 0.0
    for one in view.sites:
        told = one.status
        if one.id == site or told is None or one.state == "silent" or one.standing is not None:
            continue
        slots = [(p.service in served, p.replicas * p.slots) for p in told.serving]
        idle = sum(count for _, count in slots) - told.running - told.waiting
        free += max(0.0, min(idle, sum(count for same, count in slots if same)))
    return status.running + status.waiting, free


def _say_room(runtime: Runtime, site: str) -> None:
    try:
        found = room_elsewhere(read_view(runtime), site)
    except SiteError:  # a controller that starts again takes the change all the same
        found = None
    if found is None:
        note(f"{site} is not heard: whether others have room for its requests is not known")
        return
    needed, free = found
    said = f"{site} runs {needed:.0f}; other sites have {free:.0f} free slots of what it serves"
    if needed > free:
        said += ": not enough, so some requests will wait or be refused"
    note(said)


def _wait_empty(runtime: Runtime, site: str) -> None:
    """Say how many requests still run there, until none does."""
    since_s, last = time.monotonic(), -1
    while time.monotonic() - since_s < EMPTY_S:
        view = read_view(runtime)
        one = next((s for s in view.sites if s.id == site), None)
        if one is None or one.status is None or one.state == "silent":
            note(f"{site} is not heard: whether anything runs there is not known")
            return
        left = round(one.status.running + one.status.waiting)
        if left == 0:
            passing = (
                f"; {one.status.entered} pass through its gateway" if one.status.entered else ""
            )
            say(f"{site} is empty after {time.monotonic() - since_s:.1f} s{passing}")
            return
        if left != last:
            note(f"{site}: {left} still run there")
            last = left
        time.sleep(POLL_S)
    note(f"{site} is not empty after {EMPTY_S:.0f} s")


def _known(site: str, sites: list[str]) -> None:
    if site not in sites:
        raise ConfigError("SITE", got=repr(site), allowed=f"one of {', '.join(sites)}")


def _duration_s(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None or float(found[1]) <= 0:
        raise ConfigError("--for", got=repr(text), allowed="a time such as 90s, 30m, 2h or 1d")
    return float(found[1]) * _UNITS[found[2]]
