"""A site's plant as its agent keeps it: real devices on sockets that fail, come back, are limited and reset."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hanse.dispatch.load_targets import LoadTarget
from hanse.live.facility import keeper
from hanse.live.facility.exposition import FILE, FRESH_S, fresh_text
from hanse.live.facility.keeper import CAPS, PlantKeeper
from hanse.live.facility.resets import AGAIN_S, DEAD_S
from hanse.model.fleet import Facility, Fleet, PlantMeter, Register, Weights
from hanse.model.read import read_fleet
from hanse.view import EngineStatus, PowerStatus, SiteStatus
from live.facility.redfish_server import ADMIN, Service, redfish_server
from live.facility.redfish_tree import Machine
from ports import free_port

pytest.importorskip("pymodbus", reason="pip install pymodbus")
from live.facility.modbus_server import modbus_server

LEAGUE = read_fleet(Path(__file__).parents[3] / "examples/league.toml")
SITE = "frankfurt"
BASE_KW = next(s.power.base_kw for s in LEAGUE.sites if s.id == SITE)
PASSWORD = "correct-horse-9"


def bmc(name: str, url: str, **fields: Any) -> Facility:
    base = {
        "id": name,
        "site": SITE,
        "driver": "redfish",
        "url": url,
        "user": ADMIN,
        "secret_file": "secret",
        "every_s": 0.2,
    }
    return Facility(**(base | fields))


def it_meter(name: str) -> PlantMeter:
    return PlantMeter(
        id=f"{name}-it", site=SITE, facility=name, point="tray1.power", energy_point="tray1.energy",
        measures="it", error_share=0.03,
    )  # fmt: skip


def power(**fields: Any) -> PowerStatus:
    base = {"it_kw": 1.0, "pue": 1.25, "pv_kw": 0.0, "wind_kw": 0.0, "import_kw": 2.0, "export_kw": 0.0,
            "carbon_g_per_kwh": 300.0, "price_usd_per_kwh": 0.2, "sources": (), "drawn_kw": 5.0, "available_kw": 50.0}  # fmt: skip
    return PowerStatus(**(base | fields))


def status(*engines: EngineStatus, **fields: Any) -> SiteStatus:
    base = {"site": SITE, "at_s": time.time(), "epoch": 1, "table_version": 1, "hub_connected": True,
            "engines": engines, "gateway_workers": 1, "running": 0.0, "waiting": 0.0, "power": power()}  # fmt: skip
    return SiteStatus(**(base | fields))


class Plant:
    """A keeper of some facilities, running while `act` looks."""

    def __init__(self, home: Path, facilities: list[Facility], meters: list[PlantMeter]) -> None:
        (home / "secret").write_text(PASSWORD)
        (home / "secret").chmod(0o600)
        self.home = home
        self.fleet: Fleet = msgspec.structs.replace(
            LEAGUE, facilities=tuple(facilities), meters=tuple(meters)
        )
        self.targets: list[tuple[LoadTarget, ...]] = []

    def run(
        self,
        act: Callable[[PlantKeeper], Awaitable[None]],
        *,
        after: PlantKeeper | None = None,
    ) -> None:
        """`after`: the keeper whose fleet was in force until now."""

        async def whole() -> None:
            keeper = PlantKeeper(self.fleet, SITE, self.home, "own", self.targets.append)
            if after is not None:
                keeper.go_on_from(after)
            running = asyncio.create_task(keeper.run())
            try:
                await act(keeper)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(whole())


async def until(holds: Callable[[], Any], what: str, within_s: float = 20.0) -> Any:
    until_s = time.monotonic() + within_s
    while not (found := holds()):
        assert time.monotonic() < until_s, f"not within {within_s:.0f} s: {what}"
        await asyncio.sleep(0.02)
    return found


def states(keeper: PlantKeeper) -> dict[str, str]:
    return {s.id: s.state for s in keeper.statuses(time.time())}


def test_a_device_that_fails_delays_nobody_is_said_and_comes_back(tmp_path: Path) -> None:
    register = Register(point="power", quantity="power_w", address=0)
    with ExitStack() as stack:
        url, service = stack.enter_context(redfish_server(Machine(), password=PASSWORD))
        modbus, _ = stack.enter_context(modbus_server({0: 7000}))
        meter = Facility(
            id="pv", site=SITE, driver="modbus", url=modbus, registers=(register,), every_s=0.2
        )
        gone = Facility(
            id="gone",
            site=SITE,
            driver="modbus",
            url=f"modbus://127.0.0.1:{free_port()}",
            registers=(register,),
            every_s=0.2,
        )
        wrong = bmc("wrong", url, ca_file="no-such-file.pem")
        pv = PlantMeter(
            id="pv", site=SITE, facility="pv", point="power", measures="pv", stale_s=1.0
        )
        stale = msgspec.structs.replace(it_meter("bmc"), stale_s=1.0)
        plant = Plant(tmp_path, [bmc("bmc", url), meter, gone, wrong], [pv, stale])

        async def course(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.measured(time.time()).it, "the BMC is read")
            found = keeper.measured(time.time())
            assert found.it is not None
            assert found.it.w == 1100.0
            assert found.pv is not None
            assert found.pv.w == 7000.0
            await until(
                lambda: (
                    states(keeper)
                    == {"bmc": "up", "pv": "up", "gone": "failing", "wrong": "unusable"}
                ),
                "each is as it is",
            )
            told = {s.id: s for s in keeper.statuses(time.time())}
            assert "no-such-file.pem" in told["wrong"].why
            assert "modbus gone" in told["gone"].why
            service.trouble = "busy"
            await until(lambda: keeper.measured(time.time()).it is None, "its readings are old")
            assert keeper.measured(time.time()).stale == ("bmc-it",)
            assert keeper.measured(time.time()).pv is not None
            assert "503" in {s.id: s for s in keeper.statuses(time.time())}["bmc"].why
            service.trouble = ""
            await until(lambda: keeper.measured(time.time()).it, "it is back")
            await until(lambda: states(keeper)["bmc"] == "up", "and said so")
            now_s = time.time()
            keeper.look(status(facilities=keeper.statuses(now_s)), (), (), now_s)
            text = (tmp_path / FILE).read_text()
            assert 'hanse_facility_up{site="frankfurt",facility="gone",driver="modbus"} 0' in text
            assert (
                'hanse_facility_power_watts{site="frankfurt",facility="pv",point="power"} 7000'
                in text
            )
            assert (
                'hanse_meter_error_ratio{site="frankfurt",meter="bmc-it",measures="it"} 0.03'
                in text
            )

        plant.run(course)
    assert fresh_text(tmp_path, time.time()) != b""
    assert fresh_text(tmp_path, time.time() + FRESH_S + 1) == b""


def test_a_bound_limits_devices_in_the_proportion_of_their_draw_and_is_lifted(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        machines = [Machine(), Machine()]
        machines[1].idle_w = 2600.0  # draws 3300 W to the other's 1100 W
        made = [stack.enter_context(redfish_server(m, password=PASSWORD)) for m in machines]
        facilities = [bmc(f"bmc-{i}", url, caps_power=True) for i, (url, _) in enumerate(made)]
        facilities.append(bmc("watched", made[0][0]))
        plant = Plant(tmp_path, facilities, [it_meter("bmc-0"), it_meter("bmc-1")])
        services: list[Service] = [service for _, service in made]

        async def course(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.measured(time.time()).it, "all are read")
            keeper.look(status(), (), (), time.time())
            keeper.cap(BASE_KW + 4.0)  # at a PUE of 1.25 that leaves 3.2 kW to IT
            await until(lambda: all(m.chassis_limit_w for m in machines), "both are limited")
            assert [m.chassis_limit_w for m in machines] == [800.0, 2400.0]

            def caps() -> dict[str, float | None]:
                return {s.id: s.cap_w for s in keeper.statuses(time.time())}

            wanted = {"bmc-0": 800.0, "bmc-1": 2400.0, "watched": None}
            await until(lambda: caps() == wanted, "what they hold was read back")
            patched = [sum(m == "PATCH" for m, _ in s.asked) for s in services]
            await asyncio.sleep(0.8)
            assert [
                sum(m == "PATCH" for m, _ in s.asked) for s in services
            ] == patched  # once is enough
            services[0].trouble = "busy"
            await until(lambda: states(keeper)["bmc-0"] == "failing", "one is away")
            machines[0].chassis_limit_w = None  # it came back from a power cycle
            services[0].trouble = ""
            await until(lambda: machines[0].chassis_limit_w, "what it forgot is set again")
            keeper.cap(None)
            await until(lambda: not any(m.chassis_limit_w for m in machines), "both are free")
            await until(lambda: set(caps().values()) == {None}, "and that was read back")

        plant.run(course)


def test_a_limit_outlives_no_bound_when_the_agent_restarts_or_the_device_is_limited_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    with redfish_server(machine, password=PASSWORD) as (url, service):
        limited = Plant(tmp_path, [bmc("bmc", url, caps_power=True)], [it_meter("bmc")])
        watched = Plant(tmp_path, [bmc("bmc", url)], [it_meter("bmc")])

        async def limit(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.measured(time.time()).it, "it is read")
            keeper.cap(BASE_KW + 0.8)
            await until(lambda: keeper.statuses(time.time())[0].cap_w == 800.0, "it is limited")

        async def start_anew(keeper: PlantKeeper) -> None:
            asked = len(service.asked)
            await until(lambda: len(service.asked) > asked + 20, "it is read several times")
            assert machine.chassis_limit_w == 800.0, "the site may be about to say its bound"
            keeper.cap(BASE_KW + 0.8)
            await until(lambda: keeper.statuses(time.time())[0].cap_w == 800.0, "and has said it")

        async def lift(_keeper: PlantKeeper) -> None:
            await until(lambda: machine.chassis_limit_w is None, "it is lifted")

        limited.run(limit)
        limited.run(start_anew)
        monkeypatch.setattr(keeper, "BOUND_UNKNOWN_S", 0.0)
        limited.run(lift)
        limited.run(limit)
        watched.run(lift)

        async def change(keeper: PlantKeeper) -> None:
            await limit(keeper)
            after = PlantKeeper(watched.fleet, SITE, tmp_path / "other", "own", print)
            after.go_on_from(keeper)
            assert [d.capped_kw for d in after._devices] == [BASE_KW + 0.8]

        limited.run(change)


def test_a_device_that_leaves_the_fleet_is_freed_of_its_limit(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    machine = Machine()
    with redfish_server(machine, password=PASSWORD) as (url, service):
        limited = Plant(tmp_path, [bmc("bmc", url, caps_power=True)], [it_meter("bmc")])
        without = Plant(tmp_path, [], [])
        kept: list[PlantKeeper] = []

        async def limit(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.measured(time.time()).it, "it is read")
            keeper.cap(BASE_KW + 0.8)
            await until(lambda: machine.chassis_limit_w == 800.0, "it is limited")
            await until(lambda: keeper.statuses(time.time())[0].cap_w == 800.0, "and known to be")
            kept.append(keeper)

        async def free(keeper: PlantKeeper) -> None:
            asked = len(service.asked)
            await until(lambda: len(service.asked) > asked, "it is told, but busy")
            assert machine.chassis_limit_w == 800.0 and states(keeper) == {}
            service.trouble = ""
            await until(lambda: machine.chassis_limit_w is None, "it is lifted")
            await until(lambda: not keeper._kept(CAPS, dict[str, float]), "and noted")

        limited.run(limit)
        service.trouble = "busy"
        without.run(free, after=kept[-1])
        assert "only its device can lift" not in capfd.readouterr().err
        limited.run(limit)
        without.run(lambda _keeper: asyncio.sleep(0.1))
        assert "bmc: gone with a power limit" in capfd.readouterr().err


def test_a_node_whose_engines_stay_dead_is_reset_and_counted_also_over_restarts(
    tmp_path: Path,
) -> None:
    dead = EngineStatus(name="chat-q8-0", service="chat", variant="q8", state="failing", pool="cpu")
    machine = Machine()
    began_s = time.time()
    with redfish_server(machine, password=PASSWORD) as (url, _):
        plant = Plant(tmp_path, [bmc("bmc", url, resets=("cpu",))], [])

        def look(keeper: PlantKeeper, after_s: float) -> None:
            keeper._steady_s = lambda: after_s  # type: ignore[method-assign]
            keeper.look(status(dead), (), (), began_s + after_s)

        async def course(keeper: PlantKeeper) -> None:
            look(keeper, 0.0)
            look(keeper, DEAD_S - 1)
            assert machine.resets == []
            look(keeper, DEAD_S)
            await until(lambda: machine.resets, "the node is reset")
            look(keeper, DEAD_S + 60)
            await asyncio.sleep(0.3)
            assert machine.resets == ["ForceRestart"]
            assert 'resets_total{site="frankfurt"} 1' in (tmp_path / FILE).read_text()

        async def again(keeper: PlantKeeper) -> None:
            look(keeper, DEAD_S + 61)
            look(keeper, 3 * DEAD_S)
            follower = PlantKeeper(plant.fleet, SITE, tmp_path / "other", "own", print)
            follower.go_on_from(keeper)  # as at another fleet
            look(follower, 4 * DEAD_S)
            await asyncio.sleep(0.3)
            assert machine.resets == ["ForceRestart"], "it was reset just now"
            look(keeper, DEAD_S + AGAIN_S + 1)
            await until(lambda: len(machine.resets) == 2, "half an hour later it is reset again")

        plant.run(course)
        plant.run(again)


def test_what_a_part_of_the_plant_trips_over_costs_nothing_but_that_part(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    class Broken:
        name = "grid"

        def look(self, drawn: object, now_s: float) -> None:
            raise ValueError("year 10000 is out of range")

        async def start(self) -> None: ...

        async def close(self) -> None: ...

    async def course(keeper: PlantKeeper) -> None:
        monkeypatch.setattr(keeper, "_flex", Broken())
        for second in range(3):
            keeper.look(status(), (), (), time.time() + second)
        assert "resets_total" in (tmp_path / FILE).read_text()
        said = capfd.readouterr()
        assert (said.out + said.err).count("year 10000") == 1

    Plant(tmp_path, [], []).run(course)


def test_a_library_that_is_missing_makes_its_device_unusable_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in [n for n in sys.modules if n.split(".")[0] in ("pysnmp", "pynvml")]:
        monkeypatch.delitem(sys.modules, name)
    for package in ("pysnmp", "pynvml"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    unusable = [
        Facility(id="ups", site=SITE, driver="snmp", url="snmp://127.0.0.1", profile="ups-mib"),
        Facility(id="gpus", site=SITE, driver="nvml"),
    ]
    plant = Plant(tmp_path, unusable, [])

    async def course(keeper: PlantKeeper) -> None:
        assert set(states(keeper).values()) == {"unusable"}
        for one in keeper.statuses(time.time()):
            assert "pip install 'hanse[facility]'" in one.why

    plant.run(course)


def test_accounts_go_on_after_a_restart_by_the_devices_own_counter(tmp_path: Path) -> None:
    machine = Machine()
    with redfish_server(machine, password=PASSWORD) as (url, _):
        plant = Plant(tmp_path, [bmc("bmc", url)], [it_meter("bmc")])

        async def first(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.readings, "the BMC is read")
            keeper.look(status(), (), (), time.time())
            assert keeper.accounts[0].wh == 0.0

        plant.run(first)
        machine.energy_kwh += 0.25  # while no agent looked

        async def second(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.accounts[0].wh >= 250.0, "the counter's difference is taken")
            assert keeper.accounts[0].wh == pytest.approx(250.0)
            assert keeper.accounts[0].counted_wh == pytest.approx(250.0)

        plant.run(second)
        (tmp_path / "meters.msgpack").write_bytes(b"\xc1 not msgpack")

        async def third(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.readings, "the BMC is read")
            assert keeper.accounts[0].wh == 0.0

        plant.run(third)


def test_people_see_devices_and_the_names_of_readings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hanse.cli import app
    from hanse.live.runtime import StateDir, plan_runtime

    state = StateDir(tmp_path / "state")
    state.make((SITE,), hub=False)
    state.write_runtime(plan_runtime(LEAGUE, state.path, only_site=SITE))
    arguments = ["facility", SITE, "--state", str(state.path)]

    def run(*more: str) -> Any:
        return app([*arguments, *more], exit_on_error=False, result_action="return_value")

    assert run() == 1
    with redfish_server(Machine(), password=PASSWORD) as (url, _):
        plant = Plant(state.site(SITE), [bmc("bmc", url)], [])

        async def course(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.readings, "the BMC is read")
            keeper.look(status(), (), (), time.time())

        plant.run(course)
    capsys.readouterr()
    assert run() == 0
    shown = capsys.readouterr().out
    assert "tray1.power" in shown
    assert "1100 W" in shown
    assert run("--json") == 0
    told = msgspec.json.decode(capsys.readouterr().out)[SITE]
    assert told["facilities"][0]["state"] == "up"
    assert {r["point"] for r in told["readings"]["bmc"]} >= {"tray1.power", "node1.GPU_0.power"}


def test_another_fleet_with_other_devices_is_followed_and_what_is_the_same_goes_on(
    tmp_path: Path,
) -> None:
    """As an agent does when a fleet changes: one keeper ends, the next goes on from what it knew."""
    register = Register(point="power", quantity="power_w", address=0)
    with ExitStack() as stack:
        first, _ = stack.enter_context(modbus_server({0: 7000}))
        second, _ = stack.enter_context(modbus_server({0: 900}))
        pv = Facility(id="pv", site=SITE, driver="modbus", url=first, registers=(register,), every_s=0.2)  # fmt: skip
        wind = msgspec.structs.replace(pv, id="wind", url=second)
        meter = PlantMeter(id="pv", site=SITE, facility="pv", point="power", measures="pv")
        other = msgspec.structs.replace(meter, id="wind", facility="wind", measures="wind")
        plant = Plant(tmp_path, [pv], [meter])
        fleet = msgspec.structs.replace(plant.fleet, facilities=(pv, wind), meters=(meter, other))

        async def course(keeper: PlantKeeper) -> None:
            await until(lambda: keeper.measured(time.time()).pv, "the sun is read")
            await until(lambda: keeper.accounts[0].wh > 0.0, "and counted")
            priced = msgspec.structs.replace(plant.fleet, weights=Weights(usd_per_tonne_co2e=1.0))
            assert keeper.follow(priced), "a price needs no other devices"
            assert not keeper.follow(fleet)
            keeper.keep_accounts()
            next_one = PlantKeeper(fleet, SITE, tmp_path, "own", plant.targets.append)
            next_one.go_on_from(keeper)
            assert next_one.measured(time.time()).pv, "nothing is forgotten meanwhile"
            assert next_one.accounts[0].wh == pytest.approx(keeper.accounts[0].wh)
            running = asyncio.create_task(next_one.run())
            try:
                found = await until(lambda: next_one.measured(time.time()).wind, "the wind too")
                assert found.w == pytest.approx(900.0)
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        plant.run(course)


def test_what_a_site_is_asked_to_draw_at_most_is_told_for_two_days(tmp_path: Path) -> None:
    def target(name: str, kw: float, from_s: float, until_s: float) -> LoadTarget:
        return LoadTarget(id=name, source="iso", limit_kw=kw, start_at_s=from_s, end_at_s=until_s)

    plant, day_s, now_s = Plant(tmp_path, [], []), 86_400.0, time.time()

    async def course(keeper: PlantKeeper) -> None:
        assert keeper.load_bounds(now_s) == ()
        soon, late = target("soon", 7.0, now_s + 60.0, now_s + 120.0), day_s * 3.0 + now_s
        keeper._take("grid", (soon, target("late", 5.0, late, late + 60.0)))
        assert keeper.load_bounds(now_s) == ((now_s + 60.0, now_s + 120.0, 7.0),)
        assert keeper.load_bounds(now_s + 90.0) == ((now_s + 90.0, now_s + 120.0, 7.0),)
        assert keeper.load_bounds(now_s + 2.0 * day_s) == ((late, late + 60.0, 5.0),)

    plant.run(course)
