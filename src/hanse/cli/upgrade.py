"""`hanse upgrade`: another version, group by group; the first site that does not come back stops it.

Here: what is asked and said. Not here: the order and the probes (`live.rollout`).
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.change import WAIT_S, wait_in_force, who
from hanse.cli.league import hub_dir, read_view
from hanse.cli.output import note, say

if TYPE_CHECKING:
    from hanse.live.rollout import Hands
    from hanse.live.runtime import StateDir


def upgrade(
    *,
    group: list[str],
    python: Path | None = None,
    run: str = "",
    state: Path | None = None,
    probe_s: float = 120.0,
    soak_s: float = 10.0,
    force: bool = False,
) -> int:
    """Restart sites with another installation, group by group; the hub comes first, by itself. Run it at the hub.

    Each site of a group is drained, restarted, must answer as before, and is put back; a group must stay well before the next. The
    first failure stops it: that site stays drained, exit code 1. Example:
    `hanse upgrade --python /opt/hanse-2/bin/python --group berlin --group lyon,paris`

    Parameters
    ----------
    group
        Sites that are restarted one after the other, by comma; may be given several times, in order.
    python
        Interpreter of the other installation, for sites on this machine.
    run
        Command that restarts a site elsewhere with its new version, `{site}` standing for its id.
    state
        State directory of the hub; default the only one below `.hanse`.
    probe_s
        How long a site may take to answer again.
    soak_s
        How long a group must stay well before the next begins.
    force
        Also where some requests have no other lawful site meanwhile.
    """
    from hanse.live.ask_change import History
    from hanse.live.rollout import Plan, Stopped, check_plan, roll_out

    directory, _ = hub_dir(state)
    plan = Plan(
        groups=tuple(tuple(site for site in one.split(",") if site) for one in group),
        python=str(python.absolute()) if python is not None else "",
        run=run,
        probe_s_max=probe_s,
        soak_s=soak_s,
    )
    sites = [site.id for site in History(directory).newest().fleet().sites]
    check_plan(plan, directory, sites)
    order = [site for one in plan.groups for site in one]
    try:
        roll_out(plan, directory, _hands(directory, force), note)
    except Stopped as error:
        after = order[order.index(error.site) + 1 :]
        say(f"stopped at {error}")
        if error.out:
            say(f"{error.site} stays out of service until `hanse site resume {error.site}`")
        say(f"not touched: {', '.join(after) or 'none is left'}")
        return 1
    say(f"done: {len(order)} sites")
    return 0


def _hands(directory: StateDir, force: bool) -> Hands:
    """The rollout's eyes and hands: the hub's picture, and the words that take a site out of service and put it back."""
    from hanse.live.ask_change import History, ask_again, change_of_standing
    from hanse.live.league_file import Standing
    from hanse.live.rollout import Hands

    runtime = directory.read_runtime()

    def quiet(_line: str) -> None:
        """The rollout says what it does itself."""

    def stand(site: str, out: bool) -> None:
        if (site in History(directory).newest().standing) == out:
            return
        standing = Standing(state="drained", since_s=time.time(), by=who(), why="upgrade")
        revision = ask_again(
            directory,
            lambda league: change_of_standing(
                league, site, standing if out else None, who(), f"upgrade of {site}", force=force
            ),
        )
        wait_in_force(runtime, revision, WAIT_S, tell=quiet, end=quiet)

    made: Hands = Hands(
        view=lambda: read_view(runtime),
        drain=lambda site: stand(site, True),
        resume=lambda site: stand(site, False),
    )
    return made
