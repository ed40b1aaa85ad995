"""Engines and peers that die, freeze, refuse or break: what a client sees, and what is counted afterwards."""

import asyncio
import json
import socket
import time

import pytest

from hanse.dispatch.patience import HELD_ASKS_EVERY_S
from hanse.live.evidence.chain import Decided, Ended, Executed, decode_record, scan_file
from hanse.live.gateway import entry, metrics
from hanse.live.gateway.worker import PROBE_EVERY_S
from hanse.live.shared import ENGINE_ALIVE, ENGINE_STATE, FLAG_AGENT_AT_S
from live.gateway import rig
from live.gateway.rig import (
    ask,
    chat,
    connect,
    events,
    fleet_toml,
    get,
    raw,
    request,
    run,
    start,
    table_bytes,
)
from live.gateway.test_hops import without_own_engines


def test_an_engine_that_dies_before_the_first_byte_costs_the_client_nothing(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        lyon.engines[0].mode = "cut"
        for stream in (False, True):
            answer = await ask(lyon.port, chat(stream=stream))
            assert answer.status == 200
        assert all(len(engine.posts()) >= 2 for engine in lyon.engines[:2])
        ended = [record for record in lyon.records() if isinstance(record, Ended)]
        assert [record.attempts for record in ended] == [2, 2]
        assert [record.attempt for record in ended] == [2, 2]
        await lyon.idle()

    run(test)


def test_an_engine_that_answers_500_is_left_for_another_and_the_client_sees_200(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        lyon.engines[0].mode = "error"
        answer = await ask(lyon.port, chat())
        assert (answer.status, answer.headers["x-hanse-measured"].split("attempts=")[1]) == (
            200,
            "2",
        )
        await lyon.idle()

    run(test)


def test_an_engine_that_refuses_connections_is_left_for_another(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        await lyon.engines[0].stop()
        answers = [await ask(lyon.port, chat()) for _ in range(5)]
        assert [answer.status for answer in answers] == [200] * 5
        await lyon.idle()

    run(test)


def test_all_attempts_are_charged_and_shown(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        clean = await ask(lyon.port, chat())
        lyon.engines[0].mode = "cut"
        twice = await ask(lyon.port, chat())
        shown = [
            dict(part.split("=") for part in answer.headers["x-hanse-measured"].split(";"))
            for answer in (clean, twice)
        ]
        assert [one["attempts"] for one in shown] == ["1", "2"]
        assert float(shown[1]["wh"]) > float(shown[0]["wh"])

    run(test)


def test_when_every_engine_fails_the_answer_is_502_and_says_so(tmp_path, monkeypatch):
    """At once: there is no other site that could be waited for."""
    monkeypatch.setattr(entry, "HELD_S", 2 * rig.TEST_S_MAX)

    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        for engine in lyon.engines[:2]:
            engine.mode = "error"
        answer = await ask(lyon.port, chat())
        assert (answer.status, answer.code) == (502, "upstream_failed")
        assert "lyon answered 500" in answer.json["error"]["message"]
        assert answer.json["error"]["hanse"]["request_id"] == answer.headers["x-request-id"]
        await lyon.idle()

    run(test)


def test_what_failed_is_held_while_nothing_is_heard_of_others(tmp_path):
    """A worker that was stalled finds everybody's load stale until it has read what they told meanwhile."""

    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon = league["lyon"]
        lyon.engines[0].mode = "cut"
        for stream in (False, True):
            forget(lyon, "tallinn")
            answer = await ask(lyon.port, chat(stream=stream))
            assert (answer.status, answer.headers["x-hanse-site"]) == (200, "tallinn")
        ended = [record for record in lyon.records() if isinstance(record, Ended)]
        assert [(record.attempts, record.outcome) for record in ended] == [(2, "answered")] * 2
        await lyon.idle()

    run(test)


def forget(site, name, at_s=0.0):
    """A site's load as of long ago, or of another instant."""
    routing = site.worker.routing
    routing.load.sites["sampled_at_s"][routing.table.site_index[name]] = at_s


def test_what_failed_is_not_held_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(entry, "HELD_S", 0.5)

    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon = league["lyon"]
        for peer in lyon.worker.peers.values():
            peer._heard = lambda *_: None
        forget(lyon, "tallinn")
        lyon.engines[0].mode = "cut"
        asked_at_s = time.monotonic()
        answer = await ask(lyon.port, chat())
        assert time.monotonic() - asked_at_s >= 0.5
        assert (answer.status, answer.code) == (502, "upstream_failed")
        await lyon.idle()

    run(test)


def test_who_leaves_while_held_is_not_asked_for_any_more(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon, tallinn = league["lyon"], league["tallinn"]
        hearing = {}
        for name, peer in lyon.worker.peers.items():
            hearing[name], peer._heard = peer._heard, lambda *_: None
        forget(lyon, "tallinn")
        lyon.engines[0].mode = "cut"
        _, writer = await connect(lyon.port)
        writer.write(request(chat()))
        while not any(one.held_at_s for one in lyon.worker.running):
            await asyncio.sleep(0.01)
        writer.close()
        while lyon.worker.running:
            await asyncio.sleep(0.01)
        for name, peer in lyon.worker.peers.items():
            peer._heard = hearing[name]
        forget(lyon, "tallinn", at_s=time.time())  # heard of: it would be asked
        await asyncio.sleep(3 * HELD_ASKS_EVERY_S)
        assert not tallinn.engines[0].posts()
        ended = [record for record in lyon.records() if isinstance(record, Ended)]
        assert [record.outcome for record in ended] == ["cancelled"]
        await lyon.idle()

    run(test)


@pytest.mark.parametrize("breaks", ["own", "peer"])
def test_a_peer_that_had_no_room_is_asked_again_while_held(tmp_path, breaks):
    async def test():
        sites = ("lyon", "tallinn") if breaks == "own" else ("lyon", "tallinn", "virginia")
        league = await start(tmp_path, sites=sites)
        lyon, tallinn = league["lyon"], league["tallinn"]
        if breaks == "own":
            lyon.engines[0].mode = "cut"
        else:
            await without_own_engines(league, "lyon")
            league["virginia"].engines[0].mode = "cut"
        limits = tallinn.worker.routing._requests_max
        before = limits.copy()
        limits[:] = 0.0  # full, and its peers do not know yet
        asked = asyncio.ensure_future(ask(lyon.port, chat(), headers={"x-hanse-class": "public"}))
        while not any(one.held_at_s for one in lyon.worker.running):
            await asyncio.sleep(0.01)
        limits[:] = before
        answer = await asked
        assert (answer.status, answer.headers["x-hanse-site"]) == (200, "tallinn")
        refused = [r for r in tallinn.records() if isinstance(r, Executed) and r.refusal]
        assert {record.refusal for record in refused} == {"room"}
        await lyon.idle()

    run(test)


def test_a_frozen_engine_is_noticed_within_a_second_and_its_requests_go_elsewhere(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        frozen = lyon.engines[0]
        frozen.mode = "frozen"
        started_at_s = time.monotonic()
        answers = await asyncio.gather(*(ask(lyon.port, chat()) for _ in range(8)))
        waited_s = time.monotonic() - started_at_s
        assert [answer.status for answer in answers] == [200] * 8
        assert waited_s < 3.0  # probes need 0.75 s; the rest is a busy machine
        assert not lyon.worker.engines[0].usable(time.time())
        before_s = time.monotonic()
        assert (await ask(lyon.port, chat())).status == 200
        assert time.monotonic() - before_s < 0.7  # nobody waits for it any more
        frozen.mode = "ok"
        for _ in range(300):
            if lyon.worker.engines[0].usable(time.time()):
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("a healed engine was not used again")
        await lyon.idle()

    run(test)


def test_an_agent_that_falls_silent_takes_no_living_engine_with_it(tmp_path):
    """Its engine was looked after, and never asked by the gateway itself, until then."""

    async def test():
        league = await start(tmp_path, replicas=1)
        lyon = league["lyon"]
        page, engine = lyon.worker.page, lyon.worker.engines[0]
        page.engines[0, ENGINE_STATE] = ENGINE_ALIVE
        page.flags[FLAG_AGENT_AT_S] = time.time() + 1000.0
        engine._probe.up = False
        await asyncio.sleep(2 * PROBE_EVERY_S)
        assert engine.usable(time.time())
        page.flags[FLAG_AGENT_AT_S] = time.time() - 1000.0
        until_s = time.monotonic() + 1.0
        while time.monotonic() < until_s:
            assert engine.usable(time.time())
            await asyncio.sleep(0.02)
        assert (await ask(lyon.port, chat())).status == 200
        await lyon.idle()

    run(test)


def test_an_engine_that_passes_probes_and_never_answers_is_left_at_the_deadline(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        lyon.engines[0].mode = "hang"
        started_at_s = time.monotonic()
        answer = await ask(lyon.port, chat(stream=True, max_tokens=1))
        assert answer.status == 200
        assert events(answer.body)[-1] == "[DONE]"
        assert time.monotonic() - started_at_s < 6.0
        await lyon.idle()

    run(test)


def test_a_slow_engine_is_waited_for_where_there_is_no_other(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.engines[0].hold = asyncio.Event()
        asking = asyncio.ensure_future(ask(lyon.port, chat(max_tokens=1)))
        await lyon.engines[0].arrived.wait()
        await asyncio.sleep(1.5)  # past the floor of the first-byte deadline
        lyon.engines[0].hold.set()
        assert (await asking).status == 200
        assert len(lyon.engines[0].posts()) == 1
        await lyon.idle()

    run(test)


def test_who_was_left_as_late_is_asked_again_when_the_other_turns_out_to_be_worse(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        slow, broken = lyon.engines[:2]
        lyon.worker.counts.row[metrics.HEDGES] = (
            1.0  # the budget of second tries beside a first is spent
        )
        slow.hold, broken.mode = asyncio.Event(), "error"
        asking = asyncio.ensure_future(ask(lyon.port, chat(stream=True, max_tokens=1)))
        await slow.arrived.wait()
        for _ in range(200):
            if broken.posts():
                break
            await asyncio.sleep(0.02)
        slow.hold.set()
        answer = await asking
        assert (answer.status, events(answer.body)[-1]) == (200, "[DONE]")
        assert len(slow.posts()) == 2 and len(broken.posts()) == 1
        await lyon.idle()

    run(test)


@pytest.mark.parametrize("mode", ["cut_mid", "error_event"])
def test_a_stream_that_breaks_ends_with_an_error_event_and_a_closed_connection(tmp_path, mode):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        for engine in lyon.engines[:2]:
            engine.mode = mode
        answer = await raw(lyon.port, request(chat(stream=True)))
        assert answer.status == 200
        last = json.loads(answer.body.decode().rsplit("data: ", 1)[1].split("\n\n")[0])
        assert "message" in last["error"]
        assert b"[DONE]" not in answer.body
        if mode == "cut_mid":
            assert answer.closed
            assert b"event: error\n" in answer.body
            assert last["error"]["code"] == "stream_broken"
        ended = [record for record in lyon.records() if isinstance(record, Ended)]
        # Where an engine broke the other went on, and broke too; its own error event is the answer.
        attempts = 2 if mode == "cut_mid" else 1
        assert [(record.outcome, record.attempts) for record in ended] == [("broken", attempts)]
        await lyon.idle()

    run(test)


def test_a_plain_answer_that_breaks_before_its_end_is_fetched_elsewhere(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]

        async def half(asked, writer):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{half")
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()
            return False

        lyon.engines[0]._answer = half
        answer = await ask(lyon.port, chat())
        assert answer.status == 200
        assert answer.json["choices"]
        await lyon.idle()

    run(test)


def test_an_engine_that_speaks_no_http_is_left_for_another(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]

        async def babble(asked, writer):
            writer.write(b"220 smtp ready\r\n")
            await writer.drain()
            return False

        lyon.engines[0]._answer = babble
        assert (await ask(lyon.port, chat())).status == 200
        await lyon.idle()

    run(test)


def test_a_kept_connection_that_the_engine_closed_meanwhile_is_not_a_failure(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        assert (await ask(lyon.port, chat())).status == 200
        for writer in tuple(lyon.engines[0]._writers):
            writer.close()  # the gateway has not read the end yet when the next request goes out
        answer = await ask(lyon.port, chat())
        assert answer.status == 200
        assert answer.headers["x-hanse-measured"].endswith("attempts=1")

    run(test)


def test_a_slow_reader_costs_a_bounded_amount_of_memory(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        engine = lyon.engines[0]
        engine.tokens = 400
        engine.flood_bytes = 80 * 1024 * 1024
        reader, writer = await connect(lyon.port)
        reader._limit = 1  # asyncio stops reading the socket at twice this
        writer.transport.pause_reading()
        writer.write(request(chat(stream=True)))
        await engine.arrived.wait()
        sent = -1
        while engine.sent_bytes != sent:  # until the engine is stuck
            sent = engine.sent_bytes
            await asyncio.sleep(0.3)
        assert sent < 40 * 1024 * 1024  # kernel buffers of two connections and ours, not the answer
        held = [
            link.transport.get_write_buffer_size()
            for link in lyon.worker.client_door.open_connections
        ]
        assert max(held) < 2 * 1024 * 1024
        writer.transport.abort()
        await engine.gone.wait()  # and the engine is told
        await lyon.idle()

    run(test)


def test_a_client_that_leaves_before_the_first_byte_stops_the_engine_too(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.engines[0].hold = asyncio.Event()
        _, writer = await connect(lyon.port)
        writer.write(request(chat()))
        await lyon.engines[0].arrived.wait()
        writer.close()
        await lyon.engines[0].gone.wait()
        await lyon.idle()
        ended = [record for record in lyon.records() if isinstance(record, Ended)]
        assert [record.outcome for record in ended] == ["cancelled"]

    run(test)


def test_a_client_that_leaves_at_done_had_its_answer(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        engine = lyon.engines[0]
        said = b'data: {"choices": [{"index": 0, "delta": {"content": "a"}}]}\n\n'
        engine.pieces, engine.gate = [said + b"data: [DONE]\n\n", b""], asyncio.Event()
        reader, writer = await connect(lyon.port)
        writer.write(request(chat(stream=True)))
        await reader.readuntil(b"[DONE]")
        writer.close()
        await engine.gone.wait()
        await lyon.idle()
        ended = [record for record in lyon.records() if isinstance(record, Ended)]
        assert [record.outcome for record in ended] == ["answered"]

    run(test)


def test_a_request_past_the_services_deadline_is_ended(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.engines[0].hold = asyncio.Event()
        asking = asyncio.ensure_future(ask(lyon.port, chat()))
        await lyon.engines[0].arrived.wait()
        for exchange in lyon.worker.running:
            exchange.expires_at_s = time.time()
        answer = await asking
        assert (answer.status, answer.code) == (504, "deadline_exceeded")
        await lyon.idle()

    run(test)


def test_hedges_stay_within_two_per_cent_and_win_when_the_first_is_slow(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        worker = lyon.worker
        slow = lyon.engines[0]
        for _ in range(60):
            await ask(lyon.port, chat(max_tokens=1))
        slow.hold = asyncio.Event()
        answers = await asyncio.gather(*(ask(lyon.port, chat(max_tokens=1)) for _ in range(8)))
        assert [answer.status for answer in answers] == [200] * 8
        hedges = worker.counts.row[metrics.HEDGES]
        assert hedges <= 1 + 0.02 * worker.requests_begun
        slow.hold.set()
        await lyon.idle()

    run(test)


def test_a_table_that_has_expired_admits_nothing(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        old = table_bytes(fleet_toml(("lyon",), 1), at_s=time.time() - 7200, version=5)
        (lyon.home / "table-6.tbl").write_bytes(old)
        pointer = lyon.home / "current.new"
        pointer.write_text("6\n")
        pointer.replace(lyon.home / "current")
        lyon.worker.take_table()
        answer = await ask(lyon.port, chat())
        assert (answer.status, answer.code) == (503, "no_table")
        assert (await get(lyon.port, "/readyz")).status == 503
        assert lyon.engines[0].posts() == []

    run(test)


def test_a_new_table_is_used_while_requests_of_the_old_one_run_on(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.engines[0].hold = asyncio.Event()
        asking = asyncio.ensure_future(ask(lyon.port, chat()))
        await lyon.engines[0].arrived.wait()
        (lyon.home / "table-9.tbl").write_bytes(table_bytes(fleet_toml(("lyon",), 1), version=8))
        (lyon.home / "current.new").write_text("9\n")
        (lyon.home / "current.new").replace(lyon.home / "current")
        lyon.worker.take_table()
        assert lyon.worker.routing.table.meta.version == 9
        lyon.engines[0].hold.set()
        assert (await asking).status == 200
        assert (await ask(lyon.port, chat())).status == 200
        await lyon.idle()

    run(test)


def test_decisions_of_every_attempt_are_on_record_before_the_engine_hears_of_it(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=2)
        lyon = league["lyon"]
        seen = []
        for engine in lyon.engines[:2]:
            engine.mode = "cut"
            inner = engine._answer

            async def look(asked, writer, inner=inner):
                seen.append([type(record) for record in _on_disk(lyon)])
                return await inner(asked, writer)

            engine._answer = look
        await ask(lyon.port, chat())
        # An engine that closes a kept connection is asked once more on a fresh one, under the same record.
        assert (seen[0], seen[-1]) == ([Decided, Executed], [Decided, Executed] * 2)

    def _on_disk(site):
        path = next((site.home / "evidence").glob("*.log"))
        return [decode_record(frame.raw) for frame in scan_file(path).frames[1:]]

    run(test)


def test_a_port_that_another_took_is_said_and_nothing_hangs(tmp_path, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as other:
        monkeypatch.setattr(rig, "free_port", lambda: other.getsockname()[1])
        with pytest.raises(OSError, match="already in use"):
            run(lambda: start(tmp_path))
