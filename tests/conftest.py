"""What every test shares: one seed, deterministic hypothesis, and clear skips for what this machine lacks."""

import functools
import os
import shutil
import subprocess
import sys
import zlib
from collections.abc import Generator
from typing import Any, Final

import hypothesis
import numpy as np
import pytest
from xdist.scheduler import LoadFileScheduling

SEED_DEFAULT = (
    1358  # any constant will do; this is the year the Hanse first called itself by that name
)
LEAGUE: Final = "tests/league/"
TIMEOUT_S: Final = {LEAGUE: 420, "tests/plan/": 300}
"""Folders whose tests share what takes long to make, a league or an answer: a worker runs all of one, and whoever comes first pays for it."""

# No deadline: a shared machine is slow at random, and a timing belongs in benchmarks/.
# `max_examples` is also the percentage that `effort` gives a property of what its test asks for.
_PLAIN: Final = {"derandomize": True, "print_blob": True, "deadline": None}
hypothesis.settings.register_profile("hanse", max_examples=40, **_PLAIN)
hypothesis.settings.register_profile("thorough", max_examples=800, **_PLAIN)
hypothesis.settings.load_profile("hanse")


def find_chromium() -> str | None:
    """The browser that this machine already has; none is ever downloaded."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=SEED_DEFAULT, help="seed of the `rng` fixture")


def pytest_report_header(config: pytest.Config) -> str:
    return f"hanse seed: {config.getoption('--seed')} (again: pytest --seed N)"


def shared_folder(nodeid: str) -> str:
    """Which of them a test is in; empty: in none."""
    return next((folder for folder in TIMEOUT_S if nodeid.startswith(folder)), "")


class ByFolder(LoadFileScheduling):  # type: ignore[misc]
    """What one worker runs by itself: a shared folder, else a file."""

    def _split_scope(self, nodeid: str) -> str:
        return shared_folder(nodeid) or str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFolder:
    return ByFolder(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Shared folders go first, as others then run beside them."""
    order = [*TIMEOUT_S, ""]
    items.sort(key=lambda item: order.index(shared_folder(item.nodeid)))
    for item in items:
        folder = shared_folder(item.nodeid)
        if folder and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S[folder]))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, bool, bool]:
    """Compile kernels before the first test that runs them, which must not be charged with a minute or two."""
    if item.nodeid.startswith(LEAGUE):
        _warm()
    elif "twin" in item.nodeid:
        _compile_twin()
    return (yield)


@functools.cache
def _warm() -> None:
    """Once for the dozen processes of a league, as `make up` does."""
    command = [sys.executable, "-c", "from hanse.cli import main; main()", "warm"]
    subprocess.run(command, check=True, capture_output=True)


@functools.cache
def _compile_twin() -> None:
    from hanse.twin.simulate import Simulation
    from twin.fleets import powered_fleet, random_trace

    stream = np.random.default_rng(SEED_DEFAULT)
    made = powered_fleet(stream)
    Simulation(made, random_trace(made, stream, count=1)).run()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        pytest.skip("needs root, for network namespaces and TUN devices")
    if item.get_closest_marker("browser") and find_chromium() is None:
        pytest.skip("no Chromium here: apt-get install chromium")


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The run's seed."""
    return int(request.config.getoption("--seed"))


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> np.random.Generator:
    """A stream of its own for each test, so that adding a test changes no other one's numbers."""
    return np.random.default_rng([seed, zlib.crc32(request.node.nodeid.encode())])


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """Path of the Chromium to drive; for tests marked `browser`."""
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    return path
