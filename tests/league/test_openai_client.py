"""The official `openai` client, unchanged, against a gateway of the league."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest
from openai import OpenAI

from league.harness import League, wait_until

ASK: Any = {"model": "chat", "messages": [{"role": "user", "content": "Say hello."}]}
HEALTH_FR = {"x-hanse-class": "health", "x-hanse-country": "FR"}


@contextmanager
def client(league: League, site: str = "frankfurt", key: str = "demo") -> Iterator[OpenAI]:
    secret = league.secret(key) if key else "hanse-nobody"
    with OpenAI(
        base_url=f"{league.url(site)}/v1", api_key=secret, max_retries=0, timeout=90.0
    ) as made:
        yield made


def test_plain_streamed_and_completion_answers(league: League) -> None:
    with client(league) as ask:
        plain = ask.chat.completions.create(**ASK, max_tokens=4)
        assert plain.choices[0].message.content
        assert plain.usage is not None
        assert plain.usage.completion_tokens == 4
        stream = ask.chat.completions.create(**ASK, max_tokens=4, stream=True)
        chunks = list(stream)
        assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert all(c.usage is None for c in chunks), "usage was not asked for"
        asked = ask.chat.completions.create(
            **ASK, max_tokens=4, stream=True, stream_options={"include_usage": True}
        )
        assert [c.usage.completion_tokens for c in asked if c.usage] == [4]
        text = ask.completions.create(model="chat", prompt="The sea is", max_tokens=4)
        assert text.choices[0].text
        alias = ask.chat.completions.create(**(ASK | {"model": "gpt-4o-mini"}), max_tokens=1)
        assert alias.choices


def test_raw_headers_tell_site_prediction_and_measurement(league: League) -> None:
    with client(league) as ask:
        raw = ask.chat.completions.with_raw_response.create(**ASK, max_tokens=2)
        assert raw.headers["x-hanse-site"] in league.runtime.sites
        assert "ttft_ms=" in raw.headers["x-hanse-predicted"]
        assert "wh=" in raw.headers["x-hanse-measured"]
        assert raw.parse().choices


def test_models_are_listed(league: League) -> None:
    with client(league) as ask:
        assert {"chat", "gpt-4o-mini"} <= {model.id for model in ask.models.list()}
        assert ask.models.retrieve("chat").id == "chat"


@pytest.mark.parametrize(
    ("key", "site", "change", "error", "status", "code"),
    [
        ("", "lyon", {}, openai.AuthenticationError, 401, "invalid_api_key"),
        (
            "demo",
            "lyon",
            {"extra_headers": HEALTH_FR},
            openai.PermissionDeniedError,
            403,
            "class_not_allowed",
        ),
        ("demo", "lyon", {"model": "none"}, openai.NotFoundError, 404, "model_not_found"),
        (
            "clinic",
            "virginia",
            {"extra_headers": HEALTH_FR},
            openai.APIStatusError,
            421,
            "entry_not_eligible",
        ),
        ("mill", "lyon", {}, openai.APIStatusError, 451, "no_eligible_site"),
    ],
)
def test_refusals_are_the_client_s_own_exceptions(
    league: League,
    key: str,
    site: str,
    change: dict[str, Any],
    error: type[openai.APIStatusError],
    status: int,
    code: str,
) -> None:
    with client(league, site, key) as ask, pytest.raises(error) as raised:
        ask.chat.completions.create(**(ASK | {"max_tokens": 1} | change))
    assert raised.value.status_code == status
    assert raised.value.code == code
    if status in (421, 451):
        assert isinstance(raised.value.body, dict)
        assert raised.value.body["hanse"]["rules"]


def test_too_many_requests_are_a_rate_limit_error(league: League) -> None:
    with client(league, key="slowly") as ask:

        def ask_often() -> None:
            for _ in range(3):  # its burst is 2
                ask.chat.completions.create(**ASK, max_tokens=1)

        with pytest.raises(openai.RateLimitError) as raised:
            ask_often()
    assert raised.value.code == "rate_limit_exceeded"
    assert int(raised.value.response.headers["retry-after"]) >= 1


def test_no_room_is_a_server_error_that_says_when_to_come_back(league: League) -> None:
    """French health data may go to Lyon alone; its engine is dead, and its agent too busy to start another."""
    league.agent("lyon").freeze()
    try:
        old = league.engine("lyon").kill()
        with client(league, "lyon", "clinic") as ask:

            def refused() -> openai.APIStatusError | None:
                try:
                    ask.chat.completions.create(**ASK, max_tokens=1, extra_headers=HEALTH_FR)
                except openai.APIStatusError as error:
                    return error
                return None

            wait_until(lambda: (e := refused()) and e.status_code == 503, "it says no room", 30)
            error = refused()
        assert isinstance(error, openai.InternalServerError)
        assert error.code == "no_room"
        assert int(error.response.headers["retry-after"]) >= 1
    finally:
        league.agent("lyon").thaw()
    league.engine("lyon").back(old)


def test_a_stream_that_is_closed_frees_the_engine(league: League) -> None:
    with client(league) as ask:
        stream = ask.chat.completions.create(**ASK, max_tokens=900, stream=True)
        for number, _ in enumerate(stream):
            if number == 3:
                break
        serving = [s for s in league.runtime.sites if league.executing(s)]
        assert len(serving) == 1
        stream.close()
    freed_s = wait_until(lambda: not league.executing(serving[0]), "the gateway lets go", 10)
    idle_s = wait_until(lambda: not league.slots_busy(serving[0]), "the engine's slot is free", 30)
    print(f"given back {freed_s:.2f} s after closing, llama.cpp's slot idle {idle_s:.2f} s later")


def test_a_broken_stream_is_an_api_error(league: League) -> None:
    """French health data may go to Lyon alone: nobody can go on there."""
    with client(league, "lyon", "clinic") as ask:
        stream = ask.chat.completions.create(
            **ASK, max_tokens=900, stream=True, extra_headers=HEALTH_FR
        )
        read = iter(stream)
        for _ in range(3):
            next(read)
        old = league.engine("lyon").kill()
        with pytest.raises(openai.APIError, match="stream broke"):
            list(read)
    league.engine("lyon").back(old)
