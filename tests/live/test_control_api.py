"""The control API as strangers meet it: who may ask what, and a document that says nothing but the truth."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hanse.live.control_api import ControlApi
from hanse.model.read import read_fleet
from hanse.signals import Feed
from web.fake_league import LEAGUE, FakeLeague
from web.serving import served

DOCS = Path(__file__).parents[2] / "docs" / "operate.md"
SITES = read_fleet(LEAGUE).sites
SECRET = "secret-of-this-hub"
SHOWN = {"Authorization": f"Bearer {SECRET}"}
SCENARIO = json.dumps({"overrides": [], "clock_speed": 2.0}).encode()


def made(league: FakeLeague, on_scenario: Callable[[Feed], None]) -> ControlApi:
    return ControlApi(
        league,  # type: ignore[arg-type]
        rule_texts={},
        on_scenario=on_scenario,
        secret=SECRET,
        key_file="DIR/hub/control.key",
        sites=lambda: SITES,
    )


@asynccontextmanager
async def control(rng: np.random.Generator) -> AsyncIterator[tuple[int, list[Feed]]]:
    """The port of a control API with a busy league behind it, and the scenarios that it took."""
    league, taken = FakeLeague(rng), list[Feed]()
    league.busy_day(30)
    league.tick()
    api = made(league, taken.append)
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


async def told(port: int, body: bytes, **headers: str) -> tuple[int, str]:
    """Status and message of what is posted."""
    sent = {"content-type": "application/json", **headers}
    url = f"http://127.0.0.1:{port}/api/scenario"
    request = urllib.request.Request(url, body, sent)

    def post() -> tuple[int, str]:
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())["error"]["message"]

    return await asyncio.to_thread(post)


def test_who_shows_no_secret_is_told_the_file_and_the_form(rng: np.random.Generator) -> None:
    async def test() -> None:
        async with control(rng) as (port, _):
            status, why = await told(port, SCENARIO)
            assert status == 401
            assert '-H "authorization: Bearer $(cat DIR/hub/control.key)"' in why

    asyncio.run(test())


def test_the_command_of_the_docs_is_taken(rng: np.random.Generator) -> None:
    """With its own body and the header that it shows."""
    (command,) = re.findall(r"^    curl -H .*?}]}'$", DOCS.read_text(), re.M | re.S)
    assert '-H "authorization: Bearer $(cat DIR/hub/control.key)"' in command
    (body,) = re.findall(r"-d '(.*)'", command, re.S)

    async def test() -> None:
        async with control(rng) as (port, taken):
            assert (await told(port, body.encode(), **SHOWN))[0] == 200
            assert taken[0].overrides[0].place == "virginia"

    asyncio.run(test())


GOOD = {
    "kind": "carbon_factor", "place": "lyon", "value": 2.0, "from_s": 10.0, "until_s": 20.0, "reason": "x",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "cloud"}, "overrides[1].kind: got 'cloud', need one of 'cloud_pct', "),
        ({"place": "atlantis"}, "overrides[1].place: got 'atlantis', need *, or one of "),
        (
            {"kind": "grid_factor", "place": "DE"},
            "overrides[1].place: got 'DE', need *, or one of ",
        ),
        ({"until_s": 5}, "overrides[1].until_s: got 5, need an instant after from_s = 10"),
        ({"valu": 5}, "overrides[1].valu: got a field of no meaning, need kind, place, value"),
    ],
)
def test_what_a_fleet_has_no_use_for_is_refused_with_what_is_allowed(
    rng: np.random.Generator, change: dict[str, object], said: str
) -> None:
    async def test() -> None:
        async with control(rng) as (port, taken):
            body = json.dumps({"overrides": [GOOD, GOOD | change]}).encode()
            status, why = await told(port, body, **SHOWN)
            assert status == 400 and said in why and taken == []
            for place in ("*", "FR", "lyon", "DE"):
                body = json.dumps({"overrides": [GOOD | {"place": place}]}).encode()
                assert (await told(port, body, **SHOWN))[0] == 200, place

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
        api = made(league, print)
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


HOOKS = """
import schemathesis


@schemathesis.hook
def map_body(context, body):
    \"\"\"No schema knows the fleet, or that dates come in order: what is well formed gets a place and dates that are.\"\"\"
    found = body.get("overrides") if isinstance(body, dict) else None
    for one in found if isinstance(found, list) else ():
        if isinstance(one, dict):
            dates = one.get("from_s"), one.get("until_s")
            if isinstance(one.get("place"), str):
                one["place"] = "*"
            if all(isinstance(d, (int, float)) and not isinstance(d, bool) for d in dates):
                one["from_s"], one["until_s"] = min(dates), max(dates)
                if dates[0] == dates[1] and abs(dates[0]) <= 1e15:
                    one["from_s"], one["until_s"] = 0, 1
    return body
"""


@pytest.mark.parametrize(
    ("phases", "examples"),
    [("fuzzing", 10), pytest.param("coverage,fuzzing", 400, marks=pytest.mark.long)],
)
def test_schemathesis_finds_no_answer_that_the_document_does_not_say(
    rng: np.random.Generator, tmp_path: Path, phases: str, examples: int, seed: int
) -> None:
    """Wrong types, missing parts, odd methods, absent secrets; the stream has no end and is left out."""
    (tmp_path / "hooks.py").write_text(HOOKS)

    def attack(port: int) -> subprocess.CompletedProcess[str]:
        (header,) = (f"{name}: {value}" for name, value in SHOWN.items())
        return subprocess.run(
            [sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{port}/openapi.json",
             "--header", header, "--exclude-path", "/api/stream", "--seed", str(seed),
             "--phases", phases, "--max-examples", str(examples), "--generation-database", "none", "--no-color"],
            cwd=tmp_path, env={**os.environ, "PYTHONWARNINGS": "ignore", "SCHEMATHESIS_HOOKS": "hooks"},
            capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    async def test() -> None:
        async with control(rng) as (port, taken):
            done = await asyncio.to_thread(attack, port)
            assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
            assert taken, "no scenario that it made was a good one"
            assert (await ask(port, "GET /healthz"))[0] == 200

    asyncio.run(test())
