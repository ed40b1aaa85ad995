"""The chain file: what a writer leaves behind, whole, torn or damaged."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import SiteError
from hanse.live.evidence import ChainWriter, Opened, Record
from hanse.live.evidence.chain import (
    GENESIS,
    decode_record,
    link,
    scan,
    scan_batches,
    scan_file,
    sized,
)
from hanse.live.evidence.merkle import EMPTY_ROOT, leaf_hash, path_to, root_from, root_of
from live.evidence.logbook import League

OPENED = Opened(at_s=1.0, site="oslo", worker=2, boot="0a0b0c0d", software="1", table_version=0)


@pytest.fixture
def records() -> list[Record]:
    league = League.__new__(League)
    league.now_s = 5.0
    one, two, three = league.decided(0, site="oslo"), league.executed(0, site="oslo"), OPENED
    return [one, two, league.ended(0, role="entry"), three]


def test_chain_reads_back_as_it_was_written(tmp_path: Path, records: list[Record]) -> None:
    writer = ChainWriter(tmp_path, OPENED)
    appended = [writer.append(record) for record in records[:2]]
    appended.append(writer.append_many(records[2:]))
    found = scan_file(tmp_path / "oslo-2-0a0b0c0d.log")
    assert [decode_record(frame.raw) for frame in found.frames] == [OPENED, *records]
    assert appended == [1, 2, 3]
    assert [frame.seq for frame in found.frames] == [0, 1, 2, 3, 4]
    assert [frame.leaf for frame in found.frames] == [leaf_hash(f.raw) for f in found.frames]
    assert found.ending == "clean"
    assert (found.frames[-1].head, len(found.frames)) == (writer.head, writer.count)
    head = GENESIS
    one, two, three, *rest = found.frames
    for batch in ([one], [two], [three], rest):
        raws = b"".join(len(f.raw).to_bytes(4, "little") + f.raw for f in batch)
        head = sha256(b"\x02" + head + raws).digest()
        assert {frame.head for frame in batch} == {head}
    assert head == writer.head
    writer.close()


def test_boot_id_is_never_used_twice(tmp_path: Path) -> None:
    ChainWriter(tmp_path, OPENED).close()
    with pytest.raises(SiteError, match="fresh boot id"):
        ChainWriter(tmp_path, OPENED)


def test_torn_last_record_hides_nothing_else(tmp_path: Path, records: list[Record]) -> None:
    writer = ChainWriter(tmp_path, OPENED)
    writer.append_many(records)
    writer.close()
    content = (tmp_path / "oslo-2-0a0b0c0d.log").read_bytes()
    whole = scan(content).frames
    for size in range(len(content)):
        found = scan(content[:size])
        kept = [frame for frame in whole if frame.bytes_end <= size]
        assert found.frames == kept
        ends = kept[-1].bytes_end if kept else 0
        assert found.ending == ("clean" if ends == size else "torn")
        assert found.bytes_end == ends


@given(at=st.integers(0, 7), flip=st.integers(1, 255))
def test_altered_length_is_damage_and_not_a_torn_end(at: int, flip: int) -> None:
    raw = sized(b"anything")
    frame = len(raw).to_bytes(4, "little") + (len(raw) ^ 0xFFFF_FFFF).to_bytes(4, "little")
    content = bytearray(frame + raw + bytes(8))
    assert scan(bytes(content)).ending == "clean"
    content[at] ^= flip
    assert scan(bytes(content)).ending == "damaged"


@given(sizes=st.lists(st.integers(0, 12), max_size=4))
def test_sizes_of_records_that_do_not_fill_their_batch_are_damage(sizes: list[int]) -> None:
    batch = b"".join(size.to_bytes(4, "little") for size in sizes) + bytes(10)
    content = _batch(batch)
    found = scan(content)
    if found.ending == "clean":
        assert b"".join(sized(frame.raw) for frame in found.frames) == batch
    else:
        assert (found.ending, found.frames) == ("damaged", [])


def test_empty_batch_is_damage() -> None:
    assert scan(_batch(b"")).ending == "damaged"


def test_batch_beyond_the_limit_is_written_as_several_and_reads_back(tmp_path: Path) -> None:
    writer = ChainWriter(tmp_path, OPENED)
    raws = [bytes([i]) * 300_000 for i in range(10)]
    writer.append_sized([sized(raw) for raw in raws], len(raws))
    found = scan_batches((tmp_path / "oslo-2-0a0b0c0d.log").read_bytes())
    assert [raw for batch in found.batches[1:] for raw in batch.raws] == raws
    assert [len(batch.raws) for batch in found.batches] == [1, 3, 3, 3, 1]
    assert all(batch.intact for batch in found.batches)
    assert (found.ending, writer.count, writer.head) == ("clean", 11, found.batches[-1].head)
    writer.close()


def _batch(records: bytes) -> bytes:
    size = len(records)
    head = size.to_bytes(4, "little") + (size ^ 0xFFFF_FFFF).to_bytes(4, "little")
    return head + records + link(GENESIS, records)[:8]


def test_zeros_that_a_power_loss_may_leave_are_damage(
    tmp_path: Path, records: list[Record]
) -> None:
    writer = ChainWriter(tmp_path, OPENED)
    writer.append_many(records)
    writer.close()
    found = scan((tmp_path / "oslo-2-0a0b0c0d.log").read_bytes() + bytes(64))
    assert (found.ending, len(found.frames)) == ("damaged", 5)


def test_full_disk_refuses_the_record_and_keeps_the_chain_whole(
    tmp_path: Path, records: list[Record]
) -> None:
    writer = ChainWriter(tmp_path, OPENED)
    path = tmp_path / "oslo-2-0a0b0c0d.log"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 60, hard))
    try:
        with pytest.raises(SiteError, match="free disk space"):
            writer.append(records[0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (len(scan_file(path).frames), scan_file(path).ending) == (1, "clean")
    writer.append(records[0])
    assert [f.intact for f in scan_file(path).frames] == [True, True]
    writer.close()


WRITER = """
import sys
from pathlib import Path
from hanse.live.evidence import ChainWriter, Opened
opened = Opened(at_s=1.0, site="oslo", worker=2, boot="0a0b0c0d", software="1", table_version=0)
writer = ChainWriter(Path(sys.argv[1]), opened)
print("ready", flush=True)
while True:
    writer.append_many([opened] * 50)
