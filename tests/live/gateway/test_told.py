"""Taking down what a client was told and asking for the rest: any stream, cut at any byte, goes on as one answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.live.gateway.sse import StreamTap
from hanse.live.gateway.told import (
    CHAT,
    COMPLETIONS,
    RAW_BYTES_MAX,
    TEXT_BYTES_MAX,
    Further,
    Rewrite,
    Told,
    go_on_with,
)

ASKED: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
PROMPT_TOKENS = 5


class Style:
    """How an engine writes its stream."""

    def __init__(self, draw: st.DataObject, name: str) -> None:
        self.name = name
        self.role: Any = draw.draw(st.sampled_from(["none", None, "", "with the text"]))
        self.newline = draw.draw(st.sampled_from([b"\n\n", b"\r\n\r\n"]))
        self.mark = draw.draw(st.sampled_from([b"data: ", b"data:"]))
        self.ascii = draw.draw(st.booleans())
        self.null_usage = draw.draw(st.booleans())
        self.comments = draw.draw(st.booleans())

    def stream(self, words: list[str], said: int) -> bytes:
        """Its answer, where so many words of it were said before."""
        deltas: list[dict[str, Any]] = [{"content": word} for word in words[said:]]
        if self.role == "with the text" and deltas:
            deltas[0]["role"] = "assistant"
        elif self.role in (None, ""):
            deltas.insert(0, {"role": "assistant", "content": self.role})
        out = [self._chunk([self._choice(delta)]) for delta in deltas]
        out.append(self._chunk([self._choice({}) | {"finish_reason": "stop"}]))
        usage = {
            "prompt_tokens": PROMPT_TOKENS + said,
            "completion_tokens": len(words) - said,
            "total_tokens": PROMPT_TOKENS + len(words),
        }
        out.append(self._chunk([], usage))
        if self.comments:
            out.insert(1, b": ping" + self.newline)
        return b"".join(out) + self.mark + b"[DONE]" + self.newline

    @staticmethod
    def _choice(delta: dict[str, Any]) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "finish_reason": None, "logprobs": None}

    def _chunk(self, choices: list[Any], usage: dict[str, int] | None = None) -> bytes:
        chunk = {"id": self.name, "created": len(self.name), "model": "m", "choices": choices}
        if usage is not None or self.null_usage:
            chunk["usage"] = usage
        return self.mark + json.dumps(chunk, ensure_ascii=self.ascii).encode() + self.newline


def fed(tap: StreamTap, data: bytes, sizes: list[int]) -> bytes:
    """What comes out of a tap, for segments of these sizes in turn."""
    out, at, turn = b"", 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        out += tap.feed(data[at : at + size])
        at, turn = at + size, turn + 1
    return out


def tap_for(told: Told, *, drop_usage: bool, again: bool) -> StreamTap:
    rewrite = Rewrite(told) if again and (told.first is not None or told.role) else None
    return StreamTap(
        drop_usage=drop_usage, last_comment=lambda: b": hanse {}\n\n", told=told, keeping=True, rewrite=rewrite
    )  # fmt: skip


WORDS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1)
SIZES = st.lists(st.integers(1, 200), min_size=1, max_size=5)


@given(st.data(), WORDS, SIZES, st.booleans())
def test_any_stream_cut_at_any_byte_goes_on_as_one_answer(
    data: st.DataObject, words: list[str], sizes: list[int], drop_usage: bool
) -> None:
    told, out, said, breaks = Told(), b"", 0, data.draw(st.integers(1, 3))
    for turn in range(breaks + 1):
        tap = tap_for(told, drop_usage=drop_usage, again=turn > 0)
        raw = Style(data, f"engine-{turn}").stream(words, said)
        if turn == breaks:
            out += fed(tap, raw, sizes)
            break
        out += fed(tap, raw[: data.draw(st.integers(0, len(raw)))], sizes)
        tap.take_down()
        if tap.done:
            break
        if told.finish:
            out += tap.feed(b"data: [DONE]\n\n") if not tap.tail else b"data: [DONE]\n\n"
            break
        further = go_on_with(CHAT, json.dumps(ASKED | {"max_tokens": len(words)}).encode(), told)
        assert isinstance(further, Further)
        said = told.tokens
        if further.complete:
            assert said == len(words)
            out += told.last_chunk(CHAT) + b"data: [DONE]\n\n"
            break
        asked = json.loads(further.body)
        assert asked["max_tokens"] == len(words) - said
        if said:
            assert asked["messages"] == [
                *ASKED["messages"],
                {"role": "assistant", "content": "".join(words[:said])},
            ]
        else:
            assert asked["messages"] == ASKED["messages"]
    check(out, words)


def check(out: bytes, words: list[str]) -> None:
    """One well-formed answer."""
    events = [e.strip() for e in out.replace(b"\r\n", b"\n").split(b"\n\n") if e.strip()]
    assert out.endswith((b"\n\n", b"\r\n\r\n"))
    datas = [e.removeprefix(b"data:").strip() for e in events if not e.startswith(b":")]
    assert datas[-1] == b"[DONE]" and datas.count(b"[DONE]") == 1
    chunks = [json.loads(one) for one in datas[:-1]]
    assert len({(c["id"], c.get("created"), c.get("model")) for c in chunks}) == 1
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(c["delta"].get("content") or "" for c in choices) == "".join(words)
    assert [c["finish_reason"] for c in choices if c["finish_reason"]] in (["stop"], ["length"])
    roles = [i for i, c in enumerate(choices) if "role" in c["delta"]]
    assert roles in ([], [0])
    for usage in [c["usage"] for c in chunks if c.get("usage")]:
        assert usage == {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": len(words),
            "total_tokens": PROMPT_TOKENS + len(words),
        }


def chunk(content: str) -> bytes:
    choice = {"index": 0, "delta": {"content": content}}
    return b"data: " + json.dumps({"id": "a", "choices": [choice]}).encode() + b"\n\n"


def test_a_long_answer_is_taken_down_on_the_way_and_too_long_a_one_is_forgotten() -> None:
    told = Told()
    tap = tap_for(told, drop_usage=False, again=False)
    word = "w" * 1000
    while told.tokens == 0:
        tap.feed(chunk(word))
    assert sum(map(len, tap.kept)) <= RAW_BYTES_MAX and told.text_bytes > RAW_BYTES_MAX // 8
    for _ in range(2 * TEXT_BYTES_MAX // len(word)):
        tap.feed(chunk(word))
    assert told.barred and not tap.keeping and not tap.kept and not told.texts
    assert go_on_with(CHAT, json.dumps(ASKED).encode(), told) == told.barred


@pytest.mark.parametrize(
    ("path", "asked", "expected"),
    [
        (CHAT, {"max_completion_tokens": 9, "min_tokens": 1}, {"max_completion_tokens": 7, "min_tokens": 0}),
        (CHAT, {"max_tokens": -1, "temperature": 1e-3}, {"max_tokens": -1, "temperature": 1e-3}),
        (CHAT, {"n": 1, "logprobs": False, "tools": [], "stop": "zz"}, {"stop": "zz"}),
        (CHAT, {"response_format": {"type": "text"}, "tool_choice": "auto"}, {}),
        (CHAT, {"n": None, "stop": ["", None], "max_tokens": None}, {"max_tokens": None}),
        (COMPLETIONS, {"prompt": "p"}, {"prompt": "pa b "}),
    ],
)  # fmt: skip
def test_all_else_of_a_request_stays(
    path: bytes, asked: dict[str, Any], expected: dict[str, Any]
) -> None:
    told = Told()
    told.add(chunk("a ") + chunk("b "))
    further = go_on_with(path, json.dumps(ASKED | asked).encode(), told)
    assert isinstance(further, Further) and not further.complete
    found = json.loads(further.body)
    assert {name: found[name] for name in expected} == expected
    assert found["model"] == "m"


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        (b"/v1/embeddings", {}),
        (CHAT, {"messages": []}),
        (CHAT, {"best_of": 2}),
        (CHAT, {"stop": ["xyz", "b c"]}),
        (COMPLETIONS, {"prompt": ["p"]}),
        (COMPLETIONS, {"prompt": [1, 2]}),
        (COMPLETIONS, {"prompt": "p", "suffix": "s"}),
        (COMPLETIONS, {"prompt": "p", "echo": True}),
        (COMPLETIONS, {"prompt": "p", "logprobs": 1}),
    ],
)
def test_what_has_no_rest_says_why(path: bytes, asked: dict[str, Any]) -> None:
    told = Told()
    told.add(chunk("a ") + chunk("b "))
    assert isinstance(go_on_with(path, json.dumps(ASKED | asked).encode(), told), str)
