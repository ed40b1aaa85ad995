"""What BMCs, meters, brokers and data providers say when they are broken or taken over: no reading, in words, and the next is asked as before."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import SiteError
from hanse.live.facility.dcgm import gpu_readings
from hanse.live.facility.flex_messages import envelope_of, targets_of
from hanse.live.facility.keeper import PlantKeeper
from hanse.live.facility.mqtt import POINTS_MAX, BmsDriver
from hanse.live.facility.readings import Reading
from hanse.live.facility.redfish import RedfishDriver
from hanse.live.facility.sunspec import MODELS, decode
from hanse.live.facility.web import ANSWER_BYTES_MAX, Web
from hanse.model.fleet import Facility
from hanse.signals.providers import live, web
from hanse.signals.providers.live import LiveFeed
from hanse.signals.providers.settings import FeedSetting
from live.facility.redfish_tree import Machine
from live.facility.test_keeper import Plant, bmc
from signals.providers import shapes
from signals.providers.provider_server import NOON_S, Asked

LONG = [pytest.mark.long]
quiet = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
SCALARS = (
    None, True, "", "OK", 0, -1, 2**70, 1e308, float("nan"), float("inf"), "/redfish/v1/Chassis", "@odata.id", "2026-08-01T12:00Z",
    "0001-01-01T00:00+14:00", "\x00", [], {}, [[]], [None], {"a": []}, ["x", 3],
)  # fmt: skip


def warped(rng: random.Random, document: Any, share: float = 0.1) -> Any:
    """A good document with some values replaced by others or taken out."""
    if rng.random() < share:
        return rng.choice(SCALARS)
    if isinstance(document, dict):
        kept = {k: v for k, v in document.items() if rng.random() > share / 2}
        return {k: warped(rng, v, share) for k, v in kept.items()}
    if isinstance(document, list):
        return [warped(rng, one, share) for one in document[:3]]
    return document


def warps(document: Any, share: float) -> st.SearchStrategy[Any]:
    return st.integers(0, 2**32).map(lambda seed: warped(random.Random(seed), document, share))


@pytest.mark.parametrize("examples", [12, pytest.param(3000, marks=LONG)])
@pytest.mark.parametrize("old", [False, True], ids=["subsystems", "old"])
def test_a_bmc_may_answer_anything(tmp_path: Path, old: bool, examples: int) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "secret").chmod(0o600)
    facility = bmc("bmc", "http://127.0.0.1:1")
    tree = Machine(old=old).tree

    @settings(max_examples=examples, database=None, suppress_health_check=quiet)
    @given(seed=st.integers(0, 2**32))
    def one(seed: int) -> None:
        rng = random.Random(seed)
        driver = RedfishDriver(facility, tmp_path)
        asked = 0

        async def ask(method: str, path: str, *_: Any, **__: Any) -> Any:
            nonlocal asked
            asked += 1
            body = tree.get(path.rstrip("/"), tree.get(path, {}))
            if not isinstance(body, dict):
                body = {}
            found = warped(rng, json.loads(json.dumps(body, default=str)), 0.04)
            raw = json.dumps(found).encode()
            return SimpleNamespace(
                status=200, headers={"x-auth-token": "t", "location": "/s"}, body=bytearray(raw), json=lambda _w: found if isinstance(found, dict) else {}
            )  # fmt: skip

        driver._web.ask = ask  # type: ignore[method-assign]

        async def read_and_cap() -> None:
            for act in (
                driver.read,
                lambda: driver.cap(500.0),
                lambda: driver.reset("node1", "ForceRestart"),
            ):
                with contextlib.suppress(SiteError):
                    await act()  # type: ignore[operator]

        asyncio.run(read_and_cap())
        assert asked < 2000

    one()


class Wild:
    """A driver whose device answers what no reader foresaw."""

    def __init__(self, readings: tuple[Reading, ...] = ()) -> None:
        self.reads = 0
        self.readings = readings

    async def read(self) -> tuple[Reading, ...]:
        self.reads += 1
        if self.readings:
            return self.readings
        raise (KeyError("x"), AttributeError("'list' object"), RecursionError(), ValueError("nan"))[
            self.reads % 4
        ]

    async def close(self) -> None: ...


def test_an_answer_that_no_reader_foresaw_ends_no_keeper(tmp_path: Path) -> None:
    now_s = time.time()
    odd = tuple(
        Reading(point=f"p{i}", quantity="power", value=value, at_s=now_s)
        for i, value in enumerate((math.nan, math.inf, -math.inf, 1e300, 5.0))
    )
    wild, lying = Wild(), Wild(odd)

    async def act(keeper: PlantKeeper) -> None:
        one, two = keeper._devices
        one.driver, two.driver = wild, lying
        async with asyncio.timeout(20.0):
            while wild.reads < 3 or lying.reads < 3:
                await asyncio.sleep(0.02)
        assert one.failures and one.why
        assert {key[1] for key in keeper.readings} == {"p4"}

    Plant(tmp_path, [bmc("a", "http://127.0.0.1:1"), bmc("b", "http://127.0.0.1:1")], []).run(act)


def test_a_head_without_an_end_is_not_kept(tmp_path: Path) -> None:
    sent = 0

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n")
        try:
            while True:
                writer.write(b"x-%d: %b\r\n" % (sent, b"y" * 60_000))
                sent += 60_000
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def test() -> None:
        async with await asyncio.start_server(endless, "127.0.0.1", 0) as server:
            web_of = Web(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
            with pytest.raises(SiteError):
                await web_of.ask("GET", "/")

    asyncio.run(test())
    assert sent < 4 * ANSWER_BYTES_MAX


@settings(max_examples=effort(150), database=None, suppress_health_check=quiet)
@given(
    number=st.sampled_from(sorted(MODELS)),
    words=st.lists(st.one_of(st.integers(0, 0xFFFF), st.sampled_from([0, 0x8000, 0xFFFF, 0x7F80, 0x7FC0])), max_size=130),
    payload=st.one_of(st.binary(max_size=60), st.sampled_from(SCALARS).map(lambda v: json.dumps(v).encode()), warps({"value": 1.0, "timestamp": 1, "quality": 1, "engUnit": "kW"}, 0.3).map(lambda v: json.dumps(v).encode())),
    text=st.one_of(st.text(max_size=60), st.just("# TYPE DCGM_FI_DEV_POWER_USAGE gauge\nDCGM_FI_DEV_POWER_USAGE{gpu=\"0\"} NaN\n")),
    target=warps({"targets": [{"load_constraint": {"value": 5.0, "unit": "kW"}, "interval": {"start_time": "2026-08-01T12:00:00Z"}}]}, 0.15),
)  # fmt: skip
def test_registers_messages_and_metrics_are_read_or_refused(
    number: int, words: list[int], payload: bytes, text: str, target: Any
) -> None:
    assert all(math.isfinite(reading.value) for reading in decode(number, words, "", 0.0))
    driver = BmsDriver(Facility(id="b", site="s", driver="mqtt", url="mqtt://localhost:1"), Path())
    for kind in ("Value", "Metadata"):
        driver.hear(f"BMS/v1/a/{kind}/b/c/d", payload)
    driver.hear(payload.decode("latin-1"), payload)
    for read in (
        lambda: envelope_of(payload),
        lambda: targets_of(target if isinstance(target, dict) else {}, "s", "c", "feed", 0.0),
    ):
        with contextlib.suppress(SiteError):
            read()
    try:
        gpu_readings(text, 0.0)
    except (ValueError, KeyError, IndexError):
        return  # what `read` makes a SiteError of


def test_a_broker_cannot_fill_memory_with_names() -> None:
    driver = BmsDriver(Facility(id="b", site="s", driver="mqtt", url="mqtt://localhost:1"), Path())
    for number in range(POINTS_MAX + 50):
        driver.hear(f"BMS/v1/a/Metadata/b/c/p{number}", b'{"engUnit":"kW"}')
        driver.hear(f"BMS/v1/a/Value/b/c/p{number}", b'{"value":1,"timestamp":1,"quality":1}')
    assert len(driver._units) <= POINTS_MAX and len(driver._values) <= POINTS_MAX


GOOD = {
    "electricity-maps": shapes.electricity_maps,
    "watttime": shapes.watttime,
    "uk-carbon-intensity": shapes.uk_carbon,
    "open-meteo": shapes.open_meteo,
}


@pytest.mark.parametrize("provider", [*GOOD, "entsoe", "csv"])
def test_a_provider_may_say_anything(
    provider: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("user:key")
    where = {"lat_deg": 50.0, "lon_deg": 8.0} if provider == "open-meteo" else {}
    table = tmp_path / "t.csv"
    setting = FeedSetting(
        provider=provider,
        zone="DE",
        region="10YDE",
        token_file=str(tmp_path / "key"),
        path=str(table) if provider == "csv" else "",
        **where,
    )  # type: ignore[arg-type]

    @settings(max_examples=effort(40), database=None, suppress_health_check=quiet)
    @given(data=st.data())
    def one(data: st.DataObject) -> None:
        def get(url: str, *, query: Any = None, **_: Any) -> bytes:
            if provider in GOOD:
                good = json.loads(
                    GOOD[provider](Asked(web.urlsplit(url).path, dict(query or {}), {})).body
                    or b"{}"
                )
                return json.dumps(
                    warped(random.Random(data.draw(st.integers(0, 2**32))), good, 0.05)
                ).encode()
            return data.draw(st.sampled_from(BODIES))

        table.write_bytes(data.draw(st.one_of(st.sampled_from(BODIES), st.binary(max_size=60))))
        for module in (
            live.electricity_maps,
            live.watttime,
            live.uk_carbon,
            live.entsoe,
            live.open_meteo,
            live.csv_table,
        ):
            monkeypatch.setattr(module, "get", get, raising=False)
        feed = LiveFeed((setting,))
        said = feed.ask(NOON_S)
        assert len(said) <= 1
        assert all(math.isfinite(o.value) for o in feed.observed(NOON_S))
        feed.provided(NOON_S)
        feed.states(NOON_S)

    one()


BODIES = [b"", b"\xff", b"[" * 50_000, b"utc,g\n2026-08-01T11:00Z,nan\n", b"utc,g\n1,1e400\n2,3\n", b"utc,g\n-1e300,1\n1e300,2\n", b"utc,g\n9e99,1\n",
          b"<a>" * 20_000, b"<a/>", b"<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", b"<GL_MarketDocument><TimeSeries><Period><timeInterval><start>2026-08-01T00:00Z</start><end>9999-12-31T00:00Z</end></timeInterval><resolution>PT1M</resolution><Point><position>999999999</position><quantity>1</quantity></Point></Period></TimeSeries></GL_MarketDocument>",
          b"\x00" * 100, b"utc,g\n1,2\r3\n", b'utc,g\n"' + b"x" * 140_000, b"a,b,c\n" + b"1,2,3\n" * 50]  # fmt: skip
