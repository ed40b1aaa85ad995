"""What clients ask of files and batches, checked: bodies, forms and queries become values, or a no that says what is allowed.

Here: `POST /v1/batches`, the fields of an upload, the query of a list. Not here: whether what is asked can be done (`keeper`, `access`).
"""

from __future__ import annotations

from typing import Final

import msgspec
from starlette.requests import Request

from hanse.live.batch.access import ENDPOINTS
from hanse.live.batch.keeper import Ask
from hanse.live.batch.values import METADATA_MAX, SHOWN_MAX, WINDOW_FORM, Problem, whole
from hanse.live.gateway.wording import unreadable
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE

LISTED: Final = {"file": (10_000, 10_000), "batch": (20, 100)}
"""Default and most, as OpenAI's."""
ORDERS: Final = ("asc", "desc")
PURPOSES: Final = ("batch", "batch_output")

_EXAMPLE: Final = (
    '{"input_file_id": "file-...", "endpoint": "/v1/chat/completions", "completion_window": "24h"}'
)
_FORMS: Final = {
    "input_file_id": 'the id of an uploaded file, such as "file-..." of POST /v1/files',
    "endpoint": "one of " + ", ".join(f'"{path}"' for path in ENDPOINTS),
    "completion_window": WINDOW_FORM,
    "output_expires_after": '{"anchor": "created_at", "seconds": 86400}',
    "metadata": f'an object of at most {METADATA_MAX} strings such as {{"run": "7"}}',
}


class Listing(Value, frozen=True, kw_only=True):
    """The query of a list."""

    kind: str
    limit: int
    newest_first: bool
    after: str
    purpose: str

    @classmethod
    def of(cls, request: Request, kind: str) -> Listing:
        """Raises:
        Problem: something in it is none of what is allowed.
        """
        query = request.query_params
        return cls(
            kind=kind,
            limit=_limit(query.get("limit", ""), *LISTED[kind]),
            newest_first=_one_of("order", query.get("order", ""), ORDERS) != "asc",
            after=query.get("after", ""),
            purpose=_one_of("purpose", query.get("purpose", ""), PURPOSES)
            if kind == "file"
            else "",
        )


def ask_of(data: bytes) -> Ask:
    """The body of `POST /v1/batches`.

    Raises:
        Problem: it is none.
    """
    try:
        return msgspec.json.decode(data, type=Ask)
    except UNREADABLE as error:
        message, param = unreadable(data, error, _FORMS, _EXAMPLE)
        raise Problem(400, "invalid_request", message, param) from None


def check_purpose(purpose: str) -> None:
    """Raises:
    Problem: an upload is not for batches.
    """
    if purpose != "batch":
        said = f"is {purpose[:SHOWN_MAX]!r}" if purpose else "is missing"
        message = f"purpose {said}; it must be batch, the only one that is served here"
        raise Problem(400, "invalid_purpose", message, "purpose")


def _limit(text: str, default: int, most: int) -> int:
    if not text:
        return default
    if not whole(text) or not 1 <= int(text) <= most:
        message = f"limit is {text[:SHOWN_MAX]!r}; it must be a whole number from 1 to {most}"
        raise Problem(400, "invalid_limit", message, "limit")
    return int(text)


def _one_of(name: str, text: str, allowed: tuple[str, ...]) -> str:
    if text and text not in allowed:
        message = f"{name} is {text[:SHOWN_MAX]!r}; it must be one of {', '.join(allowed)}"
        raise Problem(400, f"invalid_{name}", message, name)
    return text
