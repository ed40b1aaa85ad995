"""A dashboard behind a real server on a free port, inside the test's own event loop."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from starlette.applications import Starlette

from hanse.web.app import make_app
from hanse.web.stream import Feed, Pace
from web.fake_league import FakeLeague


@asynccontextmanager
async def serving(league: FakeLeague, **pace: float) -> AsyncIterator[tuple[str, Feed]]:
    """The dashboard's address and its feed."""
    app = make_app(league, pace=Pace(**pace))  # type: ignore[arg-type]
    async with served(app) as url:
        yield url, app.state.feed


@asynccontextmanager
async def served(app: Starlette) -> AsyncIterator[str]:
    """The address of any application."""
    config = uvicorn.Config(app, log_level="warning", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()  # connections queue while the server starts
        task = asyncio.create_task(server.serve([listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task
