"""Six promises about sites that are cut off, on a WAN of real packets between namespaces; F is in `test_namespaces`.

One league for all tests here: a hub with a site beside it, and two sites that joined. Each test heals what it broke. What is measured is
printed (`pytest -s`), and bounded as docs/failures.md says.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.live.tun import why_not
from live.join.cut_off import SERVICE, Users, Wide
from live.join.machines import address, until

DETECT_S_MAX = 5.0
BACKFILL_S_MAX = 5.0
CUT_S = 60.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed"),
    pytest.mark.skipif(shutil.which("ss") is None, reason="iproute2 is not installed"),
]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wide]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with Wide(tmp_path_factory.mktemp("wide")) as made:
        yield made


@pytest.fixture
def league(kept: Wide) -> Wide:
    kept.heal()
    kept.wait_until_whole()
    return kept


def told(text: str) -> None:
    sys.stderr.write(f"\n{text}\n")


def test_promise_a_all_killed_while_cut_off_comes_back_from_disk_and_serves(league: Wide) -> None:
    lyon = league.machines["lyon"]
    assert league.ask("lyon")["status"] == 200
    table = (league.state("lyon").site("lyon") / "current").read_text()
    league.alone("lyon")
    killed = league.kill(lyon)
    assert killed >= 6, "keeper, bus, agent, gateway, batches, engine"
    began_s = time.monotonic()
    league.serve("lyon")
    league.start_site("lyon", "lyon")
    until(lambda: league.ready("lyon", "lyon"), "lyon comes back with nobody to ask", 60)
    ready_s = time.monotonic() - began_s
    answer = league.ask("lyon")
    assert (answer["status"], answer["site"]) == (200, "lyon"), answer
    assert (league.state("lyon").site("lyon") / "current").read_text() == table
    until(lambda: league.verdict("lyon") == "dead", "nobody hears it: it is alone", 10)
    league.heal()
    back_s = until(lambda: league.up("lyon"), "the hub hears lyon", 30)
    assert league.ask("lyon")["status"] == 200
    told(
        f"A: {killed} processes killed; serves {ready_s:.1f} s after start, heard {back_s:.1f} s after healing"
    )
    assert ready_s < 30


def stream(league: Wide, site: str, count: int, log: Path) -> subprocess.Popen[bytes]:
    """A stream of so many chunks, four a second, by curl."""
    body = {"model": SERVICE, "max_tokens": count, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}  # fmt: skip
    url = f"{address(league.state(site), site).local_url}/v1/chat/completions"
    command = league.machines[site].within(
        "curl", "-sN", "-m", "60", url, "-H", f"authorization: Bearer {league.key}",
        "-H", "content-type: application/json", "-d", json.dumps(body),
    )  # fmt: skip
    with log.open("wb") as out:
        return subprocess.Popen(command, stdout=out)


def numbers(log: Path) -> list[int]:
    chunks = [
        json.loads(line[6:]) for line in log.read_text().splitlines() if line.startswith("data: {")
    ]
    texts = [c["choices"][0]["delta"].get("content", "") for c in chunks if c.get("choices")]
    return [int(text.rpartition(":")[2]) for text in texts if text]


def test_promise_b_reconnecting_restarts_kills_and_deletes_nothing(
    league: Wide, tmp_path: Path
) -> None:
    """Meanwhile the hub dies, leads under a higher epoch, and has another fleet file in force."""
    hub = league.machines["hub"]
    pids, began = league.pids("lyon"), league.site("lyon")["status"]["started_at_s"]
    seats = (league.state("lyon").site("lyon") / "seats.json").read_bytes()
    log = tmp_path / "stream"
    flowing = stream(league, "lyon", 140, log)  # 35 s
    until(lambda: len(numbers(log)) > 4, "the stream flows", 20)
    league.cut("hub", "lyon")
    until(lambda: league.verdict("lyon") == "cut", "the hub sees the cut", 10)
    epoch = league.view()["epoch"]
    league.kill_hub()
    until(lambda: not league.view(), "the hub is gone", 10)
    league.start_hub()
    until(lambda: league.view().get("epoch", 0) > epoch, "it leads under a higher epoch", 40)
    text = (league.hub.path / "fleet.toml").read_text()
    assert "valid_s = " in text
    (hub.home / "next.toml").write_text(text.replace("valid_s = ", "valid_s = 1", 1))
    hub.hanse("apply", "next.toml", "--yes", "--state", "S")
    revision = league.view()["fleet_revision"]
    league.heal()
    back_s = until(lambda: league.up("lyon"), "the hub hears lyon again", 30)
    follows_s = until(
        lambda: league.site("lyon")["status"]["fleet_revision"] == revision, "lyon has the new fleet", 30
    )  # fmt: skip
    assert flowing.wait(60) == 0
    assert numbers(log) == list(range(140)), "every chunk once, in order"
    assert "data: [DONE]" in log.read_text()
    assert "event: error" not in log.read_text()
    time.sleep(5)  # what would be ended late
    assert league.pids("lyon") == pids
    assert league.site("lyon")["status"]["started_at_s"] == began
    assert (league.state("lyon").site("lyon") / "seats.json").read_bytes() == seats
    told(
        f"B: {len(pids)} processes as before; heard {back_s:.1f} s after healing, new fleet {follows_s:.1f} s later"
    )


def test_promise_c_a_cut_is_told_from_a_death_by_what_neighbours_hear(league: Wide) -> None:
    log = len(league.hub_log())
    league.cut("hub", "lyon")
    cut_s = until(lambda: league.verdict("lyon") == "cut", "the hub takes lyon for cut off", 15)
    for _ in range(40):
        assert league.verdict("lyon") == "cut"
        time.sleep(0.1)
    assert "lyon is dead" not in league.hub_log()[log:]
    assert league.ask("paris")["status"] == 200
    league.heal()
    heard_s = until(lambda: league.verdict("lyon") == "" and league.up("lyon"), "heard again", 30)

    league.wait_until_whole()
    league.kill(league.machines["lyon"])
    dead_s = until(lambda: league.verdict("lyon") == "dead", "the hub takes lyon for dead", 15)
    league.serve("lyon")
    league.start_site("lyon", "lyon")
    until(lambda: league.up("lyon"), "lyon is back", 60)

    told(
        f"C: cut known {cut_s:.1f} s after it, dead {dead_s:.1f} s after kill -9, heard {heard_s:.1f} s after healing"
    )
    assert cut_s < DETECT_S_MAX
    assert dead_s < DETECT_S_MAX


def test_promise_c_singleton_work_moves_with_an_epoch_and_the_old_home_gives_up_by_itself(
    league: Wide,
) -> None:
    """A batch of two homes: its home is cut off from everybody, the hub too."""
    lines = 3000
    batch_id = begin_batch(league, "lyon", lines)

    def under_way() -> bool:
        shown = batch(league, "lyon", batch_id)
        return (
            "hanse:standby" in shown.get("metadata", {})
            and shown["request_counts"]["completed"] > 20
        )

    until(under_way, "the batch has a standby", 60)
    shown = batch(league, "lyon", batch_id)
    standby = shown["metadata"]["hanse:standby"]
    league.alone("lyon")
    cut_at_s = time.monotonic()
    until(
        lambda: f"{batch_id}: neither its standby nor the hub answers: waits" in league.site_log("lyon", "batch"),
        "the old home gives up by itself", 20,
    )  # fmt: skip
    gave_up_s = time.monotonic() - cut_at_s
    until(lambda: f"{batch_id}: lyon is silent; taking over" in league.site_log(standby, "batch"), "the standby takes over", 40)  # fmt: skip
    took_s = time.monotonic() - cut_at_s
    assert gave_up_s < took_s, "never two at work at once"
    time.sleep(1.5)  # what was in flight has ended
    before = batch(league, "lyon", batch_id)["request_counts"]["completed"]
    time.sleep(3)
    assert batch(league, "lyon", batch_id)["request_counts"]["completed"] == before, (
        "the old home began no more lines"
    )
    league.heal()
    until(lambda: batch(league, "lyon", batch_id).get("metadata", {}).get("hanse:home") == standby, "lyon knows its successor", 30)  # fmt: skip
    until(lambda: batch(league, standby, batch_id).get("status") == "completed", "it ends", 120)
    done = batch(league, standby, batch_id)
    assert done["request_counts"]["completed"] == lines
    rows = fetch(league, standby, f"/v1/files/{done['output_file_id']}/content").splitlines()
    ids = [json.loads(row)["custom_id"] for row in rows]
    assert ids == [f"line-{n}" for n in range(lines)], "every line once"
    told(
        f"C: the old home stopped {gave_up_s:.1f} s after the cut, {standby} took over after {took_s:.1f} s"
    )


def place_of(site: str) -> str:
    return "hub" if site == "berlin" else site


def fetch(league: Wide, site: str, path: str, *more: str) -> str:
    url = address(league.state(site), site).local_url + path
    command = ("curl", "-s", "-m", "20", url, "-H", f"authorization: Bearer {league.key}", *more)
    machine = league.machines[place_of(site)]
    return subprocess.run(
        machine.within(*command), capture_output=True, text=True, check=False
    ).stdout


def batch(league: Wide, site: str, batch_id: str) -> dict:
    try:
        return dict(json.loads(fetch(league, site, f"/v1/batches/{batch_id}")))
    except ValueError:
        return {}


def begin_batch(league: Wide, site: str, lines: int) -> str:
    path = league.machines[site].home / "lines.jsonl"
    body = {"model": SERVICE, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
    row = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    path.write_text(
        "".join(json.dumps(row | {"custom_id": f"line-{n}"}) + "\n" for n in range(lines))
    )
    made = json.loads(
        fetch(league, site, "/v1/files", "-F", "purpose=batch", "-F", f"file=@{path}")
    )
    asked = {
        "input_file_id": made["id"],
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    }
    head = ("-H", "content-type: application/json", "-d", json.dumps(asked))
    return str(json.loads(fetch(league, site, "/v1/batches", *head))["id"])


def test_promise_d_records_of_a_cut_arrive_once_and_in_order_also_after_a_restart(
    league: Wide,
) -> None:
    """A minute alone, users asking all the time, everything killed and started again in the middle."""
    began_s = time.time()
    users = Users(lambda: league.ask("lyon"))
    try:
        league.alone("lyon")
        cut_at_s = time.monotonic()
        silent_s = until(lambda: league.verdict("lyon") != "", "the hub misses lyon", 15)
        until(lambda: time.monotonic() - cut_at_s > CUT_S / 3, "a third of the cut", 60)
        with users.quiet():
            league.kill(league.machines["lyon"])
            league.serve("lyon")
            league.start_site("lyon", "lyon")
            until(lambda: league.ready("lyon", "lyon"), "lyon is back while cut off", 60)
        until(lambda: time.monotonic() - cut_at_s > CUT_S, "the cut", 120)
    finally:
        ended_s = users.stop()
    receipt = receipt_of_now(league, "lyon")
    cut_s = time.monotonic() - cut_at_s
    assert set(users.statuses) == {200}, "nobody noticed"
    total = len(users.statuses)
    held = league.copied("lyon")
    league.heal()
    healed_s = time.monotonic()
    until(
        lambda: league.proven_between(began_s, ended_s)[0] >= total,
        "every record is at the hub",
        60,
    )
    backfill_s = time.monotonic() - healed_s
    proven = league.proven_between(began_s, ended_s)
    files, records = league.copied("lyon")
    assert proven == (total, 0), "nothing twice, nothing unproven"
    assert files > held[0], "a restart begins another chain"
    authority = ("--ca", str(league.hub.ca_dir / "ca.pem"))
    league.machines["lyon"].hanse("verify", str(receipt), *authority)
    told(
        f"D: cut for {cut_s:.0f} s, missed after {silent_s:.1f} s; {total} requests, all proven {backfill_s:.1f} s after "
        f"healing; copy of {records} records in {files} files is the site's own, byte for byte"
    )
    assert silent_s < DETECT_S_MAX
    assert backfill_s < BACKFILL_S_MAX


def receipt_of_now(league: Wide, site: str) -> Path:
    """Of a request that is made now, as the site itself signs it."""
    body = {"model": SERVICE, "max_tokens": 4, "messages": [{"role": "user", "content": "Hi"}]}
    more = ("-i", "-H", "content-type: application/json", "-d", json.dumps(body))
    head = fetch(league, site, "/v1/chat/completions", *more)
    named = next(line for line in head.splitlines() if line.lower().startswith("x-request-id"))
    where = f"/hanse/v1/requests/{named.split(':')[1].strip()}/receipt"
    path = league.machines[site].home / "receipt.json"

    def there() -> bool:
        path.write_text(fetch(league, site, where))
        return '"error"' not in path.read_text() and path.stat().st_size > 100

    until(there, "a receipt, once it is sealed", 20)
    return path


def leaf_ports(league: Wide, site: str) -> set[int]:
    """Local ports of a site's connections to the hub's leaf port."""
    done = subprocess.run(
        league.machines[site].within("ss", "-Htn", "state", "established", "dport", "=", ":8445"),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {
        int(line.split()[2].rpartition(":")[2]) for line in done.stdout.splitlines() if line.strip()
    }


def test_promise_e_a_wedged_link_is_noticed_and_restarted(league: Wide) -> None:
    """Packets of the open connection vanish, nothing is reset; new connections would pass."""
    (port,) = leaf_ports(league, "lyon")
    pids = league.pids("lyon")
    league.lose_ports("hub", "lyon", port)
    wedged_s = time.monotonic()
    noticed_s = until(lambda: league.verdict("lyon") == "cut", "the hub misses lyon", 15)
    until(lambda: league.up("lyon"), "the link is made anew", 30)
    back_s = time.monotonic() - wedged_s
    assert leaf_ports(league, "lyon") - {port}, "by another connection"
    assert league.pids("lyon") == pids, "and no process was restarted for it"
    told(
        f"E: a wedged connection missed after {noticed_s:.1f} s, made anew {back_s:.1f} s after it wedged"
    )
    assert noticed_s < DETECT_S_MAX
    assert back_s < 15


def test_promise_e_a_bus_that_hangs_is_started_anew(league: Wide) -> None:
    """Frozen: it holds every connection open and says nothing. Nobody but its own site can tell, and that ends it by force."""
    pids = league.pids("lyon")
    os.kill(pids["nats"], signal.SIGSTOP)
    frozen_s = time.monotonic()
    noticed_s = until(lambda: league.verdict("lyon") == "cut", "the hub misses lyon", 15)
    assert league.ask("lyon")["status"] == 200, "requests need no bus"
    until(lambda: league.pids("lyon")["nats"] != pids["nats"], "the bus is another process", 60)
    anew_s = time.monotonic() - frozen_s
    until(lambda: league.up("lyon"), "the hub hears lyon", 30)
    back_s = time.monotonic() - frozen_s
    after = league.pids("lyon")
    assert {n: p for n, p in after.items() if n != "nats"} == {
        n: p for n, p in pids.items() if n != "nats"
    }, "nothing else was restarted"
    told(
        f"E: a frozen bus missed after {noticed_s:.1f} s, started anew after {anew_s:.1f} s, heard after {back_s:.1f} s"
    )
    assert noticed_s < DETECT_S_MAX
    assert back_s < 45


def test_a_hub_that_crashes_and_another_in_its_place_restart_no_site(league: Wide) -> None:
    """The hub is killed, a backup of it is started on another machine, and its name moves there. The last test: it ends the old hub."""
    hub, spare = league.machines["hub"], league.machines["spare"]
    pids = {site: league.pids(site) for site in ("lyon", "paris")}
    epoch = league.view()["epoch"]
    began_s = time.time()
    users = Users(lambda: league.ask("lyon"))
    try:
        hub.hanse("backup", "hub.tar", "--state", "S")
        league.kill_hub()
        until(lambda: not league.view(), "the hub is gone", 10)
        asked = len(users.statuses)
        until(lambda: len(users.statuses) > asked + 20, "users go on without a hub", 30)
        spare.hanse("restore", str(hub.home / "hub.tar"), "--state", "S")
        moved_s = time.monotonic()
        league.start_hub(place="spare")
        league.name_hub("spare")
        for site in pids:
            until(
                lambda site=site: league.up(site, "spare"), f"{site} reports to the other hub", 60
            )
        homed_s = time.monotonic() - moved_s
        until(
            lambda: league.view("spare").get("epoch", 0) > epoch,
            "it leads under a higher epoch",
            30,
        )
        until(
            lambda: all(league.site(site, "spare")["fleet_in_force"] for site in pids),
            "sites act by its tables", 30,
        )  # fmt: skip
        asked = len(users.statuses)
        until(lambda: len(users.statuses) > asked + 10, "users go on", 30)
    finally:
        ended_s = users.stop()
    total = len(users.statuses)
    assert set(users.statuses) == {200}, "nobody noticed"
    since_s = time.monotonic()
    until(
        lambda: league.proven_between(began_s, ended_s, "spare") == (total, 0),
        "every record is at the other hub", 60,
    )  # fmt: skip
    whole_s = time.monotonic() - since_s
    assert {site: league.pids(site) for site in pids} == pids, "no process was restarted"
    told(
        f"hub: sites report to another hub {homed_s:.1f} s after its start; {total} requests answered meanwhile, "
        f"records whole {whole_s:.1f} s after the last"
    )
    assert homed_s < 30
