"""What homes report of their batches, as jobs of the slow loop; and what sites tell of batteries and peaks.

Here: `JobBook`, reports in, a `JobsChanged` out when one is due. Not here: what a job takes where (`dispatch.room`), the schedule
(`dispatch.defer`), the reports themselves (`live.batch.follow`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from hanse.dispatch.defer_build import Measured
from hanse.dispatch.events import JobsChanged
from hanse.live.batch.follow import BatchReport, OpenBatch, job_id
from hanse.live.logline import log_line
from hanse.model.job import Job
from hanse.model.told import UNREADABLE
from hanse.units import gb_from_bytes
from hanse.view import SiteStatus

SILENT_S: Final = 10.0
"""A home unheard for so long runs nothing, and has a standby that takes over by then, or none."""
PROGRESS_S_MAX: Final = 60.0
"""How far jobs are is told so often at least; a minute of a day's work is nothing, and a log of a month of it is small."""


class JobBook:
    """The newest report of each home."""

    def __init__(self, schedule_every_s: float) -> None:
        self._every_s = min(PROGRESS_S_MAX, schedule_every_s)
        self._reports: dict[str, tuple[float, BatchReport]] = {}
        self._held_kwh: dict[str, float] = {}
        self._peak_kw: dict[str, float] = {}
        self.open: tuple[Job, ...] = ()
        """When it was last asked what is due."""
        self._told: JobsChanged | None = None
        self._told_at_s = float("-inf")

    def follow(self, schedule_every_s: float) -> None:
        """Another fleet is in force."""
        self._every_s = min(PROGRESS_S_MAX, schedule_every_s)

    def hear(self, data: bytes, subject_site: str, now_s: float) -> None:
        """A home's report, on the site's own subject."""
        try:
            report = msgspec.msgpack.decode(data, type=BatchReport)
        except UNREADABLE as error:
            log_line(f"batches of {subject_site} not understood: {error}")
            return
        if report.site == subject_site:  # a site speaks for itself only; the bus enforces it
            self._reports[report.site] = now_s, report

    def see(self, status: SiteStatus) -> None:
        """What a site's agent says of its battery and its month's peak."""
        if status.power.battery_kwh is not None:
            self._held_kwh[status.site] = round(status.power.battery_kwh, 3)
        # Nothing where something was: another month has begun.
        if status.power.peak_import_kw > 0.0 or status.site in self._peak_kw:
            self._peak_kw[status.site] = round(status.power.peak_import_kw, 3)

    def due(self, now_s: float) -> JobsChanged | None:
        """The jobs, where others have come or gone, and now and then how far they are."""
        self.open = self._jobs(now_s)
        event = JobsChanged(
            at_s=now_s,
            jobs=self.open,
            measured=Measured(
                held_kwh=dict(sorted(self._held_kwh.items())),
                peak_import_kw=dict(sorted(self._peak_kw.items())),
            ),
        )
        before = self._told
        if before is None and event.measured == Measured() and not event.jobs:
            return None
        waited = now_s - self._told_at_s >= self._every_s
        if before is not None and not waited and _who(event) == _who(before):
            return None
        if before is not None and (event.jobs, event.measured) == (before.jobs, before.measured):
            return None
        self._told, self._told_at_s = event, now_s
        return event

    def _jobs(self, now_s: float) -> tuple[Job, ...]:
        owned: dict[str, tuple[int, str, OpenBatch]] = {}
        for heard_at_s, report in self._reports.values():
            for one in report.batches if now_s - heard_at_s < SILENT_S else ():
                claim = one.epoch, report.site, one
                if one.id not in owned or claim[:2] > owned[one.id][:2]:
                    owned[one.id] = claim
        jobs = [job_of(one, home) for _, home, one in owned.values()]
        return tuple(sorted(jobs, key=lambda job: job.id))


def job_of(one: OpenBatch, home: str) -> Job:
    """A batch as a job of requests."""
    return Job(
        id=job_id(one.id),
        kind="batch",
        tenant=one.tenant,
        data_class=one.data_class,
        country=one.country,
        home=home,
        data_gb=gb_from_bytes(float(one.bytes_left)),
        submitted_at_s=one.created_at_s,
        deadline_at_s=one.expires_at_s,
        chip_s={},
        service=one.service,
        requests=float(one.left),
        input_tokens=one.input_tokens,
        output_tokens=one.output_tokens,
        request_s=one.request_s,
    )


def _who(event: JobsChanged) -> list[tuple[str, str]]:
    return [(job.id, job.home) for job in event.jobs]


def site_in(subject: Any) -> str:
    """The site of `site.<id>.<what>`."""
    parts = str(subject).split(".")
    return parts[1] if len(parts) == 3 else ""
