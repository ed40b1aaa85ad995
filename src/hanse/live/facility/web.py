"""HTTP to a device: one connection that is kept, timeouts, size limits, pinned certificates, and nothing else.

Here: `Web` and `Answer`. Not here: what is asked (`redfish`, `dcgm`, `openadr`). A full client library would weigh more than all drivers.
Redirects are not followed: a device that sends its reader elsewhere is not the device that was configured.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from typing import Any, Final
from urllib.parse import urlsplit

import httptools

from hanse.errors import SiteError
from hanse.live.facility.access import check_pin

ANSWER_S_MAX: Final = 10.0
"""BMCs that are busy take seconds; one that takes longer has hung."""
CONNECT_S_MAX: Final = 5.0
ANSWER_BYTES_MAX: Final = 8 * 1024 * 1024
"""A metrics page of eight GPUs is 100 kB, a BMC's largest resource 1 MB."""
CHUNK_BYTES: Final = 65_536


class Answer:
    """Status, headers (lower case) and body."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.ended = False
        self.keeps = False
        self.parser = httptools.HttpResponseParser(self)

    def json(self, where: str) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            SiteError: it is none.
        """
        try:
            found = json.loads(bytes(self.body))
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise SiteError(where, got=f"{bytes(self.body[:80])!r}", allowed="a JSON object")
        return found

    # --- httptools calls these

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.status = self.parser.get_status_code()
        self.keeps = self.parser.should_keep_alive()
        self.ended = True


class Web:
    """Requests to one origin, one after the other."""

    def __init__(
        self, url: str, *, tls: ssl.SSLContext | None = None, fingerprint_sha256: str = ""
    ) -> None:
        parts = urlsplit(url)
        self.url = f"{parts.scheme}://{parts.netloc}"
        self.base_path = parts.path.rstrip("/")
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._netloc = parts.netloc
        self._tls = tls if parts.scheme == "https" else None
        self._pin = fingerprint_sha256
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._turn = asyncio.Lock()

    async def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        form: str | None = None,
    ) -> Answer:
        """One request; a kept connection that the other side has closed meanwhile is opened anew once.

        Raises:
            SiteError: no answer in time, or none that is HTTP.
        """
        async with self._turn:
            sent = self._request(method, path, body, headers or {}, form)
            kept = self._open is not None
            try:
                return await self._exchange(sent, path)
            except (OSError, EOFError) as error:
                # A reader may be asked twice; a writer must not be, unless nothing was sent.
                if not kept or method not in ("GET", "HEAD"):
                    raise SiteError(
                        self.url + path, got=repr(error), allowed="an answer"
                    ) from error
            try:
                return await self._exchange(sent, path)
            except (OSError, EOFError) as error:
                raise SiteError(self.url + path, got=repr(error), allowed="an answer") from error

    async def close(self) -> None:
        """Close the connection."""
        if self._open is not None:
            writer, self._open = self._open[1], None
            writer.close()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    def _request(
        self, method: str, path: str, body: Any, headers: dict[str, str], form: str | None
    ) -> bytes:
        content = b""
        lines = {"Host": self._netloc, "Accept": "application/json"}
        if body is not None:
            content = json.dumps(body).encode()
            lines["Content-Type"] = "application/json"
        elif form is not None:
            content = form.encode()
            lines["Content-Type"] = "application/x-www-form-urlencoded"
        if content or method in ("POST", "PATCH", "PUT"):
            lines["Content-Length"] = str(len(content))
        lines |= headers
        bad = [c for text in (path, *lines.values()) for c in text if c in "\r\n"]
        assert not bad, "a header or path of two lines"
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + content

    async def _exchange(self, sent: bytes, path: str) -> Answer:
        where = self.url + path
        answer = Answer()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                reader, writer = await self._connected()
                writer.write(sent)
                await writer.drain()
                read = 0  # of heads too: one without an end would fill memory
                while not answer.ended:
                    data = await reader.read(CHUNK_BYTES)
                    if not data:
                        raise EOFError("connection closed before the answer ended")
                    answer.parser.feed_data(data)
                    read += len(data)
                    if read > ANSWER_BYTES_MAX:
                        got = f"more than {ANSWER_BYTES_MAX} bytes"
                        raise SiteError(where, got=got, allowed="less")
        except httptools.HttpParserError as error:
            await self.close()
            raise SiteError(where, got=repr(error), allowed="HTTP/1.1") from error
        except TimeoutError as error:
            await self.close()
            got = f"no answer in {ANSWER_S_MAX:.0f} s"
            raise SiteError(where, got=got, allowed="an answer") from error
        except BaseException:
            await self.close()
            raise
        if not answer.keeps:
            await self.close()
        return answer

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._open is not None and self._open[0].at_eof():
            await self.close()  # the other side ended it while nothing was asked
        if self._open is None:
            async with asyncio.timeout(CONNECT_S_MAX):
                reader, writer = await asyncio.open_connection(
                    self._host,
                    self._port,
                    ssl=self._tls,
                    server_hostname=self._host if self._tls is not None else None,
                )
            self._open = reader, writer
            if self._pin and self._tls is not None:
                check_pin(writer.get_extra_info("ssl_object"), self._pin, self.url)
        return self._open
