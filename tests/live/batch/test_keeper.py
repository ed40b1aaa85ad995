"""What becomes of batches when something goes wrong between two steps: results are never lost, lines never stuck."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from hanse.errors import SiteError
from hanse.live.batch.asking import NotSent, Whole
from hanse.live.batch.commits import Note
from hanse.live.batch.values import BatchMeta
from hanse.live.bus import PAYLOAD_BYTES_MAX
from live.batch.home import Home, MemoryCommits, answered

OK = Note(run="r", ok=True)


async def until(claim: Callable[[], bool], limit_s: float = 10.0) -> None:
    end_s = time.monotonic() + limit_s
    while not claim():
        assert time.monotonic() < end_s, "did not come true in time"
        await asyncio.sleep(0.01)


def run(home: Home, test: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        tasks = [asyncio.create_task(one.run()) for one in (home.runner, home.keeper)]
        try:
            await test()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for work in home.runner.works.values():
                work.close(ended=False)

    asyncio.run(whole())


def ended(home: Home, batch_id: str) -> Callable[[], bool]:
    return lambda: home.store.batches[batch_id].ended


def half_done(tmp_path: Path, status: str = "in_progress") -> tuple[Home, BatchMeta]:
    """Five lines, two of them committed, when the process died; services and keys have changed since."""
    before = Home(tmp_path)
    meta = before.begin(5)
    before.change(meta.id, status=status, lines=5, model="m")
    home = Home(tmp_path, lambda _: answered(404, b"{}"), before.commits)
    home.access.known = False
    for line in range(2):
        home.commits.kept[(meta.id, line)] = OK, b'{"custom_id":"c%d"}' % line
    return home, home.store.batches[meta.id]


def test_a_service_that_is_gone_costs_no_result_of_before(tmp_path: Path) -> None:
    home, meta = half_done(tmp_path)

    async def test() -> None:
        await until(ended(home, meta.id))
        done = home.store.batches[meta.id]
        assert (done.status, done.tally.completed, done.tally.failed) == ("completed", 2, 3)
        assert [row["custom_id"] for row in home.rows(done.output_file_id)] == ["c0", "c1"]
        assert [row["custom_id"] for row in home.rows(done.error_file_id)] == ["c2", "c3", "c4"]
        assert home.commits.forgotten[-1:] == [meta.id]

    run(home, test)


def test_a_cancel_after_a_restart_writes_what_there_is(tmp_path: Path) -> None:
    home, meta = half_done(tmp_path, "cancelling")

    async def test() -> None:
        await until(ended(home, meta.id))
        done = home.store.batches[meta.id]
        assert done.status == "cancelled"
        assert len(home.rows(done.output_file_id)) == 2
        assert len(home.rows(done.error_file_id)) == 3

    run(home, test)


def test_a_batch_that_was_finalizing_does_not_expire(tmp_path: Path) -> None:
    home, meta = half_done(tmp_path, "finalizing")
    for line in range(5):
        home.commits.kept[(meta.id, line)] = OK, b'{"custom_id":"c%d"}' % line
    home.change(meta.id, expires_at_s=time.time() - 1.0)

    async def test() -> None:
        await until(ended(home, meta.id))
        done = home.store.batches[meta.id]
        assert (done.status, done.tally.completed) == ("completed", 5)

    run(home, test)


def test_files_that_are_written_twice_are_the_same_files(tmp_path: Path) -> None:
    """The process dies between writing them and saying so."""
    home, meta = half_done(tmp_path)

    async def test() -> None:
        found = []
        for _ in range(2):
            work = home.keeper._work(meta, await home.keeper._index(meta))
            await work.recall(home.commits)  # type: ignore[arg-type]
            found.append(await home.keeper._write(meta, work, "expired"))
            work.close(ended=False)
        assert found[0] == found[1]

    asyncio.run(test())
    results = [one for one in home.store.files.values() if one.purpose == "batch_output"]
    assert len(results) == len(list((tmp_path / "files").glob("*.data"))) - 1 == 2


def test_a_stream_that_breaks_off_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The step is done again twice a second for as long as that goes on."""
    home, meta = half_done(tmp_path, "cancelling")
    read = home.commits.read

    async def breaks(batch_id: str) -> AsyncIterator[tuple[int, Note, bytes]]:
        async for found in read(batch_id):
            yield found
            raise SiteError("bus", got="nothing", allowed="an answer")

    async def notes(batch_id: str) -> AsyncIterator[tuple[int, Note]]:
        async for line, note, _ in read(batch_id):
            yield line, note

    home.commits.read, home.commits.notes = breaks, notes  # type: ignore[method-assign]
    before = sorted((tmp_path / "files").iterdir())

    async def test() -> None:
        for _ in range(3):
            with pytest.raises(SiteError):
                await home.keeper._end(home.store.batches[meta.id], "cancelled")
            assert sorted((tmp_path / "files").iterdir()) == before
        home.commits.read = read  # type: ignore[method-assign]
        await home.keeper._end(home.store.batches[meta.id], "cancelled")
        assert len(home.rows(home.store.batches[meta.id].output_file_id)) == 2

    asyncio.run(test())


