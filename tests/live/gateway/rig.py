"""Gateways in this process against mock engines over loopback, with real tables, chains and certificates."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import uvloop

from hanse.dispatch import events as ev
from hanse.dispatch.actions import PublishTable
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.router import warm
from hanse.live.ca import ensure_identity
from hanse.live.evidence.chain import Decided, Ended, Executed, decode_record, scan_file
from hanse.live.gateway.incoming import Limits
from hanse.live.gateway.settings import EngineSeat, GatewaySettings
from hanse.live.gateway.worker import Worker
from hanse.model.read import parse_fleet
from live.gateway.mock_engine import MockEngine
from ports import free_port

KEY = "test-key-of-the-clinic"
SHOP_KEY = "test-key-of-the-shop"
SLOW_KEY = "test-key-that-may-send-one"
SITES = {
    "lyon": ("FR", 45.76, 4.84),
    "tallinn": ("EE", 59.44, 24.75),
    "virginia": ("US", 39.04, -77.49),
}
TEST_S_MAX = 60.0
_started: list[League] = []
"""Stopped after each test, whatever became of it."""


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run one asynchronous test on the loop that gateways use."""
    warm()

    async def limited() -> None:
        try:
            async with asyncio.timeout(TEST_S_MAX):
                await test()
        finally:
            while _started:
                await _started.pop().stop()

    uvloop.run(limited())


FLEET = """schema = "hanse-fleet/1"
name = "test"
[policy]
valid_s = 3600
[[class]]
id = "public"
law = "non_personal"
[[class]]
id = "health"
law = "health"
[[service]]
id = "chat"
aliases = ["gpt-4o-mini"]
endpoints = ["chat", "completions"]
body_bytes_max = 300000
slo = { ttft_ms = 1500, tpot_ms = 200, deadline_s = 20 }
[[service.variant]]
id = "q4"
model = "SmolLM2-135M"
precision = "q4_1"
quality = 0.4
quality_source = "none: a mock engine"
served_model = "served-name"
[[service]]
id = "embed"
endpoints = ["embeddings"]
slo = { ttft_ms = 1500, tpot_ms = 200, deadline_s = 20 }
[[service.variant]]
id = "mini"
model = "SmolLM2-135M"
precision = "q4_1"
quality = 0.4
quality_source = "none: a mock engine"
"""
TENANT = """[[tenant]]
id = "{id}"
classes = {classes}
services = {services}
[[tenant.key]]
id = "{id}"
sha256 = "{sha256}"
countries = {countries}
requests_per_s_max = {rate}
burst = {burst}
"""
SITE = """[[site]]
id = "{id}"
kind = "micro"
city = "{id}"
country = "{country}"
operator_hq = "{country}"
lat_deg = {lat}
lon_deg = {lon}
certifications = ["hds_certified_host"]
power = {{ grid_kw_max = 60, price_usd_per_kwh = 0.2, pue = 1.2 }}
[[site.pool]]
id = "mock"
accelerator = "x86-thread"
count = {count}
driver = "external"
urls = {urls}
continues = {continues}
[[placement]]
service = "chat"
variant = "q4"
site = "{id}"
pool = "mock"
replicas = {replicas}
slots = 8
context_tokens = 100000
[[placement]]
service = "embed"
variant = "mini"
site = "{id}"
pool = "mock"
slots = 8
context_tokens = 100000
"""
TENANTS = (
    ("clinic", KEY, ["health", "public"], [], ["FR", "EE"], 1e5, 100_000),
    ("shop", SHOP_KEY, ["public"], ["chat"], ["US"], 1e5, 100_000),
    ("slow", SLOW_KEY, ["public"], [], ["FR"], 0.01, 2),
)


