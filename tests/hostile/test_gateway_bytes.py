"""Bytes at the client port as an attacker would make them, over real sockets: answered in 4xx, or cut off; the next client is served.

Requests are put together from good parts, odd parts and lies about length, come in pieces, and have other bytes behind them. What must
hold whatever was sent: no error of our own, nothing counted as under way, and an engine that saw whole requests alone.
"""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse.dispatch.router import warm
from live.gateway import rig
from live.gateway.rig import KEY, League, chat, request, start

ANSWER_S_MAX = 5.0
SILENT_S = 0.03
"""How long an answer is waited for that need not come: what was sent may be half a request."""

METHODS = [
    b"POST",
    b"GET",
    b"HEAD",
    b"OPTIONS",
    b"DELETE",
    b"BREW",
    b"post",
    b"P\x00ST",
    b"CONNECT",
    b"TRACE",
    b"",
]
PATHS = [b"/v1/chat/completions", b"/v1/completions", b"/v1/models", b"/v1/files", b"/v1/batches/x/cancel", b"/hanse/v1/explain",
         b"/hanse/v1/check", b"/hanse/v1/requests/" + b"0" * 32, b"/hanse/v1/requests/\xff/receipt", b"/healthz", b"/metrics",
         b"*", b"http://other/v1/models", b"//v1/models", b"/v1/../healthz", b"/%00", b"/" + b"a" * 9000, b"/\xc3\xa9", b"/a b"]  # fmt: skip
