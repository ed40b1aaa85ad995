"""Ports are free, told apart, kept over starts; every pair of sites and every way to the hub has a relay."""

from __future__ import annotations

import itertools
import socket
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.paths import paths_from
from hanse.errors import ConfigError
from hanse.live.first_start import links_config
from hanse.live.runtime import HUB, Runtime, StateDir, hub_site, plan_runtime, wan_paths
from hanse.model.fleet import Fleet, Gateway, Link, Site
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).parents[2] / "examples" / "league.toml")


def without_ports(fleet: Fleet) -> Fleet:
    """The same with every port left to choose: tests must not collide on fixed ones."""
    sites = tuple(msgspec.structs.replace(site, gateway=Gateway()) for site in fleet.sites)
    return msgspec.structs.replace(fleet, sites=sites)


def with_links(sites: tuple[Site, ...], links: tuple[Link, ...]) -> Fleet:
    return msgspec.structs.replace(LEAGUE, sites=sites, links=links, placements=(), central=None)


def all_ports(runtime: Runtime) -> list[int]:
    hub = runtime.hub
    ports = [int(relay.listen.rpartition(":")[2]) for relay in runtime.relays]
    if hub is not None:
        ports += [hub.client_port, hub.leaf_port, hub.control_port]
    for site in runtime.sites.values():
        ports += [site.client_port, site.hop_port, site.leaf_port]
        ports += site.engine_ports
    return ports


def test_every_port_is_chosen_once_and_free(tmp_path: Path) -> None:
    ports = all_ports(plan_runtime(without_ports(LEAGUE), tmp_path))
    engines = sum(placement.replicas for placement in LEAGUE.placements)
    assert len(ports) == len(set(ports)) == 3 + 5 * 3 + engines + 5 * 4 + 5
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as every server does
            probe.bind(("127.0.0.1", port))


def test_each_site_dials_every_peer_and_the_hub_through_its_own_relay(tmp_path: Path) -> None:
    runtime = plan_runtime(without_ports(LEAGUE), tmp_path)
    ids = set(runtime.sites)
    relays = {(relay.source, relay.target): relay for relay in runtime.relays}
    assert set(relays) == {(a, b) for a in ids for b in ids | {HUB} if a != b}
    for site, address in runtime.sites.items():
        assert set(address.peers) == ids - {site}
        for peer, dialled in address.peers.items():
            relay, to = relays[site, peer], runtime.sites[peer]
            assert dialled == relay.listen
            assert relay.connect == f"{to.host}:{to.hop_port}"
        assert runtime.hub is not None
        assert address.hub_leaf == relays[site, HUB].listen
        assert relays[site, HUB].connect == f"127.0.0.1:{runtime.hub.leaf_port}"


def test_the_emulator_and_the_table_agree_on_every_way(tmp_path: Path) -> None:
    fleet = without_ports(LEAGUE)
    links = tuple(link for link in fleet.links if {link.a, link.b} != {"tallinn", "virginia"})
    runtime = plan_runtime(msgspec.structs.replace(fleet, links=links), tmp_path)
    ids = list(runtime.sites)
    places = [(site.lat_deg, site.lon_deg) for site in fleet.sites]
    for origin, site in enumerate(ids):
        ways = paths_from(origin, ids, places, links)
        emulated = {r.target: r.rtt_ms for r in runtime.relays if r.source == site}
        for target, way in zip(ids, ways["rtt_ms"], strict=True):
            assert emulated.get(target, 0.0) == pytest.approx(way)


def test_the_hub_is_as_far_as_the_site_it_stands_beside(tmp_path: Path) -> None:
    runtime = plan_runtime(without_ports(LEAGUE), tmp_path)
    assert hub_site(LEAGUE) == "virginia"
    rtt_ms = {relay.source: relay.rtt_ms for relay in runtime.relays if relay.target == HUB}
    assert rtt_ms == {
        "frankfurt": 92,
        "lyon": 88,
        "london": 76,
        "tallinn": 118,
        "virginia": 0,
    }


def test_both_directions_of_dialling_share_one_link(tmp_path: Path) -> None:
    runtime = plan_runtime(without_ports(LEAGUE), tmp_path)
    config = links_config(runtime, StateDir(tmp_path))
    assert len(config.links) == 10 + 5
    pair = [relay for relay in config.relays if relay.link == "frankfurt~lyon"]
    assert {relay.id: relay.forward for relay in pair} == {
        "frankfurt>lyon": "a_to_b",
        "lyon>frankfurt": "b_to_a",
    }


