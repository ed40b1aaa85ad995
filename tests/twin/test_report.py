"""The report: one page that needs nothing else, says what it should, and trusts no name in it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest

import hanse
from hanse.errors import ConfigError
from hanse.model.fleet import Policy, SlowLoop
from hanse.model.read import read_fleet
from hanse.signals.traces.transform import window
from hanse.twin.report import write_report
from hanse.twin.report.charts import nice_top, over_time, stacked_bars
from hanse.twin.report.page import page
from hanse.twin.report.tables import percent, sheets
from hanse.twin.result import Happened, Result
from hanse.twin.runs import run_inputs
from hanse.twin.scenario import Fault, Scenario
from twin.fleets import powered_fleet, random_trace
from twin.test_results import BAD_EVENING, LEAGUE, inputs_of

VOID = {"meta", "link", "br", "img", "input", "hr"}


@pytest.fixture(scope="module")
def result() -> Result:
    return hanse.simulate(LEAGUE, scenario=BAD_EVENING)


class Checker(HTMLParser):
    """Open elements, in order; what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [
            v or "" for k, v in attrs if k in ("src", "href") and not (v or "").startswith("#")
        ]
        self.fetched += [tag] if tag == "script" else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_whole_and_fetches_nothing(result: Result) -> None:
    text = page(result)
    checker = Checker()
    checker.feed(text)
    assert checker.open == [] and checker.fetched == []
    assert "@import" not in text and "url(" not in text.replace("url(#frame)", "")


def test_the_page_says_what_micro_sites_cost(result: Result) -> None:
    """Idle capacity, PUE at the load that was, pooling loss: in the same tables as what they save."""
    by_key = {sheet.key: sheet for sheet in sheets(result)}
    assert {"busy", "idle capacity", "PUE at that load", "PUE full", "IT load of rated"} <= set(
        by_key["sites"].columns
    )
    assert "engines busy" in by_key["answers"].columns
    assert any("pooling loss" in row[0] for row in by_key["pooling"].rows)
    assert {"idle", "cooling", "UPS", "of these wasted"} <= set(by_key["energy"].columns)
    text = page(result)
    for sheet in by_key.values():
        assert all(f"<th>{column}</th>".replace("'", "&#39;") in text for column in sheet.columns)


def test_every_row_is_as_wide_as_its_table(result: Result) -> None:
    for sheet in sheets(result):
        assert all(len(row) == len(sheet.columns) for row in sheet.rows), sheet.key
        assert all(i < len(sheet.columns) for i in sheet.screen), sheet.key


def test_every_site_fault_and_source_is_on_the_page(result: Result) -> None:
    text = page(result)
    for site in result.sites:
        assert site.id in text
    for fault in result.happened:
        assert fault.text in text
    sheet = next(s for s in sheets(result) if s.key == "assumptions")
    assert len(sheet.rows) == len(result.assumptions) > 10


def test_a_name_is_text_wherever_it_stands(result: Result) -> None:
    bad = "<script>alert(1)</script>"
    run = msgspec.structs.replace(result.run, trace=bad)
    flows = msgspec.structs.replace(
        result.flows,
        origins=tuple(msgspec.structs.replace(o, id=bad) for o in result.flows.origins),
    )
    happened = (Happened(at_s=1.0, until_s=None, text=bad),)
    text = page(msgspec.structs.replace(result, run=run, flows=flows, happened=happened))
    assert "<script" not in text and "&lt;script&gt;" in text


def test_the_same_result_gives_the_same_page(result: Result) -> None:
    assert page(result) == page(result)


@pytest.mark.parametrize("count", [0, 1, 400])
def test_any_run_has_a_page(count: int, rng: np.random.Generator) -> None:
    """Also one without a request, without an answer, or with a site that nobody used."""
    made = powered_fleet(rng)
    trace = random_trace(made, rng, count=max(count, 1))
    if count == 0:
        trace = window(trace, trace.meta.duration_s - 0.5, trace.meta.duration_s)
    result = run_inputs(inputs_of(made, trace))
    assert result.run.requests == count
    assert all(site.id in page(result) for site in made.sites)
    assert msgspec.json.decode(msgspec.json.encode(result), type=Result) == result


