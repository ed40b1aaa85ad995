"""The controller's log on disk: whatever happens to it, it holds whole frames and stops nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from dispatch.test_eventlog import made
from hanse.cli.replay import gaps
from hanse.dispatch import events as ev
from hanse.dispatch.defer_problem import JobPlan, JobRun, SitePlan, axis
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.eventlog import MAGIC, frame, repeat, state_frame
from hanse.dispatch.snapshot import state_of
from hanse.errors import ConfigError
from hanse.live.controller import SIGNALS_EVERY_S
from hanse.live.event_log import BYTES_KEPT, FILES_KEPT, EventLog, controller_logs
from hanse.live.slow_loop import OUTLOOK_STEPS
from hanse.model.fleet import SlowLoop
from hanse.signals.outlook import DemandOutlook, Outlook, SiteOutlook

NOW_S = 1_800_000_000.0


class Led:
    """A log and the Dispatcher that it is of."""

    def __init__(self, folder: Path, at_s: float = NOW_S, **how: int) -> None:
        self.dispatcher = Dispatcher("fleet")
        self.log = EventLog(folder, at_s, lambda: state_of(self.dispatcher), **how)

    @property
    def path(self) -> Path:
        return self.log.path

    def told(self, count: int) -> None:
        told(self.log, count, self.dispatcher)


def told(log: EventLog, count: int, dispatcher: Dispatcher | None = None) -> None:
    """A controller's life: a fleet, an epoch, sites that come and go."""
    dispatcher = dispatcher or Dispatcher("fleet")
    events: list[ev.Event] = [made(), ev.EpochGranted(at_s=NOW_S, epoch=1)]
    for n in range(count):
        events.append(ev.SiteHeard(at_s=NOW_S + n, site="a", epoch=1, table_version=n))
        events.append(ev.SiteLost(at_s=NOW_S + n, site="a"))
    for event in events:
        log.add(event, dispatcher.handle(event))


def test_a_full_file_is_followed_by_one_that_goes_on_from_its_end(tmp_path: Path) -> None:
    led = Led(tmp_path, file_bytes=5_000)
    led.told(100)
    led.told(100)
    led.log.close()
    files = controller_logs(tmp_path)
    assert len(files) > 4
    found = [(str(path), repeat(path.read_bytes())) for path in files]
    assert all(one.differ == () and not one.truncated for _, one in found)
    assert not found[0][1].began and all(one.began for _, one in found[1:])
    assert gaps(found) == []
    assert gaps([found[0], found[2]]) == [
        f"{found[2][0]}: begins with another state than {found[0][0]} ends with"
    ]
    assert found[-1][1].ended == repeat(MAGIC + state_frame(state_of(led.dispatcher))).ended
    for path in files[:-1]:
        assert 5_000 <= path.stat().st_size < 5_000 + 2_000 + len(state_of(led.dispatcher))


def test_old_files_go_and_the_rest_is_still_replayed(tmp_path: Path) -> None:
    led = Led(tmp_path, file_bytes=5_000, bytes_kept=30_000)
    for _ in range(12):
        led.told(50)
    led.log.close()
    files = controller_logs(tmp_path)
    assert sum(path.stat().st_size for path in files) <= 30_000 + 5_000
    found = [(str(path), repeat(path.read_bytes())) for path in files]
    assert all(one.began and one.differ == () for _, one in found), "the first file is long gone"
    assert gaps(found) == []


def test_a_clock_that_is_set_back_writes_over_nothing(tmp_path: Path) -> None:
    Led(tmp_path, NOW_S).log.close()
    led = Led(tmp_path, NOW_S - 3600.0)
    led.log.close()
    assert controller_logs(tmp_path)[-1] == led.path


def short(fd: int, data: memoryview) -> int:
    return _write(fd, data[:7])


def full(room: int) -> Callable[[int, memoryview], int]:
    """A disk that fills up in the middle of a frame."""
    left = [room]

    def write(fd: int, data: memoryview) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = _write(fd, data[: left[0]])
        left[0] -= done
        return done

    return write


_write = os.write


def on_files(write: Callable[[int, memoryview], int]) -> Callable[[int, memoryview], int]:
    """Standard error is no disk."""
    return lambda fd, data: _write(fd, data) if fd == 2 else write(fd, data)


