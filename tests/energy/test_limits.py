"""What bounds a site's power: the connection, the battery, the heat."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hanse.energy.limits import (
    BATTERY_BACK_SHARE,
    BATTERY_LOW_SHARE,
    HEAT_LIMIT_C,
    HEAT_LOSS_PER_K,
    PowerLimit,
    power_limit,
)


def limit(**changed: Any) -> PowerLimit:
    usual: dict[str, Any] = {
        "grid_kw": 50.0,
        "generated_kw": 10.0,
        "load_kw": 40.0,
        "stored_kwh": 30.0,
        "battery_kwh": 60.0,
        "battery_kw_max": 20.0,
        "efficiency": 0.95,
        "step_s": 60.0,
        "outdoor_c": 20.0,
        "base_kw": 5.0,
        "it_kw_rated": 60.0,
        "pue": 1.25,
    }
    return power_limit(**(usual | changed))


def test_grid_own_power_and_battery_add_up() -> None:
    assert limit() == PowerLimit(available_kw=80.0, cause="grid cap", battery_low=False)
    empty = limit(stored_kwh=0.1, load_kw=40.0)
    assert empty.available_kw == 60.0 + 0.1 * 0.95 * 60.0
    assert not empty.battery_low, "nobody needs it now"


def test_a_low_battery_is_kept_once_it_is_needed_until_it_has_recovered() -> None:
    needed = limit(grid_kw=0.0, load_kw=30.0, stored_kwh=0.19 * 60)
    assert needed == PowerLimit(available_kw=10.0, cause="battery low", battery_low=True)
    calm = limit(grid_kw=0.0, load_kw=5.0, stored_kwh=0.25 * 60, was_low=True)
    assert calm.battery_low, "between the two shares nothing changes"
    back = limit(grid_kw=0.0, load_kw=5.0, stored_kwh=BATTERY_BACK_SHARE * 60, was_low=True)
    assert not back.battery_low and back.available_kw == 30.0
    assert BATTERY_LOW_SHARE < BATTERY_BACK_SHARE


def test_beyond_its_rating_temperature_cooling_bounds_what_chips_may_draw() -> None:
    hot = limit(outdoor_c=HEAT_LIMIT_C + 10.0)
    cooled = 5.0 + 60.0 * (1.0 - 10.0 * HEAT_LOSS_PER_K) * 1.25
    assert hot == PowerLimit(available_kw=cooled, cause="heat", battery_low=False)
    assert limit(outdoor_c=HEAT_LIMIT_C).cause == "grid cap"
    assert limit(outdoor_c=None) == limit()


@given(
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.floats(0, 1e4),
    st.floats(0, 1),
    st.floats(-40, 60),
    st.booleans(),
)
def test_less_of_anything_never_gives_more(
    grid_kw: float, own_kw: float, load_kw: float, share: float, outdoor_c: float, was_low: bool
) -> None:
    known: dict[str, Any] = {
        "grid_kw": grid_kw,
        "generated_kw": own_kw,
        "load_kw": load_kw,
        "stored_kwh": 60.0 * share,
        "outdoor_c": outdoor_c,
        "was_low": was_low,
    }
    found = limit(**known)
    assert 0.0 <= found.available_kw <= grid_kw + own_kw + 20.0
    assert limit(**(known | {"grid_kw": grid_kw * 0.5})).available_kw <= found.available_kw
    assert limit(**(known | {"outdoor_c": outdoor_c + 5.0})).available_kw <= found.available_kw
