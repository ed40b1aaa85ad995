"""The controller's HTTP side: the dashboard, and the scenario that `hanse tour` plays.

Here: the picture the dashboard draws from, `GET` and `POST /api/scenario`, serving both. Not here:
the dashboard itself (`web`), what a scenario changes (`live.controller`).

A scenario in JSON is `{"overrides": [...], "clock_offset_s": 0}`. It replaces the one before. Who posts one shows the secret of `live.control_client`, which a user reads who may read the hub's directory: other users of
this machine may look, and no page in a browser has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import Callable, Iterator, MutableMapping
from typing import Final

import msgspec
import uvicorn
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hanse.errors import HanseError, all_of
from hanse.live.control_client import Scenario, wrong_dates_or_places
from hanse.model.fleet import Site
from hanse.model.read import explained
from hanse.model.told import UNREADABLE
from hanse.signals import Feed
from hanse.view import LeagueView, ViewState
from hanse.web.app import make_app
from hanse.web.operations import Answer, Operation

SCENARIO_BYTES_MAX: Final = 1024 * 1024
"""A thousand sites with an override each is 200 kB."""
NEWS_EVERY_S_MIN: Final = 0.25
CONNECTIONS_MAX: Final = 256
"""Four times as many as may follow the stream; more is nobody who looks."""

ScenarioCallback = Callable[[Feed], None]


class Said(msgspec.Struct, frozen=True):
    """Why not."""

    message: str


class Failure(msgspec.Struct, frozen=True):
    """The body of a refusal."""

    error: Said


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
        secret: str,
        key_file: str = "control.key",
        sites: Callable[[], tuple[Site, ...]],
    ) -> None:
        """An API without a scenario in force.

        Args:
            source: The picture.
            rule_texts: Of law, by rule id.
            on_scenario: Told of each that is taken.
            secret: What whoever posts one shows.
            key_file: Where people read the secret.
            sites: Those of the fleet in force: a scenario names no others.
        """
        self._key_file = key_file
        self._sites = sites
        self._scenario = Scenario()
        self._on_scenario = on_scenario
        self._credential = f"Bearer {secret}".encode()
        self.app = make_app(source, rule_texts=rule_texts, more=self._operations())

    async def serve(self, host: str, port: int) -> None:
        """Listen there until cancelled; open streams get a second to end."""
        config = uvicorn.Config(
            self.app,
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            ws="none",
            limit_concurrency=CONNECTIONS_MAX,
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

    def _operations(self) -> tuple[Operation, ...]:
        path, now = "/api/scenario", {200: Answer(text="the scenario in force", form=Scenario)}
        refused = {
            400: "not a scenario",
            401: "not the secret of this hub",
            413: f"more than {SCENARIO_BYTES_MAX} bytes",
            415: "not JSON",
        }
        return (
            Operation(path=path, endpoint=self._tell, summary="The scenario", answers=now),
            Operation(
                path=path,
                endpoint=self._take,
                summary="Another scenario in place of the one in force",
                method="POST",
                answers=now | {n: Answer(text=text, form=Failure) for n, text in refused.items()},
                body=Scenario,
                secret=True,
            ),
        )

    def _right(self, body: bytes) -> Scenario:
        """What a body says.

        Raises:
            HanseError: it is no scenario, or one that this fleet has no use for; all that is wrong with places and dates at once.
            DecodeError: it is no JSON.
        """
        scenario = _decoded(body)
        wrong = wrong_dates_or_places(scenario, self._sites())
        if wrong:
            raise all_of(wrong)
        return scenario

    async def _tell(self, _request: Request) -> Response:
        return Response(msgspec.json.encode(self._scenario), media_type="application/json")

    async def _take(self, request: Request) -> Response:
        shown = request.headers.get("authorization", "").encode("latin-1")
        if not hmac.compare_digest(shown, self._credential):
            how = f'curl -H "authorization: Bearer $(cat {self._key_file})"'
            got = "no secret" if not shown else "another secret, or another form"
            text = f"authorization: got {got}, need `Bearer` and the secret in {self._key_file}. To fix: {how}"
            return _error(401, text, bearer=True)
        if request.headers.get("content-type", "").split(";")[0].strip() != "application/json":
            return _error(415, "content-type must be application/json")
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > SCENARIO_BYTES_MAX:
                    return _error(413, f"more than {SCENARIO_BYTES_MAX} bytes")
            scenario = self._right(bytes(body))
            feed = scenario.feed()
        except ClientDisconnect:
            return _error(400, "the body did not come to its end")
        except (*UNREADABLE, HanseError) as error:
            return _error(400, str(error))
        self._scenario = scenario
        self._on_scenario(feed)
        return await self._tell(request)


def _decoded(body: bytes) -> Scenario:
    try:
        return msgspec.json.decode(body, type=Scenario)
    except msgspec.ValidationError as error:
        with contextlib.suppress(*UNREADABLE):  # a number out of range is none in any document
            raise explained(error, msgspec.json.decode(body), Scenario, "scenario") from error
        raise


def _error(status: int, text: str, *, bearer: bool = False) -> Response:
    body = msgspec.json.encode(Failure(Said(text)))
    headers = {"www-authenticate": "Bearer"} if bearer else None
    return Response(body, status, headers, media_type="application/json")


class _Server(uvicorn.Server):
    """Leaves signals to the process it is a part of."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
