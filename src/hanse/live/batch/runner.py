"""Which line is sent next, and what its answer means.

Here: one loop over all batches of this home, taken in turn; each has, for each site that a schedule sends it to, a window of lines in flight
that opens by one with each round of answers and closes by a third when there is no room to spare, and no more than so many are in flight
in all; committing. Not here: where and how many a schedule lets begin (`follow`), room at engines and giving way (`live.gateway.spare`),
what becomes of a batch (`keeper`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection
from typing import Final

from hanse.errors import SiteError
from hanse.live.batch.asking import Lines, NotSent, Whole
from hanse.live.batch.commits import STREAM_BYTES_MAX, Commits, Note, StreamFull
from hanse.live.batch.follow import Follower
from hanse.live.batch.lines import Line
from hanse.live.batch.work import Broken, Lane, OutputFull, Verdict, Work, extra_of, measured_of
from hanse.live.keep_on import end_if_cancelled
from hanse.live.logline import log_line

NO_ROOM_S: Final = 0.25
"""Nothing is sent for so long after engines were full: four tries a second cost a gateway nothing."""
GONE_S: Final = 0.5
"""The same where the gateway itself did not answer: it is restarted within a quarter second to seconds."""
FAILING_S: Final = 0.5
"""The same where engines fail: with it the tries of a line take longer than the second in which an engine that is gone is noticed."""
COMMIT_AGAIN_S: Final = 0.5
LOOK_S: Final = 1.0
"""The longest sleep of the loop."""


class Runner:
    """The lines of one home."""

    def __init__(
        self,
        lines: Lines,
        commits: Commits,
        at_once_max: int,
        progressed: Callable[[Work], None],
        follower: Follower | None = None,
    ) -> None:
        self.follower = follower or Follower("", scheduled=False)
        self.works: dict[str, Work] = {}
        self._lines = lines
        self._commits = commits
        self.at_once_max = at_once_max
        self.held: frozenset[str] = frozenset()
        """Batches of which no line is begun."""
        self._progressed = progressed
        self.committed: Callable[[str, int, Note, bytes], None] = lambda *_: None
        """Told of every commit of this home."""
        self._tasks: dict[asyncio.Task[None], Work] = {}
        self._wake = asyncio.Event()
        self._relieving = asyncio.Lock()

    def add(self, work: Work) -> None:
        """Begin with a batch."""
        self.works[work.id] = work
        self._wake.set()

    def hold(self, batch_ids: Collection[str]) -> None:
        """Begin no line of these from now on, and of those no more that were held before."""
        if self.held != frozenset(batch_ids):
            self.held = frozenset(batch_ids)
            self._wake.set()

    async def remove(self, batch_id: str) -> Work | None:
        """Stop with a batch: what is in flight is broken off."""
        await self.stop(batch_id)
        self.follower.forget(batch_id)
        return self.works.pop(batch_id, None)

    async def stop(self, batch_id: str) -> None:
        """Begin no line of it any more, and break off what is in flight."""
        work = self.works.get(batch_id)
        if work is None:
            return
        work.over = True
        tasks = [task for task, of in self._tasks.items() if of is work]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            while True:
                self._wake.clear()
                while len(self._tasks) < self.at_once_max and self._start_one():
                    pass
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._wait_s()):
                        await self._wake.wait()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _wait_s(self) -> float:
        """Until a batch that is quiet may send again; ends of lines wake this loop by themselves."""
        now_s = asyncio.get_running_loop().time()
        quiet = [
            lane.quiet_until_s - now_s
            for work in self.works.values()
            for lane in work.lanes.values()
            if work.waiting
        ]
        return max(0.02, min([LOOK_S, *(wait_s for wait_s in quiet if wait_s > 0.0)]))

    def _start_one(self) -> bool:
        """The next line of the batch whose turn it is; False where none may be sent."""
        for batch_id in tuple(self.works):
            work = self.works.pop(batch_id)
            self.works[batch_id] = work  # to the end of the row
            stopped = work.over or work.broken is not None or batch_id in self.held
            begins = work.waiting and not stopped
            at = self._lane(work) if begins else None
            if at is not None:
                self._start(work, at)
                return True
        return False

    def _lane(self, work: Work) -> str | None:
        """Where its next line goes; None: nowhere now."""
        now_s = asyncio.get_running_loop().time()
        room = self.follower.room(work, time.time())
        return next((at for at in room if work.lane(at).open(now_s)), None)

    def _start(self, work: Work, at: str) -> None:
        number = work.waiting.popleft()
        work.running.add(number)
        work.lane(at).running += 1
        work.begun[at] = work.begun.get(at, 0.0) + 1.0
        task = asyncio.create_task(self._one(work, number, at, work.step))
        self._tasks[task] = work
        task.add_done_callback(self._ended)

    def _not_begun(self, work: Work, at: str, step: object) -> None:
        """It was counted in a step of the schedule, and no engine got it."""
        if work.step == step:
            work.begun[at] = max(0.0, work.begun.get(at, 0.0) - 1.0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        del self._tasks[task]
        self._wake.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            log_line(f"batch: a line ended with {error!r}")

    async def _one(self, work: Work, number: int, at: str, step: object) -> None:
        sent = False
        try:
            line = work.line(number)
            work.runs.begun(number)
            sent = True
            answer = await self._lines.post(work.endpoint, work.who, line.body, at)
            if await self._answered(work, number, line, answer, at) == "no_room":
                self._not_begun(work, at, step)
        except Broken as error:
            work.broken = error
        except NotSent:
            self._later(work, number, at, GONE_S)
            self._not_begun(work, at, step)
            work.runs.undone(number)
        except OSError:
            self._later(work, number, at, GONE_S)
            if sent:
                work.wasted(number, 1, 0.0)
        finally:
            work.running.discard(number)
            work.lane(at).running -= 1
            if not work.committed[number] and number not in work.waiting:
                work.waiting.append(number)
        self._progressed(work)

    async def _answered(
        self, work: Work, number: int, line: Line, answer: Whole, at: str
    ) -> Verdict:
        runs, wh = extra_of(answer)
        work.wasted(number, runs, wh)
        verdict = work.judge(number, answer)
        lane = work.lane(at)
        if verdict != "done":
            if not runs:
                work.runs.undone(number)
            if verdict == "no_room":
                lane.window = max(1.0, lane.window * 2.0 / 3.0)
                self._later(work, number, at, NO_ROOM_S)
            elif lane.failing:
                # Twice in a row: an engine that is gone would use up all tries of all lines at once.
                _pause(lane, FAILING_S)
            lane.failing = verdict == "again" or lane.failing
            return verdict
        lane.failing = answer.status >= 500
        lane.window = min(float(self.at_once_max), lane.window + 1.0 / lane.window)
        measured = measured_of(answer)
        if answer.status == 200 and "e2e_ms" in measured:
            work.saw(answer.headers.get("x-hanse-site", ""), measured["e2e_ms"] / 1000.0)
        payload, note = work.commit_of(number, line, answer)
        stored = await self._commit(work, number, payload, note)
        work.see(number, stored)
        if stored.run != note.run:
            work.lost(measured.get("wh", 0.0))
        else:
            self.committed(work.id, number, note, payload)
        return verdict

    async def _commit(self, work: Work, number: int, payload: bytes, note: Note) -> Note:
        """Until the stream has it: a bus that restarts costs time, never an answer.

        Raises:
            OutputFull: there is no room for it, and this is the batch that takes most.
        """
        while True:
            try:
                return await self._commits.commit(work.id, number, payload, note)
            except SiteError as error:
                log_line(f"batch: {error}")
                if isinstance(error, StreamFull):
                    await self._relieve()
            if isinstance(work.broken, OutputFull):
                raise work.broken
            end_if_cancelled()
            await asyncio.sleep(COMMIT_AGAIN_S)

    async def _relieve(self) -> None:
        """The stream is full: the batch that takes most of it ends with what it has, so that all others go on."""
        async with self._relieving:
            works = tuple(self.works.values())
            if not works or any(isinstance(w.broken, OutputFull) or not w.left for w in works):
                return  # one makes room already
            try:
                sizes = [await self._commits.stored_bytes(work.id) for work in works]
            except SiteError as error:
                log_line(f"batch: {error}")
                return
            most, work = max(zip(sizes, works, strict=True), key=lambda one: one[0])
            if most:  # else it is full of copies of other homes' batches
                message = f"answers of this batch take {most} of the {STREAM_BYTES_MAX} bytes for all batches of its home; ask for less in one batch"
                work.broken = OutputFull(message)

    def _later(self, work: Work, number: int, at: str, pause_s: float) -> None:
        _pause(work.lane(at), pause_s)
        work.waiting.appendleft(number)


def _pause(lane: Lane, pause_s: float) -> None:
    lane.quiet_until_s = asyncio.get_running_loop().time() + pause_s
