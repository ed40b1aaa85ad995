"""`hanse tour`: three minutes in which law, sun, death and a cut each move the work of a running league.

Here: the four steps, what each does to the league, and the one sentence after each. Every figure said is
read from answers and from the league's own view. Not here: any way to influence where a request goes but
the real ones: weather, a killed process, a cut link.
"""

from __future__ import annotations

import contextlib
import datetime
import http.client
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from hanse.cli.league import call, read_view, secret_of, state_dir
from hanse.cli.output import note
from hanse.errors import ConfigError, SiteError

if TYPE_CHECKING:
    from hanse.live.runtime import Runtime, StateDir
    from hanse.model.fleet import Fleet, Site
    from hanse.view import LeagueView, SiteView

WAIT_S_MAX = 45.0
"""For a table to follow weather, or a killed site to come back (15 s and its start)."""
ASKED = 6
TOUR_S_SHORT = 12.0
"""How long the hub stays cut; long enough to see the table age."""


class Answer(NamedTuple):
    """What one request came to."""

    status: int
    site: str
    ms: float
    rules: tuple[str, ...]


class Persona(NamedTuple):
    """Who asks: a key of the fleet with a class and a country it may speak for."""

    secret: str
    data_class: str
    country: str
    service: str

    def headers(self) -> dict[str, str]:
        """Headers of every request of this persona."""
        return {
            "authorization": f"Bearer {self.secret}",
            "content-type": "application/json",
            "x-hanse-class": self.data_class,
            "x-hanse-country": self.country,
        }


def tour(*, state: Path | None = None) -> int:
    """Walk through a running league in about three minutes; everything is put back afterwards.

    Law bars a site, a cloud passes, a site dies, the hub is cut. After each step one sentence says what moved, why,
    and what one big site would have done. Needs a league started with `hanse up`.

    Parameters
    ----------
    state
        State directory; default the only one below `.hanse`.
    """
    guide = Guide(state_dir(state))
    with guide.restored():
        for title, step in (
            ("1. Law bars a site", guide.law),
            ("2. A cloud passes", guide.cloud),
            ("3. A site dies", guide.death),
            ("4. The hub is cut", guide.cut),
        ):
            note(f"\n{title}")
            note(f"   {step()}")
    note("\nEverything is as before. `hanse status` shows the league.")
    return 0


