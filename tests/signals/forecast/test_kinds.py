"""Kinds of signal never meet in a sum or a comparison: mypy refuses what it sees, the rest is refused when it runs."""

from __future__ import annotations

import subprocess
import sys
import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError
from hanse.signals import Reading, SignalType
from hanse.signals.forecast import Forecast, preferred
from hanse.signals.kinds import emitted
from signals.forecast.histories import MONDAY_S

KINDS: tuple[SignalType, ...] = typing.get_args(SignalType)
HOUR_S = 3600.0


def plain(signal: typing.Any, *mean: float, **changes: typing.Any) -> Forecast[typing.Any]:
    found: Forecast[typing.Any] = Forecast(
        quantity="carbon_intensity", unit="gCO2e/kWh", signal=signal, zone="A",
        issued_at_s=MONDAY_S, start_s=MONDAY_S, step_s=HOUR_S,
        mean=mean, high=tuple(m + 10.0 for m in mean), expected_error=(),
        method="blend", source="a",
    )  # fmt: skip
    return msgspec.structs.replace(found, **changes)


@given(a=st.sampled_from(KINDS), b=st.sampled_from(KINDS))
def test_forecasts_add_and_compare_within_one_kind_only(a: SignalType, b: SignalType) -> None:
    one, two = plain(a, 1.0, 5.0), plain(b, 2.0, 3.0, zone="B")
    if a == b:
        assert (one + two).mean == (3.0, 8.0)
        assert one.below(two) == (True, False)
        return
    for mixed in (lambda: one + two, lambda: one.below(two), lambda: preferred(one, two)):
        with pytest.raises(ConfigError, match=f"({a} and {b}|{b} and {a})"):
            mixed()


@given(
    a=st.sampled_from(["average_location", "average_market", "marginal"]),
    b=st.sampled_from(["average_location", "average_market", "marginal"]),
)
def test_grams_remember_what_they_were_counted_with(a: typing.Any, b: typing.Any) -> None:
    one, two = emitted(2.0, 100.0, a), emitted(1.0, 300.0, b)
    if a == b:
        assert (one + two).grams == 500.0
        assert one < two
        return
    with pytest.raises(ConfigError, match="signal of a sum"):
        one + two
    with pytest.raises(ConfigError, match="signal of a sum"):
        _ = one < two


def test_units_and_axes_do_not_mix_either() -> None:
    with pytest.raises(ConfigError, match="unit of a sum"):
        plain("price", 1.0) + plain("price", 1.0, unit="EUR/kWh")
    with pytest.raises(ConfigError, match="axes"):
        plain("price", 1.0) + plain("price", 1.0, 2.0)


def test_a_reading_or_a_bare_number_does_not_add_at_all() -> None:
    reading = Reading(
        value=1.0,
        unit="gCO2e/kWh",
        zone="A",
        signal="marginal",
        method="none",
        source="",
        licence="",
    )
    with pytest.raises(TypeError):
        reading + reading  # type: ignore[operator]
    with pytest.raises(TypeError):
        plain("marginal", 1.0) + 1.0  # type: ignore[operator]
    with pytest.raises(TypeError):
        sum([plain("marginal", 1.0)])


def test_the_type_checker_refuses_a_mixed_sum(tmp_path: Path) -> None:
    script = tmp_path / "mixed.py"
    script.write_text(
        "from hanse.signals.kinds import emitted\n"
        "a = emitted(1.0, 2.0, 'marginal')\n"
        "b = emitted(1.0, 2.0, 'average_location')\n"
        "a + a\n"
        "a + b\n"
    )
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=100)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1 and "mixed.py:5" in errors[0], done.stdout + done.stderr


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
