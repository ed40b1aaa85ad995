"""A home follows the schedule: where and how many lines begin, what it does without one, what it tells the controller; and lost inputs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

import views
from hanse.dispatch.follow import PACE_SHARE, SiteSchedule, WorkPlan, WorkRun
from hanse.live.batch.follow import BatchReport, Follower, OpenBatch, job_id, whole_lines
from hanse.live.batch.values import BatchMeta
from hanse.live.jobs import SILENT_S, JobBook
from live.batch.home import Home, answered
from live.batch.test_keeper import ended, run, until

SITES = ("lyon", "tallinn")


class FakeWork:
    """As much of a `Work` as a schedule looks at."""

    def __init__(self, batch_id: str) -> None:
        self.id = batch_id
        self.index = range(100_000)
        self.left = 100_000
        self.created_at_s, self.expires_at_s = 0.0, 1e9
        self.step: tuple[object, int] = (None, -1)
        self.begun: dict[str, float] = {}


def plan(
    meta: BatchMeta,
    lines: float,
    shares: dict[str, tuple[float, ...]],
    *,
    step_s: float = 300.0,
    need_s: float = 1.0,
    start_s: float = 0.0,
    issued_at_s: float = 0.0,
) -> bytes:
    now_s = start_s or time.time() - 1.0
    work = WorkPlan(
        job=job_id(meta.id),
        start_s=now_s,
        step_s=(step_s,) * len(next(iter(shares.values()), (1.0,))),
        runs=tuple(WorkRun(site=site, shares=share) for site, share in shares.items()),
        need_s=need_s,
        requests=lines,
    )
    told = SiteSchedule(
        site="lyon",
        epoch=1,
        issued_at_s=issued_at_s or time.time(),
        valid_s=7200.0,
        works=(work,),
    )
    return msgspec.msgpack.encode(told)


def scheduled(home: Home) -> Follower:
    home.runner.follower = Follower("lyon", scheduled=True)
    return home.runner.follower


def sent(home: Home) -> Counter[str]:
    return Counter(home.lines.sent_to)


def test_lines_begin_where_and_as_many_as_planned(tmp_path: Path) -> None:
    home = Home(tmp_path)
    meta = home.begin(100)
    follower = scheduled(home)

    async def test() -> None:
        follower.take(plan(meta, 100.0, {"tallinn": (0.25, 0.0), "lyon": (0.1, 0.0)}))
        await until(lambda: len(home.lines.sent) >= 35)
        await asyncio.sleep(0.3)
        assert sent(home) == {"tallinn": 25, "lyon": 10}, "and no more in this step"
        follower.take(plan(meta, 65.0, {"lyon": (1.0, 1.0)}, step_s=2.0))
        await until(ended(home, meta.id))
        assert sent(home) == {"tallinn": 25, "lyon": 75}

    run(home, test)


@given(
    st.integers(0, 60),
    st.lists(st.floats(1.0, 400.0), min_size=1, max_size=30),
    st.integers(1, 60),
    st.floats(0.0, 60.0),
)
def test_schedules_made_anew_let_no_more_begin_than_one(
    lines: int, apart_s: list[float], at_once: int, late_s: float
) -> None:
    """However often a schedule comes that plans as much for each step: at most a step's lines, and what its pace comes to since."""
    follower, step_s, now_s, begun = Follower("lyon", scheduled=True), 300.0, 1000.0, 0
    meta = cast(BatchMeta, SimpleNamespace(id=f"batch_lyon_{1:024x}"))
    work = cast(Any, FakeWork(meta.id))
    for gap_s in apart_s:
        share = lines / work.left
        shares = {"lyon": (share,) * 3}
        heard_s = now_s - min(late_s, gap_s)
        follower.take(plan(meta, work.left, shares, start_s=heard_s, issued_at_s=now_s))
        for part in range(4):
            room = follower.room(work, now_s + gap_s * part / 4.0)
            begins = min(int(room.get("lyon", 0.0) + 1e-6), at_once)
            work.begun["lyon"] = work.begun.get("lyon", 0.0) + begins
            begun += begins
        now_s += gap_s
        steps = 1.0 + (now_s - 1000.0) / step_s
        assert begun <= lines * steps + len(apart_s) * 1e-6
        work.left -= begins


