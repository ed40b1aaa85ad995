"""Forms are declared in one place, the version before is understood, and one that nobody knows is refused by name."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest

import views
from hanse.dispatch import eventlog, journal, table
from hanse.errors import ConfigError
from hanse.live import shared
from hanse.live.evidence.receipt import Receipt
from hanse.live.evidence.shipping import Message
from hanse.live.league_file import (
    LeagueFile,
    Standing,
    league_bytes,
    league_from_bytes,
    league_refusal,
    read_league,
)
from hanse.live.runtime import Runtime
from hanse.live.tablefile import TableFiles
from hanse.model import versions
from hanse.model.fleet import Fleet
from hanse.model.versions import FORMS, Form, side_by_side
from hanse.view import read_status

SOURCE = Path(__file__).parents[2] / "src" / "hanse"
LEAGUE_BEFORE = {
    "schema", "epoch", "revision", "at_s", "by", "why", "toml", "files", "digests", "joined", "source_sha256",
}  # fmt: skip
"""Fields of a fleet in force that the version before knows; it refuses a document with any other."""
STATUS_SINCE = {
    "fleet_revision", "workers_table_version", "entered", "spoken", "release", "started_at_s",
}  # fmt: skip
"""Fields of a report that the version before does not send."""
LEAGUE = LeagueFile(revision=3, at_s=1.0, by="file", toml="x", joined=("lyon",))


def literal(kind: type, field: str = "schema") -> set[str]:
    return set(typing.get_args(typing.get_type_hints(kind)[field]))


def test_every_mark_is_the_declared_one_and_nothing_else_declares_any() -> None:
    assert table.MAGIC.decode() == versions.TABLE.now
    assert journal.MAGIC.decode() == versions.INPUT_LOG.now
    assert eventlog.MAGIC.decode() == versions.EVENT_LOG.now
    assert str(shared.LAYOUT_VERSION) == versions.PAGE.now
    assert literal(Message) == {versions.EVIDENCE.now}
    assert literal(Receipt) == {versions.RECEIPT.now}
    assert literal(Fleet) == {versions.FLEET.now}
    assert LEAGUE.schema == versions.LEAGUE.now
    assert Runtime(fleet="f", sites={}).schema == versions.RUNTIME.now
    marks = {mark for form in FORMS for mark in form.understood if len(mark) > 1}
    pattern = re.compile(r'b"(HANSE[A-Z]{2}\d|hanse[a-z]{2}\d)"')
    strays = [
        f"{path.name}: {found}"
        for path in SOURCE.rglob("*.py")
        if path.name != "versions.py"
        for found in pattern.findall(path.read_text())
    ]
    assert not strays, f"declare them in model/versions.py: {strays}"
    assert len(marks) == sum(len(mark) > 1 for form in FORMS for mark in form.understood)


def test_a_fleet_in_force_is_written_so_that_the_version_before_reads_it() -> None:
    written = msgspec.msgpack.decode(league_bytes(LEAGUE))
    assert set(written) == LEAGUE_BEFORE
    assert written["schema"] == "hanse-league/1"
    drained = Standing(state="drained", since_s=0.0)
    beside = msgspec.structs.replace(LEAGUE, standing={"lyon": drained})
    assert set(msgspec.msgpack.decode(league_bytes(beside))) == LEAGUE_BEFORE | {"standing"}


def test_what_the_version_before_sends_is_understood_and_what_the_next_adds_is_read_past() -> None:
    status = views.status("lyon", epoch=4)
    full: dict[str, Any] = msgspec.to_builtins(status)
    before = {name: value for name, value in full.items() if name not in STATUS_SINCE}
    assert set(full) - set(before) == STATUS_SINCE
    read, flaw = read_status(msgspec.msgpack.encode(before))
    assert read is not None and not flaw
    assert (read.site, read.epoch, read.spoken, read.fleet_revision) == ("lyon", 4, "1", 0)
    full |= {"spoken": "2", "moon_phase": 0.5, "power": full["power"] | {"hydrogen_kg": 1.0}}
    read, flaw = read_status(msgspec.msgpack.encode(full))
    assert read is not None and not flaw
    document = msgspec.msgpack.decode(league_bytes(LEAGUE)) | {"moon_phase": 0.5}
    assert league_from_bytes(msgspec.msgpack.encode(document)) == LEAGUE


def test_a_form_that_nobody_knows_is_refused_by_name(tmp_path: Path) -> None:
    report = msgspec.to_builtins(views.status("lyon", epoch=4)) | {
        "spoken": "9",
        "power": "otherwise",
    }
    read, flaw = read_status(msgspec.msgpack.encode(report))
    assert read is None
    assert flaw == "bus of form '9': this version understands 2, 1; upgrade it first"
    document = msgspec.msgpack.decode(league_bytes(LEAGUE)) | {
        "schema": "hanse-league/9",
        "toml": 3,
    }
    data = msgspec.msgpack.encode(document)
    assert league_from_bytes(data) is None
    assert "'hanse-league/9': this version understands hanse-league/1" in league_refusal(data)
    (tmp_path / "league").write_bytes(data)
    with pytest.raises(ConfigError, match="hanse-league/9"):
        read_league(tmp_path / "league")
    assert "not a fleet" in league_refusal(b"noise")
    files = TableFiles(tmp_path)
    assert not files.accept(b"HANSETB9" + b"\0" * 64)
    assert "'HANSETB9': this version understands HANSETB2, HANSETB1" in files.flaw
    assert not list(tmp_path.glob("*.tbl"))


def test_an_installation_says_what_it_understands_and_two_are_compared() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "hanse.model.versions"], capture_output=True, text=True, check=True
    )
    theirs = msgspec.json.decode(said.stdout, type=tuple[Form, ...])
    assert theirs == FORMS
    assert json.loads(said.stdout)[0]["name"] == "routing table"
    assert side_by_side(FORMS, theirs) == []
    newer = Form(name="routing table", now="HANSETB3", before=("HANSETB2",), crosses_sites=True)
    assert side_by_side(FORMS, (newer,)) == [
        "routing table: it writes HANSETB3, which is not read here"
    ]
    apart = Form(name="routing table", now="HANSETB9", crosses_sites=True)
    assert len(side_by_side(FORMS, (apart,))) == 2
    own = Form(name="shared page", now="9", crosses_sites=False)
    assert side_by_side(FORMS, (own,)) == [], "a page is of one site, which has one version"