def fleet_toml(
    sites: tuple[str, ...], replicas: int, *, central: bool = True, continues: bool = True
) -> str:
    """Sites with external engines, three tenants, law on; with or without one big site to compare with."""
    text = FLEET
    for name, key, classes, services, countries, rate, burst in TENANTS:
        text += TENANT.format(
            id=name,
            classes=json.dumps(classes),
            services=json.dumps(services),
            countries=json.dumps(countries),
            sha256=hashlib.sha256(key.encode()).hexdigest(),
            rate=rate,
            burst=burst,
        )
    for name in sites:
        country, lat, lon = SITES[name]
        urls = [
            f"http://127.0.0.1:{n + 1}" for n in range(replicas + 1)
        ]  # the rig sets the true ones
        text += SITE.format(
            id=name,
            country=country,
            lat=lat,
            lon=lon,
            replicas=replicas,
            count=replicas + 1,
            urls=json.dumps(urls),
            continues=json.dumps(continues),
        )
    return text + (f'[central]\nsite = "{sites[-1]}"\nreplicas = {replicas}\n' if central else "")


def table_bytes(toml: str, *, at_s: float | None = None, version: int = 0) -> bytes:
    """The routing table of a fleet file, as the controller makes it."""
    now_s = time.time() if at_s is None else at_s
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(ev.EpochGranted(at_s=now_s, epoch=1))
    fleet = parse_fleet(toml.encode(), source="test")
    dispatcher.handle(ev.FleetLoaded(at_s=now_s, fleet=fleet, version_known=version))
    actions = dispatcher.handle(ev.Ticked(at_s=now_s))
    return next(a.content for a in actions if isinstance(a, PublishTable))


@dataclass
class SiteRig:
    """One site: a worker and its engines."""

    name: str
    worker: Worker
    engines: list[MockEngine]
    port: int
    hop_port: int
    home: Path

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def records(self) -> list[Decided | Executed | Ended]:
        """Everything in this site's chain after its first record."""
        self.worker.ledger.flush()
        found = []
        for path in sorted((self.home / "evidence").glob("*.log")):
            found += [decode_record(frame.raw) for frame in scan_file(path).frames[1:]]
        return found

    def in_flight(self) -> int:
        """Everything this gateway counts as under way; 0 when idle, whatever happened before."""
        page = self.worker.page
        counted = int(np.abs(page.own).sum() + np.abs(page.exec).sum())
        return counted + len(self.worker.running) + len(self.worker.waiting)

    async def idle(self) -> None:
        """Wait until nothing is under way."""
        for _ in range(500):
            if self.in_flight() == 0:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{self.name} still counts {self.in_flight()}")


@dataclass
class League:
    """Sites that know each other."""

    home: Path
    sites: dict[str, SiteRig] = field(default_factory=dict)

    def __getitem__(self, name: str) -> SiteRig:
        return self.sites[name]

    async def stop(self) -> None:
        for site in self.sites.values():
            await site.worker.stop()
            for engine in site.engines:
                await engine.stop()


async def start(
    home: Path,
    *,
    sites: tuple[str, ...] = ("lyon",),
    replicas: int = 1,
    limits: Limits | None = None,
    central: bool = True,
    journal: bool = False,
    continues: bool = True,
) -> League:
    """Start engines and gateways, and wait until every gateway has heard of its engines and peers."""
    toml = fleet_toml(sites, replicas, central=central, continues=continues)
    league = League(home)
    _started.append(league)
    hops = {name: free_port() for name in sites}
    clients = {name: free_port() for name in sites}
    for name in sites:
        site_home = home / "sites" / name
        ensure_identity(home, "test", name, time.time())
        (site_home / "table-1.tbl").write_bytes(table_bytes(toml))
        (site_home / "current").write_text("1\n")
        engines = [MockEngine(name=f"{name}-{i}") for i in range(replicas + 1)]
        urls = [await engine.start() for engine in engines]
        seats = [EngineSeat(service="chat", variant="q4", url=url) for url in urls[:-1]]
        seats.append(EngineSeat(service="embed", variant="mini", url=urls[-1]))
        settings = GatewaySettings(
            site=name,
            fleet="test",
            port=clients[name],
            hop_port=hops[name],
            table=str(site_home),
            page=str(site_home / "shared.mmap"),
            engines=tuple(seats),
            seats=str(site_home / "seats.json"),  # there is none until a test writes it
            peers={other: f"127.0.0.1:{hops[other]}" for other in sites if other != name},
            gateway_urls={other: f"http://127.0.0.1:{clients[other]}" for other in sites},
            identity_dir=str(site_home / "identity"),
            evidence_dir=str(site_home / "evidence"),
            state_dir=str(home),
            journal_dir=str(site_home / "journal") if journal else "",
            limits=limits or Limits(),
        )
        worker = Worker(settings, asyncio.get_running_loop())
        try:
            port, hop_port = await worker.listen()
        except OSError:
            await worker.stop()
            for engine in engines:
                await engine.stop()
            raise
        league.sites[name] = SiteRig(name, worker, engines, port, hop_port, site_home)
    await _all_heard(league)
    return league


