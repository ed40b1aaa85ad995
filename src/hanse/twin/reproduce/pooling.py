"""What one fleet for several time zones saves against one fleet a zone.

Demand of five equal regions that follow the same daily curve, each by its own clock; capacity is a high quantile of
demand. Apart, each region holds the quantile of its own curve; together, one fleet holds the quantile of the sum. The
demand is ServeGen (Xiang et al., arXiv 2505.09999, repository alibaba/ServeGen f891d11): request rates of production LLM
services in windows of ten minutes.

Here: the share of capacity saved. Not here: the WAN hop that pooling costs, law that forbids it, batching gains.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hanse.twin.reproduce.inputs import columns
from hanse.twin.reproduce.values import Reproduction, Row, agreed, row
from hanse.units import SECONDS_PER_DAY, hours_from_s

FOLDER = "llm_demand_servegen_2025"
WINDOW_S = 600.0
WINDOWS_PER_DAY = round(SECONDS_PER_DAY / WINDOW_S)
OFFSETS_H = (0, 8, 13, 16, -3)
"""Clock offsets of the five regions, as the published figures use them."""
QUANTILE = 0.999

PUBLISHED_PCT = {"m-large": 11.0, "m-mid": 11.0, "m-small": 24.0, "deepseek-r1": 48.0}
"""Saved capacity on the mean day (DeepSeek-R1: its one day)."""
PUBLISHED_ALL_DAYS_PCT = {"m-large": 31.0, "m-mid": 13.0, "m-small": 41.0}
"""Saved capacity on the 14 days as recorded."""
PCT_TOLERANCE = 0.5
"""The published figures are whole percent."""


def saved_share(demand: NDArray[np.float64], shifts: tuple[int, ...]) -> float:
    """Share of capacity that one fleet saves against a fleet a region.

    Each region sees `demand` [window] as a cycle, `shifts` windows ahead of the first; both are sized at the quantile.
    """
    together = np.sum([np.roll(demand, -shift) for shift in shifts], axis=0)
    return 1.0 - size_at(together, QUANTILE) / (len(shifts) * size_at(demand, QUANTILE))


def size_at(demand: NDArray[np.float64], quantile: float) -> float:
    """The capacity that covers a share of the windows: the value at rank floor(q (n - 1)), none interpolated.

    On one day of 144 windows q = 0.999 leaves out the single highest window; an interpolating quantile would not, and
    gives 12, 11, 27 and 48 % instead of the published figures.
    """
    return float(np.quantile(demand, quantile, method="lower"))


def mean_day(demand: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over days of each window of the day; windows without traffic count as zero."""
    return np.asarray(demand.reshape(-1, WINDOWS_PER_DAY).mean(0))


def demand_rps(data: Path, service: str) -> NDArray[np.float64]:
    """Requests per second of a service, all clients together, [window] over whole days."""
    starts_s, rate_rps = columns(data, _file(service), "t_s", "rate_rps")
    window = np.rint(starts_s / WINDOW_S).astype(np.int64)
    days = -(-(int(window.max()) + 1) // WINDOWS_PER_DAY)
    rates = np.bincount(window, weights=rate_rps, minlength=days * WINDOWS_PER_DAY)
    return np.asarray(rates, np.float64)


def _file(service: str) -> str:
    return f"{FOLDER}/{service}_rates.csv.gz"


def timezones(data: Path) -> Reproduction:
    """Capacity saved by pooling five time zones, for four LLM services of ServeGen."""
    shifts = tuple(round(h / hours_from_s(WINDOW_S)) for h in OFFSETS_H)
    rows: list[Row] = []
    for service, paper_pct in PUBLISHED_PCT.items():
        demand = demand_rps(data, service)
        day = mean_day(demand)
        several = service in PUBLISHED_ALL_DAYS_PCT
        rows.append(
            row(
                f"{service}, {'mean day' if several else 'its one day'}",
                "% saved",
                paper=paper_pct,
                ours=100.0 * saved_share(day, shifts),
                tolerance=PCT_TOLERANCE,
                also={"peak/mean": float(day.max() / day.mean())},
            )
        )
        if several:
            rows.append(
                row(
                    f"{service}, 14 days",
                    "% saved",
                    paper=PUBLISHED_ALL_DAYS_PCT[service],
                    ours=100.0 * saved_share(demand, shifts),
                    tolerance=PCT_TOLERANCE,
                    also={"peak/mean": float(demand.max() / demand.mean())},
                )
            )
    return Reproduction(
        name="pooling-timezones",
        question="Capacity that one fleet for five time zones saves against a fleet in each",
        source=(
            "Hanse's own reference figures, in whole percent, from ServeGen (Xiang et al., arXiv 2505.09999); SkyWalker"
            " (EuroSys 2026, arXiv 2505.24095) reports 25 % lower cost from serving regional peaks together"
        ),
        method=(
            "Sum of all clients' request rates in 10-minute windows. Five equal regions at 0, 8, 13, 16 and -3 hours, each"
            " seeing the same curve as a cycle. Capacity: the 99.9 % quantile, the value at rank floor(0.999 (n - 1))."
            " Saved: 1 - quantile of the sum / sum of the quantiles."
        ),
        rows=tuple(rows),
        notes=(
            "The clock hour of the recordings is not published; only differences between regions matter here.",
            "With the sign turned this is the price of splitting one fleet into islands that share nothing.",
            "The mean day leaves out bursts and what differs between days; the 14 days size every fleet for rare bursts.",
        ),
        files=tuple(_file(service) for service in PUBLISHED_PCT),
        agrees=agreed(tuple(rows)),
    )
