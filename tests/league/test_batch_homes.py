"""Batches of two homes: the home is lost, or only thought to be; mock engines, real gateways, buses, links and a hub."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from hanse.view import link_id
from league.harness import League, running, wait_until
from league.mock_fleet import MockFleet
from league.small_fleet import SITES, fleet_text
from league.test_batch import begin, client, ended, jsonl, lines_of, row

TWO = "[batch]\nhome_copies = 2\n"
LINES = 4000


@pytest.fixture(scope="module")
def kept() -> Iterator[League]:
    with MockFleet(SITES) as engines:
        text = fleet_text(external=engines.urls, slots=4)
        head, mark, rest = text.partition("[policy]")
        with running(head + TWO + mark + rest) as league:
            yield league


@pytest.fixture
def league(kept: League) -> League:
    kept.heal_all()
    kept.wait_until_whole()
    return kept


def seen(league: League, site: str, batch_id: str) -> dict[str, Any]:
    """The batch as one gateway tells of it; empty while it does not."""
    answer = league.get(site, f"/v1/batches/{batch_id}", key="demo")
    return dict(answer.json) if answer.status == 200 else {}


def under_way(league: League, lines: int) -> str:
    """A batch at frankfurt with a copy at lyon, some of it committed, most of it not."""
    with client(league) as ask:
        batch = begin(ask, jsonl([row(n) for n in range(lines)]))

    def ready() -> bool:
        shown = seen(league, "frankfurt", batch.id)
        done = shown.get("request_counts", {}).get("completed", 0)
        return "hanse:standby" in shown.get("metadata", {}) and done > 100

    wait_until(ready, "the batch has a copy and some commits")
    return str(batch.id)


def check_whole(league: League, batch: Any, lines: int) -> None:
    assert (batch.status, batch.request_counts.completed) == ("completed", lines)
    with client(league, "london") as ask:
        rows = lines_of(ask, batch.output_file_id)
    assert [one["custom_id"] for one in rows] == [f"line-{n}" for n in range(lines)]
    assert len({one["response"]["request_id"] for one in rows}) == lines


@pytest.mark.long
def test_a_home_that_is_lost_is_replaced(league: League) -> None:
    batch_id = under_way(league, LINES)
    league.kill_site("frankfurt")
    with client(league, "london") as ask:
        for site in ("london", "lyon"):
            status = seen(league, site, batch_id).get("status")
            assert status == "in_progress", f"the copy is shown meanwhile at {site}"
        with pytest.raises(openai.APIStatusError):
            ask.batches.cancel(batch_id)
        wait_until(
            lambda: (
                seen(league, "london", batch_id).get("metadata", {}).get("hanse:home") == "lyon"
            ),
            "lyon takes over",
            40,
        )
        done = ended(ask, batch_id, 120)
    check_whole(league, done, LINES)
    assert done.output_file_id.startswith("file-lyon-")
    league.release("frankfurt")
    wait_until(lambda: seen(league, "frankfurt", batch_id), "frankfurt is back", 90)
    wait_until(
        lambda: seen(league, "frankfurt", batch_id)["metadata"]["hanse:home"] == "lyon",
        "the old home knows of the new",
        60,
    )
    with client(league) as ask:
        assert len(lines_of(ask, done.output_file_id)) == LINES


@pytest.mark.long
def test_of_two_homes_that_cannot_hear_each_other_one_ends_the_batch(league: League) -> None:
    batch_id = under_way(league, LINES)
    league.links.cut(link_id("frankfurt", "lyon"))
    with client(league, "london") as ask:
        done = ended(ask, batch_id, 120)
    check_whole(league, done, LINES)
    homes = {site: seen(league, site, batch_id) for site in ("frankfurt", "london")}
    assert homes["frankfurt"]["output_file_id"] == homes["london"]["output_file_id"]
    league.heal_all()


@pytest.mark.long
def test_a_batch_ends_at_its_home_and_its_output_outlives_it(league: League) -> None:
    with client(league) as ask:
        batch_id = under_way(league, 1500)
        done = ended(ask, batch_id)
    check_whole(league, done, 1500)
    assert done.metadata["hanse:standby"] == "lyon"
    copied = league.state.site("lyon") / "batch" / "files" / f"{done.output_file_id}.json"
    wait_until(copied.exists, "the output is copied", 20)
    league.kill_site("frankfurt")
    try:
        with client(league, "london") as ask:
            assert len(lines_of(ask, done.output_file_id)) == 1500
            assert ask.batches.retrieve(batch_id).status == "completed"
    finally:
        league.release("frankfurt")
