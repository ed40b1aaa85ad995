"""Who is served where, once sizes stand: each row at the nearest of its places that cost the same and have room.

Here: `assigned`, a transport problem over all rows. Not here: which sizes stand (`candidates`), which knows rows that may go to the
same places only together and so says nothing of distance; who is served where at run time (`dispatch` decides).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hanse.milp import INF, Model, Solver

Floats = NDArray[np.float64]
NEARNESS_PER_MS: Final = 0.001
"""Of the mean cost of a unit, for each ms of round trip: 10 ms outweigh 1 %, which figures of cost never know."""
UNSERVED_TIMES: Final = 1e3
PART_MIN: Final = 0.25
"""Of a replica: a workload that has less than this at a site is served elsewhere, where there is room, since replicas are whole."""
SHARE_MIN: Final = 1e-6


def assigned(
    need: Floats,
    unit_usd: Floats,
    rtt_ms: Floats,
    may: NDArray[np.bool_],
    capacity: Floats,
    workload: NDArray[np.int64],
    replica: Floats,
) -> Floats:
    """Shares [row, site] of needs [row] in sites of these capacities; a row's rest finds no room.

    `unit_usd`, `rtt_ms` and `may` are [row, site]; `replica` [workload, site] is what one replica takes of a site's capacity.
    """
    if not may.any():
        return np.zeros(may.shape)
    shares, left = _solved(need, unit_usd, rtt_ms, may, capacity)
    held = np.zeros(replica.shape)
    np.add.at(held, workload, shares * need[:, None])
    thin = (held > 0.0) & (held < PART_MIN * replica)
    if not thin.any():
        return shares
    fewer, lost = _solved(need, unit_usd, rtt_ms, may & ~thin[workload], capacity)
    return fewer if lost <= left + SHARE_MIN * need.sum() else shares


def _solved(
    need: Floats, unit_usd: Floats, rtt_ms: Floats, may: NDArray[np.bool_], capacity: Floats
) -> tuple[Floats, float]:
    """Shares, and the need that finds no room."""
    row, site = np.nonzero(may & (need > 0.0)[:, None])
    mean = max(float(unit_usd[may].mean()), 1e-9) if may.any() else 1.0
    price = unit_usd[row, site] / mean + NEARNESS_PER_MS * rtt_ms[row, site]
    model = Model()
    x = model.add_columns("share", price * need[row])
    left = model.add_columns("left", UNSERVED_TIMES * need, upper=1.0)
    serve = model.add_rows("serve", 1.0, 1.0, need.shape)
    room = model.add_rows("room", -INF, capacity, capacity.shape)
    model.put(serve[row], x, 1.0)
    model.put(serve, left, 1.0)
    model.put(room[site], x, need[row])
    found = Solver(model).relaxed().values
    shares = np.zeros(may.shape)
    shares[row, site] = np.where(found[x] > SHARE_MIN, found[x], 0.0)
    whole = shares.sum(axis=1) + np.where(found[left] > SHARE_MIN, found[left], 0.0)
    shares /= np.maximum(whole, SHARE_MIN)[:, None]
    return shares, float(need @ found[left])
