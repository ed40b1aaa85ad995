"""What a machine has: chips, meters, and servers that speak the OpenAI API.

Here: looking. It asks loopback ports, reads /sys and the NVIDIA management library where that is installed, and changes nothing. Not
here: asking a person (`cli.join`), writing a fleet file (`join.compose`).

Figures of servers are taken where servers tell them: context and batch of llama.cpp (`/props`), SGLang (`/get_server_info`), TGI
(`/info`), vLLM (`max_model_len`, and its cache in `/metrics`), Ollama (`/api/ps`). What nobody tells is a cautious guess and called so.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from hanse.catalogue.accelerators import accelerator_named
from hanse.catalogue.models import ai_model_named, ai_models
from hanse.errors import ConfigError
from hanse.live.join.messages import FoundChips, FoundEngine
from hanse.live.probe import get, post
from hanse.model.told import UNREADABLE
from hanse.serving.precisions import NAMES, WEIGHT_BYTES

USUAL_PORTS: Final = {
    8000: "vLLM",
    30000: "SGLang",
    8080: "llama.cpp",
    11434: "Ollama",
    3000: "TGI",
    8001: "vLLM",
    8081: "llama.cpp",
    1234: "LM Studio",
    5000: "openai",
}
"""Where servers listen unless told otherwise."""
ANSWER_S_MAX: Final = 2.0
SLOTS_GUESSED: Final = 4
"""What small servers take by default; too few costs throughput, too many costs everybody's latency."""
CONTEXT_GUESSED: Final = 8192
TOKENS_OF_A_REQUEST: Final = 2048
"""KV that one request of a batching server is reckoned with where it does not say how many it takes at once."""
SLOTS_OF_A_BATCH_MAX: Final = 64
RTT_SAMPLES: Final = 5
POWERCAP: Final = Path("/sys/class/powercap")
CPU_W_PER_THREAD: Final = 5.0
"""Rated power of server CPUs by thread: 350 to 400 W for 64 to 96 threads; for the supply of a host that nobody rated."""
HOST_W: Final = 200.0
"""Board, memory, disks and fans of a server beside its chips."""
KIND_OF_OWNER: Final = {
    "vllm": "vLLM",
    "sglang": "SGLang",
    "llamacpp": "llama.cpp",
    "library": "Ollama",
}
"""`owned_by` in `/v1/models` -> who says so."""


async def find_engines(
    urls: Iterable[str], models: dict[str, str] | None = None
) -> tuple[FoundEngine, ...]:
    """Every model that servers at these base URLs answer for; those that do not answer are left out.

    Args:
        urls: `http://host:port`.
        models: Served name -> id in the catalogue, where the operator knows better.
    """
    found = await asyncio.gather(*(_ask_server(url, models or {}) for url in urls))
    return tuple(engine for engines in found for engine in engines)


def usual_urls() -> tuple[str, ...]:
    """Where a host's own servers usually listen."""
    return tuple(f"http://127.0.0.1:{port}" for port in USUAL_PORTS)


async def _ask_server(url: str, models: dict[str, str]) -> list[FoundEngine]:
    listed = await _json(url, "/v1/models")
    rows = listed.get("data") if isinstance(listed, dict) else None
    if not isinstance(rows, list):
        return []
    rows = [row for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str)]
    server = await _server(url, rows)
    found = []
    for row in rows:
        if row.get("parent"):  # an adapter of vLLM: the same engine under another name
            continue
        figures = await _figures(url, server, row)
        engine = _engine(url, server, str(row["id"]), figures, models)
        kind = ai_models()[engine.model].kind
        if kind not in ("asr", "embedding") and await _continues(url, engine.served_name):
            engine = msgspec.structs.replace(engine, continues=True)
        if kind != "asr":
            found.append(engine)
    return found


async def _server(url: str, rows: list[dict[str, Any]]) -> str:
    owners = {str(row.get("owned_by", "")).lower() for row in rows}
    for owner, name in KIND_OF_OWNER.items():
        if owner in owners:
            return name
    info = await _json(url, "/info")
    if isinstance(info, dict) and "max_concurrent_requests" in info:
        return "TGI"
    return "openai"


