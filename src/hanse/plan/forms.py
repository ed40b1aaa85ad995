"""Closed forms a planner can check by hand: capital, staged building, pooling, availability, carbon per unit of work.

Here (capital recovered over a life: `capital`): one formula a function, with source and valid range, element by element over arrays (draws, sites, years). Not here:
prices and their doubt, optimisation (`candidates`, `renewables`); no function brings a figure of its own.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def present_worth(rate: ArrayLike, years: ArrayLike) -> Floats:
    """Worth today of 1 paid after some years: (1 + r)^-t. Valid for r > -1."""
    return np.asarray((1.0 + _floats(rate)) ** -_floats(years))


def staged_build_premium(added: ArrayLike, rate: ArrayLike) -> Floats:
    """How much dearer a unit may be when it is built as needed than when all is built at the start.

    p* = C / sum_k dC_k (1 + r)^-k - 1, the break-even of NPV_staged = (1 + p) c sum_k dC_k (1 + r)^-k with c C. `added`
    [..., k] is the capacity added at the beginning of year k = 0, 1, ...; `rate` one figure or [...]. A linear ramp in equal
    yearly parts at 8 % allows 8, 16 and 38 % over 3, 5 and 10 years. It is the value of paying later alone: prices that
    fall, demand that does not come and the chance to choose again add to it. Valid for r > -1 and a total above zero.
    """
    parts = _floats(added)
    worth = present_worth(_floats(rate)[..., None], np.arange(parts.shape[-1]))
    return np.asarray(parts.sum(axis=-1) / (parts * worth).sum(axis=-1) - 1.0)


def pooled_capacity(
    mean: ArrayLike, sigma: ArrayLike, z: ArrayLike, sites: ArrayLike, correlation: ArrayLike = 0.0
) -> Floats:
    """Capacity of one pool for the demand of n equal sites: n mu + z sigma sqrt(n (1 + (n - 1) rho)).

    Normal approximation (Eppen, Management Science 25(5), 1979); z is the normal quantile of the service level. Valid for
    many requests a site, and rho between -1/(n - 1) and 1.
    """
    n, rho = _floats(sites), _floats(correlation)
    spread = np.sqrt(np.maximum(0.0, n * (1.0 + (n - 1.0) * rho)))
    return np.asarray(n * _floats(mean) + _floats(z) * _floats(sigma) * spread)


def pooling_loss(
    sigma: ArrayLike, z: ArrayLike, sites: ArrayLike, correlation: ArrayLike = 0.0
) -> Floats:
    """Extra capacity of n equal sites that never help each other, over one pool: z sigma (n - sqrt(n (1 + (n-1) rho))).

    For independent sites that is sqrt(n) z sigma (sqrt(n) - 1): sigma is one site's. Per sigma of the *pool*, sqrt(n) sigma,
    it is z sigma_pool (sqrt(n) - 1). Nothing is lost at rho = 1. Same source and range as `pooled_capacity`.
    """
    alone = _floats(sites) * _floats(z) * _floats(sigma)
    return np.asarray(alone - pooled_capacity(0.0, sigma, z, sites, correlation))


def availability_k_of_n(
    available: ArrayLike, needed: int, sites: int, common_cause: ArrayLike = 0.0
) -> Floats:
    """Chance that at least k of n equal sites are up, a share beta of each one's outages striking all at once.

    Beta-factor model (Fleming, 1975; NUREG/CR-4780): of a site's unavailability q = 1 - a, (1 - beta) q is its own and
    beta q is common; A = (1 - beta q) sum_{i>=k} C(n,i) a_own^i (1 - a_own)^(n-i), a_own = 1 - (1 - beta) q. The common
    term bounds it by 1 - beta q however many sites there are. Valid for 0 <= a, beta <= 1 and 0 <= k <= n.
    """
    assert 0 <= needed <= sites, f"{needed} of {sites}"
    out = 1.0 - _floats(available)
    beta = _floats(common_cause)
    own = 1.0 - (1.0 - beta) * out
    terms = [
        math.comb(sites, i) * own**i * (1.0 - own) ** (sites - i) for i in range(needed, sites + 1)
    ]
    return np.asarray((1.0 - beta * out) * sum(terms))


def embodied_share(
    total_g: ArrayLike,
    reserved_h: ArrayLike,
    life_h: ArrayLike,
    resources: ArrayLike = 1.0,
    resources_total: ArrayLike = 1.0,
) -> Floats:
    """Embodied carbon that a use takes on: M = TE (time reserved / life) (resources reserved / all).

    SCI 1.1, section on embodied emissions (Green Software Foundation; ISO/IEC 21031:2024). Valid for a time within the life.
    """
    of_life = _floats(reserved_h) / _floats(life_h)
    return np.asarray(_floats(total_g) * of_life * _floats(resources) / _floats(resources_total))


def software_carbon_intensity(
    energy_kwh: ArrayLike, grid_g_per_kwh: ArrayLike, embodied_g: ArrayLike, units: ArrayLike
) -> Floats:
    """Carbon per functional unit, g: SCI = (E I + M) / R.

    SCI 1.1 (Green Software Foundation; ISO/IEC 21031:2024). I is location based; offsets and certificates do not count.
    Valid for R > 0; give E with the plant's overhead in it, or it is the servers' alone.
    """
    operated = _floats(energy_kwh) * _floats(grid_g_per_kwh)
    return np.asarray((operated + _floats(embodied_g)) / _floats(units))


def hourly_carbon_free_score(
    load_kwh: ArrayLike, own_kwh: ArrayLike, grid_share: ArrayLike = 0.0
) -> Floats:
    """Share of load matched in its own hour: sum min(G, L) + max(0, L - G) cfe_grid over sum L, along the last axis.

    24/7 carbon-free energy score (Google, "Methodologies and metrics", 2021). No hour lends to another; what a battery gives
    belongs into `own_kwh` of the hour it is given in. Valid for a load above zero.
    """
    load, own = _floats(load_kwh), _floats(own_kwh)
    matched = np.minimum(own, load) + np.maximum(0.0, load - own) * _floats(grid_share)
    return np.asarray(matched.sum(axis=-1) / load.sum(axis=-1))


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, np.float64)
