"""What is wrong with a request, in words that its writer can act on: where, what came, what is allowed.

Here: errors of decoding put into a client's terms, lists of what is allowed. Not here: which status and code (`doors`, `desk`, `live.batch`),
the error's shape (`answers`), what an engine says (`engine_error`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

NAMES_SHOWN_MAX: Final = 20
"""Of models in one message; the rest are in `GET /v1/models`."""
SHOWN_CHARACTERS_MAX: Final = 64
"""Of what a client sent, as it is repeated to it."""

_KINDS: Final = {
    "str": "a string",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "null": "null",
    "array": "an array",
    "object": "an object",
}
"""msgspec's name of a JSON type -> how it is called here."""
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")
_GOT: Final = re.compile(r"Expected `[^`]*`, got `([^`]*)`")
_AT: Final = re.compile(r" - at `\$\.?([^`]*)`$")


def unreadable(
    data: bytes, error: Exception, forms: Mapping[str, str], example: str, what: str = "the body"
) -> tuple[str, str | None]:
    """(message, param) of JSON that is none or not of its form; `forms` says of each field what it takes."""
    if not data.strip():
        return f"{what} is empty: a JSON object is missing; send one such as {example}", None
    if not isinstance(error, msgspec.ValidationError):
        return f"{what} is not JSON: {error}; send an object such as {example}", None
    text = str(error)
    at = _AT.search(text)
    path = at[1] if at else ""
    missing, got = _MISSING.search(text), _GOT.search(text)
    if missing:
        path = f"{path}.{missing[1]}".lstrip(".")
    if not path:
        came = _KINDS.get(got[1], got[1]) if got else text
        return f"{what} is {came}; send an object such as {example}", None
    param = re.split(r"[.\[]", path)[0]
    if missing:
        said = "is missing"
    elif got:
        said = f"is {_KINDS.get(got[1], got[1])}"
    else:
        said = f"cannot be read ({text[: at.start() if at else None]})"
    form = forms.get(param)
    return f"{path} {said}" + (f"; {param} must be {form}" if form else ""), param


def no_model(name: str, names: Sequence[str]) -> str:
    """A key asked for a model that there is not, or that is not its own."""
    return (
        f"the model {name[:SHOWN_CHARACTERS_MAX]!r} does not exist or this key may not use it; "
        f"it may use {listed(names, 'no model')}"
    )


def listed(names: Iterable[str], none: str) -> str:
    """What is allowed, in a message."""
    allowed = tuple(names)
    more = len(allowed) - NAMES_SHOWN_MAX
    return (", ".join(allowed[:NAMES_SHOWN_MAX]) or none) + (
        f" and {more} more" if more > 0 else ""
    )
