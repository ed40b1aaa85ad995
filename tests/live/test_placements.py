"""The placement that a site keeps on its disk for a start while it is cut off."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from hanse.dispatch.events import PlacementDecided, event_to_bytes
from hanse.live.placements import PlacementFile
from hanse.model.fleet import Placement

DECIDED = PlacementDecided(
    at_s=1.0,
    source="optimiser",
    placements=(Placement(service="chat", variant="v0", site="a", pool="gpu", slots=8),),
    epoch=2,
    version=3,
)


@pytest.mark.parametrize("goes_on", [DECIDED.placements, (), None])
def test_a_restart_finds_the_placement_after_another_fleet_file_where_that_goes_on(
    tmp_path: Path, goes_on: tuple[Placement, ...] | None
) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text("one")
    kept = PlacementFile(tmp_path, fleet)
    kept.write(event_to_bytes(DECIDED))
    fleet.write_text("two")
    kept.follow(b"two", goes_on)
    found = PlacementFile(tmp_path, fleet).read()
    assert found == (None if goes_on is None else replace(DECIDED, placements=goes_on))
    fleet.write_text("three, by an editor")
    assert PlacementFile(tmp_path, fleet).read() is None
