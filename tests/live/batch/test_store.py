"""Disk: what was kept is there after any crash, what was half done is gone, and nobody else may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.live.batch.store import ASIDE, RunLog, Store, write_durably
from hanse.live.batch.values import FileMeta, new_file_id


def file_meta(size_bytes: int = 1) -> FileMeta:
    return FileMeta(
        id=new_file_id("lyon"),
        size_bytes=size_bytes,
        created_at_s=0.0,
        expires_at_s=1.0,
        filename="a",
        purpose="batch",
        tenant="t",
        key_id="k",
        data_class="public",
        country="FR",
    )


def test_files_outlive_the_process_and_drafts_do_not(tmp_path: Path) -> None:
    store, meta = Store(tmp_path / "batch"), file_meta(5)
    draft = store.draft()
    draft.write_bytes(b"hello")
    store.add_file(meta, draft)
    store.draft().write_bytes(b"half")
    store.data_path(new_file_id("lyon")).write_bytes(b"without metadata")
    again = Store(tmp_path / "batch")
    assert again.files == {meta.id: meta}
    assert again.data_path(meta.id).read_bytes() == b"hello"
    assert again.stored_bytes("t") == 5
    left = sorted(path.name for path in (tmp_path / "batch" / "files").iterdir())
    assert left == [f"{meta.id}.data", f"{meta.id}.json"]
    for directory in ("files", "batches"):
        assert stat.S_IMODE((tmp_path / "batch" / directory).stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "batch" / "files" / f"{meta.id}.json").stat().st_mode) == 0o600
    again.drop_file(meta.id)
    assert not list((tmp_path / "batch" / "files").iterdir())


def test_a_disk_that_takes_a_part_of_a_write_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, bytes(data)[:7]))
    write_durably(tmp_path / "a", b"x" * 100)
    assert (tmp_path / "a").read_bytes() == b"x" * 100

    def full(fd: int, data: bytes) -> int:
        raise OSError("no space left")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="no space"):
        write_durably(tmp_path / "a", b"y")
    assert [one.name for one in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"x" * 100


def test_metadata_that_cannot_be_read_costs_its_own_file_alone(tmp_path: Path) -> None:
    store, good, bad = Store(tmp_path), file_meta(), file_meta()
    for meta in (good, bad):
        draft = store.draft()
        draft.write_bytes(b"x")
        store.add_file(meta, draft)
    told = tmp_path / "files" / f"{bad.id}.json"
    whole = told.read_bytes()
    told.write_bytes(whole[:30])
    (tmp_path / "batches" / "b.json").write_bytes(b"")
    for _ in range(2):
        again = Store(tmp_path)
        assert again.files == {good.id: good} and not again.batches
        assert again.data_path(bad.id).exists(), "who mends its metadata has it again"
    aside = told.with_name(told.name + ASIDE)
    aside.write_bytes(whole)
    aside.rename(told)
    assert set(Store(tmp_path).files) == {good.id, bad.id}
    told.write_bytes(b"{")
    os.utime(told, (0.0, 0.0))
    Store(tmp_path)
    Store(tmp_path)
    assert not aside.exists() and not store.data_path(bad.id).exists()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), max_size=40), st.integers(0, 3))
def test_runs_that_were_begun_are_known_after_a_crash(
    tmp_path_factory: object, notes: list[tuple[bool, int]], torn: int
) -> None:
    path = tmp_path_factory.mktemp("runs") / "b.runs"  # type: ignore[attr-defined]
    log, expected = RunLog(path), dict.fromkeys(range(6), 0)
    for begun, line in notes:
        if begun or not expected[line]:
            log.begun(line)
            expected[line] += 1
        else:
            log.undone(line)
            expected[line] -= 1
    log.close()
    with path.open("ab") as file:
        file.write(b"\1" * torn)  # a write that the end of the machine cut short
    assert RunLog(path).counts() == {line: n for line, n in expected.items() if n}
    os.unlink(path)
