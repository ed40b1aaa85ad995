"""What a state directory must hold before anything starts, made where it is missing and kept where it is there.

Here: the copy of the fleet file, ports, API keys, certificates, bus passwords and configurations, the
link emulator's configuration. Not here: starting processes (`live.up`, `live.site_group`, `live.hub`).
"""

from __future__ import annotations

import hashlib
import secrets
import time
from pathlib import Path
from typing import Final

import msgspec

from hanse.catalogue.accelerators import all_accelerators
from hanse.catalogue.countries import all_countries
from hanse.catalogue.models import ai_models
from hanse.errors import ConfigError
from hanse.live import bus
from hanse.live.ca import ensure_identity, seats
from hanse.live.hubs import cluster_of, other_leaves
from hanse.live.league_file import (
    FILES_ALLOWED,
    LEAGUE,
    LeagueFile,
    LeagueStore,
    imported,
    lay_out,
    league_bytes,
    may_lie,
    read_digests,
    site_fleet,
)
from hanse.live.link_control import LinksConfig, LinkSpec, RelaySpec
from hanse.live.runtime import (
    HUB,
    Runtime,
    StateDir,
    default_state_dir,
    plan_runtime,
    replace_file,
)
from hanse.model.check import Problem, check_fleet
from hanse.model.fleet import Fleet, Key, Value
from hanse.model.known_ids import check_known_ids
from hanse.model.read import parse_fleet, read_fleet
from hanse.signals.providers import read_settings

KEY_PREFIX: Final = "hanse-"
KEY_BYTES: Final = 32
"""256 random bits: not to be guessed, so a plain SHA-256 of it is safe to publish in tables."""


class Prepared(Value, frozen=True, kw_only=True):
    """A fleet that can be started."""

    fleet: Fleet
    """With the digest of every key filled in."""
    runtime: Runtime
    state_path: str

    @property
    def state(self) -> StateDir:
        """The state directory."""
        return StateDir(Path(self.state_path))


def prepare(
    fleet_path: Path, state_path: Path | None = None, *, only_site: str | None = None
) -> Prepared:
    """Make everything a start needs; a second start finds the same keys, certificates and ports.

    Args:
        fleet_path: The fleet file.
        state_path: The state directory; None: `.hanse/<fleet name>`.
        only_site: Prepare this site by itself, without hub and peers.

    Raises:
        ConfigError: the first wrong meaning of the fleet, a taken port, or a state directory that
            belongs to another fleet.
    """
    fleet = read_fleet(fleet_path)
    refuse_wrong(fleet, fleet_path)
    state = StateDir(state_path or default_state_dir(fleet))
    refuse_other_fleet(fleet, state)
    if only_site is not None:
        return _prepare_alone(fleet, fleet_path, state, only_site)
    state.make((), hub=True)
    league = _take_in(fleet, fleet_path, state)
    fleet = league.fleet()
    runtime = plan_runtime(fleet, state.path, elsewhere=league.joined)
    state.make(tuple(runtime.sites), hub=True)
    hub = runtime.hub
    assert hub is not None, "a league has a hub"
    ensure_identity(state.path, fleet.name, HUB, time.time(), hosts=(hub.reached_at, hub.leaf_host))
    for site, address in runtime.sites.items():
        hosts = (address.reached_at, address.host)
        ensure_identity(state.path, fleet.name, site, time.time(), hosts=hosts)
        replace_file(state.site(site) / LEAGUE, league_bytes(league))
    state.write_runtime(runtime)
    bus.ensure_secrets(state, runtime.sites, hub=True)
    known = seats(state.ca_dir, (site.id for site in fleet.sites))
    bus.write_hub_conf(runtime, state, known, cluster_of(fleet, HUB))
    for site in runtime.sites:
        bus.write_leaf_conf(runtime, state, site, other_leaves(fleet))
    config = links_config(runtime, state)
    replace_file(state.links_json, msgspec.json.format(msgspec.json.encode(config), indent=1))
    return Prepared(fleet=fleet, runtime=runtime, state_path=str(state.path))


def _prepare_alone(fleet: Fleet, fleet_path: Path, state: StateDir, site: str) -> Prepared:
    runtime = plan_runtime(fleet, state.path, only_site=site)
    state.make((site,), hub=False)
    _copy_fleet(fleet, fleet_path, state)
    fleet = with_keys(fleet, state)
    address = runtime.site(site)
    hosts = (address.reached_at, address.host)
    ensure_identity(state.path, fleet.name, site, time.time(), hosts=hosts)
    state.write_runtime(runtime)
    bus.ensure_secrets(state, (site,), hub=False)
    bus.write_leaf_conf(runtime, state, site)
    return Prepared(fleet=fleet, runtime=runtime, state_path=str(state.path))


def _take_in(fleet: Fleet, fleet_path: Path, state: StateDir) -> LeagueFile:
    """The revision in force after a start with this file; it and what it names lie in the state directory then."""
    store = LeagueStore(state.hub)
    known = store.newest()
    text = fleet_path.read_text()
    league = imported(text, files_of(fleet, fleet_path.parent), known, fleet, time.time())
    full = with_keys(parse_fleet(league.toml.encode(), source=str(fleet_path)), state)
    digests = {key.id: key.sha256 for tenant in full.tenants for key in tenant.keys}
    league = msgspec.structs.replace(league, digests=digests)
    if league != known:
        store.put(league)
    lay_out(league, state)
    return league


