"""6,204 cities of at least 100,000 people: by name, by place, and how far light has to travel.

Here: positions, populations, great-circle distance, the latency floor. Not here: measured
round-trip times (a fleet file states those of its links).
"""

from __future__ import annotations

import math
import unicodedata
from functools import cache

from hanse.catalogue.tables import Fact, facts, look_up

EARTH_RADIUS_KM = 6371.0088
"""Mean radius of the IUGG; great-circle error against the ellipsoid is below 0.6 %."""
FIBRE_KM_PER_MS = 200.0
"""Light in fibre: c over a group index of about 1.5."""
PATH_FACTOR = 1.3
"""Cable route over great circle. Published ratios run from 1.3 to 2; a floor takes the lowest."""

_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "æ": "ae", "œ": "oe", "\u0131": "i", "ð": "d"}
)
"""Letters that Unicode does not decompose into a base letter and an accent."""


class City(Fact, frozen=True, kw_only=True):
    """One city; `name` is as GeoNames spells it."""

    geonameid: int
    name: str
    iso2: str
    lat: float
    lon: float
    population: int
    timezone: str


@cache
def cities() -> tuple[City, ...]:
    """All cities, largest first."""
    return tuple(facts("cities_100k.csv", City))


def city(name: str, *, iso2: str = "", where: str = "city") -> City:
    """The largest city of a name; accents and case do not matter, `iso2` picks a country. Where none has it whole, the largest whose name
    begins with its words: Frankfurt is Frankfurt am Main.
    """
    folded = fold(name)
    found = _by_folded_name().get(folded, ())
    for candidate in found or _beginning_with(folded):
        if not iso2 or candidate.iso2 == iso2:
            return candidate
    names = [c.name for c in cities() if not iso2 or c.iso2 == iso2]
    by_name: dict[str, City] = {}
    return look_up(by_name, name, where=where, noun="city", names=names)


def nearest_city(lat_deg: float, lon_deg: float) -> tuple[City, float]:
    """The city closest to a place, and the distance in km."""
    found = min(cities(), key=lambda c: _chord(lat_deg, lon_deg, c.lat, c.lon))
    return found, distance_km(lat_deg, lon_deg, found.lat, found.lon)


def distance_km(lat_a_deg: float, lon_a_deg: float, lat_b_deg: float, lon_b_deg: float) -> float:
    """Great-circle distance by the haversine formula (Sinnott, Sky and Telescope 68(2), 1984)."""
    h = _chord(lat_a_deg, lon_a_deg, lat_b_deg, lon_b_deg)
    return 2.0 * EARTH_RADIUS_KM * math.asin(min(1.0, math.sqrt(h)))


def rtt_ms_floor(distance_km: float, *, path_factor: float = PATH_FACTOR) -> float:
    """Round-trip time over fibre: 2 d f / (200 km/ms). Valid for terrestrial and subsea cable.

    No access network, no queue, no routing detour beyond the factor: New York to London gives
    72 ms at 1.3, where 70 to 90 ms are observed.
    """
    return 2.0 * distance_km * path_factor / FIBRE_KM_PER_MS


def fold(name: str) -> str:
    """A name without accents, in lower case: how people type it."""
    lowered = name.casefold().translate(_LETTERS)
    plain = unicodedata.normalize("NFKD", lowered)
    return (
        "".join(ch for ch in plain if not unicodedata.combining(ch)).replace("\u2019", "'").strip()
    )


def _beginning_with(folded: str) -> tuple[City, ...]:
    """Cities of which these are the first words, largest first."""
    return tuple(c for c in cities() if folded and fold(c.name).startswith(f"{folded} "))


@cache
def _by_folded_name() -> dict[str, tuple[City, ...]]:
    table: dict[str, tuple[City, ...]] = {}
    for c in cities():
        key = fold(c.name)
        table[key] = (*table.get(key, ()), c)
    return table


def _chord(lat_a_deg: float, lon_a_deg: float, lat_b_deg: float, lon_b_deg: float) -> float:
    """Haversine of the central angle: grows with distance, cheaper to compare."""
    a, b = math.radians(lat_a_deg), math.radians(lat_b_deg)
    half_lat = (b - a) / 2.0
    half_lon = math.radians(lon_b_deg - lon_a_deg) / 2.0
    return math.sin(half_lat) ** 2 + math.cos(a) * math.cos(b) * math.sin(half_lon) ** 2
