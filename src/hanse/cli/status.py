"""`hanse status`: the running league as a live table."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.league import call, read_view, state_dir
from hanse.cli.output import note, print_json, say, table_console
from hanse.errors import HanseError, SiteError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from hanse.live.runtime import Runtime
    from hanse.view import LeagueView, SiteView, StandingView

REFRESH_S = 1.0
HEARD = ("up", "degraded")
"""States of a site whose last report is of now."""
VERDICTS = {"cut": "cut off", "dead": "dead", "unsure": "cut off or dead"}
"""What the other sites say of one that the hub does not hear."""


def status(*, state: Path | None = None, once: bool = False, json: bool = False) -> int:
    """Show the running league: sites, load, power, and the league beside one big site.

    A live table until Ctrl-C on a terminal; printed once otherwise. Exit code 1 where nothing runs.

    Parameters
    ----------
    state
        State directory; default the only one below `.hanse`.
    once
        Print once and return.
    json
        Print the whole picture as one JSON document on standard output.
    """
    runtime = state_dir(state).read_runtime()
    try:
        view = read_view(runtime)
    except SiteError as error:
        return _without_controller(runtime, error, json=json)
    if json:
        print_json(view)
        return 0
    if once or not sys.stdout.isatty():
        table_console().print(picture(view))
        return 0
    _watch(runtime)
    return 0


def picture(view: LeagueView) -> RenderableType:
    """One screen: comparison first, then sites, then refusals."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    sides = Table(title=f"{view.fleet}: beside one big site", title_justify="left")
    sides.add_column("")
    for name in ("served", "by law", "other", "lost", "TTFT ms", "E2E ms", "mWh", "mgCO2e", "uUSD"):
        sides.add_column(name, justify="right")
    for one in view.shown:
        counts = (one.served, one.refused_law, one.refused_other, one.lost_failure)
        sides.add_row(
            one.label,
            *map(str, counts),
            f"{one.ttft_ms_mean:.0f}",
            f"{one.e2e_ms_mean:.0f}",
            f"{one.energy_wh * 1e3:.2f}",
            f"{one.carbon_g * 1e3:.2f}",
            f"{one.cost_usd * 1e6:.2f}",
        )
    sites = Table(title="sites", title_justify="left")
    for name in ("site", "kind", "where", "state", "gateway"):
        sites.add_column(name)
    for name in ("running", "waiting", "PV kW", "wind kW", "g/kWh", "USD/kWh", "served"):
        sites.add_column(name, justify="right")
    for site in view.sites:
        now = site.status
        cells = ["-"] * 6
        if now is not None:
            power = now.power
            cells = [
                f"{now.running:.0f}",
                f"{now.waiting:.0f}",
                f"{power.pv_kw:.1f}",
                f"{power.wind_kw:.1f}",
                f"{power.carbon_g_per_kwh:.0f}",
                f"{power.price_usd_per_kwh:.3f}",
            ]
        colour = {"up": "green", "degraded": "yellow"}.get(site.state, "red")
        verdict = f" ({VERDICTS[site.verdict]})" if site.verdict in VERDICTS else ""
        shed = shed_text(site)
        state = Text(site.state + verdict + shed, style="yellow" if shed else colour)
        if site.standing is not None:
            state = Text(site.standing.state, style="cyan")
        place = f"{site.city}, {site.country}"
        sites.add_row(site.id, site.kind, place, state, site.gateway_url, *cells, str(site.served))
    hub = "hub up" if view.hub_up else "HUB CUT OFF: sites go on with their last table"
    behind = [s.id for s in view.sites if not s.fleet_in_force and s.state in ("up", "degraded")]
    late = f" (not yet at {', '.join(behind)})" if behind else ""
    fleet = f"fleet revision {view.fleet_revision}{late}"
    if view.hubs:
        hub = "hubs: " + ", ".join(f"{one.id} {one.state}" for one in view.hubs)
    foot = Text(f"{hub}; {fleet}; table {view.table_version}, epoch {view.epoch}")
    refused = ", ".join(f"{rule} {count}" for rule, count in view.refusals) or "none"
    disks = [Text(line, style="red") for line in disk_lines(view)]
    sheds = [Text(line, style="yellow") for line in shed_lines(view)]
    out = [
        Text(f"{site.id}: {standing_text(site.standing, site.state, view.at_s)}", style="cyan")
        for site in view.sites
        if site.standing is not None
    ]
    return Group(sides, sites, *out, *sheds, Text(f"refusals: {refused}"), *disks, foot)


def shed_text(site: SiteView) -> str:
    """That a site which is heard refuses work for want of power, how far down the order, and why; empty: it takes all."""
    now = site.status
    if now is None or not now.shed_level or site.state not in HEARD:
        return ""
    causes = dict.fromkeys(why.partition(":")[0] for why in now.shed)
    why = f" ({', '.join(causes)})" if causes else ""
    return f", sheds {now.shed_level}{why}"


def shed_lines(view: LeagueView) -> list[str]:
    """Sites that shed, and what they give up, in order."""
    return [
        f"{site.id}: sheds: {'; '.join(site.status.shed)}"
        for site in view.sites
        if site.status is not None and site.status.shed and shed_text(site)
    ]


def disk_lines(view: LeagueView) -> list[str]:
    """Sites whose disk is low or full, and what that has cost so far."""
    said = []
    for site in view.sites:
        disk = None if site.status is None else site.status.disk
        if disk is None or disk.level == "room":
            continue
        gone = f"; gave up {', '.join(disk.given_up)}" if disk.given_up else ""
        refuses = ": requests are refused" if disk.level == "full" else ""
        said.append(
            f"{site.id}: disk {disk.level}, {disk.free_gb:.2f} of {disk.size_gb:.1f} GB free{refuses}{gone}"
        )
    return said


def standing_text(standing: StandingView, state: str, now_s: float) -> str:
    """A site that is out of service, and whether it is heard: in maintenance its silence is no alarm."""
    heard = "" if state in ("up", "degraded") else f", {state}"
    left_s = None if standing.until_s is None else max(standing.until_s - now_s, 0.0)
    end = "" if left_s is None else f", {left_s / 60:.0f} min left"
    by = f" by {standing.by}" if standing.by else ""
    why = f": {standing.why}" if standing.why else ""
    return f"{standing.state}{heard}{end}{by}{why}"


def _watch(runtime: Runtime) -> None:
    from rich.live import Live
    from rich.text import Text

    with Live(console=table_console(), refresh_per_second=2) as live:
        while True:
            try:
                live.update(picture(read_view(runtime)))
            except HanseError as error:
                live.update(Text(str(error)))
            time.sleep(REFRESH_S)


def _without_controller(runtime: Runtime, error: SiteError, *, json: bool) -> int:
    """The hub is gone: ask each gateway itself."""
    ready = {}
    for site, address in runtime.sites.items():
        try:
            ready[site] = call("GET", f"{address.local_url}/readyz")[0] == 200
        except SiteError:
            ready[site] = False
    if json:
        print_json({"hub_up": False, "gateways_ready": ready})
    else:
        note(f"no controller ({error}); gateways asked one by one:")
        for site, ok in ready.items():
            say(f"  {site}: {'ready' if ok else 'no answer'}")
    return 0 if any(ready.values()) else 1
