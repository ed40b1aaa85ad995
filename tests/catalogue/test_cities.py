"""Cities are found however people type them; distances obey geometry."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.catalogue import city, distance_km, nearest_city, rtt_ms_floor
from hanse.catalogue.cities import cities, fold
from hanse.errors import ConfigError

LAT = st.floats(-90, 90)
LON = st.floats(-180, 180)


def test_all_cities_are_there_largest_first() -> None:
    found = cities()
    assert len(found) == 6204
    assert all(a.population >= b.population for a, b in pairwise(found))


@pytest.mark.parametrize(
    ("typed", "country"),
    [("zurich", "CH"), ("LODZ", "PL"), ("Sao Paulo", "BR"), ("xi'an", "CN"), ("tallinn", "EE")],
)
def test_accents_and_case_do_not_matter(typed: str, country: str) -> None:
    assert city(typed).iso2 == country


def test_every_city_is_found_by_its_own_name_and_country() -> None:
    for c in cities():
        assert fold(city(c.name, iso2=c.iso2).name) == fold(c.name)


def test_of_two_cities_of_one_name_the_larger_or_the_named_country_wins() -> None:
    assert city("London").iso2 == "GB"
    assert city("London", iso2="CA").iso2 == "CA"


def test_a_wrong_city_is_refused_with_close_names() -> None:
    with pytest.raises(ConfigError, match="Frankfurt am Main"):
        city("Frankfurt am Mein")


def test_each_city_is_its_own_nearest() -> None:
    for c in cities()[::500]:
        found, away_km = nearest_city(c.lat, c.lon)
        assert found.geonameid == c.geonameid
        assert away_km == pytest.approx(0.0, abs=1e-6)


def test_new_york_to_london_is_5570_km() -> None:
    assert distance_km(40.7128, -74.0060, 51.5074, -0.1278) == pytest.approx(5570, rel=0.005)


@given(LAT, LON, LAT, LON)
def test_distance_is_symmetric_and_at_most_half_round_the_earth(
    lat_a: float, lon_a: float, lat_b: float, lon_b: float
) -> None:
    there = distance_km(lat_a, lon_a, lat_b, lon_b)
    assert there == pytest.approx(distance_km(lat_b, lon_b, lat_a, lon_a), abs=1e-6)
    assert 0.0 <= there <= math.pi * 6371.0088 + 1e-6


@given(LAT, LON, LAT, LON, LAT, LON)
def test_a_detour_is_never_shorter(
    lat_a: float, lon_a: float, lat_b: float, lon_b: float, lat_c: float, lon_c: float
) -> None:
    straight = distance_km(lat_a, lon_a, lat_c, lon_c)
    detour = distance_km(lat_a, lon_a, lat_b, lon_b) + distance_km(lat_b, lon_b, lat_c, lon_c)
    # 1 m: haversine loses digits near antipodes.
    assert straight <= detour + 1e-3


def test_the_latency_floor_of_the_atlantic_is_55_ms_in_a_straight_line() -> None:
    assert rtt_ms_floor(5570, path_factor=1.0) == pytest.approx(55.7)
    assert 70 <= rtt_ms_floor(5570) <= 90


def test_the_first_words_of_a_name_are_enough_where_no_city_is_called_so():
    assert city("frankfurt").name == "Frankfurt am Main"
    assert city("Frankfurt am Main").name == "Frankfurt am Main"
    with pytest.raises(ConfigError):
        city("frank")
