"""A running site with two played meters: requests, idle and overhead come to the meter; and the same site on a disk that fills up.

The meters are Modbus devices with a counter each, of the IT of an engine that draws as it is asked, and of the hall around it, whose
overhead is another than the fleet file says. Nothing in this file knows how the site comes to its figures.
"""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("pymodbus", reason="pip install pymodbus")
pytest.importorskip("paho.mqtt.client", reason="pip install paho-mqtt")
pytest.importorskip("joserfc", reason="pip install joserfc")
pytest.importorskip("openai", reason="pip install openai")

from hanse.energy.ledger import parts_of
from hanse.errors import SiteError
from hanse.live import bus
from hanse.live.evidence.audit import audit, read_logs
from hanse.live.evidence.chain import Ended
from hanse.live.evidence.quarters import CLOSES_SHARE
from hanse.live.site_books import FILE, Kept
from hanse.units import wh_from_j
from live.facility.modbus_server import modbus_server
from live.facility.site_bus import FLEET, SITE, wait_until
from live.facility.test_load_target_live import POOLS, Engine, Site, served

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

BASE_W, OVERHEAD = 1000.0, 0.3
"""The hall takes 30 % of IT for cooling and UPS; the fleet file says 20 %."""
STEP_WH = 0.01
"""Of the counters, which are 16 bits wide."""
DEVICE = """
[[facility]]
id = "{name}-meter"
site = "harbour"
driver = "modbus"
url = "{url}"
every_s = 0.5
[[facility.register]]
point = "power"
quantity = "power_w"
address = 0
kind = "u16"
[[facility.register]]
point = "energy"
quantity = "energy_wh"
address = 1
kind = "u16"
scale = 0.01

[[meter]]
id = "{name}"
site = "harbour"
facility = "{name}-meter"
point = "power"
energy_point = "energy"
measures = "{measures}"
error_share = 0.01
"""
PLACED = """
[[placement]]
service = "chat"
variant = "q8"
site = "harbour"
pool = "gpus"
slots = 16
"""


class Meters:
    """What both devices show, added up from what the engine draws."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.wh = {"it": 0.0, "site": 0.0}

    @contextmanager
    def running(self) -> Iterator[dict[str, str]]:
        with (
            modbus_server({0: 0, 1: 0}) as (it_url, it),
            modbus_server({0: 0, 1: 0}) as (site_url, site),
        ):
            ended = threading.Event()

            def follow() -> None:
                last_s = time.monotonic()
                while not ended.wait(0.01):
                    now_s = time.monotonic()
                    it_w = float(self.engine.watts)
                    watts = {"it": it_w, "site": BASE_W + it_w * (1.0 + OVERHEAD)}
                    for name, registers in (("it", it), ("site", site)):
                        self.wh[name] += wh_from_j(watts[name] * (now_s - last_s))
                        registers[0] = int(watts[name])
                        registers[1] = int(self.wh[name] / STEP_WH)
                    last_s = now_s

            thread = threading.Thread(target=follow)
            thread.start()
            try:
                yield {"it": it_url, "site": site_url}
            finally:
                ended.set()
                thread.join()


def hanse(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from hanse.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def burst(site: Site, users: int, seconds: float) -> int:
    """Answers of users that ask without a pause."""
    counts = [0] * users
    until_s = time.monotonic() + seconds

    def ask(user: int) -> None:
        while time.monotonic() < until_s:
            status, _ = site.ask("public")
            assert status == 200
            counts[user] += 1

    threads = [threading.Thread(target=ask, args=(user,)) for user in range(users)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts)


def kept(site: Site) -> Kept:
    return msgspec.msgpack.decode((site.state.site(SITE) / FILE).read_bytes(), type=Kept)


def ended(site: Site) -> list[Ended]:
    pem = (site.state.ca_dir / "ca.pem").read_bytes()
    found = read_logs(site.state.path, pem).requests.values()
    return [f.record for held in found for f in held if isinstance(f.record, Ended)]


@pytest.fixture
def metered(tmp_path: Path) -> Iterator[tuple[Site, Meters]]:
    engine = Engine()
    meters = Meters(engine)
    with ExitStack() as stack:
        url = stack.enter_context(served(engine))
        urls = stack.enter_context(meters.running())
        more = PLACED + "".join(
            DEVICE.format(name=name, url=urls[name], measures=name) for name in urls
        )
        site = Site(tmp_path, FLEET.format(pools=POOLS.format(engine=url), more=more))
        stack.callback(site.stop)
        yield site, meters


def test_requests_idle_and_overhead_are_within_two_percent_of_a_played_meter(
    metered: tuple[Site, Meters], tmp_path: Path
) -> None:
    site, _ = metered
    wait_until(lambda: any(q.site_meter_wh for q in kept(site).quarters), "meters count", 60)
    answers = 0
    for users, seconds, pause_s in ((1, 4.0, 6.0), (4, 10.0, 5.0), (2, 8.0, 8.0), (6, 10.0, 3.0)):
        answers += burst(site, users, seconds)
        time.sleep(pause_s)
    wait_until(lambda: sum(q.requests for q in kept(site).quarters) == answers, "all count", 20)
    books = kept(site)
    records = [one for one in ended(site) if one.energy_wh]
    charged = sum(sum(q.requests_wh.values()) for q in books.quarters)
    assert charged == pytest.approx(sum(one.energy_wh for one in records), rel=1e-9)
    assert {one.method for one in records} == {"estimated"}
    for quarter in books.quarters:
        parts = parts_of(quarter)
        print(
            f"seen {quarter.seen_s:.1f} s: meter {parts.drawn_wh:.3f} Wh ({parts.drawn_method}), requests "
            f"{sum(parts.requests_wh.values()):.3f}, idle {parts.idle_wh:.3f}, overhead {parts.overhead_wh:.3f}, others "
            f"{parts.others_wh:.3f}, open {parts.open_share:.3%}, {quarter.requests} requests"
        )
        if quarter.seen_s > 20.0:  # a quarter of an hour may end in the middle of this
            assert (parts.drawn_method, parts.it_method) == ("measured", "measured")
            assert parts.drawn_error_share == pytest.approx(0.01)
            assert parts.open_share <= CLOSES_SHARE
            assert parts.overhead_wh > 0.0
    told = check_statement(site, answers, records, tmp_path)
    assert told["tenant"] == "tester"


def check_statement(site: Site, answers: int, records: list[Ended], folder: Path) -> dict[str, Any]:
    """The command line's statement of this month says what clients and records say."""
    month = time.strftime("%Y-%m", time.gmtime())
    out = folder / "out"
    asked = ("--tenant", "tester", "--month", month, "--state", str(site.state.path))
    done = hanse("statement", *asked, "--out", str(out), "--json")
    assert done.returncode == 1, done.stderr  # the month is not over
    (told,) = json.loads(done.stdout)
    assert told["missing"] == ["the period is not over"]
    assert told["requests"] == told["fates"]["answered"] == told["residency"]["lawful"] == answers
    assert told["tokens_in"] == 7 * answers
    assert told["energy_wh"]["estimated"] == pytest.approx(sum(r.energy_wh for r in records))
    assert told["cost_usd"] == pytest.approx(sum(r.cost_usd for r in records))
    assert [(p["country"], p["site"]) for p in told["places"]] == [("DE", SITE)]
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        f"statement-tester-{month}.{kind}" for kind in ("csv", "html", "json", "receipts")
    ]
    rows = csv.DictReader(io.StringIO((out / names[0]).read_text()))
    assert {r["quantity"]: r["value"] for r in rows if r["kind"] == "total"}["requests"] == str(
        answers
    )
    return dict(told)


