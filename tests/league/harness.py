"""A whole league as real processes, and the hands to break it: start, ask, kill, freeze, cut, heal, read the evidence.

Everything is found by pid files and `runtime.json`, as an operator would. Waits are for conditions with generous
deadlines, so that a loaded machine is slow and not wrong. Nothing is left running: `stop` looks and says.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from hanse.live.engines import ENGINE_KEY
from hanse.live.evidence.chain import Decided, Record, decode_record, scan_file
from hanse.live.link_control import LinkControl
from hanse.live.runtime import Runtime, StateDir
from hanse.live.shared import SharedPage

START_S_MAX: Final = 180.0
STOP_S_MAX: Final = 30.0
WHOLE_S_MAX: Final = 90.0
"""A held site comes back 15 s after its death at the earliest; an engine reads its weights for some seconds."""
POLL_S: Final = 0.05
SEALED_S_MAX: Final = 15.0


LONG_PROMPT: Final = "Tell me about the harbour and the sea. " * 30
"""About 300 tokens: more than a second of prefill, so that a request is surely at an engine without a first byte."""


def wait_until(holds: Callable[[], Any], what: str, within_s: float = WHOLE_S_MAX) -> float:
    """Seconds until the condition held; fails with what was awaited, and with what it last said."""
    since_s = time.monotonic()
    while not (found := holds()):
        if time.monotonic() - since_s > within_s:
            raise AssertionError(f"not within {within_s:.0f} s: {what} (last: {found!r})")
        time.sleep(POLL_S)
    return time.monotonic() - since_s


@dataclass
class Answer:
    """One answer as a client saw it; instants are `time.time()`."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    lines: list[str] = field(default_factory=list)
    """Of a stream, without empty ones."""
    error: str = ""
    """Of the transport; empty where HTTP ended as it should."""
    sent_at_s: float = 0.0
    first_byte_at_s: float = 0.0
    ended_at_s: float = 0.0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error in OpenAI's shape; empty for any other answer."""
        try:
            return str(self.json["error"]["code"])
        except (ValueError, KeyError, TypeError):
            return ""

    @property
    def rules(self) -> list[str]:
        return list(self.json["error"].get("hanse", {}).get("rules", ()))

    @property
    def site(self) -> str:
        return self.headers.get("x-hanse-site", "")

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def predicted_s(self) -> dict[str, float]:
        """`ttft` and `e2e` of the attempt that answered."""
        text = self.headers.get("x-hanse-predicted", "")
        return {k: float(v) / 1000 for k, v in re.findall(r"(ttft|e2e)_ms=([0-9.e+-]+)", text)}

    @property
    def streamed(self) -> str:
        """Text of all chunks."""
        chunks = [json.loads(line[6:]) for line in self.lines if line.startswith("data: {")]
        choices = [choice for chunk in chunks for choice in chunk.get("choices", ())]
        return "".join(choice.get("delta", {}).get("content") or "" for choice in choices)

    @property
    def done(self) -> bool:
        """Whether a stream came to its end."""
        return "data: [DONE]" in self.lines

    @property
    def broken(self) -> bool:
        """Whether a stream ended with the error event that says so."""
        return "event: error" in self.lines and any("stream_broken" in line for line in self.lines)


def unanswered(answers: Iterable[Answer]) -> list[str]:
    """What those were told that got no whole 200."""
    return [
        f"{a.status} {a.error} {a.body.decode(errors='replace')}"
        for a in answers
        if (a.status, a.error) != (200, "")
    ]


def _runs(pid: int) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    return fields[0] not in "ZX"


@dataclass
class Process:
    """One process of the league, by its pid file."""

    path: Path

    @property
    def pid(self) -> int:
        """0 where it does not run."""
        try:
            pid = int(self.path.read_text())
        except (OSError, ValueError):
            return 0
        return pid if _runs(pid) else 0

    def signal(self, number: signal.Signals) -> int:
        """Send a signal to the process; its pid."""
        pid = self.pid
        assert pid, f"{self.path.name} does not run"
        os.kill(pid, number)
        return pid

    def kill(self) -> int:
        """SIGKILL, and wait for the end: until then its sockets still accept."""
        pid = self.signal(signal.SIGKILL)
        wait_until(lambda: not _runs(pid), f"process {pid} is gone", 10)
        return pid

    def freeze(self) -> int:
        return self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        with contextlib.suppress(AssertionError, ProcessLookupError):
            self.signal(signal.SIGCONT)

    def back(self, old_pid: int, within_s: float = WHOLE_S_MAX) -> float:
        """Seconds until another process has taken its place."""
        return wait_until(
            lambda: self.pid not in (0, old_pid), f"{self.path.name} comes back", within_s
        )


