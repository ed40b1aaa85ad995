"""HTTP to the site's own gateway workers and to peers' hop ports.

Here: a small HTTP/1.1 client on asyncio streams; `Lines` (kept connections to the workers' inner sockets), `Hops` (mutual TLS and an
envelope, one connection a request). Not here: what is asked (`runner`, `api`, `standby`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from secrets import token_bytes
from typing import Final

from hanse.errors import SiteError
from hanse.live.batch.access import Access
from hanse.live.batch.values import Problem, Who
from hanse.live.bus import PAYLOAD_BYTES_MAX
from hanse.live.identity import (
    Envelope,
    Identity,
    client_context,
    host_name,
    peer_session,
    seal_envelope,
)
from hanse.live.revoked import RevokedFile

CONNECT_S_MAX: Final = 3.0
HEAD_BYTES_MAX: Final = 64 * 1024
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
"""Of an answer that is held whole."""
LINE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX - 64 * 1024
"""Of a line's answer: it is committed as one message of the bus, with a header."""
PIECE_BYTES: Final = 256 * 1024
HOP_BUDGET_MS: Final = 60_000.0


class NotSent(OSError):
    """Nobody took the connection: nothing can have been begun."""


class TooLarge(OSError):
    """An answer that goes on after what may be held of it."""


