"""The controller's HTTP side: the dashboard, and the scenario that `hanse tour` plays.

Here: the picture the dashboard draws from, `GET` and `POST /api/scenario`, serving both. Not here:
the dashboard itself (`web`), what a scenario changes (`live.controller`).

A scenario is a `signals.Feed` in JSON: `{"overrides": [...], "clock_offset_s": 0}`. It replaces the one
before. Only programs on this machine may post: another address, a page in a browser (it sends
`Origin`) and any content type but JSON are refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Final

import msgspec
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from hanse.errors import HanseError
from hanse.signals import Feed
from hanse.view import LeagueView, ViewState
from hanse.web.app import make_app

SCENARIO_BYTES_MAX: Final = 1024 * 1024
"""A thousand sites with an override each is 200 kB."""
NEWS_EVERY_S_MIN: Final = 0.25

ScenarioCallback = Callable[[Feed], None]


class LeagueSource:
    """What the dashboard asks: the picture now, and whether there is news."""

    def __init__(self, view: ViewState) -> None:
        self._view = view
        self._news = asyncio.Event()

    def snapshot(self) -> LeagueView:
        """The picture of this instant."""
        return self._view.snapshot(time.time())

    def tell(self) -> None:
        """There is news."""
        self._news.set()

    async def changed(self) -> None:
        """Returns when there is news since the call; at most 4 times a second."""
        self._news.clear()
        await asyncio.sleep(NEWS_EVERY_S_MIN)
        await self._news.wait()


class ControlApi:
    """Serves the dashboard and the scenario until cancelled."""

    def __init__(
        self,
        source: LeagueSource,
        *,
        rule_texts: MutableMapping[str, str],
        on_scenario: ScenarioCallback,
    ) -> None:
        self._scenario = Feed()
        self._on_scenario = on_scenario
        self.app = make_app(source, rule_texts=rule_texts)
        route = Route("/api/scenario", self._answer, methods=["GET", "POST"])
        self.app.router.routes.insert(0, route)

    async def serve(self, host: str, port: int) -> None:
        """Listen there until cancelled; open streams get a second to end."""
        config = uvicorn.Config(
            self.app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve())
        try:
            await asyncio.shield(serving)
        except asyncio.CancelledError:
            server.should_exit = True
            await serving
            raise

    async def _answer(self, request: Request) -> Response:
        if request.method == "POST":
            refusal = _not_from_here(request)
            if refusal is not None:
                return _error(403, refusal)
            body = bytearray()
            async for chunk in request.stream():
                body += chunk
                if len(body) > SCENARIO_BYTES_MAX:
                    return _error(413, f"more than {SCENARIO_BYTES_MAX} bytes")
            try:
                self._scenario = msgspec.json.decode(bytes(body), type=Feed)
            except (msgspec.DecodeError, HanseError) as error:
                return _error(400, str(error))
            self._on_scenario(self._scenario)
        return Response(msgspec.json.encode(self._scenario), media_type="application/json")


def _not_from_here(request: Request) -> str | None:
    """Why a post is refused; None: it may."""
    host = request.client.host if request.client is not None else ""
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        return "only from this machine"
    if "origin" in request.headers:
        return "not from a page in a browser"
    if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
        return "content-type must be application/json"
    return None


def _error(status: int, text: str) -> Response:
    body = msgspec.json.encode({"error": {"message": text}})
    return Response(body, status, media_type="application/json")


class _Server(uvicorn.Server):
    """Leaves signals to the process it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
