"""Users of a live league as a recorded trace has them: each request at its instant, streamed, and what came back.

Here: `planned` (a trace for the league's cities), `play`, `Seen`. Not here: starting a league, its twin (`truth_twin`), verdicts.

A user asks a gateway's directory which gateways may serve it and takes the nearest, as any client may. The loopback has no last mile:
figures here are from the gateway's door, and the twin's are compared without theirs. Prompts are common words in an order of their
own from the first word on, so that no engine can have read one before; only the head that the chat template puts before is shared.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

from hanse.cli.league import first_gateway
from hanse.live.gateway import body as bodies
from hanse.live.runtime import StateDir
from hanse.model.fleet import Fleet, Value
from hanse.signals.traces.generate import generate
from hanse.signals.traces.spec import (
    ClassShare,
    Lognormal,
    OriginShare,
    ServiceShare,
    TenantShare,
    TraceSpec,
)
from hanse.signals.traces.trace import Trace

WORDS_TEXT = """
time year people way day man thing woman life child world school state family student group country problem hand part
place case week company system program question work night point home water room mother area money story fact month lot
right study book eye job word business issue side kind head house service friend father power hour game line end member
law car city
"""
WORDS = WORDS_TEXT.split()
"""Common enough to be one token each in any English vocabulary."""
TEMPLATE_TOKENS = 31
"""What SmolLM2's chat template adds to a user's words; the trace counts them too."""
TOKENS_IN = Lognormal(median=70, sigma=0.45, min=TEMPLATE_TOKENS + 8, max=300)
TOKENS_OUT = Lognormal(median=20, sigma=0.5, min=4, max=80)
"""Short, so that a minute has enough requests for a 95th percentile."""
TIMEOUT_S = 60.0
CITIES = (
    ("Tallinn", None, 2),
    ("Frankfurt am Main", None, 3),
    ("Lyon", None, 2),
    ("London", "GB", 3),
)
"""With the weights that they have in the trace that ships."""


class Request(Value, frozen=True, kw_only=True):
    """One planned request with names."""

    at_s: float
    origin: str
    lat_deg: float
    lon_deg: float
    country: str
    tenant: str
    data_class: str
    tokens_in: int
    tokens_out: int


class Seen(Value, frozen=True, kw_only=True):
    """What came of one, as its user saw it; ms from sending, 0: never came."""

    request: Request
    at_s: float
    """When it was sent, from the start of the run: later than planned where the machine was late."""
    entry: str
    site: str
    status: int
    ended: bool
    """With [DONE]."""
    head_ms: float
    """First event of the stream, which may be without text."""
    ttft_ms: float
    """First text."""
    e2e_ms: float
    tokens_in: int
    cached: int
    tokens_out: int
    guess_in: int = 0
    """Prompt tokens as the gateway guesses them from the body's bytes."""

    @property
    def tpot_ms(self) -> float:
        return (self.e2e_ms - self.ttft_ms) / max(self.tokens_out - 1, 1)

    @property
    def answered(self) -> bool:
        return self.status == 200 and self.ended and self.tokens_out > 0


def planned(name: str, seed: int, minutes: float, requests_per_s: float) -> Trace:
    """Poisson arrivals of three tenants in four cities."""
    spec = TraceSpec(
        schema="hanse-trace-spec/1",
        name=name,
        seed=seed,
        start=datetime(2026, 1, 14, tzinfo=UTC),
        duration_h=minutes / 60.0,
        requests_per_s=requests_per_s,
        hours=(1.0,) * 24,
        origins=tuple(OriginShare(city=c, country=n, weight=w) for c, n, w in CITIES),
        services=(ServiceShare(id="chat", tokens_in=TOKENS_IN, tokens_out=TOKENS_OUT),),
        classes=tuple(
            ClassShare(id=c, weight=w) for c, w in (("public", 5), ("personal", 3), ("health", 8))
        ),
        tenants=(
            TenantShare(id="demo", weight=5, countries=("EE", "DE", "FR", "GB"), classes=("public", "personal")),
            TenantShare(id="clinic", weight=2, countries=("EE", "DE", "FR"), classes=("health", "personal", "public")),
            TenantShare(id="shop", weight=3, countries=("DE", "FR"), classes=("public", "personal")),
        ),
    )  # fmt: skip
    return generate(spec)


def requests_of(trace: Trace) -> list[Request]:
    """A trace's requests with their names."""
    meta, found = trace.meta, []
    for chunk in trace.chunks():
        for row in chunk.requests:
            at = meta.origins[row["origin"]]
            found.append(
                Request(
                    at_s=float(row["at_s"]),
                    origin=at.id,
                    lat_deg=at.lat_deg,
                    lon_deg=at.lon_deg,
                    country=at.country,
                    tenant=meta.tenants[row["tenant"]],
                    data_class=meta.classes[row["cls"]],
                    tokens_in=int(row["tokens_in"]),
                    tokens_out=int(row["tokens_out"]),
                )
            )
    return found