class League:
    """A running league; `start` one, `stop` it."""

    def __init__(self, root: Path, up: subprocess.Popen[bytes]) -> None:
        self.root = root
        self.state = StateDir(root / "state")
        self._up = up
        self.runtime: Runtime
        self.start_s = 0.0
        self.threads = ThreadPoolExecutor(64, thread_name_prefix="client")

    @classmethod
    def start(
        cls, fleet_text: str, files: dict[str, str] | None = None, options: tuple[str, ...] = ()
    ) -> League:
        """`hanse up FLEET --state DIR --no-traffic` in a directory of its own, until all gateways are ready."""
        root = Path(tempfile.mkdtemp(prefix="hanse-league-"))
        for name, text in {**(files or {}), "fleet.toml": fleet_text}.items():
            (root / name).write_text(text)
        return cls._start(root, options)

    @classmethod
    def _start(cls, root: Path, options: tuple[str, ...] = ()) -> League:
        program = "import sys; from hanse.cli import main; main(sys.argv[1:])"
        command = [sys.executable, "-c", program, "up", str(root / "fleet.toml")]
        command += ["--state", str(root / "state"), "--no-traffic", *options]
        with (root / "up.log").open("ab") as log:
            up = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        league = cls(root, up)
        try:
            since_s = time.monotonic()
            wait_until(league._ready, "all gateways are ready", START_S_MAX)
            league.start_s = time.monotonic() - since_s
        except BaseException:
            sys.stderr.write((root / "up.log").read_text()[-4000:])
            league.stop()
            raise
        return league

    def start_again(self) -> League:
        """The same state directory, a new `hanse up`; this one must have been stopped with `keep`."""
        return self._start(self.root)

    def stop(self, *, keep: bool = False) -> float:
        """End it as Ctrl-C does; seconds it took. Fails where a process is left."""
        since_s = time.monotonic()
        self._up.send_signal(signal.SIGINT)
        try:
            self._up.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self._up.kill()
            self._up.wait()
        took_s = time.monotonic() - since_s
        self.threads.shutdown(wait=False, cancel_futures=True)
        left = self.processes()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not keep:
            shutil.rmtree(self.root, ignore_errors=True)
        assert not left, f"left running: {left}"
        assert self._up.returncode == 0, f"up ended with {self._up.returncode}"
        return took_s

    def processes(self) -> dict[int, str]:
        """Every process whose command line names this league's directory."""
        found = {}
        mark = str(self.root).encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    line = (entry / "cmdline").read_bytes()
                    if mark in line:
                        found[int(entry.name)] = line.replace(b"\0", b" ").decode()
        return found

    def _ready(self) -> bool:
        assert self._up.poll() is None, "up ended by itself"
        if not self.state.runtime_json.exists():
            return False
        self.runtime = self.state.read_runtime()
        return all(self.get(site, "/readyz").status == 200 for site in self.runtime.sites)

    # --- asking

    def secret(self, key: str) -> str:
        return (self.state.keys_dir / f"{key}.key").read_text().strip()

    def url(self, site: str) -> str:
        return self.runtime.site(site).client_url

    def get(self, site: str, path: str, *, key: str = "", **headers: str) -> Answer:
        return self._send(site, "GET", path, self._headers(key, headers), b"", 10.0)

    def post(self, site: str, path: str, body: Any, *, key: str = "demo", **headers: str) -> Answer:
        sent = {"content-type": "application/json", **self._headers(key, headers)}
        return self._send(site, "POST", path, sent, json.dumps(body).encode(), 10.0)

    def ask(
        self,
        site: str,
        text: str = "Say hello.",
        *,
        key: str = "demo",
        data_class: str = "",
        country: str = "",
        stream: bool = False,
        max_tokens: int = 1,
        timeout_s: float = 90.0,
        on_chunk: Callable[[str], None] | None = None,
        body: dict[str, Any] | None = None,
    ) -> Answer:
        """One chat request at a site's gateway; never raises for what the network or gateway does."""
        asked = {"model": "chat", "max_tokens": max_tokens, "temperature": 0, "stream": stream}
        asked |= {"messages": [{"role": "user", "content": text}], **(body or {})}
        extra = {"x-hanse-class": data_class, "x-hanse-country": country}
        headers = {"content-type": "application/json", **self._headers(key, extra)}
        sent = json.dumps(asked).encode()
        path = "/v1/chat/completions"
        return self._send(site, "POST", path, headers, sent, timeout_s, on_chunk)

    def ask_later(self, site: str, text: str = "Say hello.", **how: Any) -> Future[Answer]:
        """The same in a thread."""
        return self.threads.submit(self.ask, site, text, **how)

    def busy(self, entry: str, *, elsewhere: bool = False) -> tuple[str, list[Future[Answer]]]:
        """Send long requests until one is at an engine (of another site, if asked); that site, and all that were sent."""
        going: list[Future[Answer]] = []
        before = {site: self.executing(site) for site in self.runtime.sites}
        for number in range(8):
            text = f"{number} {time.monotonic()} {LONG_PROMPT}"
            going.append(self.ask_later(entry, text, stream=bool(number % 3)))
            until_s = time.monotonic() + 1.0
            while time.monotonic() < until_s:
                for site in self.runtime.sites:
                    more = self.executing(site) > before[site]
                    if more and not (elsewhere and site == entry):
                        return site, going
                time.sleep(0.01)
        raise AssertionError(f"no request from {entry} came to an engine")

    def _headers(self, key: str, extra: dict[str, str]) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in extra.items() if value}
        return {"authorization": f"Bearer {self.secret(key)}", **named} if key else named

    def _send(
        self,
        site: str,
        method: str,
        path: str,
        headers: dict[str, str],
        body: bytes,
        timeout_s: float,
        on_chunk: Callable[[str], None] | None = None,
    ) -> Answer:
        address = self.runtime.site(site)
        link = http.client.HTTPConnection(address.host, address.client_port, timeout=timeout_s)
        answer = Answer(0, sent_at_s=time.time())
        try:
            link.request(method, path, body or None, headers)
            response = link.getresponse()
            answer.status = response.status
            answer.headers = {name.lower(): value for name, value in response.getheaders()}
            answer.first_byte_at_s = time.time()
            if answer.headers.get("content-type", "").startswith("text/event-stream"):
                _read_stream(response, answer, on_chunk)
            else:
                answer.body = response.read()
        except (OSError, http.client.HTTPException) as error:
            answer.error = repr(error)
        finally:
            link.close()
        answer.ended_at_s = time.time()
        return answer

    # --- processes

    def engine(self, site: str, name: str = "chat-q4-1-0") -> Process:
        return Process(self.state.site(site) / "pid" / f"engine-{name}.pid")

    def agent(self, site: str) -> Process:
        return Process(self.state.site(site) / "pid" / "agent.pid")

    def gateway(self, site: str, worker: int = 0) -> Process:
        return Process(self.state.site(site) / "pid" / f"gateway-{worker}.pid")

    def group(self, site: str) -> Process:
        return Process(self.state.pid_dir / f"site-{site}.pid")

    def hub(self, name: str = "hub") -> Process:
        """`hub` (the group's own), `nats` or `controller`."""
        return Process(self.state.hub / "pid" / f"{name}.pid")

    def kill_site(self, site: str) -> list[int]:
        """The whole site at once, its supervisor first, and nobody brings it back before `release`."""
        (self.state.site(site) / "hold").touch()
        paths = [self.group(site).path, *sorted((self.state.site(site) / "pid").glob("*.pid"))]
        pids = list(dict.fromkeys(pid for path in paths if (pid := Process(path).pid)))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return pids

    def release(self, site: str) -> None:
        (self.state.site(site) / "hold").unlink(missing_ok=True)

    @property
    def links(self) -> LinkControl:
        return LinkControl(self.state.links_sock)

    def heal_all(self) -> None:
        for link in self.links.get().links:
            self.links.heal(link)

    # --- looking inside

    def page(self, site: str) -> SharedPage:
        return SharedPage.open(self.state.site(site) / "shared.mmap")

    def executing(self, site: str, engine: int = 0) -> int:
        """Requests in flight at a site's engine, as its workers count them."""
        return int(self.page(site).exec[:, engine, 0].sum())

    def engine_key(self, site: str) -> str:
        """Without it an engine tells its model's name, and that it lives."""
        return (self.state.site(site) / ENGINE_KEY).read_text().strip()

    def slots_busy(self, site: str) -> int:
        """Requests that llama.cpp itself says it is processing."""
        address = self.runtime.site(site)
        link = http.client.HTTPConnection(address.host, address.engine_ports[0], timeout=10)
        try:
            link.request(
                "GET", "/metrics", headers={"authorization": f"Bearer {self.engine_key(site)}"}
            )
            text = link.getresponse().read().decode()
        finally:
            link.close()
        found = re.search(r"^llamacpp:requests_processing (\d+)", text, re.MULTILINE)
        assert found, text
        return int(found[1])

    def in_flight(self, site: str) -> int:
        """Requests that a site's workers have under way as entry."""
        return int(self.page(site).own[:, :, 0].sum())

    def gate(self, site: str, target: str, **how: Any) -> str:
        """What a gateway would say of another site's chat offer now."""
        answer = self.post(site, "/hanse/v1/explain", {"service": "chat", "tokens_in": 20}, **how)
        return next(str(o["gate"]) for o in answer.json["offers"] if o["site"] == target)

    def moved(self, answers: list[Answer], lost: str) -> list[tuple[Answer, float]]:
        """(answer, when it was chosen anew) of requests whose attempt at `lost` was not the last."""
        records = self.records()
        found = []
        for answer in answers:
            decided = [r for _, r in records[answer.request_id] if isinstance(r, Decided)]
            for one, after in pairwise(sorted(decided, key=lambda r: r.attempt)):
                if one.site == lost:
                    found.append((answer, after.at_s))
                    break
        return found

    def decided_by_worker(self, site: str, request_ids: set[str]) -> dict[str, int]:
        """Worker number -> decisions about these requests in its chains."""
        counts: dict[str, int] = {}
        for path in (self.state.site(site) / "evidence").glob(f"{site}-*.log"):
            records = [decode_record(frame.raw) for frame in scan_file(path).frames]
            mine = [
                r for r in records if isinstance(r, Decided) and r.request_id.hex() in request_ids
            ]
            if mine:
                worker = path.stem.split("-")[-2]
                counts[worker] = counts.get(worker, 0) + len(mine)
        return counts

    # --- being whole

    def unwell(self) -> str:
        """Why the league is not whole; empty: every gateway could send to every placed offer now."""
        for site in self.runtime.sites:
            try:
                answer = self.post(site, "/hanse/v1/explain", {"service": "chat", "tokens_in": 20})
            except AssertionError as error:
                return str(error)
            if answer.status != 200:
                return f"{site}: {answer.status} {answer.code} {answer.error}"
            for offer in answer.json["offers"]:
                if offer["gate"] != "OK":
                    return f"{site} sees {offer['site']} as {offer['gate']}"
        return ""

    def wait_until_whole(self, within_s: float = WHOLE_S_MAX) -> float:
        """Seconds until every gateway sees every offer."""
        last = [""]

        def whole() -> bool:
            last[0] = self.unwell()
            return not last[0]

        try:
            return wait_until(whole, "the league is whole", within_s)
        except AssertionError as error:
            raise AssertionError(f"{error}: {last[0]}") from None

    def table(self, site: str) -> tuple[int, int]:
        """(epoch, version) of the table in force at a site, by its own files."""
        home = self.state.site(site)
        return int((home / "epoch").read_text()), int((home / "current").read_text())

    # --- evidence

    def records(self) -> dict[str, list[tuple[str, Record]]]:
        """Request id -> (site whose chain holds it, record), of all chains as they are now."""
        found: dict[str, list[tuple[str, Record]]] = {}
        for site in self.runtime.sites:
            for path in sorted((self.state.site(site) / "evidence").glob(f"{site}-*.log")):
                for frame in scan_file(path).frames:
                    record = decode_record(frame.raw)
                    if (request_id := getattr(record, "request_id", None)) is not None:
                        found.setdefault(request_id.hex(), []).append((site, record))
        return found

    def receipt(self, site: str, request_id: str, *, key: str = "demo") -> Answer:
        """The receipt, waiting until the records are sealed."""
        path = f"/hanse/v1/requests/{request_id}/receipt"
        got = [Answer(0)]

        def ready() -> bool:
            got[0] = self.get(site, path, key=key)
            return got[0].code != "receipt_not_ready"

        wait_until(ready, f"the receipt of {request_id}", SEALED_S_MAX)
        return got[0]

    def ca(self) -> bytes:
        return (self.state.ca_dir / "ca.pem").read_bytes()


