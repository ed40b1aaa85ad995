"""Kinds and units of signal never meet in a sum or a comparison."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError
from hanse.signals import SignalType
from hanse.signals.forecast import Forecast, preferred
from hanse.signals.kinds import one_kind
from signals.forecast.histories import MONDAY_S

KINDS: tuple[SignalType, ...] = typing.get_args(SignalType)
HOUR_S = 3600.0


def plain(signal: typing.Any, *mean: float, **changes: typing.Any) -> Forecast:
    found = Forecast(
        quantity="carbon_intensity", unit="gCO2e/kWh", signal=signal, zone="A",
        issued_at_s=MONDAY_S, start_s=MONDAY_S, step_s=HOUR_S,
        mean=mean, high=tuple(m + 10.0 for m in mean), expected_error=(),
        method="blend", source="a",
    )  # fmt: skip
    return msgspec.structs.replace(found, **changes)


@given(a=st.sampled_from(KINDS), b=st.sampled_from(KINDS))
def test_forecasts_of_two_kinds_are_refused(a: SignalType, b: SignalType) -> None:
    one, two = plain(a, 1.0, 5.0), plain(b, 2.0, 3.0, zone="B")
    if a == b:
        one_kind(one, two)
        assert preferred(one, two).mean == (1.0, 5.0)
        return
    for mixed in (lambda: one_kind(one, two), lambda: preferred(one, two)):
        with pytest.raises(ConfigError, match=f"({a} and {b}|{b} and {a})"):
            mixed()


def test_units_do_not_mix_either() -> None:
    with pytest.raises(ConfigError, match="unit of a sum"):
        preferred(plain("price", 1.0), plain("price", 1.0, unit="EUR/kWh"))


def test_a_providers_forecast_comes_first_and_says_so() -> None:
    own = plain("average_location", 10.0, 20.0, 30.0, expected_error=(1.0, 2.0, 3.0))
    theirs = plain(
        "average_location", 100.0, 200.0, 300.0, 400.0, step_s=1800.0, method="UK Carbon Intensity API", source="NESO"
    )  # fmt: skip
    found = preferred(theirs, own)
    assert found.mean == (150.0, 350.0, 30.0)
    assert found.high == (160.0, 360.0, 40.0)
    assert found.method == "UK Carbon Intensity API, then blend"
    assert found.source == "NESO"
    assert preferred(None, own) is own
    assert preferred(msgspec.structs.replace(theirs, start_s=MONDAY_S - 1e6), own) is own