def test_a_folder_gets_the_page_and_the_result(result: Result, tmp_path: Path) -> None:
    write_report(result, tmp_path / "new" / "folder")
    assert {p.name for p in (tmp_path / "new" / "folder").iterdir()} == {
        "report.html",
        "result.json",
    }
    raw = (tmp_path / "new" / "folder" / "result.json").read_bytes()
    assert msgspec.json.decode(raw, type=Result) == result
    with pytest.raises(ConfigError, match="--report"):
        write_report(result, tmp_path / "absent" / "page.html")


@pytest.mark.parametrize(
    ("value", "top"), [(0.0, 1.0), (0.7, 1.0), (1.0, 1.0), (2.2, 2.5), (430.0, 500.0)]
)
def test_axes_end_at_round_numbers(value: float, top: float) -> None:
    assert nice_top(value) == pytest.approx(top)


def test_charts_leave_gaps_where_nothing_is_known() -> None:
    svg = over_time({"x": (1.0, 2.0, None, 3.0, 4.0, None)}, 300.0, "ms")
    lines = re.findall(r'<polyline class="line s0" points="([^"]*)"', svg)
    assert [len(points.split()) for points in lines] == [2, 2]
    assert (
        over_time({"x": ()}, 300.0, "ms") == "" and stacked_bars({"a": (0.0,)}, ("p",), str) == ""
    )


@pytest.mark.parametrize(
    ("share", "text"),
    [(None, "–"), (0.0, "0.0%"), (0.123, "12.3%"), (0.0000847, "0.00847%"), (-2e-16, "0.0%")],
)
def test_shares_keep_a_digit_that_says_something(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.browser
@pytest.mark.parametrize("width", [420, 1100])
def test_nothing_overflows_on_a_screen_of_any_width(
    result: Result, tmp_path: Path, chromium_path: str, width: int
) -> None:
    from playwright.sync_api import sync_playwright

    write_report(result, tmp_path / "report.html")
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("console", lambda message: said.append(message.text))
        tab.on("request", lambda request: said.append(request.url))
        tab.goto((tmp_path / "report.html").as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        charts = tab.evaluate(
            "[...document.querySelectorAll('figure > svg')].map(s => s.getBoundingClientRect().height)"
        )
        browser.close()
    assert len(charts) >= 7 and min(charts) > 20
    assert said == [(tmp_path / "report.html").as_uri()]


def test_supply_adds_up_to_the_meter_and_a_brownout_is_told() -> None:
    cut = Fault(kind="grid_cap", site="frankfurt", factor=0.05, at_s=0.0)
    short = hanse.simulate(LEAGUE, scale=0.05, scenario=Scenario(faults=(cut,)))
    (site,) = [s for s in short.sites if s.id == "frankfurt"]
    supply = site.supply
    given = supply.import_kwh + supply.pv_used_kwh + supply.wind_used_kwh
    given += supply.discharge_kwh + supply.unserved_kwh
    assert supply.unserved_kwh > 0.0
    assert given == pytest.approx(site.energy.facility_kwh + supply.charge_kwh)
    (sheet,) = [one for one in sheets(short) if one.key == "supply"]
    shown = {sheet.columns[i] for i in sheet.screen}
    assert {"import", "PV used / made", "wind used / made", "battery in / out", "unserved"} <= shown
    assert any(note.startswith("brownout: ") and "at frankfurt" in note for note in sheet.notes)


def test_a_fleet_whose_controller_places_is_told_that_the_twin_does_not(result: Result) -> None:
    fleet = msgspec.structs.replace(
        read_fleet(LEAGUE), slow_loop=SlowLoop(places=True), policy=Policy()
    )
    held = hanse.simulate(fleet, scale=0.01)
    assert any("placements hold as in the file" in note for note in held.notes)
    assert not any("placements hold" in note for note in result.notes)
