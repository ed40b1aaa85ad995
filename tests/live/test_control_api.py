"""The control API as strangers meet it: who may ask what, and a document that says nothing but the truth."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.live.control_api import ControlApi
from hanse.signals import Feed
from web.fake_league import FakeLeague
from web.serving import served

SECRET = "secret-of-this-hub"
SHOWN = {"Authorization": f"Bearer {SECRET}"}
SCENARIO = json.dumps({"overrides": [], "clock_speed": 2.0}).encode()


@asynccontextmanager
async def control(rng: np.random.Generator) -> AsyncIterator[tuple[int, list[Feed]]]:
    """The port of a control API with a busy league behind it, and the scenarios that it took."""
    league, taken = FakeLeague(rng), list[Feed]()
    league.busy_day(30)
    league.tick()
    api = ControlApi(league, rule_texts={}, on_scenario=taken.append, secret=SECRET)  # type: ignore[arg-type]
    async with served(api.app) as url:
        yield int(url.rpartition(":")[2]), taken


async def ask(
    port: int, head: str, body: bytes = b"", **headers: str
) -> tuple[int, dict[str, str]]:
    """Status and headers of one answer; `host` is the address unless it is given."""
    lines = {"host": f"127.0.0.1:{port}", **{n.replace("_", "-"): v for n, v in headers.items()}}
    sent = [f"{head} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items())]
    sent += [f"content-length: {len(body)}", "connection: close", "", ""]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join(sent).encode() + body)
    if head == "GET /api/stream":
        answer = await reader.readuntil(b"\r\n\r\n")
    else:
        answer = await reader.read()
    writer.close()
    first, *rest = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in rest)


PATHS = (
    "/",
    "/api/view.json",
    "/api/stream",
    "/api/scenario",
    "/healthz",
    "/openapi.json",
    "/static/hanse.css",
)
FOREIGN: dict[str, dict[str, str]] = {
    "a name that was made to point here": {"host": "evil.example:80"},
    "an address in another's name": {"host": "127.0.0.1.evil.example"},
    "no name": {"host": ""},
    "half an address": {"host": "[::1"},
    "a page of another origin": {"origin": "http://evil.example"},
    "a sandboxed page": {"origin": "null"},
    "a page of another port": {"origin": "http://127.0.0.1:1"},
    "an image in a page": {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
    "a page of another port of this machine": {
        "sec_fetch_site": "same-site",
        "sec_fetch_mode": "cors",
    },
}


def test_nothing_is_told_to_who_asks_under_another_name_or_from_another_page(
    rng: np.random.Generator,
) -> None:
    async def test() -> None:
        async with control(rng) as (port, _):
            for path in PATHS:
                assert (await ask(port, f"GET {path}"))[0] == 200, path
                for who, headers in FOREIGN.items():
                    status, answered = await ask(port, f"GET {path}", **headers)
                    assert status == 403, (who, path)
                    assert "default-src 'none'" in answered["content-security-policy"]

    asyncio.run(test())


def test_a_person_asks_by_address_or_localhost_and_may_follow_a_link(
    rng: np.random.Generator,
) -> None:
    async def test() -> None:
        async with control(rng) as (port, _):
            own = f"http://127.0.0.1:{port}"
            good: list[dict[str, str]] = [
                {"host": f"localhost:{port}"},
                {"host": f"[::1]:{port}"},
                {"host": "192.0.2.7"},  # behind a forwarded port, as its owner made it
                {"origin": own, "sec_fetch_site": "same-origin", "sec_fetch_mode": "cors"},
                {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
            ]
            for headers in good:
                assert (await ask(port, "GET /", **headers))[0] == 200, headers

    asyncio.run(test())


def test_a_scenario_is_taken_from_who_shows_the_secret_alone(rng: np.random.Generator) -> None:
    json_kind = {"content_type": "application/json"}
    refused: dict[str, tuple[int, dict[str, Any]]] = {
        "nobody": (401, json_kind),
        "another secret": (401, json_kind | {"authorization": "Bearer secret"}),
        "a longer secret": (401, json_kind | {"authorization": f"Bearer {SECRET}x"}),
        "letters that are none": (401, json_kind | {"authorization": "Bearer \xff"}),
        "another scheme": (401, json_kind | {"authorization": f"Basic {SECRET}"}),
        "a form": (415, {"content_type": "text/plain", "authorization": f"Bearer {SECRET}"}),
        "a page": (
            403,
            json_kind | {"authorization": f"Bearer {SECRET}", "origin": "http://evil.example"},
        ),
    }

    async def test() -> None:
        async with control(rng) as (port, taken):
            for who, (status, headers) in refused.items():
                assert (await ask(port, "POST /api/scenario", SCENARIO, **headers))[0] == status, (
                    who
                )
            assert taken == []
            good = json_kind | {"authorization": f"Bearer {SECRET}"}
            assert (await ask(port, "POST /api/scenario", SCENARIO, **good))[0] == 200
            assert [feed.clock_speed for feed in taken] == [2.0]

    asyncio.run(test())


def test_a_body_that_breaks_off_is_no_scenario_and_leaves_no_traceback(
    rng: np.random.Generator, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        async with control(rng) as (port, taken):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = f"POST /api/scenario HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {SECRET}\r\n"
            head += "content-type: application/json\r\ncontent-length: 99\r\n\r\n{"
            writer.write(head.encode())
            await writer.drain()
            writer.close()
            await writer.wait_closed()
            assert (await ask(port, "GET /healthz"))[0] == 200
            assert taken == []

    asyncio.run(test())
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []


def test_every_route_is_in_the_document_and_nothing_else(rng: np.random.Generator) -> None:
    async def test() -> None:
        league = FakeLeague(rng)
        api = ControlApi(league, rule_texts={}, on_scenario=print, secret=SECRET)  # type: ignore[arg-type]
        async with served(api.app) as url:
            port = int(url.rpartition(":")[2])
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"GET /openapi.json HTTP/1.0\r\nhost: 127.0.0.1:{port}\r\n\r\n".encode())
            said = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
            writer.close()
        described = {
            (path, method.upper()) for path, known in said["paths"].items() for method in known
        }
        routed = {
            (route.path.replace(":path}", "}"), method)
            for route in api.app.routes
            if hasattr(route, "methods")
            for method in route.methods - {"HEAD"}
        }
        assert described == routed - {("/openapi.json", "GET")}
        assert said["paths"]["/api/scenario"]["post"]["security"] == [{"bearer": []}]

    asyncio.run(test())


@pytest.mark.parametrize(
    ("phases", "examples"),
    [("fuzzing", 10), pytest.param("coverage,fuzzing", 400, marks=pytest.mark.long)],
)
def test_schemathesis_finds_no_answer_that_the_document_does_not_say(
    rng: np.random.Generator, tmp_path: Path, phases: str, examples: int, seed: int
) -> None:
    """Wrong types, missing parts, odd methods, absent secrets; the stream has no end and is left out."""

    def attack(port: int) -> subprocess.CompletedProcess[str]:
        (header,) = (f"{name}: {value}" for name, value in SHOWN.items())
        return subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json",
             "--header", header, "--exclude-path", "/api/stream", "--seed", str(seed),
             "--phases", phases, "--max-examples", str(examples), "--generation-database", "none", "--no-color"],
            cwd=tmp_path, env={**os.environ, "PYTHONWARNINGS": "ignore"},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    async def test() -> None:
        async with control(rng) as (port, taken):
            done = await asyncio.to_thread(attack, port)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
            assert taken, "no scenario that it made was a good one"
            assert (await ask(port, "GET /healthz"))[0] == 200

    asyncio.run(test())
