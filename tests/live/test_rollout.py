"""A rollout over sites on other machines, whose clocks are their own."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from hanse.live.rollout import Hands, Plan, Stopped, roll_out
from hanse.live.runtime import Runtime, StateDir
from hanse.view import LeagueView, StandingView
from views import site, status, view

SLOW_S = 86_400.0
"""How far a machine's clock is behind the hub's, or before it."""


class Far:
    """Sites elsewhere; each restarts where `command` has left a file named after it."""

    def __init__(self, home: Path, sites: Sequence[str], *, behind_s: float = 0.0) -> None:
        self.home, self.sites, self.behind_s = home, sites, behind_s
        self.began_s = time.time() - behind_s
        self.drained: set[str] = set()
        self.done: list[str] = []
        self.state = StateDir(home)
        self.state.write_runtime(Runtime(fleet="f", sites={}))
        touch = "import pathlib, sys; pathlib.Path(sys.argv[1]).touch()"
        self.command = f"{sys.executable} -c {shlex.quote(touch)} {home}/{{site}}"

    def view(self) -> LeagueView:
        shown = []
        for name in self.sites:
            file = self.home / name
            started_s = file.stat().st_mtime - self.behind_s if file.exists() else self.began_s
            out = StandingView(state="drained", since_s=0.0) if name in self.drained else None
            said = status(name, started_at_s=started_s)
            shown.append(site(name, said, fleet_in_force=True, standing=out))
        return view(*shown)

    def roll_out(self, command: str, groups: tuple[tuple[str, ...], ...]) -> None:
        plan = Plan(groups=groups, run=command, probe_s_max=2.0, soak_s=0.1)
        hands = Hands(view=self.view, drain=self.drained.add, resume=self.drained.remove)
        roll_out(plan, self.state, hands, self.done.append)


@pytest.mark.parametrize("behind_s", [0.0, SLOW_S, -SLOW_S])
def test_sites_elsewhere_are_restarted_one_by_one_whatever_their_clocks_say(
    tmp_path: Path, behind_s: float
) -> None:
    far = Far(tmp_path, ("a", "b", "c"), behind_s=behind_s)
    far.roll_out(far.command, (("a",), ("b", "c")))
    print("\n".join(far.done))
    assert [x.partition(":")[0] for x in far.done if x.endswith("in service")] == ["a", "b", "c"]
    assert not far.drained


@pytest.mark.parametrize("behind_s", [0.0, -SLOW_S])
def test_a_process_that_did_not_end_is_no_new_one(tmp_path: Path, behind_s: float) -> None:
    far = Far(tmp_path, ("a", "b"), behind_s=behind_s)
    with pytest.raises(Stopped, match="the old process still reports"):
        far.roll_out(f"{sys.executable} -c pass", (("a",), ("b",)))
    assert far.drained == {"a"}


def test_a_command_that_fails_stops_the_rollout_and_leaves_the_site_out(tmp_path: Path) -> None:
    far = Far(tmp_path, ("a", "b"))
    with pytest.raises(Stopped, match="ended with 3"):
        far.roll_out(f"{sys.executable} -c 'raise SystemExit(3)'", (("a", "b"),))
    assert far.drained == {"a"}
