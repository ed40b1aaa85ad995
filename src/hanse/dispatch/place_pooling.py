"""How much less than the sum of their own peaks origins need that share their sites.

Here: `peak_shares`. Not here: who forecasts a service's total (`signals.forecast`), rows (`place_problem`).

An origin's high quantile lies m above its mean; a service's total lies M above its own. Were origins independent, M would be the root
of the sum of m squared, I; did all peak at once, their sum, L. Between the two every pair of origins has the same correlation

    rho = (M^2 - I^2) / (L^2 - I^2), within 0 to 1

(variance of a sum of equicorrelated terms), and a group of origins that law and need of quality let share sites needs
sqrt((1 - rho) I_g^2 + rho L_g^2) above its mean. Requests go where there is room, so a peak at one site is another's slack; one origin by
itself needs all of its m. Valid where quantiles lie as far out as sums of many terms have them, which is what pooling loss is
computed by everywhere (z sigma (sqrt(n) - 1), Eppen, Management Science 25, 1979).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hanse.signals.outlook import DemandOutlook, TotalOutlook

Floats = NDArray[np.float64]
K = TypeVar("K")


def peak_shares(
    groups: Mapping[K, Sequence[DemandOutlook]], totals: Sequence[TotalOutlook]
) -> dict[K, Floats]:
    """By group, [step]: the part of each origin's distance from mean to high quantile that the group needs, 0 to 1.

    A group has one service; of services without a total nothing is known, and they have no entry.
    """
    services: dict[str, list[K]] = {}
    for key, members in groups.items():
        services.setdefault(members[0].service, []).append(key)
    found: dict[K, Floats] = {}
    for total in totals:
        mine = services.get(total.service, [])
        if not mine:
            continue
        apart = {key: _apart(groups[key]) for key in mine}
        every = np.concatenate(list(apart.values()))
        means = sum((_means(groups[key]) for key in mine), np.zeros(every.shape[1]))
        rho = _correlation(every, np.array(total.requests_per_s_high) - means)
        found |= {key: _share(m, rho) for key, m in apart.items()}
    return found


def _means(members: Sequence[DemandOutlook]) -> Floats:
    return np.asarray(np.array([d.requests_per_s for d in members], float).sum(axis=0))


def _apart(members: Sequence[DemandOutlook]) -> Floats:
    """[member, step] from mean to high quantile."""
    high = np.array([d.requests_per_s_high for d in members], float)
    mean = np.array([d.requests_per_s for d in members], float)
    return np.asarray(np.maximum(high - mean, 0.0))


def _correlation(apart: Floats, together: Floats) -> Floats:
    """[step]; 1 where origins cannot be told apart."""
    alone, sum_ = (apart**2).sum(axis=0), apart.sum(axis=0) ** 2
    told = sum_ > alone * (1.0 + 1e-9)
    rho = (np.maximum(together, 0.0) ** 2 - alone) / np.where(told, sum_ - alone, 1.0)
    return np.asarray(np.where(told, np.clip(rho, 0.0, 1.0), 1.0))


def _share(apart: Floats, rho: Floats) -> Floats:
    alone, sum_ = (apart**2).sum(axis=0), apart.sum(axis=0)
    needs = np.sqrt((1.0 - rho) * alone + rho * sum_**2)
    return np.asarray(np.where(sum_ > 0.0, needs / np.where(sum_ > 0.0, sum_, 1.0), 1.0))
