"""A trace and measured steps, of logs whose truth is known."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.dispatch.journal import Ended, JournalHead, Recorder, head_bytes, table_digest
from hanse.dispatch.prefix import Prefixes, prefixes_of
from hanse.dispatch.table import Table
from hanse.errors import ConfigError
from hanse.model.fleet import Fleet
from hanse.model.read import parse_fleet
from hanse.signals.traces import open_trace, write_trace
from hanse.twin.calibrate import COUNT_MIN, calibrated, observations, write_steps
from hanse.twin.recorded import BLOCK_TOKENS, recorded_trace
from live.gateway.rig import fleet_toml, table_bytes

AT_S = 4_000_000_000.25
SITES = ("lyon", "tallinn", "virginia")
TOML = fleet_toml(SITES, 2)
RAW = table_bytes(TOML, at_s=AT_S)
TABLE = Table.from_bytes(RAW)
FLEET = parse_fleet(TOML.encode(), source="test")
SEATS = (("chat", "q4"), ("chat", "q4"), ("embed", "mini"))


@dataclass
class Log:
    """A log that a worker might have written."""

    home: Path
    site: str = "lyon"
    boot: str = "b"
    raw: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        head = JournalHead(
            site=self.site, worker=0, workers=1, boot=self.boot, software="test", opened_at_s=AT_S, offers_max=64,
            engines=SEATS, engines_max=8, prefix_slots=64,
        )  # fmt: skip
        self.raw += head_bytes(head)
        self.recorder = Recorder(self.raw.extend)
        self.recorder.table(table_digest(RAW), AT_S, fresh=True)
        self._number = 0

    def ended(self, at_s: float, prefixes: Prefixes | None = None, **more: object) -> None:
        if prefixes is not None:
            self.recorder.look_up(prefixes, at_s, np.full((4, 2), -1, np.int64))
        self._number += 1
        known: dict[str, object] = {
            "request_id": self._number.to_bytes(16, "big"),
            "service": 0,
            "offer": 0,
            "tenant": "clinic",
            "data_class": "health",
            "country": "FR",
            "outcome": "answered",
            "engine": 0,
            "started_at_s": at_s,
            "began_at_s": at_s,
            "first_byte_at_s": 0.0,
            "ended_at_s": at_s + 1.0,
            "digest": 0 if prefixes is None else int(prefixes.digests[-1]),
            "tokens_in": 100,
            "tokens_out": 10,
            "cached": 0,
            "attempts": 1,
            "status": 200,
            "serving": False,
        }
        self.recorder.ended(Ended(**(known | more)))  # type: ignore[arg-type]

    def write(self) -> None:
        self.recorder.flush()
        (self.home / f"{self.site}-{self.boot}.jnl").write_bytes(self.raw)
        (self.home / f"{table_digest(RAW).hex()}.tbl").write_bytes(RAW)


def prompt(*turns: str) -> Prefixes:
    return prefixes_of([("", turn.encode() * 100) for turn in turns], b"secret", b"chat")


def test_a_trace_has_what_was_asked_and_nothing_twice(tmp_path: Path) -> None:
    lyon, tallinn = Log(tmp_path), Log(tmp_path, "tallinn", "t")
    lyon.ended(AT_S + 5.0, tokens_in=70, tokens_out=7)
    lyon.ended(AT_S + 1.0, tokens_in=50, tokens_out=5, country="EE", tenant="clinic")
    tallinn.ended(AT_S + 5.0, serving=True)  # the same request at the site that served it
    tallinn.ended(
        AT_S + 3.0, tokens_in=60, outcome="failed", status=503, tokens_out=0, data_class="public"
    )
    for log in (lyon, tallinn):
        log.write()
    trace, made = recorded_trace(tmp_path)
    meta = write_trace(tmp_path / "t.parquet", trace.meta, trace.chunks())
    trace = open_trace(tmp_path / "t.parquet")
    (chunk,) = list(trace.chunks())
    r = chunk.requests
    assert r["at_s"].tolist() == [0.25, 2.25, 4.25] and meta.start_at_s == AT_S + 0.75
    assert r["tokens_in"].tolist() == [50, 60, 70]
    assert r["tokens_out"].tolist() == [5, 6, 7], "the unanswered one: the median of its service"
    origins = [(meta.origins[o].id, meta.origins[o].country) for o in r["origin"]]
    assert origins == [("lyon/EE", "EE"), ("tallinn/FR", "FR"), ("lyon", "FR")]
    assert [meta.classes[c] for c in r["cls"]] == ["health", "public", "health"]
    assert [meta.services[s] for s in r["service"]] == ["chat"] * 3
    assert made.requests == 3 and made.unanswered == 1 and made.sites == ("lyon", "tallinn")
    assert r["session"].tolist() == [-1] * 3 and meta.block_tokens == 0


def test_conversations_are_found_and_share_their_blocks(tmp_path: Path) -> None:
    log = Log(tmp_path)
    talk = [
        prompt("system", "one"),
        prompt("system", "one", "two"),
        prompt("system", "one", "two", "three"),
    ]
    other = prompt("system", "uno")
    for i, asked in enumerate([talk[0], other, talk[1], talk[2]]):
        log.ended(AT_S + i, asked, tokens_in=int(asked.tokens[-1]))
    log.write()
    trace, made = recorded_trace(tmp_path)
    (chunk,) = list(trace.chunks())
    sessions = chunk.requests["session"].tolist()
    assert sessions[0] == sessions[2] == sessions[3] != sessions[1]
    assert made.conversations == 2 and made.with_blocks == 4
    ids = [
        chunk.blocks[row["block_at"] : row["block_at"] + row["block_count"]].tolist()
        for row in chunk.requests
    ]
    system, one = 600 // 4, 900 // 4
    assert len(ids[0]) == one // BLOCK_TOKENS
    assert ids[2][: len(ids[0])] == ids[0] and ids[3][: len(ids[2])] == ids[2]
    assert ids[1][: system // BLOCK_TOKENS] == ids[0][: system // BLOCK_TOKENS]
    assert not set(ids[1][system // BLOCK_TOKENS :]) & set(ids[0])


@settings(deadline=None, max_examples=effort(50))
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6), min_size=1, max_size=12))
def test_blocks_are_equal_exactly_as_far_as_prompts_are(
    tmp_path_factory: pytest.TempPathFactory, prompts: list[list[str]]
) -> None:
    home = tmp_path_factory.mktemp("log")
    log = Log(home)
    for i, turns in enumerate(prompts):
        asked = prompt(*turns)
        log.ended(AT_S + i, asked, tokens_in=int(asked.tokens[-1]))
    log.write()
    (chunk,) = list(recorded_trace(home)[0].chunks())
    ids = [
        chunk.blocks[row["block_at"] : row["block_at"] + row["block_count"]].tolist()
        for row in chunk.requests
    ]
    for a, first in zip(prompts, ids, strict=True):
        for b, second in zip(prompts, ids, strict=True):
            common = next(
                (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y),
                min(len(a), len(b)),
            )
            shared = next(
                (i for i, (x, y) in enumerate(zip(first, second, strict=False)) if x != y),
                min(len(first), len(second)),
            )
            assert (
                shared
                == min(common * 100 // 4, len(first) * BLOCK_TOKENS, len(second) * BLOCK_TOKENS)
                // BLOCK_TOKENS
            )


def test_no_log_and_no_request_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no \*\.jnl"):
        recorded_trace(tmp_path)
    Log(tmp_path).write()
    with pytest.raises(ConfigError, match="without a request"):
        recorded_trace(tmp_path)


# --- calibration


FIXED_MS = 25.0
"""Of a time to first token, whatever the prompt; not what the fleet's table declares."""


