"""The page on traces says what the code does, and its examples run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import msgspec
import pytest

from hanse.cli import main
from hanse.cli.trace import app
from hanse.signals.traces import REQUEST_DTYPE
from hanse.signals.traces import spec as specs
from hanse.signals.traces.tables import Columns

PAGE = (Path(__file__).parents[3] / "docs" / "traces.md").read_text()
BLOCKS = re.findall(r"^```(\w+)(?: (\S+))?\n(.*?)^```", PAGE, re.S | re.M)


def test_every_example_runs_in_the_order_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = 0
    for kind, name, text in BLOCKS:
        if name:
            Path(name).write_text(text)
        elif kind == "python":
            exec(compile(text, "docs/traces.md", "exec"), {})
            ran += 1
        else:
            assert kind == "sh"
            for line in text.splitlines():
                words = shlex.split(line)
                assert words[0] == "hanse"
                with pytest.raises(SystemExit) as done:
                    main(words[1:])
                assert done.value.code == 0, capsys.readouterr().err
                ran += 1
    assert ran >= 10


def test_every_field_of_a_map_and_of_a_record_is_explained() -> None:
    for field in msgspec.structs.fields(Columns):
        assert f"`{field.encode_name}`" in PAGE
    for column in REQUEST_DTYPE.names or ():
        assert f"`{column}`" in PAGE


def test_every_field_of_a_spec_stands_on_the_page_or_in_its_example() -> None:
    kinds = (specs.TraceSpec, specs.OriginShare, specs.ServiceShare, specs.Conversation)
    more = (specs.TenantShare, specs.Flash, specs.GammaBursts, specs.MarkovBursts)
    for kind in (*kinds, *more):
        for field in msgspec.structs.fields(kind):
            assert re.search(rf"\b{field.encode_name}\b", PAGE), (
                f"{kind.__name__}.{field.encode_name}"
            )


def test_every_command_is_shown() -> None:
    for name in app:
        if not name.startswith("-"):
            assert f"hanse trace {name} " in PAGE
