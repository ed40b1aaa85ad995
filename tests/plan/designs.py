"""Small designs with round figures, built by hand for the tests of the cost model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanse.plan.assumptions import read
from hanse.plan.inventory import Inventory, Place
from hanse.plan.study_file import SIZES, SizeClass, Study, StudyCity, Workload

SIZE = {size.id: size for size in SIZES}
CITIES = (("Frankfurt am Main", "DE"), ("Chicago", "US"), ("Mumbai", "IN"), ("Paris", "FR"))


def study(**changes: Any) -> Study:
    """A study whose years are calendar years."""
    given = {
        "schema": "hanse-study/1",
        "name": "test",
        "start": date(2026, 1, 1),
        "years": 3,
        "operator_hq": "DE",
        "cities": (StudyCity(city="Berlin"),),
        "workloads": (Workload(id="chat", model="any", tokens_per_day=1e9),),
    }
    return Study(**(given | changes))


def places(sizes: Sequence[SizeClass]) -> tuple[Place, ...]:
    """One site of each size, in turn in a few cities."""
    return tuple(
        Place(
            id=f"s{i}",
            city=CITIES[i % len(CITIES)][0],
            country=CITIES[i % len(CITIES)][1],
            size=size,
            price_usd_per_kwh=0.1,
        )
        for i, size in enumerate(sizes)
    )


def design(
    sizes: Sequence[str | SizeClass] = ("hall",),
    years: int = 3,
    draws: int = 1,
    chip: str = "h100-sxm",
    scale: float = 1.0,
    **changes: Any,
) -> Inventory:
    """A design that stands fully from the first year on, with flows in proportion to its IT power."""
    kinds = [SIZE[s] if isinstance(s, str) else s for s in sizes]
    it_kw = np.array([k.it_kw for k in kinds]).reshape(-1, 1, 1) * np.ones((1, years, draws))
    it_kw = it_kw * scale
    it_kwh = it_kw * 8760.0 * 0.6
    given: dict[str, Any] = {
        "places": places(kinds),
        "years": years,
        "it_kw": it_kw,
        "chips": {chip: it_kw},
        "chips_used": {chip: it_kw * 0.5},
        "it_kwh": it_kwh,
        "facility_kwh": it_kwh * 1.4,
        "import_kwh": it_kwh * 1.2,
        "export_kwh": it_kwh * 0.05,
        "peak_kw": it_kw * 1.3,
        "water_l": it_kwh * 0.3,
        "pv_kw": it_kw * 0.5,
        "wind_kw": it_kw * 0.1,
        "battery_kwh": it_kw * 0.4,
        "battery_kw": it_kw * 0.2,
        "location_t": it_kwh * 1.2 * 3e-4,
        "market_t": it_kwh * 1.2 * 4e-4,
        "marginal_t": it_kwh * 1.2 * 5e-4,
        "own_t": it_kwh * 0.2 * 4e-5,
        "wan_gb": it_kw * 1000.0,
        "tokens": np.full((1, years, draws), 3.65e11),
        "tokens_lost": np.full((1, years, draws), 3.65e8),
        "rented_chip_h": {chip: np.full((1, years, draws), 1e4)},
        "rented_gb": np.full((1, years, draws), 1e4),
        "personal": True,
    }
    return Inventory(**(given | changes))


def nothing(years: int = 3) -> Inventory:
    """A design without a site and without a rented chip."""
    none = np.zeros((0, years, 1))
    fleet = np.zeros((1, years, 1))
    empty = design((), years)
    arrays = {
        name: none
        for name in Inventory.__struct_fields__
        if isinstance(getattr(empty, name), np.ndarray)
    }
    return Inventory(
        places=(),
        years=years,
        chips={},
        chips_used={},
        rented_chip_h={},
        personal=True,
        **(arrays | {"tokens": fleet, "tokens_lost": fleet, "rented_gb": fleet}),
    )


def values(**changes: float) -> dict[str, NDArray[np.float64]]:
    """The most likely figures with some of them changed; `_` stands for `-` in the names of chips."""
    found: dict[str, NDArray[np.float64]] = read().mid()
    return changed(found, {name.replace("h100_sxm", "h100-sxm"): v for name, v in changes.items()})


def changed(
    found: Mapping[str, NDArray[np.float64]], changes: Mapping[str, float]
) -> dict[str, NDArray[np.float64]]:
    for name in changes:
        assert name in found, name
    return dict(found) | {name: np.array([value]) for name, value in changes.items()}
