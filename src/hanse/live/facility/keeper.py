"""A site's plant in its agent's hands: devices asked on time, targets heard, limits set, dead nodes reset.

Here: `PlantKeeper`. Not here: any protocol (the drivers), what is given up (`dispatch.site_scope`), the other duties of the agent.

Each device is a task of its own, so that one that hangs delays nobody; one that fails is asked ever more rarely, up to a minute apart. A device
whose configuration is wrong is `unusable` and stops nothing: a site serves without its meters.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import msgspec

from hanse.dispatch.belief import EngineSpec
from hanse.dispatch.load_targets import LoadTarget, bounds, compliant, in_force
from hanse.errors import ConfigError, HanseError, SiteError
from hanse.live.facility.exposition import FILE, plant_text
from hanse.live.facility.flex import Drawn, FlexAgent
from hanse.live.facility.metering import (
    AccountKept,
    EnergyAccount,
    Key,
    Measured,
    measure,
)
from hanse.live.facility.readings import (
    Cap,
    PlantDriver,
    PowerCapper,
    Reading,
    Resetter,
)
from hanse.live.facility.resets import Resets
from hanse.live.facility.snapshot import EVERY_S, PlantSnapshot, write_snapshot
from hanse.live.logline import log_line
from hanse.live.runtime import read_kept, replace_file
from hanse.model.fleet import Facility, Fleet
from hanse.model.told import FIGURE_MAX
from hanse.signals.outlook import Bound
from hanse.units import s_from_hours
from hanse.view import FacilityStatus, LoadTargetStatus, PowerStatus, SiteStatus

T = TypeVar("T")

READ_S_MAX: Final = 30.0
"""A whole reading of one device: a BMC with eight GPUs is some twenty requests."""
BACK_OFF_S_MAX: Final = 60.0
BOUNDS_S: Final = s_from_hours(48.0)
"""So far ahead schedules are made."""
BOUNDS_EVERY_S: Final = 30.0
"""Hundreds of targets take a few ms."""
ACCOUNTS: Final = "meters.msgpack"
"""Written with what people are shown: a crash loses the power of five seconds, a device's own counter nothing."""
RESETS: Final = "resets.msgpack"
"""When which node was reset, by `<facility>/<pool>`: the limits of how often hold over restarts too."""
CAPS: Final = "caps.msgpack"
"""The site's bound that each limited device is held for, kW: a device has its limit for as long as nobody lifts it."""
BOUND_UNKNOWN_S: Final = 30.0
"""After a start, how long a site may take to read its targets and find what they leave; limits of before stay so long."""
TELL_EVERY_S: Final = 2.0
"""Prometheus asks every 15 s or more rarely, and a building system has thousands of points."""
OLD_S_MAX: Final = 900.0
"""Readings older than this are forgotten: a point that is gone must not be shown for ever."""


class Device:
    """One facility and how it is."""

    def __init__(self, facility: Facility, driver: PlantDriver | None, why: str = "") -> None:
        self.facility = facility
        self.driver = driver
        self.why = why
        self.read_at_s: float | None = None
        self.count = 0
        self.failures = 0
        self.caps: tuple[Cap, ...] = ()
        self.capped_kw: float | None = None
        """The site's bound that its limits were set for, perhaps by an agent before this one."""
        self.sure = False
        """Its limits were set or lifted since this keeper began."""
        self.wake = asyncio.Event()

    @property
    def unusable(self) -> bool:
        return self.driver is None

    def status(self, now_s: float) -> FacilityStatus:
        """For people."""
        held = [c.limit_w for c in self.caps if c.limit_w is not None]
        state: Literal["starting", "up", "failing", "unusable"]
        if self.driver is None:
            state = "unusable"
        elif self.failures:
            state = "failing"
        else:
            state = "starting" if self.read_at_s is None else "up"
        return FacilityStatus(
            id=self.facility.id,
            driver=self.facility.driver,
            state=state,
            age_s=None if self.read_at_s is None else max(now_s - self.read_at_s, 0.0),
            readings=self.count,
            why=self.why,
            cap_w=sum(held) if held else None,
        )


