"""Quality scores of the demo's variants: next-token accuracy on Python's own help texts.

Starts each variant's engine, feeds it the text token by token (teacher forcing) and counts how often
its first guess is the token that follows. Deterministic; prints accuracy and mean negative
log-likelihood with their standard errors. The help texts ship with every Python.
"""

from __future__ import annotations

import json
import math
import pydoc_data.topics
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

VARIANTS = ("q4_1", "q4_0")
CONTEXT_TOKENS = 64
"""First position scored: before it there is little to predict from."""
POSITIONS = 600
STRIDE = 2


def post(url: str, path: str, body: dict[str, object]) -> dict[str, list[dict[str, object]]]:
    request = urllib.request.Request(url + path, json.dumps(body).encode())
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def score(url: str, text: str) -> tuple[float, float, int]:
    """(share of first guesses right, mean nats a token, positions)."""
    tokens = post(url, "/tokenize", {"content": text})["tokens"]
    hits, nats, count = 0, 0.0, 0
    for end in range(CONTEXT_TOKENS, CONTEXT_TOKENS + POSITIONS * STRIDE, STRIDE):
        body = {"prompt": tokens[:end], "n_predict": 1, "n_probs": 200, "temperature": 0}
        guesses = post(url, "/completion", body)["completion_probabilities"][0]["top_logprobs"]
        logprob = {guess["id"]: guess["logprob"] for guess in guesses}  # type: ignore[attr-defined, index]
        hits += max(logprob, key=logprob.__getitem__) == tokens[end]
        nats -= logprob.get(tokens[end], math.log(1e-5))
        count += 1
    return hits / count, nats / count, count


def main() -> None:
    text = "\n".join(
        pydoc_data.topics.topics[name] for name in ("lambda", "booleans", "for", "try")
    )
    with tempfile.TemporaryDirectory() as folder:
        for precision in VARIANTS:
            config = {
                "name": precision,
                "model": "SmolLM2-135M",
                "precision": precision,
                "served_names": ["chat"],
                "port": 0,
                "slots": 1,
                "context_tokens": 2048,
                "cache_dir": folder,
            }
            path = Path(folder) / f"{precision}.json"
            path.write_text(json.dumps(config))
            command = [sys.executable, "-m", "hanse.live.engine", str(path)]
            with subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
            ) as engine:
                assert engine.stdout is not None
                url = json.loads(engine.stdout.readline())["url"]
                accuracy, nats, count = score(url, text)
                engine.terminate()
            error = math.sqrt(accuracy * (1 - accuracy) / count)
            print(
                f"{precision}: accuracy {accuracy:.3f} +- {error:.3f}, {nats:.3f} nats a token ({count} tokens)"
            )


if __name__ == "__main__":
    main()
