"""The OpenADR 3 driver against a small VTN on a real socket, whose answers an independent client library reads the same way."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.load_targets import FOREVER, LoadTarget, in_force
from hanse.errors import SiteError
from hanse.live.facility.openadr import Event, OpenAdrDriver, targets_of
from hanse.model.fleet import Facility

NOON_S = datetime(2026, 6, 9, 12, tzinfo=UTC).timestamp()


def limit_event(
    id: str, kw: Any, start: str | None, duration: str | None, **more: Any
) -> dict[str, Any]:
    period = {k: v for k, v in (("start", start), ("duration", duration)) if v is not None}
    base = {
        "id": id, "createdDateTime": "2026-06-09T10:00:00Z", "modificationDateTime": "2026-06-09T10:00:00Z",
        "objectType": "EVENT", "programID": "dynamic-limits", "eventName": id, "priority": None,
        "targets": None, "reportDescriptors": None,
        "payloadDescriptors": [{"objectType": "EVENT_PAYLOAD_DESCRIPTOR", "payloadType": "IMPORT_CAPACITY_LIMIT", "units": "KW"}],
        "intervalPeriod": period or None,
        "intervals": [{"id": 0, "payloads": [{"type": "IMPORT_CAPACITY_LIMIT", "values": [kw]}]}],
    }  # fmt: skip
    return base | more


class Vtn:
    """Events, and how it misbehaves."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.tokens: set[str] = set()
        self.asked: list[str] = []
        self.token_url = ""


