"""What the gateway says itself: heads, errors in OpenAI's shape, refusals.

Here: bytes from values, nothing else. Not here: when to say what (`flow`, `doors`), sockets (`incoming`).
"""

from __future__ import annotations

from email.utils import formatdate

import msgspec

REASONS = {
    100: "Continue",
    200: "OK",
    204: "No Content",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    417: "Expectation Failed",
    421: "Misdirected Request",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    451: "Unavailable For Legal Reasons",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
}

STATUS_LINES = {
    status: f"HTTP/1.1 {status} {reason}\r\n".encode() for status, reason in REASONS.items()
}

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    417: "invalid_request_error",
    421: "misdirected_request_error",
    429: "rate_limit_error",
    431: "invalid_request_error",
    451: "refused_by_law_error",
}
"""OpenAI's `error.type` by status; everything else is `server_error`."""


def status_line(status: int) -> bytes:
    """The first line of an answer, also for a status an engine invented."""
    return STATUS_LINES.get(status) or f"HTTP/1.1 {status} Unknown\r\n".encode()


def error_body(
    status: int,
    code: str,
    message: str,
    *,
    param: str | None = None,
    hanse: dict[str, object] | None = None,
) -> bytes:
    """An error as OpenAI's clients parse it; `hanse` holds what only we can say (rules, gateway)."""
    return openai_error(message, KINDS.get(status, "server_error"), param, code, hanse)


def openai_error(
    message: str,
    kind: str,
    param: str | None,
    code: str | None,
    hanse: dict[str, object] | None = None,
) -> bytes:
    """OpenAI's shape of an error."""
    error: dict[str, object] = {"message": message, "type": kind, "param": param, "code": code}
    if hanse is not None:
        error["hanse"] = hanse
    return msgspec.json.encode({"error": error})


def stream_error(code: str, message: str, hanse: dict[str, object] | None = None) -> bytes:
    """The event that ends a broken stream; OpenAI's client raises it as an `APIError`."""
    return b"event: error\ndata: " + error_body(502, code, message, hanse=hanse) + b"\n\n"


def head(
    status: int,
    *,
    length: int,
    content_type: bytes = b"application/json",
    extra: bytes = b"",
    keep_alive: bool = True,
    date: bytes = b"",
) -> bytes:
    """A complete head for a body of known length. `extra` is whole header lines."""
    return b"".join(
        (
            STATUS_LINES.get(status) or status_line(status),
            date,
            b"content-type: ",
            content_type,
            b"\r\ncontent-length: %d\r\n" % length,
            extra,
            b"\r\n" if keep_alive else b"connection: close\r\n\r\n",
        )
    )


def date_line(now_s: float) -> bytes:
    """`date:` header line; made once a second, not per answer."""
    return b"date: " + formatdate(now_s, usegmt=True).encode() + b"\r\n"
