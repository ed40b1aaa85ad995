"""The lines of an input file: reading, checking, and what is wrong where.

Here: one pass over a file of JSON lines, which gives each line's place in it or a list of errors. Not here: running lines (`runner`).
All lines of a batch ask for one model, as OpenAI demands; empty lines are skipped. Error codes are OpenAI's where it has one.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from hanse.live.batch.values import ERRORS_MAX, LineError
from hanse.live.gateway.body import EXAMPLE as EXAMPLE_BODY
from hanse.live.gateway.body import FORMS
from hanse.live.gateway.wording import unreadable
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE

CUSTOM_ID_CHARACTERS_MAX: Final = 512
TOKENS_KNOWN_MAX: Final = 1_000_000
"""What is said beyond it says nothing."""
EXAMPLE: Final = (
    '{"custom_id": "request-1", "method": "POST", "url": "%s", "body": {"model": "chat", ...}}'
)
LINE_EXTRA_BYTES: Final = 4096
"""What a line may add to the request's body in it: custom id, method, url."""


class _Outer(msgspec.Struct):
    """A line as its client wrote it."""

    custom_id: str | msgspec.UnsetType = msgspec.UNSET
    method: str | msgspec.UnsetType = msgspec.UNSET
    url: str | msgspec.UnsetType = msgspec.UNSET
    body: msgspec.Raw = msgspec.Raw(b"")


class _Body(msgspec.Struct):
    model: str
    stream: bool | None = None
    max_tokens: object = None
    max_completion_tokens: object = None


class Line(Value, frozen=True, kw_only=True):
    """One good line, ready to be sent."""

    custom_id: str
    body: bytes
    model: str
    tokens_max: int = 0
    """Of its answer, as far as it says; 0: it does not."""


class Rules(Value, frozen=True, kw_only=True):
    """What lines of one batch must keep to."""

    endpoint: str
    lines_max: int
    body_bytes_max: int
    """Of any model of the table; the model's own is asked of `model_flaw`."""


ModelFlaw = Callable[[str, int], tuple[str, str] | None]
"""(model, body bytes) -> (code, message) of why this batch may not ask for it."""

_decode_outer = msgspec.json.Decoder(_Outer).decode
_decode_body = msgspec.json.Decoder(_Body).decode


class Index:
    """Where each line of a file is: offsets and lengths in bytes, empty lines left out."""

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.sizes = array("I")
        self.model = ""
        self.tokens_max = 0
        """Answers' tokens at most, of the lines that say so."""
        self.tokens_max_known = 0
        """How many do."""

    def __len__(self) -> int:
        return len(self.offsets)

    def read(self, file: BinaryIO, line: int) -> bytes:
        """The bytes of one line (counted from 0 among those that are not empty)."""
        file.seek(self.offsets[line])
        return file.read(self.sizes[line])


def read_line(data: bytes, endpoint: str) -> Line | LineError:
    """One line, checked but for what concerns the whole file and the table."""
    try:
        outer = _decode_outer(data)
    except UNREADABLE as error:
        code = "invalid_line" if isinstance(error, msgspec.ValidationError) else "invalid_json_line"
        example = EXAMPLE % endpoint
        message, param = unreadable(data, error, _outer_forms(endpoint), example, "the line")
        return LineError(code=code, message=message, param=param)
    custom_id, body = outer.custom_id, bytes(outer.body)
    for name, value in (("custom_id", custom_id), ("method", outer.method), ("url", outer.url)):
        if value is msgspec.UNSET or value == "":
            message = f"{name} is missing; it must be {_outer_forms(endpoint)[name]}"
            return LineError(code="missing_required_parameter", message=message, param=name)
    assert isinstance(custom_id, str)
    if len(custom_id) > CUSTOM_ID_CHARACTERS_MAX:
        message = f"custom_id has {len(custom_id)} characters; at most {CUSTOM_ID_CHARACTERS_MAX} are allowed"
        return LineError(code="invalid_custom_id", message=message, param="custom_id")
    if outer.method != "POST":
        message = f"method is {str(outer.method)[:16]!r}; it must be POST"
        return LineError(code="invalid_method", message=message, param="method")
    if outer.url != endpoint:
        message = f"url is {str(outer.url)[:64]!r}, the batch's endpoint is {endpoint}"
        return LineError(code="mismatched_endpoint", message=message, param="url")
    if not body:
        message = f"body is missing; it must be {_outer_forms(endpoint)['body']}"
        return LineError(code="missing_required_parameter", message=message, param="body")
    try:
        asked = _decode_body(body)
    except UNREADABLE as error:
        message, param = unreadable(body, error, FORMS, EXAMPLE_BODY, "the request in it")
        at = "body" if param is None else f"body.{param}"
        return LineError(code="invalid_body", message=f"body: {message}", param=at)
    if asked.stream:
        message = "a line of a batch cannot stream; leave stream out"
        return LineError(code="stream_not_supported", message=message, param="body.stream")
    tokens_max = asked.max_completion_tokens or asked.max_tokens
    known = isinstance(tokens_max, int) and 0 < tokens_max <= TOKENS_KNOWN_MAX
    return Line(
        custom_id=custom_id,
        body=body,
        model=asked.model,
        tokens_max=int(tokens_max) if known else 0,  # type: ignore[call-overload]
    )


