"""Multipart forms: the file comes out byte for byte in whatever pieces it came; anything else is a no with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.live.batch.upload import Form, read_form
from hanse.live.batch.values import Problem

KIND = "multipart/form-data; boundary=XyZ"


def part(name: str, content: bytes, filename: str = "") -> bytes:
    more = f'; filename="{filename}"' if filename else ""
    head = f'--XyZ\r\ncontent-disposition: form-data; name="{name}"{more}\r\n\r\n'
    return head.encode() + content + b"\r\n"


def form_of(content: bytes, purpose: str = "batch") -> bytes:
    return part("purpose", purpose.encode()) + part("file", content, "a.jsonl") + b"--XyZ--\r\n"


def read(pieces: list[bytes], bytes_max: int = 10_000, kind: str = KIND) -> tuple[Form, bytes]:
    async def body() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    with TemporaryDirectory() as home:
        draft = Path(home) / "x.draft"
        form = asyncio.run(read_form(kind, body(), draft, bytes_max))
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600
        return form, draft.read_bytes()


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({place % (len(data) + 1) for place in at})
    edges = [0, *places, len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(st.binary(max_size=2000), st.lists(st.integers(0, 5000), max_size=20))
def test_a_file_survives_any_cutting(content: bytes, at: list[int]) -> None:
    form, stored = read(cut(form_of(content), at))
    assert stored == content
    assert (form.size_bytes, form.filename, form.fields) == (
        len(content),
        "a.jsonl",
        {"purpose": "batch"},
    )


@given(
    st.binary(max_size=2000)
    | st.builds(lambda a, b: form_of(a)[: b % 400], st.binary(), st.integers(0, 400)),
    st.lists(st.integers(0, 5000), max_size=5),
)
def test_anything_else_is_refused_and_never_an_accident(data: bytes, at: list[int]) -> None:
    with contextlib.suppress(Problem):  # any other exception is one of ours to mend
        form, _ = read(cut(data, at))
        assert form.complete
        assert form.has_file


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        (form_of(b"x"), "application/json", "unsupported_media_type"),
        (form_of(b"x"), "multipart/form-data", "unsupported_media_type"),
        (form_of(b"x" * 10_001), KIND, "file_too_large"),
        (part("purpose", b"batch") + b"--XyZ--\r\n", KIND, "missing_required_parameter"),
        (form_of(b"x")[:-6], KIND, "invalid_form"),
        (part("file", b"a", "a") + form_of(b"b"), KIND, "invalid_form"),
        (part("purpose", b"p" * 5000) + form_of(b"b"), KIND, "invalid_form"),
        (part("n", b"") * 17 + form_of(b"b"), KIND, "invalid_form"),
        (form_of(b"x"), f"multipart/form-data; boundary={'b' * 257}", "invalid_form"),
    ],
)
def test_why_a_form_is_refused(data: bytes, kind: str, code: str) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Problem) as problem:
        read([data], kind=kind)
    assert problem.value.code == code
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("written", "kept"),
    [("../../etc/passwd", "passwd"), ("C:\\\\dir\\\\b.jsonl", "b.jsonl"), ("", "")],
)
def test_names_of_files_are_only_names(written: str, kept: str) -> None:
    form, _ = read([part("file", b"x", written) + b"--XyZ--\r\n"])
    assert form.filename == kept
