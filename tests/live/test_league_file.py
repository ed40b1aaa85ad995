"""The fleet file in force: numbered, never lost by a restart, never put back by an old file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError
from hanse.live.first_start import prepare, resume
from hanse.live.fleet_change import change_problem, kept, numbered, settle
from hanse.live.join.compose import with_site
from hanse.live.league_file import (
    KEPT,
    Change,
    LeagueCopy,
    LeagueFile,
    LeagueStore,
    Standing,
    changed,
    closed_until_s,
    imported,
    lay_out,
    league_bytes,
    league_from_bytes,
    newer,
)
from hanse.live.runtime import StateDir
from hanse.model.fleet import Fleet
from hanse.model.read import parse_fleet
from live.join.test_compose import hosts_example

LEAGUE = (Path(__file__).parents[2] / "examples" / "league.toml").read_text()
NOW_S = 1.8e9


def fleet(text: str) -> Fleet:
    return parse_fleet(text.encode(), source="test")


def joined(text: str = LEAGUE, site: str = "joiner") -> str:
    return with_site(text, site, hosts_example(), {})


def first() -> LeagueFile:
    return imported(LEAGUE, {}, None, fleet(LEAGUE), NOW_S)


def test_a_start_with_the_same_file_goes_on_with_what_has_changed_since() -> None:
    known = changed(
        first(),
        Change(base=1, toml=joined(), by="join", joined=("joiner",)),
        fleet(joined()),
        NOW_S,
    )
    assert known.revision == 2
    assert imported(LEAGUE, {}, known, fleet(LEAGUE), NOW_S) == known


def test_a_start_with_a_changed_file_is_the_next_revision_but_never_puts_a_joined_site_out() -> (
    None
):
    known = changed(
        first(),
        Change(base=1, toml=joined(), by="join", joined=("joiner",)),
        fleet(joined()),
        NOW_S,
    )
    other = LEAGUE.replace("usd_per_tonne_co2e = 100", "usd_per_tonne_co2e = 50")
    assert other != LEAGUE
    with pytest.raises(ConfigError, match="joiner"):
        imported(other, {}, known, fleet(other), NOW_S)
    with_it = joined(other)
    taken = imported(with_it, {}, known, fleet(with_it), NOW_S)
    assert (taken.revision, taken.joined) == (3, ("joiner",))
    assert imported(with_it, {}, taken, fleet(with_it), NOW_S) == taken


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=20))
def test_of_revisions_in_any_order_the_newest_stays(seen: list[tuple[int, int]]) -> None:
    held: LeagueFile | None = None
    for revision, epoch in seen:
        one = LeagueFile(revision=revision, epoch=epoch, at_s=0.0, toml="")
        if newer(one, held):
            held = one
    assert held is not None
    assert (held.epoch, held.revision) == max((e, r) for r, e in seen)


def test_the_hub_keeps_its_history_and_what_travels_is_what_was_written(tmp_path: Path) -> None:
    store = LeagueStore(tmp_path)
    assert store.newest() is None
    for number in range(1, KEPT + 5):
        store.put(LeagueFile(revision=number, at_s=0.0, toml=f"# {number}"))
    newest = store.newest()
    assert newest is not None
    assert newest.revision == KEPT + 4
    assert store.get(KEPT).toml == f"# {KEPT}"
    with pytest.raises(ConfigError):
        store.get(1)
    assert league_from_bytes(league_bytes(newest)) == newest
    assert league_from_bytes(b"noise") is None


def test_a_change_is_checked_before_it_is_taken() -> None:
    known = first()
    assert change_problem(known, Change(base=1, toml=joined(), by="join", joined=("joiner",))) == ""
    assert "revision 0" in change_problem(known, Change(base=0, toml=joined(), by="join"))
    assert "TOML" in change_problem(known, Change(base=1, toml="[", by="x"))
    renamed = LEAGUE.replace('name = "league"', 'name = "other"')
    assert "league" in change_problem(known, Change(base=1, toml=renamed, by="x"))
    wrong = joined().replace('model = "Llama-3.1-8B"', 'model = "No-such-model"')
    assert "AI model" in change_problem(known, Change(base=1, toml=wrong, by="x"))
    named = LEAGUE.replace("valid_s = 86400", 'valid_s = 86400\ncedar_files = ["own.cedar"]')
    assert "own.cedar" in change_problem(known, Change(base=1, toml=named, by="x"))


@pytest.mark.parametrize(
    "name",
    ["ca/ca.key", "./ca/ca.key", "hub/bus.json", "sites/x/identity/site.key", "keys/k.key",
     "keys.json", "fleet.toml", "own/../ca/ca.key", "../other", "/etc/passwd", "", ".", "a\0b"],
)  # fmt: skip
def test_a_revision_brings_no_file_but_what_its_fleet_names_and_none_of_the_hubs_own(
    tmp_path: Path, name: str
) -> None:
    state = StateDir(tmp_path / "state")
    state.make((), hub=True)
    named = LEAGUE.replace("valid_s = 86400", 'valid_s = 86400\ncedar_files = ["own/a.cedar"]')
    league = LeagueFile(revision=2, at_s=0.0, toml=named, files={"own/a.cedar": "// rules"})
    assert league_from_bytes(league_bytes(league)) == league
    lay_out(msgspec.structs.replace(league, files=league.files | {"more.txt": "x"}), state)
    assert (state.path / "own" / "a.cedar").read_text() == "// rules"
    assert not (state.path / "more.txt").exists()
    bad = msgspec.structs.replace(league, files=league.files | {name: "x"})
    assert league_from_bytes(league_bytes(bad)) is None
    change = Change(base=1, toml=named, files=bad.files, by="x")
    assert "a path below" in change_problem(first(), change)
    text = named.replace('"own/a.cedar"', msgspec.json.encode(name).decode())
    with pytest.raises(ConfigError):
        lay_out(msgspec.structs.replace(bad, toml=text), state)


def test_a_hub_killed_in_the_middle_of_a_change_finishes_it_at_its_start(tmp_path: Path) -> None:
    (tmp_path / "league.toml").write_text(LEAGUE.replace("port = 81", "port = 281"))
    prepared = prepare(tmp_path / "league.toml", tmp_path / "state")
    store = LeagueStore(prepared.state.hub)
    known = store.newest()
    assert known is not None
    text = known.toml.replace("valid_s = 86400", "valid_s = 80000")
    store.put(msgspec.structs.replace(known, revision=2, toml=text))  # killed here
    settle(prepared.state)
    assert resume(prepared.state.path).fleet.policy.valid_s == 80000
    assert prepared.state.fleet_toml.read_text() == text


def test_what_a_revision_says_beside_its_file_is_left_out_while_it_says_nothing() -> None:
    """So that the version before, which refuses fields that it does not know, follows it."""
    league = LeagueFile(revision=1, at_s=0.0, toml="x")
    assert b"standing" not in league_bytes(league)
    drained = Standing(state="drained", since_s=1.0, why="disks")
    closed = msgspec.structs.replace(league, standing={"a": drained})
    assert league_from_bytes(league_bytes(closed)) == closed
    assert closed_until_s(drained) == closed_until_s(None) == 0.0
    out = msgspec.structs.replace(drained, state="maintenance")
    assert closed_until_s(out) == float("inf")
    assert closed_until_s(msgspec.structs.replace(out, until_s=9.0)) == 9.0


def test_a_process_that_only_reads_hears_of_another_fleet_once(tmp_path: Path) -> None:
    (tmp_path / "league.toml").write_text(LEAGUE.replace("port = 81", "port = 281"))
    prepared = prepare(tmp_path / "league.toml", tmp_path / "state")
    copy = LeagueCopy(prepared.state, "lyon")
    assert copy.newer() is None
    known = LeagueStore(prepared.state.hub).newest()
    assert known is not None
    text = known.toml + "\n[batch]\nlines_at_once_max = 7\n"
    path = prepared.state.site("lyon") / "league"
    path.unlink()
    path.write_bytes(league_bytes(msgspec.structs.replace(known, revision=2, toml=text)))
    found = copy.newer()
    assert found is not None and found.batch.lines_at_once_max == 7
    assert copy.newer() is None


def test_a_taken_change_is_what_a_restart_finds_and_makes_keys_for_new_tenants(
    tmp_path: Path,
) -> None:
    (tmp_path / "league.toml").write_text(LEAGUE.replace("port = 81", "port = 281"))
    prepared = prepare(tmp_path / "league.toml", tmp_path / "state")
    known = LeagueStore(prepared.state.hub).newest()
    assert known is not None
    tenant = '\n[[tenant]]\nid = "late"\nclasses = ["public"]\n[[tenant.key]]\nid = "late"\ncountries = ["FR"]\n'
    change = Change(base=1, toml=joined(known.toml) + tenant, by="join", joined=("joiner",))
    taken = numbered(known, change, prepared.state, NOW_S)
    kept(taken, prepared.state)
    assert (prepared.state.keys_dir / "late.key").exists()
    assert taken.digests["late"]
    assert resume(prepared.state.path).fleet == taken.fleet()
    again = prepare(tmp_path / "league.toml", tmp_path / "state")
    assert again.fleet == taken.fleet()
    assert "joiner" not in again.runtime.sites, "it runs on its own machine"
    assert set(again.runtime.sites) == set(prepared.runtime.sites)
