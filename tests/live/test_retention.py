"""What is deleted is what a rule says, oldest first, recorded and under a seal before; what the hub has not got never is."""

from __future__ import annotations

import os
import re
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.live.archive import drop_old_copies, sealed_in
from hanse.live.ca import ensure_identity
from hanse.live.evidence import EvidenceCopy, audit
from hanse.live.evidence.chain import OWN_WORKER, Dropped
from hanse.live.evidence.seal import SEALS_NAME, SealedChain
from hanse.live.evidence.shipping import ChainShipper, Message
from hanse.live.retention import (
    BACK,
    ChainFile,
    Disk,
    bounds_of,
    chains_due,
    give_up_inputs,
    give_up_logs,
    level_of,
    tend_logs,
    worker_of,
)
from hanse.live.runtime import HUB
from hanse.live.shared import DISK_FULL, DISK_LOW, DISK_ROOM
from hanse.live.site_books import SiteBooks, own_records
from hanse.live.site_retention import RESERVE, RESERVE_BYTES, SiteRetention
from hanse.model.fleet import Retention
from live.evidence.logbook import NOW_S, Desk, League

DAY_S = 86_400.0
RULE = Retention()

sizes = st.floats(1e6, 1e15)


@given(free=st.floats(0.0, 1.0), size=sizes, before=st.sampled_from([DISK_ROOM, DISK_LOW, DISK_FULL]))  # fmt: skip
def test_levels_are_in_order_and_do_not_flutter(free: float, size: float, before: float) -> None:
    low, full = bounds_of(RULE, int(size))
    assert 0.0 <= full <= low <= size
    disk = Disk(int(free * size), int(size))
    level = level_of(disk, RULE, before)
    if disk.free_bytes < full:
        assert level == DISK_FULL
    elif disk.free_bytes >= low * 1.25:
        assert level == DISK_ROOM
    assert level_of(disk, RULE, level) == level
    more = Disk(min(disk.free_bytes * 2 + 1, disk.size_bytes), disk.size_bytes)
    assert level_of(more, RULE, before) <= level


@st.composite
def on_disk(draw: st.DrawFn) -> list[ChainFile]:
    made = []
    for number in range(draw(st.integers(0, 12))):
        worker = draw(st.sampled_from([0, 1, 2, OWN_WORKER]))
        size = draw(st.integers(1, 10_000))
        whole = draw(st.booleans())
        sealed = SealedChain(
            f"lyon-{worker}-{number:08x}", 3, bytes(32), size if whole else size - 1,
            draw(st.floats(0.0, 100 * DAY_S)), number,
        )  # fmt: skip
        made.append(ChainFile(sealed, size, draw(st.booleans())))
    return made


@given(
    chains=on_disk(),
    kept_days=st.floats(1.0, 100.0),
    bytes_max=st.floats(0.0, 50_000.0),
    wanted=st.floats(0.0, 50_000.0),
)
def test_only_whole_closed_held_chains_go_and_each_by_its_rule(
    chains: list[ChainFile], kept_days: float, bytes_max: float, wanted: float
) -> None:
    now_s = 100 * DAY_S
    due = chains_due(
        chains, kept_s=kept_days * DAY_S, bytes_max=bytes_max, now_s=now_s, bytes_wanted=wanted
    )
    newest = {worker_of(c.sealed.chain): c.sealed.chain for c in chains}
    for one, rule in due:
        assert one.held
        assert one.sealed.bytes_end == one.size_bytes
        assert worker_of(one.sealed.chain) != OWN_WORKER
        assert one.sealed.chain not in newest.values()
        old = one.sealed.sealed_at_s + kept_days * DAY_S <= now_s
        assert (rule == "age") == old
    gone = {one.sealed.chain for one, _ in due}
    left = [c for c in chains if c.sealed.chain not in gone]
    could = [
        c
        for c in left
        if c.held
        and c.sealed.bytes_end == c.size_bytes
        and worker_of(c.sealed.chain) != OWN_WORKER
        and c.sealed.chain not in newest.values()
    ]
    # What could have gone and did not is young, and younger than all that went; and nothing was lacking any more.
    assert all(c.sealed.sealed_at_s + kept_days * DAY_S > now_s for c in could)
    if could:
        assert all(
            one.sealed.sealed_at_s <= min(c.sealed.sealed_at_s for c in could) for one, _ in due
        )
        assert sum(c.size_bytes for c in left) <= bytes_max
        assert sum(one.size_bytes for one, _ in due) >= wanted
    for_disk = [one for one, rule in due if rule == "disk"]
    if for_disk:
        before_last = sum(one.size_bytes for one, _ in due) - for_disk[-1].size_bytes
        assert before_last < wanted  # no more than it takes


