"""Files and batches over HTTP, through a gateway's client port: every no is in OpenAI's shape and says what is allowed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import uvicorn

from hanse.live.batch.access import Access
from hanse.live.batch.api import Api
from hanse.live.batch.asking import Hops, Lines
from hanse.live.batch.commits import Commits
from hanse.live.batch.keeper import Keeper
from hanse.live.batch.runner import Runner
from hanse.live.batch.store import Store
from hanse.live.runtime import private_socket
from hanse.model.fleet import Batch as Limits
from live.batch.home import CHAT, MemoryCommits, MemoryLines, answered
from live.gateway.rig import SHOP_KEY, Answer, SiteRig, ask, raw, request, run, start

BOUNDARY = "b0"
LINE = {"custom_id": "a", "method": "POST", "url": CHAT, "body": {"model": "chat", "messages": []}}


@contextlib.asynccontextmanager
async def batches(site: SiteRig) -> AsyncIterator[None]:
    """The batch process of a site, in this one; lines are never run."""
    access = Access(site.name, site.home, {})
    access.refresh()
    commits = cast(Commits, MemoryCommits())
    lines = cast(Lines, MemoryLines(lambda _: answered()))
    runner = Runner(lines, commits, 8, lambda _: None)
    keeper = Keeper(site.name, Store(site.home / "batch"), access, commits, runner, Limits())
    app = Api(keeper, access, Hops(None, {}, access)).app()
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
    with tempfile.TemporaryDirectory() as short:
        path = Path(short) / "jobs.sock"
        listening = private_socket(path)
        listening.listen()
        site.worker.settings = msgspec.structs.replace(site.worker.settings, batch_socket=str(path))
        keeping = asyncio.create_task(keeper.run())
        serving = asyncio.create_task(server._serve([listening]))
        try:
            yield
        finally:
            server.should_exit = True
            keeping.cancel()
            await asyncio.gather(keeping, serving, return_exceptions=True)


def form(content: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """(body, its content-type header) of an upload."""
    parts = [
        f'content-disposition: form-data; name="{name}"\r\n\r\n{text}'.encode()
        for name, text in fields.items()
    ]
    parts.append(b'content-disposition: form-data; name="file"; filename="x"\r\n\r\n' + content)
    body = b"".join(b"--b0\r\n" + part + b"\r\n" for part in parts) + b"--b0--\r\n"
    return body, {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


async def upload(port: int, content: bytes, **fields: str) -> Answer:
    body, headers = form(content, **({"purpose": "batch"} | fields))
    whole = request(body, path="/v1/files", headers=headers)
    return await raw(port, whole.replace(b"content-type: application/json\r\n", b"", 1))


async def create(port: int, body: dict[str, Any] | bytes) -> Answer:
    return await ask(port, body, path="/v1/batches")


def no(answer: Answer) -> dict[str, Any]:
    """The error of an answer, which has exactly OpenAI's fields."""
    assert answer.headers["content-type"] == "application/json"
    error: dict[str, Any] = answer.json["error"]
    assert {"message", "type", "param", "code"} <= set(error)
    assert isinstance(error["message"], str)
    assert isinstance(error["code"], str)
    return error


