"""Interrupted studies go on, wherever they were stopped; who computes changes no number; what a changed study left is not used."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError
from hanse.plan import steps, validate
from hanse.plan.design import Design
from hanse.plan.drawn import Drawn, draw, stretches, together
from hanse.plan.sited import metered, sited
from hanse.plan.solve import solve
from hanse.plan.steps import FOLDER, Steps, Store, digest_of
from hanse.plan.workers import Cores, Here, workers
from plan import hand

STUDY = """
schema = "hanse-study/1"
name = "two"
start = 2027-01-01
years = 2
operator_hq = "DE"
mechanisms = ["scc+tia"]
draws = 300
[[city]]
city = "Frankfurt am Main"
[[city]]
city = "Lyon"
[[workload]]
id = "chat"
model = "Llama-3.1-8B"
law = "personal"
tokens_per_day = 2e8
[[design]]
id = "micro"
name = "many micro sites"
sizes = ["tower", "room", "hall"]
[[design]]
id = "mix"
name = "the best mix"
sizes = ["tower", "room", "hall", "hyperscale"]
rent = true
"""
RUN = (sys.executable, "-c", "from hanse.cli import main; main()", "plan", "s.toml", "--out", "out")


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    (folder / "s.toml").write_text(STUDY)
    return subprocess.Popen((*RUN, *more), cwd=folder, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL)  # fmt: skip


def finish(process: subprocess.Popen[str]) -> str:
    _, said = process.communicate(timeout=100)
    assert process.returncode == 0, said
    return said


def content(folder: Path) -> dict[str, bytes]:
    out = folder / "out"
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    finish(start(folder))
    return content(folder)


@pytest.mark.long
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_study_goes_on_and_comes_to_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes], sign: signal.Signals
) -> None:
    process = start(tmp_path)
    # In the middle of the draws: sites, meters and some draws are done.
    while not any("draws" in name for name in kept(tmp_path)):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.005)
    workers_of = children(process.pid)
    process.send_signal(sign)
    _, said = process.communicate(timeout=30)
    assert process.returncode == (130 if sign == signal.SIGINT else -signal.SIGKILL)
    if sign == signal.SIGINT:
        assert "goes on" in said and "Traceback" not in said
    left = {name for name in kept(tmp_path) if not name.endswith(".part")}
    assert {"site-mix", "power-mix", "meter-mix"} <= left
    before = {name: (unfinished(tmp_path) / name).stat().st_mtime_ns for name in left}
    gone_by = time.monotonic() + 20.0
    while any(alive(pid) for pid in workers_of):
        assert time.monotonic() < gone_by, "a process outlives the study"
        time.sleep(0.01)

    again = start(tmp_path)
    while any("draws" in name for name in left) and len(kept(tmp_path)) <= len(left):
        assert again.poll() is None
        time.sleep(0.005)
    if again.poll() is None and unfinished(tmp_path).is_dir():
        same = {n: (unfinished(tmp_path) / n).stat().st_mtime_ns for n in left}
        assert same == before, "what was done is not done again"
    assert f"going on with {len(left)} steps" in finish(again)
    assert content(tmp_path) == undisturbed


def unfinished(folder: Path) -> Path:
    found = [*(folder / "out" / FOLDER).glob("*")]
    return found[0] if found else folder / "none"


def kept(folder: Path) -> list[str]:
    return [p.name for p in (folder / "out" / FOLDER).glob("*/*")]


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(p) for p in listed.read_text().split()] if listed.exists() else []


def alive(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.long
def test_all_cores_and_one_come_to_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    finish(start(tmp_path, "--processes", "1"))
    one = content(tmp_path)
    for name in ("index.html", "answer.json"):
        one[name] = one[name].replace(b" --processes 1", b"")
    assert one == undisturbed


def test_stretches_of_draws_are_the_draws_at_once() -> None:
    study = hand.study(draws=600)
    design = sited(study, next(d for d in study.designs if d.id == "micro"), True)
    meter = metered(design, study)
    whole = draw(design, study, meter, 0, study.draws)
    parts = [draw(design, study, meter, a, b) for a, b in stretches(study)]
    assert len(parts) == 3
    joined = together(parts)
    for name in Drawn.__struct_fields__:
        one, other = getattr(whole, name), getattr(joined, name)
        pairs = [(one[k], other[k]) for k in one] if isinstance(one, dict) else [(one, other)]
        for a, b in pairs:
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_every_step_reads_back_as_it_was_kept(tmp_path: Path) -> None:
    study = hand.study()
    store = Store(tmp_path, "d")
    made = sited(study, study.designs[1], True)
    store.save("x", made)
    found = store.load("x", Design)
    for name in Design.__struct_fields__:
        one, other = getattr(made, name), getattr(found, name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype and np.array_equal(one, other)
            assert other.flags.writeable
        else:
            assert one == other, name


@given(st.binary(max_size=40), st.integers(0, 2**16))
def test_a_step_that_was_cut_short_does_not_count(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, cut: int
) -> None:
    store = Store(tmp_path_factory.mktemp("cut"), "d")
    store.save("x", [text])
    assert store.load("x", list[bytes]) == [text]
    path = store.folder / "x"
    whole = path.read_bytes()
    path.write_bytes(whole[: cut % len(whole)])
    assert store.load("x", list[bytes]) is None


def test_what_a_changed_study_left_is_not_used(tmp_path: Path) -> None:
    study = hand.study()
    other = msgspec.structs.replace(study, growth_per_year=0.5)
    digests = {
        digest_of(study, [False]), digest_of(study, [True]), digest_of(other, [False])
    }  # fmt: skip
    assert len(digests) == 3 and digest_of(hand.study(), [False]) in digests
    Store(tmp_path, digest_of(study, [False])).save("x", [1])
    changed = Store(tmp_path, digest_of(other, [False]))
    assert changed.load("x", list[int]) is None and changed.count() == 0
    assert Store(tmp_path, digest_of(study, [False])).load("x", list[int]) is None


def test_another_version_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    study = hand.study()
    before = digest_of(study, [])
    monkeypatch.setattr(steps, "__version__", "0.0.0-other")
    assert digest_of(study, []) != before


def test_steps_that_are_done_are_not_asked_again(tmp_path: Path) -> None:
    asked: list[int] = []

    def twice(number: int) -> int:
        asked.append(number)
        return 2 * number

    store = Store(tmp_path, "d")
    tasks = {f"n{k}": (k,) for k in range(4)}
    assert Steps(None, store).map(int, twice, {"n1": (1,), "n3": (3,)}) == [2, 6]
    later = Steps(None, store)
    assert later.map(int, twice, tasks) == [0, 2, 4, 6]
    assert asked == [1, 3, 0, 2] and later.found == 2
    store.clear()
    assert not (tmp_path / FOLDER).exists()


@pytest.mark.long
def test_the_twins_rounds_stand_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.without_curves(monkeypatch)
    study = hand.study(years=1, draws=20)
    fewer = tuple(
        msgspec.structs.replace(w, tokens_per_day=w.tokens_per_day / 100.0) for w in study.workloads
    )
    study = msgspec.structs.replace(study, workloads=fewer)
    store = Store(tmp_path, "d")
    first = solve(study, store=store)
    judged = [d for d in first.designs if d.rounds]
    names = [p.name for p in store.folder.iterdir()]
    rounds = sum(len(d.rounds) for d in judged)
    assert len(judged) > 1 and sum(name.startswith("twin-") for name in names) == rounds
    monkeypatch.setattr(validate, "_simulated", lambda *_: pytest.fail("a round is run again"))
    assert solve(study, store=store) == first
    assert sorted(names) == sorted(p.name for p in store.folder.iterdir())


def test_who_computes_is_a_matter_of_options() -> None:
    with workers(processes=1) as one:
        assert isinstance(one, Here)
    with workers(processes=3) as three:
        assert isinstance(three, Cores) and three.processes == 3
    with workers() as every:
        count = len(os.sched_getaffinity(0))
        assert isinstance(every, Here if count == 1 else Cores)


CLUSTER = """
import subprocess, sys, ray
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=100_000_000, _temp_dir=sys.argv[1])
address = ray.get_runtime_context().gcs_address
done = subprocess.run([*sys.argv[2:], "--ray", address], stderr=sys.stderr, stdout=subprocess.DEVNULL)
ray.shutdown()
print(address)
sys.exit(done.returncode)
"""


@pytest.mark.long
def test_a_ray_cluster_comes_to_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    if importlib.util.find_spec("ray") is None:
        pytest.skip("no package ray here: pip install 'hanse[ray]'")
    (tmp_path / "s.toml").write_text(STUDY)
    with tempfile.TemporaryDirectory(
        prefix="ray"
    ) as short:  # the path of a socket is 107 bytes at most
        command = (sys.executable, "-c", CLUSTER, short, *RUN)
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = content(tmp_path)
    more = f" --ray {done.stdout.split()[-1]}".encode()
    for name in ("index.html", "answer.json"):
        assert more in found[name]
        found[name] = found[name].replace(more, b"")
    assert found == undisturbed


def test_a_ray_cluster_that_is_not_there_is_said_at_once() -> None:
    pytest.importorskip("ray", reason="no package ray here: pip install 'hanse[ray]'")
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ConfigError, match="running Ray cluster"), workers(ray=address):
            pass


def test_without_ray_the_option_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"hanse\[ray\]"), workers(ray="auto"):
        pass
