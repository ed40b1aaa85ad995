"""One first look that several modules read, since solving it takes as long as all else in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse.plan.answer import Answer
from hanse.plan.quick import quick_study
from hanse.plan.solve import solve
from plan import hand


@pytest.fixture(scope="session")
def solved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Answer, Path]:
    """The answer to `hand.QUICK`, and the folder that was written; nobody changes either."""
    folder = tmp_path_factory.mktemp("plan")
    return solve(quick_study(hand.QUICK), quick=True, out=folder), folder
