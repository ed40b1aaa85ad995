"""Paced demo users: people in the league's cities who ask short questions, day and night.

Run as `python -m hanse.live.traffic --state DIR`. Arrivals are Poisson with a stated seed; the rate is sized to
the processors found, so that the engines stay below a third of them. A user asks the directory of the nearest
gateway which gateways may serve it, keeps to the first, and goes to the next when it is lost.
Not here: load tests (`benchmarks/`), any shortcut into the gateway; this is a client like any other.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from hanse.live.runtime import StateDir, replace_file
from hanse.model.fleet import Fleet, Key, Tenant, Value
from hanse.model.read import read_fleet

CPU_S_PER_REQUEST = 0.45
"""Measured on one AMD EPYC thread: about 45 prompt tokens at 5 ms and 16 output tokens at 14 ms."""
CPU_SHARE = 0.3
"""Leaves room for the user's own requests and for queues to stay visible but short."""
REQUESTS_PER_S_MAX = 20.0
"""On a large machine the demo should stay readable."""
USERS_MAX = 32
"""Requests under way at once; beyond it arrivals are dropped and counted, as people give up."""
TURNS = 3
"""Messages of one conversation: enough for prefix affinity to matter."""
TIMEOUT_S = 30.0

QUESTIONS = (
    "Name one use of the sea.",
    "Write one line about trade.",
    "What does a harbour need?",
    "Say good morning to a sailor.",
    "Why do towns work together?",
    "Give one tip for saving power.",
    "What is a lighthouse for?",
    "Describe amber in a few words.",
)


class TrafficReport(Value, frozen=True, kw_only=True):
    """What the demo users saw, written beside the state for `hanse status`."""

    at_s: float
    seed: int
    requests_per_s: float
    sent: int
    answered: int
    refused: dict[str, int]
    """HTTP status -> count."""
    broken: int
    """Answers that broke after they had begun, and requests no gateway took."""
    moved: int
    """Times a user went to another gateway because its own was lost."""
    dropped: int


def requests_per_s_for(cpu_count: int) -> float:
    """Rate that keeps the engines below `CPU_SHARE` of the processors."""
    return min(REQUESTS_PER_S_MAX, CPU_SHARE * cpu_count / CPU_S_PER_REQUEST)


class User:
    """One person: a key, a class, a country, a place, and a conversation."""

    def __init__(self, fleet: Fleet, tenant: Tenant, key: Key, secret: str, rng: random.Random):
        self.secret = secret
        self.data_class = rng.choice(tenant.classes)
        self.country = rng.choice(key.countries)
        at = [site for site in fleet.sites if site.country == self.country] or list(fleet.sites)
        self.home = rng.choice(at)
        self.service = rng.choice(
            [
                one.id
                for one in fleet.services
                if "chat" in one.endpoints and (not tenant.services or one.id in tenant.services)
            ]
        )
        self.messages: list[dict[str, str]] = []
        self.gateway = ""

    def headers(self) -> dict[str, str]:
        """What every request carries; class and country only narrow what the key may do."""
        return {
            "authorization": f"Bearer {self.secret}",
            "content-type": "application/json",
            "x-hanse-class": self.data_class,
            "x-hanse-country": self.country,
        }