def test_unknown_paths_and_methods_are_in_openais_shape(tmp_path: Path) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path))["lyon"]
        one = "/v1/batches/batch_lyon_" + "0" * 24
        async with batches(lyon):
            for method, path, status, allow in (
                ("DELETE", one, 405, "GET"),
                ("PUT", one, 405, "GET, OPTIONS"),
                ("POST", "/v1/files/x", 405, "DELETE, GET"),
                ("PATCH", "/v1/files/x", 405, "GET, DELETE, OPTIONS"),
                ("GET", one + "/cancel", 405, "POST"),
                ("DELETE", "/v1/batches", 405, "GET, POST"),
                ("HEAD", "/v1/files", 405, "GET, POST, OPTIONS"),
                ("GET", "/v1/batches/batch_frankfurt_%2e%2e%2fx", 404, None),
                ("GET", "/v1/filesystem", 404, None),
                ("GET", "/v1/files/", 404, None),
                ("GET", "/v1/nothing", 404, None),
                ("PUT", CHAT, 405, "POST, OPTIONS"),
                ("DELETE", "/v1/models", 405, "GET, HEAD, OPTIONS"),
            ):
                if method == "HEAD":
                    head = request(b"", path=path, method=method)
                    reader, writer = await asyncio.open_connection("127.0.0.1", lyon.port)
                    writer.write(head)
                    assert b" 405 " in await reader.readline()
                    writer.close()
                    continue
                answer = await ask(lyon.port, b"", path=path, method=method)
                assert (answer.status, answer.headers.get("allow")) == (status, allow), path
                code = "method_not_allowed" if status == 405 else "not_found"
                assert no(answer)["code"] == code
                for name in (allow or "").split(", "):
                    assert name in no(answer)["message"]
            strange = request(b"", path="/v1/files/X", method="GET").replace(b"X", b"\xff", 1)
            answer = await raw(lyon.port, strange)
            assert (answer.status, no(answer)["code"]) == (400, "malformed_request")
            options = await ask(lyon.port, b"", path="/v1/files", method="OPTIONS")
            assert (options.status, options.headers["allow"]) == (204, "GET, POST, OPTIONS")

    run(test)


def test_a_bug_of_the_batch_process_is_an_error_in_openais_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path))["lyon"]
        async with batches(lyon):
            file = (await upload(lyon.port, b"{}")).json["id"]
            monkeypatch.setattr(Store, "in_use", None)
            answer = await ask(lyon.port, b"", path=f"/v1/files/{file}", method="DELETE")
            assert (answer.status, no(answer)["code"]) == (500, "internal_error")

    run(test)


def test_queries_of_lists_say_what_is_allowed(tmp_path: Path) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path))["lyon"]
        async with batches(lyon):
            assert (await upload(lyon.port, b"{}")).status == 200
            for query, status, param, said in (
                ("files?after=zzz", 404, "after", "no file 'zzz'"),
                ("batches?after=zzz", 404, "after", "no batch 'zzz'"),
                ("files/zzz", 404, "id", "no file 'zzz'"),
                ("files?order=sideways", 400, "order", "'sideways'; it must be one of asc, desc"),
                ("batches?order=sideways", 400, "order", "'sideways'; it must be one of asc, desc"),
                ("files?purpose=zzz", 400, "purpose", "'zzz'; it must be one of batch, batch_out"),
                ("files?limit=0", 400, "limit", "'0'; it must be a whole number from 1 to 10000"),
                ("batches?limit=101", 400, "limit", "'101'; it must be a whole number from 1 to 1"),
                ("batches?limit=%C2%B2", 400, "limit", "'²'; it must be a whole number"),
            ):
                answer = await ask(lyon.port, b"", path=f"/v1/{query}", method="GET")
                assert (answer.status, no(answer)["param"]) == (status, param), query
                assert said in no(answer)["message"]
            good = "/v1/files?order=asc&purpose=batch&limit=1"
            answer = await ask(lyon.port, b"", path=good, method="GET")
            assert (answer.status, len(answer.json["data"])) == (200, 1)

    run(test)