# --- a disk that fills up -------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a file system of its own needs root; tests/live/test_retention.py needs none")
    disk = tmp_path / "state"
    disk.mkdir(mode=0o700)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=96m,mode=700", "hanse-test", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def filled(disk: Path, left_bytes: int) -> Path:
    """A file that leaves so much room."""
    path = disk / "somebody-elses"
    found = os.statvfs(disk)
    with path.open("wb", buffering=0) as file:
        wanted = found.f_bavail * found.f_frsize - left_bytes
        with contextlib.suppress(OSError):
            while left_bytes == 0 or file.tell() < wanted:
                file.write(bytes(min(1 << 16, max(wanted - file.tell(), 1))))
    return path


def stores(site: Site) -> bool:
    """Whether a stream of the site's own bus takes a message; more of it than the store holds back."""

    async def publish() -> bool:
        runtime = site.state.read_runtime()
        try:
            client = await bus.connect_leaf(runtime, site.state, SITE, name="test")
        except SiteError:
            return False
        try:
            js = client.jetstream(timeout=2.0)
            await js.publish(bus.site_subject(SITE, "evidence"), bytes(500_000))
        except Exception:
            return False
        finally:
            await bus.leave(client)
        return True

    return asyncio.run(publish())


def test_a_site_on_a_full_disk_refuses_and_serves_again_with_nothing_unproven(
    small_disk: Path, tmp_path: Path
) -> None:
    engine = Engine()
    with ExitStack() as stack:
        url = stack.enter_context(served(engine))
        text = FLEET.format(pools=POOLS.format(engine=url), more=PLACED)
        site = Site(tmp_path, text)
        stack.callback(site.stop)
        assert burst(site, 2, 2.0) > 0
        level = f'hanse_site_disk_level{{site="{SITE}"}}'
        wait_until(lambda: site.metrics().get(level) == 0.0, "the disk has room", 20)
        filler = filled(small_disk, 600_000)
        since_s = time.monotonic()
        wait_until(lambda: site.ask("public")[0] == 503, "requests are refused", 20)
        print(f"refused {time.monotonic() - since_s:.1f} s after the disk was full")
        status, answer = site.ask("public")
        assert (status, answer["error"]["code"]) == (503, "no_evidence")
        assert "disk is full" in answer["error"]["message"]
        wait_until(lambda: site.metrics().get(level) == 2.0, "Prometheus sees it", 20)
        filler.unlink()
        since_s = time.monotonic()
        wait_until(lambda: site.ask("public")[0] == 200, "it serves again", 30)
        print(f"served {time.monotonic() - since_s:.1f} s after there was room")
        # Now to the last byte, at once: what the kernel does not take is not admitted either.
        filler = filled(small_disk, 0)
        statuses = {site.ask("public")[0] for _ in range(12)}
        assert statuses <= {200, 503}
        wait_until(lambda: site.ask("public")[0] == 503, "requests are refused", 20)
        wait_until(lambda: not stores(site), "the bus meets the full disk too", 30)
        filler.unlink()
        wait_until(lambda: site.ask("public")[0] == 200, "it serves again", 30)
        wait_until(lambda: stores(site), "the bus stores again", 30)
        assert burst(site, 2, 2.0) > 0
        time.sleep(3.0)
        pem = (site.state.ca_dir / "ca.pem").read_bytes()
        report = audit(site.state.path, pem, until_s=time.time() - 2.0)
        print(f"{report.proven} proven, {report.denied} denied, {report.unproven} unproven")
        assert report.findings == ()
        assert report.unproven == 0, report.unproven_requests
