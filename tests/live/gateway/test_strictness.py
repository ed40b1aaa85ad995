"""Raw bytes at the client port: what is not strict HTTP/1.1 is refused, and refused safely."""

import asyncio

import pytest

from hanse.live.gateway.incoming import Limits
from live.gateway.rig import KEY, ask, chat, connect, raw, read_answer, request, run, start

HOST = b"host: test\r\n"
AUTH = f"authorization: Bearer {KEY}\r\n".encode()
POST = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + AUTH
BODY = b'{"model":"chat","messages":[{"role":"user","content":"hi"}]}'
SIZED = b"content-length: %d\r\n" % len(BODY)

REFUSED = {
    "two lengths": (POST + SIZED + SIZED + b"\r\n" + BODY, 400),
    "two different lengths": (POST + SIZED + b"content-length: 3\r\n\r\n" + BODY, 400),
    "length list": (POST + b"content-length: 3, 3\r\n\r\nabc", 400),
    "signed length": (POST + b"content-length: +3\r\n\r\nabc", 400),
    "huge length": (POST + b"content-length: 99999999999999999999999\r\n\r\n", 400),
    "length and chunked": (
        POST + SIZED + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "chunked and length": (
        POST + b"transfer-encoding: chunked\r\n" + SIZED + b"\r\n0\r\n\r\n",
        400,
    ),
    "gzip, chunked": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (POST + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "unknown coding": (POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked on 1.0": (
        POST.replace(b"1.1", b"1.0") + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "bad chunk": (POST + b"transfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400),
    "negative chunk": (POST + b"transfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n", 400),
    "folded header": (POST + b"x: a\r\n b\r\n" + SIZED + b"\r\n" + BODY, 400),
    "space before colon": (POST + b"x : a\r\n" + SIZED + b"\r\n" + BODY, 400),
    "bare line feeds": (b"GET /healthz HTTP/1.1\nhost: test\n\n", 400),
    "bare carriage return": (POST + b"x: a\rb\r\n" + SIZED + b"\r\n" + BODY, 400),
    "NUL in a header": (POST + b"x: a\0b\r\n" + SIZED + b"\r\n" + BODY, 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400),
    "two credentials": (POST + AUTH + SIZED + b"\r\n" + BODY, 400),
    "two classes": (
        POST + b"x-hanse-class: public\r\nx-hanse-class: health\r\n" + SIZED + b"\r\n" + BODY,
        400,
    ),
    "compressed body": (POST + b"content-encoding: gzip\r\n" + SIZED + b"\r\n" + BODY, 400),
    "upgrade": (
        b"GET /healthz HTTP/1.1\r\n" + HOST + b"upgrade: h2c\r\nconnection: upgrade\r\n\r\n",
        400,
    ),
    "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "HTTP/1.2": (b"GET /healthz HTTP/1.2\r\n" + HOST + b"\r\n", 400),
    "TLS on a plain port": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "unknown expectation": (POST + b"expect: miracles\r\n" + SIZED + b"\r\n" + BODY, 400),
    "101 headers": (POST + b"".join(b"x%d: 1\r\n" % i for i in range(101)) + b"\r\n", 431),
    "a header of 64 KiB": (POST + b"x: " + b"a" * 66_000 + b"\r\n\r\n", 431),
    "a path of 70 KiB": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 431),
    "a declared body over the cap": (POST + b"content-length: 5000000\r\n\r\n", 413),
    "unknown path": (b"GET /admin HTTP/1.1\r\n" + HOST + b"\r\n", 404),
    "wrong method": (b"GET /v1/chat/completions HTTP/1.1\r\n" + HOST + AUTH + b"\r\n", 405),
    "no key": (POST.replace(AUTH, b"") + SIZED + b"\r\n" + BODY, 401),
    "basic auth": (POST.replace(b"Bearer", b"Basic") + SIZED + b"\r\n" + BODY, 401),
    "form body": (
        POST + b"content-type: application/x-www-form-urlencoded\r\n" + SIZED + b"\r\n" + BODY,
        415,
    ),
    "no JSON": (POST + b"content-length: 3\r\n\r\nabc", 400),
    "half JSON": (POST + b'content-length: 9\r\n\r\n{"model":', 400),
    "model is a number": (POST + b'content-length: 11\r\n\r\n{"model":1}', 400),
    "no model": (POST + b"content-length: 2\r\n\r\n{}", 400),
    "empty body": (POST + b"content-length: 0\r\n\r\n", 400),
    "nested to death": (
        POST + b"content-length: 100021\r\n\r\n" + b'{"model":"chat","x":' + b"[" * 100_000 + b"]",
        400,
    ),
}


def test_everything_that_is_not_strict_is_refused_in_openai_shape(tmp_path):
    async def test():
        league = await start(tmp_path)
        port = league["lyon"].port
        wrong = {}
        for name, (data, status) in REFUSED.items():
            answer = await raw(port, data)
            error = answer.json.get("error", {"message": ""})
            shaped = {"message", "type", "param", "code"} <= set(error)
            if answer.status != status or not shaped or not error["message"]:
                wrong[name] = (answer.status, error)
        assert wrong == {}
        assert league["lyon"].engines[0].posts() == []
        assert (await ask(port, chat())).status == 200  # and the gateway is as before
        await league["lyon"].idle()

    run(test)


def test_a_request_that_arrives_byte_by_byte_is_served(tmp_path):
    async def test():
        league = await start(tmp_path)
        reader, writer = await connect(league["lyon"].port)
        for byte in request(chat()):
            writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await read_answer(reader)).status == 200
        writer.close()

    run(test)


def test_a_chunked_body_is_accepted_and_reaches_the_engine_whole(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        chunks = b"".join(b"1;ext=1\r\n%c\r\n" % byte for byte in BODY)
        data = POST + b"transfer-encoding: chunked\r\n\r\n" + chunks + b"0\r\nx-trailer: 1\r\n\r\n"
        assert (await raw(lyon.port, data)).status == 200
        assert lyon.engines[0].posts()[0].json["messages"] == [{"role": "user", "content": "hi"}]

    run(test)


def test_a_chunked_body_is_cut_off_at_the_cap(tmp_path):
    async def test():
        league = await start(tmp_path)
        reader, writer = await connect(league["lyon"].port)
        writer.write(POST + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(200):
            writer.write(b"8000\r\n" + b"a" * 0x8000 + b"\r\n")
        answer = await read_answer(reader)
        assert (answer.status, answer.code) == (413, "request_too_large")
        writer.close()

    run(test)


def test_one_byte_chunks_with_long_extensions_cannot_inflate_a_body_without_end(tmp_path):
    async def test():
        league = await start(tmp_path)
        worker = league["lyon"].worker
        worker.body_bytes_max = 1000
        reader, writer = await connect(league["lyon"].port)
        writer.write(POST + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(100):
            writer.write(b"1;" + b"x" * 1000 + b"\r\na\r\n")
            await writer.drain()
            await asyncio.sleep(0)
        assert (await read_answer(reader)).status == 413
        writer.close()

    run(test)


def test_the_cap_of_the_service_holds_below_that_of_the_port(tmp_path):
    async def test():
        league = await start(tmp_path)
        big = chat("x" * 310_000)
        answer = await ask(league["lyon"].port, big)
        assert (answer.status, answer.code) == (413, "request_too_large")
        assert (await ask(league["lyon"].port, chat(metadata="x" * 200_000))).status == 200

    run(test)


def test_keep_alive_serves_many_requests_on_one_connection(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        reader, writer = await connect(lyon.port)
        for _ in range(20):
            writer.write(request(chat()))
            assert (await read_answer(reader)).status == 200
        writer.close()
        assert lyon.engines[0].connections <= 3  # one for requests, one or two for probes

    run(test)


def test_pipelined_requests_are_refused_by_closing_after_the_answer_in_progress(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        for split in (False, True):
            reader, writer = await connect(lyon.port)
            if split:
                lyon.engines[0].arrived.clear()
                lyon.engines[0].hold = asyncio.Event()
                writer.write(request(chat("one")))
                await lyon.engines[0].arrived.wait()
                writer.write(request(chat("two")))
                await asyncio.sleep(0.05)
                lyon.engines[0].hold.set()
            else:
                writer.write(request(chat("one")) + request(chat("two")))
            assert (await read_answer(reader)).status == 200
            assert await reader.read() == b""  # closed, and the second was never run
            writer.close()
        assert len(lyon.engines[0].posts()) == 2
        await lyon.idle()

    run(test)


def test_answers_that_need_no_engine_can_be_pipelined_without_harm(tmp_path):
    async def test():
        league = await start(tmp_path)
        reader, writer = await connect(league["lyon"].port)
        writer.write((b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n") * 3)
        for _ in range(3):
            assert (await read_answer(reader)).status == 200
        writer.close()

    run(test)


def test_headers_that_nobody_here_reads_may_be_given_twice(tmp_path):
    async def test():
        league = await start(tmp_path)
        more = b"accept: a/b\r\naccept: c/d\r\nx-a: 1\r\nX-A: 2\r\n"
        assert (await raw(league["lyon"].port, POST + more + SIZED + b"\r\n" + BODY)).status == 200

    run(test)


@pytest.mark.parametrize("again", [AUTH, AUTH.replace(b"auth", b"Auth"), b"HOST: other\r\n"])
def test_a_header_that_decides_is_never_taken_twice_however_it_is_spelt(tmp_path, again):
    async def test():
        league = await start(tmp_path)
        data = POST + b"accept: x\r\naccept: y\r\n" + again + SIZED + b"\r\n" + BODY
        for pieces in ([data], [data[i : i + 7] for i in range(0, len(data), 7)]):
            reader, writer = await connect(league["lyon"].port)
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            assert (await read_answer(reader)).status == 400
            writer.close()

    run(test)


def test_connection_close_and_http_1_0_are_obeyed(tmp_path):
    async def test():
        league = await start(tmp_path)
        port = league["lyon"].port
        data = POST + b"connection: close\r\n" + SIZED + b"\r\n" + BODY
        assert (await raw(port, data)).closed
        answer = await raw(port, POST.replace(b"1.1", b"1.0") + SIZED + b"\r\n" + BODY)
        assert (answer.status, answer.closed) == (200, True)
        body = BODY[:-1] + b',"stream":true}'
        head = POST.replace(b"1.1", b"1.0") + b"content-length: %d\r\n\r\n" % len(body)
        answer = await raw(port, head + body)
        assert "transfer-encoding" not in answer.headers
        assert answer.body.endswith(b"data: [DONE]\n\n")

    run(test)


def test_head_and_options_are_sane(tmp_path):
    async def test():
        league = await start(tmp_path)
        reader, writer = await connect(league["lyon"].port)
        writer.write(b"HEAD /healthz HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = await read_answer(reader, head_only=True)
        assert (answer.status, answer.headers["content-length"]) == (200, "15")
        writer.write(b"OPTIONS /v1/chat/completions HTTP/1.1\r\n" + HOST + b"\r\n")
        answer = await read_answer(reader)
        assert (answer.status, answer.headers["allow"]) == (204, "POST, OPTIONS")
        writer.write(b"GET /healthz HTTP/1.1\r\n" + HOST + b"\r\n")  # nothing was left behind
        assert (await read_answer(reader)).body == b'{"status":"ok"}'
        writer.close()

    run(test)


def test_100_continue_is_sent_only_once_key_and_law_agree(tmp_path):
    async def test():
        league = await start(tmp_path)
        port = league["lyon"].port
        reader, writer = await connect(port)
        writer.write(POST + b"expect: 100-continue\r\n" + SIZED + b"\r\n")
        assert (await read_answer(reader)).status == 100
        writer.write(BODY)
        assert (await read_answer(reader)).status == 200
        writer.close()
        reader, writer = await connect(port)
        writer.write(
            POST.replace(AUTH, b"authorization: Bearer no\r\n")
            + b"expect: 100-continue\r\n"
            + SIZED
            + b"\r\n"
        )
        assert (await read_answer(reader)).status == 401  # and no 100 before it
        assert await reader.read() == b""
        writer.close()

    run(test)


def test_slow_headers_slow_bodies_and_silence_are_ended(tmp_path):
    limits = Limits(head_s_max=0.6, body_grace_s=0.6, body_bytes_per_s_min=1e6, idle_s_max=0.6)

    async def test():
        league = await start(tmp_path, limits=limits)
        port = league["lyon"].port
        reader, writer = await connect(port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost:")
        answer = await read_answer(reader)
        assert (answer.status, answer.code) == (408, "request_timeout")
        slow_reader, slow_writer = await connect(port)
        slow_writer.write(POST + SIZED + b"\r\n{")
        assert (await read_answer(slow_reader)).status == 408
        idle_reader, idle_writer = await connect(port)
        assert await idle_reader.read() == b""  # never said a word
        for one in (writer, slow_writer, idle_writer):
            one.close()

    run(test)


def test_a_small_refused_body_is_skipped_and_the_connection_goes_on(tmp_path):
    async def test():
        league = await start(tmp_path)
        reader, writer = await connect(league["lyon"].port)
        writer.write(request(chat(), key="wrong"))
        assert (await read_answer(reader)).status == 401
        writer.write(request(chat()))
        assert (await read_answer(reader)).status == 200
        writer.close()

    run(test)


def test_a_refusal_is_readable_although_the_client_goes_on_sending(tmp_path):
    async def test():
        league = await start(tmp_path)
        reader, writer = await connect(league["lyon"].port)
        writer.write(POST + b"content-length: 90000000\r\n\r\n")
        for _ in range(20):
            writer.write(b"a" * 10_000)
            await asyncio.sleep(0.001)
        assert (await read_answer(reader)).status == 413
        writer.close()

    run(test)


@pytest.mark.parametrize("count", [3])
def test_connections_beyond_the_limit_are_dropped(tmp_path, count):
    async def test():
        league = await start(tmp_path, limits=Limits(connections_max=count))
        port = league["lyon"].port
        held = [await connect(port) for _ in range(count)]
        await asyncio.sleep(0.05)
        reader, writer = await connect(port)
        assert await reader.read() == b""
        for _, one in [*held, (reader, writer)]:
            one.close()

    run(test)
