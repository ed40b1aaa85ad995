"""`hanse up`: a whole league on this machine, every part a process that a person can kill by itself.

Here: the order of starting, waiting until every gateway is ready, what is said on screen, and ending
with nothing left. Not here: what a state directory must hold (`live.first_start`), a site's or the
hub's own children (`live.site_group`, `live.hub`), how a child is kept (`live.supervise`).

Everything starts at once; parts wait for each other by themselves. Killed with -9, this process takes
its children along: the kernel sends each SIGTERM (see `live.supervise`), and each ends its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Table

from hanse.errors import ConfigError, SiteError
from hanse.live.first_start import Prepared, prepare
from hanse.live.probe import get, is_listening
from hanse.live.reach import client_urls
from hanse.live.runtime import LOOPBACK, StateDir, default_state_dir, is_loopback
from hanse.live.site_keep import child_spec
from hanse.live.supervise import (
    ChildReport,
    ChildSpec,
    Supervisor,
    end_on_signals,
    python_command,
    running_pid,
    sweep,
    write_pid,
)
from hanse.model.fleet import Fleet
from hanse.model.read import read_fleet
from hanse.view import LeagueView, tally_line

SITE_RESTART_S: Final = 15.0
"""A killed site stays away long enough to be seen and to be routed around, then comes back."""
READY_S_MAX: Final = 180.0
"""Ready in under 60 s on two cores; three times that before giving up on a loaded machine."""
GROUP_TERM_S_MAX: Final = 7.0
"""A site group ends within 6.5 s at worst (`live.site_keep`)."""
POLL_S: Final = 0.25
NO_ENGINE: Final = b"no engine here"
"""What a gateway says that is whole and has nobody to send to: all that a site without engines can be before a peer is heard."""
IN_MAINTENANCE: Final = b"in maintenance"
"""What a gateway says that is whole and whose clients should go elsewhere."""
LINE_EVERY_S: Final = 10.0

LiveView = Callable[[Prepared, asyncio.Event], Awaitable[None]]
"""Shows the running league until the event is set."""


def run_up(
    fleet_path: Path,
    state_path: Path | None = None,
    *,
    traffic: bool = True,
    site_restart_s: float = SITE_RESTART_S,
    ready_s_max: float = READY_S_MAX,
    live_view: LiveView | None = None,
) -> int:
    """Run a league in the foreground until SIGTERM or Ctrl-C; returns the exit status.

    Raises:
        ConfigError: the fleet file is wrong, a port is taken, or the league runs already.
        SiteError: not ready in time; says which part and where its log is.
    """
    state = StateDir(state_path or default_state_dir(read_fleet(fleet_path)))
    running = running_pid(state.pid_dir / "up.pid")
    if running is not None:
        raise ConfigError(
            str(state.path), got=f"a league that runs (process {running})", fix="end it first"
        )
    _sweep_all(state)  # before ports are chosen: what a killed run left still holds them
    prepared = prepare(fleet_path, state.path)
    write_pid(state.pid_dir / "up.pid", os.getpid())
    league = _League(prepared, site_restart_s=site_restart_s)
    try:
        return asyncio.run(_run(league, traffic, ready_s_max, live_view or show_league))
    finally:
        _sweep_all(state)


async def _run(league: _League, traffic: bool, ready_s_max: float, live_view: LiveView) -> int:
    ended = end_on_signals(asyncio.get_running_loop())
    try:
        league.start()
        await league.wait_until_ready(ended, ready_s_max)
        if not ended.is_set():
            if traffic and is_demo(league.prepared.fleet):
                league.start_traffic()
            print_welcome(league.prepared, Console())
            await _until_ended(live_view(league.prepared, ended), ended)
        return 0
    finally:
        await league.stop()


def is_demo(fleet: Fleet) -> bool:
    """Whether demo users may ask: engines that somebody else runs are for somebody else's requests."""
    return all(pool.driver == "process" for site in fleet.sites for pool in site.pools)


async def _until_ended(showing: Awaitable[None], ended: asyncio.Event) -> None:
    """A view that ends or fails does not end the league."""
    task = asyncio.ensure_future(showing)
    await ended.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


