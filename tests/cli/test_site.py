"""What an operator hears before a site is taken out of service."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import pytest

from hanse.cli.site import room_elsewhere
from hanse.model.fleet import Placement
from hanse.view import LeagueView, PowerStatus, SiteStatus, SiteView, StandingView

CHAT, EMBED = "chat", "embed"


def site(name: str, running: float, slots: dict[str, int], **more: Any) -> SiteView:
    status = SiteStatus(
        site=name,
        at_s=time.time(),
        epoch=1,
        table_version=1,
        hub_connected=True,
        engines=(),
        gateway_workers=1,
        running=running,
        waiting=1.0,
        power=PowerStatus(
            it_kw=1.0,
            pue=1.1,
            pv_kw=0.0,
            wind_kw=0.0,
            import_kw=1.1,
            export_kw=0.0,
            carbon_g_per_kwh=1.0,
            price_usd_per_kwh=0.1,
            sources=(),
        ),
        serving=tuple(
            Placement(service=s, variant="v", site=name, pool="p", replicas=2, slots=count)
            for s, count in slots.items()
        ),
    )
    shown = SiteView(
        id=name, kind="micro", city=name, country="DE", lat_deg=0.0, lon_deg=0.0, gateway_url="",
        state="up", age_s=0.0, served=0, status=status,
    )  # fmt: skip
    return msgspec.structs.replace(shown, **more)


def view(*sites: SiteView) -> LeagueView:
    return LeagueView(
        at_s=0.0, fleet="f", table_version=1, epoch=1, hub_up=True, sites=sites, links=(), tallies=(),
        refusals=(), decisions=(), flows=(),
    )  # fmt: skip


OUT = StandingView(state="drained", since_s=0.0)


@pytest.mark.parametrize(
    ("others", "free"),
    [
        ((site("b", 2.0, {CHAT: 4}),), 5.0),  # 8 slots, 2 run, 1 waits
        ((site("b", 2.0, {EMBED: 4}),), 0.0),
        ((site("b", 0.0, {CHAT: 1, EMBED: 9}),), 2.0),
        ((site("b", 30.0, {CHAT: 4}),), 0.0),
        ((site("b", 2.0, {CHAT: 4}, standing=OUT),), 0.0),
        ((site("b", 2.0, {CHAT: 4}, state="silent"),), 0.0),
        ((site("b", 2.0, {CHAT: 4}, status=None),), 0.0),
        ((site("b", 2.0, {CHAT: 4}), site("c", 0.0, {CHAT: 1})), 6.0),
    ],
)
def test_room_is_what_others_have_free_of_what_the_site_serves(
    others: tuple[SiteView, ...], free: float
) -> None:
    assert room_elsewhere(view(site("a", 3.0, {CHAT: 8}), *others), "a") == (4.0, free)


def test_of_a_site_that_is_not_heard_nothing_is_said() -> None:
    assert room_elsewhere(view(site("a", 3.0, {CHAT: 8}, status=None)), "a") is None
