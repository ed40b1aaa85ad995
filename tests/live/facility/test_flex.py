"""Load targets over a real broker: our NATS server's MQTT listener, a stock MQTT client as the grid, signed CloudEvents, QoS 1 and 2."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from hanse.dispatch.load_targets import BREACH_AFTER_S, FOREVER, LoadTarget, Watch, in_force
from hanse.errors import ConfigError, SiteError
from hanse.live.facility import flex
from hanse.live.facility.flex import Drawn, FlexAgent
from hanse.live.facility.flex_messages import (
    FeedFacts,
    envelope_of,
    rfc3339,
    status_data,
    targets_of,
)
from hanse.live.facility.jws import Keyring
from hanse.live.facility.mqtt import BmsDriver, MqttSession
from hanse.model.fleet import Facility, Signer
from ports import free_port

pytest.importorskip("paho.mqtt.client", reason="pip install paho-mqtt")
pytest.importorskip("joserfc", reason="pip install joserfc")
from live.facility.site_bus import (
    FLEET,
    PASSWORD,
    SITE,
    Publisher,
    SiteBus,
    event,
    keys,
    private_pem,
    publisher,
    sign,
    wait_until,
)

TARGET_TOPIC = "grid/v1/isv/acme/loadtarget/set"
STATUS_TOPIC = f"grid/v1/dsx-flex-agent/{SITE}/powerstate/status"
BREACH_TOPIC = f"grid/v1/dsx-flex-agent/{SITE}/powerbreach"
GRID = [(STATUS_TOPIC, 1), (BREACH_TOPIC, 2)]

PLANT = """
[[facility]]
id = "grid"
site = "harbour"
driver = "dsx-flex"
user = "acme"
secret_file = "acme.secret"
listen = "127.0.0.1:{port}"
[[facility.signer]]
kid = "acme-1"
key_file = "acme.pem"
[[facility.signer]]
kid = "iso-1"
key_file = "iso.pem"

[[facility]]
id = "building"
site = "harbour"
driver = "mqtt"
user = "bms"
secret_file = "bms.secret"
listen = "127.0.0.1:{port}"
"""


class Grid:
    """A site's bus, the keys of two that may set targets, and a watcher of what the site says."""

    def __init__(self, root: Path) -> None:
        self.port = free_port()
        self.bus = SiteBus(root, FLEET.format(pools="", more=PLANT.format(port=self.port)))
        self.acme, acme_pem = keys("ES256")
        self.iso, iso_pem = keys("RS256")
        (self.bus.home / "acme.pem").write_bytes(acme_pem)
        (self.bus.home / "iso.pem").write_bytes(iso_pem)
        for name in ("acme", "bms"):
            self.bus.secret(f"{name}.secret", PASSWORD)
        self.facility = self.bus.fleet.facilities[0]
        self.schedules: list[tuple[LoadTarget, ...]] = []
        self.bus.start()

    def agent(self) -> FlexAgent:
        return FlexAgent(self.facility, self.bus.home, self.bus.password, self.schedules.append)

    def order(
        self, kw: float, correlation_id: str = "", *, seconds: float | None = 60.0, **more: Any
    ) -> bytes:
        now_s = time.time()
        interval = {"start_time": rfc3339(now_s - 1.0)}
        if seconds is not None:
            interval["end_time"] = rfc3339(now_s + seconds)
        target = {"load_constraint": {"value": kw, "unit": "kilowatt"}, "interval": interval} | more
        return event(sign({"targets": [target]}, self.acme, "acme-1"), correlation_id)

    def run(self, act: Callable[[FlexAgent, Publisher], Awaitable[None]]) -> None:
        async def whole() -> None:
            agent = self.agent()
            with publisher(self.port, "acme", PASSWORD, GRID) as acme:
                await agent.start()
                try:
                    await until(lambda: agent.connected and acme.up, "both are connected")
                    await act(agent, acme)
                finally:
                    await agent.close()

        asyncio.run(whole())


@pytest.fixture
def grid(tmp_path: Path) -> Iterator[Grid]:
    made = Grid(tmp_path)
    yield made
    made.bus.stop()


