"""Disk: what was kept is there after any crash, what was half done is gone, and nobody else may read it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hanse.live.batch.store import RunLog, Store
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
