"""The dashboard's HTTP side: routes, headers, static files.

Here: `make_app`, which turns a `ViewSource` into a Starlette application. Not here: who serves it,
and where pictures come from. Read-only: no route changes anything, nothing is fetched from
elsewhere, and the content policy lets the browser load from this address alone. Who asks under another name (a page whose name was
made to point here) or from a page of another origin gets nothing, not even a picture to count.

Streams stay open: serve with `uvicorn.Config(..., timeout_graceful_shutdown=1)`.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanse.view import LeagueView
from hanse.web.history import SAMPLE_S, Courses, History
from hanse.web.operations import EVENTS, HTML, PLAIN, Answer, Operation, document, routes
from hanse.web.page import Pages
from hanse.web.stream import Feed, Frame, LiveResponse, Pace, ViewSource, event

STATIC = Path(__file__).parent / "static"
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_encoder = msgspec.json.Encoder()


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """That it lives."""

    status: str
    at_s: float
    hub_up: bool


def make_app(
    source: ViewSource,
    *,
    rule_texts: Mapping[str, str] | None = None,
    pace: Pace | None = None,
    more: Sequence[Operation] = (),
    names: Sequence[str] = (),
) -> Starlette:
    """The dashboard of `source`.

    Args:
        source: Where pictures come from.
        rule_texts: What a rule id stands for, in words; kept, not copied: whoever gives it may fill it when law is compiled.
        pace: Of the stream.
        more: Operations beside the dashboard's own.
        names: It answers under, beside addresses and `localhost`.
    """
    dashboard = _Dashboard(source, Pages({} if rule_texts is None else rule_texts), pace or Pace())
    operations = (*dashboard.operations(), *more)
    described = document("Hanse control API", operations, {403: FOREIGN})

    async def describe(_request: Request) -> Response:
        return _json(described)

    app = Starlette(
        routes=[
            *routes(operations),
            Route("/openapi.json", describe),
            Mount("/static", _Static(directory=STATIC), name="static"),
        ],
        middleware=[Middleware(_Guarded, names=frozenset(names))],
        lifespan=dashboard.lifespan,
    )
    app.state.feed = dashboard.feed
    return app


class _Dashboard:
    """What the routes share."""

    def __init__(self, source: ViewSource, pages: Pages, pace: Pace) -> None:
        self._source = source
        self._pages = pages
        self._history = History()
        self.feed = Feed(source, self._frame, pace)

    def operations(self) -> tuple[Operation, ...]:
        part = {"part": "1: the fragment alone"}
        page = {200: Answer(text="a page", media=HTML)}
        gone = {404: Answer(text="there is none", media=PLAIN)}
        full = {503: Answer(text="too many readers", media=PLAIN)}
        events = Answer(text="server-sent events", media=EVENTS)
        return (
            Operation(path="/", endpoint=self.page, summary="The dashboard", answers=page),
            Operation(
                path="/api/view.json",
                endpoint=self.view,
                summary="The picture of this instant",
                answers={200: Answer(text="the picture", form=LeagueView)},
            ),
            Operation(
                path="/api/history.json",
                endpoint=self.courses,
                summary="Load, carbon and price of the last ten minutes",
                answers={200: Answer(text="by site", form=Courses)},
            ),
            Operation(
                path="/api/stream",
                endpoint=self.stream,
                summary="Pictures as they come, without an end",
                answers={200: events} | full,
                query={"page": "1: with the page's sections"},
            ),
            Operation(
                path="/sites/{site}",
                endpoint=self.site,
                summary="One site",
                answers=page | gone,
                query=part,
            ),
            Operation(
                path="/decisions/{request_id:path}",
                endpoint=self.decision,
                summary="One of the latest requests",
                answers=page | gone,
                query=part,
            ),
            Operation(
                path="/healthz",
                endpoint=self.health,
                summary="That it lives",
                answers={200: Answer(text="it lives", form=Health)},
            ),
        )

    @asynccontextmanager
    async def lifespan(self, _app: Starlette) -> AsyncIterator[None]:
        recorder = asyncio.create_task(self._record(), name="dashboard history")
        try:
            yield
        finally:
            recorder.cancel()
            with suppress(asyncio.CancelledError):
                await recorder

    async def page(self, _request: Request) -> Response:
        return _html(self._pages.whole(self._source.snapshot()))

    async def view(self, _request: Request) -> Response:
        return _json(_encoder.encode(self._source.snapshot()))

    async def courses(self, _request: Request) -> Response:
        return _json(_encoder.encode(self._history.courses()))

    async def stream(self, request: Request) -> Response:
        if not self.feed.join():
            most = self.feed.pace.streams_max
            return PlainTextResponse(
                f"{most} readers already follow this dashboard; close one.\n",
                503,
                {"retry-after": "10"},
            )
        return LiveResponse(self.feed, page=request.query_params.get("page") == "1")

    async def site(self, request: Request) -> Response:
        view = self._source.snapshot()
        wanted = request.path_params["site"]
        for site in view.sites:
            if site.id == wanted:
                return self._detail(request, f"Site {site.id}", self._pages.site(view, site))
        return _gone("This fleet has no such site.")

    async def decision(self, request: Request) -> Response:
        wanted = request.path_params["request_id"]
        for row in self._source.snapshot().decisions:
            if row.request_id == wanted:
                return self._detail(request, f"Request {wanted}", self._pages.decision(row))
        return _gone("That request is no longer among the latest; its gateway still knows it.")

    async def health(self, _request: Request) -> Response:
        view = self._source.snapshot()
        return _json(_encoder.encode(Health(status="ok", at_s=view.at_s, hub_up=view.hub_up)))

    def _detail(self, request: Request, title: str, body: str) -> Response:
        if request.query_params.get("part") == "1":
            return _html(body)
        return _html(self._pages.alone(title, body))

    def _frame(self, view: LeagueView) -> Frame:
        return Frame(
            event("view", _encoder.encode(view)),
            event("page", _encoder.encode(self._pages.sections(view))),
        )

    async def _record(self) -> None:
        while True:
            self._history.add(self._source.snapshot())
            await asyncio.sleep(SAMPLE_S)


class _Static(StaticFiles):
    """Files with an ETag; vendored ones carry their version in the name and never change."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        lasting = path.startswith("vendor/")
        response.headers["cache-control"] = (
            "public, max-age=31536000, immutable" if lasting else "no-cache"
        )
        return response


FOREIGN = Answer(text="asked under another name, or from a page of another origin", media=PLAIN)


class _Guarded:
    """Adds the protective headers to every answer, errors included, and refuses what other pages' browsers ask."""

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif why := foreign(Headers(scope=scope), self._names):
            await PlainTextResponse(why + "\n", 403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


def foreign(headers: Headers, names: frozenset[str]) -> str:
    """Why a request is not of a person or program that means this server; empty: it is.

    A name that a stranger made to point here is told by `host`: an address cannot be made to. A page of another origin is told by
    what browsers say of themselves (`origin`, Fetch Metadata); following a link from one is what people do.
    """
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not _own_name(hosts[0], names):
        return "this server is asked under its address, or localhost"
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != hosts[0].lower():
        return "not from a page of another origin"
    followed = headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not followed:
        return "not from a page of another origin"
    return ""


def _own_name(host: str, names: frozenset[str]) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in names:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _html(text: str) -> Response:
    return HTMLResponse(text, headers={"cache-control": "no-store"})


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def _gone(text: str) -> Response:
    return PlainTextResponse(text + "\n", 404, {"cache-control": "no-store"})
