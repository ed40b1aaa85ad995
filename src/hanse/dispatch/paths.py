"""Ways between sites: a link where there is one, else the quickest chain of links, else the public internet.

Here: round-trip time, rate and price from one site to all. Not here: measuring any of them. A gateway needs only the
ways from its own site, so a table carries links and each reader computes its row; a fleet of 1,000 sites has a
million pairs.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import distance_km, rtt_ms_floor
from hanse.model.fleet import Link
from hanse.units import bytes_per_s_from_mbit_s, gb_from_bytes, ms_from_s

PATH_DTYPE: Final = np.dtype(
    [("rtt_ms", "f8"), ("ms_per_byte", "f8"), ("usd_per_byte", "f8")], align=True
)
"""[site]; all 0 for the site itself."""

UNLINKED_ACCESS_MS: Final = 5.0
UNLINKED_MBIT_S: Final = 100.0
UNLINKED_USD_PER_GB: Final = 0.05
"""A pair of sites that no chain of links joins meets over the public internet: light in fibre and two access networks,
a modest rate, and a price between a colocation's and a cloud's."""

Edges = dict[int, list[tuple[int, float, float, float]]]


def paths_from(
    origin: int, names: Sequence[str], places: Sequence[tuple[float, float]], links: Sequence[Link]
) -> NDArray[Any]:
    """[site] `PATH_DTYPE` from one site; `places` are (latitude, longitude) in degrees."""
    index = {name: i for i, name in enumerate(names)}
    edges: Edges = {i: [] for i in range(len(names))}
    for link in links:
        for a, b in ((link.a, link.b), (link.b, link.a)):
            edges[index[a]].append((index[b], link.rtt_ms, link.mbit_s, link.usd_per_gb))
    reached = _quickest(origin, edges)
    reached |= {edge[0]: edge[1:] for edge in edges[origin]}
    paths = np.zeros(len(names), PATH_DTYPE)
    for site in range(len(names)):
        if site != origin:
            rtt_ms, mbit_s, usd_per_gb = reached.get(site) or _unlinked(
                places[origin], places[site]
            )
            ms_per_byte = ms_from_s(1.0 / bytes_per_s_from_mbit_s(mbit_s))
            paths[site] = (rtt_ms, ms_per_byte, gb_from_bytes(usd_per_gb))
    return paths


def _quickest(origin: int, edges: Edges) -> dict[int, tuple[float, float, float]]:
    """Dijkstra by round-trip time: site -> (ms, lowest rate, sum of prices) of the quickest chain of links."""
    done: dict[int, tuple[float, float, float]] = {}
    heap: list[tuple[float, int, float, float]] = [(0.0, origin, float("inf"), 0.0)]
    while heap:
        rtt_ms, site, mbit_s, usd_per_gb = heapq.heappop(heap)
        if site in done:
            continue
        done[site] = (rtt_ms, mbit_s, usd_per_gb)
        for other, link_ms, link_mbit_s, link_usd in edges[site]:
            if other not in done:
                rate = min(mbit_s, link_mbit_s)
                heapq.heappush(heap, (rtt_ms + link_ms, other, rate, usd_per_gb + link_usd))
    return done


def _unlinked(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float, float]:
    rtt_ms = rtt_ms_floor(distance_km(*a, *b)) + UNLINKED_ACCESS_MS
    return rtt_ms, UNLINKED_MBIT_S, UNLINKED_USD_PER_GB
