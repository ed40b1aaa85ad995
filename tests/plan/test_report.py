"""The planning report: whole, self-contained, nothing hidden, every figure with its unit, its CSV and its source in two clicks."""

from __future__ import annotations

import csv
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.console import Console

from hanse.errors import ConfigError
from hanse.plan.answer import Answer
from hanse.plan.doubt import Flip
from hanse.plan.report import write_report
from hanse.plan.report.figure import Figure
from hanse.plan.report.figures import figures
from hanse.plan.report.methods import METHODS
from hanse.plan.report.page import page
from hanse.plan.report.table import MISSING, Column, Table, csv_text, large, missing, shown
from hanse.plan.report.tables import tables
from hanse.plan.report.verdict import contrast, headline, nearest_flip
from hanse.plan.show import show
from hanse.plan.tco import GROUPS
from plan.answers import least, rich

VOID = {"wbr", "meta", "link", "br", "img", "input", "hr"}
BAD = '<script>alert("1")</script>&'


class Reader(HTMLParser):
    """Open elements, ids, addresses, what would be fetched, and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {k: v or "" for k, v in attrs}
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"]] if tag == "a" and "href" in found else []
        self.fetched += [found[k] for k in ("src", "srcset", "data") if k in found]
        self.fetched += (
            [found.get("href", tag)] if tag in ("link", "script", "image", "use") else []
        )
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def drawn(answer: Answer) -> tuple[dict[str, Table], dict[str, Figure], str]:
    made = tables(answer)
    pictures = figures(answer, made)
    return made, pictures, page(answer, made, pictures)


def read_page(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


RICH, LEAST = rich(), least()
BOTH = pytest.mark.parametrize("answer", [RICH, LEAST], ids=["rich", "least"])


@BOTH
def test_the_page_is_whole_and_fetches_nothing(answer: Answer) -> None:
    _, _, text = drawn(answer)
    reader = read_page(text)
    assert reader.open == [] and reader.fetched == []
    assert "@import" not in text and "http:" not in text and "https:" not in text
    assert not re.search(r"url\((?!#)", text)


@BOTH
def test_every_address_leads_somewhere(answer: Answer, tmp_path: Path) -> None:
    text = write_report(answer, tmp_path).read_text()
    reader = read_page(text)
    assert len(reader.ids) == len(set(reader.ids))
    for link in reader.links:
        if link.startswith("#"):
            assert link[1:] in reader.ids, link
        else:
            assert (tmp_path / link).is_file(), link
    assert len(reader.links) > 80


@BOTH
def test_what_is_not_known_is_a_dash_with_its_reason(answer: Answer) -> None:
    made, pictures, text = drawn(answer)
    words = " ".join(read_page(text).text)
    assert not re.search(r"\b(None|nan|inf|NaN)\b", words)
    for table in (*made.values(), *(f.table for f in pictures.values())):
        for i, column in enumerate(table.columns):
            gaps = [row for row in table.rows if missing(row[i])]
            if gaps and column.kind != "figure" and table.key in made:
                assert column.why, f"{table.key}: {column.key} may be missing and nobody says why"
                assert any(column.why in note for note in table.remarks())
    for figure in pictures.values():
        if not figure.panels:
            assert figure.empty.replace("'", "&#39;") in text


def test_every_figure_has_a_unit_in_its_csv_and_a_method() -> None:
    made, pictures, text = drawn(RICH)
    for figure in pictures.values():
        assert figure.panels and all(key in METHODS for key in figure.methods) and figure.methods
        assert f'href="figures/{figure.key}.csv"' in text
    for table in made.values():
        for column in table.columns:
            assert column.method in METHODS or not column.method
            if column.numeric and table.key != "assumptions":
                assert column.method, f"{table.key}: {column.key} rests on nothing"


def test_from_every_method_the_source_is_one_click_away() -> None:
    """Head to method, method to assumption: two clicks."""
    groups, ids = {a.group for a in RICH.assumptions}, {a.id for a in RICH.assumptions}
    _, _, text = drawn(RICH)
    for key, method in METHODS.items():
        assert set(method.groups) <= groups | {"study"}, key
        assert set(method.ids) <= ids, key
        for id in method.ids:
            assert f'id="a-{id}"' in text
    for figure in RICH.assumptions:
        assert figure.source.replace("&", "&amp;").replace("'", "&#39;").replace('"', "&#34;") in text  # fmt: skip


@BOTH
def test_each_csv_holds_what_its_table_shows(answer: Answer, tmp_path: Path) -> None:
    made, pictures, _ = drawn(answer)
    write_report(answer, tmp_path)
    all_tables = made | {f.key: f.table for f in pictures.values()}
    assert {p.stem for p in (tmp_path / "figures").iterdir()} == set(all_tables)
    for key, table in all_tables.items():
        lines = list(csv.reader(io.StringIO((tmp_path / "figures" / f"{key}.csv").read_text())))
        assert lines[0] == [c.key for c in table.columns] and len(lines) == len(table.rows) + 1
        for line, row in zip(lines[1:], table.rows, strict=True):
            for text, column, value in zip(line, table.columns, row, strict=True):
                again = None if text == "" else text if isinstance(value, str) else float(text)
                assert shown(column, again) == shown(column, value)


def test_pictures_draw_the_figures_of_the_answer() -> None:
    _, pictures, _ = drawn(RICH)
    svg = {key: "".join(s for _, s in f.panels) for key, f in pictures.items()}
    assert svg["map"].count("<circle") == sum(len(d.sites) for d in RICH.designs)
    assert svg["latency"].count("<polyline") == len(RICH.designs)
    assert svg["cost"].count("<circle") == len(RICH.designs)
    builders = [d for d in RICH.designs if d.sites]
    assert svg["building"].count("<polyline") == svg["sites-gone"].count("<polyline") == 4
    assert svg["building"].count("<circle") == len(builders) * RICH.years
    hours = {(r[0], r[1], r[2]): r[3] for r in pictures["carbon-free-hours"].table.rows}
    assert len(hours) == 24 * sum(len(d.sites) for d in RICH.designs)
    assert svg["carbon-free-hours"].count('class="clean"') == 24 * sum(min(12, len(d.sites)) for d in builders)  # fmt: skip
    for d in RICH.designs:
        groups = [v for v in d.usd_by_group.values() if v]
        title = re.escape(f"<title>{d.name}, ")
        assert len(re.findall(title, svg["cost-stack"])) == len(groups)
    for swing in RICH.swings:
        assert f'href="#a-{swing.id}"' in svg["tornado"]


def test_carbon_by_method_is_never_added() -> None:
    made, _, _ = drawn(RICH)
    ranking = made["ranking"]
    keys = [c.key for c in ranking.columns if c.key.endswith("g_per_mtoken_p50")]
    assert [k.split("_")[0] for k in keys] == ["location", "market", "marginal", "embodied"]
    first = RICH.designs[0]
    row = dict(zip((c.key for c in ranking.columns), ranking.rows[0], strict=True))
    assert row["location_g_per_mtoken_p50"] == first.location_g_per_mtoken.p50
    assert row["embodied_g_per_mtoken_p50"] == first.embodied_g_per_mtoken.p50


def test_the_headline_says_what_the_cheapest_leaves_to_others() -> None:
    first, *rest = RICH.designs
    poor = replace(RICH, designs=(replace(first, served_share=0.778), *(replace(d, served_share=1.0) for d in rest)))  # fmt: skip
    said = headline(poor)[0]
    assert (
        f"77.8% of what is asked for; the cheapest that delivers all is {rest[0].name} with" in said
    )
    nobody = replace(poor, designs=tuple(replace(d, served_share=s) for d, s in zip(poor.designs, (0.7, *(0.8,) * len(rest)), strict=True)))  # fmt: skip
    assert headline(nobody)[0].count("delivers") == 1 and "70.0% of what is asked for." in headline(nobody)[0]  # fmt: skip
    alike = replace(poor, designs=tuple(replace(d, served_share=0.778) for d in poor.designs))
    assert "of what is asked for" not in headline(alike)[0]


def test_the_headline_says_who_wins_how_often_and_what_flips_it() -> None:
    first, second = headline(RICH)
    assert "The optimal mix" in first and "0.412 USD" in first and "61.0%" in first
    assert "one hyperscale region" in second and "h100-sxm_chip_usd rises" in second
    assert nearest_flip(RICH) == RICH.flips[1]
    assert "No single figure or input" in headline(replace(RICH, flips=(), curves=()))[1]
    assert "only design" in headline(LEAST)[0] and "nothing can flip" in headline(LEAST)[1]
    often = replace(RICH.designs[1], win_share=0.9)
    other = replace(RICH, designs=(RICH.designs[0], often))
    assert "90.0%, are won by one hyperscale region" in headline(other)[0]


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
def test_the_nearest_flip_takes_the_smallest_part_of_its_range(parts: list[float]) -> None:
    figures = [a for a in RICH.assumptions if a.high > a.mid][: len(parts)]
    found = tuple(
        Flip(id=a.id, mid=a.mid, at=a.mid + part * (a.high - a.mid), winner="region")
        for a, part in zip(figures, parts, strict=True)
    )
    nearest = nearest_flip(replace(RICH, flips=found, curves=()))
    assert nearest is not None
    chosen = parts[[f.id for f in found].index(nearest.id)]
    assert chosen == pytest.approx(min(parts), rel=1e-6)


def test_small_sites_are_praised_and_blamed_by_their_figures() -> None:
    found = contrast(RICH)
    assert found is not None
    assert (found.small.id, found.large.id) == ("micro", "region")
    against = {e.column.key for e, _ in found.speaks_against}
    assert {"usd_per_mtoken", "pooling_extra_share", "ups_loss_share", "pue", "staff_fte", "operator_actions_per_month", "stranded_usd_per_year", "wan_gb_per_year"} <= against  # fmt: skip
    assert {"ttft_ms_p95", "served_without_1", "available"} <= {
        e.column.key for e, _ in found.speaks_for
    }
    said = {e.column.key: words for e, words in found.speaks_against}
    assert said["usd_per_mtoken"] == "0.537 against 0.441 USD per million tokens"
    assert contrast(LEAST) is None


@given(st.floats(0.1, 10.0), st.floats(0.1, 10.0))
def test_who_is_dearer_is_blamed_for_it(small: float, big: float) -> None:
    changed = []
    for d in RICH.designs:
        cost = {"micro": small, "region": big}.get(d.id, 1.0)
        changed.append(replace(d, usd_per_mtoken=replace(d.usd_per_mtoken, p50=cost)))
    found = contrast(replace(RICH, designs=tuple(changed)))
    assert found is not None
    sides = (found.speaks_for, found.speaks_against)
    praised, blamed = ({e.column.key for e, _ in side} for side in sides)
    near = abs(small - big) <= 0.01 * max(small, big)
    assert ("usd_per_mtoken" in blamed) == (small > big and not near)
    assert ("usd_per_mtoken" in praised) == (small < big and not near)


@BOTH
def test_a_name_is_text_wherever_it_stands(answer: Answer) -> None:
    designs = []
    for d in answer.designs:
        sites = tuple(replace(s, id=f"{BAD}{k}", city=BAD, kind=BAD, size=BAD, next_best=BAD) for k, s in enumerate(d.sites))  # fmt: skip
        designs.append(replace(d, name=f"{BAD}{d.id}", sites=sites, notes=(BAD,), duties=(BAD,), fleet_file=BAD))  # fmt: skip
    assumed = tuple(replace(a, source=BAD, note=BAD, unit=BAD) for a in answer.assumptions)
    bad = replace(answer, study=BAD, designs=tuple(designs), notes=(BAD,), command=BAD, assumptions=assumed)  # fmt: skip
    swings = tuple(replace(s, id=BAD) for s in answer.swings)
    flips = tuple(replace(f, id=BAD, winner=BAD) for f in answer.flips)
    bad = replace(bad, swings=swings, flips=flips)
    _, _, text = drawn(bad)
    assert "<script" not in text and "&lt;script&gt;" in text
    reader = read_page(text)
    assert reader.open == [] and not any(link.startswith("javascript") for link in reader.links)


def test_designs_of_one_name_are_told_apart() -> None:
    twins = tuple(replace(d, name="same") for d in RICH.designs)
    made, pictures, _ = drawn(replace(RICH, designs=twins))
    assert len({row[0] for row in made["designs"].rows}) == len(twins)
    assert "".join(s for _, s in pictures["cost"].panels).count("<circle") == len(twins)


def test_the_folder_holds_page_csvs_and_an_answer_that_reads_back(tmp_path: Path) -> None:
    path = write_report(RICH, tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "index.html"
    raw = (path.parent / "answer.json").read_bytes()
    assert msgspec.json.decode(raw, type=Answer) == RICH
    assert path.read_text() == write_report(RICH, tmp_path / "again").read_text()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="report folder"):
        write_report(RICH, tmp_path / "file")


def test_every_group_of_cost_is_drawn_in_its_own_colour() -> None:
    from hanse.twin.report.charts import COLOURS

    assert len(GROUPS) <= COLOURS


FLOATS = st.floats(allow_nan=True, allow_infinity=True)


@given(st.lists(st.tuples(st.text(max_size=20), FLOATS), min_size=1, max_size=5))
def test_a_csv_gives_figures_back_to_the_last_digit(rows: list[tuple[str, float]]) -> None:
    columns = (Column(key="name", head="name", kind="text"), Column(key="x_kw", head="x"))
    text = csv_text(Table(key="t", title="t", columns=columns, rows=tuple(rows)))
    found = list(csv.reader(io.StringIO(text, newline="")))[1:]
    for (_, value), (_, cell) in zip(rows, found, strict=True):
        assert cell == "" if not math.isfinite(value) else float(cell) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, MISSING), (math.nan, MISSING), (999_999.0, "999,999"), (1e6, "1.00 million"), (1.25e9, "1.25 billion"), (-6e7, "-60.0 million"), (123.4, "123")],
)  # fmt: skip
def test_large_amounts_read_in_words(value: float | None, text: str) -> None:
    assert large(value) == text


def on_screen(answer: Answer, width: int, *, quick: bool) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None)
    show(answer, console, files=(Path("out/index.html"), Path("out/fleet.toml")), quick=quick)
    return out.getvalue().splitlines()


@BOTH
@pytest.mark.parametrize("width", [80, 120])
def test_the_screen_shows_designs_side_by_side_and_fits(answer: Answer, width: int) -> None:
    whole, quick = (on_screen(answer, width, quick=q) for q in (False, True))
    assert len(whole) <= 45 and len(quick) <= 24
    for lines in (whole, quick):
        assert all(len(line) <= width for line in lines)
        text = "\n".join(lines)
        assert "out/index.html" in text and "out/fleet.toml" in text
        assert not re.search(r"\b(None|nan|inf)\b", text)
        assert headline(answer)[1].split()[0] in text and "…" not in text
    costs = next(line for line in whole if line.startswith("USD/Mtoken")).split()
    assert costs[-len(answer.designs) :] == [f"{d.usd_per_mtoken.p50:.3f}" for d in answer.designs]


def test_a_screen_too_narrow_says_what_it_leaves_out() -> None:
    assert any("2 dearer designs" in line for line in on_screen(RICH, 60, quick=False))


@pytest.mark.browser
@pytest.mark.parametrize("width", [420, 1150])
def test_nothing_overflows_on_a_screen_of_any_width(
    tmp_path: Path, chromium_path: str, width: int
) -> None:
    from playwright.sync_api import sync_playwright

    address = write_report(RICH, tmp_path).as_uri()
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": width, "height": 900})
        tab.on("console", lambda message: said.append(message.text))
        tab.on("request", lambda request: said.append(request.url))
        tab.goto(address)
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        heights = tab.evaluate("[...document.querySelectorAll('.panel > svg')].map(s => s.getBoundingClientRect().height)")  # fmt: skip
        browser.close()
    assert len(heights) >= 14 and min(heights) > 10
    assert said == [address]


def test_what_is_earned_stands_left_of_nothing() -> None:
    from hanse.twin.report.charts import stacked_bars

    drawn = stacked_bars({"a": (3.0, -1.0, 2.0)}, ("p", "earned", "q"), str)
    bars = [(float(x), float(w)) for x, w in re.findall(r'x="([\d.]+)" y="\d+" width="([\d.]+)"', drawn)]  # fmt: skip
    (first, p), (left, earned), (after, q) = bars
    assert left + earned == pytest.approx(first, abs=0.11)
    assert after == pytest.approx(first + p, abs=0.11)
    assert p / earned == pytest.approx(3.0, rel=0.01) and q / earned == pytest.approx(2.0, rel=0.01)
    assert 'class="zero"' in drawn and ">4.0<" in drawn


CELLS = "section:not(#methods):not(#assumptions) td.n"
LINKS = """cell => {
  const row = cell.closest('tr'), table = cell.closest('table');
  const heads = [...table.tHead.rows[0].cells];
  const at = [...row.cells].indexOf(cell);
  const mine = [...row.cells].filter(c => c.tagName === 'TH').concat([cell, heads[at]]);
  return mine.flatMap(c => [...c.querySelectorAll('a[href^="#"]')]).map(a => a.getAttribute('href'));
}"""
"""Addresses on the page at a figure: in its own cell, at the head of its row, at the head of its column."""


@pytest.mark.long
@pytest.mark.browser
def test_from_any_figure_of_a_table_its_source_is_at_most_two_clicks_away(
    tmp_path: Path, chromium_path: str
) -> None:
    """Head, then row of the assumptions: each address is really clicked, once."""
    from playwright.sync_api import sync_playwright

    address = write_report(RICH, tmp_path).as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1150, "height": 900})
        tab.goto(address)
        cells = tab.query_selector_all(CELLS)
        links = [tab.evaluate(LINKS, cell) for cell in cells]
        assert len(cells) > 1000
        blind = [c.inner_text() for c, found in zip(cells, links, strict=True) if not found]
        assert not blind, blind[:5]
        reached = {}
        for first in sorted({link for found in links for link in found}):
            tab.evaluate("scrollTo(0, 0)")
            tab.locator(f'section:not(#methods):not(#assumptions) a[href="{first}"]').first.click()
            assert tab.evaluate("location.hash") == first
            reached[first] = sources(tab, first)
        browser.close()
    assert all(reached.values()), [link for link, found in reached.items() if not found]
    for found in links:
        assert any(reached[link] for link in found)


def sources(tab: Any, at: str) -> bool:
    """Whether a source is read where one has come to, or after one more click."""
    if at.startswith("#a-"):
        return has_source(tab, at)
    method = tab.locator(f'dt[id="{at[1:]}"] + dd')
    tab.evaluate("at => document.getElementById(at).scrollIntoView()", at[1:])
    where = method.locator("a").first
    if where.count() == 0:
        # Physics and law need no assumption: the method itself names the page that derives it.
        return "docs/" in method.inner_text()
    next_at = where.get_attribute("href")
    where.click()
    assert tab.evaluate("location.hash") == next_at
    return has_source(tab, next_at)


def has_source(tab: Any, at: str) -> bool:
    """The row, or every row below the heading, says where it comes from, and it is on the screen."""
    row = tab.evaluate(
        """at => {
          const found = document.getElementById(at);
          const box = found.getBoundingClientRect();
          const rows = found.tagName === 'TR' ? [found] : [...found.nextElementSibling.querySelectorAll('tbody tr')];
          const texts = rows.map(r => r.cells[6].innerText.trim());
          return {seen: box.top >= -1 && box.top < innerHeight, texts};
        }""",
        at[1:],
    )
    return row["seen"] and row["texts"] and all(len(text) > 5 for text in row["texts"])


@pytest.mark.browser
def test_a_print_cuts_nothing_off(tmp_path: Path, chromium_path: str) -> None:
    """On A4 less its margins no table is wider than the paper."""
    from playwright.sync_api import sync_playwright

    address = write_report(RICH, tmp_path).as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": A4_PX, "height": 1000})
        tab.goto(address)
        tab.emulate_media(media="print")
        wide = tab.evaluate(
            "most => [...document.querySelectorAll('table, svg, p, li')].filter(e => e.getBoundingClientRect().right > most + 1).map(e => e.outerHTML.slice(0, 80))",
            A4_PX,
        )
        pdf = tab.pdf(format="A4")
        browser.close()
    assert wide == [] and pdf.startswith(b"%PDF")
    pages = len(re.findall(rb"/Type\s*/Page\b", pdf))
    assert 10 <= pages <= 30


A4_PX = round((210 - 2 * 12) / 25.4 * 96)
"""Width that margins of 12 mm leave, in CSS pixels."""


def test_an_input_that_flips_nowhere_says_within_which_range() -> None:
    curve = replace(RICH.curves[0], resited=True, flips=(), low=1e8, high=1e12, name="demand")
    calm = replace(RICH, flips=(), curves=(curve,))
    (row,) = tables(calm)["flips"].rows
    assert row[3] is None and row[-1] == "none other, from 100 million to 1.00 trillion"
    assert "demand from 100 million to 1.00 trillion" in headline(calm)[1]
