"""Two homes: what a peer may say and what it may not; what is sent, again after a failure, and what is deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
from starlette.requests import Request

from hanse.errors import SiteError
from hanse.live.batch.access import Access
from hanse.live.batch.api import PREFIX
from hanse.live.batch.asking import Whole
from hanse.live.batch.beat import Beat, Row
from hanse.live.batch.commits import Commits, Note
from hanse.live.batch.drops import Drops
from hanse.live.batch.owners import Owner, Owners
from hanse.live.batch.pauses import Pauses
from hanse.live.batch.standby import SURE_S, TAKEOVER_S, Standby
from hanse.live.batch.store import Store
from hanse.live.batch.values import (
    BatchMeta,
    FileMeta,
    Problem,
    new_batch_id,
    new_file_id,
    result_file_id,
)
from live.batch.home import WHO, Home, PeerHops, answered, hops

NOTE = Note(run="r", ok=True, wh=2.0)


class MemoryOwners:
    """The hub."""

    def __init__(self) -> None:
        self.site = "lyon"
        """Who claims."""
        self.last: Owner | None = None
        self.away = False

    async def owner(self, _: str) -> Owner | None:
        if self.away:
            raise SiteError("hub", got="nothing", allowed="an answer")
        return self.last

    async def claim(self, _: str, after: int, *, ended: bool = False) -> int:
        if self.away:
            raise SiteError("hub", got="nothing", allowed="an answer")
        if after != (self.last.epoch if self.last is not None else 0):
            return 0
        self.last = Owner(site=self.site, epoch=after + 1, ended=ended)
        return after + 1

    def is_owned_by(self, site: str, epoch: int) -> None:
        self.last = Owner(site=site, epoch=epoch, ended=False)


class Site:
    """`lyon`, with peers `tallinn` and `oslo`."""

    def __init__(
        self, path: Path, act: Callable[[str, str, str], Whole] = lambda *_: answered()
    ) -> None:
        self.home = Home(path)
        self.owners = MemoryOwners()
        self.peers: PeerHops
        self.peers, asking = hops(act)
        self.standby = Standby(
            self.home.keeper,
            self.home.runner,
            cast(Access, self.home.access),
            asking,
            cast(Commits, self.home.commits),
            cast(Owners, self.owners),
            2,
        )
        self.home.keeper.deleting = self.standby._drops.owe

    @property
    def batches(self) -> dict[str, BatchMeta]:
        return self.home.store.batches

    def hear(self, beat: Beat, peer: str = "tallinn", **names: str) -> None:
        asked = request("/beat", msgspec.msgpack.encode(beat), peer, **names)
        asyncio.run(self.standby.take_beat(asked))  # type: ignore[arg-type]

    def beats(self) -> list[Beat]:
        return [
            msgspec.msgpack.decode(body, type=Beat)
            for _, _, path, body in self.peers.told
            if path.endswith("/beat")
        ]


def request(path: str, body: bytes, peer: str, file_id: str = "", **names: str) -> Request:
    told = {"tenant": "t", "key": "k", "class": "public", "country": "FR", "peer": peer} | names
    headers = [(f"x-hanse-{name}".encode(), value.encode()) for name, value in told.items()]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {
        "type": "http", "method": "POST", "path": PREFIX + path, "headers": headers, "query_string": b"",
        "path_params": {"id": file_id},
    }  # fmt: skip
    return Request(scope, receive)


def told_by(home: str, **changes: Any) -> BatchMeta:
    meta = BatchMeta(
        id=new_batch_id(home), tenant="t", key_id="k", data_class="public", country="FR",
        endpoint="/v1/chat/completions", completion_window="24h", input_file_id=new_file_id(home),
        created_at_s=time.time(), expires_at_s=time.time() + 60.0, home=home, standby="lyon", epoch=3,
        status="in_progress", lines=5,
    )  # fmt: skip
    return msgspec.structs.replace(meta, **changes)


def refused(site: Site, beat: Beat, **how: str) -> int:
    with pytest.raises(Problem) as problem:
        site.hear(beat, **how)
    return problem.value.status


def everything(path: Path) -> dict[str, bytes]:
    return {str(one): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


def test_a_standby_keeps_what_a_home_tells(tmp_path: Path) -> None:
    site, meta = Site(tmp_path / "a" / "b"), told_by("tallinn")
    site.hear(Beat(batch=meta, rows=(Row(0, NOTE, b"x"),)))
    assert site.batches == {meta.id: meta}
    assert site.home.commits.kept == {(meta.id, 0): (NOTE, b"x")}


@pytest.mark.parametrize("wrong", ["../../bus", "batch_tallinn_0", "/etc/x", "a.*", ""])
def test_what_has_not_the_form_of_an_id_reaches_no_path(tmp_path: Path, wrong: str) -> None:
    site = Site(tmp_path / "a" / "b")
    (tmp_path / "a" / "bus.json").write_text("secret")
    before = everything(tmp_path)
    file = msgspec.structs.replace(site.home.keeper.new_file(WHO, "a", 1), id=wrong)
    beats = [
        Beat(batch=told_by("tallinn", id=wrong)),
        Beat(batch=told_by("tallinn", input_file_id=wrong)),
        Beat(batch=told_by("tallinn"), files=(file,)),
    ]
    if wrong:
        beats.append(Beat(batch=told_by("tallinn", output_file_id=wrong)))
    for beat in beats:
        assert refused(site, beat) == 400
    with pytest.raises(Problem) as problem:
        asyncio.run(site.standby.take_data(request("/data/x", b"data", "tallinn", wrong)))  # type: ignore[arg-type]
    assert problem.value.status == 400
    assert everything(tmp_path) == before


def test_lines_count_from_0_and_clients_and_other_tenants_tell_nothing(tmp_path: Path) -> None:
    site, meta = Site(tmp_path), told_by("tallinn")
    assert refused(site, Beat(batch=meta, rows=(Row(-1, NOTE, b"x"),))) == 400
    assert refused(site, Beat(batch=meta), tenant="u") == 400
    assert refused(site, Beat(batch=meta), peer="") == 404
    file = msgspec.structs.replace(site.home.keeper.new_file(WHO, "a", 1), tenant="u")
    assert refused(site, Beat(batch=meta, files=(file,))) == 400
    assert not site.batches


def test_nobody_tells_of_a_batch_in_another_tenants_name(tmp_path: Path) -> None:
    """The envelope and the batch agree, and neither is what is known of it."""
    site, meta = Site(tmp_path), told_by("tallinn")
    site.hear(Beat(batch=meta))
    forged = msgspec.structs.replace(meta, tenant="u", epoch=9)
    assert refused(site, Beat(batch=forged), tenant="u") == 404
    assert site.batches[meta.id] == meta


def test_a_home_is_replaced_by_whom_the_hub_names_and_nobody_else(tmp_path: Path) -> None:
    site = Site(tmp_path)
    mine = site.home.change(site.home.begin(3).id, status="in_progress", epoch=3)
    forged = msgspec.structs.replace(mine, home="tallinn", standby="lyon", epoch=99)
    site.owners.is_owned_by("lyon", 3)
    assert refused(site, Beat(batch=forged)) == 403
    site.owners.away = True
    assert refused(site, Beat(batch=forged)) == 503
    site.owners.away, site.owners.last = False, None
    assert refused(site, Beat(batch=forged)) == 403
    assert site.batches[mine.id] == mine
    site.owners.is_owned_by("tallinn", 99)
    site.hear(Beat(batch=forged))
    assert site.batches[mine.id].home == "tallinn"


def test_a_copy_has_the_home_that_made_it_unless_the_hub_says_so(tmp_path: Path) -> None:
    site, meta = Site(tmp_path), told_by("tallinn")
    site.hear(Beat(batch=meta))
    taken = msgspec.structs.replace(meta, home="oslo", epoch=4)
    unknown = msgspec.structs.replace(told_by("tallinn"), home="oslo")
    assert refused(site, Beat(batch=taken), peer="oslo") == 403
    assert refused(site, Beat(batch=unknown), peer="oslo") == 403
    site.owners.is_owned_by("oslo", 4)
    site.hear(Beat(batch=taken), peer="oslo")
    assert site.batches[meta.id].home == "oslo"
    assert refused(site, Beat(batch=meta)) == 409


def test_a_turn_that_comes_while_a_beat_is_written_is_kept(tmp_path: Path) -> None:
    site, meta = Site(tmp_path), told_by("tallinn")
    site.hear(Beat(batch=meta))
    commit = site.home.commits.commit

    async def slow(*what: Any) -> Note:
        site.home.change(meta.id, home="lyon", standby="", epoch=4)
        return await commit(*what)

    site.home.commits.commit = slow  # type: ignore[method-assign]
    assert refused(site, Beat(batch=meta, rows=(Row(1, NOTE, b"x"),))) == 409
    assert (site.batches[meta.id].home, site.batches[meta.id].lost_runs) == ("lyon", 0)


def test_a_home_whose_long_beat_is_on_its_way_is_not_silent(tmp_path: Path) -> None:
    site, meta = Site(tmp_path), told_by("tallinn")
    site.hear(Beat(batch=meta))
    site.owners.is_owned_by("tallinn", 3)
    body = msgspec.msgpack.encode(Beat(batch=meta, rows=(Row(1, NOTE, b"x" * 3000),)))
    pieces = [body[:1000], body[1000:2000], body[2000:]]

    async def receive() -> dict[str, Any]:
        site.standby._heard_at_s[meta.id] -= 0.45 * TAKEOVER_S  # so long for each of three
        await site.standby._watch(site.batches[meta.id])
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    asked = Request(request("/beat", b"", "tallinn").scope, receive)
    asyncio.run(site.standby.take_beat(asked))  # type: ignore[arg-type]
    assert site.batches[meta.id].home == "tallinn"
    assert (meta.id, 1) in site.home.commits.kept


def test_a_beat_that_comes_after_a_later_one_changes_nothing(tmp_path: Path) -> None:
    site, meta = Site(tmp_path), told_by("tallinn")
    late = Beat(batch=meta, rows=(Row(1, NOTE, b"x"),))
    site.hear(Beat(batch=msgspec.structs.replace(meta, status="completed")))
    site.hear(late)
    assert site.batches[meta.id].status == "completed"
    assert (meta.id, 1) not in site.home.commits.kept
    other = told_by("tallinn")
    site.hear(Beat(batch=msgspec.structs.replace(other, epoch=5)))
    site.hear(Beat(batch=other, rows=(Row(1, NOTE, b"x"),)))
    assert site.batches[other.id].epoch == 5
    assert (other.id, 1) not in site.home.commits.kept


def test_a_beat_has_time_for_what_it_carries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, limits_s = Site(tmp_path), []

    async def whole(*_: Any, timeout_s: float) -> Whole:
        limits_s.append(timeout_s)
        return answered()

    monkeypatch.setattr(site.standby._hops, "whole", whole)
    meta = told_by("lyon", standby="tallinn")
    for content in (b"", b"x" * 8_000_000):
        asyncio.run(site.standby._tell("tallinn", meta, rows=(Row(0, NOTE, content),)))
    assert limits_s[0] == pytest.approx(5.0, abs=0.1)
    assert limits_s[1] > 8e6 * 8 / 10e6, "of ten Mbit a second"


def mine(site: Site, lines: int = 5) -> BatchMeta:
    """A batch of this home with a standby, all its lines committed."""
    meta = site.home.begin(lines)
    for line in range(lines):
        site.home.commits.kept[(meta.id, line)] = NOTE, b"%d" % line
    return site.home.change(meta.id, status="in_progress", lines=lines, epoch=3, standby="tallinn")


def test_commits_reach_the_standby_after_a_stream_that_could_not_be_read(tmp_path: Path) -> None:
    site = Site(tmp_path)
    meta = mine(site)
    site.home.commits.away = True
    with pytest.raises(SiteError):
        asyncio.run(site.standby._beat(meta))
    site.home.commits.away = False
    asyncio.run(site.standby._beat(meta))
    site.standby.committed(meta.id, 5, NOTE, b"never read from here")
    site.home.commits.kept[(meta.id, 5)] = NOTE, b"5"
    asyncio.run(site.standby._beat(meta))
    asyncio.run(site.standby._beat(meta))
    sent = [[(row.line, row.content) for row in beat.rows] for beat in site.beats()]
    assert sent == [[(n, b"%d" % n) for n in range(5)], [(5, b"5")], []]


@pytest.mark.parametrize("hub_away", [False, True])
def test_a_home_that_nobody_assures_begins_no_line_before_its_standby_may_take_over(
    tmp_path: Path, hub_away: bool
) -> None:
    answers = [True]

    def act(*_: str) -> Whole:
        if not answers[0]:
            raise SiteError("tallinn", got="nothing", allowed="an answer")
        return answered()

    site = Site(tmp_path, act)
    meta = mine(site)
    site.owners.is_owned_by("lyon", meta.epoch)
    site.standby._hold_unsure(time.monotonic())
    assert site.home.runner.held == {meta.id}, "after a start nobody has said yet that it is ours"
    asyncio.run(site.standby._beat(meta))
    assured_s = time.monotonic()
    site.standby._hold_unsure(assured_s + SURE_S - 1.0)
    assert site.home.runner.held == frozenset()

    answers[0], site.owners.away = False, hub_away
    with pytest.raises(SiteError):
        asyncio.run(site.standby._beat(meta))
    site.standby._hold_unsure(assured_s + SURE_S)
    assert site.home.runner.held == ({meta.id} if hub_away else frozenset()), "the hub vouches too"
    assert assured_s + SURE_S < assured_s + TAKEOVER_S - 2.0, "the standby's turn comes later"

    answers[0] = True
    asyncio.run(site.standby._beat(meta))
    site.standby._hold_unsure(time.monotonic())
    assert site.home.runner.held == frozenset()


def test_nothing_of_a_refused_beat_is_taken_for_sent(tmp_path: Path) -> None:
    status = [503, 200]
    site = Site(tmp_path, lambda *_: answered(status.pop(0)))
    meta = mine(site)
    with pytest.raises(SiteError):
        asyncio.run(site.standby._beat(meta))
    asyncio.run(site.standby._beat(meta))
    assert [len(beat.rows) for beat in site.beats()] == [5, 5]


def test_runs_of_a_replaced_home_are_counted_once(tmp_path: Path) -> None:
    """The new home counts those of the beat that it refuses; what was not in it is told later."""
    site = Site(tmp_path, lambda *_: answered(409))
    meta = mine(site, 40)
    for line in range(40):
        site.home.commits.kept[(meta.id, line)] = NOTE, bytes(200_000)
    site.owners.is_owned_by("tallinn", 9)
    asyncio.run(site.standby._beat(meta))
    sent = {row.line for row in site.beats()[0].rows}
    owed = {row.line for row in site.standby._owed[meta.id][1]}
    assert sent and owed and not sent & owed and len(sent | owed) == 40
    assert site.batches[meta.id].home == "tallinn"


def test_who_has_a_copy_from_a_copy_hears_of_a_deletion_too(tmp_path: Path) -> None:
    """And so do bytes go of which nobody said what they are."""
    site = Site(tmp_path)
    drops = Drops("lyon", site.home.store, cast(Any, site.peers))
    file_id = new_file_id("tallinn")
    file = msgspec.structs.replace(site.home.keeper.new_file(WHO, "a", 1), id=file_id)
    site.home.store.data_path(file_id).write_bytes(b"x")
    site.home.store.keep_copy(file, "tallinn")
    site.home.store.sends(file_id, "oslo")
    site.home.store.sends(file_id, "tallinn")
    asyncio.run(drops.take(request("/data/x", b"", "tallinn", file_id)))
    assert [drop.sites for drop in Store(tmp_path).drops.values()] == [("oslo",)]
    assert not site.home.store.sent and not Store(tmp_path).sent

    site.home.store.data_path(file_id).write_bytes(b"x")
    for peer, left in (("oslo", True), ("tallinn", False)):
        with pytest.raises(Problem):
            asyncio.run(drops.take(request("/data/x", b"", peer, file_id)))
        assert site.home.store.data_path(file_id).exists() == left


def test_pauses_double_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s, waited = 100.0, []
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    pauses = Pauses()
    for _ in range(5):
        pauses.failed("a", 3.0)
        began_s = now_s
        while not pauses.over("a"):
            now_s += 0.25
        waited.append(now_s - began_s)
    assert waited == [0.5, 1.0, 2.0, 3.0, 3.0]
    pauses.forget("a")
    assert pauses.over("a") and pauses.over("b")


def copies(site: Site) -> FileMeta:
    """The input file of a batch that ended here, of which tallinn has a copy."""
    meta = site.home.begin(1)
    site.home.change(meta.id, status="completed", standby="tallinn")
    return site.home.store.files[meta.input_file_id]


def test_a_deleted_file_is_deleted_at_its_standby_as_soon_as_that_hears(tmp_path: Path) -> None:
    status = [503, 200]
    site = Site(tmp_path, lambda *_: answered(status.pop(0)))
    file = copies(site)
    site.home.keeper.delete_file(file.id)
    assert file.id not in site.home.store.files
    again = Site(tmp_path, lambda *_: answered(status.pop(0)))  # after a crash
    (drop,) = again.home.store.drops.values()
    asyncio.run(again.standby._drops._tell(drop))
    assert list(again.home.store.drops) == [file.id]
    assert not again.standby._drops._pauses.over(file.id)
    asyncio.run(again.standby._drops._tell(drop))
    asked = ("tallinn", "DELETE", f"{PREFIX}/data/{file.id}", b"")
    assert again.peers.told == [asked, asked]
    assert not Site(tmp_path).home.store.drops


def test_a_home_that_lost_a_batch_keeps_nothing_of_it_for_ever(tmp_path: Path) -> None:
    """Nobody tells it of the end."""
    site = Site(tmp_path, lambda *_: answered(409))
    meta, store = mine(site), site.home.store
    file_id = meta.input_file_id
    assert (store.queued_lines("t", "lyon"), store.in_use(file_id, "lyon")) == (5, True)
    site.owners.is_owned_by("tallinn", 9)
    asyncio.run(site.standby._beat(meta))
    assert (store.queued_lines("t", "lyon"), store.in_use(file_id, "lyon")) == (0, False)
    site.home.change(meta.id, expires_at_s=0.0)
    store.files[file_id] = msgspec.structs.replace(store.files[file_id], expires_at_s=0.0)
    site.home.keeper._expire_files()
    assert not store.batches and not store.data_path(file_id).exists()


def test_what_runs_here_does_not_go_by_its_age(tmp_path: Path) -> None:
    site = Site(tmp_path)
    meta = site.home.change(mine(site).id, expires_at_s=0.0)
    site.home.keeper._expire_files()
    assert site.batches == {meta.id: meta}


def test_a_file_without_copies_is_nobody_elses_business(tmp_path: Path) -> None:
    site = Site(tmp_path)
    file = site.home.upload(1)
    site.home.keeper.delete_file(file.id)
    assert not site.home.store.drops


def test_a_copy_is_deleted_by_sites_that_have_to_do_with_it(tmp_path: Path) -> None:
    site = Site(tmp_path)
    drops = Drops("lyon", site.home.store, cast(Any, site.peers))
    meta = told_by("tallinn")
    file = msgspec.structs.replace(site.home.keeper.new_file(WHO, "a", 1), id=meta.input_file_id)
    site.home.store.data_path(file.id).write_bytes(b"x")
    site.hear(Beat(batch=meta, files=(file,)))

    def drop(peer: str, **names: str) -> int:
        try:
            asyncio.run(drops.take(request("/data/x", b"", peer, file.id, **names)))
        except Problem as problem:
            return problem.status
        return 200

    assert drop("") == 404
    assert drop("oslo") == 404
    assert drop("tallinn", tenant="u") == 404
    assert drop("tallinn") == 409, "its batch has not ended"
    site.hear(Beat(batch=msgspec.structs.replace(meta, status="completed")))
    assert drop("tallinn") == 200
    assert not site.home.store.data_path(file.id).exists()
    assert drop("tallinn") == 404


def test_a_file_that_is_deleted_while_its_copy_comes_leaves_nothing(tmp_path: Path) -> None:
    there = Site(tmp_path)
    file_id = result_file_id("tallinn", "batch_tallinn_x", "output")
    parts = [b"secret " * 1000, b"end"]

    async def test() -> None:
        began, go = asyncio.Event(), asyncio.Event()

        async def receive() -> dict[str, Any]:
            if len(parts) == 1:
                began.set()
                await go.wait()
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        copy = request(f"/data/{file_id}", b"", "tallinn", file_id)
        copy._receive = receive
        copying = asyncio.create_task(there.standby.take_data(copy))
        await began.wait()
        with pytest.raises(Problem) as gone:
            await there.standby._drops.take(request(f"/data/{file_id}", b"", "tallinn", file_id))
        assert gone.value.status == 404
        go.set()
        with pytest.raises(Problem):
            await copying
        assert not there.home.store.data_path(file_id).exists()
        assert not list(there.home.store.home.glob("files/*"))

    asyncio.run(test())