class Doors:
    """Which gateway a user asks: the nearest that may read it, as the league's own directory says."""

    def __init__(self, state: Path, fleet: Fleet) -> None:
        self._state = StateDir(state)
        self._runtime = self._state.read_runtime()
        self._key_of = {tenant.id: tenant.keys[0].id for tenant in fleet.tenants}
        self._known: dict[tuple[str, ...], tuple[str, str]] = {}

    def headers(self, one: Request) -> dict[str, str]:
        key = (self._state.keys_dir / f"{self._key_of[one.tenant]}.key").read_text().strip()
        return {
            "authorization": f"Bearer {key}",
            "x-hanse-class": one.data_class,
            "x-hanse-country": one.country,
        }

    def of(self, one: Request) -> tuple[str, str]:
        """(site, URL)."""
        who = (one.origin, one.tenant, one.data_class)
        if who not in self._known:
            self._known[who] = first_gateway(
                self._runtime, self.headers(one), lat_deg=one.lat_deg, lon_deg=one.lon_deg
            )
        return self._known[who]


def play(doors: Doors, requests: list[Request], seed: int) -> list[Seen]:
    """Send each at its instant; returns when all have ended, in the order of the trace."""
    made = [(one, *doors.of(one), _message(one, seed + i, doors.headers(one))) for i, one in enumerate(requests)]  # fmt: skip
    return asyncio.run(_all(made))


async def _all(made: list[tuple[Request, str, str, bytes]]) -> list[Seen]:
    start_s = time.monotonic() + 0.2

    async def later(one: Request, entry: str, url: str, message: bytes) -> Seen:
        await asyncio.sleep(start_s + one.at_s - time.monotonic())
        return await _one(one, entry, url, message, start_s)

    return list(await asyncio.gather(*(later(*one) for one in made)))


def _message(one: Request, seed: int, headers: dict[str, str]) -> bytes:
    rng = random.Random(seed)
    text = " ".join(rng.choices(WORDS, k=max(one.tokens_in - TEMPLATE_TOKENS, 1)))
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": text}],
        "max_tokens": one.tokens_out,
        "ignore_eos": True,  # of llama.cpp: answers are as long as the trace says
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body).encode()
    lines = ["POST /v1/chat/completions HTTP/1.1", "host: league", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(content)}", "connection: close", "", ""]
    return "\r\n".join(lines).encode() + content


def _guess_in(message: bytes) -> int:
    return bodies.tokens_in(bodies.read_head(message.partition(b"\r\n\r\n")[2]))


async def _one(one: Request, entry: str, url: str, message: bytes, start_s: float) -> Seen:
    where = urlsplit(url)
    sent_s = time.monotonic()
    found = {"status": 0, "site": "", "ended": False, "head_ms": 0.0, "ttft_ms": 0.0}
    found |= {"tokens_in": 0, "cached": 0, "tokens_out": 0}
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await asyncio.open_connection(where.hostname, where.port)
            writer.write(message)
            try:
                await _read(reader, sent_s, found)
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        pass  # status and `ended` say how far it came
    e2e_ms = (time.monotonic() - sent_s) * 1000.0
    return Seen(
        request=one,
        at_s=sent_s - start_s,
        entry=entry,
        e2e_ms=e2e_ms,
        guess_in=_guess_in(message),
        **found,
    )


async def _read(reader: asyncio.StreamReader, sent_s: float, found: dict[str, object]) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    found["status"] = int(head[0].split()[1])
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}  # fmt: skip
    found["site"] = headers.get("x-hanse-site", "")
    if found["status"] != 200:
        return
    async for line in _lines(reader, chunked="chunked" in headers.get("transfer-encoding", "")):
        if not line.startswith(b"data: "):
            continue
        now_ms = (time.monotonic() - sent_s) * 1000.0
        found["head_ms"] = found["head_ms"] or now_ms
        if line == b"data: [DONE]":
            found["ended"] = True
            return
        _note(json.loads(line[6:]), now_ms, found)


def _note(event: dict[str, object], now_ms: float, found: dict[str, object]) -> None:
    for choice in event.get("choices") or ():  # type: ignore[attr-defined]
        if not found["ttft_ms"] and choice.get("delta", {}).get("content"):
            found["ttft_ms"] = now_ms
    usage = event.get("usage")
    if isinstance(usage, dict):
        found["tokens_in"] = usage["prompt_tokens"]
        found["tokens_out"] = usage["completion_tokens"]
        found["cached"] = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


async def _lines(reader: asyncio.StreamReader, *, chunked: bool) -> AsyncIterator[bytes]:
    """Lines of a body, however it was cut into chunks; the end of a body may be that of the connection."""
    rest = b""
    while True:
        size = int((await reader.readline()).partition(b";")[0] or b"0", 16) if chunked else 1
        if size == 0:
            return
        data = await (reader.readexactly(size + 2) if chunked else reader.read(65_536))
        if not data:
            return
        *whole, rest = (rest + (data[:-2] if chunked else data)).split(b"\n")
        for line in whole:
            yield line.rstrip(b"\r")
