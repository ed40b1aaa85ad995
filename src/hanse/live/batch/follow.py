"""A home follows the league's schedule: which lines of which batch may begin now, and what the controller is told of them.

Here: `Follower` (the newest schedule, orders for the runner), `BatchReport` and `reporting`. Not here: the rule (`dispatch.follow`), the
schedule (`dispatch.defer`), room and giving way (`live.gateway.spare`): a schedule can hold lines back, and make none go first.

In a fleet whose controller places nothing there is no schedule, and lines run in whatever room there is. Where there is one, a batch
that no plan tells of (it is new, the hub is cut off, the plan is too old) is spread over its window (`work_now`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError

from hanse.dispatch.follow import SiteSchedule, WorkOrder, WorkPlan, WorkState, ahead, work_now
from hanse.live.batch.values import BatchMeta
from hanse.live.batch.work import Work
from hanse.live.bus import site_subject
from hanse.live.logline import log_line
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE, Amount, Count, Figure

REPORT_S: Final = 2.0
"""A schedule is made anew every few minutes; what is new is told soon."""
IDLE_REPORT_S: Final = 10.0
"""Of a home without batches: a thousand of them send a hundred small messages a second."""
ANYWHERE: Final = ""
"""The lane of lines that no site was named for."""
WHOLE: Final = 1e-6
"""Shares are floats: a line that is due but for rounding is due."""


class OpenBatch(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One batch that is being worked on."""

    id: str
    tenant: str
    data_class: str
    country: str
    service: str
    lines: Count
    left: Count
    bytes_left: Count
    """Of the input file, about."""
    input_tokens: Amount
    output_tokens: Amount
    """Of a line."""
    created_at_s: Figure
    expires_at_s: Figure
    epoch: Count = 0
    """Of two homes that both tell of it the higher one owns it."""
    request_s: dict[str, Amount] = {}
    """Site -> seconds of a line there."""


