"""Lines of batches at a gateway: only in spare room, out of the way at once, on record and charged like everything else."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.table import Table
from hanse.live.batch.asking import Lines
from hanse.live.batch.values import Who
from hanse.live.batch.work import measured_of
from hanse.live.evidence.chain import Decided, Ended, Executed
from hanse.live.gateway.attempt import HOLD_ALL_BYTES_MAX
from hanse.live.gateway.feed import Feed
from hanse.live.gateway.incoming import Incoming
from hanse.live.gateway.spare import spare_requests
from hanse.live.runtime import private_socket
from hanse.live.shared import FLAG_POWER_SHED
from hanse.view import DecisionRow
from live.gateway.rig import (
    Answer,
    SiteRig,
    ask,
    chat,
    connect,
    fleet_toml,
    get,
    read_answer,
    request,
    run,
    start,
    table_bytes,
)
from live.gateway.test_hops import hop, without_own_engines

SLOTS = 8


class Inner:
    """The Unix socket of one gateway, in a directory with a short name."""

    def __init__(self, site: SiteRig) -> None:
        self._site = site
        self._home = tempfile.TemporaryDirectory()
        self.path = Path(self._home.name) / "in-0.sock"

    async def __aenter__(self) -> Inner:
        door = self._site.worker.inner_door
        sock = private_socket(self.path)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: Incoming(door), sock=sock)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self._home.cleanup()

    async def send(self, body: dict, **names: str) -> Answer:
        names = {"key": "clinic", "class": "public", "country": "FR"} | names
        data = json.dumps(body).encode()
        head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
        head += "".join(f"x-hanse-{name}: {value}\r\n" for name, value in names.items())
        head += f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        reader, writer = await asyncio.open_unix_connection(str(self.path))
        writer.write(head.encode() + data)
        try:
            return await read_answer(reader)
        finally:
            writer.close()


async def at_engine(site: SiteRig, count: int) -> None:
    for _ in range(500):
        there = sum(len(engine.posts()) for engine in site.engines)
        if int(site.worker.page.exec[0, 0, 0]) == count <= there:
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"{site.worker.page.exec[0, 0, 0]} requests at the engine, not {count}")


def people(site: SiteRig, count: int) -> list[asyncio.Task[Answer]]:
    return [asyncio.create_task(ask(site.port, chat(f"person {n}"))) for n in range(count)]


def extra(answer: Answer) -> dict[str, float]:
    pairs = (part.split("=") for part in answer.headers.get("x-hanse-extra", "").split(";") if part)
    return {name: float(value) for name, value in pairs}


@given(st.integers(1, 64), st.integers(0, 8))
def test_lines_leave_a_quarter_free_and_never_fill_what_is_not_there(
    slots: int, replicas: int
) -> None:
    most = spare_requests(float(slots), float(replicas))
    assert most == (max(1, int(0.75 * slots * replicas)) if replicas else 0)
    assert most <= max(1, slots * replicas)


def test_a_line_is_a_request_like_any_other(tmp_path):
    async def test():
        lyon = (await start(tmp_path))["lyon"]
        async with Inner(lyon) as inner:
            answer = await inner.send(chat("a line"))
            assert answer.status == 200
            assert "x-hanse-extra" not in answer.headers
            assert "wh=" in answer.headers["x-hanse-measured"]
            kinds = [type(record) for record in lyon.records()]
            assert kinds == [Decided, Executed, Ended]
            assert lyon.records()[0].tenant == "clinic"
            await lyon.idle()
            assert not lyon.worker.deferred
            for wrong in ({"key": "nobody"}, {"class": "secret"}, {"country": "US"}):
                assert (await inner.send(chat(), **wrong)).status == 403
            refused = await inner.send(chat(), key="clinic", country="EE")
            assert refused.status == 200

    run(test)


@pytest.mark.parametrize("forwarded", [False, True])
def test_a_line_whose_answer_was_not_held_tells_what_it_took_after_it(tmp_path, forwarded):
    long = b'{"data":["%b"],"usage":{"prompt_tokens":7,"completion_tokens":4}}' % (b"1" * 3_000_000)

    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn") if forwarded else ("lyon",))
        lyon, serving = league["lyon"], league["tallinn" if forwarded else "lyon"]
        if forwarded:
            await without_own_engines(league, "lyon")
        serving.engines[0].answer = long
        lyon.worker.held_bytes = serving.worker.held_bytes = HOLD_ALL_BYTES_MAX
        async with Inner(lyon) as inner:
            lines = Lines((inner.path,))
            who = Who(key_id="clinic", tenant="clinic", data_class="public", country="FR")
            for _ in range(2):  # the second on the same connection
                body = json.dumps(chat("a line")).encode()
                answer = await lines.post("/v1/chat/completions", who, body)
                measured = measured_of(answer)
                assert (answer.status, answer.body) == (200, long)
                assert (measured["tokens_in"], measured["tokens_out"]) == (7.0, 4.0)
                assert measured["wh"] > 0.0
            lines.close()

    run(test)


def test_a_line_with_more_answer_than_can_be_kept_is_charged_once_and_its_batch_told(tmp_path):
    huge = b'{"data":["%b"],"usage":{"prompt_tokens":7,"completion_tokens":4}}' % (b"1" * 9_000_000)

    async def test():
        lyon = (await start(tmp_path))["lyon"]
        lyon.engines[0].answer = huge
        async with Inner(lyon) as inner:
            lines = Lines((inner.path,))
            who = Who(key_id="clinic", tenant="clinic", data_class="public", country="FR")
            body = json.dumps(chat("a line")).encode()
            answer = await lines.post("/v1/chat/completions", who, body)
            assert answer.too_large and answer.body == b""
            await lyon.idle()
            (ended,) = [r for r in lyon.records() if isinstance(r, Ended)]
            assert (ended.outcome, ended.tokens_out) == ("answered", 4)
            assert measured_of(answer)["wh"] == pytest.approx(ended.energy_wh, rel=1e-3)
            lines.close()

            reader, writer = await asyncio.open_unix_connection(str(inner.path))
            head = (
                "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-hanse-key: clinic\r\n"
                f"x-hanse-class: public\r\nx-hanse-country: FR\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await reader.read(1000)
            writer.close()  # it gives up in the middle
            await lyon.idle()
            (broken,) = [r for r in lyon.records() if isinstance(r, Ended)][1:]
            assert broken.outcome == "cancelled"
            assert 0.0 < broken.energy_wh <= ended.energy_wh * 1.01

    run(test)


def test_a_line_waits_where_little_room_is_left(tmp_path):
    async def test():
        lyon = (await start(tmp_path))["lyon"]
        engine = lyon.engines[0]
        engine.hold = asyncio.Event()
        async with Inner(lyon) as inner:
            going = people(lyon, 6)
            await at_engine(lyon, 6)
            answer = await inner.send(chat("a line"))
            assert (answer.status, answer.code) == (503, "no_room")
            assert not extra(answer)
            assert len(engine.posts()) == 6
            engine.hold.set()
            assert {one.status for one in await asyncio.gather(*going)} == {200}
            assert (await inner.send(chat("a line"))).status == 200
        await lyon.idle()
        records, metrics = lyon.records(), (await get(lyon.port, "/metrics")).body.decode()
        assert not [one for one in records if isinstance(one, Decided) and one.refusal]
        assert len([one for one in records if isinstance(one, Ended)]) == 7
        assert 'view="league",result="served"} 7' in metrics
        assert 'view="league",result="refused_other"} 0' in metrics
        assert 'hanse_gateway_requests_total{site="lyon",code="503"} 0' in metrics

    run(test)


def test_a_line_gives_way_when_somebody_would_have_to_queue(tmp_path, monkeypatch):
    async def test():
        lyon = (await start(tmp_path))["lyon"]
        engine = lyon.engines[0]
        engine.hold = asyncio.Event()
        shown: list[DecisionRow] = []
        monkeypatch.setattr(Feed, "wanted", lambda _: True)
        monkeypatch.setattr(Feed, "_send", lambda _, row: shown.append(row))
        async with Inner(lyon) as inner:
            line = asyncio.create_task(inner.send(chat("a line")))
            await at_engine(lyon, 1)
            going = people(lyon, SLOTS - 1)
            await at_engine(lyon, SLOTS)
            await asyncio.sleep(0.1)
            assert not line.done(), "a full engine is no reason yet"
            going += people(lyon, 1)
            answer = await asyncio.wait_for(line, 1.0)
            assert (answer.status, answer.code) == (503, "no_room")
            assert extra(answer)["runs"] == 1
            assert extra(answer)["wh"] > 0
            await at_engine(lyon, SLOTS)
            assert engine.broken == 1, "the engine was told by the end of the connection"
            engine.hold.set()
            assert {one.status for one in await asyncio.gather(*going)} == {200}
            metrics = (await get(lyon.port, "/metrics")).body.decode()
            assert 'hanse_gateway_lines_yielded_total{site="lyon"} 1' in metrics
        await lyon.idle()
        assert {row.outcome for row in shown} == {"served"}, "a line that is sent again is not lost"

    run(test)


def test_a_forwarded_line_gives_way_where_it_runs(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon, tallinn = league["lyon"], league["tallinn"]
        await without_own_engines(league, "lyon")
        engine = tallinn.engines[0]
        engine.hold = asyncio.Event()
        async with Inner(lyon) as inner:
            line = asyncio.create_task(inner.send(chat("a line")))
            await at_engine(tallinn, 1)
            going = people(tallinn, SLOTS)
            answer = await asyncio.wait_for(line, 2.0)
            assert (answer.status, answer.code) == (503, "no_room"), "as where it entered"
            assert extra(answer)["runs"] == 1
            assert extra(answer)["wh"] > 0
            await at_engine(tallinn, SLOTS)
            engine.hold.set()
            assert {one.status for one in await asyncio.gather(*going)} == {200}
            again = await inner.send(chat("a line"))
            assert again.status == 200
            assert again.headers["x-hanse-site"] == "tallinn"
        ends = [r for r in tallinn.records() if isinstance(r, Ended) and r.role == "serving"]
        assert [one.outcome for one in ends] == ["failed", "answered"]
        assert ends[0].energy_wh > 0
        for site in (lyon, tallinn):
            await site.idle()
            assert not site.worker.deferred

    run(test)


@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches", "/v1/batches/batch_lyon_0/cancel"])
def test_a_gateway_without_a_batch_process_says_so(tmp_path, path):
    async def test():
        lyon = (await start(tmp_path))["lyon"]
        assert (await get(lyon.port, path, key="nobody")).status == 401
        assert (await get(lyon.port, path)).status == 404
        lyon.worker.settings = msgspec.structs.replace(
            lyon.worker.settings, batch_socket=str(tmp_path / "none.sock")
        )
        answer = await get(lyon.port, path)
        assert (answer.status, answer.code) == (503, "batch_unavailable")
        assert (await ask(lyon.port, b"{}", path=path, method="PUT")).status == 405

    run(test)


def test_a_large_file_is_never_held_by_the_gateway(tmp_path):
    """A slow reader behind the tunnel slows the client down, and all bytes arrive."""
    size, piece = 20_000_000, 100_000

    async def test():
        lyon = (await start(tmp_path))["lyon"]
        got, most = bytearray(), 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal most
            await reader.readuntil(b"\r\n\r\n")
            while len(got) < size:
                got.extend(await reader.read(65_536))
                await asyncio.sleep(0.001)
                for link in lyon.worker.client_door.open_connections:
                    most = max(most, link.running._transport.get_write_buffer_size())
            writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()
            writer.close()

        with tempfile.TemporaryDirectory() as home:
            path = f"{home}/jobs.sock"
            server = await asyncio.start_unix_server(serve, path)
            settings = msgspec.structs.replace(lyon.worker.settings, batch_socket=path)
            lyon.worker.settings = settings
            reader, writer = await connect(lyon.port)
            head = request(b"", path="/v1/files").replace(b"length: 0", b"length: %d" % size)
            writer.write(head)
            sent = bytes(range(250)) * (piece // 250)
            for _ in range(size // piece):
                writer.write(sent)
                await writer.drain()
            answer = await read_answer(reader)
            assert (answer.status, answer.body) == (200, b"{}")
            assert bytes(got) == sent * (size // piece)
            assert most < 1_000_000
            writer.close()
            server.close()

    run(test)


def test_a_refused_body_ends_its_tunnel(tmp_path):
    """The batch process hears of it, and what it writes then reaches nobody."""

    async def test():
        lyon = (await start(tmp_path))["lyon"]
        refused, ended, trouble = asyncio.Event(), asyncio.Event(), []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: trouble.append(what))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            await refused.wait()
            with contextlib.suppress(ConnectionError):
                writer.write(b"HTTP/1.1 200 OK\r\n\r\nlate")
                await writer.drain()
                while await reader.read(65_536):
                    pass
            ended.set()
            writer.close()

        with tempfile.TemporaryDirectory() as home:
            path = f"{home}/jobs.sock"
            server = await asyncio.start_unix_server(serve, path)
            lyon.worker.settings = msgspec.structs.replace(
                lyon.worker.settings, batch_socket=path, batch_file_bytes_max=1000
            )
            reader, writer = await connect(lyon.port)
            head = request(b"", path="/v1/files").replace(
                b"content-length: 0", b"transfer-encoding: chunked"
            )
            writer.write(head + b"a\r\n0123456789\r\n")
            await asyncio.sleep(0.1)
            writer.write(b"20000\r\n%b\r\n" % bytes(0x20000))
            answer = await read_answer(reader)
            assert (answer.status, answer.code) == (413, "request_too_large")
            refused.set()
            await asyncio.wait_for(ended.wait(), 0.5)
            assert await reader.read() == b""
            assert not trouble
            writer.close()
            server.close()

    run(test)


def test_what_a_peer_sends_is_as_large_as_its_envelope_says(tmp_path):
    """What lines put out may be more than any file that clients may send."""

    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        tallinn = league["tallinn"]
        tallinn.worker.settings = msgspec.structs.replace(
            tallinn.worker.settings,
            batch_socket=str(tmp_path / "none.sock"),
            batch_file_bytes_max=1000,
        )
        for path, status in (("/hanse/v1/batch/data/x", 503), ("/v1/files", 413)):
            number = {"attempt": status}
            answer, _ = await hop(league, "tallinn", path=path, body="x" * 200_000, change=number)
            assert answer.status == status, path

    run(test)


def test_a_line_goes_where_the_schedule_says_or_nowhere(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon = league["lyon"]
        async with Inner(lyon) as inner:
            assert (await inner.send(chat("anywhere"), at="")).status == 200
            for _ in range(3):
                for name in ("tallinn", "lyon"):
                    answer = await inner.send(chat(f"a line for {name}"), at=name, country="EE")
                    assert (answer.status, answer.headers["x-hanse-site"]) == (200, name)
            assert (await inner.send(chat("a line"), at="atlantis")).status == 503
            league["tallinn"].worker.page.flags[FLAG_POWER_SHED] = 1
            await asyncio.sleep(0.5)
            refused = await inner.send(chat("a line"), at="tallinn", country="EE")
            assert refused.status == 503, "room elsewhere is no room there"
            await lyon.idle()

    run(test)


def test_a_line_that_may_never_go_where_it_is_planned_goes_where_it_may(tmp_path):
    async def test():
        sites = ("lyon", "virginia")
        lyon = (await start(tmp_path, sites=sites))["lyon"]
        async with Inner(lyon) as inner:
            barred = {"at": "virginia", "class": "health"}
            answer = await inner.send(chat("by law"), **barred)
            assert (answer.status, answer.headers["x-hanse-site"]) == (200, "lyon")

            toml, long, length = fleet_toml(sites, 1), chat("x" * 40_000), "context_tokens = 100000"
            near, far = toml.split('[[site]]\nid = "virginia"')
            far = '[[site]]\nid = "virginia"' + far.replace(length, "context_tokens = 5000")
            lyon.worker.use_table(Table.from_bytes(table_bytes(near + far, version=2)))
            answer = await inner.send(long, at="virginia")
            assert (answer.status, answer.headers["x-hanse-site"]) == (200, "lyon")
            answer = await inner.send(chat("short"), at="virginia")
            assert (answer.status, answer.headers["x-hanse-site"]) == (200, "virginia")

            near = near.replace(length, "context_tokens = 6000")
            lyon.worker.use_table(Table.from_bytes(table_bytes(near + far, version=3)))
            for names in ({"at": "virginia"}, {"at": ""}, barred):
                answer = await inner.send(long, **names)
                assert (answer.status, answer.code) == (400, "context_length_exceeded"), names
            await lyon.idle()

    run(test)
