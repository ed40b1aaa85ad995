"""What cloud providers charge to send data between their regions, USD per GB.

Here: list prices between regions of one provider. Not here: a fleet's own links (its file states
their price) and traffic between providers.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

from hanse.catalogue.tables import look_up, rows

Provider = Literal["aws", "azure", "gcp"]
SOURCE = "provider price lists as tabulated by HewlettPackard/sustain-cluster, commit 293fbd1 (MIT)"


@cache
def egress_matrix(provider: Provider) -> dict[str, dict[str, float]]:
    """`[from region][to region] USD per GB`, zero on the diagonal."""
    table = rows(f"egress/{provider}.csv")
    return {r[""]: {k: float(v) for k, v in r.items() if k} for r in table}


def egress_usd_per_gb(provider: Provider, source_region: str, target_region: str) -> float:
    """List price from one region of a provider to another."""
    noun = f"{provider} region"
    row = look_up(egress_matrix(provider), source_region, where="source_region", noun=noun)
    return look_up(row, target_region, where="target_region", noun=noun)