def resume(state_path: Path, site: str = "") -> Prepared:
    """What `prepare` made, read back by the processes it was made for; a site's have its own copy of the fleet.

    Raises:
        ConfigError: the directory is not prepared.
    """
    state = StateDir(state_path)
    runtime = state.read_runtime()
    fleet = site_fleet(state, site) if site else with_keys(read_fleet(state.fleet_toml), state)
    return Prepared(fleet=fleet, runtime=runtime, state_path=str(state.path))


def problems_of(fleet: Fleet) -> list[Problem]:
    """Every wrong meaning, against the shipped catalogue too."""
    return check_fleet(fleet) + check_known_ids(
        fleet,
        accelerators=all_accelerators(),
        models={model.id: model.kind for model in ai_models().values()},
        countries=all_countries(),
    )


def refuse_wrong(fleet: Fleet, fleet_path: Path) -> None:
    """Raise the first problem of a fleet, naming the command that lists all."""
    problems = problems_of(fleet)
    if not problems:
        return
    error = problems[0].error()
    if len(problems) > 1:
        hint = f"`hanse check {fleet_path}` lists all {len(problems)} problems"
        error = ConfigError(
            error.where,
            got=error.got,
            allowed=error.allowed,
            fix=f"{error.fix}; {hint}" if error.fix else hint,
        )
    raise error


def refuse_other_fleet(fleet: Fleet, state: StateDir) -> None:
    """A state directory holds one fleet's keys and chains; another fleet must not grow in it."""
    if not state.runtime_json.exists():
        return
    known = state.read_runtime().fleet
    if known != fleet.name:
        raise ConfigError(
            "--state",
            got=f"{state.path}, which holds fleet {known!r}",
            allowed=f"a directory of fleet {fleet.name!r}, or a new one",
        )


def with_keys(fleet: Fleet, state: StateDir) -> Fleet:
    """The fleet with every key's digest; keys without one are made once and kept, mode 0600."""
    digests = read_digests(state)
    missing = [
        key.id
        for tenant in fleet.tenants
        for key in tenant.keys
        if not key.sha256 and key.id not in digests
    ]
    for key_id in missing:
        secret = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        state.keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(state.keys_dir / f"{key_id}.key", f"{secret}\n".encode())
        digests[key_id] = hashlib.sha256(secret.encode()).hexdigest()
    if missing:
        replace_file(state.keys_json, msgspec.json.encode(digests))

    def filled(key: Key) -> Key:
        return msgspec.structs.replace(key, sha256=key.sha256 or digests[key.id])

    tenants = tuple(
        msgspec.structs.replace(tenant, keys=tuple(filled(key) for key in tenant.keys))
        for tenant in fleet.tenants
    )
    return msgspec.structs.replace(fleet, tenants=tenants)


def links_config(runtime: Runtime, state: StateDir) -> LinksConfig:
    """What the link emulator is told: one link a pair, one relay a direction of dialling."""
    links = {
        relay.link: LinkSpec(rtt_ms=relay.rtt_ms, mbit_s=relay.mbit_s) for relay in runtime.relays
    }
    relays = tuple(
        RelaySpec(
            id=f"{relay.source}>{relay.target}",
            link=relay.link,
            listen_host=relay.listen.rpartition(":")[0],
            listen_port=int(relay.listen.rpartition(":")[2]),
            target=relay.connect,
            forward="a_to_b" if relay.source < relay.target else "b_to_a",
        )
        for relay in runtime.relays
    )
    return LinksConfig(control_path=str(state.links_sock), links=links, relays=relays)


def files_of(fleet: Fleet, home: Path) -> dict[str, str]:
    """Texts of the policies and feeds that a fleet file names.

    Raises:
        ConfigError: one of them is missing, wrong, or lies elsewhere than below the file's own directory.
    """
    named = [(f"policy.cedar_files[{i}]", n) for i, n in enumerate(fleet.policy.cedar_files)]
    if fleet.feeds:
        read_settings(home / fleet.feeds)
        named.append(("feeds", fleet.feeds))
    found = {}
    for where, name in named:
        source = home / name
        if not may_lie(name) or not source.resolve().is_relative_to(home.resolve()):
            raise ConfigError(where, got=repr(name), allowed=FILES_ALLOWED)
        try:
            found[name] = source.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(where, got=f"{source}: {error}") from error
    return found


def _copy_fleet(fleet: Fleet, fleet_path: Path, state: StateDir) -> None:
    """Keep the file as started, and the policies and feeds it names, so that a start is one directory."""
    if fleet_path.resolve() == state.fleet_toml.resolve():
        return
    text, files = fleet_path.read_text(), files_of(fleet, fleet_path.parent)
    lay_out(LeagueFile(revision=0, at_s=0.0, toml=text, files=files), state)
