"""The input log: whatever a gateway's workers do, its replay makes the same decisions with the same bits."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.dispatch import journal as form
from hanse.dispatch.journal import read_journal
from hanse.dispatch.prefix import prefixes_of
from hanse.dispatch.table import Table
from hanse.live.gateway.attempt import Attempt
from hanse.live.gateway.engines import Engine
from hanse.live.gateway.frames import LoadFrame, OfferLoad
from hanse.live.gateway.journal import InputLog
from hanse.live.gateway.kernels import Kernels
from hanse.live.gateway.metrics import Counts
from hanse.live.gateway.routing import Routing
from hanse.live.gateway.settings import VACANT, EngineSeat, GatewaySettings
from hanse.live.shared import (
    ENGINE_ALIVE,
    ENGINE_DEAD,
    ENGINE_STATE,
    FLAG_AGENT_AT_S,
    FLAG_POWER_SHED,
    SharedPage,
)
from hanse.twin.recorded import recorded_requests
from hanse.twin.replay import Replayed, replay
from live.gateway.rig import SHOP_KEY, ask, chat, fleet_toml, run, start, table_bytes

SITES = ("lyon", "tallinn", "virginia")
AT_S = 4_000_000_000.0
"""Later than any clock says: a new routing looks at its engines by the clock, and what is older than that is not heard."""
TABLES = [
    Table.from_bytes(table_bytes(fleet_toml(sites, replicas), at_s=AT_S, version=version))
    for version, (sites, replicas) in enumerate([(SITES, 2), (SITES, 3), (SITES[:2], 2)])
]
"""The second goes on with the first's load; the third has other axes."""


