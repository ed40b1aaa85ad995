"""Heads that were read before: a remembered head changes what a request costs and nothing else."""

from __future__ import annotations

import asyncio
import hashlib

import httptools
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.dispatch.table import Table
from hanse.live.evidence import Record
from hanse.live.evidence.chain import Decided, Ended, decode_record, scan_file
from hanse.live.gateway import heads as heads_module
from hanse.live.gateway import metrics, outgoing
from hanse.live.gateway.heads import (
    HEADS_MAX,
    Heads,
    KnownAnswer,
    KnownHead,
    ends_with_last_byte,
)
from live.gateway.rig import KEY, chat, fleet_toml, request, table_bytes
from live.gateway.unwired import Unwired, alike

ANSWER_BODY = b'{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    % len(ANSWER_BODY)
) + ANSWER_BODY


class Never(Heads[KnownHead]):
    """A memory that keeps nothing: every head goes to the parser."""

    def learn(self, head: bytes, known: KnownHead, parser: type) -> None:
        pass


@pytest.fixture(scope="module")
def loop():
    made = asyncio.new_event_loop()
    yield made
    made.close()


@pytest.fixture(scope="module")
def pair(tmp_path_factory, loop):
    """Two workers, one with a memory and one without."""
    home = tmp_path_factory.mktemp("pair")
    knowing, forgetful = Unwired(home / "a", loop), Unwired(home / "b", loop)
    forgetful.worker.client_door.heads = Never(KnownHead.resized)
    yield knowing, forgetful
    for one in (knowing, forgetful):
        one.close()


def ordinary(text: str = "hello") -> bytes:
    return request(chat(text))


def teach(one: Unwired, data: bytes, answer: bytes = ANSWER) -> None:
    """Let it see a request often enough to know its head."""
    for _ in range(2):
        link, wire = one.connect()
        link.data_received(data)
        one.turn(answer)
        assert wire.written.startswith(b"HTTP/1.1 200")
        link.connection_lost(None)


def is_known(one: Unwired, data: bytes) -> bool:
    return one.worker.client_door.heads.find(data) is not None


