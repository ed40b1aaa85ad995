"""The dashboard over HTTP: pages, JSON, headers, hostile text."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from starlette.testclient import TestClient

import hanse.web
from hanse.view import CentralVerdict, LeagueView, LinkStatus, link_id
from hanse.web.app import make_app
from hanse.web.history import POINTS_MAX, SITES_MAX, Courses, History
from hanse.web.page import link_state
from hanse.web.reasons import reason_text
from web.fake_league import BEGIN_S, FakeLeague

HERE = "http://localhost"
STATIC = Path(hanse.web.__file__).parent / "static"
EVIL = '<img src=x onerror="alert(1)"><script>alert(2)</script>\'"&'


@pytest.fixture
def league(rng: np.random.Generator) -> FakeLeague:
    league = FakeLeague(rng)
    league.busy_day(40)
    league.tick()
    return league


@pytest.fixture
def client(league: FakeLeague) -> Iterator[TestClient]:
    with TestClient(make_app(league, rule_texts={"GDPR-V": "no transfer"}), HERE) as client:
        yield client


def test_the_page_is_complete_without_javascript(client: TestClient, league: FakeLeague) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-store"
    for site in league.fleet.sites:
        assert f'data-testid="row-{site.id}"' in page.text
    newest = league.snapshot().decisions[0]
    assert f'data-testid="decision-{newest.request_id}"' in page.text
    assert "predicted, <br>declared hardware" in page.text
    assert "no transfer" in page.text
    assert 'data-testid="tally-central-law"' in page.text


def test_batches_are_shown_where_the_controller_plans(
    client: TestClient, league: FakeLeague
) -> None:
    assert 'id="work-title"' not in client.get("/").text
    loop = replace(league.fleet.slow_loop, places=True)
    league.state.follow(replace(league.fleet, slow_loop=loop), {})
    assert "No batch is open." in client.get("/").text
    league.batch("batch-1", unmet="too late; more chips")
    league.batch("batch-2", planned=False, spans=())
    text = client.get("/").text
    assert 'data-testid="work-batch-1"' in text
    assert "lyon now – " in text and "820 lines" in text
    assert "too late; more chips" in text
    assert "no plan yet" in text
    for n in range(40):
        league.batch(f"batch-{n + 3}", spans=league.state.work[0].spans * 3)
    text = client.get("/").text
    assert "and 3 times more" in text
    assert "And 30 that are due later" in text
    assert text.count('data-testid="work-') == 12


def test_the_view_is_given_as_json_that_decodes_to_itself(
    client: TestClient, league: FakeLeague
) -> None:
    answer = client.get("/api/view.json")
    assert answer.headers["content-type"] == "application/json"
    assert msgspec.json.decode(answer.content, type=LeagueView) == league.snapshot()


@pytest.mark.parametrize(
    "path", ["/", "/api/view.json", "/static/hanse.css", "/healthz", "/nowhere", "/sites/nowhere"]
)
def test_every_answer_forbids_foreign_and_inline_code(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


def test_no_page_holds_inline_code_or_a_foreign_address(client: TestClient) -> None:
    for path in ("/", "/sites/lyon"):
        text = client.get(path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)", text)
        assert not re.search(r"<[^>]+\s(?:style|on\w+)=", text)
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


def test_hostile_text_stays_text(client: TestClient, league: FakeLeague) -> None:
    league.state.notes = (EVIL,)
    row = league.refuse(
        EVIL, EVIL, reason=EVIL, key_id=EVIL, data_class=EVIL, request_id=f"../{EVIL}?#"
    )
    served = league.serve(EVIL, EVIL, variant=EVIL, service=EVIL, method=EVIL)
    pages = [client.get("/").text]
    for one in (row, served):
        link = f"/decisions/{quote(one.request_id, safe='')}"
        assert f'href="{link}"' in pages[0]
        pages += [client.get(link).text, client.get(f"{link}?part=1").text]
    for page in pages:
        assert "<img src=x" not in page
        assert "<script>alert" not in page
        assert "&lt;img src=x" in page


def test_a_decision_can_be_opened_with_what_was_predicted_and_measured(
    client: TestClient, league: FakeLeague
) -> None:
    row = league.serve("tallinn", "lyon", attempts=2)
    whole = client.get(f"/decisions/{row.request_id}").text
    part = client.get(f"/decisions/{row.request_id}?part=1").text
    assert part in whole
    assert "<html" not in part
    for words in ("Measured", "Predicted", "One big site", "Attempts</dt><dd>2", "estimated"):
        assert words in part
    gone = client.get("/decisions/unknown")
    assert gone.status_code == 404
    assert "no longer" in gone.text


def test_a_site_can_be_opened_with_its_engines_and_power(
    client: TestClient, league: FakeLeague
) -> None:
    league.dead_engines.add("lyon")
    league.tick()
    part = client.get("/sites/lyon?part=1").text
    for words in ("degraded", "lyon-cpu-0", "dead", "g/kWh", "USD/kWh", "PUE", "Sources:"):
        assert words in part


def test_a_sites_battery_says_what_it_does(client: TestClient, league: FakeLeague) -> None:
    assert "12.5 kWh, gives 3.50 kW: planned" in client.get("/sites/frankfurt?part=1").text
    assert "Battery" not in client.get("/sites/lyon?part=1").text


def test_a_site_that_a_placement_emptied_is_up_and_one_that_lacks_its_engines_is_not(
    client: TestClient, league: FakeLeague
) -> None:
    league.emptied.add("lyon")
    league.bare.add("london")
    league.tick()
    states = {site["id"]: site["state"] for site in client.get("/api/view.json").json()["sites"]}
    assert (states["lyon"], states["london"]) == ("up", "degraded")
    assert "none placed here" in client.get("/sites/lyon?part=1").text


def test_a_site_never_heard_says_so(rng: np.random.Generator) -> None:
    with TestClient(make_app(FakeLeague(rng)), HERE) as client:
        assert "no report yet" in client.get("/").text
        assert "No report yet" in client.get("/sites/lyon").text
        assert "No request yet" in client.get("/").text


def test_health_is_answered_while_the_hub_is_lost(client: TestClient, league: FakeLeague) -> None:
    league.state.hub_up = False
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "at_s": league.now_s, "hub_up": False}
    assert "Hub lost" in client.get("/").text


def test_static_files_are_revalidated_and_vendored_ones_kept(client: TestClient) -> None:
    own = client.get("/static/hanse.css")
    assert own.headers["cache-control"] == "no-cache"
    again = client.get("/static/hanse.css", headers={"if-none-match": own.headers["etag"]})
    assert again.status_code == 304
    lasting = client.get("/static/vendor/d3-geo-3.1.2.min.js")
    assert "immutable" in lasting.headers["cache-control"]
    assert client.get("/static/../app.py").status_code == 404


def test_every_file_the_page_asks_for_exists(client: TestClient) -> None:
    wanted = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', client.get("/").text))
    wanted |= set(re.findall(r'"(/static/[^"]+)"', (STATIC / "map.js").read_text()))
    assert len(wanted) >= 8
    for path in wanted:
        assert client.get(path).status_code == 200, path


def test_vendored_files_are_what_the_list_says_and_have_their_licence() -> None:
    listed = dict(
        re.findall(
            r"^\| `([^`]+)` .*`([0-9a-f]{64})` \|$", (STATIC / "VENDORED.md").read_text(), re.M
        )
    )
    files = {path.name for path in (STATIC / "vendor").iterdir()}
    assert files == set(listed) | {name for name in files if name.endswith(".LICENSE.txt")}
    for name, digest in listed.items():
        assert hashlib.sha256((STATIC / "vendor" / name).read_bytes()).hexdigest() == digest
        stem = re.match(r"[a-z0-9-]+?-\d+\.\d+\.\d+", name)
        assert stem is not None
        assert f"{stem.group()}.LICENSE.txt" in files


def test_nothing_can_be_changed_through_the_dashboard(client: TestClient) -> None:
    for path in ("/", "/api/view.json", "/api/stream", "/sites/lyon", "/static/hanse.css"):
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            assert client.request(method, path).status_code == 405, (method, path)


def test_history_keeps_the_last_minutes_and_shows_silence_as_a_gap(league: FakeLeague) -> None:
    history = History()
    for number in range(POINTS_MAX + 20):
        if number == POINTS_MAX:
            league.silent.add("london")
        league.tick(2.0)
        history.add(league.snapshot())
        history.add(league.snapshot())
    courses = history.courses()
    by_site = {course.site: course for course in courses.sites}
    assert len(courses.at_s) == POINTS_MAX
    assert list(courses.at_s) == sorted(set(courses.at_s))
    assert len(by_site) == min(SITES_MAX, len(league.fleet.sites))
    assert by_site["london"].load[-1] is None
    assert by_site["london"].load[0] is not None
    assert by_site["lyon"].carbon_g_per_kwh[-1] is not None


def test_history_is_recorded_from_the_start(client: TestClient) -> None:
    courses = msgspec.json.decode(client.get("/api/history.json").content, type=Courses)
    assert courses.at_s[0] >= BEGIN_S


@pytest.mark.parametrize(
    ("a_to_b", "b_to_a", "state"),
    [
        ("open", "open", "open"),
        ("cut", "open", "one-way"),
        ("open", "cut", "one-way"),
        ("cut", "cut", "cut"),
    ],
)
def test_a_link_is_open_one_way_or_cut(a_to_b: str, b_to_a: str, state: str) -> None:
    link = LinkStatus(a="x", b="y", rtt_ms=1, mbit_s=1, a_to_b=a_to_b, b_to_a=b_to_a)  # type: ignore[arg-type]
    assert link_state(link) == state


def test_a_one_way_link_says_which_way_is_left(client: TestClient, league: FakeLeague) -> None:
    league.cut("london", "lyon", one_way=True)
    text = client.get("/").text
    row = text[text.index(f'data-testid="row-link-{link_id("lyon", "london")}"') :][:300]
    assert "only lyon → london" in row


def test_reasons_are_words_and_the_fleets_own_texts_come_first() -> None:
    assert "full" in reason_text("ROOM", {})
    assert reason_text("no_room", {}) == reason_text("ROOM", {})
    assert reason_text("ROOM", {"ROOM": "ours"}) == "ours"
    assert reason_text("X-1", {}) == "A rule of this fleet's policy"
    assert "without" in reason_text("", {})
    assert reason_text("hanse:no-rule~2", {}) == reason_text("hanse:no-rule", {})
    assert reason_text("A~2", {"A": "first", "A~2": "second"}) == "second"


def test_texts_that_come_later_are_shown(league: FakeLeague) -> None:
    texts: dict[str, str] = {}
    with TestClient(make_app(league, rule_texts=texts), HERE) as client:
        assert "told late" not in client.get("/").text
        texts["GDPR-V"] = "told late"
        assert "told late" in client.get("/").text


def test_what_law_bars_from_one_big_site_is_listed_by_rule(
    client: TestClient, league: FakeLeague
) -> None:
    barred = CentralVerdict(outcome="refused", rules=("SOME-ACT",))
    for _ in range(150):
        league.serve("tallinn", "lyon", central=barred)
    text = client.get("/").text
    row = text[text.index('data-testid="barred-SOME-ACT"') :]
    assert '<td class="num">150</td>' in row[: row.index("</tr>")]


def test_links_to_the_hub_come_last(client: TestClient, league: FakeLeague) -> None:
    hub = LinkStatus(a="hub", b="lyon", rtt_ms=88, mbit_s=1000)
    league.state.links = (hub, *league.state.links)
    listed = re.findall(r'data-testid="row-link-([^"]+)"', client.get("/").text)
    assert listed[-1] == "hub~lyon"
    assert len(listed) == len(league.state.links)
