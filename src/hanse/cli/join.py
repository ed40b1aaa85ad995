"""`hanse init`, `hanse token`, `hanse join`, `hanse revoke`: own machines become a league without a file edited by hand.

Here: questions, flags and what is said on screen. Not here: looking at a host (`live.join.probe`), composing files (`live.join.compose`),
talking to the hub (`live.join.come`).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from hanse.cli.league import hub_dir
from hanse.cli.options import Plain
from hanse.cli.output import note, say
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hanse.live.join.come import Come
    from hanse.live.join.messages import Host
    from hanse.live.join.token import Token
    from hanse.live.runtime import StateDir
    from hanse.model.fleet import OtherHub

CLIENT_PORT: Final = 8443
"""What firewalls know as HTTPS of something that is not a web site; hop, leaf and door follow it."""
NAME_BYTES_MAX: Final = 63


def init(
    out: Path = Path("fleet.toml"),
    /,
    *,
    name: str = "home",
    site: str = "",
    city: str = "",
    country: str = "",
    operator: str = "",
    kind: str = "micro",
    host: str = "",
    url: list[str] | None = None,
    model: list[str] | None = None,
    grid_kw: float | None = None,
    force: bool = False,
) -> int:
    """Look at this machine and write the fleet file of a league of one site, with the servers that run here as engines.

    Asks for what it cannot see and no flag says. Example: `hanse init --city Lyon`

    Parameters
    ----------
    out
        File to write.
    name
        Name of the league.
    site
        Id of this site; default the city's name.
    city
        Where this machine is; a city of at least 100,000 people near it.
    country
        Two letters, where several countries have such a city.
    operator
        Country whose law reaches the operator, two letters; default the country of the city.
    kind
        micro, edge or region: what the building is like.
    host
        Address of this machine that other machines reach; 127.0.0.1: none will.
    url
        Base URL of a server to look at instead of the usual ports; may be given several times.
    model
        SERVED=ID: the model in the catalogue behind a served name that does not tell.
    grid_kw
        What the supply can give, kW; default what the chips found draw at most.
    force
        Replace a file that is there.
    """
    from hanse.live.join.compose import first_fleet
    from hanse.live.join.probe import usual_urls

    if out.exists() and not force:
        raise ConfigError(
            str(out), got="a file that is there", fix="name another, or --force to replace it"
        )
    ports = _Ports(host or _own_host(""))
    urls = url or usual_urls()
    found = _host(city, country, operator, kind, ports, urls, model or (), grid_kw)
    _need_engines(found)
    id = site or _site_id(found.city)
    text = first_fleet(
        name, id, found, hub_host=found.host, leaf_port=ports.take(), door_port=ports.take()
    )
    _checked(text, out)
    out.write_text(text)
    _say_found(found)
    say(f"wrote {out}: site {id}, {len(found.engines)} engines")
    note(f"next: hanse up {out}")
    return 0


def token(
    site: str, /, *, hub: bool = False, state: Path | None = None, valid_h: float = 1.0
) -> int:
    """Print one line that lets one machine join as a site, once; with --hub, as a further hub. Run it at the (first) hub.

    A newer token of a site makes an unused older one void. Example: `hanse token lyon`; `hanse token --hub second`

    Parameters
    ----------
    site
        Id that the machine will have.
    hub
        The machine becomes one of three hubs, of which any one may be lost.
    state
        State directory of the hub; default the only one below `.hanse`.
    valid_h
        For how many hours; at most 168.
    """
    import re
    import time

    from hanse.live.ca import open_authority
    from hanse.live.join.token import VALID_S_MAX, Role, Token, TokenBook
    from hanse.live.runtime import HUB
    from hanse.units import SECONDS_PER_HOUR

    directory, fleet = hub_dir(state)
    runtime = directory.read_runtime()
    own = runtime.hub
    assert own is not None, "hub_dir has looked"
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", site) or site == HUB:
        raise ConfigError("SITE", got=repr(site), allowed="1 to 63 of a-z, 0-9 and hyphen")
    if site in runtime.sites:
        raise ConfigError("SITE", got=f"{site!r}, which runs on this machine", allowed="another id")
    if not 0 < valid_h * SECONDS_PER_HOUR <= VALID_S_MAX:
        raise ConfigError("--valid-h", got=f"{valid_h:g}", allowed="above 0, at most 168")
    authority = open_authority(directory.ca_dir, fleet, time.time(), make=False)
    if authority is None:
        raise ConfigError(
            str(directory.ca_dir), got="no authority's key", allowed="the hub's machine"
        )
    book = TokenBook(directory.hub / "tokens.json")
    role: Role = "hub" if hub else "site"
    if hub and runtime.relays:
        raise ConfigError(
            "--hub", got="a league of emulated links", allowed="one whose file has [hub]"
        )
    secret = book.make(site, time.time(), valid_h * SECONDS_PER_HOUR, role)
    made = Token(
        role=role,
        fleet=fleet,
        site=site,
        hub=(f"{own.reached_at}:{own.door_port}",),
        authority_sha256=authority.fingerprint,
        secret=secret,
    )
    sys.stdout.write(made.text() + "\n")
    note(f"valid for {valid_h:g} h and one machine; there: hanse join TOKEN")
    return 0


def join(
    token: str = "",
    /,
    *,
    state: Path | None = None,
    city: str = "",
    country: str = "",
    operator: str = "",
    kind: str = "micro",
    host: str = "",
    url: list[str] | None = None,
    model: list[str] | None = None,
    grid_kw: float | None = None,
    no_start: Annotated[bool, Plain] = False,
) -> int:
    """Make this machine a site of a league: look at it, get a certificate, start its bus, agent and gateway. Or a further hub.

    The key is made here and never leaves; the token is spent. May be repeated after a failure. Example: `hanse join TOKEN --city Lyon`

    Parameters
    ----------
    token
        The line that `hanse token` printed at the hub; without one it is asked for, and no list of processes shows it.
    state
        State directory to make; default `.hanse/<fleet>-<site>`.
    city
        Where this machine is; a city of at least 100,000 people near it.
    country
        Two letters, where several countries have such a city.
    operator
        Country whose law reaches the operator, two letters; default the country of the city.
    kind
        micro, edge or region: what the building is like.
    host
        Address of this machine that others reach; default the one that reaches the hub.
    url
        Base URL of a server to look at instead of the usual ports; may be given several times.
    model
        SERVED=ID: the model in the catalogue behind a served name that does not tell.
    grid_kw
        What the supply can give, kW; default what the chips found draw at most.
    no_start
        Only write the state directory, for `hanse site SITE --state DIR` or the systemd unit.
    """
    from hanse.live.join.come import come, refuse_other
    from hanse.live.join.hide import hide_argument
    from hanse.live.join.probe import usual_urls
    from hanse.live.join.token import read_token
    from hanse.live.runtime import StateDir

    hide_argument(token)
    read = read_token(token or _line("Token"))
    directory = StateDir(state or Path(".hanse") / f"{read.fleet}-{read.site}")
    if read.role == "hub":
        return _join_as_hub(read, directory, host, no_start=no_start)
    refuse_other(directory, read)
    ports = _Ports(host or _own_host(read.hub[0].rpartition(":")[0].strip("[]")), directory)
    urls = url or usual_urls()
    found = _host(city, country, operator, kind, ports, urls, model or (), grid_kw)
    _say_found(found)
    done = come(read, found, directory, note)
    note(f"joined {done.fleet} as {done.site}: fleet revision {done.revision}")
    if no_start:
        note(f"next: hanse site {done.site} --state {directory.path}")
        return 0
    return _start(done, directory)


def _join_as_hub(read: Token, directory: StateDir, host: str, *, no_start: bool) -> int:
    """A further hub needs an address and two ports; what else the machine is does not matter."""
    from hanse.live.hubs import together
    from hanse.live.join.hub import come_as_hub
    from hanse.live.join.start import start_hub
    from hanse.model.fleet import OtherHub

    ports = _Ports(host or _own_host(read.hub[0].rpartition(":")[0].strip("[]")))
    own = _known_hub(directory) or OtherHub(
        id=read.site, host=ports.host, leaf_port=ports.take(), cluster_port=ports.take()
    )
    league = come_as_hub(read, own, directory, note)
    note(f"joined {read.fleet} as hub {read.site}: fleet revision {league.revision}")
    if not together(league.fleet()):
        note(
            "it waits until a third hub has joined; until then the first one decides alone, as before"
        )
    if no_start:
        note(f"next: hanse hub --state {directory.path}")
        return 0
    pid = start_hub(directory)
    note(f"hub {read.site} runs (process group {pid}); log {directory.path / 'log' / 'hub.log'}")
    return 0


def _known_hub(directory: StateDir) -> OtherHub | None:
    """A repeated join finds its own ports again."""
    from hanse.live.league_file import LeagueStore

    newest = LeagueStore(directory.hub).newest()
    if newest is None or not directory.runtime_json.exists():
        return None
    hub = directory.read_runtime().hub
    others = newest.fleet().hub.others
    return next((one for one in others if hub is not None and one.id == hub.id), None)


def revoke(site: str, /, *, state: Path | None = None) -> int:
    """Let a site's certificates count no more, at the hub at once and at every site when it hears. Run it at the hub.

    The site may join again with a new token. Example: `hanse revoke lyon`

    Parameters
    ----------
    site
        Id of the site.
    state
        State directory of the hub; default the only one below `.hanse`.
    """
    import time

    from hanse.live.ask_change import History
    from hanse.live.ca import open_authority
    from hanse.live.join.token import TokenBook
    from hanse.live.runtime import HUB

    directory, fleet = hub_dir(state)
    authority = open_authority(directory.ca_dir, fleet, time.time(), make=False)
    if authority is None:
        raise ConfigError(
            str(directory.ca_dir), got="no authority's key", allowed="the hub's machine"
        )
    if site == HUB or site in {
        other.id for other in History(directory).newest().fleet().hub.others
    }:
        raise ConfigError(
            "SITE",
            got=f"{site!r}, a hub",
            allowed="a site",
            fix="end it, and let another machine join under its id: `hanse token --hub ID`",
        )
    TokenBook(directory.hub / "tokens.json").void(site)
    hit = authority.revoke(site, time.time())
    say(f"{site}: {hit} certificates revoked" if hit else f"{site}: no certificate that counts")
    return 0 if hit else 1


def _need_engines(host: Host) -> None:
    if not host.engines:
        raise ConfigError(
            "init",
            got="no server that answers /v1/models on the usual ports of this machine",
            allowed="at least one: vLLM, SGLang, llama.cpp, Ollama, TGI, or any OpenAI-compatible one",
            fix="start it, or name it with --url http://127.0.0.1:PORT",
        )


# --- this machine ------------------------------------------------------------------------------------


class _Ports:
    """Free ports of the address that others reach, from `CLIENT_PORT` up; a repeated join finds its own again."""

    def __init__(self, host: str, state: StateDir | None = None) -> None:
        import random

        self.host = host
        self._rng = random.Random()
        self._taken: set[int] = set()
        self.known: tuple[int, ...] = ()
        if state is not None and state.runtime_json.exists():
            one = next(iter(state.read_runtime().sites.values()))
            self.known = (one.client_port, one.hop_port)

    def take(self) -> int:
        """The next."""
        from hanse.live.runtime import free_port

        if len(self._taken) < len(self.known):
            port = self.known[len(self._taken)]
        else:
            preferred = range(CLIENT_PORT, CLIENT_PORT + 100)
            port = free_port(self.host, self._taken, self._rng, preferred)
        self._taken.add(port)
        return port


def _host(
    city: str,
    country: str,
    operator: str,
    kind: str,
    ports: _Ports,
    urls: Sequence[str],
    models: Sequence[str],
    grid_kw: float | None,
) -> Host:
    import asyncio

    import msgspec

    from hanse.catalogue.cities import city as city_named
    from hanse.live.join import probe
    from hanse.live.join.messages import Host

    place = city_named(city or _asked("City of this machine"), iso2=country, where="--city")
    engines = asyncio.run(
        probe.find_engines(tuple(dict.fromkeys(u.rstrip("/") for u in urls)), _models(models))
    )
    chips, threads = probe.find_chips(), probe.threads_here()
    values = {
        "kind": kind,
        "city": place.name,
        "country": place.iso2,
        "lat_deg": place.lat,
        "lon_deg": place.lon,
        "operator_hq": operator or place.iso2,
        "grid_kw_max": grid_kw or probe.power_kw(chips, threads),
        "host": ports.host,
        "reached_at": ports.host,
        "port": ports.take(),
        "hop_port": ports.take(),
        "threads": threads,
        "chips": msgspec.to_builtins(chips),
        "meters": [*(["NVML"] if chips else []), *probe.find_meters()],
        "engines": msgspec.to_builtins(engines),
    }
    try:
        return msgspec.convert(values, Host)
    except msgspec.ValidationError as error:
        raise ConfigError("this machine", got=str(error), fix="say it by a flag") from error


def _models(given: Sequence[str]) -> dict[str, str]:
    """`SERVED=ID` as a table; the id must be one of the catalogue."""
    from hanse.catalogue.models import ai_model_named

    found = {}
    for one in given:
        served, mark, id = one.partition("=")
        if not mark:
            raise ConfigError("--model", got=repr(one), allowed="SERVED=ID")
        found[served] = ai_model_named(id, where="--model").id
    return found


def _own_host(hub: str) -> str:
    from hanse.live.join.probe import own_address

    found = own_address(hub) if hub else own_address()
    if hub or not sys.stdin.isatty():
        return found
    return _asked("Address of this machine that other machines reach", found)


def _asked(question: str, default: str = "") -> str:
    """An answer from the terminal; without one a flag must say it."""
    if not sys.stdin.isatty():
        raise ConfigError(
            "--city", got="nothing, and nobody to ask", allowed="a city near this machine"
        )
    shown = f"{question} [{default}]: " if default else f"{question}: "
    sys.stderr.write(shown)
    sys.stderr.flush()
    return sys.stdin.readline().strip() or default


def _line(question: str) -> str:
    """A line of standard input, asked for where a person sits there."""
    if sys.stdin.isatty():
        from getpass import getpass

        return getpass(f"{question}: ")
    return sys.stdin.readline()


def _site_id(city: str) -> str:
    from hanse.catalogue.cities import fold
    from hanse.live.join.compose import slug

    return slug(fold(city))[:NAME_BYTES_MAX]


def _say_found(host: Host) -> None:
    for chips in host.chips:
        note(f"found {chips.count} x {chips.name} ({chips.accelerator})")
    note(
        f"found {host.threads} CPU threads; energy meters: {', '.join(host.meters) or 'none readable'}"
    )
    for one in host.engines:
        told = "" if one.slots_told and one.context_told else " (partly guessed)"
        note(
            f"found {one.server} at {one.url}: {one.served_name}, {one.slots} at once, {one.context_tokens} tokens{told}"
        )


def _checked(text: str, out: Path) -> None:
    from hanse.live.first_start import problems_of
    from hanse.model.read import parse_fleet

    for problem in problems_of(parse_fleet(text.encode(), source=str(out))):
        raise problem.error()


def _start(done: Come, state: StateDir) -> int:
    from hanse.live.join.start import start_site
    from hanse.live.supervise import running_pid

    running = running_pid(state.site(done.site) / "pid" / "site.pid")
    if running is not None:
        note(
            f"site {done.site} runs (process group {running}) and goes on with its new certificate"
        )
        return 0
    pid = start_site(state, done.site, note)
    url = done.address.local_url
    note(f"site {done.site} runs (process group {pid}); log {state.path / 'log' / 'site.log'}")
    note(
        f"end it with: kill {pid}; start it again with: hanse site {done.site} --state {state.path}"
    )
    note(f"clients here: {url}/v1")
    if done.address.client_url != url:
        authority = state.site(done.site) / "identity" / "ca.pem"
        note(f"clients elsewhere: {done.address.client_url}/v1, trusting {authority}")
    return 0
