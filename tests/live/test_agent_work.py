"""What engines are taken to draw, also where their pool is no more in the fleet."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from hanse.dispatch.belief import EngineSpec
from hanse.live.agent_work import Meter
from hanse.live.shared import SharedPage
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).parents[2] / "examples/league.toml")
SITE = LEAGUE.sites[0]
OLD = SITE.pools[0]
MOVED = replace(LEAGUE, sites=(replace(SITE, pools=(replace(OLD, id="moved"),)), *LEAGUE.sites[1:]))


def engine() -> EngineSpec:
    return EngineSpec(
        name="chat-q8-1", index=0, site=SITE.id, service="chat", variant="q8", model="m", precision="q8_0", served_names=("chat",),
        pool=OLD.id, driver="process", url="", chips=1, slots=4, context_tokens=1024, embedding=False,
    )  # fmt: skip


def test_an_engine_that_drains_in_a_pool_that_went_is_counted_on() -> None:
    meter = Meter(LEAGUE, SITE.id, SharedPage.private())
    meter.look(engine(), 0.0, 100.0)
    meter.look(engine(), 1.0, 102.0)
    before = meter.watts(engine().name)
    assert before > 0.0
    meter.follow(MOVED)
    meter.look(engine(), 2.0, 104.0)
    assert meter.watts(engine().name) == pytest.approx(before)
    assert meter.busy_w([engine()])[0] >= 0.0


def test_an_agent_that_begins_after_the_pool_went_knows_no_watts_and_goes_on() -> None:
    meter = Meter(MOVED, SITE.id, SharedPage.private())
    assert meter.busy_w([engine()]) == (0.0, 0.0)
    meter.look(engine(), 0.0, 100.0)
    meter.look(engine(), 1.0, 102.0)
    assert meter.watts(engine().name) == 0.0
