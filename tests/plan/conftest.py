"""One first look that several modules read, since solving it takes as long as all else in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse.plan.answer import Answer
from hanse.plan.quick import quick_study
from hanse.plan.solve import solve
from plan import hand

TIMEOUT_S = 300
"""Whoever asks for the answer first waits for it, beside a league and its engines."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/plan/" in str(item.path) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.fixture(scope="session")
def solved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Path]:
    """The answer to `hand.QUICK`, and the folder that was written; nobody changes either."""
    folder = tmp_path_factory.mktemp("plan")
    return solve(quick_study(hand.QUICK), quick=True, out=folder), folder
