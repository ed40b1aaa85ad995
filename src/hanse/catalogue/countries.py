"""Countries: ISO 3166 codes and names.

Here: which codes exist. Not here: law (`jurisdictions`) and power (`electricity`).
"""

from __future__ import annotations

from functools import cache

from hanse.catalogue.tables import Fact, facts, look_up


class Country(Fact, frozen=True, kw_only=True):
    """A country or territory of ISO 3166-1, and Kosovo under its user-assigned code XK."""

    iso2: str
    iso3: str
    name: str


@cache
def all_countries() -> dict[str, Country]:
    """All known countries by their two-letter code."""
    return {c.iso2: c for c in facts("countries.csv", Country)}


def country(iso2: str, *, where: str = "country") -> Country:
    """One country by its two-letter code, upper case."""
    return look_up(all_countries(), iso2, where=where, noun="country")