"""


def test_killed_writer_leaves_a_readable_chain(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        path = tmp_path / "oslo-2-0a0b0c0d.log"
        while path.stat().st_size < 100_000:
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    found = scan_file(path)
    assert found.ending in ("clean", "torn")
    assert len(found.frames) > 1000
    assert all(frame.intact for frame in found.frames)


def _root_by_definition(leaves: list[bytes]) -> bytes:
    """RFC 9162, 2.1.1, word for word."""
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    left, right = _root_by_definition(leaves[:split]), _root_by_definition(leaves[split:])
    return sha256(b"\x01" + left + right).digest()


@given(size=st.integers(1, 70), data=st.data())
def test_merkle_roots_and_paths_follow_rfc_9162(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(bytes([i])) for i in range(size)]
    root = root_of(leaves)
    assert root == _root_by_definition(leaves)
    index = data.draw(st.integers(0, size - 1))
    path = path_to(leaves, index)
    assert root_from(leaves[index], index, size, path) == root
    other = data.draw(st.integers(-1, size))
    if other != index:
        assert root_from(leaves[index], other, size, path) != root
    assert root_from(leaves[index], index, size, (*path, bytes(32))) is None
    if path:
        assert root_from(leaves[index], index, size, path[:-1]) is None


def test_no_leaves_have_the_rfcs_root() -> None:
    assert root_of([]) == EMPTY_ROOT
