"""Statements: add up over tenants and parts of a month, in whatever order records came, and what is forged or missing shows."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import random
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError
from hanse.live.ca import ensure_identity
from hanse.live.evidence import EvidenceCopy, verify_receipt
from hanse.live.evidence.audit import Logs, read_logs
from hanse.live.evidence.chain import Metered
from hanse.live.evidence.judge import Found, Subject
from hanse.live.evidence.shipping import ChainShipper
from hanse.live.evidence.statement import (
    FATES,
    MARGIN_S,
    Period,
    Stated,
    Statement,
    statements,
)
from hanse.live.evidence.statement_files import (
    check_statement,
    csv_of,
    document_of,
    html_of,
    list_of,
    read_list,
    receipt_flaw,
    stem_of,
    write_files,
)
from hanse.live.runtime import HUB
from live.evidence.logbook import NOW_S, Desk, League, request_id

COUNTRIES = {"tallinn": "EE", "riga": "LV"}
DAY_S = 86_400.0
TENANTS = ("clinic", "shop", "=bad", "city")
ALL = Period(NOW_S - DAY_S, NOW_S + 20 * DAY_S)
LATER_S = ALL.until_s + 3600.0


class Month(League):
    """Requests of several tenants over a month."""

    def riga_sealed_s(self) -> float:
        return NOW_S + DAY_S + 1.0

    def one(self, number: int, kind: str, tenant: str, rng: random.Random) -> None:
        """Whatever becomes of a request."""
        mine = {"tenant": tenant}
        entry, other = self.tallinn.writer, self.riga.writer
        site = "tallinn" if kind in ("local", "open", "silent", "cancelled") else "riga"
        if kind == "refused":
            entry.append(
                self.decided(
                    number,
                    site="",
                    variant="",
                    refusal="no_eligible_site",
                    rules=("gdpr-44",),
                    **mine,
                )
            )
            return
        if kind == "no room":
            entry.append(self.decided(number, site="", variant="", refusal="no_room", **mine))
            return
        entry.append(self.decided(number, site=site, **mine))
        if kind != "silent":
            (entry if site == "tallinn" else other).append(self.executed(number, site=site, **mine))
        if kind == "open":
            return
        figures = {
            "energy_wh": rng.random(), "carbon_g": rng.random(), "cost_usd": rng.random() / 1e4,
            "tokens_in": rng.randrange(5000), "tokens_out": rng.randrange(900),
            "method": rng.choice(["measured", "estimated", "modelled"]),
            "outcome": "cancelled" if kind == "cancelled" else rng.choice(["answered", "answered", "broken"]),
        }  # fmt: skip
        if site == "riga":
            other.append(self.ended(number, role="serving", **figures))
        entry.append(self.ended(number, role="entry", **figures))


KINDS = ("local", "forwarded", "refused", "no room", "open", "silent", "cancelled")


def month(folder: Path, rng: random.Random, count: int, days: float = 15.0) -> Month:
    made = Month(folder)
    for number in range(count):
        made.one(number, rng.choice(KINDS), rng.choice(TENANTS[:3]), rng)
        if rng.random() < 0.3:
            made.now_s += rng.random() * days * DAY_S / count
            made.seal()
    made.now_s = LATER_S
    made.seal()
    return made


def read(month: League, period: Period = ALL, root: Path | None = None) -> Logs:
    return read_logs(
        root or month.state_dir, month.authority_pem, keep=lambda r: period.keeps(r.at_s)
    )


def stated(
    logs: Logs, period: Period = ALL, now_s: float = LATER_S, law: object = None
) -> dict[str, Stated]:
    return statements(
        logs, period, fleet="league", countries=COUNTRIES, tenants=TENANTS, law=law, now_s=now_s  # type: ignore[arg-type]
    )  # fmt: skip


COUNTS = ("requests", "tokens_in", "tokens_out")
LAW = ("lawful", "refused_by_law", "refused_otherwise", "unproven", "against_law")


def figures(s: Statement) -> dict[str, float]:
    """All that adds up."""
    made: dict[str, float] = {name: getattr(s, name) for name in COUNTS}
    made["cost_usd"] = s.cost_usd
    made |= {f"fate {k}": v for k, v in s.fates.items()}
    made |= {f"wh {k}": v for k, v in s.energy_wh.items()}
    made |= {f"carbon {k}": v for k, v in msgspec.structs.asdict(s.carbon).items()}
    made |= {f"law {k}": getattr(s.residency, k) for k in LAW}
    made |= {f"rule {k}": v for k, v in s.residency.rules.items()}
    for place in s.places:
        for name in ("requests", "tokens_in", "tokens_out", "carbon_location_g", "cost_usd"):
            made[f"place {place.site} {name}"] = getattr(place, name)
        for method, wh in place.energy_wh.items():
            made[f"place {place.site} wh {method}"] = wh
    return made


def assert_adds_up(parts: list[Statement], whole: Statement) -> None:
    total = figures(whole)
    found = [figures(part) for part in parts]
    assert {name for one in found for name, value in one.items() if value} <= set(total)
    for name, value in total.items():
        added = math.fsum(one.get(name, 0.0) for one in found)
        assert added == pytest.approx(value, rel=1e-12, abs=1e-12), name


SLOW = settings(
    max_examples=effort(15),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@SLOW
@given(turn=st.integers(0, 10**6), count=st.integers(0, 60))
def test_statements_of_all_tenants_add_up_to_the_total(tmp_path, turn: int, count: int) -> None:
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    made = month(tmp_path / "a", random.Random(turn), count)
    of = stated(read(made))
    made.close()
    whole = of.pop("").statement
    assert whole.requests == count
    assert_adds_up([one.statement for one in of.values()], whole)
    assert sum(whole.fates.values()) == count
    law = whole.residency
    assert law.lawful + law.refused_by_law + law.refused_otherwise + law.unproven == count


@SLOW
@given(turn=st.integers(0, 10**6), cuts=st.lists(st.floats(0.0, 1.0), max_size=4))
def test_parts_of_a_month_add_up_to_the_month(tmp_path, turn: int, cuts: list[float]) -> None:
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    made = month(tmp_path / "a", random.Random(turn), 40)
    span_s = ALL.until_s - ALL.from_s
    edges = [ALL.from_s, *sorted(ALL.from_s + cut * span_s for cut in cuts), ALL.until_s]
    whole = {name: one.statement for name, one in stated(read(made)).items()}
    parts = [
        {name: one.statement for name, one in stated(read(made, p), p).items()}
        for p in (Period(a, b) for a, b in itertools.pairwise(edges))
    ]
    made.close()
    for name, one in whole.items():
        assert_adds_up([part[name] for part in parts if name in part], one)


@SLOW
@given(turn=st.integers(0, 10**6))
def test_the_order_in_which_records_arrived_changes_no_digit(tmp_path, turn: int) -> None:
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    shutil.rmtree(tmp_path / "hub", ignore_errors=True)
    rng = random.Random(turn)
    made = month(tmp_path / "a", rng, 40)
    at_sites = stated(read(made))
    # Sites' messages reach the hub interleaved at will, some of them twice.
    copy = EvidenceCopy(tmp_path / "hub")
    queues = []
    for desk in made.desks:
        shipper, sent = ChainShipper(desk.directory), 0
        messages: list[bytes] = []
        while more := shipper.pending(sent):
            messages += more
            sent += len(more)
        queues.append((desk.site, messages))
    while queues:
        site, messages = rng.choice(queues)
        outcome = copy.accept(messages[0], site).outcome
        assert outcome in ("stored", "known")
        if rng.random() < 0.8:
            messages.pop(0)
        queues = [q for q in queues if q[1]]
    at_hub = stated(read(made, root=tmp_path / "hub"))
    logs = read(made)
    shuffled = list(logs.requests.items())
    rng.shuffle(shuffled)
    mixed = {k: rng.sample(v, len(v)) for k, v in shuffled}
    again = stated(logs._replace(requests=mixed))
    made.close()
    assert at_hub == at_sites == again


# --- what a statement says ------------------------------------------------------------------------


@pytest.fixture
def league(tmp_path: Path) -> Iterator[Month]:
    made = Month(tmp_path)
    yield made
    made.close()


def end_month(league: League) -> None:
    league.now_s = LATER_S
    league.seal()


def test_places_are_where_engines_had_it(league: Month) -> None:
    league.local(1)
    league.forwarded(2)
    league.retried(3)
    league.refused(4)
    end_month(league)
    s = stated(read(league))["clinic"].statement
    assert [(p.country, p.site, p.requests) for p in s.places] == [
        ("EE", "tallinn", 2),
        ("LV", "riga", 1),
    ]
    assert s.fates == dict.fromkeys(FATES, 0) | {"answered": 3, "refused": 1}
    assert (s.tokens_in, s.tokens_out) == (36, 21)
    assert s.energy_wh == {"modelled": pytest.approx(0.03)}
    assert s.energy_error_share == {"modelled": 0.35}
    assert s.residency.lawful == 3
    assert s.residency.refused_by_law == 1
    assert s.residency.rules == {"gdpr-44": 1, "health-host": 1}
    assert s.complete, s.missing
    assert s.missing == ()


def test_another_sites_word_of_an_entry_takes_no_request_off_a_bill(league: Month) -> None:
    league.local(1)
    league.local(2)
    lie = league.riga.writer
    lie.append(league.decided(1, entry_site="aaa", tenant="shop", site="riga"))
    lie.append(league.decided(2, entry_site="tallinn", tenant="a", site="riga", attempt=0))
    end_month(league)
    of = stated(read(league))
    clinic = of["clinic"].statement
    assert (clinic.requests, clinic.fates["answered"], clinic.complete) == (2, 2, True)
    assert clinic.energy_wh == {"modelled": pytest.approx(0.02)}
    assert "a" not in of
    assert of["shop"].statement.requests == 0
    receipt = league.receipt(1, league.tallinn, league.riga)
    assert receipt_flaw(clinic, of["clinic"].leaves, receipt) == ""


def test_a_request_that_two_entries_or_tenants_claim_is_told_to_each(league: Month) -> None:
    league.local(1)
    league.local(2)
    league.riga.writer.append(league.decided(1, entry_site="riga", tenant="shop", site="riga"))
    league.tallinn.writer.append(league.decided(2, tenant="../city", attempt=2, site="tallinn"))
    end_month(league)
    of = stated(read(league))
    for tenant, count in (("", 2), ("clinic", 2), ("shop", 1), ("../city", 1)):
        s = of[tenant].statement
        assert not s.complete
        assert f"{count} requests are claimed by several" in " ".join(s.missing)
    assert of["city"].statement.complete
    assert stem_of(of["city"].statement, "2026-01") == "statement-city-2026-01"
    assert "/" not in stem_of(of["../city"].statement, "2026-01")


def test_charges_are_what_the_receipt_says(league: Month) -> None:
    league.forwarded(1)
    end_month(league)
    s = stated(read(league))["clinic"].statement
    receipt = league.receipt(1, league.tallinn, league.riga)
    shown = verify_receipt(receipt, league.authority_pem).records
    (end,) = [r.fields for r in shown if r.kind == "ended" and r.fields["role"] == "entry"]
    assert s.energy_wh == {end["method"]: end["energy_wh"]}
    assert s.carbon.location_g == end["carbon_g"]
    assert s.cost_usd == end["cost_usd"]
    assert (s.tokens_in, s.tokens_out) == (end["tokens_in"], end["tokens_out"])


def test_what_the_law_bars_today_is_told_as_such(league: Month) -> None:
    league.local(1)
    league.forwarded(2)
    end_month(league)

    def law(who: Subject, site: str, table: int) -> bool:
        return site != "riga"

    residency = stated(read(league), law=law)["clinic"].statement.residency
    assert (residency.lawful, residency.unproven, residency.against_law) == (1, 1, 1)
    (reason,) = residency.reasons
    assert "bars site riga" in reason


def quarter(site: str, start_s: float, market: float | None, marginal: float | None) -> Metered:
    return Metered(
        at_s=start_s + 1800, site=site, start_s=start_s, until_s=start_s + 900, seen_s=900.0, drawn_wh=1.0,
        drawn_method="measured", drawn_error_share=0.02, it_wh=1.0, it_method="measured", it_error_share=0.02,
        requests=1, requests_wh={}, requests_it_wh=0.0, idle_wh=1.0, overhead_wh=0.0, others_wh=0.0, missing_wh=0.0,
        excess_wh=0.0, carbon_g_per_kwh=100.0, market_g_per_kwh=market, marginal_g_per_kwh=marginal,
        price_usd_per_kwh=0.1,
    )  # fmt: skip


def test_market_and_marginal_carbon_stand_apart_and_say_what_is_unknown(league: Month) -> None:
    league.local(1)
    league.forwarded(2)
    end_month(league)
    start_s = NOW_S // 900 * 900
    logs = read(league)._replace(quarters=(quarter("tallinn", start_s, 500.0, None),))
    carbon = stated(logs)["clinic"].statement.carbon
    assert carbon.location_g == pytest.approx(0.004)
    assert carbon.market_g == pytest.approx(0.01 * 0.5)
    assert carbon.market_unknown_wh == pytest.approx(0.01)
    assert (carbon.marginal_g, carbon.marginal_unknown_wh) == (0.0, pytest.approx(0.02))


# --- what is missing ------------------------------------------------------------------------------


def test_a_site_that_is_cut_off_and_a_month_that_is_not_over_are_told(league: Month) -> None:
    league.local(1)
    league.forwarded(2)
    league.now_s = NOW_S + DAY_S
    league.seal()
    now_s = NOW_S + 2 * DAY_S
    league.now_s = now_s
    league.tallinn.sealer.seal(now_s)
    s = stated(read(league), now_s=now_s)["clinic"].statement
    assert not s.complete
    assert s.missing == (
        "the period is not over",
        f"site riga: its log here ends {now_s - league.riga_sealed_s():.0f} s before the period does",
    )
    shutil.rmtree(league.riga.directory)
    s = stated(read(league), now_s=now_s)["clinic"].statement
    assert "site riga: no log of it here" in s.missing
    assert s.residency.unproven == 1


def test_a_request_without_an_end_is_charged_nothing_and_told(league: Month) -> None:
    league.one(1, "open", "clinic", random.Random(1))
    end_month(league)
    s = stated(read(league))["clinic"].statement
    assert s.fates["unfinished"] == 1
    assert s.energy_wh == {}
    assert s.missing == ("1 requests have no end here: nothing is charged for them",)


@pytest.mark.parametrize("harm", ["flip", "cut", "remove", "forge"])
def test_a_forged_or_missing_record_is_found(league: Month, harm: str) -> None:
    for number in range(6):
        league.forwarded(number)
        league.seal()
    end_month(league)
    honest = stated(read(league))["clinic"].statement
    assert honest.complete
    path = league.riga.directory / f"{league.riga.writer.chain}.log"
    data = bytearray(path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    elif harm == "cut":
        del data[len(data) // 2 :]
    if harm in ("flip", "cut"):
        path.write_bytes(data)
    elif harm == "remove":
        path.unlink()
    else:  # rewritten as a whole, hashes recomputed to fit
        league.riga.writer.close()
        path.unlink()
        writer = league.riga.boot.__func__  # the same chain name again
        league.riga.boots -= 1
        writer(league.riga)
        for number in range(6):
            league.riga.writer.append(league.executed(number, site="riga"))
            league.riga.writer.append(league.ended(number, role="serving", energy_wh=5.0))
    s = stated(read(league))["clinic"].statement
    assert not s.complete
    assert any(sentence.startswith("site riga: chain ") for sentence in s.missing)
    assert s.residency.unproven > 0


def test_a_request_taken_out_or_put_in_moves_the_root(league: Month) -> None:
    for number in range(5):
        league.local(number)
    end_month(league)
    logs = read(league)
    root = stated(logs)["clinic"].statement.receipts_root
    for gone in logs.requests:
        fewer = {k: v for k, v in logs.requests.items() if k != gone}
        assert stated(logs._replace(requests=fewer))["clinic"].statement.receipts_root != root
    some = next(iter(logs.requests.values()))
    changed = [Found(f.site, f.record, f.flaw, bytes(32)) for f in some]
    other = dict(logs.requests) | {request_id(99): changed}
    assert stated(logs._replace(requests=other))["clinic"].statement.receipts_root != root


# --- files and receipts ---------------------------------------------------------------------------


@pytest.fixture
def signed(league: Month, tmp_path: Path) -> tuple[Month, Stated, bytes]:
    for number in range(4):
        league.forwarded(number)
    league.refused(9)
    end_month(league)
    made = stated(read(league))["clinic"]
    hub = ensure_identity(tmp_path, "league", HUB, NOW_S)
    return league, made, document_of(made.statement, hub, NOW_S)


def test_a_single_receipt_is_found_in_the_statement(signed: tuple[Month, Stated, bytes]) -> None:
    league, made, document = signed
    checked = check_statement(document, league.authority_pem)
    assert checked == (made.statement, ())
    leaves = read_list(list_of(made.leaves))
    for number in range(4):
        for desks in ((league.tallinn, league.riga), (league.tallinn,)):
            assert receipt_flaw(checked.statement, leaves, league.receipt(number, *desks)) == ""
    assert receipt_flaw(checked.statement, leaves, league.receipt(9, league.tallinn)) == ""


def test_receipts_and_lists_that_do_not_belong_are_told(
    signed: tuple[Month, Stated, bytes],
) -> None:
    league, made, _ = signed
    leaves = list(made.leaves)
    receipt = league.receipt(1, league.tallinn, league.riga)
    assert "root" in receipt_flaw(made.statement, leaves[1:], receipt)
    league.local(77)
    league.seal()
    strange = league.receipt(77, league.tallinn)
    assert receipt_flaw(made.statement, leaves, strange) == "the request is not in this statement"
    read = json.loads(receipt)
    read["parts"][0]["records"].pop()
    early = json.dumps(read).encode()
    assert "not those that were counted" in receipt_flaw(made.statement, leaves, early)
    assert "not a receipt" in receipt_flaw(made.statement, leaves, b"{}")
    with pytest.raises(ConfigError):
        read_list("abc\n")


@pytest.mark.parametrize("field", ["requests", "cost_usd", "receipts_root", "tenant"])
def test_a_changed_statement_is_not_the_hubs(
    signed: tuple[Month, Stated, bytes], field: str
) -> None:
    league, _, document = signed
    read = json.loads(document)
    old = read["said"]["statement"][field]
    read["said"]["statement"][field] = old + ("x" if isinstance(old, str) else 1)
    checked = check_statement(json.dumps(read).encode(), league.authority_pem)
    assert checked.flaws == ("the signature does not fit: it was changed",)


def test_only_the_hub_signs_statements(signed: tuple[Month, Stated, bytes], tmp_path: Path) -> None:
    league, made, document = signed
    by_site = document_of(made.statement, league.riga.identity, NOW_S)
    (flaw,) = check_statement(by_site, league.authority_pem).flaws
    assert "not the hub" in flaw
    unsigned = document_of(made.statement, None, NOW_S)
    assert check_statement(unsigned, league.authority_pem).flaws == ("nobody signed it",)
    other = Desk(tmp_path / "other", "riga")
    other.close()
    pem = (tmp_path / "other" / "ca" / "ca.pem").read_bytes()
    assert check_statement(document, pem).flaws
    with pytest.raises(ConfigError):
        check_statement(b"[]", league.authority_pem)


class Page(HTMLParser):
    """What a page loads, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


