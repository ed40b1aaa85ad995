"""Every uncertain figure of the planner: its range, where that comes from, and draws of all of them at once.

Here: `read` (what is shipped), `of_study` (with a study's own figures), `Assumptions.draws` (Latin hypercube; the same draws for every design)
and `mid`, market factors of building. The figures stand in `data/assumptions.toml`. Not here: what they do to a cost (`plan.tco`).
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.catalogue import all_accelerators
from hanse.catalogue.cities import fold
from hanse.catalogue.tables import Fact, look_up
from hanse.errors import ConfigError
from hanse.plan.study_file import Study

Shape = Literal["triangular", "loguniform", "fixed"]
Basis = Literal["read", "vendor", "assumption", "study"]
Effect = Literal["up", "down", "mixed", "none"]
Values = Mapping[str, NDArray[np.float64]]
"""By id: [draw], or one figure for all draws."""

FILE: Final = Path(__file__).parent / "data" / "assumptions.toml"
BY_CHIP: Final = {
    "chip_usd": ("USD", "up"),
    "cloud_usd_per_h": ("USD/h", "up"),
    "reserved_usd_per_h": ("USD/h", "up"),
    "embodied_kg": ("kg", "up"),
}
"""Figures that a study may give for any accelerator of the catalogue, as `<accelerator>_<name>`, shipped or not: unit and effect."""


class Assumption(Fact, frozen=True, kw_only=True):
    """One figure with its range."""

    id: str
    group: str
    unit: str
    low: float
    mid: float
    """The most likely one; of a `loguniform` figure only what `mid` gives."""
    high: float
    shape: Shape
    valid_min: float
    valid_max: float
    cost: Effect
    """What a larger figure does to the cost of a design; `none`: not part of it."""
    basis: Basis
    """`read`: published and read. `vendor`: published by who sells it. `assumption`: ours, `source` says what it leans on."""
    source: str
    note: str = ""

    @property
    def priced(self) -> bool:
        """Its unit is money."""
        return self.unit.startswith(("USD", "EUR")) or self.id == "eur_usd"

    def quantiles(self, share: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values below which shares of the distribution lie (inverse of its cumulative distribution)."""
        low, mid, high = self.low, self.mid, self.high
        if self.shape == "fixed" or low == high:
            return np.full_like(share, mid)
        if self.shape == "loguniform":
            return np.asarray(low * (high / low) ** share, np.float64)
        width, left = high - low, mid - low
        split = left / width
        rising = low + np.sqrt(share * width * left)
        falling = high - np.sqrt((1.0 - share) * width * (high - mid))
        return np.where(share < split, rising, falling)


class Market(Fact, frozen=True, kw_only=True):
    """What building costs in one city."""

    city: str
    country: str
    usd_per_w: float


class Assumptions(msgspec.Struct, frozen=True, kw_only=True):
    """All figures, by id."""

    figures: dict[str, Assumption]

    def figure(self, id: str, *, where: str = "assumption") -> Assumption:
        """One figure; an unknown id is answered with near ones."""
        return look_up(self.figures, id, where=where, noun="assumption")

    def draws(self, seed: int, n: int) -> dict[str, NDArray[np.float64]]:
        """`n` draws of every figure, [draw]: a Latin hypercube, so that each figure visits every n-th part of its range once.

        Streams are seeded by (seed, id): a further assumption, or another range, changes no other figure's draws
        (McKay, Beckman, Conover, Technometrics 21, 1979).
        """
        return {id: f.quantiles(_strata(seed, id, n)) for id, f in self.figures.items()}

    def mid(self) -> dict[str, NDArray[np.float64]]:
        """The most likely figures, arrays of length 1."""
        return {id: np.array([f.mid]) for id, f in self.figures.items()}


def shocks(seed: int, name: str, years: int, n: int) -> NDArray[np.float64]:
    """Standard normal deviates [year, draw] with a stream of their own, for what changes by year within a draw."""
    return _stream(seed, f"shocks of {name}").standard_normal((years, n))


@cache
def read() -> Assumptions:
    """The shipped figures."""
    document = _document()
    groups = {name: rows for name, rows in document.items() if name != "market"}
    found = [_figure(id, group, row) for group, rows in groups.items() for id, row in rows.items()]
    return Assumptions(figures={f.id: f for f in found})


