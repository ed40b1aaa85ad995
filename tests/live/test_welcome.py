"""What `hanse up` prints when it is ready: lines that can be pasted and end soon."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

from rich.console import Console

from hanse.live.first_start import prepare
from hanse.live.up import print_welcome

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"


def test_the_example_requests_limit_their_answers(tmp_path: Path) -> None:
    (tmp_path / "league.toml").write_text(LEAGUE.read_text())
    said = io.StringIO()
    print_welcome(prepare(tmp_path / "league.toml", tmp_path / "state"), Console(file=said))
    (body,) = re.findall(r"curl .* -d '(.*)'", said.getvalue())
    assert json.loads(body)["max_tokens"] == 32
    (python,) = re.findall(r"completions\.create\((.*)\)\.choices", said.getvalue())
    assert python.endswith("max_tokens=32")
