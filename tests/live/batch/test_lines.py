"""Input files: every line is found where it is, and whatever is wrong is an error with its line, never an exception."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.live.batch.lines import Index, Line, Rules, check_file, read_line
from hanse.live.batch.values import ERRORS_MAX, LineError

CHAT = "/v1/chat/completions"
RULES = Rules(endpoint=CHAT, lines_max=50, body_bytes_max=2000)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


def good(custom_id: str, **body: object) -> dict[str, object]:
    asked = {"model": "m", "messages": []} | body
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": asked}


def no_flaw(model: str, body_bytes: int) -> tuple[str, str] | None:
    return None if model == "m" else ("model_not_found", "no such model")


def check(data: bytes, rules: Rules = RULES) -> Index | tuple[LineError, ...]:
    with TemporaryDirectory() as home:
        path = Path(home) / "in.jsonl"
        path.write_bytes(data)
        found = check_file(path, rules, no_flaw)
        if isinstance(found, Index):
            with path.open("rb") as file:
                for number in range(len(found)):
                    assert isinstance(read_line(found.read(file, number), CHAT), Line)
        return found


@given(st.binary(max_size=3000))
def test_any_bytes_are_lines_or_errors(data: bytes) -> None:
    found = check(data)
    if isinstance(found, Index):
        assert len(found) > 0
    else:
        assert 0 < len(found) <= ERRORS_MAX
        lines = data.count(b"\n") + 1
        assert all(error.line is None or 1 <= error.line <= lines for error in found)


@given(
    st.lists(
        st.one_of(
            st.builds(good, st.text(min_size=1, max_size=8), note=JSON),
            JSON,
            st.fixed_dictionaries(
                {}, optional={"custom_id": JSON, "method": JSON, "url": JSON, "body": JSON}
            ),
        ),
        max_size=12,
    ),
    st.sampled_from([b"\n", b"\r\n", b"\n\n", b"\n  \n"]),
)
@settings(max_examples=effort(200))
def test_a_file_is_good_where_each_line_is(rows: list[object], end: bytes) -> None:
    data = end.join(json.dumps(row).encode() for row in rows)
    found = check(data)
    alone = [read_line(json.dumps(row).encode(), CHAT) for row in rows]
    ids = [one.custom_id for one in alone if isinstance(one, Line)]
    models = {one.model for one in alone if isinstance(one, Line)}
    fine = bool(rows) and len(ids) == len(rows) == len(set(ids)) and models == {"m"}
    assert isinstance(found, Index) == fine
    if isinstance(found, Index):
        assert len(found) == len(rows)


def test_bodies_are_sent_byte_for_byte() -> None:
    text = b'{"custom_id":"a","method":"POST","url":"%s","body":{"model" : "m",  "x":1e2, "x":"\\u00e9"}}'
    line = read_line(text % CHAT.encode(), CHAT)
    assert isinstance(line, Line)
    assert line.body == b'{"model" : "m",  "x":1e2, "x":"\\u00e9"}'


@pytest.mark.parametrize(
    ("data", "code", "line"),
    [
        (b"{}\n", "missing_required_parameter", 1),
        (b"\n\nnot json\n", "invalid_json_line", 3),
        (b"[" * 100_000, "line_too_large", 1),
        (b"[" * 3000, "invalid_line", 1),
        (b'\xff\xfe{"custom_id": 1}', "invalid_json_line", 1),
        (b"", "empty_file", None),
        (b"\n \n", "empty_file", None),
    ],
)
def test_what_is_wrong_is_named(data: bytes, code: str, line: int | None) -> None:
    found = check(data)
    assert isinstance(found, tuple)
    assert (found[0].code, found[0].line) == (code, line)


def test_limits_of_lines_and_of_errors() -> None:
    rows = [json.dumps(good(f"id {n}")).encode() for n in range(51)]
    found = check(b"\n".join(rows))
    assert isinstance(found, tuple)
    assert [error.code for error in found] == ["too_many_tasks"]
    assert isinstance(check(b"\n".join(rows[:50])), Index)
    assert isinstance(check(b"\xef\xbb\xbf" + rows[0]), Index), "a byte order mark does no harm"
    wrong = check(b"nonsense\n" * 500)
    assert isinstance(wrong, tuple)
    assert len(wrong) == ERRORS_MAX


def test_an_overlong_line_does_not_hide_the_next() -> None:
    long = json.dumps(good("long", text="x" * 10_000)).encode()
    found = check(long + b"\n" + json.dumps(good("a")).encode() + b"\nbad\n")
    assert isinstance(found, tuple)
    assert [(e.code, e.line) for e in found] == [("line_too_large", 1), ("invalid_json_line", 3)]