class BatchReport(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """All of one home."""

    site: str
    at_s: Figure
    batches: tuple[OpenBatch, ...]


class _Step(Value, frozen=True, kw_only=True):
    """What one batch may begin in the step that holds."""

    begin_s: float
    length_s: float
    lines: dict[str, float]
    """By site."""


def whole_lines(shares: tuple[float, ...], step: int, left: float) -> float:
    """Lines of a step, whole ones: what is less than one in a step is one in some of them."""
    before = left * sum(shares[:step])
    return float(round(before + left * shares[step]) - round(before))


def job_id(batch_id: str) -> str:
    """A batch's name among jobs: ids there know no underscores."""
    return f"batch-{batch_id[-24:]}"


class Follower:
    """The schedule of one home."""

    def __init__(self, site: str, *, scheduled: bool) -> None:
        self.site = site
        self.scheduled = scheduled
        self.schedule: SiteSchedule | None = None
        self._plans: dict[str, WorkPlan] = {}
        self._steps: dict[str, _Step] = {}
        self._said: dict[str, str] = {}

    async def hear(self, message: Any) -> None:
        """A schedule from the bus."""
        self.take(bytes(message.data))

    def take(self, content: bytes) -> None:
        """A schedule; one that is older than what is known, or another site's, is none."""
        try:
            told = msgspec.msgpack.decode(content, type=SiteSchedule)
        except UNREADABLE as error:
            log_line(f"schedule not understood: {error}")
            return
        known = self.schedule
        if told.site != self.site or (known is not None and told.version <= known.version):
            return
        self.schedule = told
        self._plans = {plan.job: plan for plan in told.works}

    def order(self, work: Work, now_s: float) -> WorkOrder | None:
        """What of a batch may begin now, in shares as `work_now` says; None: whatever there is room for."""
        if not self.scheduled:
            return None
        schedule, plan = self.schedule, self._plans.get(job_id(work.id))
        valid_s = 0.0 if schedule is None else schedule.valid_s
        order = work_now(plan, self._state(work, plan), now_s, valid_s=valid_s)
        version = None if schedule is None else schedule.version
        if (version, order.step) != work.step:
            work.step, work.begun = (version, order.step), self._ahead(work, now_s)
            self._begin_step(work, plan, order.step, now_s)
            order = work_now(plan, self._state(work, plan), now_s, valid_s=valid_s)
        self._say(work, order)
        return order

    def _begin_step(self, work: Work, plan: WorkPlan | None, step: int, now_s: float) -> None:
        self._steps.pop(work.id, None)
        if plan is not None and step >= 0:
            self._steps[work.id] = _Step(
                # Until it was heard another plan paced them.
                begin_s=max(plan.start_s + sum(plan.step_s[:step]), now_s),
                length_s=plan.step_s[step],
                lines={r.site: whole_lines(r.shares, step, plan.requests) for r in plan.runs},
            )

    def _ahead(self, work: Work, now_s: float) -> dict[str, float]:
        """Lines begun in the step that has just ended, or that another schedule breaks off, beyond its pace."""
        step = self._steps.get(work.id)
        if step is None:
            return {}
        share = (now_s - step.begin_s) / step.length_s
        found = {s: ahead(work.begun.get(s, 0.0), n, share) for s, n in step.lines.items()}
        return {site: lines for site, lines in found.items() if lines > WHOLE}

    def _lines(self, work: Work, order: WorkOrder | None) -> dict[str, float]:
        """Lane -> lines that may still begin there now."""
        if order is None or order.kind == "presses":
            return {ANYWHERE: float(len(work.waiting))}
        if order.kind == "paced":
            due = order.shares[ANYWHERE] * len(work.index)
            return {ANYWHERE: due - len(work.running)}
        plan = self._plans.get(job_id(work.id))
        if order.kind == "waits" or plan is None:
            return {}
        begun = work.begun
        return {
            run.site: whole_lines(run.shares, order.step, plan.requests) - begun.get(run.site, 0.0)
            for run in plan.runs
        }

    def room(self, work: Work, now_s: float) -> dict[str, float]:
        """Lane -> lines that may begin now, the most first."""
        order = self.order(work, now_s)
        lines = self._lines(work, order)
        ready = {lane: count for lane, count in lines.items() if count > WHOLE}
        return dict(sorted(ready.items(), key=lambda one: (-one[1], one[0])))

    def forget(self, batch_id: str) -> None:
        """It has ended here."""
        self._said.pop(batch_id, None)
        self._steps.pop(batch_id, None)

    def _state(self, work: Work, plan: WorkPlan | None) -> WorkState:
        left, whole = float(work.left), float(max(len(work.index), 1))
        at_plan = max(plan.requests, 1.0) if plan is not None else whole
        return WorkState(
            submitted_at_s=work.created_at_s,
            deadline_at_s=work.expires_at_s,
            done_share=1.0 - left / whole,
            left_share=min(1.0, left / at_plan),
            begun={site: lines / at_plan for site, lines in work.begun.items()},
        )

    def _say(self, work: Work, order: WorkOrder) -> None:
        """For people, when it changes."""
        text: str = order.kind
        if order.kind == "planned":
            text = f"planned at {', '.join(sorted(order.shares))}"
        before = self._said.get(work.id)
        # Between the lines of a step an order runs dry and waits for the next one: that is no news.
        if text != before and not (text == "waits" and before and before.startswith("planned")):
            self._said[work.id] = text
            log_line(f"batch {work.id}: {text}, {work.left} lines left")


def open_batch(meta: BatchMeta, work: Work, service: str) -> OpenBatch:
    """What the controller is told of a batch."""
    tokens_in, tokens_out = work.tokens
    whole = sum(work.index.sizes)
    return OpenBatch(
        id=meta.id,
        tenant=meta.tenant,
        data_class=meta.data_class,
        country=meta.country,
        service=service,
        lines=len(work.index),
        left=work.left,
        bytes_left=int(whole * work.left / max(len(work.index), 1)),
        input_tokens=tokens_in,
        output_tokens=tokens_out,
        created_at_s=meta.created_at_s,
        expires_at_s=meta.expires_at_s,
        epoch=meta.epoch,
        request_s=work.request_s,
    )


async def reporting(client: Client, site: str, batches: Callable[[], Iterable[OpenBatch]]) -> None:
    """Tell the controller of this home's batches, until cancelled; a bus that is away is told later."""
    said_at_s, before = 0.0, 0
    while True:
        report = BatchReport(site=site, at_s=time.time(), batches=tuple(batches()))
        count = len(report.batches)
        due_s = REPORT_S if count or before else IDLE_REPORT_S
        if client.is_connected and time.monotonic() - said_at_s >= due_s:
            said_at_s, before = time.monotonic(), count
            try:
                await client.publish(site_subject(site, "batches"), msgspec.msgpack.encode(report))
            except (NatsError, OSError) as error:  # lost between the question and the word
                log_line(f"batches not told: {error!r}")
        await asyncio.sleep(REPORT_S / 2.0)
