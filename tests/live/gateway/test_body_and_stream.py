"""Splices change exactly what they name; streams pass byte for byte, whatever the segments."""

import contextlib
import itertools
import json

from hypothesis import given
from hypothesis import strategies as st

from hanse.live.gateway import body as bodies
from hanse.live.gateway.sse import StreamTap

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
tricky_keys = st.sampled_from(
    ["model", "mod\u0065l", "x", "messages ", "stream_options2", '"model"']
)
stream_options = st.one_of(
    st.none(),
    st.just({}),
    st.fixed_dictionaries(
        {}, optional={"include_usage": st.none() | st.booleans(), "k": json_values}
    ),
)


@st.composite
def requests(draw):
    """(bytes, parsed) of a request in one of JSON's many spellings."""
    parsed = {
        "model": draw(st.text(min_size=1, max_size=12) | st.just("model")),
        "messages": [
            {"role": "user", "content": draw(st.text(max_size=40) | st.just('"model":"x"'))}
        ],
        "stream": draw(st.booleans()),
    }
    if draw(st.booleans()):
        parsed["stream_options"] = draw(stream_options)
    for key in draw(st.lists(tricky_keys, max_size=3, unique=True)):
        if key not in parsed:
            parsed[key] = draw(json_values)
    parsed["metadata"] = draw(json_values | st.just({"model": parsed["model"]}))
    keys = draw(st.permutations(list(parsed)))
    parsed = {key: parsed[key] for key in keys}
    text = json.dumps(
        parsed,
        ensure_ascii=draw(st.booleans()),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t: ")])),
    )
    return (draw(st.sampled_from(["", " ", "\n\t"])) + text).encode(), parsed


@given(requests(), st.text(min_size=1, max_size=12), st.booleans(), st.booleans())
def test_a_splice_changes_exactly_what_it_names(request, model, rename, include_usage):
    data, parsed = request
    head = bodies.read_head(data)
    spliced = bodies.splice(
        data, head, include_usage=include_usage, model=model if rename else None
    )
    expected = dict(parsed)
    if rename:
        expected["model"] = model
    if include_usage:
        options = parsed.get("stream_options") or {}
        expected["stream_options"] = {**options, "include_usage": True}
    assert json.loads(spliced) == expected
    if not rename and not include_usage:
        assert spliced is data


@given(st.text(min_size=1, max_size=12), st.text(min_size=1, max_size=12))
def test_of_repeated_keys_the_one_that_counts_is_replaced(first, second):
    data = ('{"model":' + json.dumps(first) + ',"mod\\u0065l":' + json.dumps(second) + "}").encode()
    head = bodies.read_head(data)
    assert head.model == second
    assert json.loads(bodies.splice(data, head, include_usage=True, model="served")) == {
        "model": "served",
        "stream_options": {"include_usage": True},
    }


def test_a_nested_model_is_never_mistaken_for_the_one_on_top():
    data = b'{"mod\\u0065l":"a","metadata":{"model":"a"}}'
    spliced = bodies.splice(data, bodies.read_head(data), include_usage=False, model="b")
    assert json.loads(spliced) == {"model": "b", "metadata": {"model": "a"}}


def test_numbers_keep_their_digits_even_where_the_top_is_written_anew():
    data = b'{"model":"model","temperature":0.10000000000000000001,"seed":12345678901234567890123}'
    spliced = bodies.splice(data, bodies.read_head(data), include_usage=True, model="b")
    assert b"0.10000000000000000001" in spliced
    assert b"12345678901234567890123" in spliced


@given(st.binary(max_size=60))
def test_no_bytes_make_the_decoder_do_anything_but_decode_or_refuse(data):
    with contextlib.suppress(bodies.BadBody):
        assert isinstance(bodies.read_head(data).model, str)


def chunk(choices, usage=None):
    value = {"id": "c", "choices": choices}
    if usage is not None:
        value["usage"] = usage
    return b"data: " + json.dumps(value).encode() + b"\n\n"


