"""Carbon, price and weather on one time axis: recorded years, replayed for any instant.

Here: `Series`, the shipped recordings, the mapping of today onto a recorded year, and `Feed`, which
answers what a site's signals are at an instant with where the figure comes from. Not here: live
feeds from the network, forecasts, and what a site makes of the weather (`energy`).
The time axis is Unix seconds UTC everywhere; a local clock never enters.
"""

from hanse.signals.axis import SiteSignalSteps, SourceNote, StepAxis, site_steps
from hanse.signals.clock import TRUE_CLOCK, Clock
from hanse.signals.feed import Feed, Observed, Override, Reading, Weather, site_places
from hanse.signals.recorded import nearest_weather_zone, recorded, recorded_zones
from hanse.signals.replay import replay, replay_within
from hanse.signals.series import Series, SignalType

__all__ = [
    "TRUE_CLOCK",
    "Clock",
    "Feed",
    "Observed",
    "Override",
    "Reading",
    "Series",
    "SignalType",
    "SiteSignalSteps",
    "SourceNote",
    "StepAxis",
    "Weather",
    "nearest_weather_zone",
    "recorded",
    "recorded_zones",
    "replay",
    "replay_within",
    "site_places",
    "site_steps",
]
