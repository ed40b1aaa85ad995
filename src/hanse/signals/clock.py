"""A clock that runs faster than the true one: hours of sun, carbon and prices in minutes, for people who want to watch a day.

Here: `Clock`, the mapping of instants. Not here: who asks for it (`Feed`), recorded years (`replay`). What is asked of a league by
people comes by the true clock, always; what its sites draw in a second counts for as many seconds as pass on this one.
"""

from __future__ import annotations

from hanse.errors import FeedError
from hanse.model.fleet import Value

SPEED_MAX = 7200.0
"""Two hours a second: a five-minute step of a plan is then shorter than what a tick of the controller tells apart."""


class Clock(Value, frozen=True, kw_only=True):
    """Played seconds over true seconds from an instant on."""

    speed: float = 1.0
    from_s: float = 0.0
    """True instant at which both clocks show the same."""

    def __post_init__(self) -> None:
        if not 0.0 < self.speed <= SPEED_MAX:
            raise FeedError(
                "clock_speed",
                got=self.speed,
                allowed=f"more than 0, at most {SPEED_MAX:g}",
                fix="60 plays an hour in a minute",
            )

    def played_s(self, true_s: float) -> float:
        """What this clock shows."""
        # Not (from + speed x since): at speed 1 an instant must stay the same to the last bit.
        return true_s + (self.speed - 1.0) * (true_s - self.from_s)

    def true_s(self, played_s: float) -> float:
        """When it shows that."""
        if self.speed == 1.0:
            return played_s
        return self.from_s + (played_s - self.from_s) / self.speed


TRUE_CLOCK = Clock()
