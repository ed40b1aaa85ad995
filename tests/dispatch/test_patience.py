"""How long a gateway waits: what failed is held only for others who may and were not asked."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatch.fleets import random_fleet, table_of
from effort import effort
from hanse.dispatch.choose import PATH_MS_MAX
from hanse.dispatch.load import Load
from hanse.dispatch.reasons import Reason
from hanse.dispatch.router import Router
from hanse.dispatch.table import Table


@settings(max_examples=effort(60), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_held_only_for_room_or_for_another_lawful_site_that_was_not_asked(seed: int) -> None:
    rng = np.random.default_rng(seed)
    made = table_of(random_fleet(rng))
    arrays = {name: array.copy() for name, array in made.arrays.items()}
    sites, offers = arrays["sites"], arrays["offers"]
    sites["drained"] = rng.random(len(sites)) < 0.2
    offers["replicas"][rng.random(len(offers)) < 0.2] = 0
    table = Table(made.meta, arrays)
    origin, service = (int(rng.integers(0, len(some))) for some in (sites, table.services))
    router = Router(table, Load(table), origin)
    asked = rng.choice(len(offers), min(len(offers), int(rng.integers(0, 12))), replace=False)
    row = int(rng.integers(0, len(table.subjects)))
    subject = table.subjects[row]
    tokens_in = int(rng.choice([10, 5000, 100_000]))
    left = [
        o
        for o, offer in enumerate(offers)
        if offer["service"] == service
        and offer["site"] != origin
        and offer["replicas"] > 0
        and offer["quality"] >= subject["quality_min"]
        and tokens_in < offer["request_tokens_max"]
        and table.law[subject["profile"], offer["site"]]
        and table.paths_from(origin)[offer["site"]]["rtt_ms"] < PATH_MS_MAX
        and not sites["drained"][offer["site"]]
        and o not in asked
    ]
    for reason in Reason:
        held = router.worth_holding(reason, service, row, tokens_in, asked.tolist())
        waits = reason in (Reason.TRIED, Reason.DEAD, Reason.STALE) and bool(left)
        assert held == (waits or reason == Reason.ROOM)