def _read_stream(
    response: http.client.HTTPResponse, answer: Answer, on_chunk: Callable[[str], None] | None
) -> None:
    while line := response.readline():
        text = line.decode().rstrip("\r\n")
        if text:
            answer.lines.append(text)
            if on_chunk is not None:
                on_chunk(text)


class Stream:
    """A chat stream in a thread, whose chunks can be waited for while something else happens."""

    def __init__(self, league: League, site: str, **how: Any) -> None:
        self.chunks = 0
        self._changed = threading.Condition()
        how = {"max_tokens": 200, **how, "stream": True, "on_chunk": self._chunk}
        self._answer = league.ask_later(site, **how)

    def wait_for_chunks(self, count: int, within_s: float = 60.0) -> None:
        with self._changed:
            came = self._changed.wait_for(lambda: self.chunks >= count, within_s)
        assert came, f"{self.chunks} chunks after {within_s:.0f} s, need {count}"

    def answer(self, within_s: float = 90.0) -> Answer:
        return self._answer.result(within_s)

    def _chunk(self, line: str) -> None:
        if line.startswith("data: {"):
            with self._changed:
                self.chunks += 1
                self._changed.notify_all()


@contextlib.contextmanager
def running(fleet_text: str, files: dict[str, str] | None = None) -> Iterator[League]:
    """A league of one's own."""
    league = League.start(fleet_text, files)
    try:
        yield league
    finally:
        league.stop()
