"""Batches with the official `openai` client: real gateways, buses, links and batch processes; mock engines where it is about the API."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from league.harness import League, Process, running, wait_until
from league.mock_fleet import MockFleet
from league.small_fleet import SITES, fleet_text

LIMITS = """
[batch]
home_copies = 1
file_bytes_max = 300000
lines_max = 500
tenant_lines_max = 700
tenant_bytes_max = 2000000
"""


@pytest.fixture(scope="module")
def mocked() -> Iterator[tuple[League, MockFleet]]:
    with MockFleet(SITES) as engines:
        text = fleet_text(external=engines.urls, slots=4)
        head, mark, rest = text.partition("[policy]")
        with running(head + LIMITS + mark + rest) as league:
            yield league, engines


@pytest.fixture
def league(mocked: tuple[League, MockFleet]) -> League:
    mocked[1].all_well()
    return mocked[0]


def client(league: League, site: str = "frankfurt", key: str = "demo", **headers: str) -> OpenAI:
    return OpenAI(
        base_url=f"{league.url(site)}/v1",
        api_key=league.secret(key),
        max_retries=0,
        timeout=60.0,
        default_headers={name.replace("_", "-"): value for name, value in headers.items()},
    )


def row(number: int, **change: Any) -> dict[str, Any]:
    body = {
        "model": "chat",
        "max_tokens": 8,
        "messages": [{"role": "user", "content": f"n {number}"}],
    }
    line = {
        "custom_id": f"line-{number}",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": body | change.pop("body", {}),
    }
    return line | change


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in rows)


def upload(ask: OpenAI, content: bytes, name: str = "in.jsonl") -> Any:
    return ask.files.create(file=(name, io.BytesIO(content)), purpose="batch")


def begin(ask: OpenAI, content: bytes, **how: Any) -> Any:
    how = {"endpoint": "/v1/chat/completions", "completion_window": "24h"} | how
    return ask.batches.create(input_file_id=upload(ask, content).id, **how)


def ended(ask: OpenAI, batch_id: str, within_s: float = 60.0) -> Any:
    last: list[Any] = [None]

    def over() -> Any:
        last[0] = ask.batches.retrieve(batch_id)
        return last[0].status in ("completed", "failed", "expired", "cancelled") or None

    wait_until(over, f"the end of {batch_id}", within_s)
    return last[0]


def lines_of(ask: OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    return (
        [json.loads(line) for line in ask.files.content(file_id).text.splitlines()]
        if file_id
        else []
    )


def test_a_file_goes_up_and_down_and_away(league: League) -> None:
    with client(league) as ask:
        content = jsonl([row(n) for n in range(100)])
        file = upload(ask, content, "some/dir/my lines.jsonl")
        assert (file.filename, file.bytes, file.purpose) == (
            "my lines.jsonl",
            len(content),
            "batch",
        )
        assert ask.files.retrieve(file.id) == file
        assert file.id in [one.id for one in ask.files.list(purpose="batch")]
        assert ask.files.content(file.id).read() == content
        with client(league, "lyon") as other:
            assert other.files.content(file.id).read() == content
        with client(league, key="shop") as stranger, pytest.raises(openai.NotFoundError):
            stranger.files.retrieve(file.id)
        assert ask.files.delete(file.id).deleted
        with pytest.raises(openai.NotFoundError):
            ask.files.content(file.id)


def test_a_batch_is_answered_line_by_line(league: League) -> None:
    with client(league) as ask:
        batch = begin(ask, jsonl([row(n) for n in range(40)]), metadata={"mine": "1"})
        assert batch.status == "validating"
        done = ended(ask, batch.id)
        assert done.status == "completed"
        counts = done.request_counts
        assert (counts.total, counts.completed, counts.failed) == (40, 40, 0)
        assert done.error_file_id is None
        assert done.metadata["mine"] == "1"
        assert done.metadata["hanse:home"] == "frankfurt"
        assert float(done.metadata["hanse:wh"]) > 0.0
        assert done.usage.output_tokens == 40 * 1
        rows = lines_of(ask, done.output_file_id)
        assert [one["custom_id"] for one in rows] == [f"line-{n}" for n in range(40)]
        assert all(one["response"]["status_code"] == 200 for one in rows)
        assert rows[0]["response"]["body"]["choices"][0]["message"]["content"]
        request_ids = {one["response"]["request_id"] for one in rows}
        records = league.records()
        for request_id in request_ids:
            kinds = {type(record).__name__ for _, record in records[request_id]}
            assert kinds == {"Decided", "Executed", "Ended"}


def test_any_gateway_tells_of_a_batch_and_other_tenants_hear_of_none(league: League) -> None:
    with (
        client(league) as ask,
        client(league, "london") as other,
        client(league, key="shop") as shop,
    ):
        batch = begin(ask, jsonl([row(n) for n in range(3)]))
        ended(other, batch.id)
        assert other.batches.retrieve(batch.id).id == batch.id
        assert batch.id in [one.id for one in other.batches.list(limit=100)]
        with pytest.raises(openai.NotFoundError):
            shop.batches.retrieve(batch.id)
        assert batch.id not in [one.id for one in shop.batches.list()]
        more = begin(other, jsonl([row(9)]))
        assert more.id.startswith("batch_london_")
        ended(ask, more.id)
        first = ask.batches.list(limit=1)
        assert [one.id for one in first.data] == [more.id]
        after = ask.batches.list(limit=1, after=more.id)
        assert [one.id for one in after.data] == [batch.id]


@pytest.mark.parametrize(
    ("rows", "code", "line"),
    [
        ([row(0), row(0)], "duplicate_custom_id", 2),
        ([row(0), row(1, method="GET")], "invalid_method", 2),
        ([row(0, url="/v1/completions")], "mismatched_endpoint", 1),
        ([row(0, body={"stream": True})], "stream_not_supported", 1),
        ([row(0, body={"model": "none"})], "model_not_found", 1),
        ([row(0), row(1, body={"model": "gpt-4o-mini"})], "mismatched_model", 2),
        ([{"custom_id": "a"}], "missing_required_parameter", 1),
        ([], "empty_file", None),
    ],
)
def test_wrong_lines_are_named(
    league: League, rows: list[Any], code: str, line: int | None
) -> None:
    with client(league) as ask:
        failed = ended(ask, begin(ask, jsonl(rows) or b"\n").id)
        assert failed.status == "failed"
        assert [(e.code, e.line) for e in failed.errors.data] == [(code, line)]


def test_bad_requests_are_told_why(league: League) -> None:
    with client(league) as ask:
        file = upload(ask, jsonl([row(0)]))
        for how, code in (
            ({"completion_window": "soon"}, "invalid_completion_window"),
            ({"endpoint": "/v1/audio"}, "invalid_endpoint"),
            ({"metadata": {"k" * 65: "1"}}, "invalid_metadata"),
        ):
            asked = {"endpoint": "/v1/chat/completions", "completion_window": "24h"} | how
            with pytest.raises(openai.BadRequestError) as error:
                ask.batches.create(input_file_id=file.id, **asked)  # type: ignore[arg-type]
            assert error.value.code == code
        nobodys = "file-frankfurt-" + "0" * 24
        with pytest.raises(openai.NotFoundError):
            ask.batches.create(
                input_file_id=nobodys, endpoint="/v1/chat/completions", completion_window="24h"
            )
        with pytest.raises(openai.BadRequestError):
            ask.files.create(file=("a", b"x"), purpose="fine-tune")
        with pytest.raises(openai.APIStatusError) as large:
            upload(ask, b"x" * 300_100)
        assert (large.value.status_code, large.value.code) == (413, "file_too_large")
        with pytest.raises(openai.APIStatusError) as larger:
            upload(ask, b"x" * 1_000_000)
        assert larger.value.status_code == 413


def test_law_is_asked_before_a_file_is_read(league: League) -> None:
    headers = {"x_hanse_class": "health", "x_hanse_country": "FR"}
    with (
        client(league, "virginia", "clinic", **headers) as far,
        pytest.raises(openai.APIStatusError) as error,
    ):
        upload(far, jsonl([row(0)]))
    assert (error.value.status_code, error.value.code) == (421, "entry_not_eligible")
    with client(league, "lyon", "clinic", **headers) as near:
        batch = ended(near, begin(near, jsonl([row(n) for n in range(5)])).id)
        assert batch.status == "completed"
    with client(league, "london", "clinic", x_hanse_class="public") as far:
        with pytest.raises(openai.APIStatusError) as error:
            far.files.content(batch.output_file_id)
        assert error.value.status_code == 421
        assert batch.id not in [one.id for one in far.batches.list()]


def test_a_bad_answer_is_in_the_error_file(league: League) -> None:
    with client(league) as ask:
        long = row(1, body={"messages": [{"role": "user", "content": "x " * 40_000}]})
        done = ended(ask, begin(ask, jsonl([row(0), long, row(2)])).id)
        assert done.status == "completed"
        assert (done.request_counts.completed, done.request_counts.failed) == (2, 1)
        bad = lines_of(ask, done.error_file_id)
        assert [(one["custom_id"], one["response"]["status_code"]) for one in bad] == [
            ("line-1", 400)
        ]


def test_quotas_of_a_tenant(league: League, mocked: tuple[League, MockFleet]) -> None:
    for site in SITES:
        mocked[1].behave(site, "hang")
    with client(league, "london") as ask:
        first = begin(ask, jsonl([row(n) for n in range(400)]))
        wait_until(lambda: ask.batches.retrieve(first.id).status == "in_progress", "it begins")
        second = ended(ask, begin(ask, jsonl([row(n) for n in range(400)])).id)
        assert [e.code for e in second.errors.data] == ["quota_exceeded"]
        many = ended(ask, begin(ask, jsonl([row(n) for n in range(501)])).id)
        assert [e.code for e in many.errors.data] == ["too_many_tasks"]
        with pytest.raises(openai.ConflictError):
            ask.files.delete(first.input_file_id)
        ask.batches.cancel(first.id)
        gone = ended(ask, first.id)
        assert gone.status == "cancelled"
        assert gone.request_counts.failed == 400
        assert {one["error"]["code"] for one in lines_of(ask, gone.error_file_id)} == {
            "batch_cancelled"
        }
        mine = [
            ask.files.delete(one.id).id
            for one in ask.files.list()
            if one.id.startswith("file-london")
        ]
        assert mine
        for _ in range(2_000_000 // 299_000):
            upload(ask, b"x" * 299_000)
        with pytest.raises(openai.RateLimitError) as error:
            upload(ask, b"x" * 299_000)
        assert error.value.code == "quota_exceeded"
        for one in ask.files.list():
            if one.id.startswith("file-london"):
                ask.files.delete(one.id)


def test_nothing_is_lost_when_home_processes_are_killed(
    league: League, mocked: tuple[League, MockFleet]
) -> None:
    with client(league) as ask:
        batch = begin(ask, jsonl([row(n) for n in range(400)]))
        for name in ("batch", "nats", "gateway-0", "batch"):
            wait_until(
                lambda: _completed(league, batch.id) is not None, "the batch process answers"
            )
            seen = _completed(league, batch.id) or 0
            wait_until(
                lambda seen=seen: (_completed(league, batch.id) or 0) > min(seen + 20, 399),
                "lines are committed",
            )
            Process(league.state.site("frankfurt") / "pid" / f"{name}.pid").kill()
        wait_until(lambda: _completed(league, batch.id) is not None, "the batch process answers")
        wait_until(lambda: _completed(league, batch.id) == 400, "all lines are committed")
        done = ended(ask, batch.id)
        assert done.status == "completed"
        rows = lines_of(ask, done.output_file_id)
        assert [one["custom_id"] for one in rows] == [f"line-{n}" for n in range(400)]
        assert {one["response"]["status_code"] for one in rows} == {200}
        assert len({one["response"]["request_id"] for one in rows}) == 400


def _completed(league: League, batch_id: str) -> int | None:
    """None while nobody answers."""
    answer = league.get("frankfurt", f"/v1/batches/{batch_id}", key="demo")
    return answer.json["request_counts"]["completed"] if answer.status == 200 else None


def test_no_content_of_a_batch_crosses_the_bus(league: League) -> None:
    """The hub hears nothing of commits, and may not ask a leaf for them."""
    import asyncio

    from nats.errors import Error

    from hanse.live import bus

    async def listen() -> list[str]:
        hub = await bus.connect_hub(league.runtime, league.state, name="test")
        leaf = await bus.connect_own(league.runtime, league.state, "frankfurt", name="test")
        heard: list[str] = []
        told: list[bytes] = []

        async def hear(message: Any) -> None:
            heard.append(message.subject)
            told.append(bytes(message.data))

        try:
            await hub.subscribe(">", cb=hear)
            question = {"role": "user", "content": "a secret of the batch"}
            secret = row(0, body={"messages": [question]})
            with client(league) as ask:
                batch = begin(ask, jsonl([secret, row(1)]))
                while ask.batches.retrieve(batch.id).status != "completed":
                    await asyncio.sleep(0.1)
            await leaf.publish("batch.x.1", b"a secret of the batch")
            await leaf.flush()
            for api in (
                "STREAM.INFO.BATCH",
                "STREAM.MSG.GET.BATCH",
                "DIRECT.GET.BATCH.batch.x.1",
                "CONSUMER.CREATE.BATCH",
            ):
                with pytest.raises(Error):
                    await hub.request(f"$JS.frankfurt.API.{api}", b"{}", timeout=1.0)
            info = await leaf.request("$JS.API.STREAM.INFO.BATCH", b"", timeout=2.0)
            assert b"error" not in info.data, "the stream that was asked for is there"
        finally:
            await bus.leave(leaf)
            await bus.leave(hub)
        assert not [data for data in told if b"a secret of the batch" in data]
        return heard

    heard = asyncio.run(listen())
    assert any(subject.startswith("site.frankfurt.") for subject in heard), (
        "nothing at all was heard"
    )
    assert not [subject for subject in heard if subject.startswith("batch.")]


def test_lines_give_way_to_people(league: League, mocked: tuple[League, MockFleet]) -> None:
    """Lines hang at all engines; people who come are served at once, and the lines come back later."""
    with client(league, "frankfurt") as ask:
        batch = begin(ask, jsonl([row(n) for n in range(500)]))
        wait_until(lambda: (_completed(league, batch.id) or 0) > 50, "the window is open")
        for site in SITES:
            mocked[1].behave(site, "hang")
        wait_until(lambda: league.executing("frankfurt") >= 3, "lines hang")
        for _ in range(20):
            assert max(map(league.executing, SITES)) <= 3, "lines take three of four slots at most"
            time.sleep(0.05)
        mocked[1].all_well()
        yielded = _yielded(league)
        for site in SITES:
            mocked[1].hold(site, 0.5)
        since_s = time.monotonic()
        going = [league.ask_later("frankfurt", f"person {n}") for n in range(24)]
        assert [one.result().status for one in going] == [200] * 24
        assert time.monotonic() - since_s < 10.0
        assert _yielded(league) > yielded
        for site in SITES:
            mocked[1].hold(site, 0.0)
        done = ended(ask, batch.id)
        assert done.status == "completed"
        assert done.request_counts.completed == 500
        assert int(done.metadata["hanse:extra_runs"]) > 0
        assert float(done.metadata["hanse:extra_wh"]) > 0.0


def _yielded(league: League) -> float:
    found = [
        float(line.split()[-1])
        for site in SITES
        for line in league.get(site, "/metrics").body.decode().splitlines()
        if line.startswith("hanse_gateway_lines_yielded_total")
    ]
    return sum(found)


def test_the_command_line_shows_batches(league: League, capsys: pytest.CaptureFixture[str]) -> None:
    from hanse.cli.batch import list_, show

    with client(league) as ask:
        done = ended(ask, begin(ask, jsonl([row(0)])).id)
    where: Any = {"key": "demo", "state": league.state.path}
    assert list_(state=league.state.path) == 0
    assert done.id in capsys.readouterr().out
    assert show(done.id, **where, json=True) == 0
    assert json.loads(capsys.readouterr().out)["output_file_id"] == done.output_file_id
    assert show(done.id, **where) == 0
    assert "hanse:extra_runs" in capsys.readouterr().out
