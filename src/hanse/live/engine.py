"""One embedded engine: a llama.cpp server speaking the OpenAI API on loopback, one thread.

Run as `python -m hanse.live.engine CONFIG.json`; prints one JSON line with its address once it
listens, ends on SIGTERM, and ends by itself when its lifeline (a pipe held by its site group) closes.
Not here: probing and restarting (`live.agent`), where weights come from (`live.weights`).
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from pathlib import Path

import msgspec

from hanse.live.weights import weights_path
from hanse.model.fleet import Value

PROMPT_CACHE_MIB = 64
"""Host memory for evicted prompts (`cache_ram_mib`): about 2,900 tokens of SmolLM2-135M's 23 KB,
enough for the demo's conversations and small beside the 200 MB an engine takes anyway."""

EMBED_BATCH = 512
"""llama.cpp's `n_ubatch`, which bounds a prompt that is pooled."""

NO_ORIGIN = "null"
"""llama.cpp answers every web origin by default: a page on this machine could read answers past law and limits."""


class EngineConfig(Value, frozen=True, kw_only=True):
    """What one engine serves and where."""

    name: str
    model: str
    precision: str
    served_names: tuple[str, ...]
    """Model names it lists; llama.cpp answers any name in a request."""
    port: int
    host: str = "127.0.0.1"
    slots: int
    context_tokens: int
    """KV capacity over all slots, tokens."""
    threads: int = 1
    """More than one OpenMP thread a process collapses as soon as anything else wants the cores."""
    embedding: bool = False
    cache_dir: str
    key_file: str = ""
    """Whose content a request has to show; empty: anybody on this machine may ask past law and limits."""
    lifeline_fd: int | None = None
    """Inherited pipe end; end of file means the site group is gone."""


def main(argv: list[str]) -> None:
    """Serve until told to stop."""
    config = msgspec.json.decode(Path(argv[1]).read_bytes(), type=EngineConfig)
    _exit_when_orphaned(config.lifeline_fd)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    os.environ["GGML_NO_BACKTRACE"] = "1"  # else a crash starts gdb and hangs for seconds
    server = _start(config)
    address = {"name": config.name, "url": server.listening_address, "pid": os.getpid()}
    sys.stdout.write(msgspec.json.encode(address).decode() + "\n")
    sys.stdout.flush()
    while True:
        signal.pause()


def _start(config: EngineConfig):  # type: ignore[no-untyped-def]  # xllamacpp ships no types
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(weights_path(config.model, config.precision, Path(config.cache_dir)))
    params.hostnames = [config.host]
    params.port = config.port
    params.n_parallel, params.n_ctx = config.slots, config.context_tokens
    params.cache_ram_mib = PROMPT_CACHE_MIB
    params.endpoint_metrics = True
    params.endpoint_slots = params.endpoint_props = False  # they show what other requests said
    if config.key_file:
        params.api_keys = [Path(config.key_file).read_text().strip()]
    params.cors_origins, params.cors_credentials = NO_ORIGIN, False
    params.model_alias = set(config.served_names)
    params.use_jinja = True
    params.ui = False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = config.threads
    if config.embedding:
        params.embedding = True
        # It aborts where slots are no divisor of its batch; the others' requests wait in its queue.
        params.n_parallel = math.gcd(EMBED_BATCH, 1 << (config.slots.bit_length() - 1))
        params.n_ctx = config.context_tokens // config.slots * params.n_parallel
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return xllamacpp.Server(params)


def _exit_when_orphaned(lifeline_fd: int | None) -> None:
    if lifeline_fd is None:
        return

    def wait() -> None:
        os.read(lifeline_fd, 1)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    main(sys.argv)
