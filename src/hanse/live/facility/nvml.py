"""NVML: power, energy, temperature and power limits of this host's own NVIDIA GPUs.

Here: `NvmlDriver`. Not here: GPUs of other hosts (`dcgm`, `redfish`). Calls block for some milliseconds, and with a driver that hangs for ever, so
they run in a thread of their own: no more than that one is lost to it.

After NVIDIA's NVML API reference: power in mW (an average over a second from Ampere on, with 5 % of error or 5 W), energy in mJ since the driver was
loaded, limits in mW. Setting a limit takes root, or a container with the right; without it the refusal says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

from hanse.errors import SiteError
from hanse.live.facility.readings import Cap, Reading, needed
from hanse.model.fleet import Facility, Quantity
from hanse.units import JOULES_PER_WH

T = TypeVar("T")

MW_PER_W: Final = 1000.0
TEMPERATURE_GPU: Final = 0


class NvmlDriver:
    """All GPUs of this host."""

    def __init__(self, facility: Facility, home: Path, api: Any = None) -> None:
        self._where = f"nvml {facility.id}"
        self._api = api or needed("pynvml", "nvidia-ml-py", "nvml")
        self._gpus: list[Any] = []
        self._pending: asyncio.Future[Any] | None = None

    async def read(self) -> tuple[Reading, ...]:
        """Each GPU's figures; one that a GPU does not have is left out.

        Raises:
            SiteError: there is no driver, or no GPU.
        """
        return await self._aside(self._read)

    async def cap(self, limit_w: float | None) -> tuple[Cap, ...]:
        """A limit for all GPUs together, in equal parts within what each bears; None: the maker's default.

        Raises:
            SiteError: as `read`, or this process may not.
        """
        return await self._aside(partial(self._cap, limit_w))

    async def close(self) -> None:
        """Let go of the library, where it does not hang."""
        if self._gpus and not self._hangs:
            self._gpus = []
            self._api.nvmlShutdown()

    @property
    def _hangs(self) -> bool:
        return self._pending is not None and not self._pending.done()

    async def _aside(self, call: Callable[[], T]) -> T:
        if self._hangs:
            raise SiteError(
                self._where,
                got="an earlier call that has not come back",
                allowed="a driver that answers",
                fix="look at the kernel's log for this GPU (Xid); a reset or a restart of the host frees it",
            )
        loop = asyncio.get_running_loop()
        made: asyncio.Future[T] = loop.create_future()
        self._pending = made

        def work() -> None:
            try:
                result, error = call(), None
            except BaseException as raised:
                result, error = None, raised
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(_settle, made, result, error)

        # No thread of a pool: the interpreter would wait for it at its end.
        threading.Thread(target=work, name=self._where, daemon=True).start()
        return await asyncio.shield(made)

    def _open(self) -> list[Any]:
        if not self._gpus:
            self._call(self._api.nvmlInit)
            count = self._call(self._api.nvmlDeviceGetCount)
            self._gpus = [self._call(self._api.nvmlDeviceGetHandleByIndex, i) for i in range(count)]
            if not self._gpus:
                self._api.nvmlShutdown()
                raise SiteError(self._where, got="no GPU", allowed="an NVIDIA GPU on this host")
        return self._gpus

    def _read(self) -> tuple[Reading, ...]:
        api, now_s = self._api, time.time()
        found: list[Reading] = []

        def tell(
            point: str, quantity: Quantity, scale: float, ask: Callable[..., Any], *how: Any
        ) -> None:
            try:
                value = ask(*how)
            except api.NVMLError_NotSupported:
                return
            except api.NVMLError as error:
                self._gpus = []  # a GPU that fell off the bus: begin anew with those that are left
                raise SiteError(self._where, got=str(error), allowed="a reading") from error
            found.append(Reading(point=point, quantity=quantity, value=value * scale, at_s=now_s))

        for index, gpu in enumerate(self._open()):
            name = f"gpu-{index}"
            tell(f"{name}.power", "power_w", 1 / MW_PER_W, api.nvmlDeviceGetPowerUsage, gpu)
            joules = 1e-3 / JOULES_PER_WH
            tell(
                f"{name}.energy", "energy_wh", joules, api.nvmlDeviceGetTotalEnergyConsumption, gpu
            )
            tell(f"{name}.temp", "temp_c", 1.0, api.nvmlDeviceGetTemperature, gpu, TEMPERATURE_GPU)
            limit = api.nvmlDeviceGetPowerManagementLimit
            tell(f"{name}.limit", "limit_w", 1 / MW_PER_W, limit, gpu)
        return tuple(found)

    def _cap(self, limit_w: float | None) -> tuple[Cap, ...]:
        api = self._api
        gpus = self._open()
        found = []
        for index, gpu in enumerate(gpus):
            default_mw = self._call(api.nvmlDeviceGetPowerManagementDefaultLimit, gpu)
            low_mw, high_mw = self._call(api.nvmlDeviceGetPowerManagementLimitConstraints, gpu)
            asked_mw = default_mw if limit_w is None else int(limit_w / len(gpus) * MW_PER_W)
            asked_mw = min(max(asked_mw, low_mw), high_mw)
            self._call(api.nvmlDeviceSetPowerManagementLimit, gpu, asked_mw)
            held_mw = self._call(api.nvmlDeviceGetPowerManagementLimit, gpu)
            lifted = limit_w is None and held_mw == default_mw
            found.append(
                Cap(
                    point=f"gpu-{index}.limit",
                    limit_w=None if lifted else held_mw / MW_PER_W,
                    asked_w=None if limit_w is None else asked_mw / MW_PER_W,
                )
            )
        return tuple(found)

    def _call(self, ask: Callable[..., Any], *how: Any) -> Any:
        try:
            return ask(*how)
        except self._api.NVMLError as error:
            denied = isinstance(error, self._api.NVMLError_NoPermission)
            raise SiteError(
                self._where,
                got=str(error),
                allowed="a driver that answers",
                fix="run the agent with the right to set power limits, or leave caps_power out"
                if denied
                else "install NVIDIA's driver, or remove this facility",
            ) from error


def _settle(made: asyncio.Future[T], result: Any, error: BaseException | None) -> None:
    if error is None:
        made.set_result(result)
    else:
        made.set_exception(error)
        made.exception()  # looked at, also where nobody waits any more
