"""Pages on operating a league, and the example's sleeping half, say what the code takes and does."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from hanse.live import bus
from hanse.model.fleet import Batch, Fleet, SlowLoop
from hanse.model.read import read_fleet
from hanse.twin.fleet_file import problems_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
LEAGUE = (ROOT / "examples" / "league.toml").read_text()
OPERATE, WIRE = (DOCS / "operate.md").read_text(), (DOCS / "wire.md").read_text()

ASLEEP = re.compile(r"^# (\[{1,2}[a-z_.]+\]{1,2}|[a-z_]+ = .*)$", re.M)
"""Lines of the example that would be TOML without their mark."""


def right(text: str, directory: Path) -> Fleet:
    """A fleet file that `hanse check` finds nothing wrong with."""
    (feeds,) = re.findall(r"```toml\n(.*?)```", (DOCS / "feeds.md").read_text(), re.S)
    (directory / "feeds.toml").write_text(feeds)
    path = directory / "fleet.toml"
    path.write_text(text)
    fleet = read_fleet(path)
    assert problems_of(fleet, directory) == []
    return fleet


def test_the_examples_sleeping_lines_are_right_when_awake(tmp_path: Path) -> None:
    fleet = right(ASLEEP.sub(r"\1", LEAGUE), tmp_path)
    assert fleet.slow_loop == SlowLoop(places=True)
    assert fleet.batch == Batch(home_copies=2)
    assert fleet.feeds == "feeds.toml"
    assert [group.sites for group in fleet.failure_groups] == [("london", "lyon")]
    assert [p.id for s in fleet.sites for p in s.pools if p.kubernetes] == ["cluster"]
    asleep = right(LEAGUE, tmp_path)
    assert (asleep.slow_loop, asleep.batch, asleep.feeds) == (SlowLoop(), Batch(), "")


@pytest.mark.parametrize("page", ["place.md", "actuation.md", "batch.md"])
def test_pieces_of_fleet_files_in_the_docs_are_right(page: str, tmp_path: Path) -> None:
    pieces = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(), re.S)
    assert pieces
    unplaced = LEAGUE[: LEAGUE.index("# --- where each variant runs")]
    before = right(unplaced, tmp_path)
    for piece in pieces:
        assert right(unplaced + piece, tmp_path) != before or page == "batch.md"


def test_values_said_to_hold_anyway_do(tmp_path: Path) -> None:
    unplaced = LEAGUE[: LEAGUE.index("# --- where each variant runs")]
    for page, field, known in (
        ("place.md", "slow_loop", SlowLoop(places=True)),
        ("batch.md", "batch", Batch()),
    ):
        (piece, *_) = re.findall(r"```toml\n(.*?)```", (DOCS / page).read_text(), re.S)
        assert getattr(right(unplaced + piece, tmp_path), field) == known
        named = set(re.findall(r"^(\w+) = ", piece.split("\n[[")[0], re.M))
        assert named == {one.name for one in msgspec.structs.fields(known)}, page


def test_a_sites_rights_on_the_bus_are_those_that_the_page_lists() -> None:
    may = bus._site_user("lyon", "")["permissions"]
    publish, subscribe = may["publish"]["allow"], may["subscribe"]["allow"]
    asked = {s.removeprefix("$JS.hub.API.") for s in publish if s.startswith("$JS.hub.API.")}
    assert asked == {
        "CONSUMER.CREATE.TABLES",
        "CONSUMER.CREATE.TABLES.>",
        "STREAM.INFO.TABLES",
        "STREAM.MSG.GET.OWNERS",
    }
    assert all(f"`{one}`" in OPERATE for one in asked if one.startswith("STREAM"))
    heard = {s for s in subscribe if re.fullmatch(r"hanse\.\w+", s)}
    assert heard and all(f"`{one}`" in OPERATE and f"`{one}`" in WIRE for one in heard)
    for stream in (bus.TABLES, bus.EVIDENCE, bus.OWNERS, bus.BATCH):
        assert re.search(rf"^\| `{stream}` \|", OPERATE, re.M)
    assert f"last {bus.TABLES_KEPT} of each subject" in OPERATE


def test_every_subject_that_a_site_publishes_on_is_in_the_contract() -> None:
    live = ROOT / "src" / "hanse" / "live"
    source = "".join(path.read_text() for path in sorted(live.rglob("*.py")))
    named = set(re.findall(r'_publish\("(\w+)"', source))
    named |= set(re.findall(r'site_subject\([^,]+, "(\w+)"', source)) - {"sync"}
    assert {"status", "decisions", "demand", "evidence"} <= named
    assert [one for one in sorted(named) if f"`site.<id>.{one}`" not in WIRE] == []


def test_files_of_the_hub_are_in_the_contract() -> None:
    home = WIRE[WIRE.index("    hub/ ") : WIRE.index("    sites/<site>/")]
    for name in ("controller-epoch", "demand.msgpack", "events/", "evidence/"):
        assert name in home
