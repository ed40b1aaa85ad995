"""Latencies from measured times: interpolation by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hanse.twin.reproduce.splitwise import Profile, profile_of

PROFILE = Profile(prompt_tokens=(100.0, 200.0), prompt_ms=(50.0, 90.0), token_ms=(20.0, 22.0))


def test_times_are_linear_between_measured_sizes_and_held_beyond() -> None:
    assert PROFILE.ttft_ms(np.array([50.0, 100.0, 150.0, 900.0])).tolist() == [50, 50, 70, 90]


def test_the_first_token_comes_with_the_prompt() -> None:
    found = PROFILE.e2e_ms(np.array([100.0, 150.0, 100.0]), np.array([1.0, 3.0, 0.0]))
    assert found.tolist() == [50.0, 70.0 + 2 * 21.0, 50.0]


def test_a_profile_is_the_median_of_repeats_without_batching(tmp_path: Path) -> None:
    file = tmp_path / "llm_perf_splitwise" / "perf_model.csv"
    file.parent.mkdir()
    kept = "llama2-70b,a100-80gb,{},1,128,8,{},{}"
    file.write_text(
        "model,hardware,prompt_size,batch_size,token_size,tensor_parallel,prompt_time,token_time\n"
        + "\n".join(
            [
                kept.format(512, 90, 40),
                kept.format(512, 100, 44),
                kept.format(512, 300, 41),
                kept.format(128, 60, 43),
                "llama2-70b,a100-80gb,512,2,128,8,1,1",
                "llama2-70b,a100-80gb,512,1,128,4,1,1",
                "llama2-70b,h100-80gb,512,1,128,8,1,1",
                "bloom-176b,a100-80gb,512,1,128,8,1,1",
            ]
        )
    )
    found = profile_of(tmp_path, "A100")
    assert found.prompt_tokens == (128.0, 512.0)
    assert found.prompt_ms == pytest.approx((60.0, 100.0))
    assert found.token_ms == pytest.approx((43.0, 41.0))