async def _continues(url: str, served: str) -> bool:
    """Whether it knows the field, by a request that whoever does must refuse: vLLM and llama.cpp the two together, SGLang the wrong type.

    Who does not know it generates one token.
    """
    asked: dict[str, Any] = {"model": served, "max_tokens": 1}
    asked["messages"] = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]
    wrong: dict[str, Any] = {}
    for value in (True, wrong):
        more = {"continue_final_message": value, "add_generation_prompt": True}
        host, port = _address(url)
        body = msgspec.json.encode(asked | more)
        status, told = await post(host, port, "/v1/chat/completions", body, timeout_s=ANSWER_S_MAX)
        if status in (400, 422) and b"continue_final_message" in told:
            return True
    return False


def _engine(
    url: str, server: str, served: str, figures: _Figures, models: dict[str, str]
) -> FoundEngine:
    model, told = catalogue_model(models.get(served, served))
    context, slots = figures.context_tokens, figures.slots
    if context is not None and slots is None:
        slots = max(1, min(context // TOKENS_OF_A_REQUEST, SLOTS_OF_A_BATCH_MAX))
    return FoundEngine(
        url=url,
        server=server,
        served_name=served,
        model=model,
        model_told=told,
        precision=precision_in(figures.path or served, server),
        slots=slots or SLOTS_GUESSED,
        slots_told=figures.slots is not None,
        context_tokens=context or CONTEXT_GUESSED,
        context_told=context is not None,
    )


class _Figures(msgspec.Struct, frozen=True, kw_only=True):
    context_tokens: int | None = None
    """KV of the engine over all requests."""
    slots: int | None = None
    path: str = ""
    """Of the weights: their name may tell their format."""


async def _figures(url: str, server: str, row: dict[str, Any]) -> _Figures:
    ask = {
        "llama.cpp": _llama_cpp,
        "SGLang": _sglang,
        "TGI": _tgi,
        "Ollama": _ollama,
    }.get(server, _vllm)
    return await ask(url, row)


async def _llama_cpp(url: str, row: dict[str, Any]) -> _Figures:
    props = await _json(url, "/props")
    if not isinstance(props, dict):
        return _Figures(path=str(row["id"]))
    slots = _count(props.get("total_slots"))
    settings = props.get("default_generation_settings")
    a_slot = _count(settings.get("n_ctx")) if isinstance(settings, dict) else None
    whole = a_slot * slots if a_slot is not None and slots is not None else None
    return _Figures(context_tokens=whole, slots=slots, path=str(props.get("model_path", "")))


async def _sglang(url: str, row: dict[str, Any]) -> _Figures:
    info = await _json(url, "/get_server_info")
    if not isinstance(info, dict):
        return _Figures(context_tokens=_count(row.get("max_model_len")))
    slots = _count(info.get("max_running_requests"))
    states = info.get("internal_states")
    if slots is None and isinstance(states, list) and states and isinstance(states[0], dict):
        slots = _count(states[0].get("effective_max_running_requests_per_dp"))
    tokens = _count(info.get("max_total_num_tokens")) or _count(row.get("max_model_len"))
    return _Figures(context_tokens=tokens, slots=slots, path=_quantised(info))


async def _tgi(url: str, row: dict[str, Any]) -> _Figures:
    info = await _json(url, "/info")
    if not isinstance(info, dict):
        return _Figures()
    tokens = _count(info.get("max_batch_total_tokens")) or _count(info.get("max_total_tokens"))
    return _Figures(context_tokens=tokens, path=_quantised(info))


async def _ollama(url: str, row: dict[str, Any]) -> _Figures:
    loaded = await _json(url, "/api/ps")
    rows = loaded.get("models", ()) if isinstance(loaded, dict) else ()
    for one in rows if isinstance(rows, list) else ():
        if isinstance(one, dict) and row["id"] in (one.get("name"), one.get("model")):
            details = one.get("details")
            level = details.get("quantization_level", "") if isinstance(details, dict) else ""
            return _Figures(context_tokens=_count(one.get("context_length")), path=f"x-{level}")
    return _Figures()


async def _vllm(url: str, row: dict[str, Any]) -> _Figures:
    """vLLM, and whoever tells `max_model_len` as it does."""
    status, metrics = await _get(url, "/metrics")
    text = metrics.decode(errors="replace") if status == 200 else ""
    blocks = re.search(r'num_gpu_blocks="(\d+)"', text)
    size = re.search(r'[{,]block_size="(\d+)"', text)
    tokens = int(blocks[1]) * int(size[1]) if blocks and size else None
    return _Figures(context_tokens=tokens or _count(row.get("max_model_len")))


def _quantised(info: dict[str, Any]) -> str:
    how = info.get("quantization") or info.get("quantize") or info.get("dtype") or ""
    return f"x-{how}" if isinstance(how, str) and how else ""


def catalogue_model(name: str) -> tuple[str, bool]:
    """Id in the catalogue of a model as a server calls it, and whether it is that one; else the nearest by size."""
    try:
        return ai_model_named(name).id, True
    except ConfigError:
        size_b = _size_b(name)
        dense = [m for m in ai_models().values() if m.kind == "dense"]
        near = min(dense, key=lambda m: (abs(m.params_b - size_b), m.id))
        return near.id, False


def _size_b(name: str) -> float:
    """Billions of parameters in a name; 8 where it tells none: the commonest size of open models."""
    billions = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s*b(?![a-z])", name.lower())
    millions = re.findall(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s*m(?![a-z])", name.lower())
    if billions:
        return float(billions[0])
    return float(millions[0]) / 1000.0 if millions else 8.0


def precision_in(name: str, server: str) -> str:
    """The number format that a name tells; else what such a server takes where nobody asks for less."""
    parts = re.split(r"[^a-z0-9_]+", name.lower().removesuffix(".gguf"))
    for part in reversed(parts):
        known = NAMES.get(part, part)
        if known in WEIGHT_BYTES:
            return known
    return "q4_k_m" if server in ("llama.cpp", "Ollama", "LM Studio") else "bf16"


# --- chips, meters, ways -----------------------------------------------------------------------------


def find_chips() -> tuple[FoundChips, ...]:
    """NVIDIA chips by NVML; none where the library or the driver is not there."""
    try:
        import pynvml as nvml  # type: ignore[import-untyped, unused-ignore]
    except ImportError:
        return ()
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        return ()
    try:
        return _chips(nvml)
    finally:
        nvml.nvmlShutdown()


def _chips(nvml: Any) -> tuple[FoundChips, ...]:
    names: dict[str, list[float]] = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        name = nvml.nvmlDeviceGetName(handle)
        name = name.decode() if isinstance(name, bytes) else str(name)
        try:
            power_w = nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000.0
        except nvml.NVMLError:
            power_w = 0.0
        names.setdefault(name, []).append(power_w)
    return tuple(
        FoundChips(
            accelerator=accelerator_of(name),
            name=name,
            count=len(watts),
            power_w_max=sum(watts) if all(watts) else 0.0,
        )
        for name, watts in names.items()
    )


def accelerator_of(name: str) -> str:
    """Id in the catalogue of a chip as its driver calls it.

    Raises:
        ConfigError: it is not in the catalogue; says what is near.
    """
    return accelerator_named(name, where="accelerator").id


def find_meters(powercap: Path = POWERCAP) -> tuple[str, ...]:
    """What measures energy here and can be read by this user."""
    found = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            int((zone / "energy_uj").read_text())
            name = (zone / "name").read_text().strip()
        except (
            OSError,
            ValueError,
        ):  # since CVE-2020-8694 root alone reads it, unless a unit's rule lets us
            continue
        if zone.name.count(":") == 1:
            found.append(f"RAPL {name}")
    return tuple(found)


def power_kw(chips: Iterable[FoundChips], threads: int) -> float:
    """The supply that a host of these chips needs at full load."""
    chips_w = sum(one.power_w_max for one in chips)
    return max(0.1, round((chips_w + threads * CPU_W_PER_THREAD + HOST_W) / 1000.0, 1))


def threads_here() -> int:
    """Hardware threads that this process may use."""
    return len(os.sched_getaffinity(0))


def own_address(towards: str = "192.0.2.1") -> str:
    """The address from which this machine reaches another one; sends nothing. 127.0.0.1 where there is no way."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((towards, 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


async def rtt_ms(host: str, port: int) -> float | None:
    """Median time that a TCP connection takes, in ms: one round trip. None where it is not accepted."""
    taken = []
    for _ in range(RTT_SAMPLES):
        started_s = time.perf_counter()
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                _, writer = await asyncio.open_connection(host, port)
        except (OSError, TimeoutError):
            return None
        taken.append((time.perf_counter() - started_s) * 1000.0)
        writer.close()
    return statistics.median(taken)


async def _json(url: str, path: str) -> Any:
    status, body = await _get(url, path)
    if status != 200:
        return None
    try:
        return msgspec.json.decode(body)
    except UNREADABLE:
        return None


async def _get(url: str, path: str) -> tuple[int, bytes]:
    host, port = _address(url)
    return await get(host, port, path, timeout_s=ANSWER_S_MAX)


def _address(url: str) -> tuple[str, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    return host, int(port or 80)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