def of_study(study: Study) -> Assumptions:
    """The shipped figures with the study's own in their place.

    Raises:
        ConfigError: for an unknown id, a source without a figure, low above mid or mid above high, or a figure out of its valid range.
    """
    figures = dict(read().figures)
    for id in study.sources:
        if id not in study.assumptions:
            raise ConfigError(
                f"sources.{id}", got="a source", allowed="a source of a figure in assumptions"
            )
    for id, given in study.assumptions.items():
        figures[id] = _replaced(_known(id), given, study.sources.get(id))
    return Assumptions(figures=figures)


def market_factor(city: str, country: str) -> float:
    """Cost of building in a city over the mean of the published markets: the city's figure, else its country's mean, else 1."""
    markets = build_markets()
    mean = sum(m.usd_per_w for m in markets) / len(markets)
    here = [m for m in markets if m.country == country and fold(m.city) == fold(city)]
    near = here or [m for m in markets if m.country == country]
    return sum(m.usd_per_w for m in near) / len(near) / mean if near else 1.0


@cache
def build_markets() -> tuple[Market, ...]:
    """Published costs by city."""
    return tuple(msgspec.convert(row, Market, strict=False) for row in _document()["market"])


@cache
def _document() -> dict[str, Any]:
    return tomllib.loads(FILE.read_text(encoding="utf-8"))


def _figure(id: str, group: str, row: Mapping[str, Any]) -> Assumption:
    low, mid, high = row["range"]
    valid_min, valid_max = row["valid"]
    rest = {key: value for key, value in row.items() if key not in ("range", "valid")}
    ends = {"low": low, "mid": mid, "high": high, "valid_min": valid_min, "valid_max": valid_max}
    figure = msgspec.convert({"id": id, "group": group, **ends, **rest}, Assumption, strict=False)
    assert valid_min <= low <= mid <= high <= valid_max, id
    assert figure.shape != "loguniform" or low > 0.0, id
    return figure


def _known(id: str) -> Assumption:
    """What the id stands for; figures of accelerators exist for all of the catalogue, with nothing in them where none is shipped."""
    figures = read().figures
    if id in figures:
        return figures[id]
    for name, (unit, effect) in BY_CHIP.items():
        chip = id.removesuffix(f"_{name}")
        if chip != id and chip in all_accelerators():
            return Assumption(
                id=id,
                group="study",
                unit=unit,
                low=0.0,
                mid=0.0,
                high=0.0,
                shape="triangular",
                valid_min=0.0,
                valid_max=1e6,
                cost="up" if effect == "up" else "mixed",
                basis="study",
                source="",
            )
    return look_up(figures, id, where=f"assumptions.{id}", noun="assumption")


def _replaced(figure: Assumption, given: float | Sequence[float], source: str | None) -> Assumption:
    where = f"assumptions.{figure.id}"
    low, mid, high = (given, given, given) if isinstance(given, int | float) else given
    if not low <= mid <= high:
        raise ConfigError(where, got=f"{low:g}, {mid:g}, {high:g}", allowed="low <= mid <= high")
    if not (figure.valid_min <= low and high <= figure.valid_max):
        allowed = f"{figure.valid_min:g} to {figure.valid_max:g} {figure.unit}"
        raise ConfigError(where, got=f"{low:g} to {high:g}", allowed=allowed)
    shape: Shape = "triangular" if low < high else "fixed"
    if shape == "triangular" and figure.shape == "loguniform" and low > 0.0:
        shape = "loguniform"
    return msgspec.structs.replace(
        figure,
        low=float(low),
        mid=float(mid),
        high=float(high),
        shape=shape,
        basis="study",
        source=source or "the study gives none",
        note="",
    )


def _strata(seed: int, id: str, n: int) -> NDArray[np.float64]:
    """One uniform deviate in each n-th part of (0, 1), in random order."""
    stream = _stream(seed, id)
    return (stream.permutation(n) + stream.random(n)) / n


def _stream(seed: int, name: str) -> np.random.Generator:
    """A stream by name: 128 bits of a hash, so that two names never share one."""
    digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
    return np.random.default_rng([seed, int.from_bytes(digest, "big")])