def test_a_batch_that_is_asked_for_wrongly_names_the_field_and_its_form(tmp_path: Path) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path))["lyon"]
        async with batches(lyon):
            file = (await upload(lyon.port, json.dumps(LINE).encode())).json["id"]
            good = {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"}
            for body, param, said in (
                ({"input_file_id": file, "endpoint": CHAT}, "completion_window", '"24h"'),
                (good | {"completion_window": 24}, "completion_window", "is a number; "),
                (good | {"completion_window": "1 day"}, "completion_window", "'1 day'; "),
                (good | {"endpoint": None}, "endpoint", f'one of "{CHAT}"'),
                (good | {"endpoint": "/v1/x"}, "endpoint", "'/v1/x'"),
                ({"endpoint": CHAT, "completion_window": "24h"}, "input_file_id", "is missing"),
                (good | {"metadata": {"a": 1}}, "metadata", '{"run": "7"}'),
                (good | {"metadata": []}, "metadata", "is an array"),
                (b"", None, "a JSON object is missing"),
                (b"[]", None, "the body is an array; send an object such as"),
                (b'{"input_file_id"', None, "the body is not JSON"),
            ):
                answer = await create(lyon.port, body)  # type: ignore[arg-type]
                assert (answer.status, no(answer)["param"]) == (400, param), body
                assert no(answer)["type"] == "invalid_request_error"
                assert said in no(answer)["message"], no(answer)
            unknown = no(await create(lyon.port, good | {"input_file_id": "zzz"}))
            assert (unknown["code"], unknown["param"]) == ("file_not_found", "input_file_id")
            assert (await create(lyon.port, good)).status == 200

    run(test)


async def ended(port: int, content: bytes) -> list[dict[str, Any]]:
    """What is wrong with a file, as the batch of it says."""
    file = (await upload(port, content)).json["id"]
    made = await create(port, {"input_file_id": file, "endpoint": CHAT, "completion_window": "24h"})
    for _ in range(500):
        path = f"/v1/batches/{made.json['id']}"
        now = (await ask(port, b"", path=path, method="GET")).json
        if now["status"] == "failed":
            return cast("list[dict[str, Any]]", now["errors"]["data"])
        await asyncio.sleep(0.01)
    raise AssertionError(now["status"])


def test_wrong_lines_name_their_line_field_and_form(tmp_path: Path) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path))["lyon"]
        async with batches(lyon):
            rows: list[dict[str, Any]] = [
                LINE,
                LINE | {"custom_id": 7},
                LINE | {"custom_id": "b", "body": {"messages": []}},
                LINE | {"custom_id": "c", "body": {"model": "nothing"}},
            ]
            errors = await ended(lyon.port, "\n".join(map(json.dumps, rows)).encode())
            assert [(e["line"], e["param"]) for e in errors] == [
                (2, "custom_id"),
                (3, "body.model"),
                (4, "body.model"),
            ]
            assert all(e["message"].startswith(f"line {e['line']}: ") for e in errors)
            assert "custom_id is a number; custom_id must be a string" in errors[0]["message"]
            assert "it may use chat, gpt-4o-mini, embed" in errors[2]["message"]
            (empty,) = await ended(lyon.port, b"")
            assert (empty["code"], empty["line"]) == ("empty_file", None)
            assert "None" not in empty["message"]

    run(test)


def test_uploads_say_what_is_allowed_and_nothing_of_other_tenants(tmp_path: Path) -> None:
    async def test() -> None:
        site = (await start(tmp_path, sites=("lyon", "virginia")))["virginia"]
        async with batches(site):
            public = {"x-hanse-class": "public"}
            for fields, param, said in (
                ({"purpose": ""}, "purpose", "purpose is missing; it must be batch"),
                ({"purpose": "vision"}, "purpose", "'vision'; it must be batch"),
                ({"expires_after[seconds]": "60"}, "expires_after", "'60'; it must be whole"),
                ({"expires_after[seconds]": "1e9"}, "expires_after", "from 3600 (an hour)"),
                ({"expires_after[anchor]": "now"}, "expires_after", "must be created_at"),
            ):
                body, headers = form(b"{}", **({"purpose": "batch"} | fields))
                whole = request(body, path="/v1/files", headers=headers | public)
                answer = await raw(
                    site.port, whole.replace(b"content-type: application/json\r\n", b"", 1)
                )
                assert (answer.status, no(answer)["param"]) == (400, param), fields
                assert said in no(answer)["message"]
            body, headers = form(b"{}", purpose="batch")
            whole = request(body, path="/v1/files", headers=headers | public)
            made = await raw(
                site.port, whole.replace(b"content-type: application/json\r\n", b"", 1)
            )
            path = f"/v1/files/{made.json['id']}"
            other = await ask(site.port, b"", path=path, method="GET", key=SHOP_KEY)
            assert (other.status, no(other)["code"]) == (404, "file_not_found")
            assert "clinic" not in other.body.decode()

    run(test)
