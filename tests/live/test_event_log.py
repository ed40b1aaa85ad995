"""The controller's log on disk: whatever happens to it, it holds whole frames and stops nothing."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dispatch.test_eventlog import made
from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.eventlog import MAGIC, frame, repeat
from hanse.errors import ConfigError
from hanse.live.controller import SIGNALS_EVERY_S
from hanse.live.event_log import BYTES_MAX, FILES_KEPT, EventLog, controller_logs
from hanse.live.slow_loop import OUTLOOK_STEPS
from hanse.model.fleet import SlowLoop
from hanse.signals.outlook import DemandOutlook, Outlook, SiteOutlook

NOW_S = 1_800_000_000.0


def told(log: EventLog, count: int) -> None:
    """A controller's life: a fleet, an epoch, sites that come and go."""
    dispatcher = Dispatcher("fleet")
    events: list[ev.Event] = [made(), ev.EpochGranted(at_s=NOW_S, epoch=1)]
    for n in range(count):
        events.append(ev.SiteHeard(at_s=NOW_S + n, site="a", epoch=1, table_version=n))
        events.append(ev.SiteLost(at_s=NOW_S + n, site="a"))
    for event in events:
        log.add(event, dispatcher.handle(event))


def test_a_full_log_ends_with_a_whole_frame_and_takes_nothing_more(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = EventLog(tmp_path, NOW_S, bytes_max=5_000)
    told(log, 100)
    size = log.path.stat().st_size
    assert 4_000 < size <= 5_000
    found = repeat(log.path.read_bytes())
    assert found.events > 10 and found.differ == () and not found.truncated
    assert capfd.readouterr().err.count("full at 5000 bytes") == 1
    told(log, 1)
    assert log.path.stat().st_size == size
    log.close()


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
    log = EventLog(tmp_path, NOW_S)
    told(log, 5)
    log.close()
    found = repeat(log.path.read_bytes())
    assert found.events == 12 and found.differ == () and not found.truncated


@pytest.mark.parametrize("room", [3, 3_000])
def test_a_full_disk_ends_the_log_before_the_frame_that_did_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], room: int
) -> None:
    monkeypatch.setattr(os, "write", on_files(full(room)))
    log = EventLog(tmp_path, NOW_S)
    told(log, 100)
    assert capfd.readouterr().err.count("No space left") == 1
    content = log.path.read_bytes()
    assert len(content) <= room
    if len(content) >= len(MAGIC):
        found = repeat(content)
        assert found.events > 2 and found.differ == () and not found.truncated


def test_a_folder_that_cannot_be_written_stops_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    log = EventLog(tmp_path / "file" / "events", NOW_S)
    told(log, 3)
    log.close()
    assert "unlogged" in capfd.readouterr().err


def test_the_newest_files_stay(tmp_path: Path) -> None:
    for n in range(FILES_KEPT + 3):
        EventLog(tmp_path, NOW_S + n).close()
    kept = controller_logs(tmp_path)
    assert len(kept) == FILES_KEPT
    assert kept[-1].name.startswith(f"{int((NOW_S + FILES_KEPT + 2) * 1000):016d}")
    with pytest.raises(ConfigError, match="hub/events"):
        controller_logs(tmp_path / "nowhere")


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
    assert 30 <= BYTES_MAX / day <= 45, "about a month"