async def _all_heard(league: League) -> None:
    for site in league.sites.values():
        for _ in range(500):
            load = site.worker.routing.load
            now_s = time.time()
            up = all(engine.usable(now_s) for engine in site.worker.engines)
            heard = load.sites["sampled_at_s"][: len(league.sites)] > 0
            alive = load.offers["replicas"][: len(site.worker.routing.offers)] > 0
            if up and heard.all() and alive.all():
                break
            await asyncio.sleep(0.01)
        else:
            raise AssertionError(f"{site.name} never heard of all engines and peers")


# --- clients -------------------------------------------------------------------------------------


@dataclass
class Answer:
    """One HTTP answer, undone from its transfer coding."""

    status: int
    headers: dict[str, str]
    body: bytes
    closed: bool = False

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return self.json["error"]["code"]


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)


async def read_answer(reader: asyncio.StreamReader, *, head_only: bool = False) -> Answer:
    """Read one answer; raises IncompleteReadError where the connection ends before it does."""
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    status = int(lines[0].split(" ")[1])
    headers = dict(line.split(": ", 1) for line in lines[1:] if line)
    body = b""
    if head_only or status in (100, 204):
        pass
    elif "content-length" in headers:
        body = await reader.readexactly(int(headers["content-length"]))
    elif headers.get("transfer-encoding") == "chunked":
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        while (line := await reader.readline()).strip():
            name, value = line.decode().strip().split(": ", 1)
            headers[f"trailer {name}"] = value
    else:
        body = await reader.read()
    return Answer(status, headers, body)


async def raw(port: int, data: bytes) -> Answer:
    """Send bytes as they are; the answer, and whether the connection was closed behind it."""
    reader, writer = await connect(port)
    writer.write(data)
    answer = await read_answer(reader)
    try:
        async with asyncio.timeout(0.3):
            answer.closed = await reader.read(1) == b""
    except TimeoutError:
        answer.closed = False
    except ConnectionError:
        answer.closed = True
    writer.close()
    return answer


def request(
    body: dict | bytes,
    *,
    path: str = "/v1/chat/completions",
    key: str = KEY,
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> bytes:
    """A whole request as bytes."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"{method} {path} HTTP/1.1", "host: test", f"authorization: Bearer {key}"]
    lines += [f"content-length: {len(data)}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode() + data


def chat(text: str = "Say hello.", **more: object) -> dict:
    """A chat request."""
    return {"model": "chat", "messages": [{"role": "user", "content": text}], **more}


async def ask(port: int, body: dict | bytes, **how: object) -> Answer:
    """One request on a connection of its own."""
    reader, writer = await connect(port)
    writer.write(request(body, **how))  # type: ignore[arg-type]
    try:
        return await read_answer(reader)
    finally:
        writer.close()


async def get(
    port: int, path: str, *, key: str = KEY, headers: dict[str, str] | None = None
) -> Answer:
    return await ask(port, b"", path=path, key=key, headers=headers, method="GET")


def events(body: bytes) -> list[str]:
    """The `data:` texts of a stream."""
    return [part[6:] for part in body.decode().split("\n\n") if part.startswith("data: ")]
