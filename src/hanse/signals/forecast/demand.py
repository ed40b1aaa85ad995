"""Demand of a service from one subject at one entry: what was counted, and what is expected of the next steps.

Here: `DemandHistory`, counted requests as rates, and its `DemandOutlook`. Not here: recording and traces (`traces`).
"""

from __future__ import annotations

import msgspec
import numpy as np

from hanse.model.fleet import CountryCode, Id
from hanse.signals.forecast.make import SHIPPED, forecast
from hanse.signals.forecast.methods import Method
from hanse.signals.forecast.past import Floats
from hanse.signals.outlook import DemandOutlook
from hanse.signals.series import Series


class DemandHistory(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """Requests that were asked; names as in `DemandOutlook`."""

    service: Id
    tenant: Id
    data_class: Id
    country: CountryCode
    origin: Id
    input_tokens: float
    output_tokens: float
    cached_share: float = 0.0
    rates: Series
    """Requests per second [step], signal `demand`."""


def counted(
    at_s: Floats, *, start_s: float, until_s: float, step_s: float, name: str, source: str
) -> Series:
    """Arrival instants as rates per second over whole steps."""
    steps = int((until_s - start_s) // step_s)
    assert steps >= 1, "a history has a step"
    edges = start_s + np.arange(steps + 1) * step_s
    counts, _ = np.histogram(at_s, edges)
    return Series(
        start_s=start_s,
        step_s=step_s,
        values=counts / step_s,
        quantity="demand",
        unit="requests/s",
        signal="demand",
        zone=name,
        source=source,
        licence="the operator's own",
    )


def demand_outlook(
    history: DemandHistory, issued_at_s: float, *, steps: int, method: Method = SHIPPED
) -> DemandOutlook:
    """Expected and high rates of the next steps."""
    found = forecast(history.rates, issued_at_s, steps=steps, method=method)
    return DemandOutlook(
        service=history.service,
        tenant=history.tenant,
        data_class=history.data_class,
        country=history.country,
        origin=history.origin,
        requests_per_s=found.mean,
        requests_per_s_high=found.high,
        input_tokens=history.input_tokens,
        output_tokens=history.output_tokens,
        cached_share=history.cached_share,
    )
