"""The hub is lost: its bus, its controller, its links. Sites route on with the table they have."""

from __future__ import annotations

import os
import signal

import pytest

from hanse.view import link_id
from league.harness import League, wait_until


def test_requests_go_on_without_hub_and_controller_which_return_under_a_higher_epoch(
    league: League,
) -> None:
    sites = list(league.runtime.sites)
    before = {site: league.table(site) for site in sites}
    keeper = league.hub().freeze()  # else it would start both again at once
    try:
        for part in ("controller", "nats"):
            league.hub(part).kill()
        during = [league.ask_later(site, f"Say {i}.") for i in range(3) for site in sites]
        assert [f.result(120).status for f in during] == [200] * len(during)
        assert {site: league.table(site) for site in sites} == before
    finally:
        os.kill(keeper, signal.SIGCONT)
    wait_until(lambda: league.hub("controller").pid, "the controller runs", 60)
    back_s = wait_until(
        lambda: all(_is_later(league.table(site), before[site]) for site in sites),
        "every site has a newer table of a higher epoch",
        90,
    )
    after = league.table("lyon")
    print(f"epoch and version {before['lyon']}, {back_s:.1f} s after the hub's return {after}")
    assert [league.ask(site).status for site in sites] == [200] * len(sites)


def _is_later(table: tuple[int, int], before: tuple[int, int]) -> bool:
    """Epoch and version both; the site writes one file after the other."""
    return table[0] > before[0] and table[1] > before[1]


def test_a_killed_hub_group_is_started_again(league: League) -> None:
    old = league.hub().kill()
    assert league.ask("london").status == 200
    back_s = league.hub().back(old, 60)
    parts_s = wait_until(lambda: league.hub("controller").pid and league.hub("nats").pid, "parts")
    print(f"hub group back after {back_s:.1f} s, its parts {parts_s:.1f} s later")
    league.wait_until_whole()


@pytest.mark.long
def test_a_site_that_starts_cut_off_from_the_hub_uses_its_newest_table(league: League) -> None:
    site = "london"
    before = league.table(site)
    league.links.cut(link_id(site, "hub"))
    try:
        league.kill_site(site)
        wait_until(lambda: league.get(site, "/readyz").status == 0, "it is gone", 10)
        league.release(site)
        ready_s = wait_until(lambda: league.get(site, "/readyz").status == 200, "it is ready", 90)
        assert league.table(site) == before
        wait_until(lambda: league.engine(site).pid, "its engine runs", 60)
        answers = [league.ask(site, f"Say {i}.") for i in range(3)]
        assert [a.status for a in answers] == [200] * 3
        print(f"ready {ready_s:.1f} s after release (15 s of them held off), table {before}")
    finally:
        league.links.heal(link_id(site, "hub"))
    league.wait_until_whole()


def test_an_agent_that_dies_leaves_its_engine_running_and_adopts_it(league: League) -> None:
    site = "virginia"
    engine = league.engine(site).pid
    old = league.agent(site).kill()
    assert [league.ask(site, f"Say {i}.").status for i in range(2)] == [200] * 2
    print(f"agent back after {league.agent(site).back(old, 30):.1f} s")
    league.wait_until_whole()
    assert league.engine(site).pid == engine
