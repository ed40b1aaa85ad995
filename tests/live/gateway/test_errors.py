"""What refused clients read: OpenAI's shape, what came, what is allowed, what to do; and an engine's own errors in that shape."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.table import Table
from hanse.live.gateway.answers import error_body
from hanse.live.gateway.body import read_head
from hanse.live.gateway.desk import CHECK
from hanse.live.gateway.engine_error import in_openai_shape
from hanse.live.gateway.outgoing import ask as ask_target
from hanse.live.gateway.peers import PeerTarget
from hanse.live.gateway.worker import Worker
from live.gateway.rig import (
    KEY,
    SHOP_KEY,
    Answer,
    League,
    SiteRig,
    ask,
    chat,
    fleet_toml,
    get,
    raw,
    request,
    run,
    start,
    table_bytes,
)
from live.gateway.test_deferred import Inner
from live.gateway.test_hops import hop, without_own_engines
from ports import free_port

LLAMA = b'{"error":{"code":400,"message":"%b","type":"invalid_request_error"}}'
VLLM = b'{"object":"error","message":"%b","type":"BadRequestError","param":null,"code":400}'
SHAPE = {"message", "type", "param", "code"}
HEAD = read_head(json.dumps(chat()).encode())


def no(answer: Answer) -> dict[str, Any]:
    """The error of an answer, in OpenAI's shape."""
    error: dict[str, Any] = answer.json["error"]
    assert answer.headers["content-type"] == "application/json"
    assert set(error) >= SHAPE
    return error


def test_a_gateway_without_a_table_says_so_to_peers_and_clients(tmp_path: Path) -> None:
    async def test() -> None:
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon, tallinn = league["lyon"].worker, league["tallinn"]
        broken: list[dict[str, Any]] = []
        lyon.loop.set_exception_handler(lambda _, context: broken.append(context))
        (empty := tmp_path / "empty").mkdir()
        settings = msgspec.structs.replace(
            tallinn.worker.settings,
            port=free_port(),
            hop_port=free_port(),
            table=str(empty),
            page=str(empty / "shared.mmap"),
            evidence_dir=str(empty / "evidence"),
        )
        worker = Worker(settings, asyncio.get_running_loop())
        port, hop_port = await worker.listen()
        bare = SiteRig("tallinn", worker, [], port, hop_port, empty)
        try:
            assert lyon.identity is not None
            assert lyon.around.tls_out is not None
            target = PeerTarget(
                "tallinn",
                f"127.0.0.1:{hop_port}",
                lyon.identity,
                lyon.around.tls_out,
                lyon.loop,
                trusts=lyon.around.trusts,
            )
            status, body = await ask_target(target, CHECK, 5.0)
            assert (status, json.loads(body)["error"]["code"]) == (503, "no_table")
            assert (await ask_target(target, b"/healthz", 5.0))[0] == 200
            receipt = b"/hanse/v1/requests/%032d/receipt" % 0
            assert (await ask_target(target, receipt, 5.0))[0] == 404
            alone = League(tmp_path, {"tallinn": bare})
            for n, path in enumerate(("/v1/chat/completions", "/v1/files", "/v1/batches/x")):
                fresh = {"request_id": bytes([n] * 16)}
                refused, _ = await hop(alone, "tallinn", path=path, change=fresh)
                assert (refused.status, refused.code) == (409, "refused_table"), path
            target.close()
            for path in ("/v1/models", "/v1/models/x", "/.well-known/hanse", "/v1/files"):
                assert (await get(port, path)).code == "no_table"
            assert (await get(port, "/hanse/v1/requests/" + "0" * 32)).code == "no_table"
            assert (await ask(port, {}, path="/hanse/v1/explain")).code == "no_table"
            assert (await ask(port, chat())).code == "no_table"
            async with Inner(bare) as inner:
                assert (await inner.send(chat())).code == "no_table"
            assert (await get(port, "/metrics")).status == 200
            assert (await get(port, "/readyz")).json["status"] == "no routing table"
        finally:
            await worker.stop()
        assert broken == []

    run(test)


