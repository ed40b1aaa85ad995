"""What the hub shows of a league, as tests make it up."""

from __future__ import annotations

import time
from typing import Any

from msgspec.structs import replace

from hanse.view import LeagueView, PowerStatus, SiteStatus, SiteView


def status(name: str, **more: Any) -> SiteStatus:
    """What an agent says of a site where nothing runs; `more`: other fields."""
    power = PowerStatus(
        it_kw=1.0,
        pue=1.1,
        pv_kw=0.0,
        wind_kw=0.0,
        import_kw=1.1,
        export_kw=0.0,
        carbon_g_per_kwh=300.0,
        price_usd_per_kwh=0.1,
        sources=(),
    )
    said = SiteStatus(
        site=name,
        at_s=time.time(),
        epoch=1,
        table_version=1,
        hub_connected=True,
        engines=(),
        gateway_workers=1,
        running=0.0,
        waiting=0.0,
        power=power,
    )
    return replace(said, **more)


def site(name: str, said: SiteStatus, **more: Any) -> SiteView:
    """A site that is up; `more`: other fields of the view."""
    shown = SiteView(
        id=name, kind="micro", city=name, country="DE", lat_deg=0.0, lon_deg=0.0, gateway_url="",
        state="up", age_s=0.0, served=0, status=said,
    )  # fmt: skip
    return replace(shown, **more)


def view(*sites: SiteView) -> LeagueView:
    """A league of these."""
    return LeagueView(
        at_s=0.0, fleet="f", table_version=1, epoch=1, hub_up=True, sites=sites, links=(), tallies=(),
        refusals=(), decisions=(), flows=(),
    )  # fmt: skip