class Traffic:
    """Sends requests until told to stop; counts what came of them."""

    def __init__(self, state: StateDir, seed: int, requests_per_s: float) -> None:
        self.state = state
        self.seed = seed
        self.rng = random.Random(seed)
        self.requests_per_s = requests_per_s
        self.fleet = read_fleet(state.fleet_toml)
        self.urls = {
            site: address.local_url for site, address in state.read_runtime().sites.items()
        }
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.lock = threading.Lock()
        self.stop = threading.Event()
        self.busy = threading.Semaphore(USERS_MAX)
        self.users = [
            User(self.fleet, tenant, key, secret, self.rng)
            for _ in range(3)
            for tenant in self.fleet.tenants
            for key in tenant.keys
            if (secret := self._secret(key)) is not None
        ]

    def run(self) -> None:
        """Poisson arrivals; each request in its own thread of a bounded pool."""
        free = list(self.users)
        with ThreadPoolExecutor(USERS_MAX) as pool:
            while not self.stop.wait(self.rng.expovariate(self.requests_per_s)):
                if not free or not self.busy.acquire(blocking=False):
                    self._count("dropped")
                    continue
                user = free.pop(self.rng.randrange(len(free)))
                question, stream = self.rng.choice(QUESTIONS), self.rng.random() < 0.5
                pool.submit(self._one, user, question, stream, free)
                self._report()
        self._report()

    def _one(self, user: User, question: str, stream: bool, free: list[User]) -> None:
        try:
            self._ask(user, question, stream)
        finally:
            self.busy.release()
            free.append(user)

    def _ask(self, user: User, question: str, stream: bool) -> None:
        if len(user.messages) >= 2 * TURNS:
            user.messages = []
        messages = [*user.messages, {"role": "user", "content": question}]
        body = {
            "model": user.service,
            "messages": messages,
            "max_tokens": 16,
            "temperature": 0,
            "stream": stream,
        }
        self._count("sent")
        answer = self._send(user, json.dumps(body).encode(), stream)
        if answer is not None:
            user.messages = [*messages, {"role": "assistant", "content": answer}]

    def _send(self, user: User, body: bytes, stream: bool) -> str | None:
        for url in self._gateways(user):
            try:
                return self._post(user, url, body, stream)
            except (OSError, http.client.HTTPException):
                if self.stop.is_set():
                    return None
                self._count("moved")
                user.gateway = ""
        self._count("broken")
        return None

    def _gateways(self, user: User) -> list[str]:
        """The gateway it used last, then those of the directory, then every other, nearest first."""
        home = self.urls[user.home.id]
        known = [user.gateway] if user.gateway else []
        if not known:
            for url in [home, *self.urls.values()]:
                known = _directory(url, user)
                if known:
                    break
        return list(dict.fromkeys([*known, home, *self.urls.values()]))

    def _post(self, user: User, url: str, body: bytes, stream: bool) -> str | None:
        where = urlsplit(url)
        connection = http.client.HTTPConnection(where.hostname or "", where.port, TIMEOUT_S)
        try:
            connection.request("POST", "/v1/chat/completions", body, user.headers())
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        user.gateway = url
        if response.status == 421:
            # The entry may not read this user's data: forget it and ask the directory anew.
            user.gateway = ""
            raise http.client.HTTPException("entry not eligible")
        if response.status != 200:
            with self.lock:
                self.refused[str(response.status)] += 1
            return None
        text = (
            _streamed(content)
            if stream
            else json.loads(content)["choices"][0]["message"]["content"]
        )
        self._count("answered" if text is not None else "broken")
        return text

    def _secret(self, key: Key) -> str | None:
        path = self.state.keys_dir / f"{key.id}.key"
        return path.read_text().strip() if path.exists() else None

    def _count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def _report(self) -> None:
        with self.lock:
            report = TrafficReport(
                at_s=time.time(),
                seed=self.seed,
                requests_per_s=self.requests_per_s,
                refused=dict(self.refused),
                **{
                    name: self.counts[name]
                    for name in ("sent", "answered", "broken", "moved", "dropped")
                },
            )
        replace_file(self.state.path / "traffic.json", msgspec.json.encode(report))


def _directory(url: str, user: User) -> list[str]:
    """Gateways eligible for this user as one gateway lists them; empty where it does not answer."""
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, 5.0)
    path = f"/.well-known/hanse?lat={user.home.lat_deg}&lon={user.home.lon_deg}"
    try:
        connection.request("GET", path, headers=user.headers())
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException):
        return []
    finally:
        connection.close()
    if response.status != 200:
        return []
    listed: list[dict[str, Any]] = json.loads(content).get("gateways", [])
    return [str(one["url"]) for one in listed]


def _streamed(content: bytes) -> str | None:
    """Text of a stream; None where it ended with an error or without [DONE]."""
    text: list[str] = []
    for line in content.decode(errors="replace").splitlines():
        if line == "data: [DONE]":
            return "".join(text)
        if line.startswith("data: "):
            chunk = json.loads(line[6:])
            if "error" in chunk:
                return None
            text += [choice["delta"].get("content") or "" for choice in chunk.get("choices", [])]
    return None


def main() -> None:
    """Run until SIGTERM."""
    parser = argparse.ArgumentParser(prog="hanse.live.traffic")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--requests-per-s", type=float, default=0.0)
    arguments = parser.parse_args()
    state = StateDir(arguments.state)
    rate = arguments.requests_per_s or requests_per_s_for(os.cpu_count() or 1)
    traffic = Traffic(state, arguments.seed, rate)
    (state.pid_dir / "traffic.pid").write_text(f"{os.getpid()}\n")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: traffic.stop.set())
    traffic.run()


if __name__ == "__main__":
    main()
