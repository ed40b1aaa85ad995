"""What a program of the hub's user needs to ask the control API: a scenario's form, and the secret that goes with it.

Here: `Scenario` and which of its overrides a fleet has no use for, making and reading the secret, a file that its own user alone may read.
Not here: who asks for it (`live.control_api`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec

from hanse.errors import ConfigError
from hanse.live.runtime import StateDir
from hanse.live.secret_file import ensure_secret
from hanse.model.fleet import Site, Value
from hanse.signals import Feed, Override
from hanse.signals.clock import SPEED_MAX
from hanse.signals.feed import site_places, weather_places

Instant = Annotated[float, msgspec.Meta(ge=0.0, le=1e12)]
"""Unix seconds; far beyond any calendar that a recording is played by."""


_PERCENT = {
    "if": {"properties": {"kind": {"const": "cloud_pct"}}},
    "then": {"properties": {"value": {"maximum": 100}}},
}


class Scenario(Value, frozen=True, kw_only=True):
    """The part of a `signals.Feed` that a person plays; what providers say is theirs."""

    overrides: tuple[Annotated[Override, msgspec.Meta(extra_json_schema=_PERCENT)], ...] = ()
    clock_offset_s: Annotated[float, msgspec.Meta(ge=-1e11, le=1e11)] = 0.0
    clock_speed: Annotated[float, msgspec.Meta(ge=1e-3, le=SPEED_MAX)] = 1.0
    clock_from_s: Instant = 0.0

    @classmethod
    def of(cls, feed: Feed) -> Scenario:
        """What is played in a feed."""
        return cls(**{name: getattr(feed, name) for name in cls.__struct_fields__})

    def feed(self) -> Feed:
        """As sites and controller read it."""
        return Feed(**{name: getattr(self, name) for name in self.__struct_fields__})


def ensure_control_key(state: StateDir) -> str:
    """Make it where it is missing; two controllers of one hub come to the same."""
    return ensure_secret(key_path(state))


def control_key(state: StateDir) -> str:
    """The secret, for a program of the hub's user.

    Raises:
        ConfigError: no hub has run here, or it is another user's.
    """
    path = key_path(state)
    try:
        return path.read_text().strip()
    except OSError as error:
        raise ConfigError(
            str(path), got=error.strerror, fix="run this as the user who runs the hub, at the hub"
        ) from error


def wrong_dates_or_places(scenario: Scenario, sites: tuple[Site, ...]) -> list[ConfigError]:
    """Overrides that would never hold in a fleet: of no place that it has, or over before they begin."""
    names = {name for site in sites for name in (*site_places(site), *weather_places(site))}
    ids = {site.id for site in sites}
    found = []
    for i, one in enumerate(scenario.overrides):
        known = ids if one.kind == "grid_factor" else names
        if one.place != "*" and one.place not in known:
            allowed = f"*, or one of {', '.join(sorted(known))}"
            found.append(ConfigError(f"overrides[{i}].place", got=repr(one.place), allowed=allowed))
        if one.from_s >= one.until_s:
            allowed = f"an instant after from_s = {one.from_s:.15g}"
            got = f"{one.until_s:.15g}"
            found.append(ConfigError(f"overrides[{i}].until_s", got=got, allowed=allowed))
    return found


def key_path(state: StateDir) -> Path:
    """Where the secret is kept."""
    return state.hub / "control.key"