def test_a_line_that_found_no_room_was_not_begun(tmp_path: Path) -> None:
    full = {"left": 30}

    def act(_: bytes) -> Any:
        full["left"] -= 1
        return answered(503 if full["left"] > 0 and full["left"] % 2 else 200)

    home = Home(tmp_path, act)
    meta = home.begin(20)
    scheduled(home).take(plan(meta, 20.0, {"tallinn": (1.0,)}))

    async def test() -> None:
        await until(ended(home, meta.id))
        assert home.store.batches[meta.id].tally.completed == 20

    run(home, test)


def test_a_deadline_that_presses_sends_lines_wherever_there_is_room(tmp_path: Path) -> None:
    home = Home(tmp_path)
    meta = home.begin(30)
    scheduled(home).take(plan(meta, 30.0, {"tallinn": (0.0, 1.0)}, need_s=1e9))

    async def test() -> None:
        await until(ended(home, meta.id))
        assert sent(home) == {"": 30}

    run(home, test)


def test_without_a_plan_lines_are_spread_over_the_window(tmp_path: Path) -> None:
    home = Home(tmp_path)
    meta = home.begin(600, window="1m")
    scheduled(home)

    async def test() -> None:
        began_s = time.time()
        await until(lambda: len(home.lines.sent) >= 30)
        took_s = time.time() - began_s
        even_s = 30 / 600 * PACE_SHARE * 60.0
        assert took_s >= 0.5 * even_s, "it does not run ahead"
        await until(lambda: len(home.lines.sent) >= 60)
        assert set(home.lines.sent_to) == {""}
        home.change(meta.id, status="cancelling")
        await until(ended(home, meta.id))

    run(home, test)


def test_where_nothing_is_scheduled_lines_run_at_once(tmp_path: Path) -> None:
    home = Home(tmp_path)
    meta = home.begin(200, window="30d")

    async def test() -> None:
        await until(ended(home, meta.id))
        assert sent(home) == {"": 200}

    run(home, test)


def test_an_older_schedule_and_another_sites_are_none() -> None:
    follower = Follower("lyon", scheduled=True)
    one = SiteSchedule(site="lyon", epoch=2, issued_at_s=10.0, valid_s=1.0)
    follower.take(msgspec.msgpack.encode(one))
    for other in (
        msgspec.structs.replace(one, epoch=1, issued_at_s=99.0),
        msgspec.structs.replace(one, issued_at_s=9.0),
        msgspec.structs.replace(one, site="tallinn", epoch=3),
    ):
        follower.take(msgspec.msgpack.encode(other))
        assert follower.schedule == one
    follower.take(b"\xc1")
    assert follower.schedule == one


@given(
    st.lists(st.floats(0.0, 0.3), min_size=1, max_size=40),
    st.floats(1.0, 5000.0),
)
def test_steps_of_less_than_a_line_are_a_line_now_and_then(
    shares: list[float], left: float
) -> None:
    each = [whole_lines(tuple(shares), step, left) for step in range(len(shares))]
    assert all(lines >= 0 and lines == int(lines) for lines in each)
    assert abs(sum(each) - left * sum(shares)) <= 1.0


# --- what the controller is told


def opened(number: int, **how: Any) -> OpenBatch:
    known: dict[str, Any] = {
        "id": f"batch_lyon_{number:024x}",
        "tenant": "t",
        "data_class": "public",
        "country": "FR",
        "service": "chat",
        "lines": 100,
        "left": 50,
        "bytes_left": 5000,
        "input_tokens": 30.0,
        "output_tokens": 8.0,
        "created_at_s": 0.0,
        "expires_at_s": 3600.0,
    }
    return OpenBatch(**(known | how))


def told(book: JobBook, site: str, now_s: float, *batches: OpenBatch) -> None:
    report = BatchReport(site=site, at_s=now_s, batches=batches)
    book.hear(msgspec.msgpack.encode(report), site, now_s)


