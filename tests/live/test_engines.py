"""The driver `process`: real engine processes, and how it tells that they ended."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from hanse.dispatch.belief import EngineSpec
from hanse.live.engines import LAST_WORDS_MAX, ProcessDriver

STARTED_S_MAX = 60.0


@pytest.fixture
def driver(tmp_path: Path) -> ProcessDriver:
    for name in ("log", "pid", "cache"):
        (tmp_path / name).mkdir()
    return ProcessDriver(tmp_path, tmp_path / "cache", None)


def spec(model: str) -> EngineSpec:
    return EngineSpec(
        name="chat-q4-1-0",
        index=0,
        site="lyon",
        service="chat",
        variant="q4-1",
        pool="cpu",
        driver="process",
        url="http://127.0.0.1:1",
        model=model,
        precision="q4_1",
        served_names=("chat",),
        chips=1,
        slots=1,
        context_tokens=512,
        embedding=False,
    )


def test_an_engine_that_cannot_start_is_told_with_its_own_last_error(
    driver: ProcessDriver, tmp_path: Path
) -> None:
    engine = spec("no-such-model-" + "x" * 400)
    driver.start(engine)
    driver._children[engine.name].wait(STARTED_S_MAX)
    gone = driver.observe(engine).gone
    assert gone.startswith("process ended (exit status 1: ")
    assert "Error: " in gone
    assert "no-such-model" in gone
    assert len(gone) <= LAST_WORDS_MAX + len("process ended (exit status 1: )")
    assert driver.observe(engine).gone == gone, "the same each time: it is told on where it changes"


def test_an_engine_that_is_killed_is_told_with_the_signal_and_without_an_older_error(
    driver: ProcessDriver, tmp_path: Path
) -> None:
    engine = spec("no-such-model")
    (tmp_path / "log" / f"engine-{engine.name}.log").write_text("OldError: of another start\n")
    driver.start(engine)
    os.kill(driver.pid(engine), signal.SIGKILL)
    driver._children[engine.name].wait(STARTED_S_MAX)
    assert driver.observe(engine).gone == "process ended by signal 9 (Killed)"


def test_an_engine_that_says_nothing_is_told_by_its_status_alone(
    driver: ProcessDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log" / "engine-chat-q4-1-0.log"
    log.write_text("OldError: of another start\n")
    monkeypatch.setattr("sys.executable", "/bin/false")
    driver.start(spec("SmolLM2-135M"))
    driver._children["chat-q4-1-0"].wait(STARTED_S_MAX)
    assert driver.observe(spec("SmolLM2-135M")).gone == "process ended (exit status 1)"
