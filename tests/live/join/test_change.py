"""A league of two machines changed by the command line: keys, a rollback, a drain, a site that is away meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from hanse.live.league_file import LEAGUE, read_league
from live.join.machines import Machine, address, machines, until
from live.join.test_join import founded, ready

pytestmark = [pytest.mark.timeout(300), pytest.mark.long]

MODEL = "tiny-135m-q4-1"


@pytest.fixture
def two(tmp_path: Path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    a, b = Machine(tmp_path / "a", "127.0.0.1"), Machine(tmp_path / "b", "127.0.0.2")
    with machines(a, b):
        founded(a)
        token = a.hanse("token", "lyon", "--state", "A").strip()
        url = b.server("tiny-135m-q4_1")
        come = ("--city", "Lyon", "--host", b.host, "--grid-kw", "2", "--url", url, "--state", "B")
        b.hanse("join", *come, stdin=token + "\n")
        ready(b, "B", "lyon")
        yield a, b


def test_two_machines_change_together_and_one_that_was_away_catches_up(
    two: tuple[Machine, Machine],
) -> None:
    a, b = two
    urls = [address(a.state("A"), "berlin").local_url, address(b.state("B"), "lyon").local_url]
    agent = (b.state("B").site("lyon") / "pid/agent.pid").read_text()
    own = (a.home / "A/keys/own.key").read_text().strip()

    # The operator's own first file no longer names everybody: lyon joined since.
    a.hanse("apply", "fleet.toml", "--yes", "--state", "A", code=2)
    assert "--without lyon" in a.said and "joined with a token" in a.said

    text = (a.home / "A/fleet.toml").read_text()
    key = '[[tenant.key]]\nid = "second"\ncountries = ["DE"]\n\n'
    before, mark, after = text.partition("[[placement]]")
    (a.home / "next.toml").write_text(before + key + mark + after)
    a.hanse("apply", "next.toml", "--yes", "--state", "A")
    print(a.said)
    assert "revision 3 is in force at 2 of 2 sites" in a.said
    second = (a.home / "A/keys/second.key").read_text().strip()
    for machine, url in zip((a, b), urls, strict=True):
        until(lambda m=machine, u=url: m.ask(u, second, MODEL)["status"] == 200, "it works", 3)

    a.hanse("rollback", "--yes", "--state", "A")
    for machine, url in zip((a, b), urls, strict=True):
        until(lambda m=machine, u=url: m.ask(u, second, MODEL)["status"] == 401, "no more", 3)

    # Drained, its machine goes down; what changes meanwhile waits for it, and it comes back drained.
    a.hanse("site", "maintenance", "lyon", "--why", "fans", "--state", "A")
    assert "lyon is empty" in a.said
    os.kill(int((b.state("B").site("lyon") / "pid/site.pid").read_text()), signal.SIGTERM)
    until(lambda: "silent" in shown(a), "the hub misses it", 20)
    assert "lyon: maintenance, silent" in shown(a)
    a.hanse("apply", "next.toml", "--yes", "--state", "A")
    print(a.said)
    assert "lyon is in maintenance: it takes revision" in a.said
    assert "is in force at 1 of 2 sites" in a.said
    b.start("site", *command("site", "lyon", "--state", "B"))
    league = b.state("B").site("lyon") / LEAGUE
    until(lambda: read_league(league).revision == 6, "it has caught up", 60)
    until(lambda: b.ask(urls[1], second, MODEL)["site"] == "berlin", "it is a way in alone", 30)
    a.hanse("site", "resume", "lyon", "--state", "A")
    a.started[0].terminate()  # berlin's engine: all that is left is lyon's
    until(lambda: a.ask(urls[0], own, MODEL)["site"] == "lyon", "it serves again", 30)
    assert (b.state("B").site("lyon") / "pid/agent.pid").read_text() != agent


def shown(a: Machine) -> str:
    a.hanse("status", "--once", "--state", "A")
    return a.said


def command(*arguments: str) -> list[str]:
    import sys

    from live.join.machines import HANSE

    return [sys.executable, "-c", HANSE, *arguments]