class PlantKeeper:
    """All facilities and meters of one site; `run` until cancelled."""

    def __init__(
        self,
        fleet: Fleet,
        site_id: str,
        home: Path,
        own_password: str,
        on_targets: Callable[[tuple[LoadTarget, ...]], None],
    ) -> None:
        self._site = next(site for site in fleet.sites if site.id == site_id)
        self._home = home
        self._on_targets = on_targets
        self._meters = tuple(m for m in fleet.meters if m.site == site_id)
        self.accounts = tuple(EnergyAccount(meter) for meter in self._meters)
        self._restore_accounts()
        self.readings: dict[Key, Reading] = {}
        self._schedules: dict[str, tuple[LoadTarget, ...]] = {}
        self._bounds: tuple[tuple[LoadTarget, ...], float, tuple[Bound, ...]] = (), 0.0, ()
        """What they let the site draw, of which of them, and as of when."""
        self._cap_kw: float | None = None
        self._bound_known_s = time.monotonic() + BOUND_UNKNOWN_S
        self._pue = 1.0
        self._flaws: dict[str, str] = {}
        """Of what is looked at, as it was last said."""
        self.resets_done = 0
        self._shown_at_s = self._told_at_s = float("-inf")
        self.closed_until_s = 0.0
        """Until when the site's silence is no alarm."""
        self._own_password = own_password
        self._own = own = tuple(f for f in fleet.facilities if f.site == site_id)
        self._flex, flex_devices = self._flex_of(own, own_password)
        self._devices = [
            *flex_devices,
            *(self._device(f) for f in own if f.driver != "dsx-flex"),
        ]
        self._leaving: list[Device] = []
        """The fleet names them no more, and they still have a power limit."""
        done = self._kept(RESETS, dict[str, list[float]])
        self._resets = {
            f"{device.facility.id}/{pool}": (
                device,
                Resets(pool, done.get(f"{device.facility.id}/{pool}", ())),
            )
            for device in self._devices
            for pool in device.facility.resets
        }
        self._steady_s = time.monotonic
        capped = self._kept(CAPS, dict[str, float])
        for device in self._devices:
            device.capped_kw = capped.pop(device.facility.id, None)
        self._stranded = set(capped)
        """An agent before this one limited them, and nobody knows how to reach them any more."""

    async def run(self) -> None:
        """Ask every device until cancelled."""
        for id in sorted(self._stranded):
            log_line(f"facility {id}: gone with a power limit, which only its device can lift")
        if self._flex is not None:
            await self._flex.start()
        tasks = [asyncio.create_task(self._tend(d)) for d in self._devices if not d.unusable]
        tasks += [asyncio.create_task(self._part(d)) for d in self._leaving]
        try:
            await asyncio.gather(*tasks)
            await asyncio.Event().wait()  # with nothing to ask, there is still nothing to end for
        finally:
            for task in tasks:
                task.cancel()
            for device in (*self._devices, *self._leaving):
                if device.driver is not None:
                    await device.driver.close()
            if self._flex is not None:
                await self._flex.close()

    # --- another fleet

    def follow(self, fleet: Fleet) -> bool:
        """Another fleet is in force; False where it names other devices or meters here: then another keeper is to be made."""
        id = self._site.id
        self._site = next(site for site in fleet.sites if site.id == id)
        own = tuple(f for f in fleet.facilities if f.site == id)
        meters = tuple(m for m in fleet.meters if m.site == id)
        return (own, meters) == (self._own, self._meters)

    def go_on_from(self, before: PlantKeeper) -> None:
        """What the keeper before this one knew and held, as far as it is still about the same devices."""
        same = {f.id for f in self._own if f in before._own}
        self.readings = {key: r for key, r in before.readings.items() if key[0] in same}
        self._schedules = {name: s for name, s in before._schedules.items() if name in same}
        self._cap_kw, self._pue = before._cap_kw, before._pue
        self._bound_known_s = before._bound_known_s
        self.resets_done = before.resets_done
        limited = {
            device.facility.id: device
            for device in (*before._devices, *before._leaving)
            if device.capped_kw is not None
        }
        for device in self._devices:
            if known := limited.pop(device.facility.id, None):
                device.capped_kw = known.capped_kw
        for gone in limited.values():
            leaving = self._device(gone.facility)
            if leaving.driver is not None:
                leaving.capped_kw = gone.capped_kw
                self._leaving.append(leaving)
                self._stranded.discard(gone.facility.id)
        for name, (device, resets) in self._resets.items():
            if name in before._resets and device.facility.id in same:
                resets.go_on_from(before._resets[name][1])
        self._on_targets(self.schedule())

    def keep_accounts(self) -> None:
        """Write what was counted so far."""
        kept = {account.meter.id: account.kept() for account in self.accounts}
        self._keep(ACCOUNTS, kept)

    # --- what the agent asks

    def measured(self, now_s: float) -> Measured:
        """What meters tell now."""
        return measure(self._meters, self.readings, now_s)

    def schedule(self) -> tuple[LoadTarget, ...]:
        """All targets that the site knows of."""
        return tuple(target for one in self._schedules.values() for target in one)

    def target(self, drawn_kw: float, now_s: float) -> LoadTargetStatus | None:
        """The target in force, for people."""
        active = in_force(self.schedule(), now_s)
        if active is None:
            return None
        return LoadTargetStatus(
            id=active.id,
            source=active.source,
            limit_kw=active.limit_kw,
            end_at_s=active.end_at_s,
            compliant=compliant(active, drawn_kw),
        )

    def load_bounds(self, now_s: float) -> tuple[Bound, ...] | None:
        """What targets let the site draw in the time that controllers plan for; None soon after a start, while senders have said nothing."""
        schedule = self.schedule()
        if time.monotonic() < self._bound_known_s and any(
            d.facility.driver == "openadr" and d.facility.id not in self._schedules
            for d in self._devices
        ):
            return None
        known, at_s, found = self._bounds
        if known != schedule or now_s - at_s >= BOUNDS_EVERY_S:
            found = bounds(schedule, now_s, now_s + BOUNDS_S)
            self._bounds = schedule, now_s, found
        return found

    def statuses(self, now_s: float) -> tuple[FacilityStatus, ...]:
        """For people."""
        return tuple(self._status(device, now_s) for device in self._devices)

    def _status(self, device: Device, now_s: float) -> FacilityStatus:
        if self._flex is None or device.facility.driver != "dsx-flex":
            return device.status(now_s)
        return FacilityStatus(
            id=device.facility.id,
            driver="dsx-flex",
            state="up" if self._flex.connected else "failing",
            readings=len(self._flex.schedule),
            why="" if self._flex.connected else self._flex.trouble,
        )

    # --- what the agent tells

    def look(
        self, status: SiteStatus, engines: Sequence[EngineSpec], idle: Sequence[str], now_s: float
    ) -> None:
        """The site as it is: for the grid, for Prometheus, and for nodes that are dead."""
        self._pue = max(status.power.pue, 1.0)
        self._guarded("resets", lambda: self._look_at_nodes(status, now_s))
        if (flex := self._flex) is not None:
            drawn = self._drawn(status, engines, idle)
            self._guarded(flex.name, lambda: flex.look(drawn, now_s))
        if now_s - self._told_at_s >= TELL_EVERY_S:
            self._told_at_s = now_s
            self._guarded("metrics", lambda: self._tell(status))
        if self._devices and now_s - self._shown_at_s >= EVERY_S:
            self._shown_at_s = now_s
            self._guarded("readings", lambda: self._show(now_s))
            self._guarded("meters", self.keep_accounts)

    def _guarded(self, what: str, act: Callable[[], None]) -> None:
        """Whatever a device or the grid has said, or the disk refuses, it costs neither the other parts nor the site's own report."""
        try:
            act()
        except Exception as error:
            if self._flaws.get(what) != repr(error):
                self._flaws[what] = repr(error)
                log_line(f"plant, {what}: {error!r}")
        else:
            self._flaws.pop(what, None)

    def _look_at_nodes(self, status: SiteStatus, now_s: float) -> None:
        for device, resets in self._resets.values():
            if resets.due(status.engines, now_s, self._steady_s()):
                with contextlib.suppress(OSError):  # on disk before the order, where it can be
                    self._keep(RESETS, {name: r.done_at_s for name, (_, r) in self._resets.items()})
                self._reset(device, resets.pool)

    def _tell(self, status: SiteStatus) -> None:
        readings = ((facility, reading) for (facility, _), reading in self.readings.items())
        text = plant_text(status, readings, self.accounts, self.resets_done, self.closed_until_s)
        replace_file(self._home / FILE, text)

    def _show(self, now_s: float) -> None:
        names = sorted({name for name, _ in self.readings})
        readings = {
            name: tuple(r for key, r in sorted(self.readings.items()) if key[0] == name)
            for name in names
        }
        shown = PlantSnapshot(at_s=now_s, facilities=self.statuses(now_s), readings=readings)
        write_snapshot(self._home, shown)

    def cap(self, limit_kw: float | None) -> None:
        """Hold devices that can be limited to a site's draw; None lifts."""
        self._cap_kw, self._bound_known_s = limit_kw, float("-inf")
        for device in self._devices:
            if device.facility.caps_power:
                device.wake.set()

    def _drawn(
        self, status: SiteStatus, engines: Sequence[EngineSpec], idle: Sequence[str]
    ) -> Drawn:
        power: PowerStatus = status.power
        last = [e for e in engines if e.name in idle] or list(engines)
        return Drawn(
            kw=power.drawn_kw,
            shed_level=status.shed_level,
            minimum_kw=self._site.power.base_kw,
            maximum_kw=self._site.power.grid_kw_max,
            hints=tuple((e.name, e.pool, 0.0) for e in last),
        )

    def _restore_accounts(self) -> None:
        """What an earlier agent had counted; of what was drawn meanwhile a device's own counter tells."""
        kept = self._kept(ACCOUNTS, dict[str, AccountKept])
        for account in self.accounts:
            if account.meter.id in kept:
                account.restore(kept[account.meter.id])

    # --- disk

    def _kept(self, name: str, kind: type[dict[str, T]]) -> dict[str, T]:
        """What an earlier agent wrote; nothing where it did not, or where that is unreadable."""
        return read_kept(self._home / name, kind) or {}

    def _keep(self, name: str, content: dict[str, Any]) -> None:
        replace_file(self._home / name, msgspec.msgpack.encode(content))

    # --- devices

    def _device(self, facility: Facility) -> Device:
        try:
            driver = make_driver(facility, self._home, self._own_password, self._take)
            return Device(facility, driver)
        except HanseError as error:
            log_line(f"facility {facility.id}: unusable: {error}")
            return Device(facility, None, str(error))

    def _flex_of(
        self, own: Sequence[Facility], own_password: str
    ) -> tuple[FlexAgent | None, list[Device]]:
        for facility in own:
            if facility.driver != "dsx-flex":
                continue
            try:
                taken = partial(self._take, facility.id)
                agent = FlexAgent(facility, self._home, own_password, taken)
            except HanseError as error:
                log_line(f"facility {facility.id}: unusable: {error}")
                return None, [Device(facility, None, str(error))]
            return agent, [Device(facility, None)]
        return None, []

    def _take(self, name: str, schedule: tuple[LoadTarget, ...]) -> None:
        """A facility's targets, anew; senders of two facilities are never the same."""
        self._schedules[name] = tuple(
            LoadTarget(
                id=t.id,
                source=f"{name}/{t.source}",
                limit_kw=t.limit_kw,
                start_at_s=t.start_at_s,
                end_at_s=t.end_at_s,
                best_effort=t.best_effort,
            )
            for t in schedule
        )
        self._on_targets(self.schedule())

    async def _tend(self, device: Device) -> None:
        """Read at its pace; a limit that is asked for wakes it."""

        async def look() -> None:
            await self._read(device)
            await self._hold(device)

        while True:
            wait_s = await self._turn(device, look)
            device.wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await device.wake.wait()

    async def _part(self, device: Device) -> None:
        """Lift the limit of one that leaves the fleet, as patiently as it was read."""
        while True:
            wait_s = await self._turn(device, partial(self._hold, device))
            if device.capped_kw is None:
                return
            await asyncio.sleep(wait_s)

    async def _turn(self, device: Device, what: Callable[[], Awaitable[None]]) -> float:
        """Once; how long to wait until the next time, s."""
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(READ_S_MAX):
                await what()
            if device.failures:
                log_line(f"facility {device.facility.id}: answers again")
            device.failures, device.why = 0, ""
        except Exception as error:  # whatever a device answers, it ends nothing but its own reading
            self._failed(device, error)
        every_s = device.facility.every_s
        wait_s = min(every_s * 2.0 ** min(device.failures, 8), max(BACK_OFF_S_MAX, every_s))
        return max(wait_s - (time.monotonic() - started_s), 0.0)

    async def _read(self, device: Device) -> None:
        assert device.driver is not None, "only usable devices are kept"
        found = await device.driver.read()
        name = device.facility.id
        for reading in found:
            if abs(reading.value) <= FIGURE_MAX:  # not NaN, not infinite
                self.readings[name, reading.point] = reading
        now_s = time.time()
        gone = [k for k, r in self.readings.items() if k[0] == name and now_s - r.at_s > OLD_S_MAX]
        for key in gone:
            del self.readings[key]
        device.count = len(found)
        device.read_at_s = max((r.at_s for r in found), default=device.read_at_s)
        for account in self.accounts:
            if account.meter.facility == name:
                account.take(self.readings)

    async def _hold(self, device: Device) -> None:
        """Its power limit is what the site's bound leaves to it; set only where that changed or the device forgot it.

        What an agent before this one set is lifted too, also where the device is to be limited no more.
        """
        driver = device.driver
        caps = device.facility.caps_power and device not in self._leaving
        if not isinstance(driver, PowerCapper) or not (caps or device.capped_kw is not None):
            return
        wanted_kw = self._cap_kw if caps else None
        if wanted_kw is None and caps and time.monotonic() < self._bound_known_s:
            return  # the site may be about to say what it was limited for
        forgot = wanted_kw is not None and (device.failures > 0 or not device.sure)
        if wanted_kw == device.capped_kw and not forgot:
            return
        if wanted_kw is not None:  # known on disk before it is true, and until it is true no more
            device.capped_kw = wanted_kw
            self._keep_caps()
        device.caps = await driver.cap(self._share_w(device) if caps else None)
        device.capped_kw, device.sure = wanted_kw, True
        if wanted_kw is None:
            self._keep_caps()
        told = ", ".join(
            f"{c.point} {'none' if c.limit_w is None else f'{c.limit_w:g} W'}" for c in device.caps
        )
        log_line(f"facility {device.facility.id}: power limit now {told}")

    def _keep_caps(self) -> None:
        known = (*self._devices, *self._leaving)
        held = {d.facility.id: d.capped_kw for d in known if d.capped_kw is not None}
        try:
            self._keep(CAPS, held)
        except OSError as error:  # a bound is kept to all the same
            log_line(f"power limits are not noted: {error}")

    def _share_w(self, device: Device) -> float | None:
        """Of the site's bound, in the proportion of what devices draw now; what others draw for is not theirs to give."""
        if self._cap_kw is None:
            return None
        it_w = max(self._cap_kw - self._site.power.base_kw, 0.0) / self._pue * 1e3
        capped = [d for d in self._devices if d.facility.caps_power and not d.unusable]
        draws = {d.facility.id: self._draw_w(d) for d in capped}
        total = sum(draws.values())
        share = draws[device.facility.id] / total if total > 0.0 else 1.0 / len(capped)
        return float(round(it_w * share))

    def _draw_w(self, device: Device) -> float:
        """By its meters where it has any, else by all power it tells; a supply and its load would count twice, but alike everywhere."""
        name = device.facility.id
        points = {m.point for m in self._meters if m.facility == name and m.measures == "it"}
        return sum(
            max(r.value, 0.0)
            for (facility, point), r in self.readings.items()
            if facility == name and r.quantity == "power_w" and (point in points or not points)
        )

    def _failed(self, device: Device, error: Exception) -> None:
        text = str(error) or repr(error)
        if isinstance(error, TimeoutError):
            text = f"no whole reading in {READ_S_MAX:.0f} s"
        if text != device.why:
            log_line(f"facility {device.facility.id}: {text}")
        device.failures, device.why = device.failures + 1, text

    def _reset(self, device: Device, pool: str) -> None:
        driver = device.driver
        if not isinstance(driver, Resetter):
            return
        self.resets_done += 1
        log_line(f"facility {device.facility.id}: pool {pool} is dead: its node is reset")

        async def order() -> None:
            try:
                await driver.reset("", "ForceRestart")
            except SiteError as error:
                log_line(f"facility {device.facility.id}: reset: {error}")

        self._ordered = asyncio.create_task(order())  # kept: a task nobody holds may vanish


