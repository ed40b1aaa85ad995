"""`hanse trace`: files in, traces out, figures as text or JSON, and errors that say where and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hanse.cli import main
from hanse.signals.traces import open_trace
from hanse.signals.traces.trace import SHIPPED
from signals.traces.made_traces import same, whole

CSV = "when,q,a,who\n2026-01-14T09:30:00Z,10,20,s1\n2026-01-14T09:30:01Z,30,40,s1\n"


def hanse(*arguments: object) -> int:
    with pytest.raises(SystemExit) as done:
        main(["trace", *map(str, arguments)])
    assert isinstance(done.value.code, int)
    return done.value.code


def asked(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert hanse(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def test_a_table_is_imported_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log.csv").write_text(CSV)
    how = (
        "--format",
        "csv",
        "--map",
        "at=when,in=q,out=a,session=who",
        "--out",
        tmp_path / "t.parquet",
    )
    done = asked(capsys, "import", tmp_path / "log.csv", *how)
    assert "ISO 8601" in done["said"][0]
    assert (done["meta"]["count"], done["meta"]["services"], done["skipped"]) == (2, ["log"], 0)
    shown = asked(capsys, "show", tmp_path / "t.parquet")
    assert shown["figures"]["tokens_in"]["mean"] == 20.0
    assert shown["figures"]["conversations"] == 1
    assert hanse("show", tmp_path / "t.parquet") == 0
    text = capsys.readouterr()
    assert "2 requests" in text.out and "1 conversations of 2.00" in text.out and not text.err


def test_several_files_become_one_trace_by_their_dates(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
    (tmp_path / "conv.csv").write_text(header + "2023-11-16 18:15:46.5,374,44\n")
    (tmp_path / "code.csv").write_text(header + "2023-11-16 18:17:03.25,4808,10\n")
    files = (tmp_path / "conv.csv", tmp_path / "code.csv")
    done = asked(capsys, "import", *files, "--format", "azure", "--out", tmp_path / "t")
    assert done["meta"]["services"] == ["conv", "code"]
    assert whole(open_trace(tmp_path / "t")).requests["at_s"].tolist() == [46.5, 123.25]


def test_bad_rows_stop_an_import_or_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.csv").write_text(CSV + "soon,1,1,s2\n")
    how = ("--format", "csv", "--map", "at=when,in=q,out=a", "--out", tmp_path / "t")
    assert hanse("import", tmp_path / "log.csv", *how) == 2
    said = capsys.readouterr().err
    assert "log.csv, line 4, when: got 'soon', need a time" in said and "--skip-bad" in said
    assert not (tmp_path / "t").exists()
    done = asked(capsys, "import", tmp_path / "log.csv", *how, "--skip-bad")
    assert (done["skipped"], done["meta"]["count"]) == (1, 2)


def test_the_shipped_spec_makes_the_shipped_trace_and_another_seed_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = SHIPPED / "league_day.toml"
    made = asked(capsys, "make", "--spec", spec, "--out", tmp_path / "a")
    assert made["meta"]["count"] == open_trace(SHIPPED / "league_day.parquet").meta.count
    asked(capsys, "make", "--spec", spec, "--out", tmp_path / "b", "--seed", 2)
    a, b, shipped = (
        whole(open_trace(p))
        for p in (tmp_path / "a", tmp_path / "b", SHIPPED / "league_day.parquet")
    )
    assert same(a, shipped) and not same(b, shipped)


def test_a_trace_is_changed_in_the_order_of_the_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = (
        "--window",
        "36000:39600",
        "--scale",
        "2",
        "--origins",
        "Lyon=2,EE",
        "--classes",
        "public",
    )
    rename = ("--rename", "embed=chat", "--tenants", "a,b", "--out", tmp_path / "t")
    done = asked(capsys, "change", SHIPPED / "league_day.parquet", *how, *rename)
    meta = done["meta"]
    assert (meta["services"], meta["classes"], meta["tenants"]) == (
        ["chat"],
        ["public"],
        ["a", "b"],
    )
    assert [o["id"] for o in meta["origins"]] == ["Lyon", "EE"]
    assert (meta["duration_s"], meta["start_at_s"] % 86_400) == (3600.0, 36_000.0)
    at_s = whole(open_trace(SHIPPED / "league_day.parquet")).requests["at_s"]
    assert meta["count"] == 2 * ((at_s >= 36_000.0) & (at_s < 39_600.0)).sum()
    turned = asked(capsys, "change", tmp_path / "t", "--rotate-h", 0.5, "--out", tmp_path / "u")
    assert turned["meta"]["count"] == meta["count"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "nowhere.parquet"), "no such file"),
        (("import", "nowhere.csv", "--format", "azure", "--out", "t"), "nowhere.csv"),
        (("import", "x.csv", "--format", "csv", "--out", "t"), "--map"),
        (("import", "x.csv", "--format", "cvs", "--out", "t"), "cvs"),
        (("make", "--spec", "nowhere.toml", "--out", "t"), "nowhere.toml"),
        (("change", "{shipped}", "--window", "5", "--out", "t"), "FROM:UNTIL"),
        (("change", "{shipped}", "--origins", "Lyon=x", "--out", "t"), "NAME=WEIGHT"),
        (("change", "{shipped}", "--origins", "Lyonn", "--out", "t"), "did you mean Lyon"),
        (("change", "{shipped}", "--rename", "chta=chat", "--out", "t"), "one of chat, embed"),
        (("change", "{shipped}", "--out", "{tmp}/no/t"), "folder that can be written"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_was_wrong(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    fill = {"shipped": SHIPPED / "league_day.parquet", "tmp": tmp_path}
    assert hanse(*(argument.format(**fill) for argument in arguments)) == 2
    said = capsys.readouterr()
    assert says in " ".join((said.err + said.out).split())
    assert list(tmp_path.iterdir()) == []


def test_help_imports_neither_arrow_nor_numpy() -> None:
    script = "import sys, hanse.cli.trace; sys.exit(bool({'pyarrow', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 0
