"""Capital as a yearly cost: recovery factor, and what stands in a year at the prices it was bought for.

Here: `recovery_factor`, `book`. Not here: prices (`plan.assumptions`), what is bought (`plan.tco_plant`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def recovery_factor(rate: Floats, life_years: Floats) -> Floats:
    """Yearly cost of one USD of capital, CRF = r (1 + r)^n / ((1 + r)^n - 1); 1/n without interest.

    The annuity that is worth 1 at rate r over n years, paid at each year's end (any text on engineering economics). Valid for r >= 0, n > 0.
    """
    interest = np.expm1(life_years * np.log1p(rate))
    # Below this rate the two forms agree to 12 digits, and the first one divides by next to nothing.
    grows = rate > 1e-12
    return np.where(grows, rate * (1.0 + 1.0 / np.where(grows, interest, 1.0)), 1.0 / life_years)


def book(units: Floats, price: Floats, life_years: Floats) -> Floats:
    """Purchase value of what stands, [site, year, draw].

    What is added in a year is bought at that year's price, and bought again at the then price when its life is over; what is given up leaves all vintages
    alike. So a staged build pays only for what stands, and falling prices reach only what is bought later.

    Args:
        units: What stands, [site, year, draw].
        price: USD per unit by year of purchase, broadcasting with `units`.
        life_years: Broadcasting with [site, draw] after its year axis of length 1.
    """
    shape = np.broadcast_shapes(units.shape, price.shape, life_years.shape)
    stands, price = np.broadcast_to(units, shape), np.broadcast_to(price, shape)
    life = np.broadcast_to(life_years, (shape[0], 1, shape[2]))[:, 0]
    value = np.zeros(shape)
    vintages: list[Floats] = []
    before = np.zeros((shape[0], shape[2]))
    for year in range(shape[1]):
        now = stands[:, year]
        bought = np.maximum(now - before, 0.0)
        if np.any(now < before):
            kept = np.minimum(now / np.where(before > 0.0, before, 1.0), 1.0)
            vintages = [v * kept for v in vintages]
        for age, index in zip(range(year, 0, -1), range(year), strict=True):
            worn = np.where(age >= life, vintages[index], 0.0)
            if np.any(worn):
                vintages[index] = vintages[index] - worn
                bought = bought + worn
        vintages.append(bought)
        value[:, year] = sum(v * price[:, i] for i, v in enumerate(vintages))
        before = now
    return value
