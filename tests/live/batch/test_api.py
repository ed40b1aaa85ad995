"""Answers of the batch process: what a client reads of a refusal, and lists of what two sites hold."""

from __future__ import annotations

import asyncio
import json
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from hanse.live.batch.access import Access
from hanse.live.batch.api import Api, told
from hanse.live.batch.asking import Whole
from hanse.live.batch.values import Problem, batch_object, file_object
from live.batch.home import Home, hops

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


def test_what_two_sites_list_is_listed_once(tmp_path: Path) -> None:
    """The old home has not heard yet that batches were taken over; pages come to an end, and show who goes on."""
    home = Home(tmp_path)
    mine = [home.begin(1) for _ in range(3)]
    moved = [msgspec.structs.replace(meta, home="tallinn", epoch=2) for meta in mine[:2]]
    lists: dict[str, list[dict[str, Any]]] = {
        "files": [file_object(meta) for meta in home.store.files.values()],
        "batches": [batch_object(meta) for meta in moved],
    }

    def act(_site: str, _method: str, path: str) -> Whole:
        return Whole(200, {}, json.dumps({"data": lists[path.removeprefix("/v1/")]}).encode())

    api = Api(home.keeper, cast(Access, home.access), hops(act)[1])

    async def listed(kind: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        more = True
        while more:
            after = f"&after={found[-1]['id']}" if found else ""
            query = f"limit=1{after}".encode()
            request = Request(SCOPE | {"path": f"/v1/{kind}", "query_string": query})
            page = json.loads((await getattr(api, f"list_{kind}")(request)).body)
            found += page["data"]
            more = page["has_more"]
            assert len(found) <= 3
        return found

    files, batches = asyncio.run(listed("files")), asyncio.run(listed("batches"))
    assert {row["id"] for row in files} == set(home.store.files)
    assert {row["id"]: row["metadata"]["hanse:home"] for row in batches} == {
        meta.id: meta.home for meta in (*moved, mine[2])
    }


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_list_is_read_to_its_end_by_who_deletes_what_it_reads(tmp_path: Path, order: str) -> None:
    home = Home(tmp_path)
    ids = {home.upload(1).id for _ in range(7)}
    api = Api(
        home.keeper, cast(Access, home.access), hops(lambda *_: Whole(200, {}, b'{"data":[]}'))[1]
    )

    async def read() -> list[str]:
        found: list[str] = []
        while True:
            after = f"&after={found[-1]}" if found else ""
            query = f"limit=2&order={order}{after}".encode()
            request = Request(SCOPE | {"path": "/v1/files", "query_string": query})
            page = json.loads((await api.list_files(request)).body)
            for row in page["data"]:
                home.keeper.delete_file(row["id"])
                found.append(row["id"])
            if not page["has_more"]:
                return found

    found = asyncio.run(read())
    assert sorted(found) == sorted(ids)
    request = Request(
        SCOPE | {"path": "/v1/files", "query_string": b"after=file-lyon-" + b"0" * 24}
    )
    with pytest.raises(Problem):
        asyncio.run(api.list_files(request))
