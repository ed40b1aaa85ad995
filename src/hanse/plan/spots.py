"""Spots of a study: each place in each size class, with its price of power.

Here: `Spot`, `spots_of`. Not here: what is built at them (`designs`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from hanse.catalogue import City, city, country_electricity
from hanse.errors import ConfigError
from hanse.plan.inventory import Place
from hanse.plan.study_file import Candidate, SizeClass, Study

REGIONS_MAX: Final = 10
"""Places for a size class of 10 MW and more: the cheapest to build and run in; nobody looks at sixty."""
LARGE_KW: Final = 10_000.0
PRICE_USD_PER_KWH: Final = 0.15
"""Where nobody publishes an industrial price: the mean of European countries' in the catalogue."""


class Spot(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """A place in one size class."""

    city: City
    size: SizeClass
    price_usd_per_kwh: float
    candidate: Candidate | None

    @property
    def id(self) -> str:
        """Of the site, if it is built."""
        return f"{self.size.id}-{slug(self.city)}"

    def place(self) -> Place:
        """As the cost model knows it."""
        return Place(
            id=self.id,
            city=self.city.name,
            country=self.city.iso2,
            size=self.size,
            price_usd_per_kwh=self.price_usd_per_kwh,
        )


def spots_of(study: Study) -> tuple[Spot, ...]:
    """Every place in every size class that may stand there; large ones where energy is cheapest, one a country first."""
    named = study.candidates or tuple(
        Candidate(city=c.city, country=c.country) for c in study.cities
    )
    found = []
    for size in study.sizes:
        here = [c for c in named if not c.sizes or size.id in c.sizes]
        places = [(city(c.city, iso2=c.country or ""), c) for c in here]
        spots = [
            Spot(city=place, size=size, price_usd_per_kwh=_price(place, c), candidate=c)
            for place, c in places
        ]
        if size.it_kw >= LARGE_KW:
            # Energy decides where a region stands; of equals the larger city.
            spots.sort(key=lambda s: (s.price_usd_per_kwh, -s.city.population))
            by_country: dict[str, int] = {}
            kept = []
            for spot in spots:
                by_country[spot.city.iso2] = by_country.get(spot.city.iso2, 0) + 1
                if by_country[spot.city.iso2] == 1:
                    kept.append(spot)
            spots = (kept + [s for s in spots if s not in kept])[:REGIONS_MAX]
        found += spots
    return tuple(found)


def _price(place: City, candidate: Candidate) -> float:
    if candidate.price_usd_per_kwh is not None:
        return candidate.price_usd_per_kwh
    try:
        known = country_electricity(place.iso2).price_usd_per_kwh
    except ConfigError:
        known = None
    return known or PRICE_USD_PER_KWH


def slug(place: City) -> str:
    """Of a city's name: lower-case letters, digits, hyphens."""
    from hanse.catalogue.cities import fold

    kept = "".join(c if c.isalnum() and c.isascii() else "-" for c in fold(place.name))
    return f"{'-'.join(p for p in kept.split('-') if p)}-{place.iso2.lower()}"