def engine_log(home: Path, *, seed: int, slow_share: float = 0.0) -> None:
    """An engine of eight slots: 0.5 ms a prompt token and 10 + 2 batch ms an answer token; some answers ten times slower."""
    log, dice, at_s = Log(home), random.Random(seed), AT_S
    for _ in range(30):
        for batch in (1, 2, 4, 8):
            tokens_in = dice.choice((128, 256)) if batch == 1 else 256
            tokens_out = 100
            factor = 10.0 if dice.random() < slow_share else 1.0
            first_s = at_s + (FIXED_MS + 0.5 * tokens_in) / 1000.0
            tpot_s = factor * (10.0 + 2.0 * batch) / 1000.0
            for _ in range(batch):
                log.ended(
                    at_s, first_byte_at_s=first_s, ended_at_s=first_s + tpot_s * (tokens_out - 1),
                    tokens_in=tokens_in, tokens_out=tokens_out,
                )  # fmt: skip
            at_s += 60.0
    log.write()


@pytest.mark.parametrize("slow_share", [0.0, 0.2])
def test_calibration_finds_the_engine_that_made_the_log(tmp_path: Path, slow_share: float) -> None:
    engine_log(tmp_path, seed=3, slow_share=slow_share)
    found = calibrated(observations(tmp_path, FLEET))
    assert found.answers == 30 * 15 and found.left_out == 0
    assert {(s.model, s.accelerator, s.count, s.precision) for s in found.steps} == {
        ("SmolLM2-135M", "x86-thread", 1, "q4_1")
    }
    assert sorted({s.batch for s in found.steps}) == pytest.approx([1, 2, 4, 8], abs=0.01)
    for step in found.steps:
        assert step.tpot_ms == pytest.approx(10.0 + 2.0 * step.batch, rel=0.01)
        # The rest of the fixed time is the step that a lone answer's token takes beside its prompt-like part: 12 - 0.5 ms.
        assert step.ttft_ms_fixed == pytest.approx(FIXED_MS - 11.5, abs=0.01)
        alone_ms = step.prefill_ms / step.batch + step.ttft_ms_fixed
        assert alone_ms == pytest.approx(FIXED_MS + 0.5 * step.input_tokens, rel=0.02)
        assert step.answers >= COUNT_MIN


