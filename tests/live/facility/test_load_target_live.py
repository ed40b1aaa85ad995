"""A grid's load target from end to end at a running site: real bus, agent, gateway and batch process, a metered load, a stock MQTT client.

The load is an engine of this test that draws as it is asked: 4 kW, and 1 kW a running request, which a Modbus meter tells the agent. What is
checked is what the grid and the users see: work given up in the stated order with reasons, power that falls, a compliant status, and
everything back after the end.
"""

from __future__ import annotations

import http.client
import io
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from hanse.live import bus
from hanse.live.facility.flex_messages import rfc3339
from hanse.live.runtime import StateDir
from ports import free_port

pytest.importorskip("pymodbus", reason="pip install pymodbus")
pytest.importorskip("paho.mqtt.client", reason="pip install paho-mqtt")
pytest.importorskip("joserfc", reason="pip install joserfc")
pytest.importorskip("openai", reason="pip install openai")
from live.facility.modbus_server import modbus_server
from live.facility.site_bus import (
    FLEET,
    PASSWORD,
    SITE,
    Publisher,
    SiteBus,
    event,
    keys,
    publisher,
    sign,
    wait_until,
)
from live.facility.test_flex import STATUS_TOPIC, TARGET_TOPIC, said

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]

IDLE_W, REQUEST_W, ANSWER_S = 4000, 1000, 0.5
BATCH_LINES = 400

POOLS = """
[[site.pool]]
id = "gpus"
accelerator = "h100-sxm"
count = 1
driver = "external"
urls = ["{engine}"]
"""
MORE = """
[[placement]]
service = "chat"
variant = "q8"
site = "harbour"
pool = "gpus"
slots = 16

[[facility]]
id = "grid"
site = "harbour"
driver = "dsx-flex"
user = "acme"
secret_file = "{secrets}/acme.secret"
listen = "127.0.0.1:{port}"
[[facility.signer]]
kid = "acme-1"
key_file = "{secrets}/acme.pem"

[[facility]]
id = "rack-meter"
site = "harbour"
driver = "modbus"
url = "{modbus}"
every_s = 0.5
[[facility.register]]
point = "power"
quantity = "power_w"
address = 0
kind = "u32"

[[meter]]
id = "rack"
site = "harbour"
facility = "rack-meter"
point = "power"
measures = "it"
error_share = 0.01
"""


