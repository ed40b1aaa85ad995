"""What an operator hears before a site is taken out of service."""

from __future__ import annotations

from typing import Any

import pytest

import views
from hanse.cli.site import room_elsewhere
from hanse.model.fleet import Placement
from hanse.view import SiteView, StandingView
from views import view

CHAT, EMBED = "chat", "embed"


def site(name: str, running: float, slots: dict[str, int], **more: Any) -> SiteView:
    """One that serves with two replicas of each service, `slots` each; one request waits."""
    serving = tuple(
        Placement(service=s, variant="v", site=name, pool="p", replicas=2, slots=count)
        for s, count in slots.items()
    )
    said = views.status(name, running=running, waiting=1.0, serving=serving)
    return views.site(name, said, **more)


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