class _League:
    """The processes of a league."""

    def __init__(self, prepared: Prepared, *, site_restart_s: float) -> None:
        self.prepared = prepared
        self._site_restart_s = site_restart_s
        self._supervisor = Supervisor(self._changed)
        self._console = Console(stderr=True)

    def start(self) -> None:
        state = self.prepared.state
        if self.prepared.runtime.relays:
            links = python_command("hanse.live.links", str(state.links_json))
            self._add("links", links, term_s_max=1.5)
        self._add("hub", python_command("hanse.live.hub", "--state", str(state.path)))
        for site in self.prepared.runtime.sites:
            module = ("hanse.live.site_group", "--site", site, "--state", str(state.path))
            hold = str(state.site(site) / "hold")
            self._add(
                f"site-{site}",
                python_command(*module),
                hold_path=hold,
                restart_s=self._site_restart_s,
            )

    def start_traffic(self) -> None:
        command = python_command("hanse.live.traffic", "--state", str(self.prepared.state.path))
        self._add("traffic", command, term_s_max=1.5)

    async def stop(self) -> None:
        """Everything but the links at once, then the links: under 10 s whatever hangs."""
        names = [report.name for report in self._supervisor.report()]
        await self._supervisor.stop_together([name for name in names if name != "links"])
        await self._supervisor.stop()

    async def wait_until_ready(self, ended: asyncio.Event, ready_s_max: float) -> None:
        """Poll every part until all gateways are ready, saying which part is awaited."""
        since_s = time.monotonic()
        with self._console.status("starting") as status:
            while not ended.is_set():
                awaited = await self._awaited()
                waited_s = time.monotonic() - since_s
                if not awaited:
                    self._console.print(f"ready after {waited_s:.0f} s")
                    return
                if waited_s > ready_s_max:
                    raise SiteError(
                        "hanse up",
                        got=f"not ready after {ready_s_max:.0f} s: {', '.join(awaited)}",
                        fix=f"see the logs below {self.prepared.state.path}",
                    )
                status.update(f"{waited_s:3.0f} s, waiting for {', '.join(awaited[:4])}")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), POLL_S)

    async def _awaited(self) -> list[str]:
        """The parts that are not ready, most basic first; a site's is the first that is missing."""
        runtime, state = self.prepared.runtime, self.prepared.state
        hub = runtime.hub
        assert hub is not None, "a league has a hub"
        awaited = []
        serving = {placement.site for placement in self.prepared.fleet.placements}
        if runtime.relays and not state.links_sock.exists():
            awaited.append("links")
        if not await is_listening(hub.host, hub.control_port):
            awaited.append("controller")
        for site, address in runtime.sites.items():
            host = address.host if is_loopback(address.host) else LOOPBACK
            status, reason = await get(host, address.client_port, "/readyz", timeout_s=1.0)
            if status == 200 or (status == 503 and site not in serving and NO_ENGINE in reason):
                continue
            if status == 503 and IN_MAINTENANCE in reason:
                continue
            if not await is_listening(LOOPBACK, address.leaf_port):
                awaited.append(f"{site} bus")
            elif status == 0:
                awaited.append(f"{site} gateway")
            else:
                awaited.append(f"{site}: {reason.decode(errors='replace')[:60].strip()}")
        return awaited

    def _add(
        self,
        name: str,
        command: tuple[str, ...],
        *,
        term_s_max: float = GROUP_TERM_S_MAX,
        hold_path: str = "",
        restart_s: float | None = None,
    ) -> None:
        spec = child_spec(self.prepared.state.path, name, command, term_s_max=term_s_max)
        held: ChildSpec = msgspec.structs.replace(spec, hold_path=hold_path, restart_s=restart_s)
        self._supervisor.add(held)

    def _changed(self, report: ChildReport) -> None:
        """Say what ended by itself; end what a killed group left."""
        if report.state != "waiting":
            return
        state = self.prepared.state
        group = report.name.removeprefix("site-")
        if report.name == "hub":
            sweep(state.hub / "pid")
        elif group in self.prepared.runtime.sites:
            sweep(state.site(group) / "pid")
        log = state.log_dir / f"{report.name}.log"
        self._console.print(f"{report.name} ended (exit {report.exit_code}), see {log}")


