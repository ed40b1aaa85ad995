"""The fleet of the demonstration: the small one with a sun, a battery and a connection to scale, which its controller places and plans.

To scale means: two CPU threads draw some 20 W, so a panel of a hundred watts is a large one here.
"""

from __future__ import annotations

import http.client
import time
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import msgspec

from hanse.live.control_client import Scenario, control_key
from hanse.live.runtime import Runtime, StateDir
from hanse.signals import Feed, Override
from league.small_fleet import fleet_text

SPEED: Final = 30.0
"""An hour of sun and carbon in two minutes."""
POWER: Final = {
    "frankfurt": "grid_kw_max = 0.2, base_kw = 0.06, pv_kw_peak = 0.16, battery_kwh = 0.05, battery_kw_max = 0.05",
    "lyon": "grid_kw_max = 0.2",
    "london": "grid_kw_max = 0.2",
    "virginia": "grid_kw_max = 0.2",
}
LOOP: Final = """
schedule_every_s = 10
"""


def demo_text(
    *,
    home_copies: int = 2,
    slots: int = 4,
    external: dict[str, str] | None = None,
    placed: tuple[str, ...] = ("frankfurt", "lyon"),
) -> str:
    """The fleet file."""
    text = fleet_text(places=True, slots=slots, external=external, placed=placed)
    for site, power in POWER.items():
        head, mark, rest = text.partition(f'id = "{site}"')
        rest = rest.replace("grid_kw_max = 600", power, 1)
        text = head + mark + rest
    text = text.replace(
        'accelerator = "x86-thread"\ncount = 2', 'accelerator = "rpi5-16"\ncount = 8'
    )
    text = text.replace("usd_per_tonne_co2e = 100", "usd_per_tonne_co2e = 1000")
    text = text.replace("demand_bin_s = 4\n", f"demand_bin_s = 4{LOOP}")
    head, mark, rest = text.partition("[policy]")
    return f"{head}[batch]\nhome_copies = {home_copies}\n{mark}{rest}"


MORNING_S: Final = datetime(2026, 6, 21, 10, tzinfo=UTC).timestamp()
ENDLESS_S: Final = 1e10


class Sky:
    """Sun, clouds and carbon over a league whose clock runs fast; begins on a June morning."""

    def __init__(self, runtime: Runtime, state: StateDir) -> None:
        assert runtime.hub is not None
        self._shown = {"authorization": f"Bearer {control_key(state)}"}
        self._url = urlsplit(f"{runtime.hub.dashboard_url}/api/scenario")
        self._from_s = time.time()
        self._changes: dict[str, Override] = {}

    def clouds(self, site: str, percent: float, hours: float = 0.0) -> None:
        self._set("cloud_pct", site, percent, hours)

    def carbon(self, site: str, factor: float, hours: float = 0.0) -> None:
        self._set("carbon_factor", site, factor, hours)

    def all_well(self) -> None:
        self._changes = {}
        self._post(Feed())

    def _set(self, kind: str, site: str, value: float, hours: float) -> None:
        """For so many hours of the fast clock; 0: without an end."""
        now_s = time.time()
        self._changes[kind + site] = Override(
            kind=kind,  # type: ignore[arg-type]
            place=site,
            value=value,
            from_s=now_s,
            until_s=now_s + (hours * 3600.0 / SPEED if hours else ENDLESS_S),
            reason="the demonstration's sky",
        )
        self._post(
            Feed(
                overrides=tuple(self._changes.values()),
                clock_offset_s=MORNING_S - self._from_s,
                clock_speed=SPEED,
                clock_from_s=self._from_s,
            )
        )

    def _post(self, feed: Feed) -> None:
        link = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=10)
        sent = {"content-type": "application/json", **self._shown}
        link.request("POST", self._url.path, msgspec.json.encode(Scenario.of(feed)), sent)
        assert link.getresponse().status == 200
        link.close()