class Site:
    """Two recording workers of one site, without sockets."""

    def __init__(self, home: Path, workers: int) -> None:
        self.page = SharedPage.private()
        self.compiled = Kernels(Counts(self.page, 0), self.page)
        self.now_s = AT_S + 1.0
        seats = tuple(
            EngineSeat(service="chat", variant="q4", url="http://127.0.0.1:1") for _ in range(2)
        )
        self.workers = []
        self.attempts: list[tuple[int, Attempt]] = []
        self.prefixes: dict[int, Any] = {}
        self._beat()
        self.page.engines[:2, ENGINE_STATE] = ENGINE_ALIVE
        loop = asyncio.new_event_loop()
        for number in range(workers):
            asked = GatewaySettings(
                site="lyon", worker=number, workers=workers, table="", engines=seats
            )
            engines = [
                Engine(i, seat, self.page, number, workers, loop) for i, seat in enumerate(seats)
            ]
            log = InputLog(home, asked)
            routing = Routing(
                TABLES[0], asked, self.page, engines, {}, compiled=self.compiled, log=log
            )
            self.workers.append(
                [asked, engines, log, routing, log.affinity(self.page, home / "secret")]
            )
        loop.close()
        for _, _, _, routing, _ in self.workers:
            routing.refresh(self.now_s)

    def _beat(self) -> None:
        self.page.flags[FLAG_AGENT_AT_S] = self.now_s

    def close(self) -> None:
        for _, _, log, _, _ in self.workers:
            log.close()

    def do(self, step: tuple[Any, ...]) -> None:
        """One step of a random story."""
        kind, number, a, b, x = step
        self.now_s += x
        self._beat()
        worker = self.workers[number % len(self.workers)]
        asked, engines, log, routing, affinity = worker
        if kind == "request":
            self.request(number % len(self.workers), a, b)
        elif kind == "table":
            worker[3] = Routing(
                TABLES[a % 3],
                asked,
                self.page,
                engines,
                {},
                routing,
                compiled=self.compiled,
                log=log,
            )
            self.attempts = [(w, t) for w, t in self.attempts if w != number % len(self.workers)]
        elif kind == "heard":
            site = SITES[1 + a % 2]
            offers = (OfferLoad("chat/q4", a % 3, b, 100 * b, 50 * b, x),)
            frame = LoadFrame(
                site=site,
                table_version=1,
                epoch=1,
                age_ms=b * 100.0,
                power_ok=a % 5 > 0,
                offers=offers,
            )
            routing.heard(frame, site, self.now_s)
        elif kind == "lost" and len(routing.sites) > 1 + a % 2:
            routing.lost(1 + a % 2)
        elif kind == "engine":
            self.page.engines[a % 2, ENGINE_STATE] = ENGINE_DEAD if b % 2 else ENGINE_ALIVE
            self.page.flags[FLAG_POWER_SHED] = float(max(b % 9 - 4, 0))
            routing.refresh(self.now_s)
        elif kind == "seats":
            self.seats(number % len(self.workers), a % 3)
        elif kind == "tick":
            routing.refresh(self.now_s)
            log.tick(self.now_s)
        elif kind == "forget":
            (affinity.engines if b % 2 else affinity.sites).forget(a % 3)
        elif self.attempts:
            self.attempt(kind, a, b, x)

    def seats(self, number: int, how: int) -> None:
        """Engines swap places, or one is gone, or all are as at first; under the same table."""
        worker = self.workers[number]
        asked, _, log, routing, _ = worker
        first, second = asked.engines[:2]
        seats = ((first, second), (second, first), (VACANT, second))[how]
        loop = asyncio.new_event_loop()
        worker[1] = [
            Engine(i, seat, self.page, number, len(self.workers), loop)
            for i, seat in enumerate(seats)
        ]
        loop.close()
        log.seats([(seat.service, seat.variant) for seat in seats])
        worker[3] = Routing(
            routing.table,
            asked,
            self.page,
            worker[1],
            {},
            routing,
            compiled=self.compiled,
            log=log,
        )
        self.attempts = [(w, t) for w, t in self.attempts if w != number]

    def request(self, number: int, a: int, b: int) -> None:
        routing, affinity = self.workers[number][3:]
        parts = [("", bytes([a % 4]) * 900), ("", bytes([b % 3]) * 5000), ("", bytes([a, b]))]
        prefixes = prefixes_of(parts[: 1 + b % 3], b"k", b"chat")
        cached = affinity.sites.held(prefixes, self.now_s) if a % 3 else None
        subjects = len(routing.table.subjects)
        request = (float(10 + 37 * a), float(1 + b), 20_000.0 - 400.0 * b, float(40 * a))
        tried = [b % len(routing.offers)] if a % 4 == 0 else []
        offer = routing.router.ask(
            int(a % 7 == 6), 1 + b % (subjects - 1), request, self.now_s, tried, cached
        )
        if offer < 0:
            return
        row = routing.offers[offer]
        held = affinity.engines.held(prefixes, self.now_s) if a % 5 else None
        excluded = {b % 2} if b % 5 == 0 else set()
        engine = routing.engine(offer, 40 * a, 7 * a, excluded, held) if row.engines else -1
        if engine < 0 and row.engines:
            return
        figures = routing.router.figures()
        attempt = Attempt(None, row, engine, None, 1, figures, self.now_s)  # type: ignore[arg-type]
        routing.begin(attempt, int(row.service == "embed"), 10 + 37 * a, 1 + b, self.now_s)
        self.attempts.append((number, attempt))
        affinity.sent(attempt, prefixes, spread=a % 2 > 0)
        self.prefixes[id(attempt)] = prefixes

    def attempt(self, kind: str, a: int, b: int, x: float) -> None:
        number, attempt = self.attempts[a % len(self.attempts)]
        routing = self.workers[number][3]
        if kind == "first_byte":
            routing.first_byte(attempt)
        elif kind == "observed":
            routing.observed(attempt, 0.0 if b % 3 == 0 else 100.0 * x, 150.0 * x + 5.0 * b, b)
        elif kind == "late":
            routing.late(attempt, 3000.0 * x)
        elif kind == "end":
            routing.end(attempt)
            affinity, prefixes = self.workers[number][4], self.prefixes[id(attempt)]
            affinity.answered(attempt, prefixes, 40 * b - 40, self.now_s, spread=a % 3 > 0)


