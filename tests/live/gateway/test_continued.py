"""A stream that breaks in the middle goes on at another engine or site, and the client sees one answer."""

import asyncio
import json

import pytest

from hanse.live.evidence.chain import CONTINUED, Decided, Ended, Executed
from hanse.live.evidence.judge import Found, judge
from hanse.live.gateway import entry, metrics
from hanse.live.shared import DISK_FULL, FLAG_DISK_LEVEL
from hanse.twin.replay import replay
from live.gateway.mock_engine import MockEngine
from live.gateway.rig import Answer, League, ask, chat, connect, events, request, run, start
from live.gateway.rig import raw as ask_raw
from live.gateway.test_failures import forget
from live.gateway.test_hops import without_own_engines


def chunks(answer: Answer) -> list[dict]:
    return [json.loads(event) for event in events(answer.body) if event.startswith("{")]


def text(answer: Answer) -> str:
    found = [choice for chunk in chunks(answer) for choice in chunk.get("choices", ())]
    return "".join(one.get("delta", {}).get("content") or one.get("text", "") for one in found)


def error(answer: Answer) -> dict:
    """Of the event that ends a broken stream."""
    last = answer.body.decode().split("\n\n")[-2]
    assert last.startswith("event: error\ndata: "), answer.body
    return json.loads(last.partition("data: ")[2])["error"]


def breaks(engine: MockEngine, *, after: int = 2) -> None:
    """It sends so many parts of a stream, then dies."""
    engine.mode, engine.broken_after = "cut_mid", after


async def pair(home, **how) -> tuple[League, MockEngine, MockEngine]:
    """Two replicas at one site; the first breaks."""
    league = await start(home, replicas=2, **how)
    one, two = league["lyon"].engines[:2]
    one.answer_id, two.answer_id = "one", "two"
    one.role = two.role = True
    breaks(one, after=3)
    return league, one, two


def test_another_engine_goes_on_and_the_client_sees_one_answer(tmp_path):
    async def test():
        league, _one, two = await pair(tmp_path)
        lyon = league["lyon"]
        answer = await ask(
            lyon.port, chat(stream=True, max_tokens=9, stream_options={"include_usage": True})
        )
        assert answer.status == 200 and events(answer.body)[-1] == "[DONE]"
        assert text(answer) == "x0 x1 x2 x3 "
        seen = chunks(answer)
        assert {(c["id"], c["created"], c["model"]) for c in seen} == {("one", 1, "served-name")}
        roles = [c for c in seen if c["choices"] and "role" in c["choices"][0]["delta"]]
        assert len(roles) == 1
        usage = {"prompt_tokens": 7, "completion_tokens": 4, "total_tokens": 11}
        assert [c["usage"] for c in seen if c.get("usage")] == [usage]
        assert b": continued at lyon\n\n" in answer.body and b"event: error" not in answer.body
        asked = two.posts()[0].json
        assert asked["messages"][-1] == {"role": "assistant", "content": "x0 x1 "}
        assert asked["max_tokens"] == 7 and asked["messages"][:-1] == chat()["messages"]
        assert lyon.worker.counts.row[metrics.CONTINUED_STREAMS] == 1
        assert lyon.worker.counts.row[metrics.BROKEN_STREAMS] == 0
        await lyon.idle()

    run(test)


def test_the_records_say_both_places_and_that_it_was_continued(tmp_path):
    async def test():
        league, _, _ = await pair(tmp_path)
        lyon = league["lyon"]
        answer = await ask(lyon.port, chat(stream=True))
        await lyon.idle()
        records = lyon.records()
        assert [type(r) for r in records] == [Decided, Executed, Decided, Executed, Ended]
        assert [r.rules for r in records if isinstance(r, Decided)] == [(), (CONTINUED,)]
        assert [r.engine for r in records if isinstance(r, Executed)] == ["chat-q4-0", "chat-q4-1"]
        ended = records[-1]
        assert (ended.outcome, ended.attempt, ended.attempts) == ("answered", 2, 2)
        assert (ended.tokens_in, ended.tokens_out) == (7, 4)
        note = json.loads(answer.body.split(b": hanse ")[1].split(b"\n")[0])
        assert (note["attempts"], note["tokens_in"], note["tokens_out"]) == (2, 7, 4)

    run(test)