texts = st.text(max_size=20) | st.sampled_from(
    ['"usage":{"x":1}', "data: [DONE]", "\n\ndata: [DONE]\n\n", ": hanse {}", "event: error"]
)
content = st.builds(lambda text: chunk([{"delta": {"content": text}}]), texts)
comments = st.just(b": ping\n\n")
USAGE = {"prompt_tokens": 5, "completion_tokens": 9, "total_tokens": 14}


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    points = sorted({min(point, len(data)) for point in cuts} | {0, len(data)})
    return [data[a:b] for a, b in itertools.pairwise(points)]


@given(
    st.lists(content | comments, max_size=8),
    st.lists(st.integers(0, 2000), max_size=12),
    st.booleans(),
    st.booleans(),
)
def test_streams_pass_untouched_but_for_our_own_usage_chunk_and_comment(parts, cuts, asked, done):
    usage_chunk = chunk([], USAGE)
    end = b"data: [DONE]\n\n" if done else b""
    stream = b"".join(parts) + usage_chunk + end
    tap = StreamTap(drop_usage=not asked, last_comment=lambda: b": hanse {}\n\n")
    out = b"".join(tap.feed(piece) for piece in cut(stream, cuts)) + tap.end()
    kept = b"".join(parts) + (usage_chunk if asked else b"")
    assert out == kept + b": hanse {}\n\n" + end
    assert tap.usage is not None
    assert tap.usage.completion_tokens == 9
    assert tap.done is done


@given(st.lists(content, min_size=1, max_size=6), st.lists(st.integers(0, 2000), max_size=12))
def test_only_whole_events_reach_the_client_before_the_end(parts, cuts):
    tap = StreamTap(drop_usage=True, last_comment=lambda: b"")
    sent = b""
    for piece in cut(b"".join(parts), cuts):
        sent += tap.feed(piece)
        assert sent == b"" or sent.endswith(b"\n\n")
    assert sent == b"".join(parts)
    assert tap.events == len(parts)


def test_usage_in_a_chunk_with_choices_is_noted_and_kept():
    both = chunk([{"delta": {}, "finish_reason": "stop"}], USAGE)
    tap = StreamTap(drop_usage=True, last_comment=lambda: b"")
    assert tap.feed(both) == both
    assert tap.usage.prompt_tokens == 5


def test_carriage_returns_are_events_ends_too():
    stream = b'data: {"choices":[{}]}\r\n\r\ndata: [DONE]\r\n\r\n'
    tap = StreamTap(drop_usage=True, last_comment=lambda: b": hanse {}\n\n")
    out = b"".join(tap.feed(stream[i : i + 1]) for i in range(len(stream)))
    assert out == stream.replace(b"data: [DONE]", b": hanse {}\n\ndata: [DONE]")
    assert tap.done


def test_the_note_of_a_serving_site_is_taken_out():
    tap = StreamTap(drop_usage=False, last_comment=lambda: b': hanse {"mine":1}\n\n')
    out = tap.feed(b': hanse {"wh":1}\n\ndata: [DONE]\n\n')
    assert out == b': hanse {"mine":1}\n\ndata: [DONE]\n\n'
    assert tap.note == b'{"wh":1}'


def test_an_event_without_end_is_noticed():
    tap = StreamTap(drop_usage=False, last_comment=lambda: b"")
    for _ in range(3):
        tap.feed(b"data: " + b"x" * 500_000)
    assert tap.lost == "an event without end"


@given(
    st.integers(0, 10**9),
    st.integers(0, 10**9),
    st.lists(st.text(max_size=30) | st.just('"usage":{"prompt_tokens":1}'), max_size=3),
    st.booleans(),
    st.integers(1, 5000),
)
def test_usage_at_either_end_of_a_long_answer_is_found(tokens_in, out, texts, first, cut):
    usage = {"prompt_tokens": tokens_in, "completion_tokens": out, "other": {}}
    parts = [{"usage": usage}, {"texts": texts, "data": "x" * 10_000}]
    if not first:
        parts.reverse()
    answer = json.dumps(parts[0] | parts[1]).encode()
    ends = bodies.Ends()
    for at in range(0, len(answer), cut):
        ends.feed(answer[at : at + cut])
    found = ends.usage()
    assert found == bodies.usage_of(answer)
    assert found is not None and found.prompt_tokens == tokens_in
