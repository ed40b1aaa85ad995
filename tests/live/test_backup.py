"""The hub on one file and back: nothing that was in it is lost, nothing is overwritten, what was changed is found."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from hanse.errors import ConfigError
from hanse.live import bus
from hanse.live.backup import MANIFEST, Manifest, back_up, hub_files, restore
from hanse.live.first_start import Prepared, prepare
from hanse.live.hub_streams import save_streams, stream_names
from hanse.live.runtime import StateDir
from hanse.live.supervise import write_pid

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"
NOW_S = 1_800_000_000.0


@pytest.fixture
def hub(tmp_path: Path) -> Prepared:
    text = LEAGUE.read_text()
    for port in range(8101, 8106):
        text = text.replace(f"port = {port}", "port = 0")
    (tmp_path / "league.toml").write_text(text)
    prepared = prepare(tmp_path / "league.toml", tmp_path / "a")
    evidence = prepared.state.hub / "evidence" / "lyon"
    evidence.mkdir(parents=True)
    (evidence / "seals.log").write_bytes(b"seals" * 1000)
    (evidence / "lyon-0-00000001.log").write_bytes(os.urandom(300_000))
    (prepared.state.hub / "controller-epoch").write_text("7\n")
    return prepared


@contextmanager
def running(state: StateDir) -> Iterator[None]:
    """The hub's bus, and a hub's pid file."""
    log = (state.hub / "log" / "nats.log").open("ab")
    server = subprocess.Popen(bus.server_command(state.hub / "hub.conf"), stdout=log, stderr=log)
    holder = subprocess.Popen(["sleep", "600"])
    write_pid(state.hub / "pid" / "hub.pid", holder.pid)
    try:
        yield
    finally:
        holder.kill()
        holder.wait()
        server.send_signal(signal.SIGTERM)
        server.wait(20)
        log.close()


def on_bus(prepared: Prepared, act):  # type: ignore[no-untyped-def]
    async def connected():  # type: ignore[no-untyped-def]
        runtime, state = prepared.runtime, prepared.state
        client = await bus.connect_when_up(lambda: bus.connect_hub(runtime, state, name="test"))
        try:
            return await act(client)
        finally:
            await bus.leave(client)

    return asyncio.run(connected())


async def fill(client) -> None:  # type: ignore[no-untyped-def]
    await bus.ensure_hub_streams(client, ["lyon", "london"])
    js = client.jetstream(timeout=5.0)
    for number in range(20):
        await js.publish(bus.TABLE_SUBJECT, os.urandom(100_000) + bytes([number]))
    await js.publish("site.lyon.own.b-1", b"open")
    await js.pull_subscribe("", durable="archive", stream=bus.TABLES)


async def contents(client) -> dict[str, object]:  # type: ignore[no-untyped-def]
    js = client.jetstream(timeout=5.0)
    found: dict[str, object] = {}
    for name in await stream_names(client):
        info = await js.stream_info(name)
        last = info.state.last_seq
        data = [bytes((await js.get_msg(name, seq)).data or b"") for seq in range(max(1, info.state.first_seq), last + 1)]  # fmt: skip
        found[name] = (info.state.messages, last, data, info.state.consumer_count)
    return found


def files(state: StateDir) -> dict[str, bytes]:
    return {
        p.relative_to(state.path).as_posix(): p.read_bytes()
        for p in hub_files(state, streams=False)
    }


@pytest.mark.timeout(120)
def test_a_running_hub_comes_back_with_streams_consumers_and_files(
    hub: Prepared, tmp_path: Path
) -> None:
    state = hub.state
    with running(state):
        on_bus(hub, fill)
        before = on_bus(hub, contents)
        made = back_up(state, tmp_path, NOW_S)
    assert made.manifest.running
    assert Path(made.path).stat().st_mode & 0o777 == 0o600
    assert {s.name for s in made.manifest.streams} >= {bus.TABLES, bus.EVIDENCE, bus.OWNERS}
    expected = files(state)
    assert "ca/ca.key" in expected
    assert "hub/bus.json" in expected
    shutil.rmtree(state.path)
    manifest = restore(Path(made.path), state)
    assert manifest == made.manifest
    assert files(state) == expected
    assert not list(state.path.glob(".restore*"))
    assert not (state.hub / "restore.conf").exists()
    assert state.path.stat().st_mode & 0o077 == 0
    for path in (p for p in state.path.rglob("*") if "jetstream" not in p.parts):
        assert path.stat().st_mode & 0o077 == 0, path
    bus.write_hub_conf(hub.runtime, state, {})
    with running(state):
        assert on_bus(hub, contents) == before


@pytest.mark.timeout(120)
def test_a_hub_that_does_not_run_is_saved_with_its_streams_files(
    hub: Prepared, tmp_path: Path
) -> None:
    with running(hub.state):
        on_bus(hub, fill)
        before = on_bus(hub, contents)
    made = back_up(hub.state, tmp_path / "b.tar", NOW_S)
    assert not made.manifest.running
    assert any("jetstream" in name for name in made.manifest.members)
    shutil.rmtree(hub.state.path)
    restore(tmp_path / "b.tar", hub.state)
    bus.write_hub_conf(hub.runtime, hub.state, {})
    with running(hub.state):
        assert on_bus(hub, contents) == before


@pytest.mark.timeout(120)
def test_a_snapshot_is_of_one_instant_while_others_write(hub: Prepared, tmp_path: Path) -> None:
    async def both(client) -> tuple[int, int]:  # type: ignore[no-untyped-def]
        await fill(client)
        js = client.jetstream(timeout=5.0)
        ended = asyncio.Event()

        async def write() -> int:
            count = 0
            while not ended.is_set():
                await js.publish("site.lyon.own.b-2", b"x" * 2000)
                count += 1
            return count

        writing = asyncio.create_task(write())
        (tmp_path / "streams").mkdir()
        saved = await save_streams(client, tmp_path / "streams")
        ended.set()
        await writing
        owners = next(s for s in saved if s.name == bus.OWNERS)
        return owners.messages, owners.last_seq

    with running(hub.state):
        messages, last = on_bus(hub, both)
    assert messages == last >= 1


def saved(hub: Prepared, tmp_path: Path) -> Path:
    back_up(hub.state, tmp_path / "b.tar", NOW_S)
    return tmp_path / "b.tar"


def test_a_backup_overwrites_nothing_and_needs_a_hub(hub: Prepared, tmp_path: Path) -> None:
    path = saved(hub, tmp_path)
    with pytest.raises(ConfigError, match="there already"):
        back_up(hub.state, path, NOW_S)
    shutil.rmtree(hub.state.ca_dir)
    with pytest.raises(ConfigError, match="authority"):
        back_up(hub.state, tmp_path / "c.tar", NOW_S)
    assert not list(tmp_path.glob(".*tar*"))


def test_a_restore_overwrites_no_hub_living_or_dead(hub: Prepared, tmp_path: Path) -> None:
    path = saved(hub, tmp_path)
    with pytest.raises(ConfigError, match="a hub's directory of"):
        restore(path, hub.state)
    holder = subprocess.Popen(["sleep", "600"])
    write_pid(hub.state.hub / "pid" / "hub.pid", holder.pid)
    try:
        with pytest.raises(ConfigError, match="a hub that runs"):
            restore(path, hub.state)
    finally:
        holder.kill()
        holder.wait()
    shutil.rmtree(hub.state.hub)
    (hub.state.path / "fleet.toml").write_text("another")
    with pytest.raises(ConfigError, match=r"differ from the backup's: fleet\.toml"):
        restore(path, hub.state)
    assert (hub.state.path / "fleet.toml").read_text() == "another"
    assert not hub.state.hub.exists()
    (hub.state.path / "fleet.toml").unlink()
    restore(path, hub.state)  # what is left of the same hub is no hindrance
    assert (hub.state.hub / "controller-epoch").read_text() == "7\n"


def rewritten(path: Path, change) -> Path:  # type: ignore[no-untyped-def]
    """The same archive with members changed: `change(name, data)` gives (name, data) or None."""
    target = path.with_name("changed.tar")
    with tarfile.open(path) as old, tarfile.open(target, "w") as new:
        for member in old:
            data = old.extractfile(member).read()  # type: ignore[union-attr]
            made = change(member.name, data)
            if made is not None:
                info = tarfile.TarInfo(made[0])
                info.size = len(made[1])
                new.addfile(info, io.BytesIO(made[1]))
    return target


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda n, d: (n, d[:-1] + b"!") if n.endswith("ca.key") else (n, d), "not what was saved"),
        (lambda n, d: None if n.endswith("seals.log") else (n, d), "not what was saved"),
        (lambda n, d: None if n == MANIFEST else (n, d), "no manifest"),
        (lambda n, d: ("state/../../evil", d) if n.endswith("seals.log") else (n, d), "no backup has"),
        (lambda n, d: ("/etc/evil", d) if n.endswith("seals.log") else (n, d), "no backup has"),
        (lambda n, d: (n, b"{}") if n == MANIFEST else (n, d), "no manifest"),
    ],
    ids=["changed", "left out", "no manifest", "climbs out", "absolute", "other manifest"],
)  # fmt: skip
def test_what_was_changed_is_found_and_nothing_is_put_in_place(
    hub: Prepared, tmp_path: Path, change, says: str
) -> None:
    bad = rewritten(saved(hub, tmp_path), change)
    other = StateDir(tmp_path / "other")
    with pytest.raises(ConfigError, match=says):
        restore(bad, other)
    assert list(other.path.iterdir()) == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_backup_is_no_backup(hub: Prepared, tmp_path: Path, share: float) -> None:
    path = saved(hub, tmp_path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    other = StateDir(tmp_path / "other")
    with pytest.raises(ConfigError):
        restore(path, other)
    assert list(other.path.iterdir()) == []


def test_links_sockets_and_halves_of_files_are_not_in_it(hub: Prepared, tmp_path: Path) -> None:
    (hub.state.hub / "evidence" / "link").symlink_to(LEAGUE)
    (hub.state.hub / ".half").write_text("x")
    path = saved(hub, tmp_path)
    with tarfile.open(path) as tar:
        names = tar.getnames()
        manifest = msgspec.json.decode(tar.extractfile(MANIFEST).read(), type=Manifest)  # type: ignore[union-attr]  # fmt: skip
    assert set(names) == {*manifest.members, MANIFEST}
    assert not any("link" in n.rsplit("/", 1)[-1] and "links.json" not in n for n in names)
    assert not any(".half" in n for n in names)
    assert not any(n.startswith("state/sites/") and "/hub/" not in n for n in names)
    order = [n.rsplit("/", 1)[-1] for n in names if "evidence/lyon" in n]
    assert order[0] == "seals.log"
    assert json.dumps(manifest.revision) == "1"
    assert manifest.at_s == NOW_S < time.time() * 10