def check_file(path: Path, rules: Rules, model_flaw: ModelFlaw) -> Index | tuple[LineError, ...]:
    """Every line's place, or what is wrong, at most `ERRORS_MAX` errors."""
    index, errors = Index(), list[LineError]()
    first_with: dict[str, int] = {}
    with path.open("rb") as file:
        for number, offset, data in _split(file, rules.body_bytes_max + LINE_EXTRA_BYTES):
            flaw = None
            if data is None:
                message = f"the line is longer than {rules.body_bytes_max + LINE_EXTRA_BYTES} bytes"
                flaw = LineError(code="line_too_large", message=message)
            elif len(index) >= rules.lines_max:
                message = f"a batch has at most {rules.lines_max} lines"
                errors.append(_at_line(number, LineError(code="too_many_tasks", message=message)))
                break
            else:
                flaw = _check(data, rules, model_flaw, index, first_with, number)
            if flaw is not None:
                errors.append(_at_line(number, flaw))
                if len(errors) >= ERRORS_MAX:
                    break
            elif data is not None:
                index.offsets.append(offset)
                index.sizes.append(len(data))
    if not errors and not len(index):
        message = f"the file has no lines; each is one request such as {EXAMPLE % rules.endpoint}"
        errors.append(LineError(code="empty_file", message=message))
    return tuple(errors) if errors else index


def _at_line(number: int, flaw: LineError) -> LineError:
    return msgspec.structs.replace(flaw, line=number, message=f"line {number}: {flaw.message}")


def _outer_forms(endpoint: str) -> dict[str, str]:
    return {
        "custom_id": 'a string of your own such as "request-1"',
        "method": 'the string "POST"',
        "url": f'the batch\'s endpoint, "{endpoint}"',
        "body": f"a request such as {EXAMPLE_BODY}",
    }


def _check(
    data: bytes,
    rules: Rules,
    model_flaw: ModelFlaw,
    index: Index,
    first_with: dict[str, int],
    number: int,
) -> LineError | None:
    line = read_line(data, rules.endpoint)
    if isinstance(line, LineError):
        return line
    before = first_with.setdefault(line.custom_id, number)
    if before != number:
        message = f"custom_id {line.custom_id[:64]!r} is that of line {before}"
        return LineError(code="duplicate_custom_id", message=message, param="custom_id")
    found = model_flaw(line.model, len(line.body))
    if found is not None:
        return LineError(code=found[0], message=found[1], param="body.model")
    if index.model and line.model != index.model:
        message = f"model is {line.model[:64]!r}, that of the first line {index.model!r}; a batch has one model"
        return LineError(code="mismatched_model", message=message, param="body.model")
    index.model = line.model
    index.tokens_max += line.tokens_max
    index.tokens_max_known += line.tokens_max > 0
    return None


def _split(file: BinaryIO, bytes_max: int) -> Iterator[tuple[int, int, bytes | None]]:
    """(number from 1, offset, bytes) of each line that is not empty; None for one that is too long."""
    number, offset = 0, 0
    while data := file.readline(bytes_max + 2):
        number += 1
        start, offset = offset, offset + len(data)
        if len(data.rstrip(b"\r\n")) > bytes_max:
            while data and not data.endswith(b"\n"):
                data = file.readline(1 << 20)
                offset += len(data)
            yield number, start, None
            continue
        kept = data.strip()
        if number == 1:
            kept = kept.removeprefix(b"\xef\xbb\xbf")  # some editors put it there
        if kept:
            yield number, start + data.index(kept), kept