KINDS = ("request",) * 6 + (
    "first_byte",
    "observed",
    "observed",
    "late",
    "end",
    "end",
    "heard",
    "heard",
    "lost",
)
KINDS += ("end", "engine", "tick", "tick", "table", "forget", "seats")
STEP = st.tuples(
    st.sampled_from(KINDS), st.integers(0, 1), st.integers(0, 250), st.integers(0, 40),
    st.floats(0.0, 4.0, allow_nan=False),
)  # fmt: skip


def recorded(steps: list[tuple[Any, ...]], workers: int, home: Path) -> Replayed:
    site = Site(home, workers)
    for step in steps:
        site.do(step)
    site.close()
    return replay(home)


@settings(deadline=None, max_examples=effort(60), suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEP, min_size=1, max_size=80), st.integers(1, 2))
def test_any_story_is_replayed_bit_for_bit(steps: list[tuple[Any, ...]], workers: int) -> None:
    with tempfile.TemporaryDirectory() as home:
        found = recorded(steps, workers, Path(home))
    assert len(found.files) == workers
    assert [file.first for file in found.files] == [None] * workers
    assert found.mismatches == 0
    assert found.compared["choice"] == sum(file.records.get("choice", 0) for file in found.files)
    assert found.compared["choice"] == sum(step[0] == "request" for step in steps)
    assert all(file.closed and not file.full and not file.cut_bytes for file in found.files)


