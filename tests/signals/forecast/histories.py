"""Histories with a day, a week, weather and noise, made from a seed."""

from __future__ import annotations

import numpy as np

from hanse.signals import Series, SignalType

MONDAY_S = 1_672_617_600.0  # 2 January 2023


def history(
    days: float = 60.0,
    *,
    step_s: float = 3600.0,
    seed: int = 1,
    signal: SignalType = "average_location",
    quantity: str = "carbon_intensity",
    start_s: float = MONDAY_S,
) -> Series:
    random = np.random.default_rng(seed)
    count = round(days * 86_400.0 / step_s)
    hours = np.arange(count) * step_s / 3600.0
    weather = np.zeros(count)
    push = random.normal(0.0, 4.0, count)
    for i in range(1, count):
        weather[i] = 0.97 * weather[i - 1] + push[i]
    day = 60.0 * np.sin(2.0 * np.pi * hours / 24.0)
    week = np.where((hours // 24.0) % 7.0 >= 5.0, -25.0, 0.0)
    values = np.maximum(5.0, 250.0 + day + week + weather + random.normal(0.0, 3.0, count))
    return with_values(values, step_s=step_s, signal=signal, quantity=quantity, start_s=start_s)


def with_values(
    values: np.ndarray,
    *,
    step_s: float = 3600.0,
    signal: SignalType = "average_location",
    quantity: str = "carbon_intensity",
    start_s: float = MONDAY_S,
) -> Series:
    return Series(
        start_s=start_s,
        step_s=step_s,
        values=np.array(values, np.float64),
        quantity=quantity,
        unit="gCO2e/kWh",
        signal=signal,
        zone="XX",
        source="made for a test",
        licence="-",
    )