def test_jobs_are_told_when_they_come_go_or_move_and_else_seldom() -> None:
    book = JobBook(30.0)
    assert book.due(0.0) is None
    told(book, "lyon", 0.0, opened(1))
    first = book.due(0.0)
    assert first is not None and [j.requests for j in first.jobs] == [50.0]
    told(book, "lyon", 2.0, opened(1, left=40))
    assert book.due(2.0) is None, "progress alone can wait"
    told(book, "lyon", 3.0, opened(1, left=40), opened(2))
    second = book.due(3.0)
    assert second is not None and len(second.jobs) == 2
    told(book, "lyon", 32.0, opened(1, left=10), opened(2))
    assert book.due(32.0) is None
    told(book, "lyon", 34.0, opened(1, left=9), opened(2))
    third = book.due(34.0)
    assert third is not None and third.jobs[0].requests == 9.0
    told(book, "lyon", 36.0)
    fourth = book.due(36.0)
    assert fourth is not None and fourth.jobs == ()


def test_a_peak_of_last_month_is_not_paid_any_more() -> None:
    book, told = JobBook(30.0), []
    for at_s, peak_kw in ((0.0, 0.0), (40.0, 120.0), (80.0, 0.0), (120.0, 3.0)):
        status = views.status("lyon")
        power = msgspec.structs.replace(status.power, peak_import_kw=peak_kw)
        book.see(msgspec.structs.replace(status, power=power))
        due = book.due(at_s)
        told.append(due and due.measured.peak_import_kw)
    assert told == [None, {"lyon": 120.0}, {"lyon": 0.0}, {"lyon": 3.0}]


def test_of_two_homes_the_later_owner_counts_and_a_silent_one_does_not() -> None:
    book = JobBook(30.0)
    told(book, "lyon", 0.0, opened(1, epoch=1))
    told(book, "tallinn", 1.0, opened(1, epoch=2))
    found = book.due(1.0)
    assert found is not None and [j.home for j in found.jobs] == ["tallinn"]
    told(book, "lyon", SILENT_S + 2.0, opened(1, epoch=1))
    later = book.due(SILENT_S + 2.0)
    assert later is not None and [j.home for j in later.jobs] == ["lyon"]


def test_a_site_speaks_for_itself_only() -> None:
    book = JobBook(30.0)
    report = BatchReport(site="tallinn", at_s=0.0, batches=(opened(1),))
    book.hear(msgspec.msgpack.encode(report), "lyon", 0.0)
    book.hear(b"\xc1", "lyon", 0.0)
    assert book.due(0.0) is None


# --- an input that is gone


@pytest.mark.parametrize("when", ["before it is checked", "before a restart", "while it runs"])
def test_a_batch_whose_input_is_gone_fails_and_says_so(tmp_path: Path, when: str) -> None:
    lines = {"answered": 0, "most": 12}

    def act(_: bytes) -> Any:
        lines["answered"] += 1
        return answered(200 if lines["answered"] <= lines["most"] else 503)

    home = Home(tmp_path, act)
    meta = home.begin(400)  # more than a reader holds at once
    path = home.store.data_path(meta.input_file_id)

    async def some() -> None:
        await until(lambda: lines["answered"] > 12)

    async def fails(at: Home) -> None:
        await until(ended(at, meta.id), 20.0)
        done = at.store.batches[meta.id]
        assert done.status == "failed"
        assert [e.code for e in done.errors] == ["input_file_gone"]
        good = at.rows(done.output_file_id)
        if when != "before it is checked":
            assert len(good) == done.tally.completed >= 12
            assert done.tally.completed + done.tally.failed == 400
            assert meta.id in at.commits.forgotten

    async def truncated() -> None:
        await some()
        path.write_bytes(b"{" * path.stat().st_size)
        lines["most"] = 1000
        await fails(home)

    if when == "before it is checked":
        path.unlink()
        run(home, lambda: fails(home))
    elif when == "while it runs":
        run(home, truncated)
    else:
        run(home, some)
        path.unlink()
        again = Home(tmp_path, lambda _: answered(200), home.commits)
        run(again, lambda: fails(again))
