"""Small questions to a process of one's own over loopback: does it listen, what does GET answer, or POST.

Here: what supervisors poll while starting. Not here: the gateway's upstream client, or anything that
talks to another machine.
"""

from __future__ import annotations

import asyncio
from typing import Final

ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""A view of 1,000 sites is under 2 MB."""


async def is_listening(host: str, port: int, *, timeout_s: float = 0.5) -> bool:
    """Whether something accepts connections there."""
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(host, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True


async def get(host: str, port: int, path: str, *, timeout_s: float) -> tuple[int, bytes]:
    """Status and body of a GET over a connection of its own; (0, reason) where there is no answer."""
    # HTTP/1.0 asks for an answer without chunks that ends with the connection.
    head = f"GET {path} HTTP/1.0\r\nHost: {host}:{port}\r\n\r\n"
    return await _ask(host, port, head.encode(), timeout_s)


async def post(
    host: str, port: int, path: str, body: bytes, *, timeout_s: float
) -> tuple[int, bytes]:
    """The same of a POST of JSON."""
    lines = [f"POST {path} HTTP/1.0", f"Host: {host}:{port}", "Content-Type: application/json"]
    head = "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""])
    return await _ask(host, port, head.encode() + body, timeout_s)


async def _ask(host: str, port: int, request: bytes, timeout_s: float) -> tuple[int, bytes]:
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(request)
                answer = bytearray()
                while chunk := await reader.read(65_536):
                    answer += chunk
                    if len(answer) > ANSWER_BYTES_MAX:
                        return 0, b"an answer too long"
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        return 0, repr(error).encode()
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    parts = head.split(maxsplit=2)
    if len(parts) < 2 or not head.startswith(b"HTTP/1.") or not parts[1].isdigit():
        return 0, b"no HTTP answer"
    return int(parts[1]), body
