"""The paths of `/v1/files` and `/v1/batches`.

Here: HTTP in, answers in OpenAI's shapes out; what has another home is asked there, over the hop port. Not here: keys and law at the
entry (the gateway has seen to them), what becomes of a batch (`keeper`).

A list is of everything that this asker may see at the homes that answer within two seconds: a home that is away is missing from it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Match, Route

from hanse.errors import SiteError
from hanse.live.batch.access import Access, not_found
from hanse.live.batch.asked import Listing, ask_of, check_purpose
from hanse.live.batch.asking import Answer, Hops
from hanse.live.batch.keeper import Keeper
from hanse.live.batch.upload import read_form
from hanse.live.batch.values import (
    OWN_PREFIX,
    BatchMeta,
    FileMeta,
    Problem,
    Who,
    batch_object,
    file_object,
    home_in,
    lives_s,
)
from hanse.live.gateway.answers import error_body
from hanse.model.told import UNREADABLE

LIST_S_MAX: Final = 2.0
ANSWER_S_MAX: Final = 10.0
"""To the head of an answer of another home."""
SMALL_BODY_BYTES: Final = 64 * 1024
PREFIX: Final = "/hanse/v1/batch"
"""Of paths between batch processes."""
HOME_SILENT: Final = "home_unreachable"
HIDDEN: Final = frozenset(("connection", "date", "server", "transfer-encoding", "content-length"))
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]


class Api:
    """The application behind the gateway's tunnel."""

    def __init__(self, keeper: Keeper, access: Access, hops: Hops) -> None:
        self.keeper = keeper
        self.store = keeper.store
        self._access = access
        self._hops = hops
        self.more: list[Route] = []

    def app(self) -> Starlette:
        """The routes; `more` are other modules'."""
        routes = [
            Route("/v1/files", told(self.upload), methods=["POST"]),
            Route("/v1/files", told(self.list_files), methods=["GET"]),
            Route("/v1/files/{id}", told(self.file), methods=["GET"]),
            Route("/v1/files/{id}", told(self.delete), methods=["DELETE"]),
            Route("/v1/files/{id}/content", told(self.content), methods=["GET"]),
            Route("/v1/batches", told(self.create), methods=["POST"]),
            Route("/v1/batches", told(self.list_batches), methods=["GET"]),
            Route("/v1/batches/{id}", told(self.batch), methods=["GET"]),
            Route("/v1/batches/{id}/cancel", told(self.cancel), methods=["POST"]),
        ]
        app = Starlette(
            routes=[*routes, *self.more],
            exception_handlers={HTTPException: _no_route, Exception: _broken},
        )
        app.router.redirect_slashes = False  # it would lead to this process, which has no address
        return app

    # --- files

    async def upload(self, request: Request) -> Response:
        who = who_of(request)
        self.keeper.check_room(who, int(request.headers.get("content-length", "0")))
        draft = self.store.draft()
        try:
            form = await read_form(
                request.headers.get("content-type", ""),
                request.stream(),
                draft,
                self.keeper.limits.file_bytes_max,
            )
            check_purpose(form.fields.get("purpose", ""))
            self.keeper.check_room(who, form.size_bytes)
            kept_s = lives_s(form.fields)
            meta = self.keeper.new_file(who, form.filename, form.size_bytes, lives_s=kept_s)
            self.store.add_file(meta, draft)
        finally:
            draft.unlink(missing_ok=True)
        return _json(file_object(meta))

    async def file(self, request: Request) -> Response:
        meta = await self._file(request)
        return meta if isinstance(meta, Response) else _json(file_object(meta))

    async def content(self, request: Request) -> Response:
        meta = await self._file(request)
        if isinstance(meta, Response):
            return meta
        path = self.store.data_path(meta.id)
        return FileResponse(path, media_type="application/octet-stream")

    async def delete(self, request: Request) -> Response:
        meta = await self._file(request)
        if isinstance(meta, Response):
            return meta
        self.keeper.delete_file(meta.id)
        return _json({"id": meta.id, "object": "file", "deleted": True})

    async def list_files(self, request: Request) -> Response:
        who, asked = who_of(request), Listing.of(request, "file")
        mine = [
            file_object(meta)
            for meta in self.store.files.values()
            if not meta.copy_of
            and asked.purpose in ("", meta.purpose)
            and self._access.visible(who, meta)
        ]
        return await self._list(request, who, mine, asked)

    # --- batches

    async def create(self, request: Request) -> Response:
        who, data = who_of(request), await _small_body(request)
        ask = ask_of(data)
        file = self.store.files.get(ask.input_file_id)
        site = self._where(who, ask.input_file_id, file)
        no_file = not_found(ask.input_file_id, "file", "input_file_id")
        if site != self.keeper.site:
            return await self._elsewhere(request, who, site, ask.input_file_id, no_file, data)
        if file is None or file.copy_of:
            raise no_file
        self._access.check(who, file)
        return _json(batch_object(self.keeper.create(who, file, ask)))

    async def batch(self, request: Request) -> Response:
        meta = await self._batch(request)
        return meta if isinstance(meta, Response) else _json(batch_object(meta))

    async def cancel(self, request: Request) -> Response:
        meta = await self._batch(request)
        if isinstance(meta, Response):
            return meta
        return _json(batch_object(self.keeper.cancel(meta.id)))

    async def list_batches(self, request: Request) -> Response:
        who, asked = who_of(request), Listing.of(request, "batch")
        mine = [
            batch_object(meta)
            for meta in self.store.batches.values()
            if meta.home == self.keeper.site and self._access.visible(who, meta)
        ]
        return await self._list(request, who, mine, asked)

    # --- here or elsewhere

    async def _file(self, request: Request) -> FileMeta | Response:
        return await self._thing(request, self.store.files, "file")

    async def _batch(self, request: Request) -> BatchMeta | Response:
        return await self._thing(request, self.store.batches, "batch")

    async def _thing(self, request: Request, kept: dict[str, T], kind: str) -> T | Response:
        who, thing_id = who_of(request), request.path_params["id"]
        thing = kept.get(thing_id)
        assert thing is None or isinstance(thing, FileMeta | BatchMeta)
        site = self._where(who, thing_id, thing)
        if site != self.keeper.site:
            try:
                return await self._elsewhere(
                    request, who, site, thing_id, not_found(thing_id, kind)
                )
            except Problem as problem:
                if thing is None or problem.code != HOME_SILENT:
                    raise
        if thing is None:
            raise not_found(thing_id, kind)
        self._access.check(who, thing)
        if request.method != "GET" and not self._owned(thing):
            raise _silent(home_in(thing_id), thing_id)
        return thing

    def _owned(self, thing: FileMeta | BatchMeta) -> bool:
        if isinstance(thing, FileMeta):
            return not thing.copy_of
        return thing.home == self.keeper.site

    def _where(self, who: Who, thing_id: str, thing: FileMeta | BatchMeta | None) -> str:
        """The site to ask: the home; a copy here answers peers, which ask only where the home is silent."""
        if thing is None:
            return home_in(thing_id)
        if self._owned(thing):
            return self.keeper.site
        moved = isinstance(thing, BatchMeta) and thing.standby != self.keeper.site
        if who.peer and not moved:
            return self.keeper.site
        return thing.home if isinstance(thing, BatchMeta) else thing.copy_of

    async def _elsewhere(
        self,
        request: Request,
        who: Who,
        site: str,
        thing_id: str,
        unknown: Problem,
        body: bytes = b"",
    ) -> Response:
        """Ask another home; one hop, never two. `unknown`: what to say where there is none to ask."""
        if site and who.peer and site != who.peer:
            raise Problem(409, "moved", f"{site} has {thing_id}", site=site)
        if not site or who.peer or site not in self._hops.peers:
            raise unknown
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        answer = await self._asked(site, request.method, path, who, body)
        if answer is None or answer.status in (409, 502, 503):
            other = await self._other_home(who, thing_id, site, answer)
            if other:
                if answer is not None:
                    answer.close()
                answer = await self._asked(other, request.method, path, who, body)
        if answer is None or answer.status in (502, 503):
            if answer is not None:
                answer.close()
            raise _silent(site, thing_id)
        headers = {k: v for k, v in answer.headers.items() if k not in HIDDEN}
        return StreamingResponse(_passed_on(answer), answer.status, headers=headers)

    async def _asked(
        self, site: str, method: str, path: str, who: Who, body: bytes
    ) -> Answer | None:
        """None: it does not answer."""
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                return await self._hops.ask(site, method, path, who, body)
        except (SiteError, TimeoutError):
            return None

    async def _other_home(self, who: Who, thing_id: str, silent: str, answer: Answer | None) -> str:
        """A site that holds it where its home is silent or has lost it; here, where this is the standby."""
        sites = [s for s in self._access.lawful_sites(who.names) if s != silent]
        path = f"{PREFIX}/holds/{thing_id}"

        async def holds(site: str) -> bool:
            if site not in self._hops.peers:
                return False
            with contextlib.suppress(SiteError, Problem):
                found = await self._hops.whole(site, "GET", path, who, timeout_s=LIST_S_MAX)
                return found.status == 200 and found.body == b"true"
            return False

        if answer is not None and answer.status == 409 and b'"moved"' not in await answer.peek():
            return ""
        found = await asyncio.gather(*map(holds, sites))
        return next((site for site, here in zip(sites, found, strict=True) if here), "")

    async def _list(
        self, request: Request, who: Who, mine: list[dict[str, Any]], asked: Listing
    ) -> Response:
        rows = mine
        if not who.peer:
            rows = _once(mine + await self._others(request, who))
        rows.sort(key=lambda row: (row["created_at"], row["id"]), reverse=asked.newest_first)
        if asked.after and not who.peer:
            rows = self._behind(rows, asked)
        shown = rows if who.peer else rows[: asked.limit]
        return _json(
            {
                "object": "list",
                "data": shown,
                "first_id": shown[0]["id"] if shown else None,
                "last_id": shown[-1]["id"] if shown else None,
                "has_more": len(rows) > len(shown),
            }
        )

    def _behind(self, rows: list[dict[str, Any]], asked: Listing) -> list[dict[str, Any]]:
        """What comes after one that is listed, or was until it was deleted here."""
        ids = [row["id"] for row in rows]
        if asked.after in ids:
            return rows[ids.index(asked.after) + 1 :]
        gone_at_s = self.keeper.store.gone_at_s(asked.after)
        if gone_at_s is None:
            raise not_found(asked.after, asked.kind, "after")
        mark = int(gone_at_s), asked.after
        newer = asked.newest_first
        return [row for row in rows if ((row["created_at"], row["id"]) < mark) == newer]

    async def _others(self, request: Request, who: Who) -> list[dict[str, Any]]:
        """The same list of every other home."""
        purpose = request.query_params.get("purpose", "")
        path = request.url.path + (f"?purpose={purpose}" if purpose.isidentifier() else "")

        async def of(site: str) -> list[dict[str, Any]]:
            with contextlib.suppress(SiteError, Problem, *UNREADABLE, KeyError):
                answer = await self._hops.whole(site, "GET", path, who, timeout_s=LIST_S_MAX)
                if answer.status == 200:
                    rows: list[dict[str, Any]] = msgspec.json.decode(answer.body)["data"]
                    return rows
            return []

        sites = [s for s in self._access.lawful_sites(who.names) if s in self._hops.peers]
        return [row for rows in await asyncio.gather(*map(of, sites)) for row in rows]


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each id. A home that was silent lists a batch until it hears who took it over: the row of the latter stays."""

    def taken_over(row: dict[str, Any]) -> bool:
        made_at = home_in(row["id"])
        return bool((row.get("metadata") or {}).get(f"{OWN_PREFIX}home", made_at) != made_at)

    return list({row["id"]: row for row in sorted(rows, key=taken_over)}.values())


def who_of(request: Request) -> Who:
    """For whom, as the gateway wrote it."""
    headers = request.headers
    return Who(
        tenant=headers.get("x-hanse-tenant", ""),
        key_id=headers.get("x-hanse-key", ""),
        data_class=headers.get("x-hanse-class", ""),
        country=headers.get("x-hanse-country", ""),
        peer=headers.get("x-hanse-peer", ""),
    )


def peer_of(request: Request) -> Who:
    """The same of what only other sites may ask.

    Raises:
        Problem: a client asks.
    """
    who = who_of(request)
    if not who.peer:
        raise Problem(404, "not_found", "between sites only")
    return who


def _silent(site: str, thing_id: str) -> Problem:
    message = f"{site}, which has {thing_id}, does not answer; ask again"
    return Problem(503, HOME_SILENT, message)


def told(handler: Handler) -> Handler:
    """A `Problem` becomes OpenAI's error; what is no problem of the asker stays a 500."""

    async def answer(request: Request) -> Response:
        try:
            return await handler(request)
        except Problem as problem:
            await _read_out(request)
            body = error_body(
                problem.status,
                problem.code,
                problem.message,
                param=problem.param,
                hanse=problem.hanse or None,
            )
            # A quota does not pass by waiting a second: OpenAI's client would try again for nothing.
            headers = {"x-should-retry": "false"} if problem.status in (409, 429) else None
            return Response(body, problem.status, headers, "application/json")

    return answer


