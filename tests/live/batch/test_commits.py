"""A real NATS server: of many runs of a line one is committed, and one's own commit is known again."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from nats.aio.client import Client

from hanse.live.batch.commits import (
    FETCH,
    FETCH_BYTES,
    HEAD_BYTES,
    Commits,
    Note,
    StreamFull,
    fitting,
)
from hanse.live.bus import PAYLOAD_BYTES_MAX, server_command


def note(run: str, *, ok: bool = True) -> Note:
    return Note(run=run, ok=ok, wh=0.5, tokens_out=8)


def with_bus(home: Path, test: Callable[[Client], Awaitable[None]]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    conf = home / "nats.conf"
    jetstream = {"store_dir": str(home / "js"), "max_file_store": 8 * 1024**3}
    told = {"host": "127.0.0.1", "port": port, "jetstream": jetstream}
    conf.write_text(json.dumps(told | {"max_payload": PAYLOAD_BYTES_MAX}))
    server = subprocess.Popen(
        server_command(conf), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    async def run() -> None:
        client = Client()
        until_s = time.monotonic() + 20.0
        while True:
            try:
                await client.connect(f"nats://127.0.0.1:{port}", max_reconnect_attempts=1)
                break
            except Exception:
                assert time.monotonic() < until_s
                await asyncio.sleep(0.1)
        try:
            await test(client)
        finally:
            await client.close()

    try:
        asyncio.run(run())
    finally:
        server.kill()
        server.wait()


def test_the_first_commit_wins_whoever_sends_it(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        commits = Commits(client)
        await commits.ensure()
        await commits.ensure()
        runs = [
            commits.commit("b1", line, b"%d of %d" % (run, line), note(f"{run}"))
            for line in range(20)
            for run in range(5)
        ]
        stored = await asyncio.gather(*runs)
        found = {line: (one.run, content) async for line, one, content in commits.read("b1")}
        assert sorted(found) == list(range(20))
        for line, (run, content) in found.items():
            assert content == f"{run} of {line}".encode()
            assert {one.run for one in stored[5 * line : 5 * line + 5]} == {run}
        again = await commits.commit("b1", 3, b"late", note("late"))
        assert again.run == found[3][0]

    with_bus(tmp_path, test)


def test_notes_come_without_contents_and_batches_do_not_mix(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        commits = Commits(client)
        await commits.ensure()
        for line in range(450):
            await commits.commit("b1", line, b"x" * 1000, note("r", ok=line % 2 == 0))
        await commits.commit("b2", 0, b"other", note("o"))
        notes = [(line, one.ok) async for line, one in commits.notes("b1")]
        assert notes == [(line, line % 2 == 0) for line in range(450)]
        assert [one async for one in commits.notes("none")] == []
        await commits.forget("b1")
        assert [one async for one in commits.notes("b1")] == []
        assert [content async for _, _, content in commits.read("b2")] == [b"other"]

    with_bus(tmp_path, test)


def test_a_batch_is_read_whose_contents_are_more_than_may_wait_on_a_connection(
    tmp_path: Path,
) -> None:
    content_bytes, count = 7 * 1024**2, 12  # 84 MiB, of which a server lets 64 wait

    async def test(client: Client) -> None:
        commits = Commits(client)
        await commits.ensure()
        for line in range(count):
            await commits.commit("b1", line, b"%x" % line * content_bytes, note("r"))
        found = [(line, content[:1], len(content)) async for line, _, content in commits.read("b1")]
        assert found == [(line, b"%x" % line, content_bytes) for line in range(count)]
        single = await asyncio.gather(*(commits.content("b1", line) for line in range(count)))
        assert [len(one or b"") for one in single] == [content_bytes] * count
        assert client.stats["reconnects"] == 0

    with_bus(tmp_path, test)


def test_a_full_stream_says_so_and_what_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanse.live.batch.commits.STREAM_BYTES_MAX", 100_000)

    async def test(client: Client) -> None:
        commits = Commits(client)
        await commits.ensure()
        for line in range(9):
            await commits.commit("b1", line, bytes(10_000), note("r"))
        with pytest.raises(StreamFull):
            await commits.commit("b2", 0, bytes(10_000), note("r"))
        assert await commits.stored_bytes("b1") == 90_000
        assert await commits.stored_bytes("b2") == 0
        assert (await commits.commit("b1", 3, b"late", note("late"))).run == "r"
        await commits.forget("b1")
        await commits.commit("b2", 0, bytes(10_000), note("r"))

    with_bus(tmp_path, test)


def test_contents_are_asked_for_by_their_sizes() -> None:
    assert fitting([1] * 1000, 0) == FETCH
    assert fitting([1] * 1000, 950) == 50
    third = FETCH_BYTES // 3 - HEAD_BYTES
    assert fitting([1, third, third, third + 2, third], 1) == 2
    assert fitting([2 * FETCH_BYTES], 0) == fitting([], 7) == 1