VERSIONS = [b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.9", b"HTTP/2.0", b"HTTP/1.1 ", b"http/1.1", b""]
LINES = [b"content-length: 0", b"content-length: 5", b"Content-Length: 5", b"content-length: -1", b"content-length: 0x5", b"content-length: 5 5",
         b"content-length: 99999999", b"content-length:", b"transfer-encoding: chunked", b"Transfer-Encoding: Chunked", b"transfer-encoding: gzip",
         b"transfer-encoding: chunked, identity", b"transfer-encoding : chunked", b"transfer-encoding:\x0bchunked", b"transfer-encoding: chunked\r",
         b"expect: 100-continue", b"expect: x", b"upgrade: websocket\r\nconnection: upgrade", b"connection: close", b"connection: keep-alive, x",
         b"host: other", b"authorization: Bearer wrong", b"authorization: Bearer \xff", b"authorization:", b"x-hanse-class: nope", b"x-hanse-class: \xff",
         b"x-hanse-country: XX", b"x-hanse-envelope: AAAA", b"x-hanse-key: clinic", b"x-hanse-at: lyon", b"content-type: text/plain",
         b"content-encoding: gzip", b"traceparent: " + b"0" * 300, b"x-request-id: ../../x", b" folded: x", b"\tfolded", b": none", b"no colon",
         b"x: " + b"y" * 5000, b"\xff\xfe: \xff", b"x\x00y: z", b"range: bytes=0-"]  # fmt: skip
GOOD = json.dumps(chat("hi")).encode()
BODIES = [GOOD, b"", b"{}", b"null", b"hello", b"\xff\xfe", b"[" * 3000, b'{"model":"chat","messages":' + b"[" * 3000, b'{"model":"chat","n":1e999}',
          b'{"model":"chat","max_tokens":' + b"9" * 40 + b',"messages":[]}', b'{"model":"chat","stream":"yes"}', b'{"model":"\\ud800"}',
          b'{"model":"chat","stream":true,"stream_options":[1],"messages":[]}', b'{"model":"chat","model":"embed"}',
          b'{"mod\\u0065l":"chat","messages":[{"role":"user","content":"model"}],"stream":true}', b'{"service":"chat","tokens_in":-1}',
          b'{"service":"chat","tokens_in":1e308}', b'{"input_file_id":"../../x","endpoint":"/v1/chat/completions","completion_window":"24h"}']  # fmt: skip
CHUNKED = [b"5\r\nhello\r\n0\r\n\r\n", b"5;x=" + b"y" * 900 + b"\r\nhello\r\n0\r\n\r\n", b"fffffffffffffffff\r\nx", b"5\r\nhel", b"0\r\nx: y\r\n\r\n",
           b"%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD), b"-1\r\n\r\n", b"5 \r\nhello\r\n0\r\n\r\n", b"\n5\nhello\n0\n\n", b"0\r\ncontent-length: 9\r\n\r\n"]  # fmt: skip
SMUGGLED = b"POST /v1/chat/completions HTTP/1.1\r\nhost: s\r\nauthorization: Bearer stolen\r\ncontent-length: 12\r\n\r\n"
BEHIND = [
    b"",
    b"",
    b"",
    SMUGGLED,
    SMUGGLED + b'{"x":"smug"}',
    b"\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: t\r\n\r\n",
    b"\x00" * 50,
]


@st.composite
def sent(draw: st.DrawFn) -> list[bytes]:
    """What one connection brings, in pieces."""
    line = b" ".join(
        (
            draw(st.one_of(st.just(b"POST"), st.sampled_from(METHODS))),
            draw(st.one_of(st.just(PATHS[0]), st.sampled_from(PATHS))),
            draw(st.one_of(st.just(b"HTTP/1.1"), st.sampled_from(VERSIONS))),
        )
    )
    body = draw(
        st.one_of(st.sampled_from(BODIES), st.sampled_from(CHUNKED), st.binary(max_size=40))
    )
    lines = draw(st.lists(st.one_of(st.sampled_from(LINES), st.binary(max_size=20)), max_size=3))
    usual = [
        b"host: test",
        b"authorization: Bearer " + KEY.encode(),
        b"content-length: %d" % len(body),
    ]
    lines += [one for one in usual if draw(st.integers(0, 9)) > 0]
    lines = draw(st.permutations(lines))
    if draw(st.integers(0, 20)) == 0:
        lines = lines * 60
    data = (
        line
        + b"\r\n"
        + b"".join(one + b"\r\n" for one in lines)
        + b"\r\n"
        + body
        + draw(st.sampled_from(BEHIND))
    )
    if draw(st.booleans()):
        data = data[: draw(st.integers(0, len(data)))]
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]


class Gateway:
    """One site with its engine, on a loop in a thread of its own."""

    def __init__(self, home: Path) -> None:
        self.errors: list[dict[str, Any]] = []
        self.league: League
        self._ready: Future[None] = Future()
        self._home = home
        self._thread = threading.Thread(target=lambda: uvloop.run(self._run()))
        warm()
        self._thread.start()
        self._ready.result(60)
        self.port = self.league["lyon"].port

    async def _run(self) -> None:
        self._loop, self._stopped = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(lambda _, context: self.errors.append(context))
        try:
            self.league = await start(self._home)
            self._ready.set_result(None)
            await self._stopped.wait()
        except BaseException as error:
            if not self._ready.done():
                self._ready.set_exception(error)
            raise
        finally:
            while rig._started:
                await rig._started.pop().stop()

    def ask(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join(30)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    made = Gateway(tmp_path_factory.mktemp("gateway"))
    yield made
    made.stop()


def exchange(port: int, pieces: list[bytes], wait_s: float) -> bytes:
    """All that comes back until the connection is closed or silent."""
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.settimeout(wait_s)
        back = bytearray()
        try:
            for piece in pieces:
                link.sendall(piece)
            while data := link.recv(65536):
                back += data
        except (TimeoutError, ConnectionError):
            pass
    return bytes(back)


def statuses(back: bytes) -> list[int]:
    """Of every answer in what came back, each of which is whole HTTP."""
    found = []
    while back:
        head, end, rest = back.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 "), back[:200]
        status = int(head[9:12])
        found.append(status)
        assert end
        length = next(
            (
                int(line[15:])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length:")
            ),
            0,
        )
        if b"transfer-encoding: chunked" in head.lower():
            return found  # a stream: its end is looked at elsewhere
        back = rest[length:] if len(rest) >= length else b""
    return found


@pytest.mark.parametrize("examples", [150, pytest.param(6000, marks=pytest.mark.long)])
def test_whatever_comes_is_answered_or_cut_off_and_the_next_is_served(
    gateway: Gateway, examples: int
) -> None:
    lyon, good = gateway.league["lyon"], request(chat())

    @settings(max_examples=examples, database=None, suppress_health_check=list(HealthCheck))
    @given(pieces=sent())
    def attack(pieces: list[bytes]) -> None:
        for status in statuses(exchange(gateway.port, pieces, SILENT_S)):
            assert status in (100, 200, 204) or 400 <= status < 500 or status == 503, status
        assert gateway.errors == []

    attack()
    back = exchange(
        gateway.port,
        [good.replace(b"host: test", b"host: test\r\nconnection: close")],
        ANSWER_S_MAX,
    )
    assert statuses(back) == [200]
    gateway.ask(lyon.idle())
    for engine in lyon.engines:
        for post in engine.posts():
            assert isinstance(post.json, dict) and "smug" not in json.dumps(post.json)
    assert lyon.records()


@pytest.mark.parametrize(
    "body",
    [b'{"model":"chat","\xa6":1,"model":"chat","messages":[],"stream":true,"stream_options":{}}',
     b'{"mod\\u0065l":"chat","user":"\xff","messages":[]}', b'{"model":"chat","messages":[{"role":"user","content":"\xc0\xaf"}]}'],
)  # fmt: skip
def test_text_that_is_no_utf_8_is_refused_where_nobody_would_have_read_it_too(
    gateway: Gateway, body: bytes
) -> None:
    lyon = gateway.league["lyon"]
    before = len(lyon.engines[0].posts())
    sent_whole = request(body).replace(b"host: test", b"host: test\r\nconnection: close")
    assert statuses(exchange(gateway.port, [sent_whole], ANSWER_S_MAX)) == [400]
    assert gateway.errors == [] and len(lyon.engines[0].posts()) == before


@pytest.mark.parametrize("first", [b"content-length: 5", b"transfer-encoding: chunked"])
@pytest.mark.parametrize(
    "second",
    [
        b"Content-Length: 6",
        b"Transfer-Encoding: identity",
        b"content-length: 5",
        b"transfer-encoding: chunked",
    ],
)
def test_two_statements_of_length_are_never_both_believed(
    gateway: Gateway, first: bytes, second: bytes
) -> None:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: t\r\nauthorization: Bearer " + KEY.encode()
    data = b"\r\n".join([head, first, second, b"", b"0\r\n\r\n" + SMUGGLED + b'{"x":"smug"}'])
    assert statuses(exchange(gateway.port, [data], ANSWER_S_MAX)) == [400]


def test_a_head_that_is_known_does_not_let_such_text_pass(gateway: Gateway) -> None:
    bad = b'{"model":"chat","\xa6":1,"messages":[],"stream":false}'
    good = b'{"model":"chat","user":"\xc3\xbc","messages":[]}'.ljust(len(bad))
    with socket.create_connection(("127.0.0.1", gateway.port)) as link:
        link.settimeout(ANSWER_S_MAX)
        found = []
        for body in (good, good, good, bad):
            link.sendall(request(body))
            back = link.recv(65536)
            while not statuses(back) or b"\r\n\r\n" not in back:
                back += link.recv(65536)
            found += statuses(back)
    assert found == [200, 200, 200, 400]
    assert gateway.errors == []