def test_what_broke_is_charged_with_what_went_on(tmp_path):
    async def test():
        league, one, _ = await pair(tmp_path)
        lyon = league["lyon"]
        await ask(lyon.port, chat(stream=True))
        one.mode = "ok"
        await ask(lyon.port, chat(stream=True))
        twice, once = (r for r in lyon.records() if isinstance(r, Ended))
        assert (twice.tokens_in, twice.tokens_out) == (once.tokens_in, once.tokens_out)
        assert 1.2 * once.energy_wh < twice.energy_wh < 3.0 * once.energy_wh
        assert twice.ttft_ms < twice.e2e_ms

    run(test)


def test_it_may_break_again_and_go_on_again(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=3)
        lyon = league["lyon"]
        for engine in lyon.engines[:2]:
            breaks(engine, after=1)
        usage = {"stream_options": {"include_usage": True}}
        answer = await ask(lyon.port, chat(stream=True, max_tokens=20, **usage))
        assert text(answer) == "x0 x1 x2 x3 " and events(answer.body)[-1] == "[DONE]"
        last = lyon.engines[2].posts()[0].json
        assert last["messages"][-1]["content"] == "x0 x1 " and last["max_tokens"] == 18
        assert len([m for m in last["messages"] if m["role"] == "assistant"]) == 1
        assert [c["usage"]["completion_tokens"] for c in chunks(answer) if c.get("usage")] == [4]
        ended = [r for r in lyon.records() if isinstance(r, Ended)]
        assert [(r.tokens_in, r.tokens_out, r.attempts) for r in ended] == [(7, 4, 3)]
        await lyon.idle()

    run(test)


def test_where_nobody_goes_on_the_error_event_says_so(tmp_path):
    async def test():
        league, _, two = await pair(tmp_path, continues=False)
        lyon = league["lyon"]
        answer = await ask_raw(lyon.port, request(chat(stream=True)))
        said = error(answer)
        assert said["code"] == "stream_broken" and answer.closed
        assert said["hanse"]["not_continued"].startswith("nobody else can take it now")
        assert text(answer) == "x0 x1 " and not two.posts()
        ended = [r for r in lyon.records() if isinstance(r, Ended)]
        assert [(r.outcome, r.attempts, r.tokens_out) for r in ended] == [("broken", 1, 3)]
        assert lyon.worker.counts.row[metrics.BROKEN_STREAMS] == 1
        await lyon.idle()

    run(test)


