"""Streams whose engine or whole site is killed in the middle go on elsewhere: real llama.cpp, real signals, the official client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import openai
import pytest
from openai import OpenAI

from hanse.live.evidence.chain import CONTINUED, Decided, Ended, Executed
from hanse.live.evidence.receipt import verify_receipt
from league.harness import League, wait_until

TOKENS = 120
ENTRY = "frankfurt"


@dataclass
class Told:
    """What the client's own iterator gave, chunk by chunk."""

    site: str
    request_id: str
    texts: list[str] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)
    finish: list[str] = field(default_factory=list)
    usage: list[Any] = field(default_factory=list)
    done: Future[None] | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)

    def read(self, chunks: Iterator[Any]) -> None:
        for chunk in chunks:
            self.ids.add(chunk.id)
            if chunk.usage:
                self.usage.append(chunk.usage)
            for choice in chunk.choices:
                if choice.finish_reason:
                    self.finish.append(choice.finish_reason)
                if choice.delta.content:
                    self.texts.append(choice.delta.content)
                    self.at_s.append(time.time())

    def pause_s(self, from_s: float) -> float:
        """The longest wait for a token from then on."""
        times = [from_s, *(at_s for at_s in self.at_s if at_s > from_s)]
        return max(after - before for before, after in pairwise(times))


class Talks:
    """Streams of one `openai` client, each read in a thread."""

    def __init__(self, league: League, stack: ExitStack) -> None:
        self._league = league
        url, secret = f"{league.url(ENTRY)}/v1", league.secret("demo")
        self._client = stack.enter_context(
            OpenAI(base_url=url, api_key=secret, max_retries=0, timeout=120.0)
        )

    def begin(self, number: int) -> Told:
        raw = self._client.chat.completions.with_raw_response.create(
            model="chat",
            messages=[{"role": "user", "content": f"Count from {number} to a hundred in words."}],
            max_tokens=TOKENS,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
        told = Told(raw.headers["x-hanse-site"], raw.headers["x-request-id"])
        told.done = self._league.threads.submit(told.read, iter(raw.parse()))
        return told

    def begin_elsewhere(self) -> tuple[list[Told], str]:
        """Streams until one comes from another site than the entry."""
        begun: list[Told] = []
        for number in range(8):
            begun.append(self.begin(number))
            if begun[-1].site != ENTRY:
                return begun, begun[-1].site
        raise AssertionError("everything was answered at the entry")


@pytest.fixture
def talks(league: League) -> Iterator[Talks]:
    with ExitStack() as stack:
        yield Talks(league, stack)


def check(told: Told, prompt: int) -> None:
    """One whole answer, whatever happened on the way."""
    assert told.done is not None
    told.done.result(120)  # the client raises where a stream ends with an error event
    assert len(told.ids) == 1 and told.finish == ["length"]
    assert [one.completion_tokens for one in told.usage] == [TOKENS]
    assert told.usage[0].prompt_tokens == prompt, told.usage


def places(league: League, told: Told) -> tuple[list[Decided], list[Ended]]:
    """Decisions in their order, and how it ended at its entry."""
    wait_until(lambda: _ended(league, told), "its last record", 10)
    records = league.records()[told.request_id]
    decided = sorted((r for _, r in records if isinstance(r, Decided)), key=lambda r: r.attempt)
    executed = {r.site for _, r in records if isinstance(r, Executed) and r.engine}
    assert {decided[0].site, decided[-1].site} <= executed
    return decided, _ended(league, told)


def _ended(league: League, told: Told) -> list[Ended]:
    records = league.records().get(told.request_id, ())
    return [r for _, r in records if isinstance(r, Ended) and r.role == "entry"]


def _prompt_tokens(talks: Talks) -> int:
    """Of a prompt of this form, as the engine counts one that nothing happened to."""
    well = talks.begin(1)
    assert well.done is not None
    well.done.result(120)
    return int(well.usage[0].prompt_tokens)


@pytest.mark.long
@pytest.mark.parametrize("dies", ["engine", "site"])
def test_a_stream_goes_on_when_what_serves_it_is_killed(
    league: League, talks: Talks, dies: str
) -> None:
    prompt = _prompt_tokens(talks)
    begun, lost = talks.begin_elsewhere()
    wait_until(lambda: all(len(told.texts) >= 5 for told in begun), "five tokens of each", 60)
    struck = [told for told in begun if told.site == lost]
    before = [told.text for told in struck]
    if dies == "engine":
        old = league.engine(lost).kill()
    else:
        league.kill_site(lost)
    killed_at_s = time.time()
    try:
        for told in begun:
            check(told, prompt)
        for told, text in zip(struck, before, strict=True):
            assert told.text.startswith(text) and len(told.text) > len(text)
    finally:
        if dies == "site":
            league.release(lost)
    if dies == "engine":
        league.engine(lost).back(old)
    league.wait_until_whole()
    went_on = 0
    for told in struck:
        decided, (ended,) = places(league, told)
        sites, why = [r.site for r in decided], [r.rules for r in decided]
        if (CONTINUED,) not in why:
            continue  # it had all its tokens by then
        went_on += 1
        verdict = verify_receipt(league.receipt(ENTRY, told.request_id).body, league.ca())
        assert verdict.status == "proven", verdict
        seam = why.index((CONTINUED,))  # a hedge beside the first attempt is no seam
        assert lost in sites[:seam] and lost not in sites[seam:]
        assert (ended.outcome, ended.tokens_in, ended.tokens_out) == ("answered", prompt, TOKENS)
        print(
            f"{dies} of {lost} killed: chosen anew after {decided[seam].at_s - killed_at_s:.3f} s, went on at "
            f"{sites[-1]}, longest wait for a token {told.pause_s(killed_at_s):.2f} s"
        )
    assert went_on, "no stream was there when it died"


@pytest.mark.long
def test_an_engine_goes_on_from_any_beginning_as_it_would_have(league: League) -> None:
    """What `continues` of a pool of driver `process` stands for, at the engine itself: no other word, at temperature 0."""
    port = league.runtime.site("london").engine_ports[0]
    key = league.engine_key("london")
    with OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key, max_retries=0) as engine:
        user: Any = {"role": "user", "content": "Name some colours of the sea."}
        said = _words(engine, [user], 24)
        for count in (1, 2, 7, 15, 23):
            begun: Any = {"role": "assistant", "content": "".join(said[:count])}
            rest = _words(engine, [user, begun], 24 - count, BEGUN)
            assert rest == said[count:], count
        with pytest.raises(openai.BadRequestError, match="continue_final_message"):
            _words(engine, [user, begun], 1, BEGUN | {"add_generation_prompt": True})


BEGUN = {"continue_final_message": True, "add_generation_prompt": False}


def _words(
    engine: OpenAI, messages: list[Any], count: int, extra: dict[str, bool] | None = None
) -> list[str]:
    chunks = engine.chat.completions.create(
        model="chat", messages=messages, max_tokens=count, temperature=0, stream=True, extra_body=extra
    )  # fmt: skip
    texts = [c.choices[0].delta.content for c in chunks if c.choices]
    return [text for text in texts if text]
