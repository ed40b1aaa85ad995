"""`hanse reproduce`: the list, the two ways to print, and what its exit code says."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hanse.twin.reproduce import REPRODUCTIONS

ROOT = Path(__file__).parents[2]


def hanse(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hanse.cli import main; main()", "reproduce", *arguments]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=100,
        env={**os.environ, **environment},
    )


@pytest.fixture
def chat_hour(tmp_path: Path) -> Path:
    """A folder with three requests of which half the blocks were read before: far from the published 36.6 %."""
    file = tmp_path / "llm_trace_mooncake_2024" / "conversation.jsonl.gz"
    file.parent.mkdir()
    lines = [
        {"timestamp": 0, "input_length": 1000, "output_length": 5, "hash_ids": blocks}
        for blocks in ([1, 2], [1, 2, 3], [1])
    ]
    file.write_bytes(gzip.compress("\n".join(map(json.dumps, lines)).encode()))
    return tmp_path


def test_without_a_name_it_lists_what_can_be_rerun() -> None:
    done = hanse()
    assert done.returncode == 0 and done.stderr == ""
    assert all(name in done.stdout for name in REPRODUCTIONS)
    listed = json.loads(hanse("--json").stdout)
    assert [one["name"] for one in listed] == list(REPRODUCTIONS)


def test_an_unknown_name_is_told_before_missing_data() -> None:
    done = hanse("nonsense", HANSE_DATA="nowhere")
    assert done.returncode == 2
    assert "eurosys24-latency" in done.stderr and "Traceback" not in done.stderr


def test_missing_data_says_what_to_do() -> None:
    done = hanse("gaia-batch", HANSE_DATA="nowhere")
    assert done.returncode == 2
    assert "HANSE_DATA: got nowhere" in done.stderr and "docs/reproduce.md" in done.stderr


def test_a_result_outside_its_tolerance_ends_with_1_in_either_form(chat_hour: Path) -> None:
    done = hanse("mooncake-reuse", "--data", str(chat_hour))
    assert done.returncode == 1, done.stderr
    assert "outside tolerance: one cache, unbounded" in done.stdout
    done = hanse("mooncake-reuse", "--json", HANSE_DATA=str(chat_hour))
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    first = answer["rows"][0]
    assert (first["paper"], first["ours"]) == (36.6, 50.0)
    assert first["difference"] == pytest.approx(13.4)
    assert answer["agrees"] is False


def test_json_is_all_there_is_on_standard_output(data_folder: Path) -> None:
    done = hanse("eurosys24-latency", "--json", "--data", str(data_folder))
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert {"name", "paper", "ours", "difference"} <= rows[0].keys()


@pytest.fixture
def data_folder() -> Path:
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the data is not part of the repository: docs/reproduce.md says which it is")
    return folder
