"""`hanse play`: a scenario file on a running league, its hours as long or as short as asked.

The file is the twin's (docs/twin.md, Faults): what was simulated can be played on real processes, and the other way round.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.output import note
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.live.play import Happening
    from hanse.twin.scenario import Fault


def play(
    scenario: Path,
    /,
    *,
    state: Path | None = None,
    speed: float = 60.0,
    start: str = "",
    for_s: float = 0.0,
) -> int:
    """Play a scenario on a running league: clouds, carbon, prices, connections, dead sites, cut links; then put everything back.

    Example: `hanse play examples/follow.toml --speed 60`

    Parameters
    ----------
    scenario
        TOML file of faults, as `hanse simulate --scenario` takes it.
    state
        State directory of the league; default the only one below `.hanse`.
    speed
        Hours of the scenario, of sun and carbon in an hour.
    start
        What hour is played first, such as 2026-06-21T04:00; default now.
    for_s
        Seconds of the scenario to play; default until its last fault is over.
    """
    import time

    from hanse.cli.league import state_dir
    from hanse.live.play import Player
    from hanse.model.read import read_fleet
    from hanse.twin.scenario import read_scenario

    where = state_dir(state)
    fleet = read_fleet(where.fleet_toml)
    happenings = tuple(happening(one) for one in read_scenario(scenario, fleet).faults)
    last_s = max((h.at_s + (h.for_s if h.for_s < 1e9 else 0.0) for h in happenings), default=0.0)
    offset_s = _instant_s(start) - time.time() if start else 0.0
    player = Player(
        where, where.read_runtime(), happenings, speed=speed, offset_s=offset_s, say=note
    )
    try:
        player.play(for_s or last_s)
    except KeyboardInterrupt:
        note("ended; everything is put back")
    return 0


def happening(fault: Fault) -> Happening:
    """A fault of the twin as what happens to a league.

    Raises:
        ConfigError: it is of a kind that nobody can do to real processes here.
    """
    from hanse.live.play import KINDS, Happening

    if fault.kind not in KINDS:
        raise ConfigError(
            f"fault {fault.kind}",
            got="a league of real processes",
            allowed=f"one of {', '.join(sorted(KINDS))}",
            fix="simulate it: hanse simulate --scenario",
        )
    return Happening(
        kind=fault.kind,  # type: ignore[arg-type]
        at_s=fault.at_s,
        for_s=fault.for_s,
        site=fault.site,
        other=fault.other,
        engine=fault.engine,
        factor=fault.factor or 0.0,
    )


def _instant_s(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            "--start", got=repr(text), allowed="an instant such as 2026-06-21T04:00 (UTC)"
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
