"""Power usage effectiveness from outdoor temperature and kind of site, quickly.

Here: a two-parameter rule for routing. Not here: UPS load curves, humidity, water, set points.
"""

from __future__ import annotations

from typing import Final

from hanse.model.fleet import SiteKind

PUE_OVERHEAD: Final[dict[SiteKind, float]] = {"region": 0.08, "micro": 0.40, "edge": 0.40}
"""Overhead of a cool day. Region 0.08: calibrated on hyperscale disclosures of 2024. Micro and edge:
five times that, the ratio of overheads of a localised room or closet (2.0) and a hyperscale hall
(1.2) in Shehabi et al., LBNL-1005775, 2016. Published small sites run from 1.15 to 2.5: state
`pue` in the fleet file when it is measured."""
PUE_PER_K = 0.015
"""Growth per kelvin above the economiser's limit (same calibration; Flucker and Tozer 2013)."""
ECONOMISER_C = 15.0
"""Outdoor temperature up to which no compressor runs."""
PUE_DAY_UNKNOWN = "no temperature recorded: a day of 15 degC or cooler"


def pue_quick(kind: SiteKind, temp_c: float | None) -> float:
    """PUE = 1 + overhead(kind) + 0.015 max(0, T - 15 degC).

    Valid for -20 to 40 degC outdoors at half load or more. Yearly means for a region: London 1.10,
    Frankfurt 1.11, New York 1.12, Dallas 1.19, Singapore 1.26. An unknown temperature counts as
    cool, which is the lowest this rule can say.
    """
    above_k = 0.0 if temp_c is None else max(0.0, temp_c - ECONOMISER_C)
    return 1.0 + PUE_OVERHEAD[kind] + PUE_PER_K * above_k