@pytest.fixture
def vtn() -> Iterator[tuple[str, Vtn]]:
    state = Vtn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def answer(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            form = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            state.asked.append("token")
            if (form["client_id"], form["client_secret"]) != (["ven-1"], ["s3cret"]):
                self.answer(401, {"error": "invalid_client"})
                return
            token = f"token-{len(state.asked)}"
            state.tokens.add(token)
            self.answer(200, {"access_token": token, "token_type": "Bearer", "expires_in": 3600})

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            state.asked.append(parts.path)
            if parts.path.endswith("/auth/server"):
                self.answer(200, {"tokenURL": state.token_url})
                return
            if self.headers.get("Authorization", "")[7:] not in state.tokens:
                self.answer(401, {"type": "about:blank", "title": "Unauthorized", "status": 401})
                return
            query = {k: v[0] for k, v in parse_qs(parts.query).items()}
            found = [e for e in state.events if query.get("programID") in (None, e["programID"])]
            first = int(query.get("skip", 0))
            self.answer(200, found[first : first + int(query.get("limit", 50))])

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    state.token_url = f"{url}/openadr3/3.1.0/auth/token"
    yield f"{url}/openadr3/3.1.0", state
    server.shutdown()
    thread.join()
    server.server_close()


class Ven:
    """A driver with its secret, and what it told the site."""

    def __init__(self, url: str, home: Path, **fields: Any) -> None:
        (home / "secret").write_text(fields.pop("secret", "s3cret"))
        (home / "secret").chmod(0o600)
        base = {
            "id": "utility",
            "site": "here",
            "driver": "openadr",
            "url": url,
            "user": "ven-1",
            "secret_file": "secret",
        }
        self.told: list[tuple[LoadTarget, ...]] = []
        self.facility, self.home = Facility(**(base | fields)), home

    def read(self, *between: Any) -> tuple[LoadTarget, ...]:
        """Once, and again after each step."""

        async def run() -> None:
            driver = OpenAdrDriver(self.facility, self.home, lambda _, s: self.told.append(s))
            try:
                await driver.read()
                for step in between:
                    step()
                    await driver.read()
            finally:
                await driver.close()

        asyncio.run(run())
        return self.told[-1]


def test_limits_are_polled_with_a_token_and_follow_what_the_vtn_tells(
    vtn: tuple[str, Vtn], tmp_path: Path
) -> None:
    url, state = vtn
    hour = limit_event("peak", 25.0, "2099-06-09T12:00:00Z", "PT1H")
    state.events = [hour]
    ven = Ven(url, tmp_path)

    def change() -> None:
        state.events = [
            hour
            | {
                "intervals": [
                    {"id": 0, "payloads": [{"type": "IMPORT_CAPACITY_LIMIT", "values": [20]}]}
                ]
            }
        ]

    def expire() -> None:
        state.tokens.clear()

    def delete() -> None:
        state.events = []

    ven.read(lambda: None, change, expire, delete)
    assert [[t.limit_kw for t in schedule] for schedule in ven.told] == [[25.0], [20.0], []]
    (target,) = ven.told[0]
    assert target.source == "dynamic-limits"
    assert target.end_at_s - target.start_at_s == 3600.0
    assert state.asked.count("token") == 2


def test_limits_outlive_the_agent_and_an_event_begins_when_it_was_first_heard_of(
    vtn: tuple[str, Vtn], tmp_path: Path
) -> None:
    url, state = vtn
    state.events = [
        limit_event("now", 25.0, None, "PT1H"),
        limit_event("later", 5.0, "2099-06-09T12:00:00Z", "PT1H"),
    ]
    before = Ven(url, tmp_path).read()
    assert {t.limit_kw for t in before} == {25.0, 5.0}
    cut_off = Ven("http://127.0.0.1:9", tmp_path)
    with pytest.raises(SiteError):
        cut_off.read()
    assert cut_off.told == [before]
    assert Ven(url, tmp_path).read() == before, "the hour goes on; it does not begin anew"
    (tmp_path / "facility" / "utility.targets").write_bytes(b"\xff")
    state.events = state.events[1:]
    begun_anew = Ven(url, tmp_path)
    assert [t.limit_kw for t in begun_anew.read()] == [5.0]
    assert len(begun_anew.told) == 1


def test_what_is_over_by_the_restart_binds_nobody(
    vtn: tuple[str, Vtn], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, state = vtn
    state.events = [limit_event("now", 25.0, None, "PT1H")]
    assert len(Ven(url, tmp_path).read()) == 1
    late_s = time.time() + 3700.0
    monkeypatch.setattr("hanse.live.facility.openadr.time.time", lambda: late_s)
    cut_off = Ven("http://127.0.0.1:9", tmp_path)
    with pytest.raises(SiteError):
        cut_off.read()
    assert cut_off.told == []


def test_many_events_come_in_pages_and_other_programs_stay_out(
    vtn: tuple[str, Vtn], tmp_path: Path
) -> None:
    url, state = vtn
    state.events = [
        limit_event(f"e{i}", i + 1, f"2099-01-{i % 28 + 1:02}T{i // 28:02}:00:00Z", "PT1H")
        for i in range(120)
    ]
    state.events.append(limit_event("other", 1, None, None, programID="prices"))
    assert len(Ven(url, tmp_path).read()) == 121
    assert len(Ven(url, tmp_path, program="dynamic-limits").read()) == 120


def test_a_wrong_secret_is_said_and_goes_to_no_other_address(
    vtn: tuple[str, Vtn], tmp_path: Path
) -> None:
    url, state = vtn
    with pytest.raises(SiteError, match=r"401.*client id"):
        Ven(url, tmp_path, secret="wrong").read()
    state.token_url = "http://elsewhere.test.invalid/token"
    state.asked.clear()
    assert Ven(url, tmp_path).read() if state.events else True
    assert "token" in state.asked or not state.events


def test_an_independent_client_reads_the_same_times(vtn: tuple[str, Vtn]) -> None:
    pytest.importorskip("openadr3", reason="pip install openadr3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from openadr3.api import OpenADRClient
        from openadr3.auth import fetch_token
    url, state = vtn
    limit = {"type": "IMPORT_CAPACITY_LIMIT", "values": [5]}
    intervals = [
        {"id": 0, "payloads": [limit]},
        {"id": 1, "intervalPeriod": {"duration": "PT15M"}, "payloads": [limit]},
        {"id": 2, "payloads": [limit]},
        {"id": 3, "intervalPeriod": {"start": "2026-06-09T20:00:00Z", "duration": "P1DT2H"}, "payloads": [limit]},
    ]  # fmt: skip
    state.events = [limit_event("steps", 5, "2026-06-09T12:00:00Z", "PT1H", intervals=intervals)]
    token = fetch_token(url, "ven-1", "s3cret")
    with OpenADRClient(url, token=token) as client:
        (event,) = client.events()
        theirs = [i.interval_period.period for i in event.resolved_intervals()]
    ours = targets_of([msgspec.convert(state.events[0], Event)], {})
    assert [(t.start_at_s, t.end_at_s) for t in ours] == [
        (a.timestamp(), b.timestamp()) for a, b in theirs
    ]


def test_a_more_important_event_has_the_last_word_and_now_begins_once() -> None:
    events = [
        limit_event("urgent", 30, None, None, priority=1),
        limit_event("usual", 10, "2026-06-09T11:00:00Z", "PT8H", priority=5),
        limit_event("least", 5, "0000-00-00T00:00:00Z", "P9999Y", priority=None),
        limit_event("watts", 7000, "2026-06-09T11:00:00Z", "PT8H", payloadDescriptors=[{"payloadType": "IMPORT_CAPACITY_LIMIT", "units": "W"}]),
        limit_event("amps", 7, "2026-06-09T11:00:00Z", "PT8H", payloadDescriptors=[{"payloadType": "IMPORT_CAPACITY_LIMIT", "units": "A"}]),
        limit_event("odd", "many", None, None),
    ]  # fmt: skip
    found = targets_of(
        [msgspec.convert(e, Event) for e in events], dict.fromkeys(("urgent", "least"), NOON_S)
    )
    assert {t.id.partition("#")[0]: t.limit_kw for t in found} == {
        "urgent": 30.0,
        "usual": 10.0,
        "least": 5.0,
        "watts": 7.0,
    }
    bound = in_force(found, NOON_S + 1)
    assert bound is not None
    assert (bound.id, bound.start_at_s, bound.end_at_s) == ("urgent#0", NOON_S, FOREVER)


TEXTS = st.one_of(
    st.none(),
    st.sampled_from(
        [
            "",
            "PT1H",
            "P1D",
            "P9999Y",
            "PT0S",
            "nonsense",
            "2026-06-09T12:00:00Z",
            "0000-00-00T00:00:00Z",
            "2026-06-09 12:00",
        ]
    ),
    st.text(max_size=8),
)


@given(
    st.one_of(st.floats(), st.integers(), st.text(max_size=3), st.none(), st.booleans()),
    TEXTS,
    TEXTS,
    st.one_of(st.none(), st.integers(0, 9)),
)
def test_any_event_is_limits_that_make_sense(
    value: Any, start: str | None, duration: str | None, priority: int | None
) -> None:
    event = msgspec.convert(limit_event("e", value, start, duration, priority=priority), Event)
    for target in targets_of([event], {"e": time.time()}):
        assert 0.0 <= target.limit_kw < FOREVER
        assert target.end_at_s >= target.start_at_s
