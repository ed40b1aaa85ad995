"""A trace is what was put in, whatever the chunks; a file says what it is or says why not."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import FeedError
from hanse.signals.traces import REQUEST_DTYPE, Trace, open_trace, write_trace
from hanse.signals.traces import parquet as parquet_format
from hanse.signals.traces.trace import checked, cut, empty_requests, is_packed, join, resized, take
from signals.traces.made_traces import META, TRACES, lists, made, same, whole


@given(TRACES, st.integers(1, 250), st.lists(st.integers(1, 60)))
def test_chunks_have_the_asked_size_and_lose_nothing(
    trace: Trace, size: int, pieces: list[int]
) -> None:
    before = whole(trace)
    ends = np.minimum(np.cumsum([0, *pieces]), len(before.requests)).tolist()
    parts = [
        cut(before, a, b) for a, b in zip([*ends], [*ends[1:], len(before.requests)], strict=True)
    ]
    chunks = list(resized(parts, size))
    assert all(len(chunk.requests) == size for chunk in chunks[:-1])
    assert all(0 < len(chunk.requests) <= size for chunk in chunks)
    assert all(is_packed(chunk) for chunk in chunks)
    assert same(join(chunks), before)


@given(TRACES, st.randoms(use_true_random=False))
def test_taken_requests_keep_their_own_blocks(trace: Trace, random: object) -> None:
    chunk = whole(trace)
    index = np.array(random.sample(range(len(chunk.requests)), len(chunk.requests) // 2), np.int64)  # type: ignore[attr-defined]
    rows = list(lists(chunk))
    taken = take(chunk, index)
    assert is_packed(taken)
    assert list(lists(taken)) == [rows[i] for i in index]


@settings(max_examples=effort(25))
@given(TRACES, st.integers(1, 250))
def test_a_file_gives_back_what_was_written(trace: Trace, size: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.parquet"
        said = write_trace(path, trace.meta, trace.chunks(size))
        again = open_trace(path)
        assert again.meta == said
        assert said == msgspec.structs.replace(META, count=len(whole(trace).requests))
        assert same(whole(again), whole(trace))
        assert same(whole(again, 7), whole(trace)), "a trace is read as often as one likes"
        assert [p.name for p in Path(folder).iterdir()] == ["t.parquet"]


def test_row_groups_and_bytes_do_not_depend_on_the_chunks_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_format, "CHUNK_REQUESTS", 100)
    monkeypatch.setattr(parquet_format, "GROUP_BLOCKS_MAX", 64)
    trace = made(550)
    for size in (1, 99, 1000):
        write_trace(tmp_path / f"{size}", trace.meta, trace.chunks(size))
    texts = {path.read_bytes() for path in tmp_path.iterdir()}
    assert len(texts) == 1
    groups = pq.ParquetFile(tmp_path / "99")
    sizes = [groups.metadata.row_group(i).num_rows for i in range(groups.num_row_groups)]
    assert sum(sizes) == 550 and max(sizes) < 100, "blocks bound a row group, too"


def test_a_duration_too_short_grows_to_the_last_arrival(tmp_path: Path) -> None:
    trace = made(50)
    meta = msgspec.structs.replace(META, duration_s=1.0)
    said = write_trace(tmp_path / "t", meta, trace.chunks())
    assert said.duration_s == whole(trace).requests["at_s"][-1]


@pytest.mark.parametrize(
    ("column", "value", "where", "allowed"),
    [
        ("at_s", 0.0, "request 30, at_s", "or later"),
        ("at_s", np.nan, "request 30, at_s", "or later"),
        ("service", 2, "request 30, service", "-1 to 1"),
        ("origin", -2, "request 30, origin", "-1 to 2"),
        ("tokens_in", -1, "t.parquet", "0 or more"),
    ],
)
def test_what_a_trace_promises_is_checked_and_no_file_appears(
    tmp_path: Path, column: str, value: float, where: str, allowed: str
) -> None:
    chunk = whole(made(60))
    chunk.requests[column][30] = value
    with pytest.raises(FeedError, match=re.escape(where)) as caught:
        write_trace(tmp_path / "t.parquet", META, iter((cut(chunk, 0, 20), cut(chunk, 20, 60))))
    assert allowed in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_first_request_of_a_chunk_may_not_be_before_the_last_of_the_one_before() -> None:
    chunk = whole(made(60))
    with pytest.raises(FeedError, match="request 20, at_s"):
        list(checked([cut(chunk, 40, 60), cut(chunk, 0, 40)], META, "t"))


def test_unpacked_requests_are_packed_at_the_door() -> None:
    requests = empty_requests(2)
    requests["block_count"] = 2
    requests["block_at"] = (1, 0)
    chunk = whole(Trace.of(META, requests, np.array([5, 6, 7])))
    assert [row[-1] for row in lists(chunk)] == [(6, 7), (5, 6)]


def test_other_files_are_refused_with_what_to_do(tmp_path: Path) -> None:
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"at_s": [1.0]}), plain)
    (tmp_path / "text").write_text("at_s\n1\n")
    for name, says in (
        ("plain.parquet", "hanse trace import"),
        ("text", "Parquet"),
        ("no", "no such file"),
    ):
        with pytest.raises(FeedError, match=says):
            open_trace(tmp_path / name)


def test_a_trace_of_another_version_or_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_trace(path, META, made(5).chunks())
    table = pq.read_table(path)
    meta = pq.ParquetFile(path).metadata.metadata
    newer = {b"hanse_trace": meta[b"hanse_trace"].replace(b"hanse-trace/1", b"hanse-trace/2")}
    pq.write_table(table.replace_schema_metadata(newer), path)
    with pytest.raises(FeedError, match="hanse-trace/1"):
        open_trace(path)
    pq.write_table(table.drop_columns(["tokens_out"]).replace_schema_metadata(meta), path)
    with pytest.raises(FeedError, match="tokens_out"):
        open_trace(path)


def test_a_file_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_trace(path, META, made(500).chunks())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FeedError):
        open_trace(path)


def test_a_record_is_aligned_and_small() -> None:
    assert REQUEST_DTYPE.isalignedstruct
    assert REQUEST_DTYPE.itemsize == 64, "a cache line"


def test_an_empty_trace_is_a_trace(tmp_path: Path) -> None:
    said = write_trace(tmp_path / "t", META, [])
    assert said.count == 0
    assert list(open_trace(tmp_path / "t").chunks()) == []


def test_a_full_disk_is_said_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parquet_format.TraceWriter, "append", full)
    with pytest.raises(FeedError, match="No space left"):
        write_trace(tmp_path / "t", META, made(5).chunks())
    assert list(tmp_path.iterdir()) == []
