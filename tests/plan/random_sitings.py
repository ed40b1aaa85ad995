"""Small random siting problems, and the same solved by trying every plan."""

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hanse.milp import Limits, Model, Solver
from hanse.plan.siting_problem import Siting
from hanse.plan.siting_survival import Rescue

EXACT = Limits(gap=1e-9, nodes_max=100_000)


def problem(
    rng: np.random.Generator, *, n: int, m: int, k: int, years: int = 1, **more: Any
) -> Siting:
    """Demand that grows, costs that fall per unit with size, about a third of all pairs refused."""
    grow = np.cumsum(rng.uniform(0.2, 1.0, (years, 1)), axis=0)
    capacity = np.cumsum(rng.uniform(0.5, 3.0, k))
    refusal = rng.choice([0, 0, 0, 0, 1, 2], (n, m))
    return Siting(
        demand_ids=tuple(f"d{i}" for i in range(n)),
        site_ids=tuple(f"s{j}" for j in range(m)),
        size_ids=tuple(f"k{i}" for i in range(k)),
        demand=grow * rng.uniform(0.1, 1.5, (1, n)),
        unit_usd=rng.uniform(0.1, 2.0, (n, m)),
        capacity=capacity,
        fixed_usd=rng.uniform(0.5, 1.5, (m, 1)) * (1.0 + capacity**0.8),
        refusal=refusal,
        **more,
    )


@st.composite
def problems(draw: st.DrawFn) -> Siting:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, m, k = draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 2))
    years = draw(st.sampled_from([1, 1, 2])) if m < 3 else 1
    more: dict[str, Any] = {}
    if draw(st.booleans()):
        more["survive_share"] = rng.choice([0.0, 0.3, 1.0], n)
    if draw(st.booleans()):
        more["sites_max"] = draw(st.integers(0, m))
    if draw(st.booleans()):
        more["budget_usd"] = draw(st.floats(0.0, 10.0))
    if draw(st.booleans()):
        more["forced"] = ("s0",)
    more["unserved_usd"], more["uncovered_usd"] = draw(st.sampled_from([(20.0, 7.0), (3.0, 1.0)]))
    if draw(st.booleans()):
        more["allowed"] = rng.random((m, k)) < 0.8
        more["allowed"][0] = True
    return problem(rng, n=n, m=m, k=k, years=years, **more)


def by_trying(p: Siting) -> float:
    """The least cost over all plans: each plan's serving as a small linear program, its failures as flows."""
    years, m, k = len(p.demand), len(p.site_ids), len(p.size_ids)
    forced = [site in p.forced for site in p.site_ids]
    choices = [
        [c for c in itertools.combinations_with_replacement(range(-1, k), years) if _fits(p, j, c)]
        for j in range(m)
    ]
    best = np.inf
    for plan in itertools.product(*choices):
        size = np.array(plan).T
        if any(f and size[0, j] < 0 for j, f in enumerate(forced)) or not _within(p, size):
            continue
        best = min(best, spent_usd(p, size) + uncovered_usd(p, size))
    return float(best)


def spent_usd(p: Siting, size: np.ndarray) -> float:
    """Cost of a plan whose sizes are given, each year a transport problem written out plainly."""
    total = 0.0
    for year, (demand, row) in enumerate(zip(p.demand, size, strict=True)):
        built = np.flatnonzero(row >= 0)
        usd = p.fixed_usd[built, row[built]].sum()
        rows = [
            i for i in range(len(demand)) if (p.eligible & p.sizes_allowed.any(axis=1))[i].any()
        ]
        model = Model()
        unserved = model.add_columns("u", [demand[i] * p.unserved_usd for i in rows], upper=1.0)
        serve = model.add_rows("serve", 1.0, 1.0, (len(rows),))
        room = model.add_rows("room", -np.inf, p.capacity[row[built]], (len(built),))
        for r, i in enumerate(rows):
            model.put(serve[r], unserved[r], 1.0)
            for b, j in enumerate(built):
                if p.refusal[i, j] == 0:
                    x = model.add_columns(f"x {i} {j}", np.array(demand[i] * p.unit_usd[i, j]))
                    model.put(serve[r], x, 1.0)
                    model.put(room[b], x, demand[i])
        if rows:
            usd += Solver(model).relaxed().objective
        total += usd / (1.0 + p.rate) ** year
    return total


def uncovered_usd(p: Siting, size: np.ndarray) -> float:
    """Price of what failures leave without room, one flow over all rows for each failure."""
    if p.survive_share is None:
        return 0.0
    hopeless = ~(p.eligible & p.sizes_allowed.any(axis=1)).any(axis=1)
    total = 0.0
    for year, demand in enumerate(p.demand):
        must = np.where(hopeless, 0.0, demand * p.survive_share)
        for gone in range(len(p.site_ids)):
            left = np.where(size[year] >= 0, p.capacity[size[year]], 0.0)
            left[gone] = 0.0
            short, _ = Rescue(p.eligible).short(must, left)
            total += short * (p.uncovered_usd or 0.0) / (1.0 + p.rate) ** year
    return total


def _fits(p: Siting, site: int, sizes: tuple[int, ...]) -> bool:
    return all(k < 0 or p.sizes_allowed[site, k] for k in sizes)


def _within(p: Siting, size: np.ndarray) -> bool:
    forced_usd = sum(
        p.fixed_usd[p.site_ids.index(s), p.sizes_allowed[p.site_ids.index(s)].argmax()]
        for s in p.forced
    )
    for row in size:
        built = np.flatnonzero(row >= 0)
        if p.sites_max is not None and len(built) > max(p.sites_max, len(p.forced)):
            return False
        spent = p.fixed_usd[built, row[built]].sum()
        if p.budget_usd is not None and spent > max(p.budget_usd, forced_usd) + 1e-9:
            return False
    return True
