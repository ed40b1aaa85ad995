"""No request is read or executed where Cedar, asked anew, says no: 10,000 random requests on the decision core."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from hanse.dispatch.law import LAW_OUTLIVES
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.reasons import Reason
from hanse.dispatch.table import Table
from hanse.model.fleet import Fleet
from league.cedar_oracle import OWN_RULES, CedarOracle
from league.core_league import Ask, Came, CoreLeague, CoreSite
from league.random_fleets import UNKNOWN_COUNTRIES, country, random_fleet, random_policies

FLEETS = 40
REQUESTS_A_FLEET = 250
NOW_S = 1_780_000_000.0  # 2026-05-28; adequacy decisions with a sunset are judged at this instant

Findings = list[str]


class Judge:
    """Compares what happened with what Cedar says under the policies that each site's table was made from."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._oracles: dict[tuple[PolicyText, ...], CedarOracle] = {}
        self.counts: Counter[str] = Counter()
        self.findings: Findings = []

    def oracle(self, policies: tuple[PolicyText, ...]) -> CedarOracle:
        if policies not in self._oracles:
            # A table is valid for a while: what ends before its last user has expired does not count.
            at_s = NOW_S + LAW_OUTLIVES * self._fleet.policy.valid_s
            self._oracles[policies] = CedarOracle(self._fleet, policies, at_s)
        return self._oracles[policies]

    def look(self, league: CoreLeague, asked: Ask, came: Came) -> None:
        self.counts[f"status {came.status}"] += 1
        self.counts["read"] += len(came.read_at)
        self.counts["executed"] += bool(came.executed_at)
        self.counts["retried"] += came.tried > 1
        who = (asked.key.tenant, asked.data_class, asked.country)
        for site in {*came.read_at, *([came.executed_at] if came.executed_at else [])}:
            own = self.oracle(league.sites[site].policies)
            if not own.allows(*who, site):
                self.findings.append(f"{who} read at {site}: {sorted(own.denying(*who, site))}")
        if came.status in (421, 451):
            self._refused_by_law(league.sites[asked.entry], who, came, asked)

    def _refused_by_law(
        self, entry: CoreSite, who: tuple[str, str, str], came: Came, asked: Ask
    ) -> None:
        """The refusal names rules; Cedar names the same; and no lawful place was passed over."""
        own = self.oracle(entry.policies)
        if not came.rules:
            self.findings.append(f"{who} refused {came.status} without a rule")
        if came.reason == Reason.QUALITY:
            return
        sites = [site.id for site in self._fleet.sites]
        denying = {s: own.denying(*who, s) for s in sites}
        named = {rule.partition("~")[0] for rule in came.rules} - OWN_RULES
        real = {rule.partition("~")[0] for s in sites for rule in denying[s]}
        broken = "hanse:policy-error" in came.rules  # then the files at fault are named too
        if not broken and not named <= real:
            self.findings.append(f"{who} refused for {named - real}, which Cedar does not name")
        if not came.read_at and not denying[entry.id]:
            self.findings.append(f"{who} turned away at {entry.id}, which Cedar allows")
        if not came.read_at and came.status == 451 and not all(denying.values()):
            self.findings.append(f"{who} refused everywhere, but Cedar allows a site")
        if came.reason == Reason.LAW:
            placed = {p.site for p in self._fleet.placements if p.service == asked.service}
            passed_over = [s for s in placed if not denying[s]]
            if passed_over:
                self.findings.append(f"{who} refused by law, but Cedar allows {passed_over}")


def run_fleet(rng: np.random.Generator, name: str) -> Judge:
    """One fleet through requests, outages and changes of policy."""
    fleet = random_fleet(rng, name)
    league = CoreLeague(fleet, random_policies(rng), NOW_S)
    judge = Judge(fleet)
    for number in range(REQUESTS_A_FLEET):
        if number % 100 == 60:
            league.change_policies(random_policies(rng))
        if rng.random() < 0.15:
            _something_happens(rng, league)
        if rng.random() < 0.5:
            league.tell()
        league.end_some(rng)
        league.now_s += float(rng.uniform(0.01, 0.3))
        asked = _random_ask(rng, league)
        judge.look(league, asked, league.ask(asked))
    return judge