STORY = [("request", i, 5 * (i // 2) + 1, i % 9, 0.1) for i in range(40)]
STORY += [("observed", 0, i, 4, 1.5) for i in range(10)] + [
    ("end", 0, i, i, 0.2) for i in range(30)
]
STORY += [("tick", 0, 0, 0, 6.0)]
STORY += [("request", 0, 3 * i + 1, 2 + i % 9, 0.1) for i in range(20)]


def test_a_story_has_every_kind_of_decision(tmp_path: Path) -> None:
    """Else the property above would hold of nothing."""
    found = recorded(STORY, 2, tmp_path)
    assert found.mismatches == 0
    assert all(count > 0 for count in found.compared.values()), found.compared
    kinds = {kind for file in found.files for kind in file.records}
    assert {"own", "executing", "slots", "remember", "proved", "ratio", "heard", "table"} <= kinds


@settings(deadline=None, max_examples=effort(40))
@given(data=st.data())
def test_one_bit_that_is_not_as_it_was_is_found(data: st.DataObject) -> None:
    """Any bit anywhere: the checksum says so. A float of a prediction, with the checksum mended: the replay says so."""
    with tempfile.TemporaryDirectory() as text:
        home = Path(text)
        assert recorded(STORY, 1, home).mismatches == 0
        path = next(home.glob("*.jnl"))
        whole = bytearray(path.read_bytes())
        journal = read_journal(bytes(whole), "log")
        records = list(journal.records())
        at = data.draw(st.sampled_from(records[1:])).at + data.draw(st.integers(4, 7))
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(whole)
        assert replay(home).mismatches > 0
        path.write_bytes(_with_changed_prediction(journal, records, data))
        found = replay(home)
        assert found.mismatches == 1
        first = found.files[0].first
        assert first is not None and first.kind == "choice"
        assert first.logged != first.replayed


def _with_changed_prediction(journal: Any, records: list[Any], data: st.DataObject) -> bytes:
    """The log with one bit of one float of one prediction turned over, and the block's checksum made right."""
    raw = bytearray(journal._view)
    chosen = [r for r in records if r.kind == form.CHOICE and r.flags & form.CHOSEN]
    at = data.draw(st.sampled_from(chosen)).at + form.CHOICE_FORM.size
    raw[at + data.draw(st.integers(0, form.OUT_BYTES - 1))] ^= 1 << data.draw(st.integers(0, 7))
    block = form.HEAD_AT + int.from_bytes(raw[8:12], "little")
    while True:
        length, _ = form.BLOCK.unpack_from(raw, block)
        first = block + form.BLOCK.size
        if block < at < first + length:
            form.BLOCK.pack_into(raw, block, length, zlib.crc32(raw[first : first + length]))
            return bytes(raw)
        block = first + length


@pytest.mark.parametrize("cut", [1, 9, 40])
def test_a_killed_workers_log_is_replayed_as_far_as_it_goes(tmp_path: Path, cut: int) -> None:
    site = Site(tmp_path, 1)
    for step in STORY:
        site.do(step)
        site.workers[0][2].tick(site.now_s)
    path = next(tmp_path.glob("*.jnl"))
    path.write_bytes(path.read_bytes()[:-cut])
    found = replay(tmp_path)
    assert found.mismatches == 0 and found.compared["choice"] > 50
    assert found.files[0].cut_bytes > 0 and not found.files[0].closed


def test_a_log_ends_at_its_limit_and_the_worker_goes_on(tmp_path: Path) -> None:
    site = Site(tmp_path, 1)
    log = site.workers[0][2]
    log._left_bytes = 3000
    for step in STORY:
        site.do(step)
        log.tick(site.now_s)
    site.close()
    found = replay(tmp_path)
    assert found.mismatches == 0 and found.files[0].full
    assert 0 < found.compared["choice"] < 60
    assert next(tmp_path.glob("*.jnl")).stat().st_size < 4000


def test_every_request_has_its_end_in_the_log(tmp_path: Path) -> None:
    """Plain, streamed, refused; at one site, where answers take the shortest way through the gateway."""

    async def test() -> None:
        league = await start(tmp_path, replicas=2, journal=True)
        for i in range(8):
            assert (await ask(league["lyon"].port, chat(stream=bool(i % 2)))).status == 200
        assert (await ask(league["lyon"].port, chat("x" * 290_000))).status == 503
        await league["lyon"].idle()

    run(test)
    found = replay(tmp_path)
    assert found.mismatches == 0 and found.files[0].records["ended"] == 9
    ended = [one.ended for one in recorded_requests(Path(found.files[0].file))]
    assert [e.outcome for e in ended] == ["answered"] * 8 + ["failed"]
    assert (ended[8].status, ended[8].engine, ended[8].offer) == (503, -1, -1)
    assert ended[8].tokens_in > 70_000
    assert all(e.tokens_in > 0 and e.tokens_out > 0 and e.engine in (0, 1) for e in ended[:8])
    assert [e.first_byte_at_s > 0 for e in ended[:8]] == [False, True] * 4
    assert all(e.started_at_s <= e.began_at_s < e.ended_at_s for e in ended[:8])


def test_gateways_over_sockets_are_replayed(tmp_path: Path) -> None:
    """Three sites, hops, streams, a dead engine and a closed peer; nothing of keys or prompts is in a log."""

    async def test() -> None:
        league = await start(tmp_path, sites=SITES, replicas=2, journal=True)
        text = "Never to be seen in a log. " * 40
        for i in range(12):
            answer = await ask(league["lyon"].port, chat(f"{text} {i}", stream=bool(i % 2)))
            assert answer.status == 200
        await league["lyon"].engines[0].stop()
        jobs = [ask(league["lyon"].port, chat(f"{text} {i % 3}")) for i in range(12)]
        assert {answer.status for answer in await asyncio.gather(*jobs)} == {200}
        await ask(league["virginia"].port, chat("hello"), key=SHOP_KEY)
        await league["lyon"].idle()

    run(test)
    logs = sorted(tmp_path.glob("sites/*/journal/*.jnl"))
    assert len(logs) == 3
    found = replay(tmp_path)
    assert [file.first for file in found.files] == [None] * 3
    assert found.compared["choice"] >= 25 and found.compared["engine"] >= 25
    assert found.compared["learned"] >= 20 and found.compared["look_up"] > 0
    raw = b"".join(path.read_bytes() for path in logs)
    assert b"Never to be seen" not in raw and SHOP_KEY.encode() not in raw
    assert json.dumps(found.compared)
    assert time.time() > found.files[0].begun_at_s > 0