def changed(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


GOOD = ordinary()
HEAD, _, BODY = GOOD.partition(b"\r\n\r\n")
LENGTH = b"content-length: %d" % len(BODY)
EMBED = request({"model": "embed", "input": "hello"}, path="/v1/embeddings")
TRACED = request(
    {"model": "embed", "input": "hi"}, path="/v1/embeddings", headers={"traceparent": "00-a-b"}
)
VARIANTS = {
    "same": GOOD,
    "embeddings": EMBED,
    "embeddings, traced": TRACED,
    "embeddings, traced otherwise": changed(TRACED, b"00-a-b", b"00-cafe-beef-01"),
    "trace in capitals": changed(TRACED, b"00-a-b", b"00-CAFE-BEEF-01"),
    "trace of any text": changed(TRACED, b"00-a-b", b"00 a b"),
    "trace with a zero byte": changed(TRACED, b"00-a-b", b"00-a\x00b"),
    "trace twice": changed(TRACED, b"traceparent", b"traceparent: 00-c-d\r\ntraceparent"),
    "trace that holds a length": changed(TRACED, b"00-a-b", b"content-length: 5"),
    "trace without a value": changed(TRACED, b" 00-a-b", b" "),
    "stream": request(chat("hello", stream=True)),
    "other body of another length": ordinary("a longer text than the one before"),
    "length too small": changed(GOOD, LENGTH, b"content-length: %d" % (len(BODY) - 1)),
    "length too large": changed(GOOD, LENGTH, b"content-length: %d" % (len(BODY) + 1)),
    "length of zero": changed(GOOD, LENGTH, b"content-length: 0"),
    "length with leading zeros": changed(GOOD, LENGTH, b"content-length: 000%d" % len(BODY)),
    "length with a sign": changed(GOOD, LENGTH, b"content-length: +%d" % len(BODY)),
    "length with spaces": changed(GOOD, LENGTH, b"content-length:  %d " % len(BODY)),
    "length twice": changed(GOOD, LENGTH, LENGTH + b"\r\n" + LENGTH),
    "length twice, otherwise spelt": changed(GOOD, LENGTH, LENGTH + b"\r\nContent-Length: 5"),
    "length missing": changed(GOOD, LENGTH + b"\r\n", b""),
    "chunked beside a length": changed(GOOD, LENGTH, LENGTH + b"\r\ntransfer-encoding: chunked"),
    "header twice": changed(GOOD, b"host: test", b"host: test\r\nhost: test"),
    "another key": changed(GOOD, KEY.encode(), b"test-key-of-the-shop"),
    "no key": changed(GOOD, b"authorization", b"x-authorization"),
    "unknown key": changed(GOOD, KEY.encode(), KEY.encode()[:-1] + b"x"),
    "another class": changed(GOOD, b"host: test", b"host: test\r\nx-hanse-class: public"),
    "expectation": changed(GOOD, b"host: test", b"host: test\r\nexpect: 100-continue"),
    "close": changed(GOOD, b"host: test", b"host: test\r\nconnection: close"),
    "upgrade": changed(GOOD, b"host: test", b"host: test\r\nconnection: upgrade\r\nupgrade: h2c"),
    "HTTP/1.0": changed(GOOD, b"HTTP/1.1", b"HTTP/1.0"),
    "HTTP/1.0 kept": changed(GOOD, b"HTTP/1.1\r\n", b"HTTP/1.0\r\nconnection: keep-alive\r\n"),
    "bare line feed": changed(GOOD, b"\r\nhost", b"\nhost"),
    "folded header": changed(GOOD, b"host: test", b"host: test\r\n more"),
    "header name with a space": changed(GOOD, b"host:", b"host :"),
    "another path": changed(GOOD, b"/v1/chat/completions", b"/v1/completions"),
    "another method": changed(GOOD, b"POST", b"PUT"),
    "get": b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n",
    "not JSON": HEAD + b"\r\n\r\n" + b"x" * len(BODY),
    "unknown model": changed(GOOD, b'"chat"', b'"chut"'),
    "two at once": GOOD + GOOD,
    "one and a half": GOOD + GOOD[:50],
    "one and a line end": GOOD + b"\r\n",
    "line end and one": b"\r\n" + GOOD,
    "only a line end": b"\r\n",
    "health check and one and a half": b"GET /healthz HTTP/1.1\r\nhost: test\r\n\r\n" + GOOD[:30],
    "head alone": HEAD + b"\r\n\r\n",
    "rubbish": b"\x00\x01\x02\x03" * 9,
}


def play(one: Unwired, segments: list[bytes], answer: bytes) -> list[object]:
    """What a client sees and what the engine gets, segment by segment, on one connection."""
    link, wire = one.connect()
    seen: list[object] = []
    for segment in segments:
        if wire.closed or not wire.reading:
            break
        link.data_received(segment)
        sent = one.turn(answer)
        seen.append((alike(wire.take()), wire.closed, wire.reading, alike(sent), link.state))
    link.connection_lost(None)
    one.turn(answer)
    assert not one.worker.running
    assert not one.worker.waiting
    return seen


@settings(max_examples=effort(400), deadline=None)
@given(
    names=st.lists(st.sampled_from(sorted(VARIANTS)), min_size=1, max_size=5),
    cuts=st.lists(st.integers(1, 600), max_size=2),
    joined=st.booleans(),
)
def test_a_known_head_is_answered_as_if_it_had_been_parsed(pair, names, cuts, joined):
    knowing, forgetful = pair
    for data in (GOOD, EMBED, TRACED):
        teach(knowing, data)
    segments = [VARIANTS[name] for name in names]
    if joined:
        segments = [b"".join(segments)]
    for cut in cuts:
        segments = [part for s in segments for part in (s[:cut], s[cut:]) if part]
    assert play(knowing, segments, ANSWER) == play(forgetful, segments, ANSWER)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_after_a_known_head_fares_as_by_itself(pair, name):
    knowing, forgetful = pair
    teach(knowing, GOOD)
    segments = [GOOD, VARIANTS[name], GOOD]
    assert play(knowing, segments, ANSWER) == play(forgetful, segments, ANSWER)


def test_a_repeated_request_and_its_answer_need_no_parser(pair):
    knowing, _ = pair
    for data in (GOOD, EMBED, TRACED):
        teach(knowing, data)
    link, wire = knowing.connect()
    link.parser = None
    parsers = [out.parser for out in knowing.outs]
    for out in knowing.outs:
        out.parser = None
    try:
        for text in ("hello", "a text of another length"):
            link.data_received(ordinary(text))
            sent = knowing.turn(ANSWER)
            assert sent.startswith(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:1\r\n")
            assert b'"served-name"' in sent
            assert wire.take().endswith(ANSWER_BODY)
        other = VARIANTS["embeddings, traced otherwise"]
        traces = b"traceparent: 00-a-b\r\n", b"traceparent: 00-cafe-beef-01\r\n"
        for data, trace in ((EMBED, b""), (TRACED, traces[0]), (other, traces[1])):
            assert knowing.worker.client_door.heads.find(data) is not None
            link.data_received(data)
            sent = knowing.turn(ANSWER)
            head, _, body = sent.partition(b"\r\n\r\n")
            assert body == data.partition(b"\r\n\r\n")[2]
            assert (trace in head + b"\r\n", b"traceparent" in head) == (True, bool(trace))
    finally:
        for out, parser in zip(knowing.outs, parsers, strict=True):
            out.parser = parser
    link.connection_lost(None)


FIELDS_OF_A_RUN = {
    "request_id",
    "at_s",
    "ttft_ms",
    "e2e_ms",
    *(field for field in Decided.__struct_fields__ if field.endswith("_predicted")),
}


def story(one: Unwired) -> list[dict[str, object]]:
    """Its records, without what differs from run to run."""
    one.worker.ledger.flush()
    shown = [msgspec.structs.asdict(r) | {"kind": type(r).__name__} for r in records_of(one)]
    return [{k: v for k, v in r.items() if k not in FIELDS_OF_A_RUN} for r in shown]


def test_records_counters_and_notes_are_the_same_with_and_without_a_memory(tmp_path, loop):
    knowing, forgetful = Unwired(tmp_path / "a", loop), Unwired(tmp_path / "b", loop)
    forgetful.worker.client_door.heads = Never(KnownHead.resized)
    names = [
        "same",
        "other body of another length",
        "same",
        "unknown model",
        "another key",
        "close",
    ]
    for one in (knowing, forgetful):
        teach(one, GOOD)
        for name in names * 3:
            play(one, [VARIANTS[name], GOOD], ANSWER)
        page = one.worker.page
        assert not page.own.any()
        assert not page.exec.any()
        assert not one.worker.running
        assert not one.worker.waiting
    assert is_known(knowing, GOOD)
    assert story(knowing) == story(forgetful)
    counters = [one.worker.counts.array.copy() for one in (knowing, forgetful)]
    for row in counters:  # times, and what follows from loads that times changed
        row[metrics.TTFT : metrics.LEAGUE] = 0.0
        row[metrics.COST["league_measured"] :] = 0.0
    assert counters[0].tolist() == pytest.approx(counters[1].tolist())
    begun = [one.worker.page.begun.tolist() for one in (knowing, forgetful)]
    assert begun[0] == begun[1]
    for one in (knowing, forgetful):
        ended = [r for r in records_of(one) if isinstance(r, Ended)]
        mark = one.worker.policy.keys[hashlib.sha256(KEY.encode()).digest()].mark
        notes = [one.worker.notes.read(r.request_id, mark) for r in ended]
        shown = [n for n in notes if n is not None]
        assert len(shown) >= len(ended) // 2  # some are another key's
        assert {(n.outcome, n.attempts, n.tokens_in, n.tokens_out) for n in shown} == {
            ("answered", 1, 9, 3)
        }
        one.close()


def records_of(one: Unwired) -> list[Record]:
    (path,) = (one.home / "evidence").glob("*.log")
    return [decode_record(frame.raw) for frame in scan_file(path).frames[1:]]


def test_only_heads_of_ordinary_admitted_requests_are_learned(pair):
    knowing, _ = pair
    plain = {"same", "other body of another length", "another key", "another class", "another path"}
    plain |= {"not JSON", "unknown model", "stream"}  # their heads are the same as a good request's
    plain |= {"length with leading zeros"}  # RFC 9110 allows them
    plain |= {"embeddings", "embeddings, traced", "embeddings, traced otherwise"}
    plain |= {"trace in capitals", "trace of any text", "trace that holds a length"}
    plain |= {"trace without a value"}  # any text is passed on; only hex varies
    for name, data in VARIANTS.items():
        knowing.worker.client_door.heads.clear()
        for _ in range(3):
            play(knowing, [data], ANSWER)
        if is_known(knowing, data):
            assert name in plain or data.startswith(GOOD), name
    knowing.worker.client_door.heads.clear()
    teach(knowing, GOOD)
    assert is_known(knowing, GOOD)


def test_a_head_seen_once_is_not_kept(pair):
    knowing, _ = pair
    heads = knowing.worker.client_door.heads
    heads.clear()
    data = changed(GOOD, b"host: test", b"host: once")
    play(knowing, [data], ANSWER)
    assert not is_known(knowing, data)
    play(knowing, [data], ANSWER)
    assert is_known(knowing, data)


def test_a_new_table_forgets_every_head(pair):
    knowing, _ = pair
    teach(knowing, GOOD)
    known = knowing.worker.client_door.heads.find(GOOD)
    worker = knowing.worker
    link, wire = knowing.connect()
    link.data_received(GOOD)
    knowing.turn(ANSWER)
    assert link.last_head is known or link.last_head is not None
    wire.take()
    # The same fleet without this key: what the connection remembers must not let it in.
    toml = fleet_toml(("lyon",), 1).replace('id = "clinic"', 'id = "closed"')
    digest = next(line for line in toml.splitlines() if line.startswith("sha256"))
    toml = toml.replace(digest, 'sha256 = "' + "0" * 64 + '"')
    before = worker.routing.table
    try:
        worker.use_table(Table.from_bytes(memoryview(table_bytes(toml, version=5))))
        assert not is_known(knowing, GOOD)
        link.data_received(GOOD)
        assert wire.take().startswith(b"HTTP/1.1 401")
        assert knowing.turn(ANSWER) == b""
    finally:
        worker.use_table(before)


def test_memory_is_bounded_in_heads_and_bytes():
    heads: Heads[int] = Heads(lambda known, head, values: int(values[b"content-length"]))
    for i in range(3 * HEADS_MAX):
        head = b"POST / HTTP/1.1\r\nhost: %d\r\ncontent-length: 5\r\n\r\n" % i
        for _ in range(2):
            heads.learn(head, 5, httptools.HttpRequestParser)
        assert heads.find(head) == 5
        other = head.replace(b"length: 5", b"length: 77")
        assert heads.find(other) == 77
        assert len(heads._exact) <= HEADS_MAX
        assert len(heads._shapes) <= HEADS_MAX
    assert len(heads._once) <= heads_module.ONCE_MAX
    long = b"POST / HTTP/1.1\r\nx: " + b"y" * 5000 + b"\r\ncontent-length: 5\r\n\r\n"
    for _ in range(3):
        heads.learn(long, 5, httptools.HttpRequestParser)
    assert heads.find(long) is None


@given(st.binary(max_size=60), st.integers(0, len(HEAD) + 3))
def test_a_head_ends_only_where_the_parser_says_so(noise, cut):
    head = HEAD + b"\r\n\r\n"
    assert ends_with_last_byte(head, httptools.HttpRequestParser)
    assert not ends_with_last_byte(head[:cut], httptools.HttpRequestParser)
    if noise:
        assert not ends_with_last_byte(head + noise, httptools.HttpRequestParser)


# --- answers of engines

ANSWERS = {
    "same": ANSWER,
    "another length": ANSWER.replace(b"choices", b"choices_").replace(b": 64\r", b": 65\r"),
    "length too small": ANSWER.replace(b"content-length: 6", b"content-length: 5"),
    "two answers": ANSWER + ANSWER,
    "one and a half": ANSWER + ANSWER[:40],
    "one and a byte": ANSWER + b"H",
    "close": ANSWER.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n", 1),
    "error": ANSWER.replace(b"200 OK", b"400 Bad"),
    "chunked": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "both framings": ANSWER.replace(b"content-type", b"transfer-encoding: chunked\r\ncontent-type"),
    "length twice": ANSWER.replace(b"content-type", b"content-length: 1\r\ncontent-type"),
    "early hints": b"HTTP/1.1 103 Early Hints\r\n\r\n" + ANSWER,
    "HTTP/1.0": ANSWER.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "rubbish": b"\x00" * 20,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_after_a_known_one_is_taken_as_by_itself(tmp_path, loop, name, monkeypatch):
    assert ANSWERS["same"] == ANSWER
    assert name == "same" or ANSWERS[name] != ANSWER

    def outcome(home, *, learn: bool) -> list[object]:
        heads: Heads[KnownAnswer] = Heads(KnownAnswer.resized)
        monkeypatch.setattr(outgoing, "_heads", heads)
        one = Unwired(tmp_path / home, loop)
        try:
            for _ in range(2):
                assert b" 200 OK" in play(one, [GOOD], ANSWER)[0][0]
            if learn:
                assert heads.find(ANSWER) is not None
            else:
                heads.clear()
                one.outs[0].last_head = None
            link, wire = one.connect()
            link.data_received(GOOD)
            sent = one.turn(ANSWERS[name])
            seen = [alike(sent), alike(wire.take()), one.engine_wires[0].closed]
            link.connection_lost(None)
            return seen
        finally:
            one.close()

    assert outcome("known", learn=True) == outcome("parsed", learn=False)
