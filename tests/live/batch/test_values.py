"""Ids, windows, and that what we send is what OpenAI's client reads."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Batch, FileObject

from hanse.live.batch.asking import Whole
from hanse.live.batch.keeper import Ask, output_lives_s
from hanse.live.batch.lines import Line
from hanse.live.batch.values import (
    BatchMeta,
    FileMeta,
    LineError,
    Problem,
    batch_object,
    checked_metadata,
    file_object,
    home_in,
    new_batch_id,
    new_file_id,
    window_s,
)
from hanse.live.batch.work import _result, error_row

SITES = st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,62}\Z")


@given(SITES)
def test_an_id_names_its_home(site: str) -> None:
    assert home_in(new_file_id(site)) == site
    assert home_in(new_batch_id(site)) == site


@given(st.text(max_size=60))
def test_no_other_text_is_an_id(text: str) -> None:
    assert home_in(text) == ""


@pytest.mark.parametrize(
    ("text", "length_s"), [("24h", 86_400), ("30m", 1800), ("7d", 604_800), ("1m", 60)]
)
def test_windows(text: str, length_s: float) -> None:
    assert window_s(text) == length_s


@pytest.mark.parametrize(
    "text", ["", "24", "h", "0h", "-1h", "1.5h", "31d", "24 h", "1e3m", "24h\n"]
)
def test_what_is_no_window(text: str) -> None:
    with pytest.raises(Problem) as problem:
        window_s(text)
    assert problem.value.param == "completion_window"


def test_metadata_has_openais_limits() -> None:
    assert checked_metadata(None) is None
    assert checked_metadata({"a": "b"}) == {"a": "b"}
    assert checked_metadata({"a": "b", "hanse:wh": "3"}) == {"a": "b"}, (
        "as copied from another batch"
    )
    for wrong in (
        {str(n): "" for n in range(17)},
        {"k" * 65: ""},
        {"k": "v" * 513},
    ):
        with pytest.raises(Problem):
            checked_metadata(wrong)


def test_objects_are_what_openais_client_reads() -> None:
    who = {"tenant": "t", "key_id": "k", "data_class": "public", "country": "FR"}
    batch = BatchMeta(
        id=new_batch_id("lyon"),
        endpoint="/v1/embeddings",
        completion_window="24h",
        input_file_id=new_file_id("lyon"),
        created_at_s=1.5,
        expires_at_s=2.5,
        status="failed",
        at_s={"failed": 2.0},
        errors=(LineError(code="c", message="m", line=3),),
        home="lyon",
        **who,
    )
    read = Batch.model_validate(batch_object(batch), strict=True)
    assert read.errors is not None
    assert read.errors.data is not None
    assert (read.status, read.failed_at, read.errors.data[0].line) == ("failed", 2, 3)
    assert read.metadata is not None
    assert read.metadata["hanse:extra_runs"] == "0"
    file = FileMeta(
        id=new_file_id("lyon"),
        size_bytes=3,
        created_at_s=1.0,
        expires_at_s=2.0,
        filename="a",
        purpose="batch",
        **who,
    )
    assert FileObject.model_validate(file_object(file), strict=True).bytes == 3


def test_a_row_is_one_line_for_every_reader() -> None:
    said = "a\u2028b\u2029c\u0085d\ne\u00e9\u65e5"
    answer = Whole(200, {}, msgspec.json.encode({"text": said}))
    line = Line(custom_id=said, body=b"{}", model="m")
    for row in (_result("r", line, answer), error_row("r", said, "code", said)):
        assert len(row.decode().splitlines()) == 1
        assert said in json.dumps(json.loads(row), ensure_ascii=False).replace("\\n", "\n")


@pytest.mark.parametrize(
    ("given", "kept_s"),
    [
        (None, 0.0),
        ({"anchor": "created_at", "seconds": 3600}, 3600.0),
        ({"anchor": "created_at", "seconds": 60}, None),
        ({"anchor": "now", "seconds": 3600}, None),
        ({"anchor": "created_at", "seconds": "soon"}, None),
    ],
)
def test_results_live_as_long_as_is_asked(
    given: dict[str, object] | None, kept_s: float | None
) -> None:
    ask = Ask(
        input_file_id="f",
        endpoint="/v1/embeddings",
        completion_window="24h",
        output_expires_after=given,
    )
    if kept_s is not None:
        assert output_lives_s(ask) == kept_s
        return
    with pytest.raises(Problem) as raised:
        output_lives_s(ask)
    assert (raised.value.status, raised.value.param) == (400, "output_expires_after")