async def _read_out(request: Request) -> None:
    """The rest of the body, which the gateway bounds: a connection that ends while it is still written to loses the answer too."""
    with contextlib.suppress(ClientDisconnect, RuntimeError):  # gone, or read already
        async for _ in request.stream():
            pass


async def _passed_on(answer: Answer) -> AsyncIterator[bytes]:
    with contextlib.closing(answer):
        async for piece in answer.pieces():
            yield piece


async def _small_body(request: Request) -> bytes:
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > SMALL_BODY_BYTES:
            message = f"the body is limited to {SMALL_BODY_BYTES} bytes"
            raise Problem(413, "request_too_large", message)
    return bytes(data)


def _no_route(request: Request, error: Exception) -> Response:
    """A path that there is not, or one that does not take the method."""
    assert isinstance(error, HTTPException)
    path, headers = request.url.path[:200], {}
    if error.status_code == 405:
        routes = [r for r in request.app.routes if r.matches(request.scope)[0] != Match.NONE]
        headers["allow"] = ", ".join(sorted({m for r in routes for m in r.methods} - {"HEAD"}))
        code, message = (
            "method_not_allowed",
            f"{path} takes {headers['allow']}, not {request.method}",
        )
    else:
        code = "not_found"
        message = f"no such path: {path}; there are {', '.join(_public(request.app.routes))}"
    body = error_body(error.status_code, code, message)
    return Response(body, error.status_code, headers, "application/json")


def _public(routes: list[Route]) -> list[str]:
    """Paths for clients."""
    return sorted({route.path for route in routes if not route.path.startswith(PREFIX)})


def _broken(request: Request, error: Exception) -> Response:
    """Our own bug, which the log shows in full."""
    message = "the batch process failed at this request; its log at the site says why"
    return Response(error_body(500, "internal_error", message), 500, None, "application/json")


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
