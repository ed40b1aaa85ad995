"""Lines to the gateway over a real Unix socket: what was never sent, and what is too large to be kept; disks that are slow."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from hanse.live.batch.asking import LINE_BYTES_MAX, Lines, NotSent
from hanse.live.batch.upload import read_form
from live.batch.home import CHAT, WHO

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_gateway(serve: Serve, test: Callable[[Lines], Awaitable[None]]) -> None:
    async def whole() -> None:
        with tempfile.TemporaryDirectory() as home:
            path = Path(home) / "in.sock"
            server = await asyncio.start_unix_server(serve, str(path))
            lines = Lines((path,))
            try:
                await test(lines)
            finally:
                lines.close()
                server.close()

    asyncio.run(whole())


def test_a_line_that_no_gateway_took_is_known_as_such(tmp_path: Path) -> None:
    with pytest.raises(NotSent):
        asyncio.run(Lines((tmp_path / "none.sock",)).post(CHAT, WHO, b"{}"))


def test_a_gateway_that_dies_with_a_line_may_have_begun_it() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async def test(lines: Lines) -> None:
        with pytest.raises(OSError, match="no HTTP answer") as error:
            await lines.post(CHAT, WHO, b"{}")
        assert not isinstance(error.value, NotSent)

    with_gateway(serve, test)


@pytest.mark.parametrize(
    ("size", "too_large"), [(LINE_BYTES_MAX, False), (LINE_BYTES_MAX + 1, True)]
)
def test_of_an_answer_that_cannot_be_committed_nothing_is_kept(size: int, too_large: bool) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nx-request-id: r\r\ncontent-length: %d\r\n\r\n" % size)
        writer.write(bytes(size))
        try:
            await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def test(lines: Lines) -> None:
        answer = await lines.post(CHAT, WHO, b"{}")
        assert (answer.status, answer.too_large) == (200, too_large)
        assert len(answer.body) == (0 if too_large else size)
        assert answer.headers["x-request-id"] == "r"

    with_gateway(serve, test)


def test_a_slow_disk_holds_up_one_upload_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: time.sleep(1.5))
    form = b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\nhello\r\n--b--\r\n'

    async def body() -> AsyncIterator[bytes]:
        yield form

    async def test() -> float:
        reading = asyncio.create_task(
            read_form("multipart/form-data; boundary=b", body(), tmp_path / "draft", 100)
        )
        worst_s, last_s = 0.0, time.monotonic()
        while not reading.done():
            await asyncio.sleep(0.01)
            worst_s, last_s = max(worst_s, time.monotonic() - last_s), time.monotonic()
        assert reading.result().size_bytes == 5
        return worst_s

    assert asyncio.run(test()) < 1.2
