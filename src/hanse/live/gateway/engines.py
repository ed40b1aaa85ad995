"""The site's own engines as one gateway worker sees them.

Here: which may get a request now (the agent's word, or this worker's own probes where no agent feeds the page), suspicion after
first bytes that never came, what each engine executes, its Wh per request. Not here: starting and stopping engines (the agent),
choosing one (`dispatch.choose`).

    state          from            leaves when
    alive          agent / probe   agent says dead, or 3 probes missed
    dead           agent / probe   agent says alive, or a probe answers
    suspect        this worker     2 s pass; then it must disappoint 3 requests in a row again
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from hanse.live.gateway.outgoing import Question, Target
from hanse.live.gateway.settings import VACANT
from hanse.live.shared import (
    ENGINE_ALIVE,
    ENGINE_CPU_W,
    ENGINE_DEAD,
    ENGINE_GENERATION,
    ENGINE_STATE,
    FLAG_AGENT_AT_S,
    SharedPage,
    cells,
    count_cells,
)
from hanse.units import wh_from_j

if TYPE_CHECKING:
    from hanse.live.gateway.settings import EngineSeat

AGENT_SILENT_S = 2.0
"""Eight missed writes of an agent that probes every 250 ms: its word is old, the worker probes by itself."""
PROBE_EVERY_S = 0.25
MISSES_DEAD = 3
LATE_SUSPECT = 3
"""First-byte deadlines missed in a row before an engine gets no more requests for a while."""
SUSPECT_S = 2.0


class Engine:
    """One local engine."""

    def __init__(
        self,
        index: int,
        seat: EngineSeat,
        page: SharedPage,
        worker: int,
        workers: int,
        loop: asyncio.AbstractEventLoop,
        key: str = "",
    ) -> None:
        self.index = index
        self.seat = seat
        self.target = Target(seat.url, loop, key=key)
        self.name = seat.name or f"{seat.service}-{seat.variant}-{index}"
        self.vacant = seat == VACANT
        self.share_wh = 0.0
        """Wh per running request since this worker started: the engine's power, shared equally at each instant."""
        self._state = cells(page.engines[index])
        self._flags = cells(page.flags)
        self._all_rows = [count_cells(page.exec[w, index]) for w in range(workers)]
        self._row = count_cells(page.exec[worker, index])
        self._begun = cells(page.begun[worker])
        self._late = 0
        self._suspect_until_s = 0.0
        self._probe = _Probe(self.target)
        self._was_up = False
        self._was_generation = 0.0

    def usable(self, now_s: float) -> bool:
        """Whether it may get a request."""
        return self._up(now_s) and now_s >= self._suspect_until_s

    def died(self, now_s: float) -> bool:
        """True once per death or restart: what it has not answered by now it never will. One that drains still answers."""
        up, generation = self._answers(now_s), self._state[ENGINE_GENERATION]
        gone = self._was_up and (not up or generation != self._was_generation)
        self._was_up, self._was_generation = up, generation
        return gone

    def late(self, now_s: float) -> None:
        """A request waited past its deadline for the first byte."""
        self._late += 1
        if self._late >= LATE_SUSPECT:
            self._suspect_until_s = now_s + SUSPECT_S

    def answered(self) -> None:
        """A first byte came."""
        self._late = 0

    def probe(self, now_s: float) -> None:
        """Called every `PROBE_EVERY_S`; asks only where no agent does, and believes until then what the agent said last."""
        if self.vacant:
            return
        if self._agent_feeds(now_s):
            self._probe.believe(up=self._state[ENGINE_STATE] == ENGINE_ALIVE)
        else:
            self._probe.next()

    def count(self, requests: int, tokens: int, prefill_tokens: int) -> None:
        """Change what this worker has in flight here."""
        row = self._row
        row[0] += requests
        row[1] += tokens
        row[2] += prefill_tokens

    def begin(self, tokens: int, prefill_tokens: int) -> None:
        """One more request is handed to it."""
        row = self._row
        row[0] += 1
        row[1] += tokens
        row[2] += prefill_tokens
        self._begun[self.index] += 1.0

    @property
    def running(self) -> int:
        """Requests of all workers."""
        running = 0
        for row in self._all_rows:
            running += row[0]
        return running

    @property
    def estimated(self) -> bool:
        """Whether the agent publishes this engine's power."""
        return self._state[ENGINE_CPU_W] > 0.0

    def accrue(self, elapsed_s: float) -> None:
        """Every tick: power over this interval, per request that ran in it."""
        watts = self._state[ENGINE_CPU_W]
        if watts > 0.0:
            running = self.running
            if running > 0:
                self.share_wh += wh_from_j(watts * elapsed_s) / running

    def _agent_feeds(self, now_s: float) -> bool:
        return now_s - self._flags[FLAG_AGENT_AT_S] < AGENT_SILENT_S

    def _answers(self, now_s: float) -> bool:
        if self._agent_feeds(now_s):
            return self._state[ENGINE_STATE] != ENGINE_DEAD
        return self._probe.up

    def _up(self, now_s: float) -> bool:
        if self.vacant:
            return False
        if self._agent_feeds(now_s):
            return self._state[ENGINE_STATE] == ENGINE_ALIVE
        return self._probe.up


class _Probe:
    """Liveness by `GET /health`. Any answer but 5xx counts: some engines have no such path."""

    def __init__(self, target: Target) -> None:
        self.up = False  # nothing is sent to an engine that never answered
        self._target = target
        self._misses = 0
        self._asked: Question | None = None

    def believe(self, *, up: bool) -> None:
        """Whoever looked after it said so: an agent that falls silent takes no living engine with it."""
        self.up, self._misses = up, 0
        if self._asked is not None:
            self._asked.drop()
            self._asked = None

    def next(self) -> None:
        """The last probe's time is over: note a miss, start another."""
        asked = self._asked
        if asked is not None:
            asked.drop()
            self._missed()
        self._asked = Question(b"/health", self._answered)
        self._target.send(self._asked, fresh=self._misses > 0)

    def _answered(self, status: int, body: bytes) -> None:
        self._asked = None
        if 0 < status < 500:
            self._misses = 0
            self.up = True
        else:
            self._missed()

    def _missed(self) -> None:
        self._misses += 1
        if self._misses >= MISSES_DEAD:
            self.up = False