class Engine:
    """Answers like an OpenAI server, half a second a request, and draws for each."""

    def __init__(self) -> None:
        self.running = 0
        self._lock = threading.Lock()
        engine = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self.answer({"status": "ok"})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                with engine._lock:
                    engine.running += 1
                time.sleep(ANSWER_S)
                with engine._lock:
                    engine.running -= 1
                message = {"role": "assistant", "content": "Moin."}
                self.answer({
                    "id": "x", "object": "chat.completion", "created": 1, "model": "chat",
                    "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                    "usage": {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10},
                })  # fmt: skip

            def answer(self, body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # lines that were given up

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def watts(self) -> int:
        return IDLE_W + REQUEST_W * self.running


@contextmanager
def served(engine: Engine) -> Iterator[str]:
    thread = threading.Thread(target=engine.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield engine.url
    finally:
        engine.server.shutdown()
        thread.join()
        engine.server.server_close()


@contextmanager
def metered(engine: Engine) -> Iterator[str]:
    with modbus_server({0: 0, 1: IDLE_W}) as (url, registers):
        ended = threading.Event()

        def follow() -> None:
            while not ended.wait(0.05):
                registers[1] = engine.watts

        thread = threading.Thread(target=follow)
        thread.start()
        try:
            yield url
        finally:
            ended.set()
            thread.join()


class Site:
    """`hanse site` in a process of its own."""

    def __init__(self, root: Path, fleet_text: str) -> None:
        (root / "fleet.toml").write_text(fleet_text)
        self.state = StateDir(root / "state")
        self.log = root / "site.log"
        code = "import sys; from pathlib import Path; from hanse.live.site_group import run_site; sys.exit(run_site('harbour', Path(sys.argv[1]), Path(sys.argv[2])))"
        with self.log.open("ab") as log:
            command = [sys.executable, "-c", code, str(root / "fleet.toml"), str(self.state.path)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(self.ready, "the site is ready", 120)
        except BaseException:
            self.stop()
            raise
        self.port = self.state.read_runtime().site(SITE).client_port
        self.key = (self.state.keys_dir / "tester-key.key").read_text().strip()

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            port = self.state.read_runtime().site(SITE).client_port
            return self.get(port, "/readyz")[0] == 200
        except Exception:
            return False

    def get(self, port: int, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, body

    def ask(self, data_class: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        body = json.dumps({"model": "chat", "messages": [{"role": "user", "content": "Moin?"}]})
        headers = {
            "Authorization": f"Bearer {self.key}",
            "Content-Type": "application/json",
            "x-hanse-class": data_class,
        }
        connection.request("POST", "/v1/chat/completions", body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, json.loads(content)

    def metrics(self) -> dict[str, float]:
        text = self.get(self.port, "/metrics")[1].decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)


class Users:
    """Some that ask without end; answers by class."""

    def __init__(self, site: Site, data_class: str, count: int) -> None:
        self.site, self.data_class = site, data_class
        self.answers: list[tuple[float, int, Any]] = []
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _ask(self) -> None:
        while not self._end.is_set():
            status, body = self.site.ask(self.data_class)
            self.answers.append((time.time(), status, body))
            if status != 200:
                self._end.wait(0.3)

    def since(self, at_s: float) -> list[tuple[int, Any]]:
        return [(status, body) for when, status, body in list(self.answers) if when >= at_s]

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def begun(ask: Any, content: bytes) -> Any:
    """A batch; None while the batch process of a site that just started has no table yet."""
    from openai import APIError

    try:
        file = ask.files.create(file=("in.jsonl", io.BytesIO(content)), purpose="batch")
        return ask.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
    except APIError:
        return None


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[tuple[Site, Engine, Publisher, Any]]:
    key, pem = keys()
    (tmp_path / "acme.pem").write_bytes(pem)
    (tmp_path / "acme.secret").write_text(PASSWORD)
    (tmp_path / "acme.secret").chmod(0o600)
    port, engine = free_port(), Engine()
    with ExitStack() as stack:
        url = stack.enter_context(served(engine))
        modbus = stack.enter_context(metered(engine))
        text = FLEET.format(
            pools=POOLS.format(engine=url),
            more=MORE.format(secrets=tmp_path, port=port, modbus=modbus),
        )
        site = Site(tmp_path, text)
        stack.callback(site.stop)
        yield (
            site,
            engine,
            stack.enter_context(publisher(port, "acme", PASSWORD, [(STATUS_TOPIC, 1)])),
            key,
        )


class Evening:
    """A site under load, and what the grid has heard of it."""

    def __init__(self, site: Site, engine: Engine, acme: Publisher, key: Any) -> None:
        self.site, self.engine, self.acme, self.key = site, engine, acme, key
        self.public_pem = (site.state.site(SITE) / "facility" / "grid.public.pem").read_bytes()
        self.sent_s = self.until_s = 0.0

    def feeds(self) -> list[dict[str, Any]]:
        heard = said(self.acme.heard, STATUS_TOPIC, self.public_pem)
        return [s["feeds"]["main"] for s in heard]

    def until_event(self, name: str, within_s: float) -> dict[str, Any]:
        """The status that said so."""

        def told() -> list[dict[str, Any]]:
            return [f for f in self.feeds() if f["event"] == name]

        found: dict[str, Any] = wait_until(told, f"the grid hears {name}", within_s)[0]
        return found

    def metric(self, name: str, more: str = "") -> float:
        return self.site.metrics()[f'{name}{{site="{SITE}"{more}}}']

    def send_target(self, kw: float, seconds: float) -> None:
        self.sent_s = time.time()
        self.until_s = self.sent_s + seconds
        target = {
            "load_constraint": {"value": kw, "unit": "kilowatt"},
            "interval": {"start_time": rfc3339(self.sent_s), "end_time": rfc3339(self.until_s)},
            "strategy": {"best_effort": True},
            "feed_tags": ["main"],
        }
        signed = sign({"targets": [target]}, self.key, "acme-1")
        self.acme.send(TARGET_TOPIC, event(signed, "evening-peak"))


def check_loaded(evening: Evening, done: Callable[[], int]) -> None:
    engine = evening.engine
    wait_until(lambda: engine.running >= 9 and done() > 0, "users and batch are served", 60)

    def told_w() -> bool:
        feeds = evening.feeds()
        return bool(feeds) and feeds[-1]["calculated_load"]["value"] > 11.0

    wait_until(told_w, "the grid hears of the measured load", 60)
    assert evening.metric("hanse_site_power_measured", ',flow="it"') == 1.0


def check_kept(evening: Evening, public: Users, bulk: Users, done: Callable[[], int]) -> int:
    """Lines of the batch that were done when the target held."""
    held = evening.until_event("end_ramp_down", 40)
    print(f"compliant {time.time() - evening.sent_s:.1f} s after the target was sent")
    assert held["compliant"]
    assert held["calculated_load"]["value"] <= 10.0
    assert held["targets"][0]["correlation_id"] == "evening-peak"
    time.sleep(4.0)
    kept_s, lines = time.time(), done()
    time.sleep(6.0)
    shed = bulk.since(kept_s)
    assert shed
    assert {status for status, _ in shed} == {503}
    refusal = shed[-1][1]["error"]
    assert refusal["code"] == "power"
    assert refusal["hanse"]["shed"]["rule"] == "hanse:power-priority-10"
    assert refusal["hanse"]["shed"]["cause"] == "load target"
    served_now = public.since(kept_s)
    assert len(served_now) > 5
    assert {status for status, _ in served_now} == {200}
    assert done() == lines  # deferrable work stands still
    assert evening.metric("hanse_site_load_target_watts") == 10_000.0
    assert evening.metric("hanse_site_load_target_compliant") == 1.0
    assert evening.metric("hanse_site_shed_level") >= 3.0
    assert evening.metric("hanse_site_power_watts", ',flow="drawn"') <= 10_000.0
    return lines


def check_back(evening: Evening, bulk: Users, done: Callable[[], int], lines: int) -> None:
    over_s = evening.until_s
    wait_until(lambda: time.time() > over_s, "the target's end", 70)
    wait_until(lambda: any(s == 200 for s, _ in bulk.since(over_s)), "bulk is served again", 60)
    wait_until(lambda: done() > lines, "the batch goes on", 60)
    evening.until_event("end_ramp_up", 60)
    assert evening.feeds()[-1]["targets"] == []
    wait_until(lambda: evening.metric("hanse_site_shed_level") == 0.0, "Prometheus sees it", 10)
    assert evening.metric("hanse_site_load_target_active") == 0.0


def test_a_load_target_by_mqtt_sheds_in_order_is_kept_and_told_and_all_comes_back(
    scene: tuple[Site, Engine, Publisher, Any],
) -> None:
    from openai import OpenAI

    evening = Evening(*scene)
    site = evening.site
    with ExitStack() as stack:
        public = Users(site, "public", 3)
        stack.callback(public.stop)
        bulk = Users(site, "bulk", 4)
        stack.callback(bulk.stop)
        url = f"http://127.0.0.1:{site.port}/v1"
        ask = stack.enter_context(OpenAI(base_url=url, api_key=site.key, max_retries=8))
        body = {"model": "chat", "messages": [{"role": "user", "content": "Moin?"}]}
        line = {"method": "POST", "url": "/v1/chat/completions", "body": body}
        rows = [json.dumps(line | {"custom_id": f"l-{n}"}) for n in range(BATCH_LINES)]
        content = "\n".join(rows).encode()
        batch = wait_until(lambda: begun(ask, content), "the batch process is ready", 60)

        def done() -> int:
            counts = ask.batches.retrieve(batch.id).request_counts
            return 0 if counts is None else counts.completed

        check_loaded(evening, done)
        # base 1 kW + 1.2 x (4 kW + 3 kW of the public class) = 9.4 kW: only they fit.
        evening.send_target(10.0, 45.0)
        lines = check_kept(evening, public, bulk, done)
        check_back(evening, bulk, done, lines)
    assert {status for status, _ in public.since(0.0)} == {200}  # the last class never noticed


def test_the_bus_of_a_site_without_plant_has_no_mqtt_listener(tmp_path: Path) -> None:
    made = SiteBus(tmp_path, FLEET.format(pools="", more=""))
    conf = json.loads(bus.write_leaf_conf(made.runtime, made.state, SITE).read_text())
    assert "mqtt" not in conf