def test_a_batch_that_is_lost_while_it_resumes_is_not_run_again(tmp_path: Path) -> None:
    """Its commits were forgotten with it, so that every line would look as if it waited."""
    home, meta = half_done(tmp_path)
    notes = home.commits.notes

    async def lost(batch_id: str) -> AsyncIterator[tuple[int, Note]]:
        home.change(meta.id, home="tallinn", standby="")
        await home.commits.forget(batch_id)
        async for found in notes(batch_id):
            yield found

    home.commits.notes = lost  # type: ignore[method-assign]
    asyncio.run(home.keeper._resume(meta))
    assert not home.runner.works


@pytest.mark.parametrize("how", ["cancelled", "expired"])
def test_lines_stop_at_once_where_the_last_word_waits_for_the_hub(tmp_path: Path, how: str) -> None:
    home = Home(tmp_path)
    flying, broken_off = [0], [0]

    async def post(*_: object) -> Whole:
        flying[0] += 1
        try:
            await asyncio.Event().wait()
        finally:
            broken_off[0] += 1
        raise AssertionError

    home.lines.post = post  # type: ignore[method-assign,assignment]
    meta = home.begin(10)
    hub = asyncio.Event()

    async def may_end(_: BatchMeta) -> bool:
        if not hub.is_set():
            raise SiteError("hub", got="nothing", allowed="an answer")
        return True

    home.keeper.may_end = may_end

    async def test() -> None:
        await until(lambda: flying[0] > 0)
        if how == "cancelled":
            home.keeper.cancel(meta.id)
        else:
            home.change(meta.id, expires_at_s=time.time() - 1.0)
        await until(lambda: broken_off[0] == flying[0])
        sent = flying[0]
        home.runner._wake.set()
        await asyncio.sleep(0.05)
        assert flying[0] == sent and not home.store.batches[meta.id].ended
        hub.set()
        await until(ended(home, meta.id))
        done = home.store.batches[meta.id]
        assert (done.status, done.tally.failed) == (how, 10)

    run(home, test)


def test_one_batch_that_fills_the_stream_fails_and_others_go_on(tmp_path: Path) -> None:
    """All of both wait for room when it is full."""
    home = Home(tmp_path, lambda body: answered(body=b'"%b"' % (b"x" * 5000)))
    home.commits.bytes_max = 400_000
    large, small = home.begin(200), home.begin(20)

    async def test() -> None:
        await until(ended(home, small.id), 20.0)
        await until(ended(home, large.id), 20.0)
        done, failed = (home.store.batches[one.id] for one in (small, large))
        assert (done.status, done.tally.completed) == ("completed", 20)
        assert (failed.status, failed.errors[0].code) == ("failed", "output_too_large")
        output, errors = home.rows(failed.output_file_id), home.rows(failed.error_file_id)
        assert output and len(output) + len(errors) == 200
        assert failed.tally.completed == len(output) and failed.tally.failed == len(errors)
        assert {row["error"]["code"] for row in errors} == {"output_too_large"}
        assert not home.runner._tasks and not home.commits.kept

    run(home, test)


def test_what_others_changed_meanwhile_stays(tmp_path: Path) -> None:
    """A standby was chosen while the last word was said."""
    home, meta = half_done(tmp_path)

    async def test() -> None:
        async def may_end(_: BatchMeta) -> bool:
            home.change(meta.id, standby="tallinn", epoch=7)
            return True

        home.keeper.may_end = may_end
        write = home.keeper._write

        async def slow(*what: object) -> dict[str, object]:
            home.change(meta.id, standby="oslo")
            return await write(*what)  # type: ignore[arg-type]

        home.keeper._write = slow  # type: ignore[method-assign]
        await until(ended(home, meta.id))
        done = home.store.batches[meta.id]
        assert (done.standby, done.epoch) == ("oslo", 7)

    run(home, test)