async def until(holds: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
    until_s = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < until_s, f"not within {within_s:.0f} s: {what}"
        await asyncio.sleep(0.02)
    return found


def drawn(kw: float, level: int = 0) -> Drawn:
    hints = (("chat-q8-0", "gpus", 0.0),)
    return Drawn(kw=kw, shed_level=level, minimum_kw=1.0, maximum_kw=40.0, hints=hints)


def said(
    heard: list[tuple[str, bytes, int]], topic: str, public_pem: bytes
) -> list[dict[str, Any]]:
    """Payloads on a topic, their signatures checked by the site's own public key."""
    from joserfc import jws
    from joserfc.jwk import ECKey

    found = []
    for where, payload, qos in heard:
        if where != topic:
            continue
        assert qos == (2 if topic == BREACH_TOPIC else 1)
        envelope = json.loads(payload)
        assert envelope["specversion"] == "1.0.2"
        assert envelope["source"] == f"//grid/v1/dsx-flex-agent/{SITE}"
        assert {"id", "time", "traceparent", "subject"} <= envelope.keys()
        key = ECKey.import_key(public_pem)
        checked = jws.deserialize_compact(envelope["data"], key, algorithms=["ES256"])
        found.append(json.loads(checked.payload) | {"about": envelope.get("correlationid", "")})
    return found


def test_a_target_is_taken_followed_and_reported_from_beginning_to_end(grid: Grid) -> None:
    async def course(agent: FlexAgent, acme: Publisher) -> None:
        public = (grid.bus.home / "facility" / "grid.public.pem").read_bytes()
        agent.look(drawn(30.0), time.time())
        await asyncio.to_thread(acme.send, TARGET_TOPIC, grid.order(20.0, "order-1", seconds=3.0))
        await until(lambda: agent.schedule, "the target has come")
        assert grid.schedules[-1][0].limit_kw == 20.0
        now_s = time.time()
        agent.look(drawn(30.0, 1), now_s)
        agent.look(drawn(19.0, 2), now_s + 1)
        agent.look(drawn(19.0, 2), now_s + 10)
        agent.look(drawn(30.0, 0), now_s + 20)
        seen = await until(
            lambda: len(f := said(acme.heard, STATUS_TOPIC, public)) >= 6 and f, "statuses"
        )
        feeds = [s["feeds"]["main"] for s in seen]
        assert [f["event"] for f in feeds] == [
            "periodic", "target_set", "start_ramp_down", "end_ramp_down", "start_ramp_up", "end_ramp_up",
        ]  # fmt: skip
        assert [f["compliant"] for f in feeds] == [True, False, False, True, True, True]
        assert [f["in_flight"] for f in feeds] == [False, True, True, False, True, False]
        assert seen[3]["about"] == "order-1"
        (target,) = feeds[3]["targets"]
        assert (target["active"], target["correlation_id"]) == (True, "order-1")
        assert target["load_constraint"] == {"value": 20.0, "unit": "kilowatt"}
        assert feeds[0]["metadata"]["power_maximum"] == {"value": 40.0, "unit": "kilowatt"}
        assert "power_event_start_time" in feeds[3]
        assert "power_event_start_time" not in feeds[5]

    grid.run(course)


def test_a_missed_target_is_a_breach_in_exactly_once_delivery(grid: Grid) -> None:
    async def course(agent: FlexAgent, acme: Publisher) -> None:
        public = (grid.bus.home / "facility" / "grid.public.pem").read_bytes()
        await asyncio.to_thread(acme.send, TARGET_TOPIC, grid.order(20.0, "order-2", seconds=900.0))
        await until(lambda: agent.schedule, "the target has come")
        now_s = time.time()
        for second in (0.0, 1.0, BREACH_AFTER_S + 1, 200.0, 201.0):
            agent.look(drawn(30.0 if second < 201.0 else 15.0, 3), now_s + second)
        seen = await until(
            lambda: len(f := said(acme.heard, BREACH_TOPIC, public)) >= 3 and f, "breaches"
        )
        assert [b["status"] for b in seen] == ["active", "escalated", "resolved"]
        assert len({b["breach"]["breach_id"] for b in seen}) == 1
        assert [b["severity"] for b in seen] == ["critical", "critical", "warning"]
        assert seen[0]["shed_hints"][0]["resource_id"] == "gpus/chat-q8-0"
        assert seen[0]["measured_load"] == {"value": 30.0, "unit": "kilowatt"}
        assert [b["infrastructure_actions"] for b in seen] == [[], ["SHUTDOWN_NODES"], []]
        assert "resolved_at" in seen[2]["breach"]
        assert "shed_hints" not in seen[2]

    grid.run(course)


def test_what_was_sent_while_the_agent_was_away_is_there_when_it_comes_back(grid: Grid) -> None:
    async def nothing(agent: FlexAgent, acme: Publisher) -> None:
        await asyncio.sleep(0.2)

    grid.run(nothing)  # a first life: the session exists
    with publisher(grid.port, "acme", PASSWORD) as acme:
        acme.send(TARGET_TOPIC, grid.order(12.0, "while-away"))

    async def second(agent: FlexAgent, _: Publisher) -> None:
        await until(lambda: agent.schedule, "the kept target has come")
        assert agent.schedule[0].id == "while-away"

    grid.run(second)
    grid.bus.stop()

    async def cut_off() -> None:
        grid.schedules.clear()
        agent = grid.agent()
        await agent.start()
        assert grid.schedules[0][0].id == "while-away"  # from disk, with no broker at all
        assert not agent.connected
        await agent.close()

    asyncio.run(cut_off())


def test_a_broker_that_restarts_is_come_back_to_and_breaches_wait_for_it(grid: Grid) -> None:
    async def course(agent: FlexAgent, acme: Publisher) -> None:
        public = (grid.bus.home / "facility" / "grid.public.pem").read_bytes()
        await asyncio.to_thread(acme.send, TARGET_TOPIC, grid.order(20.0, "o", seconds=900.0))
        await until(lambda: agent.schedule, "the target has come")
        await asyncio.to_thread(grid.bus.stop)
        await until(lambda: not agent.connected, "the loss is seen")
        now_s = time.time()
        agent.look(drawn(30.0, 3), now_s)
        agent.look(drawn(30.0, 3), now_s + BREACH_AFTER_S)
        acme.up = False
        await asyncio.to_thread(grid.bus.start)
        await until(lambda: agent.connected and acme.up, "both are back", 60.0)
        await until(lambda: said(acme.heard, BREACH_TOPIC, public), "the breach was kept", 60.0)
        agent.look(drawn(30.0, 3), time.time())

        def events() -> list[str]:
            return [s["feeds"]["main"]["event"] for s in said(acme.heard, STATUS_TOPIC, public)]

        await until(lambda: "start_ramp_down" in events(), "what was missed is said")

    grid.run(course)


def test_a_target_that_could_not_be_written_is_not_acknowledged_and_comes_again(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker brings it to the next session, as it does after half a minute to one that stays."""
    full, write = True, flex.replace_file

    def disk(path: Path, content: bytes, **more: Any) -> None:
        tried.append(path)
        if full:
            raise OSError(errno.ENOSPC, "disk full")
        write(path, content, **more)

    tried: list[Path] = []
    monkeypatch.setattr(flex, "replace_file", disk)

    async def refused(agent: FlexAgent, acme: Publisher) -> None:
        await asyncio.to_thread(acme.send, TARGET_TOPIC, grid.order(20.0, "order-f", seconds=3600))
        await until(lambda: tried, "it has come")
        assert agent.schedule == ()

    async def taken(agent: FlexAgent, _acme: Publisher) -> None:
        await until(lambda: agent.schedule, "it has come again")

    grid.run(refused)
    full = False
    grid.run(taken)
    assert [t.id for t in grid.schedules[-1]] == ["order-f"]


def test_a_target_that_is_over_ends_though_the_disk_takes_nothing(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def course(agent: FlexAgent, acme: Publisher) -> None:
        await asyncio.to_thread(acme.send, TARGET_TOPIC, grid.order(20.0, "order-g", seconds=60))
        await until(lambda: agent.schedule, "the target has come")

        def disk(*_: Any, **__: Any) -> None:
            raise OSError(errno.ENOSPC, "disk full")

        with monkeypatch.context() as patched:
            patched.setattr(flex, "replace_file", disk)
            agent.look(drawn(10.0), time.time() + 61.0)
        assert agent.schedule == grid.schedules[-1] == ()
        before = agent._path.read_bytes()
        agent.look(drawn(10.0), time.time() + 62.0)
        assert agent._path.read_bytes() != before, "and the disk follows"

    grid.run(course)


def test_only_signed_words_bind_and_each_only_once(grid: Grid) -> None:
    async def course(agent: FlexAgent, acme: Publisher) -> None:
        stranger, _ = keys()
        target = {"targets": [{"load_constraint": {"value": 9.0, "unit": "kilowatt"}}]}
        bad = [
            event(sign(target, stranger, "acme-1")),
            event(sign(target, stranger, "nobody")),
            event(sign(target, grid.acme, "acme-1")[:-4] + "AAAA"),
            event("e30.e30."),
            event('{"alg":"none"}'),
            event(
                sign(
                    {"targets": [{"load_constraint": {"value": -1, "unit": "watt"}}]},
                    grid.acme,
                    "acme-1",
                )
            ),
            event(sign(target, grid.acme, "acme-1"), kind="grid.something.else.v1"),
            b"not json",
        ]
        for payload in bad:
            await asyncio.to_thread(acme.send, TARGET_TOPIC, payload)
        good = event(sign(target, grid.iso, "iso-1", "RS256"), "c-1")
        await asyncio.to_thread(acme.send, TARGET_TOPIC, good)
        await until(lambda: agent.schedule, "the good one has come")
        assert [(t.source, t.id, t.limit_kw, t.end_at_s) for t in agent.schedule] == [
            ("iso-1", "c-1", 9.0, FOREVER)
        ]
        assert sum(agent.refused.values()) == len(bad)
        relax = event(
            sign(
                {"targets": [{"load_constraint": {"value": 30, "unit": "kilowatt"}}]},
                grid.iso,
                "iso-1",
                "RS256",
            ),
            "c-2",
        )
        await asyncio.to_thread(acme.send, TARGET_TOPIC, relax)
        await until(lambda: agent.schedule[0].id == "c-2", "the later word")
        recorded = json.loads(good) | {"correlationid": "c-3"}
        await asyncio.to_thread(acme.send, TARGET_TOPIC, json.dumps(recorded).encode())
        await asyncio.to_thread(acme.send, TARGET_TOPIC, grid.order(25.0, "c-4"))
        await until(lambda: len(agent.schedule) == 2, "another sender's word")
        assert {t.id for t in agent.schedule} == {"c-2", "c-4"}  # the recording changed nothing
        bound = in_force(agent.schedule, time.time())
        assert bound is not None
        assert bound.limit_kw == 25.0

    grid.run(course)


def test_publishers_are_let_in_by_password_and_say_only_what_is_theirs(grid: Grid) -> None:
    with publisher(grid.port, "acme", "wrong") as wrong:
        wait_until(lambda: wrong.refused, "the wrong password is refused")
    with (
        publisher(grid.port, "acme", PASSWORD, [("#", 1)]) as nosy,
        publisher(grid.port, "bms", PASSWORD) as bms,
    ):
        bms.client.publish("grid/v1/isv/bms/loadtarget/set", b"{}", 1)
        bms.send("BMS/v1/PUB/Value/Rack/RackPower/r1", b'{"value":1,"timestamp":1,"quality":1}')
        time.sleep(0.5)
        assert not nosy.heard


def test_a_publisher_whose_secret_is_missing_stays_out_and_the_bus_starts(grid: Grid) -> None:
    grid.bus.stop()
    (grid.bus.home / "bms.secret").unlink()
    grid.bus.start()
    with (
        publisher(grid.port, "acme", PASSWORD) as acme,
        publisher(grid.port, "bms", PASSWORD) as bms,
    ):
        wait_until(lambda: acme.up and bms.refused, "one is let in, the other is not")


def test_points_of_a_building_system_become_readings(grid: Grid) -> None:
    building = grid.bus.fleet.facilities[1]
    now_ms = int(time.time() * 1000)

    def tell(bms: Publisher, path: str, value: Any, quality: int = 1) -> None:
        payload = {"value": value, "timestamp": now_ms, "quality": quality}
        bms.send(f"BMS/v1/PUB/Value/{path}", json.dumps(payload).encode(), qos=0)

    def describe(bms: Publisher, path: str, unit: str) -> None:
        kind, point = path.split("/")[:2]
        payload = {
            "objectType": kind,
            "pointType": point,
            "objectName": "x",
            "objectId": "1",
            "servesId": [],
            "engUnit": unit,
        }
        bms.send(f"BMS/v1/PUB/Metadata/{path}", json.dumps(payload).encode(), retain=True)

    async def course() -> None:
        driver = BmsDriver(building, grid.bus.home, grid.bus.password)
        with publisher(grid.port, "bms", PASSWORD) as bms:
            await asyncio.to_thread(describe, bms, "PowerMeter/ActivePower/dc1/msb", "kW")
            await asyncio.to_thread(describe, bms, "Rack/RackLeakDetect/dc1/r5", "")
            await asyncio.to_thread(describe, bms, "CDU/SupplyTemperature/dc1/c1", "°F")
            assert await driver.read() == ()
            for path, value in (("PowerMeter/ActivePower/dc1/msb", 32.5), ("Rack/RackLeakDetect/dc1/r5", 0.0),
                                ("CDU/SupplyTemperature/dc1/c1", 86.0), ("Fan/Speed/dc1/f1", 3.0)):  # fmt: skip
                await asyncio.to_thread(tell, bms, path, value)
            for _ in range(200):
                found = {r.point: r for r in await driver.read()}
                if len(found) == 3:
                    break
                await asyncio.sleep(0.02)
            assert found["PowerMeter.ActivePower.dc1.msb"].value == 32_500.0
            assert found["PowerMeter.ActivePower.dc1.msb"].at_s == now_ms / 1000
            assert found["CDU.SupplyTemperature.dc1.c1"].value == pytest.approx(30.0)
            assert found["Rack.RackLeakDetect.dc1.r5"].quantity == "state"
            await asyncio.to_thread(tell, bms, "PowerMeter/ActivePower/dc1/msb", 1.0, 0)
            for _ in range(200):
                if len(await driver.read()) == 2:
                    break
                await asyncio.sleep(0.02)
            assert "PowerMeter.ActivePower.dc1.msb" not in {r.point for r in await driver.read()}
        await driver.close()

    asyncio.run(course())


def test_a_broker_that_is_not_there_is_said(tmp_path: Path) -> None:
    facility = Facility(id="b", site=SITE, driver="mqtt", url=f"mqtt://127.0.0.1:{free_port()}")

    async def once() -> None:
        driver = BmsDriver(facility, tmp_path)
        with pytest.raises(SiteError, match="mqtt b"):
            await driver.read()
        await driver.close()

    asyncio.run(once())


# --- messages and keys by themselves


@given(st.binary(max_size=300))
def test_any_bytes_are_an_envelope_or_an_error(payload: bytes) -> None:
    with contextlib.suppress(SiteError):
        envelope_of(payload)


VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["targets", "load_constraint", "value", "unit", "interval", "start_time", "feed_tags"]), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(VALUES)
def test_any_signed_payload_is_targets_that_make_sense_or_an_error(payload: Any) -> None:
    try:
        found = targets_of(
            payload if isinstance(payload, dict) else {"targets": payload}, "s", "c", "main", 5.0
        )
    except SiteError:
        return
    assert all(t.limit_kw > 0.0 and t.end_at_s > t.start_at_s for t in found)


@given(
    start=st.none() | st.sampled_from(["0001-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59.999999Z"]),
    end=st.none() | st.sampled_from(["9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999-12:00", "9999-12-31T00:00:00Z"]),
    kept_until_s=st.sampled_from([253402300799.999999, FOREVER]),
)  # fmt: skip
def test_ever_and_for_ever_are_told_in_whatever_way_they_were_written(
    start: str | None, end: str | None, kept_until_s: float
) -> None:
    target = {
        "load_constraint": {"value": 5.0, "unit": "kilowatt"},
        "interval": {"start_time": start, "end_time": end},
    }
    (found,) = targets_of({"targets": [target]}, "s", "c", "main", 5.0)
    assert found.end_at_s == FOREVER
    earlier = replace(found, start_at_s=-62135647200.0, end_at_s=kept_until_s)  # from an older disk
    told = status_data(
        feed="main",
        facts=FeedFacts(minimum_kw=1.0, maximum_kw=2.0),
        schedule=(found, earlier),
        active=found,
        watch=Watch(),
        drawn_kw=1.0,
        event="periodic",
        now_s=5.0,
    )
    assert "end_time" not in told["feeds"]["main"]["targets"][0]["interval"]


@given(
    st.floats(1e-3, 1e6),
    st.sampled_from(["watt", "kilowatt", "megawatt"]),
    st.booleans(),
    st.sampled_from([None, [], ["main"], ["other", "main"], ["other"]]),
)
def test_a_target_means_the_same_in_every_unit_and_only_for_its_feeds(
    value: float, unit: str, effort: bool, tags: Any
) -> None:
    target: dict[str, Any] = {
        "load_constraint": {"value": value, "unit": unit},
        "strategy": {"best_effort": effort},
    }
    if tags is not None:
        target["feed_tags"] = tags
    found = targets_of({"targets": [target]}, "s", "c", "main", 5.0)
    assert len(found) == (0 if tags == ["other"] else 1)
    for one in found:
        assert one.limit_kw == pytest.approx(
            value * {"watt": 1e-3, "kilowatt": 1.0, "megawatt": 1e3}[unit]
        )
        assert (one.best_effort, one.start_at_s) == (effort, 5.0)


def test_keys_of_other_kinds_are_refused_with_what_to_do(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    _, good = keys()
    (tmp_path / "good.pem").write_bytes(good)
    for key in (
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 1024),
    ):
        (tmp_path / "bad.pem").write_bytes(private_pem(key))
        facility = Facility(
            id="g",
            site="s",
            driver="dsx-flex",
            signers=(Signer(kid="k", key_file="good.pem"),),
            signing_key_file="bad.pem",
        )
        with pytest.raises(ConfigError, match="prime256v1"):
            Keyring(facility, tmp_path)
    facility = Facility(
        id="g", site="s", driver="dsx-flex", signers=(Signer(kid="k", key_file="good.pem"),)
    )
    ring = Keyring(facility, tmp_path)
    assert (
        Keyring(facility, tmp_path).sign({"a": 1}).split(".")[0]
        == ring.sign({"a": 1}).split(".")[0]
    )
    assert (tmp_path / "facility" / "g.key.pem").stat().st_mode & 0o077 == 0


def test_a_session_is_connected_once_it_hears_and_says_what_it_may_not_hear(grid: Grid) -> None:
    """By the publisher's own account, which may hear what sites say to it and nothing else."""
    facility = replace(grid.facility, url=f"mqtt://127.0.0.1:{grid.port}", listen="")

    async def told(*topics: str) -> tuple[bool, str]:
        session = MqttSession(
            facility,
            grid.bus.home,
            client_id=f"test-{len(topics)}",
            topics=[(topic, 1) for topic in topics],
            heard=lambda _topic, _payload: None,
        )
        session.start()
        try:
            await until(lambda: session.trouble != "not connected yet", "the broker has answered")
            return session.connected, session.trouble
        finally:
            await session.close()

    assert asyncio.run(told(STATUS_TOPIC)) == (True, "")
    assert asyncio.run(told("#")) == (False, "may not hear #")
    assert asyncio.run(told("#", STATUS_TOPIC)) == (True, "may not hear #")