# --- a site ---------------------------------------------------------------------------------------


class Site:
    """Tallinn's agent, as far as its disk goes."""

    def __init__(self, league: League, *, alone: bool = False) -> None:
        self.league, self.alone = league, alone
        self.desk: Desk = league.tallinn
        self.disk = Disk(10**12, 10**12)
        self.start()

    def start(self) -> None:
        home = self.desk.directory.parent
        (home / "log").mkdir(exist_ok=True)
        self.books = SiteBooks(home, "tallinn")
        self.keeper = SiteRetention(
            home, "tallinn", self.desk.sealer, self.books, alone=self.alone, look_at_disk=lambda _: self.disk
        )  # fmt: skip

    def days(self, count: int) -> list[str]:
        """A chain a day, sealed; the last is still written to."""
        names = []
        for day in range(count):
            self.league.now_s = NOW_S + day * DAY_S
            if day:
                self.desk.writer.close()
                self.desk.boot()
            self.league.local(day)
            self.league.seal()
            names.append(self.desk.writer.chain)
        return names

    def hub_has(self, chains: list[str]) -> None:
        held = {c.chain: c.log_end for c in self.desk.sealer.sealed()}
        self.keeper.hear(max((held[c] for c in chains), default=0))

    def turn(self, days: float, rule: Retention = RULE) -> None:
        """Look, seal, look again."""
        self.league.now_s = NOW_S + days * DAY_S
        self.keeper.look(rule, self.league.now_s)
        self.league.seal()
        self.keeper.look(rule, self.league.now_s + 2.0)

    def here(self) -> set[str]:
        return {
            p.stem
            for p in self.desk.directory.glob("tallinn-*.log")
            if worker_of(p.stem) != OWN_WORKER
        }


@pytest.fixture
def league(tmp_path: Path) -> Iterator[League]:
    made = League(tmp_path)
    yield made
    made.close()


def test_old_chains_go_once_the_hub_has_them_and_the_audit_says_by_rule(league: League) -> None:
    site = Site(league)
    names = site.days(5)
    site.hub_has([])
    site.turn(24.0, Retention(site_days=20))
    assert site.here() == set(names)
    site.hub_has(names[:2])
    site.turn(24.1, Retention(site_days=21))
    assert site.here() == set(names[2:])
    gone = [r for r in own_records(site.desk.directory) if isinstance(r, Dropped)]
    assert [(r.chain, r.rule) for r in gone] == [(names[0], "age"), (names[1], "age")]
    report = audit(league.state_dir, league.authority_pem)
    assert report.findings == ()
    assert report.proven == 3
    assert site.desk.sealer.seal(league.now_s + 5.0).problems == {}


def test_a_chain_deleted_by_hand_is_a_finding_beside_those_deleted_by_rule(league: League) -> None:
    site = Site(league)
    names = site.days(4)
    site.hub_has(names)
    site.turn(20.0, Retention(site_days=19))
    assert site.here() == set(names[1:])
    (site.desk.directory / f"{names[2]}.log").unlink()
    findings = audit(league.state_dir, league.authority_pem).findings
    assert [f.chain for f in findings if f.kind == "chain missing"] == [names[2]]


def test_a_crash_between_record_and_deletion_deletes_after_the_restart(league: League) -> None:
    site = Site(league)
    names = site.days(3)
    site.hub_has(names)
    site.keeper.look(Retention(site_days=1), NOW_S + 10 * DAY_S)
    assert site.here() == set(names)  # recorded, and not under a seal yet
    league.now_s = NOW_S + 10 * DAY_S
    league.seal()
    site.books.close()
    site.start()
    site.keeper.look(RULE, league.now_s + 5.0)
    assert site.here() == {names[-1]}
    assert audit(league.state_dir, league.authority_pem).findings == ()


