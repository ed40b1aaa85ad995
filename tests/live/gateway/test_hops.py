"""Requests that enter at one site and run at another: mutual TLS, envelopes, refusals, load on every answer."""

import asyncio
import json
import ssl
import time

from hanse.live.evidence.chain import Decided, Ended, Executed
from hanse.live.gateway.frames import LoadFrame, OfferLoad, read_header
from hanse.live.identity import (
    Envelope,
    client_context,
    host_name,
    load_identity,
    peer_session,
    seal_envelope,
)
from live.gateway.rig import ask, chat, events, read_answer, request, run, start

PAIR = ("lyon", "tallinn")


async def without_own_engines(league, name):
    """From here on everything that enters at `name` has to be forwarded."""
    site = league[name]
    for engine in site.engines:
        await engine.stop()
    for _ in range(300):
        if not any(engine.usable(time.time()) for engine in site.worker.engines):
            site.worker.routing.refresh(time.time())
            return
        await asyncio.sleep(0.02)
    raise AssertionError("dead engines stayed usable")


def test_a_request_is_forwarded_under_an_envelope_and_both_sites_keep_records(tmp_path):
    async def test():
        league = await start(tmp_path, sites=PAIR)
        lyon, tallinn = league["lyon"], league["tallinn"]
        await without_own_engines(league, "lyon")
        answer = await ask(lyon.port, chat(), headers={"traceparent": "00-ab-cd-01"})
        assert answer.status == 200
        assert answer.headers["x-hanse-site"] == "tallinn"
        measured = dict(p.split("=") for p in answer.headers["x-hanse-measured"].split(";"))
        assert (measured["tokens_in"], measured["tokens_out"]) == ("7", "4")
        assert float(measured["wh"]) > 0
        got = tallinn.engines[0].posts()[0]
        assert got.json["model"] == "served-name"
        assert got.headers["traceparent"] == "00-ab-cd-01"
        assert not {"authorization", "x-hanse-envelope"} & set(got.headers)
        entry, serving = lyon.records(), tallinn.records()
        assert [type(record) for record in entry] == [Decided, Ended]
        assert [type(record) for record in serving] == [Executed, Ended]
        assert entry[0].request_id == serving[0].request_id
        assert (serving[0].entry_site, serving[0].allowed) == ("lyon", True)
        assert (entry[1].role, serving[1].role) == ("entry", "serving")
        await lyon.idle()
        await tallinn.idle()

    run(test)


def test_a_stream_over_a_hop_is_like_one_without(tmp_path):
    async def test():
        league = await start(tmp_path, sites=PAIR)
        await without_own_engines(league, "lyon")
        answer = await ask(league["lyon"].port, chat(stream=True))
        texts = events(answer.body)
        assert len(texts) == 6
        assert texts[-1] == "[DONE]"
        assert answer.body.count(b": hanse {") == 1
        note = json.loads(answer.body.split(b": hanse ")[1].split(b"\n")[0])
        assert note["tokens_out"] == 4
        assert note["wh"] > 0
        for site in league.sites.values():
            await site.idle()

    run(test)


def test_a_client_that_leaves_stops_the_engine_behind_the_hop(tmp_path):
    async def test():
        league = await start(tmp_path, sites=PAIR)
        await without_own_engines(league, "lyon")
        engine = league["tallinn"].engines[0]
        engine.gate = asyncio.Event()
        reader, writer = await asyncio.open_connection("127.0.0.1", league["lyon"].port)
        writer.write(request(chat(stream=True)))
        await reader.readuntil(b"\r\n\r\n")
        writer.close()
        await engine.gone.wait()
        for site in league.sites.values():
            await site.idle()
        ended = [r for r in league["tallinn"].records() if isinstance(r, Ended)]
        assert [record.outcome for record in ended] == ["cancelled"]

    run(test)


