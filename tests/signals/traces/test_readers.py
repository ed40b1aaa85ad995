"""Public traces and tables of one's own become requests; what is wrong is named by line, or counted and left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError, FeedError
from hanse.signals.traces import rows, sorting
from hanse.signals.traces.draws import Draws
from hanse.signals.traces.formats import (
    columns_of,
    read_azure,
    read_burstgpt,
    read_mooncake,
)
from hanse.signals.traces.jobs import JOB_DTYPE, read_gaia
from hanse.signals.traces.servegen import _arrivals, read_servegen
from hanse.signals.traces.tables import Columns, Imported, Table, read_table
from hanse.signals.traces.trace import Chunk, checked
from signals.traces.made_traces import lists, same, whole

SHARED = Path(__file__).parents[4] / "shared" / "data"
BASIC = Columns(at="t", tokens_in="i", tokens_out="o")


def recorded(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} in the folder of shared data, which is not here")
    return path


def table(path: Path, text: str, columns: Columns = BASIC, **how: Any) -> Imported:
    path.write_text(text)
    form = "jsonl" if path.suffix == ".jsonl" else "csv"
    return read_table(Table(path=path, form=form, columns=columns, **how))  # type: ignore[arg-type]


@pytest.fixture(params=["small blocks", "large blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "small blocks":
        monkeypatch.setattr(rows, "BLOCK_BYTES", 256)


@pytest.mark.parametrize(
    ("cells", "expected_s", "start_at_s", "says"),
    [
        (["0.5", "2", "2.25"], [0.5, 2.0, 2.25], 0.0, "numbers in s"),
        (["1700000000.5", "1700000030"], [20.5, 50.0], 1699999980.0, "numbers in s"),
        (["1700000000500", "1700000030000"], [20.5, 50.0], 1699999980.0, "numbers in ms"),
        (["1700000000500000", "1700000030000000"], [20.5, 50.0], 1699999980.0, "numbers in us"),
        (
            ["2023-11-16 18:17:03.9799600", "2023-11-16 18:17:04"],
            [3.97996, 4.0],
            1700158620.0,
            "ISO 8601",
        ),
        (
            ["2023-11-16T18:17:03.5Z", "2023-11-16T19:17:04+01:00"],
            [3.5, 4.0],
            1700158620.0,
            "ISO 8601",
        ),
    ],
)
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_times_are_detected_and_said(
    tmp_path: Path,
    form: str,
    cells: list[str],
    expected_s: list[float],
    start_at_s: float,
    says: str,
) -> None:
    if form == "csv":
        text = "t,i,o\n" + "".join(f"{cell},1,2\n" for cell in cells)
    else:
        values = [float(c) if "." in c and "-" not in c else c for c in cells]
        values = [int(v) if isinstance(v, str) and v.isdigit() else v for v in values]
        text = "".join(json.dumps({"t": v, "i": 1, "o": 2}) + "\n" for v in values)
    done = table(tmp_path / f"x.{form}", text)
    assert whole(done.trace).requests["at_s"].tolist() == pytest.approx(expected_s, abs=2e-7)
    assert done.trace.meta.start_at_s == start_at_s
    assert says in done.said[0] and "--time" in done.said[0]


def test_a_named_unit_overrides_detection(tmp_path: Path) -> None:
    done = table(tmp_path / "x.csv", "t,i,o\n1500,1,2\n", time="ms")
    assert whole(done.trace).requests["at_s"].tolist() == [1.5]
    assert "detected" not in done.said[0]
    by_name = table(
        tmp_path / "y.csv",
        "t_ms,i,o\n1500,1,2\n",
        Columns(at="t_ms", tokens_in="i", tokens_out="o"),
    )
    assert whole(by_name.trace).requests["at_s"].tolist() == [1.5]


def test_an_unreadable_first_time_does_not_decide_the_unit(tmp_path: Path) -> None:
    rows_of = "t,i,o\nn/a,1,1\n,1,1\n1700000000500,1,1\n"
    done = table(tmp_path / "x.csv", rows_of, skip_bad=True)
    assert "numbers in ms" in done.said[0]
    assert (done.skipped, done.trace.meta.count) == (2, 1)
    with pytest.raises(FeedError, match="no row that can be read"):
        table(tmp_path / "x.csv", "t,i,o\nn/a,1,1\n", skip_bad=True)


ALL = Columns(
    at="t",
    tokens_in="i",
    tokens_out="o",
    service="svc",
    cls="c",
    origin="city",
    tenant="who",
    session="s",
)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("form", ["csv", "csv.gz", "jsonl", "jsonl.gz"])
def test_every_column_arrives(tmp_path: Path, form: str) -> None:
    values = [
        {
            "t": i,
            "i": 10 + i,
            "o": i,
            "svc": ("chat", "embed")[i % 2],
            "c": "public",
            "city": ("Lyon", "EE")[i % 2],
            "who": "" if i % 3 else "demo",
            "s": ("", "7", "x-9")[i % 3],
        }
        for i in range(40)
    ]
    if form.startswith("csv"):
        text = (
            ";".join(values[0])
            + "\n"
            + "".join(";".join(map(str, v.values())) + "\n" for v in values)
        )
    else:
        text = "\n\n".join(json.dumps({"extra": [1], **v}) for v in values)
    path = tmp_path / f"x.{form}"
    path.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    done = read_table(Table(path=path, form=form.split(".")[0], columns=ALL))  # type: ignore[arg-type]
    meta, chunk = done.trace.meta, whole(done.trace, 7)
    assert (meta.services, meta.classes, meta.tenants) == (
        ("chat", "embed"),
        ("public",),
        ("demo",),
    )
    assert [(o.id, o.country) for o in meta.origins] == [("Lyon", "FR"), ("EE", "EE")]
    assert (meta.count, meta.duration_s) == (40, 39.0)
    sessions = chunk.requests["session"].tolist()
    assert sessions[:2] == [-1, 7] and sessions[2] == sessions[5] > 1 << 61
    got = [tuple(row)[:7] for row in chunk.requests.tolist()]
    assert got == [(float(i), i % 2, 0, i % 2, -1 if i % 3 else 0, 10 + i, i) for i in range(40)]
    assert same(whole(done.trace), chunk), "a trace is read as often as one likes"


BAD = {
    "nan,1,2": "line 5, t",
    "-1,1,2": "line 5, t",
    "soon,1,2": "line 5, t",
    "9,,2": "line 5, i",
    "9,1.5,2": "line 5, i",
    "9,1,-2": "line 5, o",
    "9,1,99999999999": "line 5, o",
    "9,1": "line 5",
    "9,1,2,3": "line 5",
}


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("row", BAD)
def test_a_bad_row_is_named_by_line_or_counted(tmp_path: Path, row: str) -> None:
    text = f"t,i,o\n0,1,2\n\n3,1,2\n{row}\n10,1,2.0\n"
    with pytest.raises(FeedError) as caught:
        table(tmp_path / "x.csv", text)
    assert caught.value.where.removeprefix(str(tmp_path / "x.csv") + ", ") == BAD[row]
    assert caught.value.allowed and "--skip-bad" in str(caught.value)
    done = table(tmp_path / "x.csv", text, skip_bad=True)
    assert (done.skipped, done.trace.meta.count) == (1, 3)
    assert whole(done.trace).requests["at_s"].tolist() == [0.0, 3.0, 10.0]
    assert any("1 bad row" in line for line in done.said) and any(
        "line 5" in line for line in done.said
    )


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize(
    ("row", "where"),
    [
        ("{", "line 4"),
        ("[1]", "line 4"),
        ('{"t": 9, "i": 1}', "line 4, o"),
        ('{"t": "9", "i": true, "o": 1}', "line 4, i"),
        ('{"t": 9, "i": 1, "o": 2, "b": ["x"]}', "line 4, b"),
        ('{"t": 9, "i": 1, "o": 2, "b": 5}', "line 4, b"),
    ],
)
def test_a_bad_line_of_json_is_named_or_counted(tmp_path: Path, row: str, where: str) -> None:
    columns = Columns(at="t", tokens_in="i", tokens_out="o", blocks="b")
    good = '{"t": 1, "i": 1, "o": 2, "b": [4, 5]}\n'
    text = f"{good}\n{good}{row}\n{good}"
    with pytest.raises(FeedError) as caught:
        table(tmp_path / "x.jsonl", text, columns)
    assert caught.value.where.removeprefix(str(tmp_path / "x.jsonl") + ", ") == where
    done = table(tmp_path / "x.jsonl", text, columns, skip_bad=True, block_tokens=16)
    assert (done.skipped, done.trace.meta.count) == (1, 3)
    assert [row[-1] for row in lists(whole(done.trace))] == [(4, 5)] * 3


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=effort(30))
def test_good_and_bad_rows_together_are_all_rows(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[int, bool]]
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.csv"
    text = "t,i,o\n" + "".join(
        f"{at},{i},{'x' if bad else 1}\n" for i, (at, bad) in enumerate(cells)
    )
    good = [(at, i) for i, (at, bad) in enumerate(cells) if not bad]
    if not good:
        with pytest.raises(FeedError, match="no row that can be read"):
            table(path, text, skip_bad=True)
        return
    done = table(path, text, skip_bad=True)
    assert done.skipped + done.trace.meta.count == len(cells)
    seen = whole(done.trace).requests[["at_s", "tokens_in"]].tolist()
    assert seen == sorted(good, key=lambda row: row[0]), "equal times stay in their order"


def test_rows_out_of_order_are_sorted_within_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(sorting, "RUN_REQUESTS", 100)
    monkeypatch.setattr(rows, "BLOCK_BYTES", 512)
    at_s = rng.integers(0, 300, 1000)
    text = "".join(
        json.dumps({"t": int(t), "i": n, "o": 1, "b": [n]}) + "\n" for n, t in enumerate(at_s)
    )
    done = table(
        tmp_path / "x.jsonl",
        text,
        Columns(at="t", tokens_in="i", tokens_out="o", blocks="b"),
        block_tokens=4,
    )
    chunk = whole(done.trace)
    assert any("were sorted" in line for line in done.said)
    assert chunk.requests["tokens_in"].tolist() == np.argsort(at_s, kind="stable").tolist()
    assert [row[-1] for row in lists(chunk)] == [(n,) for n in np.argsort(at_s, kind="stable")]


def test_what_is_no_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of t, i, o"):
        table(
            tmp_path / "x.csv", "t,i,o\n1,1,1\n", Columns(at="time", tokens_in="i", tokens_out="o")
        )
    with pytest.raises(FeedError, match="no row"):
        table(tmp_path / "x.csv", "t,i,o\n")
    with pytest.raises(FeedError, match="No such file"):
        read_table(Table(path=tmp_path / "no.csv", form="csv", columns=BASIC))
    with pytest.raises(ConfigError, match="did you mean Lyon"):
        table(
            tmp_path / "x.csv",
            "t,i,o,c\n1,1,1,Lyonn\n",
            Columns(at="t", tokens_in="i", tokens_out="o", origin="c"),
        )
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(b"t,i,o\n" + b"1,1,1\n" * 99_999)[:-30])
    with pytest.raises(FeedError, match=r"cut\.csv\.gz"):
        read_table(Table(path=tmp_path / "cut.csv.gz", form="csv", columns=BASIC))


def test_too_many_names_are_a_wrong_column(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.signals.traces.tables.NAMES_MAX", 10)
    text = "t,i,o,c\n" + "".join(f"{n},1,1,{n}\n" for n in range(11))
    with pytest.raises(FeedError, match="at most 10"):
        table(tmp_path / "x.csv", text, Columns(at="t", tokens_in="i", tokens_out="o", service="c"))


@pytest.mark.parametrize("text", ["at=t,in=i", "at=t,in=i,out=o,sevice=x", "at,in=i,out=o", ""])
def test_a_wrong_map_says_what_it_may_have(text: str) -> None:
    with pytest.raises(ConfigError, match="at"):
        columns_of(text)
    assert columns_of("at=a b,in=i,out=o,class=c").cls == "c"


def test_azure_is_read_as_published_and_as_repackaged(tmp_path: Path) -> None:
    published = tmp_path / "AzureLLMInferenceTrace_conv.csv"
    published.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,109\n"
    )
    a = read_azure(published).trace
    b = read_azure(recorded("llm_trace_azure_2023/conv.csv.gz")).trace
    first = Chunk(whole(b).requests[:2], whole(b).blocks)
    assert same(whole(a), first)
    assert a.meta.services == ("conv",)
    assert a.meta.start_at_s == b.meta.start_at_s == 1_700_158_500.0
    requests = whole(b).requests
    means = (requests["tokens_in"].mean(), requests["tokens_out"].mean())
    assert (len(requests), b.meta.services) == (19_366, ("conv",))
    assert means == pytest.approx((1154.7, 211.1), abs=0.05)


def test_mooncake_keeps_its_prefix_blocks() -> None:
    trace = read_mooncake(recorded("llm_trace_mooncake_2024/conversation.jsonl.gz")).trace
    chunk = whole(trace)
    assert (len(chunk.requests), trace.meta.block_tokens) == (12_031, 512)
    assert (len(chunk.blocks), len(np.unique(chunk.blocks))) == (288_500, 182_790)
    assert (chunk.requests["block_count"] == -(-chunk.requests["tokens_in"] // 512)).mean() > 0.99


def test_burstgpt_with_and_without_conversations(tmp_path: Path) -> None:
    path = tmp_path / "BurstGPT_3.csv"
    path.write_text(
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,a1,1.5,ChatGPT,472,18,490,Conversation log\n45,,2.0,GPT-4,10,0,10,API log\n"
    )
    trace = read_burstgpt(path).trace
    assert trace.meta.services == ("ChatGPT", "GPT-4")
    assert trace.meta.tenants == ("Conversation log", "API log")
    assert (whole(trace).requests["session"] >= 0).tolist() == [True, False]
    path.write_text(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n5,ChatGPT,472,18,490,API log\n"
    )
    assert whole(read_burstgpt(path).trace).requests["session"].tolist() == [-1]


@pytest.mark.parametrize(
    ("model", "until_s", "fields"),
    [("deepseek-r1", 86_400.0, 2), ("m-small", 172_800.0, 2), ("mm-image", 86_400.0, 2)],
)
def test_servegen_draws_the_recorded_rates_and_lengths(
    model: str, until_s: float, fields: int
) -> None:
    path = recorded(f"llm_demand_servegen_2025/{model}_rates.csv.gz")
    table_ = np.loadtxt(path, delimiter=",", skiprows=1, usecols=(0, 1, 2))
    table_ = table_[table_[:, 1] < until_s]
    factor = 2e5 / (table_[:, 2].sum() * 600.0)
    trace = read_servegen(path, factor=factor, until_s=until_s, seed=3).trace
    chunk = whole(trace)
    list(checked(trace.chunks(999), trace.meta, model))
    assert same(whole(trace, 999), chunk), "same seed, same bytes"
    assert len(chunk.requests) == pytest.approx(2e5, rel=0.02)
    client = int(np.bincount(table_[:, 0].astype(int), weights=table_[:, 2]).argmax())
    own = chunk.requests[chunk.requests["tenant"] == client]
    expected = table_[table_[:, 0] == client]
    assert len(own) == pytest.approx(expected[:, 2].sum() * 600 * factor, rel=0.03)
    hours = np.bincount((own["at_s"] // 7200).astype(int), minlength=int(until_s // 7200))
    wanted = np.bincount(
        (expected[:, 1] // 7200).astype(int), weights=expected[:, 2], minlength=len(hours)
    )
    assert np.corrcoef(hours, wanted)[0, 1] > 0.99
    other = whole(read_servegen(path, factor=factor, until_s=until_s, seed=4).trace)
    assert not same(other, chunk)


def test_servegen_part_of_a_record_counts_from_its_begin() -> None:
    path = recorded("llm_demand_servegen_2025/deepseek-r1_rates.csv.gz")
    trace = read_servegen(path, from_s=7_000.0, until_s=9_000.0).trace
    at_s = whole(trace).requests["at_s"]
    assert trace.meta.duration_s == 2_000.0
    assert at_s[0] < 60.0 and 1_940.0 < at_s[-1] < 2_000.0
    for wrong in ({"factor": 0.0}, {"from_s": 5.0, "until_s": 4.0}, {"from_s": 1e9}):
        with pytest.raises(ConfigError):
            read_servegen(path, **wrong)


@pytest.mark.parametrize(
    ("shape", "weibull"), [(0.2, False), (1.0, False), (4.0, False), (0.6, True)]
)
def test_a_renewal_process_in_pieces_has_its_rate_and_its_burstiness(
    shape: float, weibull: bool
) -> None:
    draws, owed, at, begin = Draws(1, 2), None, [], 0.0
    for span in np.tile([0.5, 3.0, 40.0, 300.0], 200).tolist():
        times, owed = _arrivals(draws, span, shape, weibull, owed)
        at += (times + begin).tolist()
        begin += span
    gaps = np.diff(at)
    assert (gaps >= 0).all()
    assert len(at) / begin == pytest.approx(1.0, rel=0.03)
    if not weibull:
        assert gaps.std() == pytest.approx(shape**-0.5, rel=0.05)


@pytest.mark.parametrize(("name", "count"), [("pai_1k.csv", 1_000), ("azure_100k.csv.gz", 99_988)])
def test_gaia_jobs_are_read_in_seconds(name: str, count: int) -> None:
    trace = read_gaia(recorded(f"batch_jobs_gaia/{name}"))
    chunks = list(trace.chunks(700))
    assert all(len(chunk) == 700 for chunk in chunks[:-1])
    jobs = np.concatenate(chunks)
    assert jobs.dtype == JOB_DTYPE and len(jobs) == trace.meta.count == count
    assert trace.meta.duration_s == jobs["arrival_s"][-1]
    assert jobs["length_s"][0] == (6302.0 if count == 1_000 else 2700.0)
    assert (np.diff(jobs["arrival_s"]) >= 0).all() and jobs["size"].min() >= 1


def test_jobs_with_bad_rows_or_out_of_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    for text, where in (
        ("arrival_s,length_s,cpus\n5,1,1\n4,1,1\n", "job 1"),
        ("arrival_s,length_s,cpus\n5,x,1\n", "line 2, length_s"),
        ("arrival_s,cpus\n5,1\n", "jobs.csv"),
        ("arrival_s,length_s,cpus\n", "jobs.csv"),
    ):
        path.write_text(text)
        with pytest.raises(FeedError, match=where):
            read_gaia(path)