def test_a_site_without_a_hub_keeps_its_records_as_long_as_a_hub_would(league: League) -> None:
    site = Site(league, alone=True)
    names = site.days(3)
    rule = Retention(site_days=1, hub_days=25)
    site.turn(20.0, rule)
    assert site.here() == set(names)
    site.disk = Disk(1, 10**12)
    site.turn(21.0, rule)
    assert site.here() == set(names)  # a full disk takes no record that nobody else has
    assert site.keeper.level == DISK_FULL


def test_a_low_disk_takes_logs_then_inputs_then_what_the_hub_has(league: League) -> None:
    site = Site(league)
    names = site.days(4)
    site.hub_has(names[:2])
    home = site.desk.directory.parent
    (home / "log" / "agent.log").write_bytes(b"x" * 3_000_000)
    (home / "log" / "agent.log.1").write_bytes(b"x" * 1_000_000)
    os.utime(home / "log" / "agent.log.1", (NOW_S, NOW_S))
    (home / "journal").mkdir()
    for boot, age in (("a", 3), ("b", 1)):
        path = home / "journal" / f"tallinn-0-{boot}.jnl"
        path.write_bytes(b"x" * 2_000_000)
        os.utime(path, (NOW_S - age, NOW_S - age))
    size = 10**12
    low = bounds_of(RULE, size)[0]
    wanted = low * 1.25

    def turn(lacking_mb: float, days: float) -> None:
        site.disk = Disk(int(wanted - lacking_mb * 1e6), size)
        site.keeper.look(RULE, NOW_S + days * DAY_S)

    turn(3.5, 4.0)
    assert site.keeper.level == DISK_ROOM  # it was not below the bound: nothing goes
    site.keeper.level = DISK_LOW
    turn(3.5, 5.0)
    assert (home / "log" / "agent.log").stat().st_size == 0
    assert not (home / "log" / "agent.log.1").exists()
    assert len(list((home / "journal").iterdir())) == 2
    assert site.here() == set(names)
    turn(1.0, 6.0)
    assert [p.stem for p in (home / "journal").iterdir()] == ["tallinn-0-b"]
    assert site.here() == set(names)
    turn(0.0001, 7.0)
    turn(0.0001, 7.1)  # what will be free is not freed twice
    assert site.here() == set(names)
    assert [w.split(",")[0] for w in site.keeper.status().given_up] == [
        "logs of processes",
        "logs of decisions",
        "records that the hub has",
    ]
    league.now_s = NOW_S + 7.2 * DAY_S
    league.seal()
    site.disk = Disk(int(wanted), size)
    site.keeper.look(RULE, NOW_S + 7.3 * DAY_S)
    assert site.here() == set(names[1:])
    rules = [r.rule for r in own_records(site.desk.directory) if isinstance(r, Dropped)]
    assert rules == ["disk"]
    assert audit(league.state_dir, league.authority_pem).findings == ()
    site.disk = Disk(size, size)
    site.turn(8.0)
    assert site.keeper.status() == msgspec.structs.replace(
        site.keeper.status(), level="room", given_up=()
    )


def test_the_reserve_is_kept_while_there_is_room_and_given_when_the_disk_is_full(
    league: League,
) -> None:
    site = Site(league)
    reserve = site.desk.directory / RESERVE
    site.disk = Disk(10**8, 10**8)
    site.turn(0.1)
    assert reserve.stat().st_size == 10**6
    site.disk = Disk(10**4, 10**8)
    site.turn(0.2)
    assert site.keeper.status().level == "full"
    assert not reserve.exists()


def test_long_logs_are_moved_aside_while_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    with path.open("ab") as writer:
        writer.write(b"old\n" * 600_000)
        writer.flush()
        tend_logs(tmp_path, Retention(log_mb_max=2), time.time())
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "agent.log.1").stat().st_size == 2_400_000
    os.utime(tmp_path / "agent.log.1", (NOW_S, NOW_S))
    tend_logs(tmp_path, RULE, NOW_S + 29 * DAY_S)
    assert (tmp_path / "agent.log.1").exists()
    tend_logs(tmp_path, RULE, NOW_S + 31 * DAY_S)
    assert not (tmp_path / "agent.log.1").exists()
    assert give_up_logs(tmp_path) == 0
    assert give_up_inputs(tmp_path / "none") == 0


# --- the hub --------------------------------------------------------------------------------------