def test_csv_and_page_say_what_the_statement_says(league: Month, tmp_path: Path) -> None:
    league.local(1)
    league.one(2, "open", "=bad", random.Random(1))
    league.refused(3)
    end_month(league)
    made = stated(read(league))
    paths = write_files(tmp_path / "out", "statement-clinic", made["clinic"], None, NOW_S)
    assert [p.suffix for p in paths] == [".json", ".csv", ".html", ".receipts"]
    assert all(p.stat().st_mode & 0o77 == 0 for p in paths)
    s = made["clinic"].statement
    rows = list(csv.DictReader(io.StringIO(csv_of(s))))
    value = {(r["kind"], r["name"], r["quantity"], r["method"]): r["value"] for r in rows}
    assert value["total", "clinic", "requests", ""] == "2"
    assert (
        float(value["place", "tallinn", "energy", "modelled"]) == s.places[0].energy_wh["modelled"]
    )
    assert value["receipts", "clinic", "root", "RFC 9162"] == s.receipts_root
    assert value["rule", "gdpr-44", "refused", ""] == "1"
    bad = csv_of(made["=bad"].statement)
    assert ",'=bad," in bad
    assert ",=bad," not in bad
    page = Page(html_of(made["=bad"].statement))
    assert page.links == []
    assert "script" not in page.tags
    assert "Not complete" in page.words
    assert s.receipts_root in Page(html_of(s)).words
    wild = msgspec.structs.replace(s, tenant="<script>alert(1)</script>")
    assert "script" not in Page(html_of(wild)).tags


def test_records_a_day_apart_are_still_one_request() -> None:
    period = Period(0.0, 10.0)
    assert period.keeps(-MARGIN_S)
    assert not period.keeps(10.0 + MARGIN_S)