def test_a_second_start_keeps_every_port(tmp_path: Path) -> None:
    fleet = without_ports(LEAGUE)
    first = plan_runtime(fleet, tmp_path, seed=1)
    StateDir(tmp_path).write_runtime(first)
    assert plan_runtime(fleet, tmp_path, seed=2) == first


def test_a_port_taken_since_the_last_start_is_chosen_anew(tmp_path: Path) -> None:
    fleet = without_ports(LEAGUE)
    first = plan_runtime(fleet, tmp_path)
    StateDir(tmp_path).write_runtime(first)
    lost = first.sites["lyon"].client_port
    with socket.socket() as other:
        other.bind(("127.0.0.1", lost))
        other.listen()
        second = plan_runtime(fleet, tmp_path)
    assert second.sites["lyon"].client_port != lost
    assert len(set(all_ports(first)) - set(all_ports(second))) == 1


def test_a_named_port_that_is_taken_is_an_error_at_its_path(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        sites = tuple(
            msgspec.structs.replace(site, gateway=Gateway(hop_port=port if at == 3 else 0))
            for at, site in enumerate(LEAGUE.sites)
        )
        with pytest.raises(ConfigError, match=r"site\[3\]\.gateway\.hop_port.*or write 0"):
            plan_runtime(msgspec.structs.replace(LEAGUE, sites=sites), tmp_path)


def test_a_named_port_is_kept(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    first = msgspec.structs.replace(LEAGUE.sites[0], gateway=Gateway(port=port))
    fleet = with_links((first,), ())
    assert plan_runtime(fleet, tmp_path).sites["frankfurt"].client_port == port


def test_one_site_by_itself_has_no_hub_and_no_peers(tmp_path: Path) -> None:
    runtime = plan_runtime(without_ports(LEAGUE), tmp_path, only_site="tallinn")
    assert (runtime.hub, list(runtime.sites), runtime.relays) == (None, ["tallinn"], ())
    assert runtime.sites["tallinn"].hub_leaf == ""
    with pytest.raises(ConfigError, match="one of frankfurt"):
        plan_runtime(without_ports(LEAGUE), tmp_path, only_site="talin")


def test_a_path_too_long_for_sockets_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Unix sockets"):
        plan_runtime(without_ports(LEAGUE), tmp_path / ("x" * 90))


def test_runtime_survives_its_file(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    runtime = plan_runtime(without_ports(LEAGUE), tmp_path)
    state.write_runtime(runtime)
    assert state.read_runtime() == runtime
    state.runtime_json.write_text("{")
    with pytest.raises(ConfigError, match="hanse up"):
        state.read_runtime()


def test_sites_without_a_link_of_their_own_use_the_shortest_chain() -> None:
    chain = (
        Link(a="frankfurt", b="lyon", rtt_ms=10, mbit_s=1000),
        Link(a="lyon", b="london", rtt_ms=10, mbit_s=50),
        Link(a="frankfurt", b="tallinn", rtt_ms=15, mbit_s=1000),
        Link(a="tallinn", b="london", rtt_ms=15, mbit_s=1000),
    )
    path = wan_paths(with_links(LEAGUE.sites[:4], chain))["london", "frankfurt"]
    assert (path.hops, path.rtt_ms, path.mbit_s) == (("london", "lyon", "frankfurt"), 20, 50)


@given(st.data())
def test_own_links_are_used_and_chains_are_shortest_both_ways(data: st.DataObject) -> None:
    sites = LEAGUE.sites[: data.draw(st.integers(2, 5))]
    ids = [site.id for site in sites]
    pairs = [(a, b) for i, a in enumerate(ids) for b in ids[i + 1 :]]
    kept = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    links = tuple(
        Link(a=a, b=b, rtt_ms=data.draw(st.integers(1, 100)), mbit_s=100) for a, b in kept
    )
    own = {(a, b): link.rtt_ms for link in links for a, b in ((link.a, link.b), (link.b, link.a))}
    paths = wan_paths(with_links(sites, links))
    for (a, b), path in paths.items():
        assert (path.hops[0], path.hops[-1]) == (a, b)
        assert paths[b, a].rtt_ms == path.rtt_ms
        assert path.rtt_ms == sum(own[hop] for hop in itertools.pairwise(path.hops))
        if (a, b) in own:
            assert path.hops == (a, b)
        else:
            chains = (
                own[a, via] + paths[via, b].rtt_ms
                for via in ids
                if (a, via) in own and (via, b) in paths
            )
            assert all(path.rtt_ms <= chain for chain in chains)
    assert set(own) <= set(paths)