def test_refusals_say_what_this_key_may_send_and_nothing_of_others(tmp_path: Path) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path, sites=("lyon", "virginia")))["lyon"]
        may = "this key may send health, public (without the header: health)"
        speak = "this key may speak for FR, EE (without the header: FR)"
        models = "it may use chat, gpt-4o-mini, embed"
        for body, headers, key, code, param, said in (
            (chat(), {"x-hanse-class": "pay"}, KEY, "class_not_allowed", "x-hanse-class", may),
            (
                chat(),
                {"x-hanse-country": "US"},
                KEY,
                "country_not_allowed",
                "x-hanse-country",
                speak,
            ),
            (chat() | {"model": "gpt-5"}, {}, KEY, "model_not_found", "model", models),
            (chat(n="two"), {}, KEY, "invalid_request", "n", "n is a string; n must be a whole"),
            ({"messages": []}, {}, KEY, "invalid_request", "model", "model is missing; model must"),
            (chat(stream=1), {}, KEY, "invalid_request", "stream", "true or false"),
            (b"", {}, KEY, "invalid_request", None, "a JSON object is missing"),
            (b"{", {}, KEY, "invalid_request", None, "the body is not JSON"),
            (b"3", {}, KEY, "invalid_request", None, "the body is a number; send an object"),
        ):
            answer = await ask(lyon.port, body, headers=headers, key=key)  # type: ignore[arg-type]
            error = no(answer)
            assert (error["code"], error["param"]) == (code, param)
            assert said in error["message"], error
        at_shops = {"x-hanse-class": "health", "x-hanse-country": "US"}
        shop = await get(lyon.port, "/v1/models/embed", key=SHOP_KEY, headers=at_shops)
        assert "this key may send public (" in no(shop)["message"]
        assert "health," not in no(shop)["message"]
        one = await get(lyon.port, "/v1/models/embed", key=SHOP_KEY)
        assert (one.status, no(one)["param"]) == (404, "model")
        assert no(one)["message"].endswith("it may use chat, gpt-4o-mini")
        explain = await ask(lyon.port, b"", path="/hanse/v1/explain")
        assert '{"service": "chat"' in no(explain)["message"]
        path = await ask(lyon.port, {"model": "embed", "input": "x"})
        assert no(path)["message"].endswith("it serves /v1/embeddings")

    run(test)


def test_a_missing_key_is_no_unknown_one(tmp_path: Path) -> None:
    async def test() -> None:
        port = (await start(tmp_path))["lyon"].port
        line = f"authorization: Bearer {KEY}\r\n".encode()
        for instead, said in (
            (b"", "no API key came; send the header `Authorization: Bearer KEY`"),
            (b"authorization: Basic eDp5\r\n", "send `Authorization: Bearer KEY`"),
            (b"authorization: Bearer secret\r\n", "unknown API key"),
        ):
            answer = await raw(port, request(chat()).replace(line, instead))
            error = no(answer)
            assert (answer.status, error["code"]) == (401, "invalid_api_key")
            assert said in error["message"]
            assert "secret" not in error["message"]

    run(test)


def test_a_prompt_that_is_too_long_is_told_the_limit(tmp_path: Path) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path))["lyon"]
        toml = fleet_toml(("lyon",), 1).replace("context_tokens = 100000", "context_tokens = 5000")
        lyon.worker.use_table(Table.from_bytes(table_bytes(toml, version=2)))
        answer = await ask(lyon.port, chat("x" * 40_000))
        error = no(answer)
        assert (answer.status, error["code"], error["param"]) == (
            400,
            "context_length_exceeded",
            "messages",
        )
        assert "chat takes 5000, answer included" in error["message"]

    run(test)