class Answer:
    """One answer's head, and its body still to be read."""

    def __init__(
        self,
        status: int,
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.status = status
        self.headers = headers
        """Names in lower case; after the body also those of its trailer."""
        self._reader = reader
        self._writer = writer
        self._peeked: bytes | None = None

    @property
    def keeps(self) -> bool:
        """Whether its connection serves again once the body is read."""
        return self.headers.get("connection", "").lower() != "close"

    async def peek(self) -> bytes:
        """The body of a small answer, kept for `pieces`."""
        if self._peeked is None:
            self._peeked = await self.whole()
        return self._peeked

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes.

        Raises:
            asyncio.IncompleteReadError: it ended early.
        """
        reader = self._reader
        if self._peeked is not None:
            yield self._peeked
            return
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int((await reader.readline()).split(b";")[0], 16):
                yield await reader.readexactly(size)
                await reader.readexactly(2)
            self.headers |= await _trailer(reader)
        elif "content-length" in self.headers:
            left = int(self.headers["content-length"])
            while left:
                piece = await reader.read(min(left, PIECE_BYTES))
                if not piece:
                    raise asyncio.IncompleteReadError(b"", left)
                left -= len(piece)
                yield piece
        else:
            while piece := await reader.read(PIECE_BYTES):
                yield piece

    async def whole(self) -> bytes:
        """The body.

        Raises:
            TooLarge: it has more than `ANSWER_BYTES_MAX`.
        """
        return (await self.most(ANSWER_BYTES_MAX))[0]

    async def most(self, kept_bytes_max: int) -> tuple[bytes, bool]:
        """The body, or nothing and True where there is more of it than may be kept: it is read to its end, since what it took comes last.

        Raises:
            TooLarge: it has more than `ANSWER_BYTES_MAX`.
        """
        parts, size = list[bytes](), 0
        async for piece in self.pieces():
            size += len(piece)
            if size > ANSWER_BYTES_MAX:
                raise TooLarge("the answer is too large to be read")
            if size <= kept_bytes_max:
                parts.append(piece)
        too_large = size > kept_bytes_max
        return b"" if too_large else b"".join(parts), too_large

    def close(self) -> None:
        """Nobody wants (more of) it."""
        self._writer.close()


def _fields(lines: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in lines.split("\r\n") if line)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _trailer(reader: asyncio.StreamReader) -> dict[str, str]:
    """Header fields after a body."""
    lines = b""
    while (line := await reader.readline()).strip():
        lines += line
    return _fields(lines.decode("latin-1"))


async def read_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Answer:
    """Status and headers, names in lower case.

    Raises:
        OSError: the other end speaks no HTTP, or is gone.
    """
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, _, lines = head.decode("latin-1").partition("\r\n")
        status = int(first.split(" ")[1])
        headers = _fields(lines)
    except (
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
        ValueError,
        IndexError,
    ) as error:
        raise OSError(f"no HTTP answer: {error!r}") from error
    return Answer(status, headers, reader, writer)


class Whole:
    """An answer read to its end."""

    __slots__ = ("body", "headers", "status", "too_large")

    def __init__(
        self, status: int, headers: dict[str, str], body: bytes, *, too_large: bool = False
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.too_large = too_large
        """There was more of it than may be held, and none was kept."""


class Lines:
    """The inner sockets of this site's gateway workers, in turn."""

    def __init__(self, sockets: tuple[Path, ...]) -> None:
        self._sockets = sockets
        self._turn = 0
        self._idle: dict[Path, list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]] = {
            path: [] for path in sockets
        }

    async def post(self, endpoint: str, who: Who, body: bytes, at: str = "") -> Whole:
        """Send one line, to engines of the site `at` alone where one is named.

        Raises:
            NotSent: no worker took it.
            OSError: one took it and died with the line.
        """
        self._turn += 1
        path = self._sockets[self._turn % len(self._sockets)]
        head = (
            f"POST {endpoint} HTTP/1.1\r\nhost: line\r\ncontent-type: application/json\r\n"
            f"x-hanse-key: {who.key_id}\r\nx-hanse-class: {who.data_class}\r\n"
            f"x-hanse-country: {who.country}\r\ncontent-length: {len(body)}\r\n"
            f"x-hanse-at: {at}\r\n\r\n"
        ).encode("latin-1")
        reader, writer = await self._connection(path)
        done = False
        try:
            writer.write(head + body)
            answer = await read_head(reader, writer)
            try:
                found, too_large = await answer.most(LINE_BYTES_MAX)
            except TooLarge:
                return Whole(answer.status, answer.headers, b"", too_large=True)
            done = answer.keeps
            return Whole(answer.status, answer.headers, found, too_large=too_large)
        except (asyncio.IncompleteReadError, ValueError) as error:
            raise OSError(f"the answer broke: {error!r}") from error
        finally:  # a cancelled line closes its connection, which makes the gateway stop
            if done:
                self._idle[path].append((reader, writer))
            else:
                writer.close()

    async def _connection(self, path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        idle = self._idle[path]
        while idle:
            reader, writer = idle.pop()
            if not (reader.at_eof() or writer.is_closing()):
                return reader, writer
            writer.close()
        try:
            return await asyncio.open_unix_connection(str(path), limit=HEAD_BYTES_MAX)
        except OSError as error:
            raise NotSent(f"{path.name}: {error!r}") from error

    def close(self) -> None:
        """Drop what is kept."""
        for idle in self._idle.values():
            for _, writer in idle:
                writer.close()
            idle.clear()


class Hops:
    """Peers' hop ports, on behalf of a tenant."""

    def __init__(self, identity: Identity | None, peers: dict[str, str], access: Access) -> None:
        self.peers = peers if identity is not None else {}
        self._identity = identity
        self._access = access
        self._tls = client_context(identity) if identity is not None else None
        self._revoked = (
            RevokedFile(identity.certificate_path.parent, identity.authority)
            if identity is not None
            else None
        )
        self._certificate = identity.certificate_path.read_bytes() if identity is not None else b""

    def look(self) -> None:
        """Every second: a renewed certificate, and which count no more."""
        identity = self._identity
        if identity is None or self._tls is None or self._revoked is None:
            return
        self._revoked.look()
        with contextlib.suppress(OSError):
            certificate = identity.certificate_path.read_bytes()
            if certificate != self._certificate:
                self._tls.load_cert_chain(identity.certificate_path, identity.key_path)
                self._certificate = certificate

    async def ask(
        self,
        site: str,
        method: str,
        path: str,
        who: Who,
        body: bytes | Path = b"",
        *,
        kind: str = "application/json",
    ) -> Answer:
        """Send a request; the caller reads the answer and closes it.

        Raises:
            SiteError: the peer cannot be reached.
            Problem: by our own table it may not read this.
        """
        if not self._access.lawful(who.names, site):
            raise Problem(421, "entry_not_eligible", f"{site} may not read this")
        size = _size(body)
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                reader, writer, envelope = await self._dial(site, who, size)
        except (OSError, TimeoutError) as error:
            raise SiteError(site, got=repr(error), allowed="a peer that answers") from error
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: {site}\r\nconnection: close\r\ncontent-type: {kind}\r\n"
            f"x-hanse-key: {who.key_id}\r\nx-hanse-envelope: {envelope}\r\ncontent-length: {size}\r\n\r\n"
        ).encode("latin-1")
        try:
            writer.write(head)
            if isinstance(body, Path):
                await _send_file(body, writer)
            else:
                writer.write(body)
            await writer.drain()
            return await read_head(reader, writer)
        except OSError as error:
            writer.close()
            raise SiteError(site, got=repr(error), allowed="an answer") from error
        except BaseException:
            writer.close()
            raise

    async def whole(
        self,
        site: str,
        method: str,
        path: str,
        who: Who,
        body: bytes | Path = b"",
        *,
        timeout_s: float = 5.0,
    ) -> Whole:
        """The same with the whole answer, within a time.

        Raises:
            SiteError: none came.
        """
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self.ask(site, method, path, who, body)
                with contextlib.closing(answer):
                    return Whole(answer.status, answer.headers, await answer.whole())
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError) as error:
            raise SiteError(site, got=repr(error), allowed="an answer in time") from error

    async def _dial(
        self, site: str, who: Who, size: int
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, str]:
        address = self.peers.get(site)
        if address is None or self._identity is None:
            raise OSError(f"no way to {site}")
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(
            host, int(port), ssl=self._tls, server_hostname=host_name(site), limit=HEAD_BYTES_MAX
        )
        tls = writer.get_extra_info("ssl_object")
        session = peer_session(self._identity, tls, dialled=True)
        trusted = self._revoked is None or self._revoked.holds(tls.getpeercert(binary_form=True))
        if session is None or not trusted or session.serving_site != site:
            writer.close()
            raise OSError(f"who answers is not {site}")
        meta = self._access.table.meta
        envelope = Envelope(
            request_id=token_bytes(16),
            attempt=1,
            entry_site=self._access.site,
            tenant=who.tenant,
            data_class=who.data_class,
            country=who.country,
            subject_row=self._access.subject(who.names),
            service="",
            variant="",
            epoch=meta.epoch,
            table_version=meta.version,
            budget_ms=HOP_BUDGET_MS,
            sent_at_s=time.time(),
            body_bytes=size,
        )
        return reader, writer, seal_envelope(session, envelope).decode()


async def _send_file(path: Path, writer: asyncio.StreamWriter) -> None:
    with path.open("rb") as file:  # a local disk, a quarter megabyte at a time
        while piece := file.read(PIECE_BYTES):
            writer.write(piece)
            await writer.drain()


def _size(body: bytes | Path) -> int:
    return body.stat().st_size if isinstance(body, Path) else len(body)
