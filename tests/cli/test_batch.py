"""`hanse batch`: whose batches are shown where no key is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hanse.cli import batch
from hanse.cli.batch import _default_key
from hanse.errors import ConfigError
from hanse.live.runtime import StateDir


@pytest.mark.parametrize(
    ("made", "meant"), [(("clinic", "demo", "shop"), "demo"), (("only",), "only")]
)
def test_the_demo_key_or_the_only_one_is_meant(
    tmp_path: Path, made: tuple[str, ...], meant: str
) -> None:
    (tmp_path / "keys").mkdir()
    for key in made:
        (tmp_path / "keys" / f"{key}.key").write_text("hanse-x")
    assert _default_key(StateDir(tmp_path)) == meant


@pytest.mark.parametrize("made", [(), ("clinic", "shop")])
def test_of_several_keys_one_has_to_be_named(tmp_path: Path, made: tuple[str, ...]) -> None:
    (tmp_path / "keys").mkdir()
    for key in made:
        (tmp_path / "keys" / f"{key}.key").write_text("hanse-x")
    with pytest.raises(ConfigError) as error:
        _default_key(StateDir(tmp_path))
    assert "--key" in str(error.value)
    assert ", ".join(made) in str(error.value)


FAILED: dict[str, Any] = {
    "id": "batch_1",
    "status": "failed",
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "model": None,
    "endpoint": "/v1/chat/completions",
    "input_file_id": "file-1",
    "output_file_id": None,
    "error_file_id": None,
    "metadata": None,
    "errors": {
        "data": [
            {"line": None, "code": "empty_file", "message": "the file has no lines"},
            {"line": 3, "code": "invalid_json", "message": "no JSON"},
        ]
    },
}


def test_a_batch_is_shown_on_standard_output_and_what_is_of_no_line_names_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(batch, "_ask", lambda *_: FAILED)
    assert batch.show("batch_1") == 0
    said = capsys.readouterr()
    assert said.out.splitlines()[-2:] == [
        "  empty_file: the file has no lines",
        "  line 3: invalid_json: no JSON",
    ]
    assert not said.err
    assert batch.show("batch_1", json=True) == 0
    assert msgspec.json.decode(capsys.readouterr().out) == FAILED


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (404, "BATCH-ID: got no such thing, need the id of a batch that the key may see. To fix: see `hanse batch list`"),
        (401, "--key: got no such thing, need a key of the league"),
        (403, "--key, --class: got no such thing, need a key that may read this class here"),
    ],
)  # fmt: skip
def test_a_gateways_no_names_what_was_typed(status: int, says: str) -> None:
    assert str(batch._refusal(status, "no such thing")) == says