def test_calibration_says_when_there_is_not_enough(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.ended(AT_S, first_byte_at_s=AT_S + 0.5)
    log.write()
    with pytest.raises(ConfigError, match="streamed answers"):
        calibrated(observations(tmp_path, FLEET))


def test_plain_and_failed_answers_say_nothing_of_steps(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.ended(AT_S)
    log.ended(AT_S + 9, first_byte_at_s=AT_S + 9.5, outcome="broken")
    log.ended(AT_S + 20, first_byte_at_s=AT_S + 20.5, engine=2, service=1)
    log.ended(AT_S + 30, first_byte_at_s=AT_S + 30.5, cached=60)
    log.write()
    (only,) = observations(tmp_path, FLEET)
    assert only.prompt_tokens == 40, "what the engine had was not read again"
    assert only.first_ms == pytest.approx(500.0) and only.decode_ms == pytest.approx(500.0)
    assert only.tokens == 9


def test_reading_anothers_prompt_is_not_time_of_a_token(tmp_path: Path) -> None:
    """Prompts at 2 ms a token; answers of 50 tokens at 10 ms wait while a second request's prompt is read, with one token in that step.

    What comes before a prompt's step is 20 ms less the 8 that a step takes beside it.
    """
    log, dice, at_s = Log(tmp_path), random.Random(5), AT_S
    for _ in range(12):
        tokens_in = dice.choice((50, 100, 200))
        first_s = at_s + 0.002 * tokens_in + 0.020
        log.ended(
            at_s, first_byte_at_s=first_s, ended_at_s=first_s + 0.49, tokens_in=tokens_in, tokens_out=50
        )  # fmt: skip
        at_s += 60.0
        first_s, other_s = at_s + 0.220, at_s + 0.320
        log.ended(
            at_s, first_byte_at_s=first_s, ended_at_s=first_s + 0.688, tokens_in=100, tokens_out=50
        )
        log.ended(
            other_s,
            first_byte_at_s=other_s + 0.22,
            ended_at_s=other_s + 0.23,
            tokens_in=100,
            tokens_out=2,
        )
        at_s += 60.0
    log.write()
    found = calibrated(observations(tmp_path, FLEET))
    assert {round(step.tpot_ms, 2) for step in found.steps} == {10.0}


def test_answers_that_were_among_one_and_among_two_tell_of_both(tmp_path: Path) -> None:
    """10 ms a token alone, 26 for two at once; the second comes some tokens later, and its prompt is read in one step."""
    log, dice, at_s = Log(tmp_path), random.Random(9), AT_S
    for _ in range(30):
        tokens_in = dice.choice((50, 100, 200))
        first_s = at_s + 0.002 * tokens_in + 0.020
        alone, both, after = dice.randint(2, 8), dice.randint(20, 30), dice.randint(2, 8)
        second_s = first_s + 0.010 * alone + 0.208  # where its first byte comes
        over_s = second_s + 0.026 * both
        log.ended(
            at_s, first_byte_at_s=first_s, ended_at_s=over_s + 0.010 * after, tokens_in=tokens_in,
            tokens_out=1 + alone + 1 + both + after,
        )  # fmt: skip
        log.ended(
            second_s - 0.220, first_byte_at_s=second_s, ended_at_s=over_s, tokens_in=100, tokens_out=1 + both
        )  # fmt: skip
        at_s += 60.0
        first_s = at_s + 0.002 * tokens_in + 0.020
        log.ended(at_s, first_byte_at_s=first_s, ended_at_s=first_s + 0.49, tokens_in=tokens_in, tokens_out=50)  # fmt: skip
        at_s += 60.0
    log.write()
    found = calibrated(observations(tmp_path, FLEET))
    assert {(step.batch, round(step.tpot_ms, 1)) for step in found.steps} == {
        (1.0, 10.0),
        (2.0, 26.0),
    }


def test_prompts_that_are_too_alike_leave_the_fixed_time_as_declared(tmp_path: Path) -> None:
    log, at_s = Log(tmp_path), AT_S
    for tokens_in in (60, 64, 68) * 5:
        first_s = at_s + 0.010 * tokens_in
        log.ended(at_s, first_byte_at_s=first_s, ended_at_s=first_s + 1.0, tokens_in=tokens_in)
        at_s += 60.0
    log.write()
    (step,) = calibrated(observations(tmp_path, FLEET)).steps
    declared_ms = float(TABLE.offers[TABLE.offer_index["lyon/chat/q4"]]["ttft_ms_fixed"])
    assert step.ttft_ms_fixed == pytest.approx(declared_ms, abs=0.001)
    assert step.prefill_ms > 0.0 and step.prompts == 15


def test_the_table_is_what_predictions_read(tmp_path: Path) -> None:
    if importlib.util.find_spec("hanse.serving.measured") is None:
        pytest.skip("hanse.serving.measured is not part of this tree")
    from hanse.serving.measured import read_table

    engine_log(tmp_path, seed=4)
    steps = calibrated(observations(tmp_path, FLEET)).steps
    write_steps(tmp_path / "steps.csv", steps)
    rows = read_table(tmp_path / "steps.csv").rows
    assert [(r.batch, r.tpot_ms) for r in rows] == [(s.batch, s.tpot_ms) for s in steps]
    assert {r.ttft_ms_fixed for r in rows} == {s.ttft_ms_fixed for s in steps}
    assert isinstance(FLEET, Fleet)