Taken = Callable[[str, tuple[LoadTarget, ...]], None]


def make_driver(facility: Facility, home: Path, own_password: str, taken: Taken) -> PlantDriver:
    """The driver of a facility; its module is loaded only now.

    Raises:
        ConfigError: a library or a file that it needs is missing.
    """
    if facility.driver == "redfish":
        from hanse.live.facility.redfish import RedfishDriver

        return RedfishDriver(facility, home)
    if facility.driver == "snmp":
        from hanse.live.facility.snmp import SnmpDriver

        return SnmpDriver(facility, home)
    if facility.driver == "modbus":
        from hanse.live.facility.modbus import ModbusDriver

        return ModbusDriver(facility, home)
    if facility.driver == "nvml":
        from hanse.live.facility.nvml import NvmlDriver

        return NvmlDriver(facility, home)
    if facility.driver == "dcgm":
        from hanse.live.facility.dcgm import DcgmDriver

        return DcgmDriver(facility, home)
    if facility.driver == "mqtt":
        from hanse.live.facility.mqtt import BmsDriver

        return BmsDriver(facility, home, own_password)
    if facility.driver == "openadr":
        from hanse.live.facility.openadr import OpenAdrDriver

        return OpenAdrDriver(facility, home, taken)
    raise ConfigError("facility.driver", got=repr(facility.driver), allowed="a driver that reads")
