"""GPUs: dcgm-exporter's page over a real socket, and NVML where this machine has it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError, SiteError
from hanse.live.facility.dcgm import DcgmDriver, gpu_readings
from hanse.live.facility.nvml import NvmlDriver
from hanse.live.facility.readings import needed
from hanse.model.fleet import Facility

LABELS = 'gpu="{gpu}",UUID="GPU-{gpu}",pci_bus_id="00000000:0{gpu}:00.0",device="nvidia{gpu}",modelName="NVIDIA H100 80GB HBM3",{host}="node1"'
BLANK = "9223372036854775794"


def page(host: str = "hostname", mig: bool = False) -> str:
    lines = [
        "# HELP DCGM_FI_DEV_POWER_USAGE Power draw (in W).",
        "# TYPE DCGM_FI_DEV_POWER_USAGE gauge",
    ]
    for gpu, watts in ((0, 412.3), (1, 388.0)):
        labels = LABELS.format(gpu=gpu, host=host)
        for instance in (3, 5) if mig else (None,):
            more = "" if instance is None else f',GPU_I_ID="{instance}",GPU_I_PROFILE="3g.40gb"'
            lines.append(f"DCGM_FI_DEV_POWER_USAGE{{{labels}{more}}} {watts}")
    lines += ["# TYPE DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION counter"]
    lines += [
        f"DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION{{{LABELS.format(gpu=0, host=host)}}} 7200000000"
    ]
    lines += ["# TYPE DCGM_FI_DEV_MEMORY_TEMP gauge"]
    lines += [f"DCGM_FI_DEV_MEMORY_TEMP{{{LABELS.format(gpu=0, host=host)}}} {BLANK}"]
    lines += ["# TYPE DCGM_FI_DEV_GPU_TEMP gauge"]
    lines += [f"DCGM_FI_DEV_GPU_TEMP{{{LABELS.format(gpu=1, host=host)}}} 2147483632"]
    lines += [
        "# TYPE DCGM_FI_DEV_SM_CLOCK gauge",
        f"DCGM_FI_DEV_SM_CLOCK{{{LABELS.format(gpu=1, host=host)}}} 1980",
    ]
    return "\n".join(lines) + "\n"


EXPECTED = {"gpu-0.power": 412.3, "gpu-1.power": 388.0, "gpu-0.energy": 2000.0}


@pytest.mark.parametrize("host", ["hostname", "Hostname"])
@pytest.mark.parametrize("mig", [False, True])
def test_gpus_are_read_once_each_and_blanks_are_nothing(host: str, mig: bool) -> None:
    found = {r.point: r.value for r in gpu_readings(page(host, mig), 5.0)}
    assert found == pytest.approx(EXPECTED)


def test_gpus_of_two_hosts_on_one_page_keep_apart() -> None:
    other = page().replace('hostname="node1"', 'hostname="node2"').replace("412.3", "100")
    both = page() + "".join(line + "\n" for line in other.splitlines() if not line.startswith("#"))
    found = {r.point: r.value for r in gpu_readings(both, 5.0)}
    assert (found["node1.gpu-0.power"], found["node2.gpu-0.power"]) == (412.3, 100.0)


@given(st.text(max_size=400))
def test_a_page_of_anything_is_readings_or_a_value_error(text: str) -> None:
    with contextlib.suppress(ValueError, KeyError, IndexError):
        gpu_readings(text, 0.0)


@pytest.fixture
def exporter() -> Iterator[tuple[str, dict[str, Any]]]:
    told: dict[str, Any] = {"status": 200, "body": page(), "asked": []}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            told["asked"].append((self.path, self.headers.get("Authorization", "")))
            body = told["body"].encode()
            self.send_response(told["status"])
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (body[:100], body[100:]):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part) if part else b"")
            self.wfile.write(b"0\r\n\r\n")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", told
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_exporter_is_asked_over_http_and_its_trouble_is_said(
    exporter: tuple[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, told = exporter
    monkeypatch.setenv("EXPORTER", "s3cret")
    facility = Facility(id="gpus", site="here", driver="dcgm", url=url, secret_env="EXPORTER")

    async def read() -> dict[str, float]:
        driver = DcgmDriver(facility, Path())
        try:
            await driver.read()
            return {r.point: r.value for r in await driver.read()}
        finally:
            await driver.close()

    assert asyncio.run(read()) == pytest.approx(EXPECTED)
    assert told["asked"] == [("/metrics", "Bearer s3cret")] * 2
    told["body"] = "# nothing\n"
    with pytest.raises(SiteError, match="no GPU"):
        asyncio.run(read())
    told["status"] = 500
    with pytest.raises(SiteError, match="500"):
        asyncio.run(read())


class Nvml:
    """NVML's calls with two GPUs behind them: what its reference says of units, ranges and refusals."""

    class NVMLError(Exception):
        pass

    class NVMLError_NotSupported(NVMLError):  # noqa: N801
        pass

    class NVMLError_NoPermission(NVMLError):  # noqa: N801
        pass

    def __init__(self) -> None:
        self.limits_mw = [700_000, 700_000]
        self.root = True

    def nvmlInit(self) -> None: ...

    def nvmlShutdown(self) -> None: ...

    def nvmlDeviceGetCount(self) -> int:
        return len(self.limits_mw)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return min(412_300, self.limits_mw[gpu])

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:
        if gpu:
            raise self.NVMLError_NotSupported
        return 3_600_000_000

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> int:
        return 61

    def nvmlDeviceGetPowerManagementLimit(self, gpu: int) -> int:
        return self.limits_mw[gpu]

    def nvmlDeviceGetPowerManagementDefaultLimit(self, gpu: int) -> int:
        return 700_000

    def nvmlDeviceGetPowerManagementLimitConstraints(self, gpu: int) -> list[int]:
        return [200_000, 700_000]

    def nvmlDeviceSetPowerManagementLimit(self, gpu: int, limit_mw: int) -> None:
        if not self.root:
            raise self.NVMLError_NoPermission("Insufficient Permissions")
        self.limits_mw[gpu] = limit_mw


