"""HiGHS that gives up is asked in other ways, and the answer is the same."""

from __future__ import annotations

from typing import Any

import highspy
import pytest

from hanse.milp import OTHER_WAYS, Limits, Model, Solver


class GivesUp:
    """HiGHS that says it knows nothing until it runs for the `after`th time."""

    def __init__(self, highs: Any, after: int) -> None:
        self._highs, self._after, self.runs = highs, after, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._highs, name)

    def run(self) -> Any:
        self.runs += 1
        return self._highs.run()

    def getModelStatus(self) -> Any:
        unknown = highspy.HighsModelStatus.kUnknown
        return unknown if self.runs < self._after else self._highs.getModelStatus()


def small() -> tuple[Solver, Any]:
    """Two kinds of boxes for 7 things: 3 hold 3 and cost 4, the other 2 and 3."""
    model = Model()
    boxes = model.add_columns("boxes", [4.0, 3.0], upper=9.0, integer=True)
    hold = model.add_rows("hold", 7.0, float("inf"), ())
    model.put(hold, boxes, [3.0, 2.0])
    return Solver(model), boxes


@pytest.mark.parametrize("after", range(1, len(OTHER_WAYS) + 2))
def test_a_solver_that_gives_up_is_asked_in_another_way(after: int) -> None:
    solver, boxes = small()
    solver.highs = GivesUp(solver.highs, after)
    assert solver.relaxed().objective == pytest.approx(28.0 / 3.0)
    solver.highs = GivesUp(solver.highs._highs, after)
    found = solver.search(Limits(gap=0.0))
    assert found.objective == pytest.approx(10.0)
    assert found.values[boxes].tolist() == pytest.approx([1.0, 2.0])
    assert solver.highs.getOptionValue("presolve")[1] == "choose"


def test_one_that_never_answers_says_so() -> None:
    solver, _ = small()
    solver.highs = GivesUp(solver.highs, 99)
    with pytest.raises(AssertionError, match="no way"):
        solver.relaxed()