def test_commits_that_could_not_be_forgotten_are_at_the_next_start(tmp_path: Path) -> None:
    before = Home(tmp_path)
    meta = before.begin(1)
    before.change(meta.id, status="completed")
    before.commits.kept[(meta.id, 0)] = OK, b"{}"
    home = Home(tmp_path, commits=before.commits)
    home.commits.away = True

    async def test() -> None:
        await asyncio.sleep(0.05)
        home.commits.away = False
        await until(lambda: not home.commits.kept)

    run(home, test)


def test_an_answer_that_no_message_holds_is_an_error_row(tmp_path: Path) -> None:
    """Once as it came, once as it grew when it was written as JSON, once more than was read at all."""
    answers = [
        answered(body=b'"%b"' % (b"x" * PAYLOAD_BYTES_MAX)),
        answered(body=b"\x01" * (PAYLOAD_BYTES_MAX // 2)),
        Whole(200, {"x-request-id": "r"}, b"", too_large=True),
        answered(),
    ]
    home = Home(tmp_path, lambda _: answers.pop())
    meta = home.begin(4)

    async def test() -> None:
        await until(ended(home, meta.id))
        done = home.store.batches[meta.id]
        assert (done.tally.completed, done.tally.failed) == (1, 3)
        errors = [row["error"]["code"] for row in home.rows(done.error_file_id)]
        assert errors == ["answer_too_large"] * 3

    run(home, test)


def test_a_full_disk_and_a_gateway_that_is_away_cost_time_and_no_run(tmp_path: Path) -> None:
    trouble: list[Exception] = [NotSent("no gateway"), NotSent("no gateway")]

    def act(_: bytes) -> Whole:
        if trouble:
            raise trouble.pop()
        return answered()

    home = Home(tmp_path, act)
    meta = home.begin(3)

    async def test() -> None:
        work = None
        while work is None:
            await asyncio.sleep(0)
            work = home.runner.works.get(meta.id)
        begun, full = work.runs.begun, [OSError("no space left")]

        def noted(line: int) -> None:
            if full:
                raise full.pop()
            begun(line)

        work.runs.begun = noted  # type: ignore[method-assign]
        await until(ended(home, meta.id))
        done = home.store.batches[meta.id]
        assert (done.status, done.tally.completed, done.tally.extra_runs) == ("completed", 3, 0)

    run(home, test)


def test_a_batch_without_room_does_not_slow_another(tmp_path: Path) -> None:
    home = Home(tmp_path, lambda body: answered(503 if b'"stuck"' in body else 200))
    stuck = home.begin(20)
    path = home.store.data_path(stuck.input_file_id)
    path.write_bytes(path.read_bytes().replace(b'"m"', b'"stuck"'))
    free = home.begin(200)

    async def test() -> None:
        began_s = time.monotonic()
        await until(ended(home, free.id))
        assert time.monotonic() - began_s < 4.0, "200 lines that are answered at once"
        assert home.runner.works[stuck.id].lane("").window == 1.0

    run(home, test)


def test_the_stream_of_a_home_outlives_it(tmp_path: Path) -> None:
    commits = MemoryCommits()
    home = Home(tmp_path, commits=commits)
    meta = home.begin(3)

    async def test() -> None:
        await until(ended(home, meta.id))
        assert not commits.kept
        assert len(home.rows(home.store.batches[meta.id].output_file_id)) == 3

    run(home, test)


@pytest.mark.parametrize("lines", [1, 50])
def test_an_engine_that_is_gone_for_a_second_costs_no_line_its_answer(
    tmp_path: Path, lines: int
) -> None:
    back_at_s = time.monotonic() + 60.0

    def act(_: bytes) -> Whole:
        nonlocal back_at_s
        now_s = time.monotonic()
        back_at_s = min(back_at_s, now_s + 1.0)
        return answered(502 if now_s < back_at_s else 200)

    home = Home(tmp_path, act)
    meta = home.begin(lines)

    async def test() -> None:
        await until(ended(home, meta.id))
        tally = home.store.batches[meta.id].tally
        assert (tally.completed, tally.failed) == (lines, 0)

    run(home, test)


def test_a_line_that_every_engine_fails_at_stops_no_other(tmp_path: Path) -> None:
    quiet: list[float] = []

    def act(body: bytes) -> Whole:
        quiet.append(home.runner.works[meta.id].lane("").quiet_until_s)
        return answered(500 if json.loads(body)["n"] == 0 else 200)

    home = Home(tmp_path, act)
    meta = home.begin(50)

    async def test() -> None:
        await until(ended(home, meta.id))
        tally = home.store.batches[meta.id].tally
        assert (tally.completed, tally.failed) == (49, 1)
        assert quiet[:51] == [0.0] * 51, "the last 49, and the first twice"
        assert len(quiet) == 49 + 5

    run(home, test)
