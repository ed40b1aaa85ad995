"""The dashboard in a real browser, fed by a league that the test moves."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.async_api import Page, async_playwright, expect

from web.fake_league import FakeLeague
from web.serving import serving

pytestmark = pytest.mark.browser

# Nothing of the browser's own reaches out; no sandbox, because tests may run as root.
ARGS = [
    "--no-sandbox",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE_MS = 20_000


@asynccontextmanager
async def looking(
    league: FakeLeague, chromium: str, **context: Any
) -> AsyncIterator[tuple[Page, list[str]]]:
    """A page that shows the league, and whatever it complains about."""
    complaints: list[str] = []
    async with (
        serving(league, frame_s_min=0.1, quiet_s_max=0.2) as (url, _),
        async_playwright() as playwright,
    ):
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGS)
        page = await browser.new_page(**context)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda said: complaints.append(said.text) if said.type == "error" else None,
        )
        page.on(
            "request",
            lambda asked: None if asked.url.startswith(url) else complaints.append(asked.url),
        )
        await page.goto(url)
        yield page, complaints
        await browser.close()


@pytest.fixture
def league(rng: np.random.Generator) -> FakeLeague:
    league = FakeLeague(rng)
    league.busy_day(60)
    league.tick()
    return league


@pytest.fixture
def look(
    league: FakeLeague, chromium_path: str
) -> Callable[[Callable[[Page], Awaitable[None]]], None]:
    """Runs a scenario on the live page and fails on any error or foreign request."""

    def run(scenario: Callable[[Page], Awaitable[None]], **context: Any) -> None:
        async def whole() -> None:
            async with asyncio.timeout(90), looking(league, chromium_path, **context) as seen:
                page, complaints = seen
                if context.get("java_script_enabled", True):
                    wire = page.get_by_test_id("wire")
                    await expect(wire).to_have_text("live", timeout=PATIENCE_MS)
                    await expect(page.get_by_test_id("site-lyon")).to_be_visible(
                        timeout=PATIENCE_MS
                    )
                await scenario(page)
                assert complaints == []

        expect.set_options(timeout=PATIENCE_MS)
        asyncio.run(whole())

    return run


def test_a_request_appears_on_the_map_and_in_the_table(league: FakeLeague, look: Any) -> None:
    async def scenario(page: Page) -> None:
        served = int(await page.get_by_test_id("site-virginia").get_attribute("data-served") or -1)
        # What moves on the map is gone within two seconds, so it is watched for beforehand.
        await page.evaluate(
            """() => { window.moved = new Set(); new MutationObserver((all) => all.forEach((one) =>
               one.addedNodes.forEach((node) => node.dataset?.testid && window.moved.add(node.dataset.testid))))
               .observe(document.getElementById("map"), { childList: true, subtree: true }); }"""
        )
        row = league.serve("tallinn", "virginia")
        await expect(page.get_by_test_id(f"decision-{row.request_id}")).to_be_visible()
        await expect(page.get_by_test_id("site-virginia")).to_have_attribute(
            "data-served", str(served + 1)
        )
        await expect(page.get_by_test_id("flow-tallinn>virginia")).to_have_count(1)
        for what in ("dot", "pulse"):
            await page.wait_for_function(
                "id => window.moved.has(id)", arg=f"{what}-{row.request_id}", timeout=PATIENCE_MS
            )

    look(scenario)


def test_a_site_that_falls_silent_turns_red_with_a_cross_and_recovers(
    league: FakeLeague, look: Any, tmp_path: Path
) -> None:
    async def scenario(page: Page) -> None:
        london = page.get_by_test_id("site-london")
        body = london.locator(".body")
        await expect(london).to_have_attribute("data-state", "up")
        green = await body.evaluate("node => getComputedStyle(node).fill")
        league.silent.add("london")
        league.tick(3.0)
        await expect(london).to_have_attribute("data-state", "silent")
        await expect(page.get_by_test_id("row-london")).to_contain_text("silent")
        await expect(london.locator(".sign-silent")).to_be_visible()
        await expect(page.locator("#news")).to_contain_text("london is now silent")
        red = await body.evaluate("node => getComputedStyle(node).fill")
        assert red == "rgb(192, 47, 47)"
        assert red != green
        shot = tmp_path / "silent.png"
        await page.screenshot(path=shot)
        assert shot.stat().st_size > 20_000
        league.silent.clear()
        league.tick()
        await expect(london).to_have_attribute("data-state", "up")

    look(scenario, color_scheme="light")


def test_a_cut_is_shown_with_the_way_that_is_left(league: FakeLeague, look: Any) -> None:
    async def scenario(page: Page) -> None:
        link = page.get_by_test_id("link-frankfurt~lyon")
        await expect(link).to_have_attribute("data-state", "open")
        league.cut("lyon", "frankfurt", one_way=True)
        await expect(link).to_have_attribute("data-state", "one-way")
        await expect(link.locator(".sign-way")).to_be_visible()
        await expect(link.locator("title")).to_contain_text("only frankfurt → lyon")
        league.cut("lyon", "frankfurt")
        await expect(link).to_have_attribute("data-state", "cut")
        await expect(link.locator(".sign-cut")).to_be_visible()

    look(scenario)


def test_a_request_and_a_site_open_by_keyboard(league: FakeLeague, look: Any) -> None:
    async def scenario(page: Page) -> None:
        row = league.serve("tallinn", "lyon", attempts=3)
        link = page.get_by_test_id(f"decision-{row.request_id}").get_by_role("link")
        await link.focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_contain_text(row.request_id)
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        await page.get_by_test_id("site-lyon").focus()
        await page.keyboard.press("Enter")
        panel = page.locator("#panel")
        await expect(panel).to_contain_text("lyon-cpu-0")
        league.dead_engines.add("lyon")
        league.tick()
        await expect(panel).to_contain_text("dead")
        await page.keyboard.press("Escape")
        await expect(panel).to_be_hidden()

    look(scenario)


@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_never_scrolls_sideways(league: FakeLeague, look: Any, width: int) -> None:
    async def scenario(page: Page) -> None:
        for _ in range(3):
            league.refuse("tallinn", "A-VERY-LONG-RULE-ID-OF-SOME-ACT", "ANOTHER-LONG-RULE-ID")
        league.batch("batch-" + "0123456789abcdef" * 3, unmet="chips are short here " * 9)
        await expect(page.locator("#work tbody tr")).to_be_visible()
        await expect(page.get_by_test_id("refusal-ANOTHER-LONG-RULE-ID")).to_be_visible()
        inside = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert inside[0] <= inside[1]

    look(scenario, viewport={"width": width, "height": 800})


def test_the_page_reads_without_javascript(league: FakeLeague, look: Any) -> None:
    async def scenario(page: Page) -> None:
        await expect(page.get_by_test_id("row-tallinn")).to_be_visible()
        await expect(page.get_by_test_id("tally-central-law")).to_be_visible()
        await page.locator("#decisions tbody a").first.click()
        await expect(page.get_by_text("What it took")).to_be_visible()

    look(scenario, java_script_enabled=False)


def test_hostile_text_runs_nothing(league: FakeLeague, look: Any) -> None:
    async def scenario(page: Page) -> None:
        evil = "<img src=x onerror=window.hit=1>"
        row = league.refuse(evil, evil, key_id=evil, request_id=f"evil{evil}")
        league.state.notes = (evil,)
        league.batch(evil, service=evil, home=evil, tenant=evil, unmet=evil)
        league.tell()
        await expect(page.locator(".notes")).to_contain_text(evil)
        await expect(page.locator("#work .unmet")).to_have_text(evil)
        await page.locator("#decisions tbody tr").first.click()
        await expect(page.get_by_role("dialog")).to_contain_text(row.request_id)
        assert await page.evaluate("window.hit") is None

    look(scenario)


def test_the_page_says_when_its_connection_is_lost(league: FakeLeague, chromium_path: str) -> None:
    async def scenario() -> None:
        async with asyncio.timeout(90), async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium_path, args=ARGS)
            page = await browser.new_page()
            wire = page.get_by_test_id("wire")
            async with serving(league) as (url, _):
                await page.goto(url)
                await expect(wire).to_have_text("live", timeout=PATIENCE_MS)
            await expect(wire).to_have_attribute("data-state", "lost", timeout=PATIENCE_MS)
            await browser.close()

    asyncio.run(scenario())