NOES = [
    (400, LLAMA % b"'messages' is required", "messages", None),
    (
        400,
        LLAMA % b"Field 'max_tokens': Value must be between -1 <= value <= 2147483647, but got -4",
        "max_tokens",
        None,
    ),
    (400, LLAMA % b"Field 'n': Value must be between 1 <= value <= 1, but got 7", "n", None),
    (400, LLAMA % b"n_predict must not be -4", "max_tokens", None),
    (400, LLAMA % b"the stop and the user are what they are", None, None),
    (400, VLLM % b"max_tokens must be at least 1, got -4.", "max_tokens", None),
    (
        400,
        VLLM % b"This model's maximum context length is 4096 tokens.",
        "messages",
        "context_length_exceeded",
    ),
    (
        400,
        b'{"error":{"code":400,"message":"too much","type":"exceed_context_size_error","n_ctx":512}}',
        "messages",
        "context_length_exceeded",
    ),
    (
        422,
        b'{"detail":[{"loc":["body","temperature"],"msg":"Input should be a number"}]}',
        "temperature",
        None,
    ),
    (422, b'{"error":"`top_p` must be > 0.0","error_type":"validation"}', "top_p", None),
    (404, b"<html>not here</html>", None, None),
    (400, b"", None, None),
]


@pytest.mark.parametrize("at", ["here", "at a peer"])
def test_an_engines_no_comes_in_openais_shape(tmp_path: Path, at: str) -> None:
    async def test() -> None:
        sites = ("lyon",) if at == "here" else ("lyon", "tallinn")
        league = await start(tmp_path, sites=sites)
        lyon, serving = league["lyon"], league[sites[-1]]
        if at != "here":
            await without_own_engines(league, "lyon")
        for status, said, param, code in NOES:
            serving.engines[0].no = status, said
            for more in ({}, {"stream": True}):
                answer = await ask(lyon.port, chat(**more))
                error = no(answer)
                assert set(error) == SHAPE
                assert answer.status == status
                assert (error["param"], error["code"]) == (param, code), said
                assert error["type"] == "invalid_request_error"
                assert error["message"]
                assert answer.headers["x-hanse-site"] == serving.name
        serving.engines[0].no = 400, NOES[7][1]
        assert (no(await ask(lyon.port, chat()))["message"]) == "too much; the limit is 512 tokens"
        serving.engines[0].no = 400, LLAMA % b"max_tokens must be positive"
        both = await ask(lyon.port, chat(max_completion_tokens=-4))
        assert no(both)["param"] == "max_completion_tokens"
        serving.engines[0].no = None
        assert (await ask(lyon.port, chat())).status == 200
        await lyon.idle()

    run(test)


def test_a_line_of_a_batch_gets_an_engines_no_in_the_same_shape(tmp_path: Path) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path))["lyon"]
        lyon.engines[0].no = NOES[0][:2]
        async with Inner(lyon) as inner:
            answer = await inner.send({"model": "chat"})
        assert (answer.status, no(answer)["param"], no(answer)["code"]) == (400, "messages", None)

    run(test)


def test_the_official_client_raises_with_the_field(tmp_path: Path) -> None:
    async def test() -> None:
        lyon = (await start(tmp_path))["lyon"]
        lyon.engines[0].no = NOES[1][:2]
        async with openai.AsyncOpenAI(
            base_url=f"{lyon.url}/v1", api_key=KEY, max_retries=0
        ) as client:
            with pytest.raises(openai.BadRequestError) as caught:
                await client.chat.completions.create(**chat(max_tokens=-4))  # type: ignore[arg-type]
        assert (caught.value.param, caught.value.code) == ("max_tokens", None)
        assert caught.value.type == "invalid_request_error"

    run(test)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "type", "param", "code", "detail", "n_ctx"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=15,
)


@given(st.integers(400, 599), st.binary(max_size=200) | JSON.map(lambda v: json.dumps(v).encode()))
def test_whatever_an_engine_says_becomes_openais_shape_and_stays_it(
    status: int, said: bytes
) -> None:
    once = in_openai_shape(status, said, HEAD)
    error = json.loads(once)["error"]
    assert set(error) >= SHAPE
    assert isinstance(error["message"], str)
    assert error["code"] is None or isinstance(error["code"], str)
    assert error["param"] is None or isinstance(error["param"], str)
    assert in_openai_shape(status, once, HEAD) == once


def test_a_peers_own_refusal_is_left_as_it_is() -> None:
    said = error_body(400, "envelope_body", "another body", hanse={"gate": "x"})
    assert in_openai_shape(400, said, HEAD) is said
