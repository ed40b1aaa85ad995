"""Forecasts of carbon, price, weather and demand from their own history, and what providers forecast, as values.

Here: `Forecast`, `forecast` and `many`, methods and their back-test. Pure: instants and histories are arguments. Not
here: where histories come from (`recorded`, `providers`), own power of sun and wind and a fleet's `Outlook`
(`energy.outlook`, since they need a site's physics).
"""

from hanse.signals.forecast.make import SHIPPED, Batch, forecast, many, many_told
from hanse.signals.forecast.methods import Method
from hanse.signals.forecast.value import HIGH_SHARE, Forecast, preferred

__all__ = [
    "HIGH_SHARE",
    "SHIPPED",
    "Batch",
    "Forecast",
    "Method",
    "forecast",
    "many",
    "many_told",
    "preferred",
]
