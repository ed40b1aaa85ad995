"""Requests through one gateway to engines, plain and streamed, raw and with the official client."""

import asyncio
import json
import socket

import openai
import pytest

from hanse.errors import SiteError
from hanse.live.evidence.chain import Decided, Ended, Executed
from hanse.live.gateway import incoming
from hanse.live.gateway.attempt import HOLD_ALL_BYTES_MAX, HOLD_BYTES_MAX
from hanse.live.gateway.exchange import Exchange
from live.gateway.rig import (
    KEY,
    SHOP_KEY,
    ask,
    chat,
    connect,
    events,
    get,
    read_answer,
    request,
    run,
    start,
)
from live.gateway.test_hops import without_own_engines


def test_a_plain_answer_passes_untouched_with_predictions_and_measured_values(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.engines[
            0
        ].answer = b'{"object" :"x", "usage":{"prompt_tokens":7,"completion_tokens":4}}'
        answer = await ask(lyon.port, chat(max_tokens=5))
        assert answer.status == 200
        assert answer.body == lyon.engines[0].answer
        assert answer.headers["x-hanse-site"] == "lyon"
        assert answer.headers["x-hanse-variant"] == "q4"
        assert len(answer.headers["x-request-id"]) == 32
        predicted = dict(p.split("=") for p in answer.headers["x-hanse-predicted"].split(";"))
        assert set(predicted) == {"ttft_ms", "e2e_ms", "wh", "g", "usd"}
        measured = dict(p.split("=") for p in answer.headers["x-hanse-measured"].split(";"))
        assert measured["tokens_in"] == "7"
        assert measured["tokens_out"] == "4"
        assert measured["method"] == "modelled"
        assert float(measured["wh"]) > 0
        await lyon.idle()

    run(test)


def test_only_the_model_name_changes_on_the_way_to_the_engine(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        body = (
            b'{ "model":"gpt-4o-mini" ,"messages":[{"role":"user","content":"models"}],"seed":1e2}'
        )
        await ask(lyon.port, body, headers={"traceparent": "00-ab-cd-01", "cookie": "secret=1"})
        got = lyon.engines[0].posts()[0]
        assert got.body == body.replace(b'"gpt-4o-mini"', b'"served-name"')
        assert got.headers["traceparent"] == "00-ab-cd-01"
        assert "authorization" not in got.headers
        assert "cookie" not in got.headers

    run(test)


def test_a_stream_passes_event_by_event_and_ends_with_measured_values(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        answer = await ask(lyon.port, chat(stream=True))
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert lyon.engines[0].posts()[0].json["stream_options"] == {"include_usage": True}
        texts = events(answer.body)
        assert texts[-1] == "[DONE]"
        assert len(texts) == 4 + 1 + 1  # tokens, finish, done: the usage chunk was ours and is gone
        assert all("usage" not in json.loads(text) for text in texts[:-1])
        before_done, _, _ = answer.body.partition(b"data: [DONE]")
        note = json.loads(before_done.rsplit(b": hanse ", 1)[1])
        assert note["tokens_out"] == 4
        assert note["tokens_in"] == 7
        assert note["wh"] > 0
        await lyon.idle()

    run(test)


def test_a_client_that_asks_for_usage_gets_it(tmp_path):
    async def test():
        league = await start(tmp_path)
        body = chat(stream=True, stream_options={"include_usage": True})
        answer = await ask(league["lyon"].port, body)
        assert json.loads(events(answer.body)[-2])["usage"]["completion_tokens"] == 4

    run(test)


@pytest.mark.parametrize("shape", ["closes", "unsized", "no_done"])
def test_streams_of_engines_that_end_in_their_own_way_still_end_well(tmp_path, shape):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        engine = lyon.engines[0]
        engine.close_after_stream = shape == "closes"
        engine.chunked = shape != "unsized"
        engine.done_marker = shape != "no_done"
        for _ in range(3):
            answer = await ask(lyon.port, chat(stream=True))
            assert answer.status == 200
            assert b"event: error" not in answer.body
            assert answer.body.count(b": hanse {") == 1
        await lyon.idle()

    run(test)


def test_the_official_client_works_unchanged(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        async with openai.AsyncOpenAI(
            base_url=f"{lyon.url}/v1", api_key=KEY, max_retries=0
        ) as client:
            messages = [{"role": "user", "content": "Hello"}]
            plain = await client.chat.completions.create(model="chat", messages=messages)
            assert plain.choices[0].message.content == "lyon-0"
            stream = await client.chat.completions.create(
                model="gpt-4o-mini", messages=messages, stream=True
            )
            text = [chunk.choices[0].delta.content async for chunk in stream]
            assert text == ["x0 ", "x1 ", "x2 ", "x3 ", None]
            models = [model.id async for model in client.models.list()]
            assert models == ["chat", "gpt-4o-mini", "embed"]
            with pytest.raises(openai.NotFoundError) as missing:
                await client.chat.completions.create(model="nope", messages=messages)
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.AuthenticationError) as unknown:
                await client.with_options(api_key="wrong").models.list()
            assert unknown.value.code == "invalid_api_key"
            with pytest.raises(openai.PermissionDeniedError) as denied:
                await client.chat.completions.create(
                    model="chat", messages=messages, extra_headers={"x-hanse-class": "payment"}
                )
            assert denied.value.code == "class_not_allowed"

    run(test)


def test_the_official_client_raises_when_a_stream_breaks(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.engines[0].mode = "cut_mid"
        async with openai.AsyncOpenAI(
            base_url=f"{lyon.url}/v1", api_key=KEY, max_retries=0
        ) as client:
            stream = await client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": "Hello"}], stream=True
            )
            with pytest.raises(openai.APIError, match="the stream broke"):
                async for _ in stream:
                    pass
        await lyon.idle()

    run(test)


def test_the_official_client_cancels_the_engine_when_it_leaves(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        engine = lyon.engines[0]
        engine.gate = asyncio.Event()
        async with openai.AsyncOpenAI(
            base_url=f"{lyon.url}/v1", api_key=KEY, max_retries=0
        ) as client:
            stream = await client.chat.completions.create(
                model="chat", messages=[{"role": "user", "content": "Hello"}], stream=True
            )
            async for _ in stream:
                await stream.close()
                break
            await engine.gone.wait()
        await lyon.idle()
        ended = [record for record in lyon.records() if isinstance(record, Ended)]
        assert [record.outcome for record in ended] == ["cancelled"]

    run(test)


def test_embeddings_go_to_the_service_that_has_them(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.engines[1].answer = b'{"object":"list","data":[],"usage":{"prompt_tokens":3}}'
        body = {"model": "embed", "input": "hello"}
        answer = await ask(lyon.port, body, path="/v1/embeddings")
        assert answer.status == 200
        assert lyon.engines[1].posts()[0].path == "/v1/embeddings"
        wrong = await ask(lyon.port, chat(), path="/v1/embeddings")
        assert (wrong.status, wrong.code) == (404, "endpoint_not_supported")

    run(test)


def test_evidence_says_decided_executed_ended_in_that_order(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        given = "ab" * 16
        answer = await ask(lyon.port, chat(), headers={"x-request-id": given})
        request_id = answer.headers["x-request-id"]
        assert request_id != given, "a client that repeats its id must not make two requests one"
        kinds = [type(record) for record in lyon.records()]
        assert kinds == [Decided, Executed, Ended]
        decided, executed, ended = lyon.records()
        assert decided.request_id.hex() == executed.request_id.hex() == request_id
        assert (decided.site, decided.variant, decided.country) == ("lyon", "q4", "FR")
        assert executed.allowed
        assert (ended.outcome, ended.role, ended.tokens_out) == ("answered", "entry", 4)

    run(test)


def test_no_byte_reaches_an_engine_when_the_log_cannot_be_written(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.worker.ledger._chain = FullDisk()
        answer = await ask(lyon.port, chat())
        assert (answer.status, answer.code) == (503, "no_evidence")
        assert lyon.engines[0].posts() == []
        assert lyon.in_flight() == 0

    class FullDisk:
        def append_sized(self, pieces, count):
            raise SiteError("chain", got="no space left on device")

        def close(self):
            pass

    run(test)


def test_measured_values_are_kept_for_the_key_that_asked_and_no_other(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        lyon = league["lyon"]
        answer = await ask(lyon.port, chat())
        path = f"/hanse/v1/requests/{answer.headers['x-request-id']}"
        note = (await get(lyon.port, path)).json
        assert note["outcome"] == "answered"
        assert note["tokens_out"] == 4
        assert note["measured"]["energy_wh"] > 0
        assert note["site"] == answer.headers["x-hanse-site"]
        assert (await get(lyon.port, path, key=SHOP_KEY)).status == 404
        assert (await get(lyon.port, "/hanse/v1/requests/" + "0" * 32)).status == 404

    run(test)


def test_a_service_without_any_engine_alive_answers_503_with_retry_after(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        await lyon.engines[0].stop()
        for _ in range(200):
            answer = await ask(lyon.port, chat())
            if answer.status == 503:
                break
            await asyncio.sleep(0.02)
        assert (answer.status, answer.code) == (503, "no_room")
        assert int(answer.headers["retry-after"]) >= 1
        refused = [r for r in lyon.records() if isinstance(r, Decided) and r.refusal == "no_room"]
        assert refused

    run(test)


@pytest.mark.parametrize("forwarded", [False, True])
def test_an_answer_too_large_to_hold_leaves_its_connections_to_the_next(tmp_path, forwarded):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn") if forwarded else ("lyon",))
        lyon, serving = league["lyon"], league["tallinn" if forwarded else "lyon"]
        if forwarded:
            await without_own_engines(league, "lyon")
        answer = b'{"text":"%b"}' % (b"x" * 2 * HOLD_BYTES_MAX)
        serving.engines[0].answer = answer
        reader, writer = await connect(lyon.port)
        for _ in range(3):
            writer.write(request(chat()))
            async with asyncio.timeout(10.0):
                got = await read_answer(reader)
            assert (got.status, got.body) == (200, answer)
            await lyon.idle()
            await serving.idle()
        writer.close()

    run(test)


LONG = b'{"usage" :{"prompt_tokens":7,"completion_tokens":4},"text":"%b"}' % (b"x" * 3_000_000)


def figures(text: str) -> dict[str, str]:
    return dict(part.split("=") for part in text.split(";"))


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("forwarded", [False, True])
def test_a_large_plain_answer_is_accounted_for_like_a_small_one(tmp_path, forwarded, held):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn") if forwarded else ("lyon",))
        lyon, serving = league["lyon"], league["tallinn" if forwarded else "lyon"]
        if forwarded:
            await without_own_engines(league, "lyon")
        serving.engines[0].answer = LONG
        sites = [lyon, serving] if forwarded else [lyon]
        for site in sites:
            site.worker.held_bytes = 0 if held else HOLD_ALL_BYTES_MAX
        answer = await ask(lyon.port, chat(max_tokens=5))
        assert (answer.status, answer.body) == (200, LONG)
        await lyon.idle()
        await serving.idle()
        assert {s.worker.held_bytes for s in sites} == {0 if held else HOLD_ALL_BYTES_MAX}
        assert ("x-hanse-measured" in answer.headers) is held
        ended = [r for s in sites for r in s.records() if isinstance(r, Ended)]
        assert len(ended) == 1 + forwarded
        assert {(r.tokens_in, r.tokens_out) for r in ended} == {(7, 4)}
        energies = [r.energy_wh for r in ended]
        assert min(energies) > 0.0 and energies == pytest.approx([energies[0]] * len(energies))

    run(test)


def test_a_large_answer_that_breaks_while_it_is_held_is_asked_for_elsewhere(tmp_path):
    async def test():
        lyon = (await start(tmp_path, replicas=2))["lyon"]
        one, other, _ = lyon.engines
        one.answer = other.answer = LONG
        one.hold, other.hold = asyncio.Event(), asyncio.Event()
        asked = asyncio.create_task(ask(lyon.port, chat()))
        await next(asyncio.as_completed([one.arrived.wait(), other.arrived.wait()]))
        (one if one.posts() else other).mode = "cut_plain"
        one.hold.set()
        other.hold.set()
        assert (await asked).body == LONG
        assert len(one.posts()) == len(other.posts()) == 1
        await lyon.idle()
        assert lyon.worker.held_bytes == 0

    run(test)


HELD = b'{"text":"%b"}' % (b"x" * 7_900_000)
"""As much as is held of any answer, and more than sockets hold."""


def narrow(port: int) -> socket.socket:
    """A connection that takes little beyond what is read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    sock.connect(("127.0.0.1", port))
    sock.setblocking(False)
    return sock


async def slowly(reader, count, piece_bytes=65_536):
    """So many bytes, as a slow client takes them."""
    got = b""
    while len(got) < count:
        piece = await reader.read(min(piece_bytes, count - len(got)))
        if not piece:
            break
        got += piece
        await asyncio.sleep(0.002)
    return got


def test_a_slow_client_leaves_no_connection_paused_to_the_next(tmp_path, monkeypatch):
    """The last bytes of an answer that passes through may fill the client's buffer: nobody would read on for who uses the connection next."""
    write = Exchange.write

    def fills(exchange, data):
        write(exchange, data)
        exchange.client_paused()
        asyncio.get_running_loop().call_soon(exchange.client_resumed)

    monkeypatch.setattr(Exchange, "write", fills)

    async def test():
        lyon = (await start(tmp_path))["lyon"]
        lyon.engines[0].answer = b'{"text":"%b"}' % (b"x" * 2 * HOLD_BYTES_MAX)
        for _ in range(2):
            assert (await ask(lyon.port, chat())).status == 200
            await lyon.idle()
            (out,) = lyon.worker.engines[0].target.idle
            assert out.transport.is_reading()

    run(test)


@pytest.mark.parametrize("how", ["close", "1.0", "keep"])
def test_a_slow_client_gets_all_of_its_answer_however_the_connection_ends(
    tmp_path, how, monkeypatch
):
    monkeypatch.setattr(incoming, "LINGER_S", 0.1)

    async def test():
        lyon = (await start(tmp_path))["lyon"]
        lyon.engines[0].answer = answer = HELD
        reader, writer = await asyncio.open_connection(sock=narrow(lyon.port), limit=65_536)
        asked = request(chat(), headers={"connection": "close"} if how == "close" else None)
        writer.write(asked.replace(b"HTTP/1.1", b"HTTP/1.0", 1) if how == "1.0" else asked)
        await reader.readuntil(b"\r\n\r\n")
        got = b""
        for _ in range(6):  # three seconds: what waits is more than sockets hold
            await asyncio.sleep(0.5)
            got += await reader.readexactly(1000)
        got += await slowly(reader, len(answer) - len(got), 1_000_000)
        assert got == answer
        writer.close()

    run(test)


def test_a_client_that_reads_nothing_is_asked_for_nothing_more_and_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(incoming, "STALL_S", 1.0)

    async def test():
        lyon = (await start(tmp_path))["lyon"]
        engine = lyon.engines[0]
        engine.answer = HELD
        sock = narrow(lyon.port)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, request(chat()))
        await engine.arrived.wait()
        await lyon.idle()
        held = lyon.worker.held_bytes
        assert held > 0.9 * len(HELD), "it still waits in memory"
        await loop.sock_sendall(sock, request(chat()))
        await asyncio.sleep(0.3)
        assert len(engine.posts()) == 1
        async with asyncio.timeout(20.0):
            while lyon.worker.doors[0].open_connections:
                await asyncio.sleep(0.05)
        assert lyon.worker.held_bytes == 0
        assert len(engine.posts()) == 1
        sock.close()

    run(test)


def test_what_a_client_reads_late_no_longer_counts_once_it_is_read(tmp_path):
    async def test():
        lyon = (await start(tmp_path))["lyon"]
        lyon.engines[0].answer = HELD
        reader, writer = await asyncio.open_connection(sock=narrow(lyon.port), limit=65_536)
        for _ in range(2):
            writer.write(request(chat()))
            await reader.readuntil(b"\r\n\r\n")
            await lyon.idle()
            assert lyon.worker.held_bytes > 0
            assert await slowly(reader, len(HELD), 1_000_000) == HELD
            assert lyon.worker.held_bytes == 0
        writer.close()

    run(test)


def test_an_engines_endless_error_or_trailer_is_cut_off(tmp_path):
    sent = []

    async def no(writer):
        writer.write(b"HTTP/1.1 500 X\r\ncontent-length: 900000000\r\n\r\n")
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent.append(100_000)

    async def trailer(writer):
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
        while True:
            writer.write(b"name: " + b"v" * 10_000)
            await writer.drain()
            sent.append(10_000)

    async def test():
        lyon = (await start(tmp_path))["lyon"]
        for raw in (no, trailer):
            sent.clear()
            lyon.engines[0].raw = raw
            answer = await ask(lyon.port, chat())
            assert answer.status in (502, 503)
            assert sum(sent) < 20_000_000, "what sockets hold, and a little"
            await lyon.idle()

    run(test)


def test_a_large_error_of_an_engine_is_told_without_being_taken_apart(tmp_path):
    async def test():
        lyon = (await start(tmp_path))["lyon"]
        lyon.engines[0].no = 400, b'{"error":[' + b",".join([b"[]"] * 200_000) + b"]}"
        answer = await ask(lyon.port, chat())
        assert answer.status == 400
        assert answer.json["error"]["message"] and len(answer.body) < 10_000

    run(test)
