"""A schedule on its way to the sites: each its own part, again and again, so that whoever starts later has it soon; and to people.

Here: `Schedules`. Not here: what is in one (`dispatch.follow`), who follows it (`live.batch.follow`, `live.agent_power`).

Plain messages, not a stream: one that is lost comes again, and one that has grown old means nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

import msgspec
from nats.aio.client import Client

from hanse.dispatch.actions import SendSchedule
from hanse.dispatch.follow import SiteSchedule, WorkPlan, spans
from hanse.live import bus
from hanse.live.logline import log_line
from hanse.model.job import Job
from hanse.view import WorkSpan, WorkView

AGAIN_S: Final = 5.0
"""A restarted agent or batch process follows its plan after this."""
LINES_PER_S_MIN: Final = 1e-6
"""Less is what a solver leaves of nothing."""


class Schedules:
    """The newest of each site."""

    def __init__(self) -> None:
        self._now: tuple[SiteSchedule, ...] = ()
        self._sent_at_s = float("-inf")
        self._spans: dict[str, tuple[WorkSpan, ...]] = {}
        self._unmet: dict[str, str] = {}

    def take(self, decided: SendSchedule) -> None:
        """A schedule holds from now on."""
        answer = decided.answer
        late = ", ".join(one.where for one in answer.violations) or "nothing late"
        log_line(f"schedule of {len(answer.jobs)} jobs: {late}")
        self._now, self._sent_at_s = decided.sites, float("-inf")
        self._spans = {plan.job: _spans(plan) for site in decided.sites for plan in site.works}
        self._unmet = {one.where: f"{one.why}; {one.cure}" for one in answer.violations}

    def drop(self) -> None:
        """Another leads: what was decided here is told no more."""
        self._now, self._spans, self._unmet = (), {}, {}

    def shown(self, jobs: Iterable[Job], now_s: float) -> tuple[WorkView, ...]:
        """Open batches with what is planned for them, as people see them; those that are due first."""
        rows = (
            WorkView(
                job=job.id,
                service=job.service or "",
                home=job.home,
                tenant=job.tenant,
                data_class=job.data_class,
                left=job.requests,
                deadline_at_s=job.deadline_at_s,
                planned=job.id in self._spans,
                spans=tuple(s for s in self._spans.get(job.id, ()) if s.end_s > now_s),
                unmet=self._unmet.get(job.id, ""),
            )
            for job in jobs
        )
        return tuple(sorted(rows, key=lambda row: (row.deadline_at_s, row.job)))

    async def send(self, client: Client, *, holds: bool) -> None:
        """To all sites, where it is due; a bus that is away gets it later. Where the fleet in force has no controller that places, none holds."""
        if not holds:
            self.drop()
        if not self._now or time.monotonic() - self._sent_at_s < AGAIN_S:
            return
        try:
            for one in self._now:
                subject = bus.site_subject(one.site, "schedule")
                await client.publish(subject, msgspec.msgpack.encode(one))
        except Exception as error:
            log_line(f"schedule not sent yet: {error!r}")
            return
        self._sent_at_s = time.monotonic()


def _spans(plan: WorkPlan) -> tuple[WorkSpan, ...]:
    """Of all sites, by begin."""
    found = [
        WorkSpan(
            site=run.site,
            begin_s=span.begin_s,
            end_s=span.end_s,
            lines=span.mean * (span.end_s - span.begin_s),
        )
        for run in plan.runs
        for span in spans(
            plan.start_s,
            plan.step_s,
            [n * plan.requests / s for n, s in zip(run.shares, plan.step_s, strict=True)],
            LINES_PER_S_MIN,
        )
    ]
    return tuple(sorted(found, key=lambda one: (one.begin_s, one.site)))
