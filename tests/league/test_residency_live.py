"""500 requests over the running league: nothing is read or executed where Cedar denies, everything is proven.

Real processes and real engines in one variant; in the other, mock engines behind the same gateways, agents and
links note every body they got, so that not even the evidence has to be believed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hanse.live.evidence import audit, verify_receipt
from hanse.live.evidence.chain import Decided, Executed
from hanse.live.lawcheck import law_check_of
from hanse.model.read import read_fleet
from hanse.view import link_id
from league.cedar_oracle import CedarOracle
from league.harness import Answer, League, running
from league.mock_fleet import MockFleet
from league.small_fleet import SITES, TENANTS, fleet_text

REQUESTS = 500
AT_ONCE = 8
"""One site's queue: with one site lost the others always have room."""
OUTAGE_EVERY = 50
QUIET_S = 3.0
"""Chains are sealed each second; then nothing is unsealed any more."""


@dataclass
class Sent:
    """One request and what came back."""

    number: int
    entry: str
    tenant: str
    data_class: str
    country: str
    answer: Answer


def send_all(league: League, rng: np.random.Generator, outage: Callable[[int], None]) -> list[Sent]:
    """Random tenants, classes, countries and entries, some at once, with outages between them."""
    keys = [row for row in TENANTS if row[0] != "slowly"]
    going: list[tuple[Sent, Future[Answer]]] = []
    done: list[Sent] = []
    for number in range(REQUESTS):
        if number % OUTAGE_EVERY == OUTAGE_EVERY - 1:
            outage(number // OUTAGE_EVERY)
        tenant, classes, _, _, countries, *_ = keys[int(rng.integers(len(keys)))]
        data_class, country = str(rng.choice(classes)), str(rng.choice(countries))
        entry = str(rng.choice(SITES))
        future = league.ask_later(
            entry,
            f"r-{number:04d}",
            key=tenant,
            data_class=data_class,
            country=country,
            stream=bool(rng.random() < 0.3),
        )
        going.append((Sent(number, entry, tenant, data_class, country, Answer(0)), future))
        if len(going) >= AT_ONCE:
            done.append(_finish(*going.pop(0)))
    return done + [_finish(*one) for one in going]


def _finish(sent: Sent, future: Future[Answer]) -> Sent:
    sent.answer = future.result(180)
    return sent


def oracle_of(league: League) -> CedarOracle:
    return CedarOracle(read_fleet(league.state.fleet_toml), (), time.time())


def check_answers(oracle: CedarOracle, sent: list[Sent]) -> Counter[str]:
    """Each answer is one that law and outages allow, and each refusal by law names Cedar's rules."""
    counts: Counter[str] = Counter()
    for one in sent:
        who = (one.tenant, one.data_class, one.country)
        answer = one.answer
        counts[str(answer.status)] += 1
        denying = {site: oracle.denying(*who, site) for site in SITES}
        if answer.status in (421, 451):
            assert answer.rules, (one, "names no rule")
            named = {rule.partition("~")[0] for rule in answer.rules}
            assert named <= {r.partition("~")[0] for rules in denying.values() for r in rules}, one
        if answer.status == 421:
            assert denying[one.entry], (one, "was turned away from a lawful entry")
            gateway = answer.json["error"]["hanse"]["gateway"]
            assert not denying[gateway["site"]], (one, "was sent to an unlawful entry")
        elif answer.status == 451:
            assert all(denying.values()) or denying[one.entry], one
        elif answer.status == 200:
            assert not denying[one.entry], (one, "was read where Cedar denies")
            assert not denying[answer.site], (one, "was executed where Cedar denies")
            assert not answer.lines or answer.done or answer.broken, one
        else:
            # One engine and one link of its site are faulty at a time: only a request that no other site may take can fail.
            assert answer.status in (502, 503, 504), one
            assert sum(not rules for rules in denying.values()) == 1, (answer.body, one)
    return counts


def check_evidence(league: League, oracle: CedarOracle) -> int:
    """Every site that the chains say was entrusted with a request; how many there were."""
    trusted = 0
    for request_id, held in league.records().items():
        for _, r in held:
            sites: set[str] = set()
            if (isinstance(r, Decided) and not r.refusal) or (isinstance(r, Executed) and r.engine):
                sites = {r.entry_site, r.site}
            for site in sites:
                assert oracle.allows(r.tenant, r.data_class, r.country, site), (request_id, site)
                trusted += 1
    return trusted


def check_receipts(league: League, sent: list[Sent], count: int) -> int:
    """Receipts of answered requests verify with nothing but the document and the CA certificate."""
    ca = league.ca()
    answered = [one for one in sent if one.answer.status == 200 and not one.answer.broken]
    for one in answered[:: max(1, len(answered) // count)]:
        got = league.receipt(one.entry, one.answer.request_id, key=one.tenant)
        assert got.status == 200, (got.code, got.body, one)
        verdict = verify_receipt(got.body, ca)
        assert verdict.status == "proven", (one, verdict)
        assert verdict.request_id == one.answer.request_id
    return len(answered)


def audit_command(state: Path) -> tuple[int, str]:
    """`hanse audit` as a person runs it: exit code and what it printed."""
    program = "import sys; from hanse.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", program, "audit", str(state)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return ran.returncode, ran.stdout + ran.stderr


def outages_of(league: League) -> Callable[[int], None]:
    """A different fault at each call, the one before it mended and recovered from."""

    def outage(turn: int) -> None:
        league.heal_all()
        league.wait_until_whole()
        what = turn % 5
        running = [site for site in SITES if league.engine(site).pid]
        if what == 0:
            league.engine(running[turn % len(running)]).kill()
        elif what == 1:
            league.links.cut(link_id("frankfurt", "lyon"))
        elif what == 2:
            league.engine(running[turn % len(running)]).freeze()
        elif what == 3:
            league.links.cut(link_id("london", "virginia"))
        else:
            league.links.fault(link_id("frankfurt", "london"), "reset")

    return outage


@pytest.mark.long
def test_500_requests_over_the_league_are_lawful_and_proven(league: League, seed: int) -> None:
    since_s = time.monotonic()
    sent = send_all(league, np.random.default_rng([seed, 500]), outages_of(league))
    sent_s = time.monotonic() - since_s
    league.heal_all()
    league.wait_until_whole()
    oracle = oracle_of(league)
    counts = check_answers(oracle, sent)
    trusted = check_evidence(league, oracle)
    answered = check_receipts(league, sent, 40)
    print(f"seed {seed}: {REQUESTS} requests in {sent_s:.0f} s, {dict(sorted(counts.items()))}")
    print(f"{trusted} entrustments lawful, {answered} answered, 40 receipts verified")
    assert sum(counts.values()) == REQUESTS
    assert counts["200"] > REQUESTS // 4
    assert counts["421"] > 20
    assert counts["451"] > 20
    check_audit(league)
    check_tampering(league, seed)


def check_audit(league: League) -> None:
    """All that is in the logs once nothing runs: proven or denied, never unproven."""
    time.sleep(QUIET_S)
    report = audit(league.state.path, league.ca(), law=law_check_of(league.state))
    for request in report.unproven_requests[:10]:
        print(f"UNPROVEN {request.request_id}: {request.reasons}")
    print(f"audit: {report.proven} proven, {report.denied} denied, {report.unproven} unproven")
    assert report.findings == ()
    assert report.unproven == 0
    assert report.proven > 100
    assert report.denied > 40


def check_tampering(league: League, seed: int) -> None:
    """Copies of the state, each altered in one way; `hanse audit` finds every one."""
    code, said = audit_command(_copy(league, "untouched"))
    assert code == 0, said
    for name, alter in ALTERATIONS.items():
        copy = _copy(league, name)
        alter(copy)
        code, said = audit_command(copy)
        assert code == 1, (name, said)
        assert "FOUND" in said or "UNPROVEN" in said, (name, said)
        found = next(line for line in said.splitlines() if line.startswith(("FOUND", "UNPROVEN")))
        print(f"{name}: {found[:140]}")


def _copy(league: League, name: str) -> Path:
    """What an auditor gets: evidence, certificates, fleet file."""
    copy = league.root / f"copy-{name}"
    for part in ("ca/ca.pem", "fleet.toml", "runtime.json", "keys.json"):
        (copy / part).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(league.state.path / part, copy / part)
    for site in SITES:
        shutil.copytree(league.state.site(site) / "evidence", copy / "sites" / site / "evidence")
        for table in league.state.site(site).glob("table-*.tbl"):
            shutil.copy(table, copy / "sites" / site / table.name)
    return copy


def _longest_chain(copy: Path) -> Path:
    return max(copy.glob("sites/*/evidence/*-*-*.log"), key=lambda path: path.stat().st_size)


def _cut_off(copy: Path) -> None:
    path = _longest_chain(copy)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


def _flip(copy: Path) -> None:
    path = _longest_chain(copy)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _delete(copy: Path) -> None:
    _longest_chain(copy).unlink()


def _unseal(copy: Path) -> None:
    path = _longest_chain(copy).parent / "seals.log"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


ALTERATIONS: dict[str, Callable[[Path], None]] = {
    "cut off": _cut_off,
    "one bit flipped": _flip,
    "chain deleted": _delete,
    "seals cut off": _unseal,
}


@pytest.fixture(scope="module")
def watched() -> Iterator[tuple[League, MockFleet]]:
    """A league whose engines note every body."""
    with MockFleet(SITES) as mocks:
        text = fleet_text(external=mocks.urls, slots=8, deadline_s=10)
        with running(text) as league:
            league.wait_until_whole()
            print(f"league with mock engines ready in {league.start_s:.1f} s")
            yield league, mocks


@pytest.mark.long
def test_no_engine_gets_a_body_that_cedar_denies_its_site(
    watched: tuple[League, MockFleet], seed: int
) -> None:
    league, mocks = watched
    since_s = time.monotonic()
    sent = send_all(league, np.random.default_rng([seed, 501]), _mock_outages(league, mocks))
    sent_s = time.monotonic() - since_s
    league.heal_all()
    mocks.all_well()
    league.wait_until_whole()
    oracle = oracle_of(league)
    counts = check_answers(oracle, sent)
    asked = {f"r-{one.number:04d}": one for one in sent}
    bodies = 0
    for site in SITES:
        for body in mocks.bodies(site):
            one = asked[json.loads(body)["messages"][0]["content"]]
            who = (one.tenant, one.data_class, one.country)
            assert oracle.allows(*who, site), (one, f"was read by the engine of {site}")
            bodies += 1
    print(f"seed {seed}: {REQUESTS} requests in {sent_s:.0f} s, {dict(sorted(counts.items()))}")
    print(f"{bodies} bodies read by engines, {check_evidence(league, oracle)} entrustments lawful")
    assert bodies >= counts["200"]
    assert counts["200"] > REQUESTS // 4
    check_receipts(league, sent, 40)
    check_audit(league)


def _mock_outages(league: League, mocks: MockFleet) -> Callable[[int], None]:
    def outage(turn: int) -> None:
        league.heal_all()
        mocks.all_well()
        league.wait_until_whole()
        site = SITES[turn % len(SITES)]
        mode = ("frozen", "error", "cut", "hang", "cut_mid")[turn % 5]
        mocks.behave(site, mode)
        if turn % 2:
            league.links.cut(link_id(SITES[turn % 4], SITES[(turn + 1) % 4]))

    return outage
