"""Answers of the batch process: what a client reads of a refusal."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hanse.live.batch.api import told
from hanse.live.batch.values import Problem

SCOPE = {"type": "http", "method": "POST", "path": "/v1/files", "headers": [], "query_string": b""}


async def refused(_: Request) -> Response:
    raise Problem(429, "quota_exceeded", "full", "file")


def asked(pieces: list[MutableMapping[str, Any]]) -> tuple[Response, int]:
    """The answer, and how many of the body's pieces were left unread."""

    async def receive() -> MutableMapping[str, Any]:
        return pieces.pop(0)

    async def answer() -> Response:
        return await told(refused)(Request(SCOPE, receive))

    return asyncio.run(answer()), len(pieces)


def test_a_body_is_read_to_its_end_before_it_is_refused() -> None:
    body: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": b"x" * 65_536, "more_body": True},
        {"type": "http.request", "body": b"x", "more_body": False},
    ]
    answer, left = asked(body)
    assert (answer.status_code, left) == (429, 0)


def test_a_client_that_goes_meanwhile_is_no_error_of_ours() -> None:
    half: list[MutableMapping[str, Any]] = [
        {"type": "http.request", "body": b"x", "more_body": True},
        {"type": "http.disconnect"},
    ]
    answer, left = asked(half)
    assert (answer.status_code, left) == (429, 0)
