"""Stories that do not add up, though every record in them is genuine."""

from __future__ import annotations

import pytest

from hanse.live.evidence import Decided, Ended, Executed
from hanse.live.evidence.judge import CLOCK_SKEW_S_MAX, Found, Judgement, judge
from live.evidence.logbook import League

LEAGUE = League.__new__(League)
LEAGUE.now_s = 1000.0


def decided(**changes: object) -> Decided:
    return LEAGUE.decided(0, **({"site": "riga"} | changes))


def executed(**changes: object) -> Executed:
    return LEAGUE.executed(0, **({"site": "riga"} | changes))


def ended(**changes: object) -> Ended:
    return LEAGUE.ended(0, **({"role": "entry"} | changes))


def story(**changes: list[Found]) -> list[Found]:
    parts = {
        "decided": [Found("tallinn", decided())],
        "executed": [Found("riga", executed())],
        "served": [Found("riga", ended(role="serving"))],
        "ended": [Found("tallinn", ended())],
    }
    return [found for part in (parts | changes).values() for found in part]


def test_whole_story_is_proven() -> None:
    expected = Judgement("proven", (), (), "tallinn", "riga")
    assert judge(story()) == expected
    assert judge(list(reversed(story()))) == expected


EARLY_S = -CLOCK_SKEW_S_MAX - 1
WRONG: dict[str, tuple[dict[str, list[Found]], str]] = {
    "no decision": ({"decided": []}, "no decision record"),
    "no execution": ({"executed": []}, "no record of execution at riga"),
    "no end at the serving site": ({"served": []}, "0 records of the end at serving site riga"),
    "no end at the entry site": ({"ended": []}, "0 records of the end at the entry site"),
    "two ends": ({"ended": [Found("tallinn", ended())] * 2}, "2 records of the end"),
    "decision in another log": ({"decided": [Found("riga", decided())]}, "in the log of riga"),
    "execution in another log": (
        {"executed": [Found("tallinn", executed())]},
        "in the log of tallinn",
    ),
    "end in another log": ({"ended": [Found("riga", ended())]}, "in the log of riga"),
    "two entry sites": (
        {
            "decided": [
                Found("tallinn", decided()),
                Found("riga", decided(attempt=2, entry_site="riga", site="riga")),
            ]
        },
        "decision for entry site riga",
    ),
    "subject changed between attempts": (
        {
            "decided": [
                Found("tallinn", decided()),
                Found("tallinn", decided(attempt=2, tenant="x")),
            ]
        },
        "another subject",
    ),
    "attempts with a gap": ({"decided": [Found("tallinn", decided(attempt=2))]}, "a gap"),
    "attempt repeated": ({"decided": [Found("tallinn", decided())] * 2}, "a double"),
    "chosen and refused": (
        {"decided": [Found("tallinn", decided(refusal="no_room"))]},
        "both chose and refused",
    ),
    "neither chosen nor refused": ({"decided": [Found("tallinn", decided(site=""))]}, "or neither"),
    "attempts miscounted": ({"ended": [Found("tallinn", ended(attempts=2))]}, "after 2 attempts"),
    "answered by nobody": ({"ended": [Found("tallinn", ended(attempt=0))]}, "by no attempt"),
    "answered by an unknown attempt": (
        {"ended": [Found("tallinn", ended(attempt=3))]},
        "no record of execution at any site",
    ),
    "ended before executed": (
        {"ended": [Found("tallinn", ended(at_s=1000.0 + EARLY_S))]},
        "ended before it was executed",
    ),
    "served before executed": (
        {"served": [Found("riga", ended(role="serving", at_s=1000.0 + EARLY_S))]},
        "ended at riga before",
    ),
    "executed elsewhere as well": (
        {"executed": [Found("riga", executed()), Found("oslo", executed(site="oslo"))]},
        "executed at oslo without a decision",
    ),
    "a record that proves nothing": (
        {"ended": [Found("tallinn", ended(), "not covered by a seal")]},
        "not covered by a seal",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_story_with_one_thing_wrong_is_unproven(name: str) -> None:
    changes, reason = WRONG[name]
    judgement = judge(story(**changes))
    assert judgement.status == "unproven"
    assert any(reason in text for text in judgement.reasons), judgement.reasons


def test_engine_that_died_without_a_byte_may_be_followed_by_another_of_the_site() -> None:
    both = [Found("riga", executed()), Found("riga", executed(engine="llm-1"))]
    assert judge(story(executed=both)).status == "proven"


def test_silent_first_attempt_is_a_note_beside_a_proven_second() -> None:
    found = [
        Found("tallinn", decided(site="oslo")),
        Found("tallinn", decided(attempt=2)),
        Found("riga", executed(attempt=2)),
        Found("riga", ended(role="serving", attempt=2, attempts=2)),
        Found("tallinn", ended(attempt=2, attempts=2)),
    ]
    judgement = judge(found)
    assert judgement.status == "proven"
    assert judgement.notes == ("attempt 1 went to oslo, which left no record of it",)


@pytest.mark.parametrize("outcome", ["failed", "broken", "cancelled"])
def test_request_that_was_executed_but_not_answered_is_still_proven_where_it_ran(
    outcome: str,
) -> None:
    ending = [Found("tallinn", ended(outcome=outcome))]
    assert judge(story(ended=ending)).executing_site == "riga"
    nothing = [Found("tallinn", ended(outcome="failed", attempt=0))]
    judgement = judge(story(executed=[], served=[], ended=nothing))
    assert judgement.status == "unproven"
