"""What was recorded becomes a trace, in order, whatever happened to the recorder in between."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import FeedError
from hanse.signals.traces import Origin, open_trace
from hanse.signals.traces.recorder import RecordedRequest, TraceRecorder, recorded_trace
from signals.traces.made_traces import whole

SITE = Origin(id="tower-7", lat_deg=59.0, lon_deg=24.0, country="EE")
SAYS = {"name": "live", "source": "this test", "licence": "none"}
ROWS = st.lists(
    st.builds(
        RecordedRequest,
        at=st.integers(1_790_000_000_000, 1_790_000_900_000).map(lambda ms: ms / 1000),
        service=st.sampled_from(["chat", "embed"]),
        cls=st.sampled_from(["", "public"]),
        origin=st.sampled_from(["tower-7", "Lyon"]),
        tenant=st.sampled_from(["", "demo"]),
        tokens_in=st.integers(0, 9000),
        tokens_out=st.integers(0, 9000),
        session=st.sampled_from(["", "a", "b"]),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=effort(30))
@given(ROWS, st.integers(0, 40))
def test_all_rows_arrive_in_order_also_over_a_restart(
    tmp_path_factory: pytest.TempPathFactory, recorded: list[RecordedRequest], restart: int
) -> None:
    folder = tmp_path_factory.mktemp("log")
    for part in (recorded[:restart], recorded[restart:]):
        with TraceRecorder(folder / "log.jsonl") as recorder:
            for row in part:
                recorder.add(row)
    meta, broken = recorded_trace(
        folder / "log.jsonl", folder / "t.parquet", origins=[SITE], **SAYS
    )
    requests = whole(open_trace(folder / "t.parquet")).requests
    assert (meta.count, broken) == (len(recorded), 0)
    expected = sorted(recorded, key=lambda row: row.at)
    for got, row in zip(requests, expected, strict=True):
        assert meta.start_at_s + got["at_s"] == pytest.approx(row.at, abs=1e-6)
        names = (meta.services, meta.classes, tuple(o.id for o in meta.origins), meta.tenants)
        read = [n[i] if i >= 0 else "" for n, i in zip(names, got.tolist()[1:5], strict=True)]
        assert read == [row.service, row.cls, row.origin, row.tenant]
        assert (got["tokens_in"], got["tokens_out"]) == (row.tokens_in, row.tokens_out)
        assert (got["session"] == -1) == (row.session == "")
    sessions = {
        (row.session, int(got["session"])) for got, row in zip(requests, expected, strict=True)
    }
    assert len(sessions) == len({row.session for row in recorded})


def test_a_recorded_origin_lies_where_it_was_said_to(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path / "log.jsonl") as recorder:
        recorder.add(
            RecordedRequest(at=1.79e9, service="chat", origin="tower-7", tokens_in=1, tokens_out=2)
        )
    meta, _ = recorded_trace(tmp_path / "log.jsonl", tmp_path / "t", origins=[SITE], **SAYS)
    assert meta.origins == (SITE,)


def test_half_a_row_costs_that_row_only(tmp_path: Path) -> None:
    log, row = (
        tmp_path / "log.jsonl",
        RecordedRequest(at=1.79e9, service="chat", tokens_in=1, tokens_out=2),
    )
    with TraceRecorder(log) as recorder:
        recorder.add(row)
        recorder.add(row)
    log.write_bytes(log.read_bytes()[:-9])
    with TraceRecorder(log) as recorder:
        recorder.add(msgspec.structs.replace(row, at=1.79e9 + 5))
    meta, broken = recorded_trace(log, tmp_path / "t", **SAYS)
    assert (meta.count, broken) == (2, 1)
    assert whole(open_trace(tmp_path / "t")).requests["at_s"].tolist() == pytest.approx(
        [20.0, 25.0]
    )


def test_flushed_rows_can_be_read_while_recording_goes_on(tmp_path: Path) -> None:
    with TraceRecorder(tmp_path / "log.jsonl") as recorder:
        recorder.add(RecordedRequest(at=1.79e9, service="chat", tokens_in=1, tokens_out=2))
        recorder.flush(to_disk=True)
        with (tmp_path / "log.jsonl").open("ab") as file:
            file.write(b'{"at": 1.79')  # as a row looks that is being written
        meta, broken = recorded_trace(tmp_path / "log.jsonl", tmp_path / "t", **SAYS)
        assert (meta.count, broken) == (1, 0)


def test_nothing_recorded_is_said(tmp_path: Path) -> None:
    TraceRecorder(tmp_path / "log.jsonl").close()
    with pytest.raises(FeedError, match="no row"):
        recorded_trace(tmp_path / "log.jsonl", tmp_path / "t", **SAYS)
    with pytest.raises(FeedError, match="folder that can be written"):
        TraceRecorder(tmp_path / "no" / "log.jsonl")