def test_a_write_that_takes_a_part_is_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "write", on_files(short))
    led = Led(tmp_path)
    led.told(5)
    led.log.close()
    found = repeat(led.path.read_bytes())
    assert found.events == 12 and found.differ == () and not found.truncated


@pytest.mark.parametrize("room", [3, 5_000])
def test_a_full_disk_ends_the_log_before_the_frame_that_did_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], room: int
) -> None:
    monkeypatch.setattr(os, "write", on_files(full(room)))
    led = Led(tmp_path)
    led.told(100)
    assert capfd.readouterr().err.count("No space left") == 1
    content = led.path.read_bytes()
    assert len(content) <= room
    if len(content) >= len(MAGIC):
        found = repeat(content)
        assert found.events > 2 and found.differ == () and not found.truncated


def test_a_folder_that_cannot_be_written_stops_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    led = Led(tmp_path / "file" / "events")
    led.told(3)
    led.log.close()
    assert "unlogged" in capfd.readouterr().err


def test_the_newest_files_stay(tmp_path: Path) -> None:
    for n in range(FILES_KEPT + 3):
        Led(tmp_path, NOW_S + n).log.close()
    kept = controller_logs(tmp_path)
    assert len(kept) == FILES_KEPT
    assert kept[-1].name.startswith(f"{int((NOW_S + FILES_KEPT + 2) * 1000):016d}")
    with pytest.raises(ConfigError, match="hub/events"):
        controller_logs(tmp_path / "nowhere")


def test_schedules_add_what_the_page_says() -> None:
    steps = axis()
    row = tuple(1.0 + n / 7.0 for n in range(len(steps)))
    names = [f.name for f in msgspec.structs.fields(SitePlan) if f.name != "site"]
    site = SitePlan(site="site-1", **dict.fromkeys(names, row))
    run = JobRun(site="site-1", pool="gpu-chat-v0", chips=row)
    job = JobPlan(
        job="batch-1", runs=(run,), finish_at_s=1.5, late_s=0.0, done_share=1.0, moved_gb=0.1, move_usd=0.1
    )  # fmt: skip
    every_s = SlowLoop().schedule_every_s
    a_day = [86_400.0 / every_s * len(msgspec.msgpack.encode(one)) for one in (site, job)]
    assert a_day[0] == pytest.approx(1.5e6, rel=0.1)
    assert a_day[1] == pytest.approx(0.2e6, rel=0.2)
    page = (Path(__file__).parents[2] / "docs" / "place.md").read_text()
    assert "1.5 MB a day a site and 0.2 MB for each site that a batch runs at" in page


def test_a_day_of_twenty_sites_is_as_long_as_the_page_says() -> None:
    hours = tuple(1.0 + n / 7.0 for n in range(OUTLOOK_STEPS))
    sites = tuple(
        SiteOutlook(
            site=f"site-{n}",
            price_usd_per_kwh=hours,
            carbon_g_per_kwh=hours,
            carbon_signal="average_location",
            pue=hours,
            pv_kw=hours,
            wind_kw=hours,
            grid_kw_max=hours,
        )
        for n in range(20)
    )
    demand = tuple(
        DemandOutlook(
            service="chat",
            tenant="demo",
            data_class="public",
            country="DE",
            origin=one.site,
            requests_per_s=hours,
            requests_per_s_high=hours,
            input_tokens=700.5,
            output_tokens=200.5,
        )
        for one in sites
    )
    outlook = Outlook(issued_at_s=NOW_S, start_s=NOW_S, step_s=3600.0, demand=demand, sites=sites)
    signal = ev.SignalsObserved(
        at_s=NOW_S, site="site-1", pue=1.2, carbon_g_per_kwh=300.5, price_usd_per_kwh=0.15
    )
    loop = SlowLoop()
    every_s = min(loop.place_every_s, loop.demand_bin_s)  # as `live.slow_loop.SlowLoop.every_s`
    day = 86_400.0 / every_s * len(frame(ev.OutlookIssued(at_s=NOW_S, outlook=outlook), []))
    day += 20 * 86_400.0 / SIGNALS_EVERY_S * len(frame(signal, []))
    assert day == pytest.approx(30e6, rel=0.1)
    page = (Path(__file__).parents[2] / "docs" / "place.md").read_text()
    assert "About 30 MB a day for twenty sites" in page
    assert 30 <= BYTES_KEPT / day <= 45, "about a month"
