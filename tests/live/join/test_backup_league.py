"""A hub that is killed and whose directory is gone comes back from a backup; the site that joined it never noticed but for the cut."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest

from hanse.live.evidence import audit
from live.join.machines import Machine, address, get, machines, until
from live.join.test_join import _hanse, founded, ready

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

MODEL = "tiny-135m-q4-1"


@pytest.fixture
def two(tmp_path: Path):
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    a, b = Machine(tmp_path / "a", "127.0.0.1"), Machine(tmp_path / "b", "127.0.0.2")
    with machines(a, b):
        yield a, b


def kill_all(machine: Machine, name: str) -> int:
    """kill -9 of every process that names a directory of the machine, as a power cut does."""
    wanted = str(machine.home / name)
    killed = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if wanted in path.read_bytes().replace(b"\0", b" ").decode(errors="replace"):
                os.kill(int(path.parent.name), signal.SIGKILL)
                killed += 1
    return killed


class Users:
    """Somebody who asks the joined site all the time, whatever the hub does."""

    def __init__(self, machine: Machine, url: str, key: str) -> None:
        self._ask = lambda: machine.ask(url, key, MODEL)["status"]
        self.statuses: list[int] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.wait(0.15):
            self.statuses.append(self._ask())

    def stop(self) -> None:
        self._end.set()
        self._thread.join()


def lyon_state(a: Machine) -> str:
    hub = a.state("A").read_runtime().hub
    assert hub is not None
    status, body = get(f"{hub.dashboard_url}/api/view.json")
    if status != 200:
        return "no answer"
    return next(one["state"] for one in json.loads(body)["sites"] if one["id"] == "lyon")


def proven(a: Machine, ca: bytes) -> int:
    """Requests that the hub's copy proves; nothing in it may be amiss."""
    report = audit(a.state("A").hub / "evidence", ca, until_s=time.time() - 3.0)
    assert [f for f in report.findings if f.site == "lyon"] == []
    return report.proven


def test_backup_kill_delete_restore_and_go_on(two: tuple[Machine, Machine]) -> None:
    a, b = two
    founded(a)
    key = (a.home / "A/keys/own.key").read_text().strip()
    ca = (a.home / "A/ca/ca.pem").read_bytes()
    token = a.hanse("token", "lyon", "--state", "A").strip()
    url = b.server("tiny-135m-q4_1")
    come = ("join", "--city", "Lyon", "--host", b.host, "--grid-kw", "2", "--url", url)
    b.hanse(*come, "--state", "B", stdin=token + "\n")
    ready(b, "B", "lyon")
    lyon_url = address(b.state("B"), "lyon").local_url
    until(lambda: lyon_state(a) == "up", "the hub sees lyon", 30)

    users = Users(b, lyon_url, key)
    try:
        until(lambda: proven(a, ca) >= 20, "the hub has records of lyon", 60)
        a.hanse("backup", "hub.tar", "--state", "A")  # while it runs and users ask
        assert (a.home / "hub.tar").stat().st_mode & 0o777 == 0o600
        in_backup = proven(a, ca)
        a.hanse("restore", "hub.tar", "--state", "A", code=2)
        assert "a hub that runs" in a.said
        before = len(users.statuses)
        until(lambda: len(users.statuses) > before + 20, "users go on", 30)

        assert kill_all(a, "A") >= 5
        until(lambda: lyon_state(a) == "no answer", "the hub is gone", 10)
        shutil.rmtree(a.home / "A")
        before = len(users.statuses)
        until(lambda: len(users.statuses) > before + 20, "users go on without a hub", 30)

        a.hanse("restore", "hub.tar", "--state", "A")
        said = a.said
        assert "revision 2" in said
        since_s = time.monotonic()
        a.start("hub", *_hanse("hub", "--state", "A"))
        until(lambda: lyon_state(a) == "up", "lyon is back by itself", 60)
        back_s = time.monotonic() - since_s
        before = len(users.statuses)
        until(lambda: len(users.statuses) > before + 20, "users go on", 30)
    finally:
        users.stop()
    total = len(users.statuses)
    assert set(users.statuses) == {200}  # nobody noticed
    since_s = time.monotonic()
    until(lambda: proven(a, ca) >= total, "every record is at the hub", 90)
    caught_up_s = time.monotonic() - since_s
    assert proven(a, ca) == total
    print(
        f"{in_backup} requests in the backup, {total} in all; lyon up {back_s:.1f} s after the hub's start, "
        f"records complete {caught_up_s:.1f} s after the last request"
    )
    month = time.strftime("%Y-%m", time.gmtime())
    asked = ("--month", month, "--state", "A", "--json", "--out", "out")
    statements = {s["tenant"]: s for s in json.loads(a.hanse("statement", *asked, code=1))}
    assert statements[""]["requests"] == total
    assert statements[""]["residency"]["lawful"] == total
    assert {p["site"] for p in statements[""]["places"]} == {"lyon"}
    check_receipt(a, b, lyon_url, key, month)


def check_receipt(a: Machine, b: Machine, url: str, key: str, month: str) -> None:
    """A receipt that a client fetched is in the statement that the restored hub signed."""
    (listed,) = (a.home / "out").glob(f"statement-all-{month}.receipts")
    request_id = listed.read_text().split()[0]
    done = b.within(
        "curl", "-s", f"{url}/hanse/v1/requests/{request_id}/receipt", "-H", f"authorization: Bearer {key}"
    )  # fmt: skip
    import subprocess

    receipt = subprocess.run(done, capture_output=True, check=True, timeout=30).stdout
    (a.home / "receipt.json").write_bytes(receipt)
    a.hanse(
        "verify", "receipt.json", "--ca", "A/ca/ca.pem", "--statement", str(listed.with_suffix(".json"))
    )  # fmt: skip
    assert "counted in the statement" in a.said
    told = json.loads(listed.with_suffix(".json").read_text())
    told["said"]["statement"]["requests"] += 1
    listed.with_suffix(".json").write_text(json.dumps(told))
    a.hanse(
        "verify", "receipt.json", "--ca", "A/ca/ca.pem", "--statement", str(listed.with_suffix(".json")), code=1
    )  # fmt: skip
    assert "it was changed" in a.said
