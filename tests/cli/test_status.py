"""What a person sees of the league at a glance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import views
from hanse.cli.status import picture
from hanse.model.read import parse_fleet
from hanse.view import CentralVerdict, Cost, DecisionRow, StandingView, ViewState

SHED = (
    "battery low: no deferrable work",
    "battery low: no work of other sites",
    "battery low: no class bulk (priority 10)",
)


def shown(**more: Any) -> str:
    """The screen of a league whose site `lyon` gives up three steps."""
    said = views.status("lyon", shed_level=3, shed=SHED)
    well = views.site("riga", views.status("riga"))
    console = Console(width=250, highlight=False)
    with console.capture() as seen:
        console.print(picture(views.view(views.site("lyon", said, **more), well)))
    return seen.get()


def row(text: str, site: str) -> str:
    (found,) = [line for line in text.splitlines() if line.startswith(f"│ {site} ")]
    return found


@pytest.mark.parametrize("state", ["up", "degraded"])
def test_a_site_that_sheds_is_not_simply_up(state: str) -> None:
    text = shown(state=state)
    assert f"{state}, sheds 3 (battery low)" in row(text, "lyon")
    assert f"lyon: sheds: {'; '.join(SHED)}" in text
    assert "sheds" not in row(text, "riga") and "riga: sheds" not in text


def test_what_a_site_gave_up_before_it_fell_silent_is_not_shown_as_of_now() -> None:
    assert "sheds" not in shown(state="silent")


def test_out_of_service_and_shedding_are_both_said() -> None:
    text = shown(standing=StandingView(state="drained", since_s=0.0))
    assert "drained" in row(text, "lyon") and "lyon: sheds: battery low" in text


def test_lines_of_batches_stand_beside_the_comparison_and_not_in_it() -> None:
    """Nobody asked the big site of them: added to one side they would make it look cheap."""
    fleet = parse_fleet(Path("examples/league.toml").read_bytes(), source="test")
    state = ViewState(fleet, {})
    cost = Cost(ttft_ms=10.0, e2e_ms=20.0, energy_wh=0.5, carbon_g=0.1, cost_usd=0.001)
    common: dict[str, Any] = {
        "at_s": 1.0,
        "request_id": "a" * 32,
        "key_id": "demo",
        "data_class": "public",
        "country": "DE",
        "service": "chat",
        "entry": "lyon",
        "site": "lyon",
        "outcome": "served",
        "measured": cost,
        "predicted": cost,
    }
    big = CentralVerdict(outcome="served", predicted=cost)
    state.hear_decisions([DecisionRow(**common, central=big)])
    assert state.snapshot(2.0).lines is None
    state.hear_decisions([DecisionRow(**common, deferrable=True)] * 3)
    view = state.snapshot(2.0)
    assert [(one.served, one.energy_wh) for one in view.tallies] == [(1, 0.5)] * 3
    assert view.lines is not None and (view.lines.served, view.lines.energy_wh) == (3, 1.5)
    console = Console(width=250, highlight=False)
    with console.capture() as seen:
        console.print(picture(view))
    assert row(seen.get(), "lines of batches, measured here").split("│")[2].strip() == "3"