class Guide:
    """Acts on the league and reads what came of it."""

    def __init__(self, state: StateDir) -> None:
        from hanse.live.link_control import LinkControl
        from hanse.model.read import read_fleet

        self.state = state
        self.fleet: Fleet = read_fleet(state.fleet_toml)
        self.runtime: Runtime = state.read_runtime()
        self.links = LinkControl(state.links_sock)
        self.count = 0
        read_view(self.runtime)  # raises where nothing runs

    # --- the steps

    def law(self) -> str:
        """The strictest class, sent to every gateway."""
        who = self._persona(strict=True)
        central = self._central()
        answers = {site.id: self._ask(site.id, who) for site in self.fleet.sites}
        served = {entry: one for entry, one in answers.items() if one.status == 200}
        barred = {entry: one for entry, one in answers.items() if one.status == 421}
        if not served or not barred:
            raise SiteError("tour", got=f"{answers}", allowed="one site barred, one not")
        entry, first = next(iter(served.items()))
        rules = ", ".join(sorted({rule for one in barred.values() for rule in one.rules}))
        one_big = (
            f"One big site at {central} would have had to turn all of it away."
            if central in barred
            else f"One big site at {central} may read it too."
        )
        return (
            f"{who.data_class} data of {who.country} sent to {entry} ran at {first.site} in {first.ms:.0f} ms; "
            f"{', '.join(barred)} answered 421 before reading a byte of it ({rules}). {one_big}"
        )

    def cloud(self) -> str:
        """Noon of a clear midsummer day, then a cloud over the site with the most sun."""
        who = self._persona(strict=False)
        sunny = max(self.fleet.sites, key=lambda site: site.power.pv_kw_peak)
        if sunny.power.pv_kw_peak <= 0.0:
            return "No site of this fleet has sun of its own: nothing to show."
        offset_s = _to_midsummer_noon(time.time(), sunny.lon_deg)
        entry = self._neighbour(sunny.id, who)
        clear = self._sky(sunny, offset_s, cloud_pct=0.0)
        before = self._spread(entry, who)
        dark = self._sky(sunny, offset_s, cloud_pct=100.0)
        after = self._spread(entry, who)
        central = self._view_of(self._central())
        big = central.status.power if central.status else None
        one_big = (
            f"One big site at {central.id} would have drawn {big.carbon_g_per_kwh:.0f} g/kWh and "
            f"{big.price_usd_per_kwh:.2f} USD/kWh throughout: no cloud to mind, no sun to gain from."
            if big
            else ""
        )
        return (
            f"Under a clear sky {sunny.id} made {clear[0]:.0f} kW and its next kWh cost {clear[2]:.2f} USD and "
            f"{clear[1]:.0f} g: of requests that came in at {entry}, {_places(before)}. The cloud left {dark[0]:.0f} kW, below the site's own "
            f"{sunny.power.base_kw:.0f} kW: {dark[2]:.2f} USD and {dark[1]:.0f} g: {_places(after)}. {one_big}"
        )

    def death(self) -> str:
        """SIGKILL to every process of the busiest site but the entry, while requests go on."""
        who = self._persona(strict=False)
        entry, victim = self._pair(who)
        hold = self.state.site(victim) / "hold"
        hold.touch()
        with self._asking(entry, who) as answers:
            killed = _kill_all(self.state.site(victim) / "pid")
            self._until(lambda view: _state_of(view, victim) == "silent", f"{victim} silent")
            time.sleep(3.0)
        hold.unlink()
        good = [one for one in answers if one.status == 200]
        slowest = max((one.ms for one in good), default=0.0)
        self._until(lambda view: _state_of(view, victim) == "up", f"{victim} back")
        central = self._central()
        return (
            f"{killed} processes of {victim} were killed: {len(good)} of {len(answers)} requests sent to {entry} "
            f"meanwhile were answered ({_places(Counter(one.site for one in good))}; slowest {slowest:.0f} ms), and "
            f"{victim} is back. Had {central} been the one big site and died, every one would have been lost."
        )

    def cut(self) -> str:
        """No table, no view, no controller for any site; gateways go on."""
        who = self._persona(strict=False)
        entry = self._lawful_entry(who)
        cut = self.links.links_of("hub")
        for link in cut:
            self.links.cut(link)
        try:
            with self._asking(entry, who) as answers:
                time.sleep(TOUR_S_SHORT)
        finally:
            for link in cut:
                self.links.heal(link)
        good = sum(one.status == 200 for one in answers)
        self._until(
            lambda view: all(site.state == "up" for site in view.sites), "all sites reporting again"
        )
        return (
            f"All {len(cut)} links to the hub were cut for {TOUR_S_SHORT:.0f} s: {good} of {len(answers)} requests were "
            f"answered by the table the gateways held, with prices that no longer moved. One big site needs no hub; but a cut "
            f"of its own WAN would have reached every user."
        )

    # --- acting

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Whatever happens inside: weather, links and sites are put back."""
        try:
            yield
        finally:
            with contextlib.suppress(SiteError):
                self._scenario({})
            for link in self.links.get().links:
                with contextlib.suppress(SiteError):
                    self.links.heal(link)
            for site in self.fleet.sites:
                (self.state.site(site.id) / "hold").unlink(missing_ok=True)

    def _sky(self, site: Site, offset_s: float, *, cloud_pct: float) -> tuple[float, float, float]:
        """Set the sky over a site; wait until site and table know; returns (PV kW, g/kWh, USD/kWh)."""
        now_s = time.time()
        override = {
            "kind": "cloud_pct",
            "place": site.id,
            "value": cloud_pct,
            "from_s": now_s - 1.0,
            "until_s": now_s + 600.0,
            "reason": "hanse tour",
        }
        version = read_view(self.runtime).table_version
        before = self._power(site.id)
        self._scenario({"clock_offset_s": offset_s, "overrides": [override]})
        self._until(
            lambda view: view.table_version > version and self._power(site.id) != before,
            "a table that knows the new sky",
        )
        time.sleep(1.5)  # gateways take a table within half a second; reports come twice a second
        return self._power(site.id)

    def _power(self, site: str) -> tuple[float, float, float]:
        status = self._view_of(site).status
        if status is None:
            return 0.0, 0.0, 0.0
        power = status.power
        return round(power.pv_kw, 1), round(power.carbon_g_per_kwh), power.price_usd_per_kwh

    def _scenario(self, feed: dict[str, Any]) -> None:
        from hanse.live.control_client import control_key

        assert self.runtime.hub is not None, "a league has a hub"
        url = f"{self.runtime.hub.dashboard_url}/api/scenario"
        shown = {"authorization": f"Bearer {control_key(self.state)}"}
        status, answer = call("POST", url, headers=shown, body=feed)
        if status != 200:
            raise SiteError(url, got=f"{status} {answer}")

    @contextlib.contextmanager
    def _asking(self, entry: str, who: Persona) -> Iterator[list[Answer]]:
        """Requests at one gateway, twice a second, each in its turn, while the block runs."""
        answers: list[Answer] = []
        stop = threading.Event()

        def ask() -> None:
            while not stop.wait(0.5):
                answers.append(self._ask(entry, who))

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            yield answers
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    # --- asking

    def _ask(self, entry: str, who: Persona) -> Answer:
        """One short request at one gateway, like any client's; a text of its own, so that no cache pins it."""
        self.count += 1
        text = f"{os.getpid()}-{self.count}: name a port."
        body = {
            "model": who.service,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 8,
        }
        where = urlsplit(self.runtime.site(entry).local_url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30.0)
        began_s = time.monotonic()
        try:
            content = json.dumps(body).encode()
            connection.request("POST", "/v1/chat/completions", content, who.headers())
            response = connection.getresponse()
            answer = response.read()
        except (OSError, http.client.HTTPException):
            return Answer(0, "", (time.monotonic() - began_s) * 1e3, ())
        finally:
            connection.close()
        ms = (time.monotonic() - began_s) * 1e3
        rules: tuple[str, ...] = ()
        if response.status != 200:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                rules = tuple(json.loads(answer)["error"]["hanse"]["rules"])
        return Answer(response.status, response.getheader("x-hanse-site") or "", ms, rules)

    def _spread(self, entry: str, who: Persona) -> Counter[str]:
        """Where a few requests, one after the other, run."""
        return Counter(self._ask(entry, who).site or "refused" for _ in range(ASKED))

    def _pair(self, who: Persona) -> tuple[str, str]:
        """(entry, the other site that serves it most)."""
        entries = [site.id for site in self.fleet.sites if self._ask(site.id, who).status == 200]
        if len(entries) < 2:
            raise SiteError("tour", got=f"{len(entries)} gateways answer", allowed="two or more")
        served = Counter(dict.fromkeys(entries, 0))
        for entry in entries:
            served.update(self._spread(entry, who))
        victim = max((s for s in entries if s != self._central()), key=lambda s: served[s])
        return next(site for site in entries if site != victim), victim

    def _neighbour(self, site: str, who: Persona) -> str:
        """The gateway nearest to a site that may read such requests, itself not counted."""
        rtt_ms = {
            (link.b if link.a == site else link.a): link.rtt_ms
            for link in self.fleet.links
            if site in (link.a, link.b)
        }
        near = sorted(rtt_ms, key=rtt_ms.__getitem__)
        return next((one for one in near if self._ask(one, who).status == 200), site)

    def _lawful_entry(self, who: Persona) -> str:
        return next(s.id for s in self.fleet.sites if self._ask(s.id, who).status == 200)

    def _persona(self, *, strict: bool) -> Persona:
        """A sovereign tenant with its first class, or another with a class that personal law governs."""
        for tenant in self.fleet.tenants:
            if tenant.sovereign != strict:
                continue
            by_id = {one.id: one for one in self.fleet.classes}
            named = [c for c in tenant.classes if by_id[c].law == "personal"]
            data_class = tenant.classes[0] if strict else (named or list(tenant.classes))[0]
            chats = [one.id for one in self.fleet.services if "chat" in one.endpoints]
            service = next(one for one in chats if not tenant.services or one in tenant.services)
            key = tenant.keys[0]
            return Persona(secret_of(self.state, key.id), data_class, key.countries[0], service)
        raise ConfigError(
            "tenant", got=f"none with sovereign = {strict}", allowed="one, for the tour"
        )

    # --- reading

    def _central(self) -> str:
        return self.fleet.central.site if self.fleet.central else self.fleet.sites[-1].id

    def _view_of(self, site: str) -> SiteView:
        return next(one for one in read_view(self.runtime).sites if one.id == site)

    def _until(self, holds: Callable[[LeagueView], bool], what: str) -> None:
        """Wait until the league's view shows it."""
        until_s = time.monotonic() + WAIT_S_MAX
        while time.monotonic() < until_s:
            with contextlib.suppress(SiteError):
                if holds(read_view(self.runtime)):
                    return
            time.sleep(0.25)
        raise SiteError("tour", got=f"{what}: not seen in {WAIT_S_MAX:.0f} s", fix="`hanse status`")


def _to_midsummer_noon(now_s: float, lon_deg: float) -> float:
    """Seconds from now to solar noon of this year's 21 June at a longitude."""
    now = datetime.datetime.fromtimestamp(now_s, datetime.UTC)
    noon = now.replace(month=6, day=21, hour=12, minute=0, second=0, microsecond=0)
    return noon.timestamp() - lon_deg / 15.0 * _hour_s() - now_s


def _hour_s() -> float:
    from hanse.units import SECONDS_PER_HOUR

    return SECONDS_PER_HOUR


def _kill_all(pid_dir: Path) -> int:
    """SIGKILL to every process of a site, its supervisor first."""
    from hanse.live.supervise import running_pid

    paths = sorted(pid_dir.glob("*.pid"), key=lambda path: path.name != "site.pid")
    pids = [pid for path in paths if (pid := running_pid(path)) is not None]
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(pids)


def _state_of(view: LeagueView, site: str) -> str:
    return next(one.state for one in view.sites if one.id == site)


def _places(counts: Counter[str]) -> str:
    total = sum(counts.values())
    return ", ".join(f"{n} of {total} ran at {site}" for site, n in counts.most_common())
