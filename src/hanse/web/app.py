"""The dashboard's HTTP side: routes, headers, static files.

Here: `make_app`, which turns a `ViewSource` into a Starlette application. Not here: who serves it,
and where pictures come from. Read-only: no route changes anything, nothing is fetched from
elsewhere, and the content policy lets the browser load from this address alone.

Streams stay open: serve with `uvicorn.Config(..., timeout_graceful_shutdown=1)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hanse.view import LeagueView
from hanse.web.history import SAMPLE_S, History
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


def make_app(
    source: ViewSource,
    *,
    rule_texts: Mapping[str, str] | None = None,
    pace: Pace | None = None,
) -> Starlette:
    """The dashboard of `source`; `rule_texts` says in words what a rule id stands for.

    The mapping is kept, not copied: whoever gives it may fill it when law is compiled.
    """
    dashboard = _Dashboard(source, Pages({} if rule_texts is None else rule_texts), pace or Pace())
    app = Starlette(
        routes=[
            Route("/", dashboard.page),
            Route("/api/view.json", dashboard.view),
            Route("/api/history.json", dashboard.courses),
            Route("/api/stream", dashboard.stream),
            Route("/sites/{site}", dashboard.site),
            Route("/decisions/{request_id:path}", dashboard.decision),
            Route("/healthz", dashboard.health),
            Mount("/static", _Static(directory=STATIC), name="static"),
        ],
        middleware=[Middleware(_Guarded)],
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
        return _json(_encoder.encode({"status": "ok", "at_s": view.at_s, "hub_up": view.hub_up}))

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


class _Guarded:
    """Adds the protective headers to every answer, errors included."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        await self._app(scope, receive, guarded if scope["type"] == "http" else send)


def _html(text: str) -> Response:
    return HTMLResponse(text, headers={"cache-control": "no-store"})


def _json(body: bytes) -> Response:
    return Response(body, media_type="application/json", headers={"cache-control": "no-store"})


def _gone(text: str) -> Response:
    return PlainTextResponse(text + "\n", 404, {"cache-control": "no-store"})
