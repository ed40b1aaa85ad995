"""What follows of the hubs that a fleet names: who decides, how their buses reach each other, and what most of them have."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hanse.errors import ConfigError
from hanse.live import bus, hubs
from hanse.live.ca import ensure_identity
from hanse.live.hubs import (
    Cluster,
    HubBeat,
    Peers,
    cluster_of,
    held_by_most,
    hub_ids,
    other_leaves,
    replicas,
)
from hanse.live.league_file import LeagueFile, imported
from hanse.live.runtime import HubAddress, Runtime, SiteAddress, StateDir
from hanse.model.fleet import Fleet, Hub, OtherHub
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).parents[2] / "examples" / "league.toml")
SECOND = OtherHub(id="second", host="10.0.0.2", leaf_port=8443, cluster_port=8444)
THIRD = OtherHub(id="third", host="fd00::3", leaf_port=8443, cluster_port=8444)
ADDRESS = HubAddress(client_port=1, leaf_port=2, control_port=4, reached_at="10.0.0.1")


def league_of(*others: OtherHub) -> Fleet:
    return replace(LEAGUE, hub=Hub(host="10.0.0.1", cluster_port=8447, others=others))


def test_one_hub_decides_alone_and_a_second_waits_for_the_third() -> None:
    for fleet in (LEAGUE, league_of(), league_of(SECOND)):
        assert hub_ids(fleet) == ("hub",)
        assert cluster_of(fleet, "hub") is None
        assert cluster_of(fleet, "second") is None
        assert other_leaves(fleet) == ()
        assert replicas(fleet) == 1
    three = league_of(SECOND, THIRD)
    assert hub_ids(three) == ("hub", "second", "third")
    assert replicas(three) == 3
    assert other_leaves(three) == ("10.0.0.2:8443", "[fd00::3]:8443")


def test_every_hub_dials_the_two_others_and_itself_never() -> None:
    three = league_of(SECOND, THIRD)
    ways = {"hub": "10.0.0.1:8447", "second": "10.0.0.2:8444", "third": "[fd00::3]:8444"}
    for own, way in ways.items():
        found = cluster_of(three, own)
        assert found is not None
        assert set(found.routes) == set(ways.values()) - {way}
        assert str(found.port) == way.rpartition(":")[2]
    assert cluster_of(three, "stranger") is None


def conf(tmp_path: Path, hub: HubAddress, cluster: Cluster | None) -> dict[str, Any]:
    state = StateDir(tmp_path)
    state.make((), hub=True)
    bus.ensure_secrets(state, (), hub=True)
    ensure_identity(state.path, "f", "hub", time.time())
    return bus.hub_conf(
        Runtime(fleet="f", hub=hub, sites={}), state, {"lyon": "lyon.1.hanse"}, cluster
    )


def test_a_hub_alone_is_configured_as_ever(tmp_path: Path) -> None:
    made = conf(tmp_path, ADDRESS, None)
    assert "cluster" not in made
    assert "no_advertise" not in made["leafnodes"]
    assert (made["server_name"], made["jetstream"]["domain"]) == ("hub", "hub")


def test_a_further_hub_is_another_server_of_the_same_domain_behind_certificate_and_secret(
    tmp_path: Path,
) -> None:
    cluster = cluster_of(league_of(SECOND, THIRD), "second")
    made = conf(tmp_path, replace(ADDRESS, id="second"), cluster)
    assert (made["server_name"], made["jetstream"]["domain"]) == ("second", "hub")
    known = bus.hub_secrets(StateDir(tmp_path))
    inside = made["cluster"]
    assert inside["tls"]["ca_file"].endswith("ca.pem")
    assert inside["authorization"]["password"] == known.cluster
    assert all(f":{known.cluster}@" in route for route in inside["routes"])
    assert known.cluster not in json.dumps(made["accounts"]), "it opens nothing else"
    assert len(known.cluster) > 40


def test_a_sites_bus_dials_every_hub_once(tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    state.make(("lyon",), hub=False)
    bus.ensure_secrets(state, ("lyon",), hub=False)
    site = SiteAddress(
        site="lyon", host="127.0.0.1", client_port=1, hop_port=2, leaf_port=3,
        hub_leaf="10.0.0.1:8445",
    )  # fmt: skip
    runtime = Runtime(fleet="f", sites={"lyon": site})

    def urls(*others: str) -> list[str]:
        made = json.loads(bus.write_leaf_conf(runtime, state, "lyon", others).read_text())
        (remote,) = made["leafnodes"]["remotes"]
        return list(remote["urls"])

    assert urls() == ["nats-leaf://10.0.0.1:8445"]
    three = urls(*other_leaves(league_of(SECOND, THIRD)))
    assert three == [
        f"nats-leaf://{way}" for way in ("10.0.0.1:8445", "10.0.0.2:8443", "[fd00::3]:8443")
    ]


@given(
    held=st.lists(
        st.dictionaries(st.sampled_from(["lyon", "paris"]), st.integers(0, 100)),
        min_size=1,
        max_size=3,
    )
)
def test_what_most_hubs_have_is_what_any_two_of_three_have_between_them(
    held: list[dict[str, int]],
) -> None:
    """Whichever hub is lost next, one that is left has at least so much."""
    found = held_by_most(held, 3)
    for site, size in found.items():
        assert sum(one.get(site, 0) >= size for one in [*held, *[{}] * (3 - len(held))]) >= 2
        assert size == 0 or any(one.get(site, 0) == size for one in held)
    assert held_by_most(held[:1], 1) == held[0]


def beat(hub: str, **held: int) -> bytes:
    return msgspec.msgpack.encode(HubBeat(hub=hub, held=held))


def test_a_hub_that_falls_silent_is_not_heard_but_what_it_has_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now_s = 100.0
    monkeypatch.setattr(hubs.time, "monotonic", lambda: now_s)
    fleet = league_of(SECOND, THIRD)
    peers = Peers("hub", lambda: fleet, lambda: False)
    peers.hear(beat("second", lyon=7))
    peers.hear(beat("stranger", lyon=9))
    peers.hear(b"noise")
    assert set(peers.heard()) == {"second"}
    assert peers.held({"lyon": 5}) == {"lyon": 5}
    now_s += hubs.SILENT_S
    assert peers.heard() == {}
    assert peers.held({"lyon": 5}) == {"lyon": 5}, "or sites would send it again"
    assert not peers.acts
    fleet = LEAGUE
    assert peers.acts
    assert peers.held({"lyon": 5}) == {"lyon": 5}


def test_one_of_several_hubs_does_not_start_with_another_file() -> None:
    """Most hubs have to agree on it first."""
    text = (Path(__file__).parents[2] / "examples" / "league.toml").read_text()
    head, mark, rest = text.partition("[[site]]")
    hub = '[hub]\nhost = "10.0.0.1"\ncluster_port = 8447\n\n[[hub.others]]\nid = "second"\nhost = "10.0.0.2"\n'
    known = LeagueFile(
        revision=3,
        at_s=0.0,
        toml=f"{head}{hub}leaf_port = 1\ncluster_port = 2\n\n{mark}{rest}",
        source_sha256="of an earlier file",
    )
    assert known.fleet().hub.others[0].id == "second"
    with pytest.raises(ConfigError, match="hanse apply"):
        imported(text, {}, known, LEAGUE, 1.0)
