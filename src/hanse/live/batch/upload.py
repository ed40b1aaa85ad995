"""A multipart form to disk, as it comes.

Here: `POST /v1/files` bodies (RFC 7578): the file's bytes go to a draft beside its place, small fields are kept. Not here: HTTP (`api`),
what becomes of the draft (`store`). Parsing is python-multipart's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from hanse.live.batch.values import Problem

FIELD_BYTES_MAX: Final = 4096
FIELDS_MAX: Final = 16
FILENAME_CHARACTERS_MAX: Final = 255


class Form:
    """One form being read; feed it, then `finish`."""

    def __init__(self, content_type: str, draft: Path, file_bytes_max: int) -> None:
        kind, options = parse_options_header(content_type.encode("latin-1"))
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not boundary:
            message = f"content-type is {content_type[:64]!r}; send multipart/form-data with a boundary, a file and a purpose"
            raise Problem(415, "unsupported_media_type", message)
        self.fields: dict[str, str] = {}
        self.filename = ""
        self.size_bytes = 0
        self.has_file = self.complete = False
        self._bytes_max = file_bytes_max
        try:
            self._parser = MultipartParser(boundary, self._callbacks())
        except FormParserError as error:
            raise _no_form(error) from None
        self._fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._header = bytearray()
        self._header_value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._name = ""
        self._in_file = False
        self._value = bytearray()
        self._parts = 0

    def feed(self, data: bytes) -> None:
        """The next bytes of the body.

        Raises:
            Problem: they are no form, or too much.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise _no_form(error) from None

    def finish(self) -> None:
        """All bytes came: they are on disk, or it was no whole form."""
        if not self.complete:
            raise Problem(400, "invalid_form", "the form ends before its last boundary")
        if not self.has_file:
            message = "the form has no part named file; send the JSON lines as one"
            raise Problem(400, "missing_required_parameter", message, "file")
        os.fsync(self._fd)

    def close(self) -> None:
        """Whatever became of it."""
        os.close(self._fd)

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._part_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > FIELDS_MAX:
            raise Problem(400, "invalid_form", f"a form has at most {FIELDS_MAX} parts")
        self._headers, self._name, self._in_file = {}, "", False
        self._value.clear()

    def _header_end(self) -> None:
        self._headers[bytes(self._header).lower()] = bytes(self._header_value)
        self._header.clear()
        self._header_value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        self._name = options.get(b"name", b"").decode(errors="replace")
        if self._name != "file":
            return
        if self.has_file:
            raise Problem(400, "invalid_form", "the form has two files", "file")
        self.has_file = self._in_file = True
        name = options.get(b"filename", b"").decode(errors="replace")
        self.filename = name.replace("\\", "/").rpartition("/")[2][:FILENAME_CHARACTERS_MAX]

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._value += data[start:end]
            if len(self._value) > FIELD_BYTES_MAX:
                raise Problem(400, "invalid_form", f"field {self._name[:64]!r} is too long")
            return
        self.size_bytes += end - start
        if self.size_bytes > self._bytes_max:
            message = f"files have at most {self._bytes_max} bytes"
            raise Problem(413, "file_too_large", message, "file")
        view = memoryview(data)[start:end]
        while view:
            view = view[os.write(self._fd, view) :]

    def _part_end(self) -> None:
        if not self._in_file:
            self.fields[self._name] = self._value.decode(errors="replace")

    def _end(self) -> None:
        self.complete = True


def _no_form(error: FormParserError) -> Problem:
    return Problem(400, "invalid_form", f"not a multipart form: {error}")


async def read_form(
    content_type: str, body: AsyncIterator[bytes], draft: Path, file_bytes_max: int
) -> Form:
    """A whole form, its file at `draft` and on disk.

    Raises:
        Problem: it is none, or too large; the rest of the body was read all the same, so that the client reads why.
    """
    form = Form(content_type, draft, file_bytes_max)
    problem: Problem | None = None
    try:
        async for data in body:
            if problem is None:
                try:
                    form.feed(data)
                except Problem as found:
                    problem = found
        if problem is not None:
            raise problem
        await asyncio.to_thread(form.finish)  # an fsync of 200 MB takes seconds
    finally:
        form.close()
    return form
