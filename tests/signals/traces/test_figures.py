"""Figures of a trace are those of its requests, whatever the chunks; distinct numbers are counted or well estimated."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.signals.traces import Trace, figures, shipped_trace
from hanse.signals.traces.figures import _Distinct, figures_of
from signals.traces.made_traces import META, TRACES, made, whole


@settings(max_examples=effort(20))
@given(TRACES, st.integers(1, 250))
def test_figures_do_not_depend_on_chunks(trace: Trace, size: int) -> None:
    assert figures_of(trace, trace.chunks(size)) == figures_of(trace)


@settings(max_examples=effort(30))
@given(TRACES)
def test_counts_tokens_and_groups_are_those_of_the_requests(trace: Trace) -> None:
    requests, found = whole(trace).requests, figures_of(trace)
    assert found.requests == len(requests)
    assert found.requests_per_s == len(requests) / 1000.0
    for groups in (found.services, found.classes, found.origins, found.tenants):
        assert sum(group.requests for group in groups) == len(requests)
    if len(requests):
        tokens = np.sort(requests["tokens_in"])
        assert found.tokens_in.mean == pytest.approx(tokens.mean())
        assert found.tokens_in.max == tokens[-1]
        assert found.tokens_in.p50 == np.percentile(tokens, 50, method="inverted_cdf")
        assert found.tokens_in.p99 == np.percentile(tokens, 99, method="inverted_cdf")
        embed = requests[requests["service"] == 1]
        assert found.services[-1].requests == len(embed)
        if len(embed):
            assert found.services[-1].tokens_out_mean == pytest.approx(embed["tokens_out"].mean())
        counts = np.bincount((requests["at_s"] / found.bin_s).astype(int))
        assert found.peak_over_mean == pytest.approx(
            counts.max() / (len(requests) * found.bin_s / 1000.0)
        )


def test_reuse_is_the_share_of_blocks_seen_before() -> None:
    trace = made(500)
    blocks = whole(trace).blocks
    found = figures_of(trace).prefixes
    assert found is not None and found.exact
    assert (found.blocks, found.distinct) == (len(blocks), len(np.unique(blocks)))
    assert found.reused_share == pytest.approx(1 - found.distinct / found.blocks)
    plain = Trace.of(META, whole(made(0)).requests)
    assert figures_of(plain).prefixes is None


def test_a_name_that_nobody_used_is_shown_with_nothing() -> None:
    trace = made(10)
    more = Trace(msgspec.structs.replace(META, classes=("public", "health", "state")), trace.chunks)
    assert [(g.name, g.requests) for g in figures_of(more).classes][-1] == ("state", 0)


def test_many_distinct_numbers_are_estimated_with_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(figures, "DISTINCT_KEPT", 4096)
    counter = _Distinct()
    for begin in range(0, 300_000, 10_000):
        counter.add(np.arange(begin // 2, begin // 2 + 10_000))
    assert not counter.exact
    # 155,000 different numbers; four standard errors of 1.2 / sqrt(2048 kept) are 10.6 %.
    assert counter.count == pytest.approx(155_000, rel=0.106)
    assert len(counter._kept) <= 4096


def test_the_shipped_day_has_its_crowd_and_its_conversations() -> None:
    found = figures_of(shipped_trace())
    assert found.peak_over_mean > 2.0
    assert found.turns_mean == pytest.approx(3.0, abs=0.3)
    assert found.prefixes is not None and 0.5 < found.prefixes.reused_share < 0.9