def shipped(league: League, copy: EvidenceCopy) -> None:
    for desk in league.desks:
        shipper, sent = ChainShipper(desk.directory), 0
        while more := shipper.pending(sent):
            for message in more:
                assert copy.accept(message, desk.site).outcome in ("stored", "known")
            sent += len(more)


def test_the_hub_drops_old_copies_under_its_own_seal(league: League, tmp_path: Path) -> None:
    names = Site(league).days(4)
    hub = ensure_identity(tmp_path, "league", HUB, NOW_S)
    root = tmp_path / "hub"
    shipped(league, EvidenceCopy(root))
    assert [c.chain for c in sealed_in(root / "tallinn" / SEALS_NAME)] == names
    assert drop_old_copies(root, hub, Retention(hub_days=30), NOW_S + 20 * DAY_S) == []
    rule = Retention(hub_days=18)
    assert drop_old_copies(root, hub, rule, NOW_S + 20 * DAY_S) == names[:2]
    assert drop_old_copies(root, hub, rule, NOW_S + 20 * DAY_S) == []
    report = audit(root, league.authority_pem, sites=["tallinn", "riga"])
    assert report.findings == ()
    assert report.proven == 2
    (root / "tallinn" / f"{names[2]}.log").unlink()
    kinds = [f.kind for f in audit(root, league.authority_pem).findings]
    assert kinds == ["chain missing"]
    # Sent once more, from the beginning, what is known stays known.
    shipped(league, EvidenceCopy(root))


def test_a_site_cannot_explain_away_another_sites_chain(league: League) -> None:
    site = Site(league)
    names = site.days(2)
    riga = SiteBooks(league.riga.directory.parent, "riga")
    old = next(c for c in site.desk.sealer.sealed() if c.chain == names[0])
    record = Dropped(
        at_s=NOW_S + 5 * DAY_S, site="tallinn", chain=names[0], count=old.records, head=old.head, size_bytes=1,
        sealed_at_s=old.sealed_at_s, rule="age", kept_s=1.0,
    )  # fmt: skip
    riga.drop(record)
    (site.desk.directory / f"{names[0]}.log").unlink()
    site.desk.sealer.forget(names[0])
    league.now_s = NOW_S + 6 * DAY_S
    league.seal()
    kinds = {f.kind for f in audit(league.state_dir, league.authority_pem).findings}
    assert kinds == {"chain missing", "record out of place"}


# --- shipping again -------------------------------------------------------------------------------


def test_what_the_hub_lost_is_sent_again_but_for_chains_that_are_gone(
    league: League, tmp_path: Path
) -> None:
    site = Site(league)
    names = site.days(4)
    shipper, all_seen = ChainShipper(site.desk.directory), 0
    while more := shipper.pending(shipper.acked_seq):
        for message in more:
            all_seen = msgspec.msgpack.decode(message, type=Message).seq
            shipper.acked(all_seen)
    log_ends = [c.log_end for c in site.desk.sealer.sealed()]
    assert shipper.next_after(log_ends[-1]) == all_seen + 1
    assert not shipper.rewind(log_ends[-1])
    site.hub_has(names)
    site.turn(20.0, Retention(site_days=18))
    assert names[0] not in site.here()
    assert shipper.rewind(0)
    assert shipper.acked_seq == 0
    copy = EvidenceCopy(tmp_path / "hub")
    again = ChainShipper(site.desk.directory)  # over a restart
    while more := again.pending(again.acked_seq):
        for message in more:
            assert copy.accept(message, "tallinn").outcome == "stored"
            again.acked(msgspec.msgpack.decode(message, type=Message).seq)
    report = audit(tmp_path / "hub", league.authority_pem)
    assert report.findings == ()
    assert "deleted by rule" in " ".join(report.sites[0].notes)


# --- the page -------------------------------------------------------------------------------------


def test_the_page_says_what_the_code_keeps() -> None:
    page = (Path(__file__).parents[2] / "docs" / "backup.md").read_text()
    said = tomllib.loads("\n".join(re.findall(r"^    (\w+ = [\d.]+)", page, re.M)))
    assert said == msgspec.structs.asdict(Retention())
    assert f"{BACK:g} times" in page
    assert f"at most {RESERVE_BYTES / 2**20:.0f} MB" in page