NVML = Facility(id="gpus", site="here", driver="nvml")


def test_nvml_is_read_limited_and_lifted() -> None:
    api = Nvml()
    driver = NvmlDriver(NVML, Path(), api)
    found = {r.point: r.value for r in asyncio.run(driver.read())}
    assert found["gpu-1.power"] == pytest.approx(412.3)
    assert found["gpu-0.energy"] == pytest.approx(1000.0)
    assert "gpu-1.energy" not in found
    caps = asyncio.run(driver.cap(600.0))
    assert [(c.limit_w, c.held) for c in caps] == [(300.0, True), (300.0, True)]
    low = asyncio.run(driver.cap(10.0))
    assert [(c.limit_w, c.asked_w) for c in low] == [(200.0, 200.0)] * 2
    assert all(c.held and c.limit_w is None for c in asyncio.run(driver.cap(None)))
    api.root = False
    with pytest.raises(SiteError, match="caps_power"):
        asyncio.run(driver.cap(600.0))


def test_a_call_that_hangs_costs_one_thread_and_none_of_the_pool() -> None:
    api, hangs, came = Nvml(), threading.Event(), threading.Event()

    def hang() -> int:
        came.set()
        hangs.wait(30.0)
        return 2

    api.nvmlDeviceGetCount = hang  # type: ignore[method-assign]
    driver = NvmlDriver(NVML, Path(), api)

    async def course() -> None:
        before = threading.active_count()
        first = asyncio.ensure_future(driver.read())
        while not came.is_set():
            await asyncio.sleep(0.01)
        first.cancel()  # as its keeper does after half a minute
        for _ in range(50):
            with pytest.raises(SiteError, match="not come back"):
                await driver.read()
            with pytest.raises(SiteError, match="not come back"):
                await driver.cap(None)
        assert threading.active_count() == before + 1
        await driver.close()
        hangs.set()
        while driver._hangs:
            await asyncio.sleep(0.01)
        assert len(await driver.read()) == 7

    asyncio.run(course())


def test_this_hosts_own_nvml() -> None:
    if importlib.util.find_spec("pynvml") is None:
        pytest.skip("nvidia-ml-py is not installed: pip install nvidia-ml-py")
    driver = NvmlDriver(NVML, Path())
    try:
        found = asyncio.run(driver.read())
    except SiteError as error:
        pytest.skip(f"no NVIDIA GPU here: {error.got}")
    assert any(r.quantity == "power_w" and 5.0 < r.value < 2000.0 for r in found)
    asyncio.run(driver.close())


def test_a_library_that_is_missing_names_the_extra() -> None:
    with pytest.raises(ConfigError, match=r"hanse\[facility\]"):
        needed("hanse_has_no_such_module", "nothing", "snmp")
