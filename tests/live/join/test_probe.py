"""What servers of each kind tell of themselves, asked over real sockets as they answer it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue.models import ai_models
from hanse.live.join import probe
from hanse.live.join.messages import FoundEngine
from hanse.serving.precisions import WEIGHT_BYTES

VLLM = {
    "/v1/models": {
        "object": "list",
        "data": [
            {"id": "meta-llama/Llama-3.1-8B-Instruct", "owned_by": "vllm", "max_model_len": 16384},
            {"id": "an-adapter", "owned_by": "vllm", "parent": "meta-llama/Llama-3.1-8B-Instruct"},
        ],
    },
    "/metrics": 'vllm:cache_config_info{block_size="16",cache_dtype="auto",num_gpu_blocks="4096"} 1.0\n',
}
SGLANG = {
    "/v1/models": {"data": [{"id": "Qwen/Qwen3-8B", "owned_by": "sglang", "max_model_len": 40960}]},
    "/get_server_info": {
        "max_total_num_tokens": 120000,
        "max_running_requests": 48,
        "quantization": "fp8",
    },
}
LLAMA_CPP = {
    "/v1/models": {"data": [{"id": "smollm2", "owned_by": "llamacpp", "meta": {"n_ctx": 4096}}]},
    "/props": {
        "default_generation_settings": {"n_ctx": 4096},
        "total_slots": 4,
        "model_path": "/models/SmolLM2-135M-Instruct-Q4_1.gguf",
    },
}
TGI = {
    "/v1/models": {"data": [{"id": "mistral-unknown-22b", "owned_by": "someone"}]},
    "/info": {
        "max_concurrent_requests": 128,
        "max_total_tokens": 8192,
        "max_batch_total_tokens": 65536,
    },
}
OLLAMA = {
    "/v1/models": {"data": [{"id": "qwen3:8b", "owned_by": "library"}]},
    "/api/ps": {
        "models": [
            {
                "name": "qwen3:8b",
                "context_length": 4096,
                "details": {"quantization_level": "Q4_K_M"},
            }
        ]
    },
}
WHISPER = {"/v1/models": {"data": [{"id": "Whisper-large-v3", "owned_by": "vllm"}]}}
BROKEN = {"/v1/models": "<html>not JSON</html>"}


async def answer_post(
    asked: dict[str, Any], answers: dict[str, Any], writer: asyncio.StreamWriter
) -> None:
    """As a server that knows the field, or validates its type, or neither."""
    knows, value = answers.get("knows"), asked["continue_final_message"]
    both = value is True and asked["add_generation_prompt"]
    refuses = (knows == "both" and both) or (knows == "type" and not isinstance(value, bool))
    body = b'{"message":"continue_final_message"}' if refuses else b'{"choices":[]}'
    writer.write(b"HTTP/1.1 %d X\r\n\r\n%b" % (400 if refuses else 200, body))
    await writer.drain()
    writer.close()


async def served(answers: dict[str, Any]) -> tuple[asyncio.Server, str]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        path = head.split()[1].decode()
        found = answers.get(path)
        if head.startswith(b"POST"):
            size = int(head.lower().partition(b"content-length:")[2].split()[0])
            await answer_post(json.loads(await reader.readexactly(size)), answers, writer)
            return
        body = (found if isinstance(found, str) else json.dumps(found)).encode()
        status = b"404 Not Found" if found is None else b"200 OK"
        writer.write(b"HTTP/1.1 %s\r\nconnection: close\r\n\r\n%s" % (status, body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def found_at(answers: dict[str, Any], models: dict[str, str] | None = None) -> list[FoundEngine]:
    async def look() -> list[FoundEngine]:
        server, url = await served(answers)
        async with server:
            found = await probe.find_engines((url, "http://127.0.0.1:9"), models)
        assert all(one.url == url for one in found)
        return list(found)

    return asyncio.run(look())


def test_vllm_tells_its_cache_and_adapters_are_no_engines() -> None:
    (one,) = found_at(VLLM)
    assert (one.server, one.model, one.model_told) == ("vLLM", "Llama-3.1-8B", True)
    assert (one.context_tokens, one.context_told) == (65536, True)
    assert (one.slots, one.slots_told) == (32, False), "2,048 tokens each, and said to be a guess"
    assert one.precision == "bf16"


def test_sglang_tells_batch_and_quantisation() -> None:
    (one,) = found_at(SGLANG)
    assert (one.server, one.model, one.precision) == ("SGLang", "Qwen3-8B", "fp8")
    assert (one.slots, one.slots_told, one.context_tokens) == (48, True, 120000)


def test_llama_cpp_tells_slots_context_and_weights() -> None:
    (one,) = found_at(LLAMA_CPP)
    assert (one.server, one.slots, one.slots_told) == ("llama.cpp", 4, True)
    assert (one.context_tokens, one.precision) == (16384, "q4_1")


def test_tgi_is_known_by_its_info_and_an_unknown_model_is_reckoned_by_size() -> None:
    (one,) = found_at(TGI)
    assert (one.server, one.context_tokens, one.model_told) == ("TGI", 65536, False)
    assert abs(ai_models()[one.model].params_b - 22) < 8


def test_ollama_tells_context_and_level_of_a_loaded_model() -> None:
    (one,) = found_at(OLLAMA)
    assert (one.server, one.precision, one.context_tokens) == ("Ollama", "q4_k_m", 4096)
    assert not one.slots_told


@pytest.mark.parametrize(("knows", "continues"), [("both", True), ("type", True), ("", False)])
def test_a_server_that_knows_the_field_goes_on_with_others_answers(
    knows: str, continues: bool
) -> None:
    (one,) = found_at(VLLM | {"knows": knows})
    assert one.continues is continues


def test_the_operator_knows_better() -> None:
    (one,) = found_at(TGI, {"mistral-unknown-22b": "Qwen3-32B"})
    assert (one.model, one.model_told, one.served_name) == (
        "Qwen3-32B",
        True,
        "mistral-unknown-22b",
    )


@pytest.mark.parametrize("answers", [WHISPER, BROKEN, {}])
def test_what_serves_no_text_and_what_is_no_server_is_left_out(answers: dict[str, Any]) -> None:
    assert found_at(answers) == []


@given(st.text(max_size=60), st.sampled_from(["vLLM", "llama.cpp", "Ollama", "openai"]))
def test_any_name_has_a_model_of_the_catalogue_and_a_known_precision(
    name: str, server: str
) -> None:
    model, _ = probe.catalogue_model(name)
    assert model in ai_models()
    assert probe.precision_in(name, server) in WEIGHT_BYTES


@given(size_b=st.sampled_from([0.5, 1.0, 3.0, 7.0, 13.0, 33.0, 70.0, 180.0]))
def test_an_unknown_model_is_reckoned_as_the_dense_one_nearest_by_size(size_b: float) -> None:
    model, told = probe.catalogue_model(f"nobody/unheard-of-{size_b:g}b-chat")
    dense = [m for m in ai_models().values() if m.kind == "dense"]
    off = abs(ai_models()[model].params_b - size_b)
    assert not told
    assert all(off <= abs(m.params_b - size_b) + 1e-9 for m in dense)


def test_meters_are_those_that_can_be_read(tmp_path: Path) -> None:
    for zone, name, energy in (
        ("intel-rapl:0", "package-0", "123"),
        ("intel-rapl:0:0", "core", "1"),
        ("intel-rapl:1", "package-1", "not a number"),
    ):
        (tmp_path / zone).mkdir()
        (tmp_path / zone / "name").write_text(name + "\n")
        (tmp_path / zone / "energy_uj").write_text(energy)
    assert probe.find_meters(tmp_path) == ("RAPL package-0",)


def test_chips_are_found_by_nvml_and_named_as_in_the_catalogue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library as its documentation has it, with two boards behind it."""

    class Nvml:
        class NVMLError(Exception):
            pass

        names = ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3")

        def nvmlDeviceGetCount(self) -> int:
            return len(self.names)

        def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
            return index

        def nvmlDeviceGetName(self, handle: int) -> str:
            return self.names[handle]

        def nvmlDeviceGetEnforcedPowerLimit(self, handle: int) -> int:
            return 700_000

    (chips,) = probe._chips(Nvml())
    assert (chips.accelerator, chips.count, chips.power_w_max) == ("h100-sxm", 2, 1400.0)
    assert probe.power_kw((chips,), 64) == pytest.approx(1.9)


def test_a_way_is_measured_and_a_closed_port_is_none() -> None:
    async def measure() -> Iterator[float | None]:
        server, url = await served({})
        async with server:
            port = int(url.rpartition(":")[2])
            open_ms = await probe.rtt_ms("127.0.0.1", port)
        return iter((open_ms, await probe.rtt_ms("127.0.0.1", port)))

    open_ms, closed_ms = asyncio.run(measure())
    assert open_ms is not None
    assert 0 < open_ms < 1000
    assert closed_ms is None
