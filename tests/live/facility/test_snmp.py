"""The SNMP driver against stock recordings of real UPSes and PDUs, played by snmpsim on a real socket, v2c and v3."""

from __future__ import annotations

import asyncio
import bz2
import contextlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse.errors import ConfigError, SiteError
from hanse.live.facility.snmp import SnmpDriver
from hanse.model.fleet import Facility, Oid

RECORDINGS = ("apc-8641.snmprec", "apc-7902b.snmprec", "apc-8932.snmprec", "eaton-93e-80.snmprec.bz2",
              "huawei-gse200m.snmprec.bz2", "phoenixtec-power.snmprec.bz2", "eastpower-istars-swv053.snmprec.bz2")  # fmt: skip
START_S_MAX = 60.0
V3 = ("observer", "authentic-phrase", "private-phrase")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """URL of the simulator, and the folder of the driver's secrets; a recording's name is its community."""
    for package in ("snmpsim", "snmpsim_data", "pysnmp"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install snmpsim snmpsim-data pysnmp")
    with warnings.catch_warnings():  # pysmi warns of its own old names
        warnings.simplefilter("ignore", DeprecationWarning)
        importlib.import_module("pysnmp.hlapi.v3arch.asyncio")
    import snmpsim_data

    home = tmp_path_factory.mktemp("snmp")
    (home / "data").mkdir()
    source = Path(snmpsim_data.__path__[0]) / "data" / "UPS"
    for name in RECORDINGS:
        content = (source / name).read_bytes()
        content = bz2.decompress(content) if name.endswith(".bz2") else content
        (home / "data" / name.removesuffix(".bz2")).write_bytes(content)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-W", "ignore", "-m", "snmpsim.commands.responder"]
    command += ["--cache-dir", str(home / "cache"), "--logging-method", "null"]
    if os.geteuid() == 0:  # it gives up root's rights otherwise, and with them this interpreter
        command += ["--process-user", "root", "--process-group", "root"]
    command += ["--v3-engine-id", "auto", "--data-dir", str(home / "data")]
    command += ["--agent-udpv4-endpoint", f"127.0.0.1:{port}"]
    command += ["--v3-user", V3[0], "--v3-auth-key", V3[1], "--v3-auth-proto", "SHA256"]
    command += ["--v3-priv-key", V3[2], "--v3-priv-proto", "AES"]
    environment = {**os.environ, "HOME": str(home)}
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    url = f"snmp://127.0.0.1:{port}"
    try:
        until_s = time.monotonic() + START_S_MAX
        while True:
            with contextlib.suppress(SiteError):
                if read(url, home, "apc-8641", "apc-pdu"):
                    break
            assert process.poll() is None, process.stderr and process.stderr.read()
            assert time.monotonic() < until_s, "snmpsim does not answer"
        yield url, home
    finally:
        process.terminate()
        process.communicate()


def read(url: str, home: Path, community: str, profile: str, **fields: Any) -> dict[str, float]:
    (home / "secret").write_text(community)
    (home / "secret").chmod(0o600)
    base = {
        "id": "device",
        "site": "here",
        "driver": "snmp",
        "url": url,
        "secret_file": "secret",
        "profile": profile,
    }
    facility = Facility(**(base | fields))

    async def once() -> dict[str, float]:
        driver = SnmpDriver(facility, home)
        try:
            return {r.point: r.value for r in await driver.read()}
        finally:
            await driver.close()

    return asyncio.run(once())


def test_a_ups_tells_its_load_line_by_line_and_its_battery(agent: tuple[str, Path]) -> None:
    found = read(*agent, "eaton-93e-80", "ups-mib")
    assert found["output.power"] == 5100 + 3600 + 2700
    assert found["output-2.current"] == 18.0
    assert found["input-3.voltage"] == 233.0
    assert found["battery.charge"] == 1.0
    assert found["battery.voltage"] == 521.0
    assert found["battery.temp"] == 25.0
    assert found["output.on-battery"] == found["battery.low"] == 0.0
    assert "input.power" not in found  # its card fills that column with zeros


@pytest.mark.parametrize("name", ["huawei-gse200m", "phoenixtec-power", "eastpower-istars-swv053"])
def test_other_makers_upses_make_sense_too(agent: tuple[str, Path], name: str) -> None:
    found = read(*agent, name, "ups-mib")
    assert 0.0 <= found.get("battery.charge", 0.0) <= 1.0  # one has its battery in another unit
    assert found["output.on-battery"] in (0.0, 1.0)
    assert all(-40.0 < v < 90.0 for p, v in found.items() if p.endswith("temp"))
    assert all(0.0 <= v < 600_000.0 for p, v in found.items() if p.endswith("power"))
    assert all(
        v < 600.0
        for p, v in found.items()
        if p.startswith(("input-", "output-")) and "voltage" in p and name != "huawei-gse200m"
    )  # which tells tenths of a volt, against RFC 1628: what an `oid` with its own scale is for


def test_a_pdu_of_today_tells_power_energy_and_phases(agent: tuple[str, Path]) -> None:
    found = read(*agent, "apc-8641", "apc-pdu")
    assert found["device-1.power"] == 1210.0
    assert found["device-1.energy"] == 1_951_600.0
    assert (found["phase-1.voltage"], found["phase-1.current"]) == (201.0, 6.5)
    assert found["phase-1.power"] == pytest.approx(1220.0)
    assert not [p for p in found if p.startswith("sensor")]  # none is plugged in: -1


def test_an_older_pdu_falls_back_on_its_single_figure(agent: tuple[str, Path]) -> None:
    assert read(*agent, "apc-7902b", "apc-pdu")["device-1.power"] == 192.0


def test_single_objects_need_no_profile(agent: tuple[str, Path]) -> None:
    oid = Oid(
        point="load", quantity="current_a", oid="1.3.6.1.4.1.318.1.1.12.2.3.1.1.2.1", scale=0.1
    )
    missing = Oid(point="nothing", quantity="power_w", oid="1.3.6.1.4.1.318.9.9.9.0")
    assert read(*agent, "apc-8932", "", oids=(oid, missing)) == {"load": pytest.approx(1.4)}


def test_version_3_speaks_with_authentication_and_privacy(agent: tuple[str, Path]) -> None:
    url, home = agent
    v3 = {"version": "3", "user": V3[0], "context": "apc-8641"}
    secret = f"{V3[1]}\n{V3[2]}\n"
    assert read(url, home, secret, "apc-pdu", **v3)["device-1.power"] == 1210.0
    with pytest.raises(SiteError, match=r"(?i)digest|authent"):
        read(url, home, f"wrong-phrase-1\n{V3[2]}", "apc-pdu", **v3)
    with pytest.raises(ConfigError, match="two lines"):
        read(url, home, "one", "apc-pdu", **v3)


def test_an_agent_that_does_not_answer_is_said_with_what_to_look_at(
    agent: tuple[str, Path],
) -> None:
    _, home = agent
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        with pytest.raises(SiteError, match=r"No SNMP response.*community or user"):
            read(f"snmp://127.0.0.1:{mute.getsockname()[1]}", home, "public", "ups-mib")
