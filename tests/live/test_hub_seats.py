"""The hub's seats are written when they change, and looked at cheaply when they do not."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.js.errors import ServiceUnavailableError

from hanse.live import hub_seats
from hanse.live.ca import open_authority
from hanse.live.hub_seats import HubSeats
from hanse.live.hubs import Cluster
from hanse.live.runtime import HubAddress, Runtime, StateDir


class _Js:
    async def publish(self, _subject: str, _data: bytes) -> None:
        return None


class _Client:
    def jetstream(self, **_: Any) -> _Js:
        return _Js()


def test_a_configuration_is_made_again_only_when_what_it_is_made_of_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []

    def conf(
        _runtime: Runtime, _state: StateDir, seats: dict[str, str], _cluster: None
    ) -> dict[str, Any]:
        made.append(len(seats))
        users = [{"user": seat} for seat in seats.values()]
        return {"accounts": {hub_seats.bus.ACCOUNT: {"users": users}}}

    async def streams(_client: Any, _sites: Any, copies: int) -> None:
        assert copies == 1

    monkeypatch.setattr(hub_seats.bus, "hub_conf", conf)
    monkeypatch.setattr(hub_seats.bus, "ensure_hub_streams", streams)
    monkeypatch.setattr(hub_seats, "end_leaves", _nothing)
    monkeypatch.setattr(hub_seats.bus, "connect_keeper", _nothing)
    monkeypatch.setattr(hub_seats.bus, "leave", _nothing)
    state = StateDir(tmp_path)
    state.make((), hub=True)
    open_authority(state.ca_dir, "f", 1.0, make=True)
    hub = HubAddress(client_port=1, leaf_port=2, control_port=4)
    seats = HubSeats(Runtime(fleet="f", sites={}, hub=hub), state, _Client())  # type: ignore[arg-type]

    def tend(*sites: str) -> None:
        asyncio.run(seats.tend(sites))

    tend("a")
    written = (state.hub / "hub.conf").read_bytes()
    before = len(made)
    for _ in range(10):
        tend("a")
    assert len(made) == before
    tend("a", "b")
    assert made[-1] == 2
    (state.hub / "hub.conf").write_bytes(written)  # somebody wrote over it
    tend("a", "b")
    assert b"b.1" in (state.hub / "hub.conf").read_bytes()
    count = len(made)
    register = state.ca_dir / "issued.json"
    moved = {"issued": {}, "generations": {"a": 2}, "list_number": 0}
    register.with_suffix(".new").write_bytes(msgspec.json.encode(moved))
    register.with_suffix(".new").replace(register)
    tend("a", "b")
    assert len(made) > count and b"a.2" in (state.hub / "hub.conf").read_bytes()


async def _nothing(*_: Any, **__: Any) -> None:
    return None


def test_a_hub_that_hears_no_other_sends_sites_away_though_its_streams_answer_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the one with the authority's key, which has to ask a stream who may sit."""
    ended: list[str] = []
    routes = 0

    async def end(_client: Any, hub: str, _wait_s: float) -> None:
        ended.append(hub)

    async def routes_of(_client: Any, _hub: str) -> int:
        return routes

    monkeypatch.setattr(
        hub_seats.bus, "hub_conf", lambda *_: {"accounts": {hub_seats.bus.ACCOUNT: {"users": []}}}
    )
    monkeypatch.setattr(hub_seats.bus, "connect_keeper", _nothing)
    monkeypatch.setattr(hub_seats.bus, "leave", _nothing)
    monkeypatch.setattr(hub_seats, "end_leaves", end)
    monkeypatch.setattr(hub_seats, "routes_of", routes_of)
    state = StateDir(tmp_path)
    state.make((), hub=True)
    state.ca_dir.mkdir(parents=True, exist_ok=True)
    hub = HubAddress(id="third", client_port=1, leaf_port=2, control_port=4)
    seats = HubSeats(Runtime(fleet="f", sites={}, hub=hub), state, _NoMajority())  # type: ignore[arg-type]
    others = Cluster(port=1, routes=("10.0.0.1:1", "10.0.0.2:1"))
    for _ in range(2):
        asyncio.run(seats.tend(("a",), others, leads=False))
    assert ended == ["third", "third"]
    routes = 2
    with pytest.raises(ServiceUnavailableError):  # it is asked again as soon as another is heard
        asyncio.run(seats.tend(("a",), others, leads=False))


class _NoMajority:
    def jetstream(self, **_: Any) -> _NoMajority:
        return self

    async def get_last_msg(self, _stream: str, _subject: str) -> None:
        raise ServiceUnavailableError
