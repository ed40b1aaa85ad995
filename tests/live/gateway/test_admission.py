"""Who may come in: keys, classes, countries, law at the entry, rates; and the small answers."""

import asyncio
import re
import time
from pathlib import Path

from hanse.dispatch import events as ev
from hanse.dispatch.actions import PublishTable
from hanse.dispatch.dispatcher import Dispatcher
from hanse.live.evidence.chain import Decided
from hanse.live.gateway import metrics
from hanse.live.shared import SharedPage
from hanse.model.read import parse_fleet
from live.gateway.rig import (
    KEY,
    SHOP_KEY,
    SLOW_KEY,
    ask,
    chat,
    connect,
    fleet_toml,
    get,
    read_answer,
    request,
    run,
    start,
)

DOCS = Path(__file__).parents[3] / "docs" / "gateway.md"


def test_an_ineligible_entry_answers_421_before_the_body_and_names_one_that_may_read_it(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        virginia = league["virginia"]
        reader, writer = await connect(virginia.port)
        whole = request(chat("a secret of a patient"))
        head, _, _ = whole.partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")  # and not one byte of the body
        answer = await read_answer(reader)
        assert (answer.status, answer.code) == (421, "entry_not_eligible")
        hanse = answer.json["error"]["hanse"]
        assert hanse["gateway"] == {"site": "lyon", "url": league["lyon"].url}
        assert hanse["rules"]
        writer.close()
        refused = [r for r in virginia.records() if isinstance(r, Decided)]
        assert [record.refusal for record in refused] == ["entry_not_eligible"]
        assert refused[0].rules == tuple(hanse["rules"])
        assert virginia.engines[0].posts() == []

    run(test)


def test_an_ineligible_entry_never_says_continue(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        reader, writer = await connect(league["virginia"].port)
        head, _, _ = request(chat(), headers={"expect": "100-continue"}).partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        assert (await read_answer(reader)).status == 421
        assert await reader.read() == b""
        writer.close()

    run(test)


def test_where_no_site_is_eligible_the_answer_is_451_with_the_rules(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("virginia",))
        answer = await ask(league["virginia"].port, chat())  # health data from France
        assert (answer.status, answer.code) == (451, "no_eligible_site")
        assert answer.json["error"]["hanse"]["rules"]

    run(test)


def test_what_is_lawful_and_not_placed_now_is_no_matter_of_law(tmp_path):
    """The controller has moved chat away from the only site that may have health data: later perhaps, and not never."""

    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        lyon = league["lyon"]
        assert (await ask(lyon.port, chat())).status == 200
        dispatcher = Dispatcher("fleet")
        fleet = parse_fleet(fleet_toml(("lyon", "virginia"), 1).encode(), source="test")
        now_s = time.time()
        dispatcher.handle(ev.EpochGranted(at_s=now_s, epoch=1))
        dispatcher.handle(ev.FleetLoaded(at_s=now_s, fleet=fleet, version_known=8))
        left = tuple(p for p in fleet.placements if (p.site, p.service) != ("lyon", "chat"))
        dispatcher.handle(
            ev.PlacementDecided(at_s=now_s, source="test", placements=left, epoch=1, version=1)
        )
        (table,) = [
            a.content
            for a in dispatcher.handle(ev.Ticked(at_s=now_s))
            if isinstance(a, PublishTable)
        ]
        (lyon.home / "table-9.tbl").write_bytes(table)
        (lyon.home / "current.new").write_text("9\n")
        (lyon.home / "current.new").replace(lyon.home / "current")
        lyon.worker.take_table()
        assert lyon.worker.routing.table.meta.version == 9
        answer = await ask(lyon.port, chat())
        assert (answer.status, answer.code) == (503, "no_room")
        assert int(answer.headers["retry-after"]) >= 1
        assert (await ask(lyon.port, chat(), headers={"x-hanse-class": "public"})).status == 200

    run(test)


def test_classes_and_countries_narrow_and_never_widen(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        virginia, lyon = league["virginia"], league["lyon"]
        narrowed = await ask(virginia.port, chat(), headers={"x-hanse-class": "public"})
        assert narrowed.status == 200
        for headers, key, code in (
            ({"x-hanse-class": "payment"}, KEY, "class_not_allowed"),
            ({"x-hanse-class": "Public"}, KEY, "class_not_allowed"),
            ({"x-hanse-class": ""}, KEY, "class_not_allowed"),
            ({"x-hanse-class": "health"}, SHOP_KEY, "class_not_allowed"),
            ({"x-hanse-country": "US"}, KEY, "country_not_allowed"),
            ({"x-hanse-country": "fr"}, KEY, "country_not_allowed"),
            ({"x-hanse-country": "XX"}, SHOP_KEY, "country_not_allowed"),
        ):
            answer = await ask(lyon.port, chat(), headers=headers, key=key)
            assert (answer.status, answer.code) == (403, code), headers
        record = (await ask(lyon.port, chat(), headers={"x-hanse-country": "EE"})).status
        assert record == 200
        decided = [r for r in lyon.records() if isinstance(r, Decided)]
        assert [r.country for r in decided] == ["EE"]

    run(test)


def test_unknown_keys_are_401_whatever_they_ask(tmp_path):
    async def test():
        league = await start(tmp_path)
        port = league["lyon"].port
        for key in ("", "wrong", KEY[:-1], KEY + "x", "x" * 2000):
            answer = await ask(port, chat(), key=key)
            assert (answer.status, answer.code) == (401, "invalid_api_key")
            assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/v1/models", "/.well-known/hanse", "/hanse/v1/requests/" + "0" * 32):
            assert (await get(port, path, key="wrong")).status == 401

    run(test)


def test_a_key_sees_and_uses_only_its_services(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        port = league["virginia"].port
        models = (await get(port, "/v1/models", key=SHOP_KEY)).json["data"]
        assert [model["id"] for model in models] == ["chat", "gpt-4o-mini"]
        assert (await get(port, "/v1/models/chat", key=SHOP_KEY)).json["id"] == "chat"
        assert (await get(port, "/v1/models/embed", key=SHOP_KEY)).status == 404
        body = {"model": "embed", "input": "x"}
        answer = await ask(port, body, path="/v1/embeddings", key=SHOP_KEY)
        assert (answer.status, answer.code) == (404, "model_not_found")

    run(test)


def test_rate_limits_hold_per_key_and_say_when_to_come_again(tmp_path):
    async def test():
        league = await start(tmp_path)
        port = league["lyon"].port
        statuses = [(await ask(port, chat(), key=SLOW_KEY)).status for _ in range(4)]
        assert statuses == [200, 200, 429, 429]
        answer = await ask(port, chat(), key=SLOW_KEY)
        assert answer.code == "rate_limit_exceeded"
        assert 1 <= int(answer.headers["retry-after"]) <= 101
        assert (await ask(port, chat())).status == 200  # another key

    run(test)


def test_workers_of_a_site_share_one_rate(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        assert [(await ask(lyon.port, chat(), key=SLOW_KEY)).status for _ in range(2)] == [200, 200]
        page = SharedPage.open(lyon.home / "shared.mmap")  # as another worker maps it
        key = next(row for row in lyon.worker.policy.keys.values() if row.id == "slow")
        row = sorted(k.id for k in lyon.worker.policy.keys.values()).index("slow")
        assert page.buckets[row, 0] < 1.0
        assert key.admit(page.buckets[row, 1]) > 0.0

    run(test)


def test_gateways_that_may_read_are_listed_nearest_first(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn", "virginia"))
        port = league["lyon"].port
        listed = (await get(port, "/.well-known/hanse")).json
        assert [row["site"] for row in listed["gateways"]] == ["lyon", "tallinn"]  # health data
        public = {"x-hanse-class": "public"}
        listed = (await get(port, "/.well-known/hanse", headers=public)).json
        assert [row["site"] for row in listed["gateways"]] == ["lyon", "tallinn", "virginia"]
        path = "/.well-known/hanse?lat=59.4&lon=24.7"
        listed = (await get(port, path, headers=public)).json["gateways"]
        assert [row["site"] for row in listed] == ["tallinn", "lyon", "virginia"]
        assert listed[0]["url"] == league["tallinn"].url
        assert listed[0]["distance_km"] < 20

    run(test)


def test_explain_gives_the_verdict_on_every_offer(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        port = league["lyon"].port
        answer = await ask(port, {"service": "chat", "tokens_in": 30}, path="/hanse/v1/explain")
        verdicts = {row["site"]: row for row in answer.json["offers"]}
        assert answer.json["chosen"] == "lyon/chat/q4"
        assert verdicts["lyon"]["eligible"]
        assert verdicts["lyon"]["predicted"]["wh"] > 0
        assert verdicts["virginia"]["gate"] == "LAW"
        assert verdicts["virginia"]["rules"]
        assert (await ask(port, {"service": 1}, path="/hanse/v1/explain")).status == 400

    run(test)


def test_readiness_follows_table_and_engines(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        assert (await get(lyon.port, "/healthz")).status == 200
        assert (await get(lyon.port, "/readyz")).status == 200
        for engine in lyon.engines:
            await engine.stop()
        for _ in range(300):
            if (await get(lyon.port, "/readyz")).status == 503:
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("ready without any engine")
        assert (await get(lyon.port, "/healthz")).status == 200

    run(test)


def test_metrics_count_what_happened_and_every_name_is_documented(tmp_path):
    async def test():
        league = await start(tmp_path)
        port = league["lyon"].port
        await ask(port, chat())
        await ask(port, chat(stream=True))
        await ask(port, chat(), key="wrong")
        text = (await get(port, "/metrics")).body.decode()
        values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
        assert values['hanse_gateway_requests_total{site="lyon",code="200"}'] == "2"
        assert values['hanse_gateway_requests_total{site="lyon",code="401"}'] == "1"
        assert values['hanse_gateway_tokens_total{site="lyon",direction="out"}'] == "8"
        assert float(values['hanse_gateway_energy_joules_total{site="lyon"}']) > 0
        assert values['hanse_gateway_ttft_seconds_count{site="lyon"}'] == "1"
        assert (
            values['hanse_shadow_requests_total{site="lyon",view="central",result="served"}'] == "2"
        )
        documented = set(re.findall(r"`(hanse_[a-z_]+)`", DOCS.read_text()))
        named = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
        assert named == documented

    run(test)


def test_every_counter_has_its_own_place():
    assert metrics._layout.used <= 512
    lists = [metrics.REQUESTS, metrics.FAILED, metrics.TTFT, metrics.E2E, metrics.LEAGUE]
    assert len(set(lists)) == len(lists)
