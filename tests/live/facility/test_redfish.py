"""The Redfish driver against a service on a real socket: both generations of the data model, sessions, limits, resets, trouble."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse.errors import ConfigError, SiteError
from hanse.live.facility.redfish import RedfishDriver
from hanse.model.fleet import Facility
from live.facility.redfish_server import ADMIN, Service, redfish_server, server_tls
from live.facility.redfish_tree import CHASSIS, SESSIONS, Machine

PASSWORD = "correct-horse-9"


class Plant:
    """A service and how a driver is told of it."""

    def __init__(self, url: str, service: Service, home: Path, ca: Path, pin: str) -> None:
        self.url, self.service, self.home, self.ca, self.pin = url, service, home, ca, pin

    @property
    def machine(self) -> Machine:
        return self.service.machine

    def facility(self, **fields: Any) -> Facility:
        base = {"id": "bmc", "site": "here", "driver": "redfish", "url": self.url}
        base |= {"user": ADMIN, "secret_file": "secret"}
        return Facility(**({"ca_file": str(self.ca)} | base | fields))

    def with_driver(self, act: Callable[[RedfishDriver], Awaitable[Any]], **fields: Any) -> Any:
        async def run() -> Any:
            driver = RedfishDriver(self.facility(**fields), self.home)
            try:
                return await act(driver)
            finally:
                await driver.close()

        return asyncio.run(run())


@pytest.fixture(params=[False, True], ids=["subsystems", "old"])
def plant(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Plant]:
    tls, ca, pin = server_tls(tmp_path)
    (tmp_path / "secret").write_text(PASSWORD + "\n")
    (tmp_path / "secret").chmod(0o600)
    with redfish_server(Machine(old=request.param), tls, PASSWORD) as (url, service):
        yield Plant(url, service, tmp_path, ca, pin)


def values(readings: Any) -> dict[str, float]:
    return {r.point: r.value for r in readings}


async def read(driver: RedfishDriver) -> dict[str, float]:
    return values(await driver.read())


def test_power_and_temperature_are_read_in_both_generations(plant: Plant) -> None:
    found = plant.with_driver(read)
    assert found["tray1.power"] == plant.machine.drawn_w == 1100.0
    if plant.machine.old:
        assert found["tray1.temp-inlet"] == 24.0
        assert found["tray1.psu-0.power"] == 401.0
        assert "tray1.temp-dimm-7" not in found  # it has no reading
    else:
        assert found["tray1.energy"] == 1_234_500.0
        assert found["node1.GPU_1.power"] == 350.0
        assert found["tray1.psu-1.voltage"] == 231.0
        assert found["tray1.temp-intake"] == 23.5
        assert found["tray1.temp-coolant"] == 33.0


def test_a_second_reading_asks_only_what_tells_something_and_in_the_same_session(
    plant: Plant,
) -> None:
    async def twice(driver: RedfishDriver) -> tuple[int, int]:
        await driver.read()
        first = len(plant.service.asked)
        await driver.read()
        return first, len(plant.service.asked) - first

    first, second = plant.with_driver(twice)
    assert second < first / 2
    assert [a for a in plant.service.asked if a == ("POST", SESSIONS)] == [("POST", SESSIONS)]
    assert plant.machine.tree[SESSIONS]["Members"] == []  # and it was ended


def test_a_limit_is_set_read_back_and_lifted(plant: Plant) -> None:
    async def cap(driver: RedfishDriver) -> Any:
        down = await driver.cap(900.0)
        told = await read(driver)
        return down, told, await driver.cap(None)

    down, told, up = plant.with_driver(cap)
    assert [(c.limit_w, c.asked_w, c.held) for c in down] == [(900.0, 900.0, True)]
    assert told["tray1.limit"] == 900.0
    assert [(c.limit_w, c.held) for c in up] == [(None, True)]
    assert plant.machine.chassis_limit_w is None


def test_a_limit_below_what_the_device_bears_becomes_its_least(plant: Plant) -> None:
    if plant.machine.old:
        pytest.skip("an old service tells no bounds")
    (cap,) = plant.with_driver(lambda driver: driver.cap(10.0))
    assert (cap.limit_w, cap.asked_w) == (300.0, 300.0)


def test_a_service_that_insists_on_etags_is_obeyed(plant: Plant) -> None:
    plant.service.needs_etag = True
    (cap,) = plant.with_driver(lambda driver: driver.cap(800.0))
    assert cap.held


def test_gpus_are_limited_where_the_chassis_cannot_be(plant: Plant) -> None:
    if plant.machine.old:
        pytest.skip("an old service has no limits of processors")
    del plant.machine.tree[CHASSIS]["EnvironmentMetrics"]
    caps = plant.with_driver(lambda driver: driver.cap(600.0))
    assert [(c.point, c.limit_w) for c in caps] == [
        ("node1.GPU_0.limit", 300.0),
        ("node1.GPU_1.limit", 300.0),
    ]
    assert plant.machine.drawn_w == 400.0 + 600.0


def test_a_dead_node_is_reset_out_of_band(plant: Plant) -> None:
    plant.with_driver(lambda driver: driver.reset("node1", "ForceRestart"))
    plant.with_driver(lambda driver: driver.reset("", "PowerCycle"))
    assert plant.machine.resets == ["ForceRestart", "PowerCycle"]
    with pytest.raises(SiteError, match="one of node1"):
        plant.with_driver(lambda driver: driver.reset("node9", "ForceRestart"))


def test_a_session_that_ended_is_begun_anew(plant: Plant) -> None:
    async def across(driver: RedfishDriver) -> dict[str, float]:
        await driver.read()
        plant.service.tokens.clear()
        return await read(driver)

    assert plant.with_driver(across)["tray1.power"] == 1100.0


def test_only_the_pinned_certificate_is_spoken_to(plant: Plant) -> None:
    pinned = plant.with_driver(read, ca_file="", fingerprint_sha256=plant.pin)
    assert pinned["tray1.power"] == 1100.0
    asked = len(plant.service.asked)
    with pytest.raises(SiteError, match="fingerprint"):
        plant.with_driver(read, ca_file="", fingerprint_sha256="0" * 64)
    assert len(plant.service.asked) == asked  # the password never left
    with pytest.raises(SiteError, match="certificate verify failed"):
        plant.with_driver(read, ca_file="")


def test_trouble_is_said_with_what_to_do_and_without_the_secret(plant: Plant) -> None:
    (plant.home / "secret").write_text("wrong-password")
    with pytest.raises(SiteError, match=r"401.*To fix: correct user and secret") as caught:
        plant.with_driver(read)
    assert "wrong-password" not in str(caught.value)
    (plant.home / "secret").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        plant.with_driver(read)
    (plant.home / "secret").chmod(0o600)
    (plant.home / "secret").write_text(PASSWORD)
    for trouble, told in (("busy", "503"), ("mute", "closed before|reset by peer|ended")):
        plant.service.trouble = trouble
        with pytest.raises(SiteError, match=told):
            plant.with_driver(read)


def test_a_reader_may_not_change_limits_and_hears_why(plant: Plant) -> None:
    account = plant.machine.account("guest", "ReadOnly")
    plant.service.passwords[account] = PASSWORD
    assert plant.with_driver(read, user="guest")["tray1.power"] == 1100.0
    with pytest.raises(SiteError, match=r"403.*Administrator"):
        plant.with_driver(lambda driver: driver.cap(900.0), user="guest")


def test_a_link_to_another_host_is_not_followed(plant: Plant) -> None:
    name = "Power" if plant.machine.old else "EnvironmentMetrics"
    plant.machine.tree[CHASSIS][name] = {"@odata.id": "//elsewhere.test.invalid/redfish/v1/x"}
    assert "tray1.power" not in plant.with_driver(read)
