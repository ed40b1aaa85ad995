"""The kernels of placement compiled before anybody waits for one: two minutes on a machine that never placed anything.

Here: `warm`. Not here: the kernels (`place_cost`, `place_moves`).
"""

from __future__ import annotations

from hanse.dispatch.place_solved import solved
from hanse.dispatch.place_values import (
    FailureSet,
    PlaceDemand,
    PlaceOffer,
    PlacePool,
    PlaceProblem,
    PlaceService,
    PlaceSite,
)
from hanse.milp import Limits
from hanse.units import SECONDS_PER_HOUR


def warm() -> None:
    """Place one service at one site."""
    solved(_tiny(), Limits(nodes_max=0))


def _tiny() -> PlaceProblem:
    site = PlaceSite(
        id="a", price_usd_per_kwh=0.1, carbon_g_per_kwh=100.0, pue=1.2, own_kw=0.0, own_kw_low=0.0,
        export_usd_per_kwh=0.0, grid_kw_max=10.0, engines_max=8, hosts=True,
    )  # fmt: skip
    pool = PlacePool(
        id="p", site=0, accelerator="l4", nodes=1, chips=2, chips_count=2, memory_gb=24.0, node_on_w=100.0,
        node_off_w=5.0, wake_usd=0.01, nodes_on=0,
    )  # fmt: skip
    offer = PlaceOffer(
        service=0, variant="v", pool=0, quality=1.0, chips=1, memory_gb=9.0, slots=8, context_tokens=8192,
        requests_per_s=2.0, ttft_ms_p95=200.0, e2e_s=2.0, loaded_w=20.0, wh_per_request=0.1, start_usd=0.01,
        start_s=10.0, replicas=0, fixed=False,
    )  # fmt: skip
    demand = PlaceDemand(
        service=0, origin=0, law=0, quality_min=0.0, requests_per_s=0.5, requests_per_s_high=1.0, requests_per_s_kept=0.5,
        late_usd_per_request=0.1, unserved_usd_per_request=0.5, work=1.0, gb_per_request=0.0,
    )  # fmt: skip
    service = PlaceService(
        id="q", ttft_ms=1000.0, usd_per_latency_s=0.001, uncovered_usd_per_request=0.1
    )
    return PlaceProblem(
        issued_at_s=0.0, start_s=0.0, window_s=SECONDS_PER_HOUR, usd_per_g=1e-4, over_usd_per_kwh=10.0, sites=(site,),
        pools=(pool,), services=(service,), offers=(offer,), demand=(demand,), laws=((0,),), rtt_ms=((0.0,),),
        usd_per_gb=((0.0,),), gateways=(True,), failures=(FailureSet(id="a", sites=(0,)),),
    )  # fmt: skip
