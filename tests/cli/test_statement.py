"""`hanse statement`, `energy`, `verify --statement`, `audit` on a hub's directory, as a person types them."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.cli.statement import period_of
from hanse.energy.ledger import QUARTER_S, Look
from hanse.errors import ConfigError
from hanse.live.ca import ensure_identity
from hanse.live.evidence import EvidenceCopy
from hanse.live.evidence.shipping import ChainShipper
from hanse.live.runtime import HUB
from hanse.live.site_books import OPEN_S, SiteBooks
from live.evidence import logbook
from live.evidence.logbook import Desk, League

SITE = """
[[site]]
id = "{id}"
kind = "micro"
city = "{id}"
country = "{country}"
lat_deg = 58
lon_deg = 24
operator_hq = "{country}"
power = {{ grid_kw_max = 10 }}
"""
FLEET = """schema = "hanse-fleet/1"
name = "league"
[[class]]
id = "health"
law = "health"
[[service]]
id = "chat"
slo = { ttft_ms = 1000, tpot_ms = 100 }
[[service.variant]]
id = "q8"
model = "SmolLM2-135M"
precision = "q8_0"
quality = 0.2
quality_source = "a test"
[[tenant]]
id = "clinic"
classes = ["health"]
[[tenant.key]]
id = "clinic-1"
countries = ["EE"]
""" + "".join(SITE.format(id=i, country=c) for i, c in (("tallinn", "EE"), ("riga", "LV")))


def hanse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hanse.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def around_now() -> tuple[str, ...]:
    """Days that the fixture's records lie in, also at the turn of a month."""
    days = [time.strftime("%Y-%m-%d", time.gmtime(time.time() + d * 86_400)) for d in (-1, 2)]
    return "--since", days[0], "--until", days[1]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[League, Path]]:
    """A hub's directory with copies of two sites' logs, of the last two hours."""
    now_s = time.time()
    monkeypatch.setattr(logbook, "NOW_S", now_s - 7200.0)
    state = tmp_path / "hub-state"
    league = League(state)
    league.now_s = now_s - 7200.0
    (state / "fleet.toml").write_text(FLEET)
    league.local(1)
    league.forwarded(2)
    league.refused(3)
    league.seal()
    metered(league.tallinn, now_s)
    league.now_s = now_s
    league.seal()
    ensure_identity(state, "league", HUB, now_s)
    copy = EvidenceCopy(state / "hub" / "evidence")
    for desk in league.desks:
        shipper = ChainShipper(desk.directory)
        while more := shipper.pending(shipper.acked_seq):
            for message in more:
                assert copy.accept(message, desk.site).outcome == "stored"
            shipper.acked(shipper.acked_seq + len(more))
    yield league, state
    league.close()


def metered(desk: Desk, now_s: float) -> None:
    """Quarters of the last two hours: 100 W of IT, 130 W at an estimate of the meter."""
    books = SiteBooks(desk.directory.parent, desk.site)
    start_s = now_s - 7200.0
    seen = Look(
        it_w=100.0, it_error_share=None, drawn_w=130.0, drawn_error_share=None, base_w=10.0, busy_w=0.0, pue=1.2,
        carbon_g_per_kwh=100.0, market_g_per_kwh=300.0,
    )  # fmt: skip
    for second in range(0, int(7200.0 - QUARTER_S - OPEN_S), 5):
        books.look(seen, start_s + second)
    books.close_due(now_s)
    books.close()


def test_statement_files_are_signed_and_a_receipt_is_found_in_them(
    hub: tuple[League, Path], tmp_path: Path
) -> None:
    league, state = hub
    asked = (*around_now(), "--state", str(state), "--no-law")
    out = tmp_path / "out"
    done = hanse("statement", "--tenant", "clinic", *asked, "--out", str(out), "--json")
    assert done.returncode == 1, done.stderr
    (told,) = json.loads(done.stdout)
    assert told["missing"] == ["the period is not over"]
    assert [(p["country"], p["site"], p["requests"]) for p in told["places"]] == [
        ("EE", "tallinn", 1),
        ("LV", "riga", 1),
    ]
    assert told["carbon"]["market_g"] == pytest.approx(0.01 * 0.3)
    assert told["carbon"]["market_unknown_wh"] == pytest.approx(0.01)
    document = next(out.glob("statement-clinic-*.json"))
    (tmp_path / "r.json").write_bytes(league.receipt(2, league.tallinn, league.riga))
    ca = str(state / "ca" / "ca.pem")
    verify = ("verify", str(tmp_path / "r.json"), "--ca", ca, "--statement", str(document))
    done = hanse(*verify)
    assert done.returncode == 0, done.stderr
    assert f"counted in the statement with root {told['receipts_root']}" in done.stdout
    listed = document.with_suffix(".receipts")
    listed.write_text("".join(listed.read_text().splitlines(keepends=True)[1:]))
    done = hanse(*verify)
    assert done.returncode == 1
    assert "does not lead to the statement's root" in done.stdout


def test_all_tenants_for_people(hub: tuple[League, Path]) -> None:
    _, state = hub
    month = time.strftime("%Y-%m", time.gmtime())
    done = hanse("statement", "--month", month, "--state", str(state))
    assert "all tenants" in done.stdout
    assert "clinic, " in done.stdout
    assert "MISSING the period is not over" in done.stdout
    assert "no logs" not in done.stdout


def test_energy_says_what_became_of_what_was_drawn(hub: tuple[League, Path]) -> None:
    _, state = hub
    asked = ("--state", str(state), *around_now())
    done = hanse("energy", "--site", "tallinn", *asked, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    (one,) = told["sites"]
    hours = sum(q["seen_s"] for q in told["quarters"]) / 3600.0
    assert one["idle_wh"] == pytest.approx(100.0 * hours)
    assert one["overhead_wh"] == pytest.approx(20.0 * hours)
    assert one["others_wh"] == pytest.approx(10.0 * hours)
    assert one["open_share"] == pytest.approx(0.0, abs=1e-9)
    assert one["drawn_method"] == "estimated"
    done = hanse("energy", "--site", "tallinn", *asked)
    assert "Wh estimated" in done.stdout
    done = hanse("energy", "--site", "riga", *asked)
    assert "no quarter of an hour" in done.stdout
    done = hanse("energy", "--site", "zz", *asked)
    assert done.returncode == 2 and not done.stdout
    assert done.stderr.startswith("--site: got 'zz', need one of ") and "tallinn" in done.stderr


def test_a_copy_without_a_hubs_key_is_not_signed(hub: tuple[League, Path], tmp_path: Path) -> None:
    _, state = hub
    for path in (state / "sites" / HUB / "identity").iterdir():
        path.unlink()
    (state / "sites" / HUB / "identity").rmdir()
    month = time.strftime("%Y-%m", time.gmtime())
    done = hanse("statement", "--month", month, "--state", str(state), "--out", str(tmp_path / "o"))
    assert "the statement is not signed" in done.stderr


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("2026-13", "", ""), "--month"),
        (("2026-11", "2026-11-01", ""), "one of both"),
        (("", "2026-11-01", "x"), "--until"),
        (("", "2026-11-02", "2026-11-02"), "a day after"),
    ],
)
def test_periods_that_are_none(asked: tuple[str, str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        period_of(*asked, now_s=1_800_000_000.0)


def test_the_month_before_this_one_is_meant_where_none_is_named() -> None:
    january_s = 1_767_225_600.0 + 5 * 86_400.0  # 2026-01-06
    period = period_of("", "", "", january_s)
    assert period == period_of("2025-12", "", "", january_s)
    assert period.until_s - period.from_s == 31 * 86_400.0