def _sweep_all(state: StateDir) -> None:
    for directory in (state.pid_dir, state.hub / "pid", *state.path.glob("sites/*/pid")):
        sweep(directory)


def print_welcome(prepared: Prepared, console: Console) -> None:
    """The league's table, one curl line, one Python line, and where to look."""
    runtime, state = prepared.runtime, prepared.state
    table = Table(title=f"fleet {prepared.fleet.name}")
    for column in ("site", "kind", "jurisdiction", "gateway"):
        table.add_column(column)
    urls = client_urls(prepared.fleet, runtime)
    for site in prepared.fleet.sites:
        foreign = "" if site.operator_hq == site.country else f" (operator {site.operator_hq})"
        url = urls.get(site.id, "") if site.id in runtime.sites else "elsewhere"
        table.add_row(site.id, site.kind, f"{site.country}{foreign}", url)
    console.print(table)
    key = next(key for tenant in prepared.fleet.tenants for key in tenant.keys)
    key_file = state.keys_dir / f"{key.id}.key"
    url = next(iter(runtime.sites.values())).local_url + "/v1"
    model = prepared.fleet.services[0].id
    body = f'{{"model":"{model}","messages":[{{"role":"user","content":"Say hello."}}],"max_tokens":32}}'
    lines = [
        f'curl -s {url}/chat/completions -H "authorization: Bearer $(cat {key_file})" '
        f"-H 'content-type: application/json' -d '{body}'",
        f'{sys.executable} -c "from openai import OpenAI; print(OpenAI(base_url={url!r}, '
        f"api_key=open({str(key_file)!r}).read().strip()).chat.completions.create(model={model!r}, "
        "messages=[{'role': 'user', 'content': 'Say hello.'}], max_tokens=32).choices[0].message.content)\"",
    ]
    for line in lines:
        console.print(line, soft_wrap=True, markup=False, highlight=False)
    if runtime.hub is not None:
        console.print(f"dashboard: {runtime.hub.dashboard_url}")
        if not runtime.relays:
            console.print(f"another machine: hanse token SITE --state {state.path}", markup=False)
    if runtime.relays:
        console.print(
            "Links between sites are emulated by user-space relays on this machine: delay, rate, cuts."
        )


async def show_league(prepared: Prepared, ended: asyncio.Event) -> None:
    """League beside central: a live table on a terminal, one line each ten seconds elsewhere."""
    console = Console()
    if console.is_terminal:
        with Live(console=console, refresh_per_second=2, transient=True) as live:
            while not ended.is_set():
                view = await _view(prepared)
                if view is not None:
                    live.update(_comparison(view))
                await asyncio.sleep(1.0)
        return
    while not ended.is_set():
        view = await _view(prepared)
        if view is not None:
            for tally in view.shown:
                console.print(tally_line(tally), soft_wrap=True, highlight=False)
        await asyncio.sleep(LINE_EVERY_S)


async def _view(prepared: Prepared) -> LeagueView | None:
    hub = prepared.runtime.hub
    assert hub is not None, "a league has a hub"
    status, body = await get(hub.host, hub.control_port, "/api/view.json", timeout_s=2.0)
    if status != 200:
        return None
    return msgspec.json.decode(body, type=LeagueView)


def _comparison(view: LeagueView) -> Table:
    table = Table(title="league beside one big site")
    for column in ("", "served", "by law refused", "lost", "TTFT ms", "Wh", "gCO2e", "USD"):
        table.add_column(column, justify="left" if not column else "right")
    for tally in view.shown:
        table.add_row(
            tally.label,
            str(tally.served),
            str(tally.refused_law),
            str(tally.lost_failure),
            f"{tally.ttft_ms_mean:.0f}",
            f"{tally.energy_wh:.3f}",
            f"{tally.carbon_g:.3f}",
            f"{tally.cost_usd:.6f}",
        )
    table.caption = ", ".join(f"{site.id}: {site.state}" for site in view.sites)
    return table
