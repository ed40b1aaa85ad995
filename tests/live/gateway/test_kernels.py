"""Compiled arithmetic of requests: each kernel against the plain sentence it stands for."""

from __future__ import annotations

import asyncio
import re

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.load import OWN_DTYPE
from hanse.dispatch.table import ARRAYS
from hanse.live.evidence.chain import Ended, sized
from hanse.live.gateway import kernels, metrics, records
from hanse.live.gateway.direct import direct
from hanse.live.gateway.measured import Measured
from hanse.live.gateway.notes import METHODS, OUTCOMES, Notes
from hanse.live.gateway.sse import PromptDetails, Usage
from hanse.live.shared import SharedPage
from live.gateway.unwired import Unwired

figures = st.floats(0.0, 1e8)
fives = st.tuples(*[figures] * 5)
tokens = st.one_of(st.integers(0, 300), st.integers(65_000, 66_000), st.just(kernels.COUNT_MAX))


@pytest.fixture(scope="module")
def page():
    return SharedPage.private()


@pytest.fixture(scope="module")
def counts(page):
    return metrics.Counts(page, 0)


@pytest.fixture(scope="module")
def made(counts, page):
    return kernels.Kernels(counts, page)


def text(made, size: int) -> bytes:
    return made.view[:size].tobytes()


@given(predicted=fives, five=fives, into=tokens, out=tokens, method=st.integers(0, 3))
def test_lines_say_the_figures_to_hundredths_and_billionths(
    made, predicted, five, into, out, method
):
    size = made.predicted(predicted, made.buffer, 0)
    first = text(made, size).decode()
    size = made.measured(five, into, out, method, 2, made.buffer, size)
    second = text(made, size).decode().removeprefix(first)
    number = r"(\d+\.\d{2});e2e_ms=(\d+\.\d{2})"
    rest = r";wh=(\d+\.\d{9});g=(\d+\.\d{9});usd=(\d+\.\d{9})"
    shown = re.fullmatch(f"x-hanse-predicted: ttft_ms={number}{rest}\r\n", first)
    assert shown is not None
    check(shown.groups(), predicted)
    said = f"tokens_in={into};tokens_out={out}"
    pattern = f"x-hanse-measured: ttft_ms={number};{said}{rest};method={METHODS[method]};attempts=2"
    shown = re.fullmatch(pattern + "\r\n", second)
    assert shown is not None
    check(shown.groups(), five)


def check(shown: tuple[str, ...], five: tuple[float, ...]) -> None:
    for i, (one, other) in enumerate(zip(shown, five, strict=True)):
        step = 0.01 if i < 2 else 1e-9
        assert float(one) == pytest.approx(other, rel=1e-12, abs=0.51 * step)


@given(
    request_id=st.binary(min_size=16, max_size=16),
    at_s=st.floats(allow_nan=False),
    outcome=st.sampled_from(sorted(records.ENTRY_OUTCOME)),
    attempt=st.integers(0, 8),
    attempts=st.integers(0, 8),
    into=tokens,
    out=tokens,
    five=st.tuples(*[st.floats(allow_nan=False)] * 5),
    method=st.integers(0, 3),
)
def test_last_record_is_what_the_encoder_writes(
    made, request_id, at_s, outcome, attempt, attempts, into, out, five, method
):
    size = made.ended(
        records.ENDED, request_id, at_s, records.ENTRY_OUTCOME[outcome], attempt, attempts,
        into, out, five, records.METHOD[method], made.buffer,
    )  # fmt: skip
    record = Ended(
        request_id=request_id, at_s=at_s, role="entry", outcome=outcome, attempt=attempt, attempts=attempts,
        tokens_in=into, tokens_out=out, ttft_ms=five[0], e2e_ms=five[1], energy_wh=five[2], carbon_g=five[3],
        cost_usd=five[4], method=METHODS[method],
    )  # fmt: skip
    assert text(made, size) == sized(msgspec.msgpack.encode(record))


@given(
    request_id=st.binary(min_size=16, max_size=16),
    mark=st.binary(min_size=8, max_size=8),
    at_s=st.floats(1e9, 2e9),
    offer=st.integers(-1, 500),
    outcome=st.integers(0, len(OUTCOMES) - 1),
    method=st.integers(0, 3),
    into=tokens,
    predicted=fives,
    five=fives,
)
def test_note_reads_back_as_it_was_written(
    made, page, request_id, mark, at_s, offer, outcome, method, into, predicted, five
):
    page.notes[:] = bytes(len(page.notes))
    made.note(
        made.notes, request_id, mark, at_s, (offer, 3, outcome, method, into, 7), predicted, five
    )
    notes = Notes(page)
    note = notes.read(request_id, mark)
    assert note is not None
    assert (note.id, note.at_s, note.offer, note.attempts) == (request_id.hex(), at_s, offer, 3)
    assert (note.outcome, note.method) == (OUTCOMES[outcome], METHODS[method])
    assert (note.tokens_in, note.tokens_out) == (into, 7)
    assert tuple(msgspec.to_builtins(note.predicted).values()) == predicted
    assert tuple(msgspec.to_builtins(note.measured).values()) == five
    other = bytes(b ^ 1 for b in mark)
    assert notes.read(request_id, other) is None