def _something_happens(rng: np.random.Generator, league: CoreLeague) -> None:
    site = league.sites[str(rng.choice(sorted(league.sites)))]
    what = int(rng.integers(0, 5))
    if what == 0:
        site.up = not site.up or sum(s.up for s in league.sites.values()) == 1
    elif what == 1 and site.cut_off:
        league.heal(site)
    elif what == 1:
        site.cut_off = True
    elif what == 2:
        site.shedding = not site.shedding
    elif what == 3:
        league.drain(site.id, drained=bool(rng.random() < 0.3))
    else:
        offers = [i for i, (s, _, _) in enumerate(site.table.offer_names) if s == site.id]
        site.dead = {o for o in offers if rng.random() < 0.3}


def _random_ask(rng: np.random.Generator, league: CoreLeague) -> Ask:
    entry = league.sites[str(rng.choice(sorted(s.id for s in league.sites.values() if s.up)))]
    keys = sorted(entry.table.meta.keys.values(), key=lambda key: key.id)
    key = keys[int(rng.integers(len(keys)))]
    return Ask(
        key=key,
        data_class=str(rng.choice(key.classes)),
        country=str(rng.choice(key.countries)),
        service=str(rng.choice(key.services)),
        entry=entry.id,
    )


@pytest.mark.parametrize("fleets", [8, pytest.param(FLEETS, marks=pytest.mark.long)])
def test_of_thousands_of_requests_none_is_read_or_executed_where_cedar_denies(
    seed: int, fleets: int
) -> None:
    since_s = time.process_time()
    counts: Counter[str] = Counter()
    findings: Findings = []
    for number in range(fleets):
        judge = run_fleet(np.random.default_rng([seed, number]), f"fleet-{number}")
        counts += judge.counts
        findings += [f"fleet {number}: {one}" for one in judge.findings]
    print(f"seed {seed}, {time.process_time() - since_s:.1f} s CPU: {dict(sorted(counts.items()))}")
    assert FLEETS * REQUESTS_A_FLEET == 10_000
    share = fleets / FLEETS
    assert not findings, "\n".join(findings[:20])
    # The claim is empty unless much was executed, much refused by law, and outages were felt.
    assert counts["executed"] > 1_500 * share
    assert counts["status 421"] > 500 * share
    assert counts["status 451"] > 500 * share
    assert counts["retried"] > 30 * share


def test_the_same_seed_gives_the_same_run(seed: int) -> None:
    runs = [run_fleet(np.random.default_rng([seed, 3]), "fleet-3").counts for _ in range(2)]
    assert runs[0] == runs[1]


def test_the_judge_finds_a_table_that_allows_what_cedar_denies(seed: int) -> None:
    """The check itself can fail: open every bit of one table, and it does."""
    rng = np.random.default_rng([seed, 7])
    fleet = random_fleet(rng, "open")
    policies = (
        PolicyText(name="none.cedar", text='@id("op:none") forbid (principal, action, resource);'),
    )
    league = CoreLeague(fleet, policies, NOW_S)
    some = next(iter(league.sites.values())).table
    opened = Table(some.meta, {**some.arrays, "law": np.ones_like(some.law)})
    league.deliver(opened)
    league.tell()
    judge = Judge(fleet)
    for _ in range(50):
        asked = _random_ask(rng, league)
        judge.look(league, asked, league.ask(asked))
    assert len(judge.findings) >= 25, judge.counts


@pytest.mark.parametrize("unknown", UNKNOWN_COUNTRIES)
def test_a_country_of_origin_without_known_law_is_admitted_nowhere(seed: int, unknown: str) -> None:
    rng = np.random.default_rng([seed, 11])
    league = CoreLeague(random_fleet(rng, "unknown"), (), NOW_S)
    for _ in range(100):
        asked = _random_ask(rng, league)
        stranger = Ask(asked.key, asked.data_class, unknown, asked.service, asked.entry)
        came = league.ask(stranger)
        assert (came.status, came.read_at, came.executed_at) == (451, [], "")
        assert came.rules == ("hanse:unknown-subject",)


def test_a_broken_policy_file_closes_the_whole_fleet(seed: int) -> None:
    rng = np.random.default_rng([seed, 13])
    league = CoreLeague(random_fleet(rng, "broken"), (), NOW_S)
    answered = [league.ask(_random_ask(rng, league)).status for _ in range(60)]
    assert 200 in answered, f"{country(rng)}: this fleet admits nothing even without the file"
    league.change_policies((PolicyText(name="own.cedar", text="forbid (principal, act"),))
    for _ in range(60):
        came = league.ask(_random_ask(rng, league))
        assert came.status == 451
        assert not came.read_at
        assert "hanse:policy-error" in came.rules
