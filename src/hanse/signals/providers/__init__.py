"""Clients of the services that publish carbon, price and weather, each giving the same `Answer`.

Here: one module a provider, the web client under them, the file that configures them (`settings`), and `LiveFeed`, which
asks them in turn and keeps the last good values (`live`). Not here: what a reading means for a site (`energy`), forecasts
of one's own (`forecast`).
"""

from hanse.signals.providers.answer import Answer
from hanse.signals.providers.live import LiveFeed
from hanse.signals.providers.settings import FeedSetting, read_settings

__all__ = ["Answer", "FeedSetting", "LiveFeed", "read_settings"]
