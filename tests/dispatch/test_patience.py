"""How long a gateway waits: what failed is held only for others who may and were not asked."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import random_fleet, table_of
from effort import effort
from hanse.dispatch.patience import worth_holding
from hanse.dispatch.reasons import Reason
from hanse.dispatch.router import NONE_TRIED


@settings(max_examples=effort(60), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_held_only_for_room_or_for_another_lawful_site_that_was_not_asked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = table_of(random_fleet(rng))
    offers, sites = table.offers, table.sites
    sites = sites.copy()
    sites["drained"] = rng.random(len(sites)) < 0.2
    tried = NONE_TRIED.copy()
    asked = rng.choice(len(offers), min(len(offers), int(rng.integers(0, 8))), replace=False)
    tried[: len(asked)] = asked
    subject = table.subjects[int(rng.integers(0, len(table.subjects)))]
    service, origin = int(rng.integers(0, len(table.services))), int(rng.integers(0, len(sites)))
    left = [
        o
        for o, offer in enumerate(offers)
        if offer["service"] == service
        and offer["site"] != origin
        and offer["replicas"] > 0
        and offer["quality"] >= subject["quality_min"]
        and table.law[subject["profile"], offer["site"]]
        and not sites["drained"][offer["site"]]
        and o not in asked
    ]
    for reason in Reason:
        held = worth_holding(int(reason), offers, sites, table.law, subject, service, origin, tried)
        waits = reason in (Reason.DEAD, Reason.STALE) and bool(left)
        assert held == (waits or reason == Reason.ROOM)