def test_a_stream_that_breaks_while_nothing_is_heard_of_others_is_held_and_goes_on(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon, tallinn = league["lyon"], league["tallinn"]
        breaks(lyon.engines[0], after=3)
        forget(lyon, "tallinn")
        answer = await ask(lyon.port, chat(stream=True))
        assert text(answer) == "x0 x1 x2 x3 " and events(answer.body)[-1] == "[DONE]"
        assert b": continued at tallinn\n\n" in answer.body and b"event: error" not in answer.body
        assert tallinn.engines[0].posts()[0].json["messages"][-1]["content"] == "x0 x1 x2 "
        await lyon.idle()

    run(test)


def test_a_stream_is_not_held_for_ever_and_the_error_event_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(entry, "HELD_S", 0.3)

    async def test():
        league = await start(tmp_path, sites=("lyon", "tallinn"))
        lyon = league["lyon"]
        breaks(lyon.engines[0], after=3)
        for peer in lyon.worker.peers.values():
            peer._heard = lambda *_: None
        forget(lyon, "tallinn")
        answer = await ask_raw(lyon.port, request(chat(stream=True)))
        said = error(answer)
        assert said["code"] == "stream_broken" and answer.closed
        assert said["hanse"]["not_continued"].startswith("nobody else could; the last: lyon")
        ended = [r for r in lyon.records() if isinstance(r, Ended)]
        assert [(r.outcome, r.attempts) for r in ended] == [("broken", 1)]
        await lyon.idle()

    run(test)


def test_an_answer_without_a_word_begins_again_at_any_engine(tmp_path):
    async def test():
        league, one, two = await pair(tmp_path, continues=False)
        breaks(one, after=1)  # the role, and nothing else
        answer = await ask(
            league["lyon"].port, chat(stream=True, response_format={"type": "json_object"})
        )
        assert text(answer) == "x0 x1 x2 x3 " and events(answer.body)[-1] == "[DONE]"
        assert {c["id"] for c in chunks(answer)} == {"one"}
        assert two.posts()[0].json["messages"] == chat()["messages"]
        roles = [c for c in chunks(answer) if "role" in c["choices"][0]["delta"]]
        assert len(roles) == 1

    run(test)


def delta(**fields: object) -> bytes:
    choice = {"index": 0, "delta": fields}
    return b"data: " + json.dumps({"id": "one", "choices": [choice]}).encode() + b"\n\n"


@pytest.mark.parametrize(
    ("asked", "first"),
    [
        ({"n": 2}, delta(content="a ")),
        ({"logprobs": True}, delta(content="a ")),
        ({"response_format": {"type": "json_object"}}, delta(content="a ")),
        ({"grammar": "root ::= [a-z]"}, delta(content="a ")),
        ({"tool_choice": "required"}, delta(content="a ")),
        ({"stop": ["a b"]}, delta(content="say a ")),
        ({"continue_final_message": True}, delta(content="a ")),
        ({}, delta(content="a ") + delta(tool_calls=[{"index": 0}])),
        ({}, delta(reasoning_content="hm")),
        ({}, delta(content=["a"])),
        ({}, b'data: {"choices": [{"index": 1, "delta": {"content": "a"}}]}\n\n'),
        ({}, b"data: {broken\n\n"),
        ({}, b"event: ping\ndata: {}\n\n"),
    ],
)
def test_what_cannot_be_continued_ends_with_the_error_event(tmp_path, asked, first):
    async def test():
        league, one, two = await pair(tmp_path)
        one.pieces, one.broken_after = [first, b""], 1
        answer = await ask_raw(league["lyon"].port, request(chat(stream=True, **asked)))
        said = error(answer)
        assert said["code"] == "stream_broken" and said["hanse"]["not_continued"]
        assert not two.posts() and answer.closed
        await league["lyon"].idle()

    run(test)


def test_a_request_that_the_client_had_begun_to_answer_is_not_continued(tmp_path):
    async def test():
        league, _, two = await pair(tmp_path)
        messages = [*chat()["messages"], {"role": "assistant", "content": "I say"}]
        answer = await ask(league["lyon"].port, chat(stream=True) | {"messages": messages})
        assert error(answer)["code"] == "stream_broken" and not two.posts()

    run(test)


def test_an_answer_that_lacks_only_its_end_is_ended(tmp_path):
    async def test():
        league, one, two = await pair(tmp_path)
        one.broken_after = 6  # role, four tokens, finish_reason
        one.gate = None
        usage = {"stream_options": {"include_usage": True}}
        answer = await ask(league["lyon"].port, chat(stream=True, **usage))
        assert text(answer) == "x0 x1 x2 x3 " and events(answer.body)[-1] == "[DONE]"
        assert not two.posts() and b"error" not in answer.body
        assert answer.body.count(b": hanse {") == 1
        records = league["lyon"].records()
        assert [r.outcome for r in records if isinstance(r, Ended)] == ["answered"]
        await league["lyon"].idle()

    run(test)


def test_an_answer_at_its_limit_is_ended(tmp_path):
    async def test():
        league, _one, two = await pair(tmp_path)
        answer = await ask(league["lyon"].port, chat(stream=True, max_tokens=2))
        assert text(answer) == "x0 x1 " and events(answer.body)[-1] == "[DONE]"
        last = chunks(answer)[-1]
        assert (last["id"], last["choices"][0]["finish_reason"]) == ("one", "length")
        assert not two.posts()

    run(test)


def test_a_text_completion_goes_on_behind_its_prompt(tmp_path):
    async def test():
        league, one, two = await pair(tmp_path)

        def said(words: str, end: str | None = None) -> bytes:
            choice = {"text": words, "index": 0, "finish_reason": end}
            return b"data: " + json.dumps({"id": "t", "choices": [choice]}).encode() + b"\n\n"

        one.pieces = [said("is "), said("deep "), said("blue")]
        one.broken_after = 2
        two.pieces = [said("and wide", "stop"), b"data: [DONE]\n\n"]
        body = {"model": "chat", "prompt": "The sea ", "stream": True, "max_tokens": 9}
        answer = await ask(league["lyon"].port, body, path="/v1/completions")
        assert text(answer) == "is deep and wide" and events(answer.body)[-1] == "[DONE]"
        asked = two.posts()[0].json
        assert asked["prompt"] == "The sea is deep " and asked["max_tokens"] == 7
        assert "continue_final_message" not in asked

    run(test)


def test_who_goes_on_may_refuse_fail_or_be_slow_and_another_is_asked(tmp_path):
    async def test():
        league = await start(tmp_path, replicas=5)
        lyon = league["lyon"]
        one, refuses, fails, dumb, last = lyon.engines[:5]
        breaks(one)

        async def refuse(asked, writer):
            writer.write(b"HTTP/1.1 400 X\r\ncontent-length: 2\r\n\r\n{}")
            return True

        refuses._answer = refuse
        fails.mode, dumb.mode = "error", "cut"
        answer = await ask(lyon.port, chat(stream=True))
        assert text(answer) == "x0 x1 x2 x3 " and events(answer.body)[-1] == "[DONE]"
        assert last.posts() and answer.body.count(b": continued at") == 1
        ended = [r for r in lyon.records() if isinstance(r, Ended)]
        assert [(r.outcome, r.attempts) for r in ended] == [("answered", 5)]
        await lyon.idle()

    run(test)


@pytest.mark.parametrize("how", ["leaves", "deadline", "disk"])
def test_ends_between_the_two_parts_are_clean(tmp_path, how):
    async def test():
        league, _, two = await pair(tmp_path)
        lyon = league["lyon"]
        two.hold = asyncio.Event()
        gate = lyon.engines[0].gate = asyncio.Event()
        if how != "disk":
            gate.set()
        asking = asyncio.ensure_future(ask(lyon.port, chat(stream=True)))
        if how == "disk":
            await lyon.engines[0].arrived.wait()
            lyon.worker.page.flags[FLAG_DISK_LEVEL] = DISK_FULL
            while not lyon.worker.ledger.refusing:
                await asyncio.sleep(0.01)
            gate.set()
        else:
            await two.arrived.wait()
        if how == "leaves":
            asking.cancel()
            await two.gone.wait()
        elif how == "deadline":
            (entry,) = lyon.worker.running
            entry.expires_at_s = 0.0
        if how != "leaves":
            answer = await asking
            assert error(answer)["code"] == "stream_broken"
        await lyon.idle()
        ended = [r for r in lyon.records() if isinstance(r, Ended)]
        assert [r.outcome for r in ended] == ["cancelled" if how == "leaves" else "broken"]
        assert ended[0].energy_wh > 0.0 and ended[0].tokens_out == 2

    run(test)


TRIO = ("lyon", "tallinn", "virginia")


async def from_tallinn(home, **how) -> League:
    """Lyon's own engine is dead, Tallinn's stands still after its first token, Virginia's is well and last in order."""
    league = await start(home, sites=TRIO, **how)
    await without_own_engines(league, "lyon")
    league["tallinn"].engines[0].gate = asyncio.Event()
    return league


Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def begun(league: League, **how) -> Client:
    """A client at Lyon who has the first token, from Tallinn."""
    reader, writer = await connect(league["lyon"].port)
    writer.write(request(chat(stream=True), **how))
    assert b"x-hanse-site: tallinn" in (head := await reader.readuntil(b"x0 ")), head
    return reader, writer


async def the_rest(client: Client) -> bytes:
    reader, writer = client
    try:
        return await reader.readuntil(b"\r\n0\r\n\r\n")
    finally:
        writer.close()


PUBLIC = {"headers": {"x-hanse-class": "public"}}


@pytest.mark.parametrize("dies", ["engine", "gateway"])
def test_a_stream_from_another_site_goes_on_at_a_third(tmp_path, dies):
    """The engine's death is told by its gateway, the gateway's by the connection."""

    async def test():
        league = await from_tallinn(tmp_path)
        lyon, tallinn, virginia = (league[name] for name in TRIO)
        client = await begun(league, **PUBLIC)
        if dies == "engine":
            await tallinn.engines[0].stop()
        else:
            for server in tallinn.worker.servers:
                server.close()
            for link in tuple(tallinn.worker.hop_door.open_connections):
                link.transport.abort()
        rest = await the_rest(client)
        assert b": continued at virginia\n\n" in rest and b"[DONE]" in rest
        assert b"event: error" not in rest and rest.count(b"x3 ") == 1 and b"x0 " not in rest
        body = virginia.engines[0].posts()[0].json
        assert body["messages"][-1] == {"role": "assistant", "content": "x0 "}
        for site in league.sites.values():
            await site.idle()
        entry, serving = lyon.records(), virginia.records()
        decided = [r for r in entry if isinstance(r, Decided)]
        assert [(r.site, r.rules) for r in decided] == [
            ("tallinn", ()),
            ("virginia", (CONTINUED,)),
        ]
        assert [r.attempt for r in serving if isinstance(r, Executed)] == [2]
        ended = entry[-1]
        assert (ended.outcome, ended.attempt, ended.tokens_in, ended.tokens_out) == (
            "answered",
            2,
            7,
            4,
        )

    run(test)


def test_the_text_so_far_goes_only_where_the_request_may_go(tmp_path):
    """Health data from Estonia may not be read in Virginia: the one lawful site is asked again, and no other."""

    async def test():
        league = await from_tallinn(tmp_path)
        tallinn, virginia = league["tallinn"], league["virginia"]
        health = {"x-hanse-class": "health", "x-hanse-country": "EE"}
        client = await begun(league, headers=health)
        await tallinn.engines[0].stop()
        rest = await the_rest(client)
        assert b"stream_broken" in rest and b"not_continued" in rest
        assert not virginia.engines[0].posts()
        assert not [r for r in virginia.records() if isinstance(r, Executed)]

    run(test)


def test_the_only_lawful_site_goes_on_itself_where_its_gateway_lives(tmp_path):
    async def test():
        league = await start(tmp_path, sites=TRIO, replicas=2)
        await without_own_engines(league, "lyon")
        tallinn = league["tallinn"]
        for engine in tallinn.engines[:2]:
            engine.gate = asyncio.Event()
        health = {"x-hanse-class": "health", "x-hanse-country": "EE"}
        client = await begun(league, headers=health)
        one, two = tallinn.engines[:2] if tallinn.engines[0].posts() else tallinn.engines[1::-1]
        two.gate = None
        await one.stop()
        rest = await the_rest(client)
        assert b": continued at tallinn\n\n" in rest and b"[DONE]" in rest
        assert two.posts()[0].json["messages"][-1]["content"] == "x0 "
        assert not league["virginia"].engines[0].posts()
        for site in league.sites.values():
            await site.idle()

    run(test)


@pytest.mark.parametrize("bytes_come", [False, True])
def test_a_stream_whose_site_falls_silent_goes_on_once_it_stands_still(tmp_path, bytes_come):
    """A site without power closes no connection. Where bytes still come, only the way there is cut."""

    async def test():
        league = await from_tallinn(tmp_path)
        lyon, tallinn = league["lyon"], league["tallinn"]
        client = await begun(league, **PUBLIC)
        (entry,) = lyon.worker.running
        peer = lyon.worker.peers["tallinn"]
        peer.check = lambda: None  # its checks go unanswered from here on
        peer._misses = 3
        lyon.worker.lost("tallinn")
        assert entry.carried is None, "one look does not tell a pause from an end"
        if bytes_come:
            tallinn.engines[0].gate.set()
            rest = await the_rest(client)
            lyon.worker.lost("tallinn")
            assert b"[DONE]" in rest and b": continued" not in rest
        else:
            lyon.worker.lost("tallinn")
            rest = await the_rest(client)
            assert b": continued at virginia\n\n" in rest and b"[DONE]" in rest
            await tallinn.engines[0].gone.wait()
        for site in league.sites.values():
            await site.idle()

    run(test)


def test_a_silent_site_is_waited_for_where_nobody_else_can(tmp_path):
    async def test():
        league = await from_tallinn(tmp_path, continues=False)
        lyon, tallinn = league["lyon"], league["tallinn"]
        client = await begun(league, **PUBLIC)
        for _ in range(3):
            lyon.worker._peer_died("tallinn")
        tallinn.engines[0].gate.set()
        rest = await the_rest(client)
        assert b"[DONE]" in rest and b"error" not in rest

    run(test)


def test_the_replay_of_the_input_log_makes_the_further_decision_again(tmp_path):
    async def test():
        league = await start(tmp_path, sites=TRIO, replicas=2, journal=True)
        lyon = league["lyon"]
        for site in league.sites.values():
            breaks(site.engines[0], after=2)
        answers = [await ask(lyon.port, chat(stream=True), **PUBLIC) for _ in range(4)]
        assert all(events(answer.body)[-1] == "[DONE]" for answer in answers)
        assert sum(answer.body.count(b": continued at") for answer in answers) > 0
        for site in league.sites.values():
            await site.idle()
        return lyon.worker.counts.row[metrics.RETRIES]

    retries = []

    async def kept():
        retries.append(await test())

    run(kept)
    found = replay(tmp_path)
    assert found.mismatches == 0
    assert found.compared["choice"] >= 4 + retries[0] > 4
    assert all(file.closed for file in found.files)


def test_an_audit_finds_a_continued_request_proven(tmp_path):
    async def test():
        league = await from_tallinn(tmp_path)
        client = await begun(league, **PUBLIC)
        await league["tallinn"].engines[0].stop()
        await the_rest(client)
        for site in league.sites.values():
            await site.idle()
        found = [
            Found(site=site.name, record=record, flaw="")
            for site in league.sites.values()
            for record in site.records()
        ]
        judged = judge(found)
        assert (judged.status, judged.executing_site) == ("proven", "virginia"), judged

    run(test)