def test_a_peer_without_room_refuses_and_the_next_one_serves(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn", "virginia"))
        await without_own_engines(league, "lyon")
        shop_headers = {"x-hanse-class": "public"}
        for name in ("tallinn", "virginia"):
            league[name].worker.routing._requests_max[:] = (
                0.0  # full, and its peers do not know yet
            )
        answer = await ask(league["lyon"].port, chat(), headers=shop_headers)
        assert (answer.status, answer.code) == (503, "no_room")
        refused = [r for r in league["lyon"].records() if isinstance(r, Decided)]
        assert {record.site for record in refused} == {"tallinn", "virginia", ""}
        league["virginia"].worker.routing._requests_max[:] = 10.0
        answer = await ask(league["lyon"].port, chat(), headers=shop_headers)
        assert (answer.status, answer.headers["x-hanse-site"]) == (200, "virginia")
        for name in ("tallinn", "virginia"):
            assert league[name].in_flight() == 0

    run(test)


def test_a_killed_peer_costs_the_client_nothing(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn", "virginia"))
        await without_own_engines(league, "lyon")
        victim = league["tallinn"]
        for server in victim.worker.servers:
            server.close()
        for link in tuple(victim.worker.hop_door.open_connections):
            link.transport.abort()
        for _ in range(5):
            answer = await ask(league["lyon"].port, chat(), headers={"x-hanse-class": "public"})
            assert (answer.status, answer.headers["x-hanse-site"]) == (200, "virginia")
        await league["lyon"].idle()

    run(test)


def test_load_of_a_peer_is_heard_on_every_answer_and_by_checks(tmp_path):
    async def test():
        league = await start(tmp_path, sites=PAIR)
        lyon, tallinn = league["lyon"], league["tallinn"]
        await without_own_engines(
            league, "lyon"
        )  # else tallinn would send its waiting requests there
        engine = tallinn.engines[0]
        engine.hold = asyncio.Event()
        busy = [asyncio.ensure_future(ask(tallinn.port, chat())) for _ in range(3)]
        routing = lyon.worker.routing
        offer = routing.table.offer_index["tallinn/chat/q4"]
        for _ in range(300):
            if routing.load.offers[offer]["requests"] == 3:
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("the peer's load was never heard")
        engine.hold.set()
        await asyncio.gather(*busy)

    run(test)


def test_frames_travel_in_a_header_and_a_frame_for_another_site_is_dropped(tmp_path):
    async def test():
        league = await start(tmp_path, sites=PAIR)
        routing = league["lyon"].worker.routing
        line = league["tallinn"].worker.routing.frame_line(time.time())
        frame = read_header(line.split(b": ")[1].strip())
        assert frame is not None
        assert frame.site == "tallinn"
        assert {offer.key for offer in frame.offers} == {"chat/q4", "embed/mini"}
        offer = routing.table.offer_index["tallinn/chat/q4"]
        lie = LoadFrame(
            site="tallinn",
            table_version=1,
            epoch=1,
            age_ms=0.0,
            power_ok=True,
            offers=(OfferLoad("chat/q4", 1, 777, 0, 0, 0.0),),
        )
        routing.heard(lie, "virginia", time.time() + 1)
        assert routing.load.offers[offer]["requests"] != 777
        routing.heard(lie, "tallinn", time.time() + 1)
        assert routing.load.offers[offer]["requests"] == 777

    run(test)


async def hop(league, name, *, path="/v1/chat/completions", body=None, change=None, token=None):
    """Speak to a hop port as lyon's gateway would."""
    identity = load_identity(
        league.home / "sites" / "lyon" / "identity", "test", "lyon", time.time()
    )
    reader, writer = await asyncio.open_connection(
        "127.0.0.1",
        league[name].hop_port,
        ssl=client_context(identity),
        server_hostname=host_name(name),
    )
    session = peer_session(identity, writer.get_extra_info("ssl_object"), dialled=True)
    data = json.dumps(body if body is not None else chat()).encode()
    fields = {
        "request_id": bytes(range(16)),
        "attempt": 1,
        "entry_site": "lyon",
        "tenant": "clinic",
        "data_class": "health",
        "country": "FR",
        "subject_row": 1,
        "service": "chat",
        "variant": "q4",
        "epoch": 1,
        "table_version": 1,
        "budget_ms": 5000.0,
        "sent_at_s": time.time(),
        "body_bytes": len(data),
    } | (change or {})
    sealed = token if token is not None else seal_envelope(session, Envelope(**fields))
    head = [f"POST {path} HTTP/1.1", "host: hop", f"content-length: {len(data)}"]
    if sealed:
        head.append(f"x-hanse-envelope: {sealed.decode()}")
    writer.write("\r\n".join([*head, "", ""]).encode() + data)
    answer = await read_answer(reader)
    writer.close()
    return answer, sealed


def test_the_hop_port_takes_nothing_without_a_fresh_envelope_of_the_right_site(tmp_path):
    async def test():
        league = await start(tmp_path, sites=PAIR)
        good, token = await hop(league, "tallinn")
        assert good.status == 200
        cases = {
            "replayed": {"token": token},
            "none": {"token": b""},
            "garbage": {"token": b"AAAA"},
            "two hops": {"change": {"hop": 2, "attempt": 2}},
            "another entry": {"change": {"entry_site": "virginia", "attempt": 3}},
            "old": {"change": {"sent_at_s": time.time() - 120, "attempt": 4}},
            "another body": {"change": {"body_bytes": 3, "attempt": 5}},
            "no time left": {"change": {"budget_ms": 0.0, "attempt": 6}},
        }
        for name, case in cases.items():
            answer, _ = await hop(league, "tallinn", **case)
            assert answer.status == 400, (name, answer)
        assert len(league["tallinn"].engines[0].posts()) == 1

    run(test)


def test_the_serving_site_checks_the_law_by_its_own_table(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        virginia = league["virginia"]
        answer, _ = await hop(league, "virginia")  # health data of a French clinic
        assert (answer.status, answer.headers["x-hanse-refusal"]) == (409, "law")
        assert virginia.engines[0].posts() == []
        refused = [r for r in virginia.records() if isinstance(r, Executed)]
        assert [(record.allowed, record.engine) for record in refused] == [(False, "")]
        unknown, _ = await hop(league, "virginia", change={"tenant": "nobody", "attempt": 2})
        assert unknown.headers["x-hanse-refusal"] == "law"
        public, _ = await hop(league, "virginia", change={"data_class": "public", "attempt": 3})
        assert public.status == 200
        assert "hanse-load" in public.headers

    run(test)


def test_without_a_certificate_of_the_fleet_there_is_no_hop(tmp_path):
    async def test():
        league = await start(tmp_path, sites=PAIR)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        failed = False
        try:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", league["tallinn"].hop_port, ssl=context
            )
            writer.write(b"GET /hanse/v1/check HTTP/1.1\r\nhost: x\r\n\r\n")
            failed = await reader.read() == b""
            writer.close()
        except (ssl.SSLError, ConnectionError):
            failed = True
        assert failed

    run(test)
