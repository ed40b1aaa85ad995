"""The last minutes of each site: load, carbon and price, for the small charts.

Here: a bounded ring filled from pictures. Not here: storage; a restart begins anew, and everything
older belongs to metrics.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from hanse.model.fleet import Value
from hanse.view import LeagueView, SiteView

SAMPLE_S: Final = 2.0
"""A figure of a site moves no faster than its engines finish requests."""
POINTS_MAX: Final = 300
"""Ten minutes: long enough to see what moved, short enough for one screen."""
SITES_MAX: Final = 8
"""More lines than that in one chart cannot be told apart; the first of the fleet file are kept."""


class Course(Value, frozen=True, kw_only=True):
    """One site's figures on the common time axis; None where it said nothing."""

    site: str
    load: tuple[float | None, ...]
    """Requests running and waiting."""
    carbon_g_per_kwh: tuple[float | None, ...]
    price_usd_per_kwh: tuple[float | None, ...]


class Courses(Value, frozen=True, kw_only=True):
    """What `/api/history.json` answers."""

    sample_s: float
    points_max: int
    at_s: tuple[float, ...]
    sites: tuple[Course, ...]


Sample = tuple[float | None, float | None, float | None]


class History:
    """The ring."""

    def __init__(self) -> None:
        self._at_s: deque[float] = deque(maxlen=POINTS_MAX)
        self._samples: deque[dict[str, Sample]] = deque(maxlen=POINTS_MAX)

    def add(self, view: LeagueView) -> None:
        """Keep one sample; a picture no newer than the last one is no sample."""
        if self._at_s and view.at_s <= self._at_s[-1]:
            return
        self._at_s.append(view.at_s)
        self._samples.append({site.id: _sample(site) for site in view.sites[:SITES_MAX]})

    def courses(self) -> Courses:
        """The whole ring."""
        names = list(self._samples[-1]) if self._samples else []
        nothing: Sample = (None, None, None)
        columns = {name: [one.get(name, nothing) for one in self._samples] for name in names}
        return Courses(
            sample_s=SAMPLE_S,
            points_max=POINTS_MAX,
            at_s=tuple(self._at_s),
            sites=tuple(
                Course(
                    site=name,
                    load=tuple(sample[0] for sample in samples),
                    carbon_g_per_kwh=tuple(sample[1] for sample in samples),
                    price_usd_per_kwh=tuple(sample[2] for sample in samples),
                )
                for name, samples in columns.items()
            ),
        )


def _sample(site: SiteView) -> Sample:
    if site.status is None or site.state == "silent":
        return (None, None, None)
    status = site.status
    return (
        status.running + status.waiting,
        status.power.carbon_g_per_kwh,
        status.power.price_usd_per_kwh,
    )