def test_a_full_set_of_notes_loses_its_oldest(made, page):
    page.notes[:] = bytes(len(page.notes))
    zero = (0.0,) * 5
    ids = [bytes([i]) * 12 + b"\x05\x00\x00\x00" for i in range(9)]
    for i, request_id in enumerate(ids):
        made.note(made.notes, request_id, bytes(8), 100.0 + i, (0,) * 6, zero, zero)
    known = [Notes(page).known(request_id) for request_id in ids]
    assert known == [False] + [True] * 8


@given(
    status=st.sampled_from(metrics.CODES),
    result=st.integers(-1, 3),
    into=tokens,
    predicted=fives,
    five=fives,
    e2e_s=st.one_of(st.just(-1.0), st.sampled_from(metrics.SECONDS), st.floats(0.0, 100.0)),
    ttft_s=st.one_of(st.just(-1.0), st.floats(0.0, 100.0)),
)
def test_counters_grow_by_what_a_request_took(
    made, counts, status, result, into, predicted, five, e2e_s, ttft_s
):
    counts.array[:] = 0.0
    at = metrics.code_index(status)
    made.count(made.row, at, result, into, 4, predicted, five, e2e_s, ttft_s)
    want = np.zeros_like(counts.array)
    want[at] = 1.0
    for seen_s, first in ((e2e_s, metrics.E2E), (ttft_s, metrics.TTFT)):
        if seen_s >= 0.0:
            want[first + sum(bound < seen_s for bound in metrics.SECONDS)] += 1.0
            want[first + len(metrics.SECONDS) + 1] += seen_s
    want[[metrics.TOKENS_IN, metrics.TOKENS_OUT]] = into, 4
    want[[metrics.ENERGY_WH, metrics.CARBON_G, metrics.COST_USD]] = five[2:]
    if result >= 0:
        want[metrics.LEAGUE + result] += 1.0
    if result == 0:
        for view, values in (("league_measured", five), ("league_predicted", predicted)):
            want[metrics.COST[view] : metrics.COST[view] + 5] = values
    assert counts.array.tolist() == want.tolist()


@given(
    into=st.integers(0, 5000),
    cached=st.integers(0, 6000),
    out=st.integers(0, 5000),
    then=st.floats(0.0, 64.0),
    running=st.lists(st.integers(0, 40), min_size=2, max_size=2),
)
def test_modelled_energy_shares_a_step_among_the_batch(into, cached, out, then, running):
    arrays = {name: np.zeros((3,) * n, dtype) for name, (dtype, n) in ARRAYS.items()}
    offers, sites = arrays["offers"], arrays["sites"]
    executing = np.zeros((2, 3), OWN_DTYPE)
    executing["requests"][:, 1] = running
    offers[2]["site"] = 1
    offers[2]["slots"], offers[2]["prefill_wh_per_token"] = 8.0, 0.5
    offers[2]["decode_wh_shared"], offers[2]["decode_wh_per_token"] = 3.0, 0.25
    sites[1]["pue"] = 1.5
    kernel = direct(kernels.local_wh, offers, sites, executing, 0, 0, 0, 0, 0, 1.0)
    batch = max(1.0, min(8.0, (max(1.0, then) + sum(running)) / 2.0))
    want = ((3.0 / batch + 0.25) * out + 0.5 * max(0, into - cached)) * 1.5
    assert kernel(offers, sites, executing, 1, 2, into, cached, out, then) == pytest.approx(want)


@pytest.mark.parametrize("claim", [-1, kernels.COUNT_MAX + 1, 2**62])
def test_an_engine_that_claims_impossible_tokens_is_not_believed(claim):
    for usage in (Usage(prompt_tokens=claim), Usage(completion_tokens=claim)):
        measured = Measured.of(usage, 11, 5)
        assert (measured.tokens_in, measured.tokens_out) == (11, 5)
    details = PromptDetails(cached_tokens=claim)
    usage = Usage(prompt_tokens=3, completion_tokens=2, prompt_tokens_details=details)
    assert Measured.of(usage, 11, 5).cached == (0 if claim < 0 else 3)


@pytest.mark.parametrize(("told", "cached"), [(None, 0), (0, 0), (2, 2)])
def test_an_engines_usage_is_taken_over(told, cached):
    details = PromptDetails(cached_tokens=told)
    usage = Usage(prompt_tokens=3, completion_tokens=2, prompt_tokens_details=details)
    measured = Measured.of(usage, 11, 5)
    assert (measured.tokens_in, measured.tokens_out, measured.cached) == (3, 2, cached)
    assert Measured.of(None, 11, 5).tokens_in == 11


def test_after_warming_no_worker_compiles_these_kernels(tmp_path):
    every = [one for one in vars(kernels).values() if hasattr(one, "signatures")]
    kernels.warm()
    before = [list(one.signatures) for one in every]
    loop = asyncio.new_event_loop()
    Unwired(tmp_path / "home", loop).close()
    loop.close()
    assert [list(one.signatures) for one in every] == before
    assert kernels.end_plain.signatures
