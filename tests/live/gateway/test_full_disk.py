"""A site whose disk is full refuses what it could not put on record, ends what has begun, and serves again by itself."""

from __future__ import annotations

import asyncio
import errno
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from hanse.live.evidence import chain
from hanse.live.evidence.chain import Decided, Ended, Executed
from hanse.live.shared import DISK_FULL, DISK_LOW, DISK_ROOM, FLAG_DISK_LEVEL
from live.gateway.rig import Answer, SiteRig, ask, chat, run, start

ONE_TICK_S = 0.1


async def one_under_way(tmp_path: Path) -> tuple[SiteRig, asyncio.Event, asyncio.Task[Answer]]:
    """A site whose engine holds one request until the event is set, and what it will be answered."""
    site = (await start(tmp_path, sites=("lyon",)))["lyon"]
    hold = site.engines[0].hold = asyncio.Event()
    asked = asyncio.create_task(ask(site.port, chat()))
    while not site.records():
        await asyncio.sleep(ONE_TICK_S)
    return site, hold, asked


def test_a_full_disk_refuses_with_a_clear_code_and_writes_nothing_of_it(tmp_path: Path) -> None:
    async def test() -> None:
        league = await start(tmp_path, sites=("lyon",))
        site = league["lyon"]
        flags = site.worker.page.flags
        assert (await ask(site.port, chat())).status == 200
        before = len(site.records())
        flags[FLAG_DISK_LEVEL] = DISK_FULL
        await asyncio.sleep(ONE_TICK_S)
        for stream in (False, True):
            answer = await ask(site.port, chat(stream=stream))
            assert (answer.status, answer.code) == (503, "no_evidence")
            assert "disk is full" in answer.json["error"]["message"]
            assert answer.headers["retry-after"] == "30"
        await site.idle()
        assert len(site.records()) == before
        for level in (DISK_LOW, DISK_ROOM):
            flags[FLAG_DISK_LEVEL] = level
            await asyncio.sleep(ONE_TICK_S)
            assert (await ask(site.port, chat())).status == 200

    run(test)


def test_requests_under_way_end_with_their_records(tmp_path: Path) -> None:
    async def test() -> None:
        site, hold, asked = await one_under_way(tmp_path)
        site.worker.page.flags[FLAG_DISK_LEVEL] = DISK_FULL
        await asyncio.sleep(ONE_TICK_S)
        hold.set()
        answer = await asked
        assert answer.status == 200
        await site.idle()
        kinds = [type(record) for record in site.records()]
        assert kinds == [Decided, Executed, Ended]

    run(test)


def test_an_end_that_the_disk_did_not_take_is_written_once_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk fills to the last byte between two looks at it, while a request runs."""

    async def test() -> None:
        site, hold, asked = await one_under_way(tmp_path)
        tried: list[int] = []

        def full(_fd: int, data: bytes) -> int:
            tried.append(len(data))
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(chain, "os", SimpleNamespace(write=full, ftruncate=os.ftruncate))
            hold.set()
            assert (await asked).status == 200
            while len(tried) < 3:
                await asyncio.sleep(ONE_TICK_S)
            assert len(set(tried)) == 1, "the same again, no more and no less"
            answer = await ask(site.port, chat())
            assert (answer.status, answer.code) == (503, "no_evidence")
            assert site.worker.ledger.behind and site.worker.ledger.refusing
            assert len(set(tried)) == 1, "nothing of what was not begun"
        await asyncio.sleep(ONE_TICK_S)
        assert not site.worker.ledger.behind
        assert (await ask(site.port, chat())).status == 200
        await site.idle()
        kinds = [type(record) for record in site.records()]
        assert kinds == [Decided, Executed, Ended] * 2

    run(test)


def test_what_a_full_site_would_serve_goes_to_one_with_room(tmp_path: Path) -> None:
    async def test() -> None:
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon, tallinn = league["lyon"], league["tallinn"]
        for engine in lyon.engines:
            await engine.stop()
        tallinn.worker.page.flags[FLAG_DISK_LEVEL] = DISK_FULL
        await asyncio.sleep(0.3)
        answer = await ask(lyon.port, chat())
        assert answer.status in (502, 503)  # nobody else is left
        tallinn.worker.page.flags[FLAG_DISK_LEVEL] = DISK_ROOM
        await asyncio.sleep(0.3)
        assert (await ask(lyon.port, chat())).status == 200

    run(test)


def test_a_chain_is_turned_over_and_requests_span_both(tmp_path: Path) -> None:
    async def test() -> None:
        league = await start(tmp_path, sites=("lyon",))
        site = league["lyon"]
        hold = site.engines[0].hold = asyncio.Event()
        asked = asyncio.ensure_future(ask(site.port, chat()))
        await asyncio.sleep(0.1)
        worker = site.worker
        worker._chain_at_s = -1e9  # a day ago
        worker._turn_chain_over(0.0)
        hold.set()
        assert (await asked).status == 200
        await site.idle()
        chains = sorted(Path(worker.evidence_dir).glob("lyon-0-*.log"))
        assert len(chains) == 2
        kinds = [type(record) for record in site.records()]
        assert sorted(k.__name__ for k in kinds) == ["Decided", "Ended", "Executed"]

    run(test)


def test_a_low_disk_takes_no_more_files_and_goes_on_answering(tmp_path: Path) -> None:
    async def test() -> None:
        league = await start(tmp_path, sites=("lyon",))
        site = league["lyon"]
        site.worker.page.flags[FLAG_DISK_LEVEL] = DISK_LOW
        for path in ("/v1/files", "/v1/batches"):
            answer = await ask(site.port, {}, path=path)
            assert (answer.status, answer.code) == (503, "disk_low")
        cancel = await ask(site.port, {}, path="/v1/batches/batch_1/cancel")
        assert cancel.code != "disk_low"
        assert (await ask(site.port, chat())).status == 200

    run(test)
