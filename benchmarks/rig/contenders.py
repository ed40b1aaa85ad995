"""Who is measured: for each contender whether it can run here, its version, and how it is started.

All get the same four backends, one core and one worker, and otherwise their own defaults. Ours runs
with law, keys, choosing and accounting on. Not here: the measurements (`scenarios`).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rig import process
from rig.hanse_fleet import build_fleet
from rig.payload import KEY, MODEL
from rig.process import Process

BENCHMARKS = Path(__file__).parents[1]
PINS = BENCHMARKS / "contenders.txt"
SERVER_READY_S = 20.0
LITELLM_READY_S = 120.0
"""It imports for 10 to 18 s on an idle core, and shares the core with the others' start."""
OFFLINE_ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_ENDPOINT": "http://127.0.0.1:9",
    "HTTPS_PROXY": "http://127.0.0.1:9",
    "https_proxy": "http://127.0.0.1:9",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
"""sglang-router asks a hub for a tokenizer at start; a measurement must not leave the machine."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """Where a contender runs: backends, port, core, a directory for its files."""

    urls: tuple[str, ...]
    port: int
    core: int
    work_dir: Path
    cache: Path


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One gateway under test."""

    name: str
    note: str
    """What differs from a plain start, for the table."""
    say_missing: Callable[[Path], str | None]
    """Why it cannot run and how to get it, given the cache directory; None when it can."""
    read_version: Callable[[Path], str]
    start: Callable[[Launch], Process]
    ready_s: float = SERVER_READY_S
    slow: bool = False
    """True: one plain sample of double length, since a second would see too few requests."""


def start_hanse(
    backend_urls: tuple[str, ...], port: int, core: int, work_dir: Path, *, record: bool = False
) -> Process:
    """One site of one worker with law, keys, choosing and accounting on, engines external."""
    work_dir.mkdir(parents=True, exist_ok=True)
    fleet = work_dir / "fleet.toml"
    fleet.write_text(build_fleet(backend_urls, port, hashlib.sha256(KEY.encode()).hexdigest()))
    state = work_dir / "state"
    command = [sys.executable, "-c", "from hanse.cli import main; main()", "site", "bench"]
    command += ["--fleet", str(fleet), "--state", str(state)]
    command += ["--record"] if record else []
    return process.start("hanse", command, core=core, work_dir=work_dir, env=_build_hanse_env())


def start_sglang(launch: Launch, *, policy: str) -> Process:
    """sglang-router with a policy; its metrics port is moved out of the others' way."""
    python = launch.cache / "sglang-router" / "bin" / "python"
    command = [str(python), "-m", "sglang_router.launch_router"]
    command += _build_router_options(launch, policy) + ["--log-level", "warn"]
    return _start(f"sglang-router-{policy}", command, launch)


def start_vllm(launch: Launch, *, policy: str) -> Process:
    """vllm-router with a policy."""
    command = [str(launch.cache / "vllm-router" / "bin" / "vllm-router")]
    command += _build_router_options(launch, policy) + ["--log-level", "warning"]
    return _start(f"vllm-router-{policy}", command, launch)


def start_litellm(launch: Launch) -> Process:
    """LiteLLM's proxy: one worker, master key, no database, one deployment for each backend."""
    deployments = [
        {
            "model_name": MODEL,
            "litellm_params": {
                "model": f"openai/{MODEL}",
                "api_base": f"{url}/v1",
                "api_key": "sk-backend",
            },
        }
        for url in launch.urls
    ]
    settings = {
        "model_list": deployments,
        "router_settings": {"routing_strategy": "simple-shuffle"},
        "general_settings": {"master_key": KEY},
    }
    launch.work_dir.mkdir(parents=True, exist_ok=True)
    config = launch.work_dir / "litellm.yaml"
    config.write_text(json.dumps(settings))
    command = [str(launch.cache / "litellm" / "bin" / "litellm"), "--config", str(config)]
    command += ["--host", "127.0.0.1", "--port", str(launch.port), "--num_workers", "1"]
    command += ["--telemetry", "False"]
    extra = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "ERROR",
        "PATH": f"{launch.cache / 'litellm' / 'bin'}:{os.environ.get('PATH', '')}",
    }
    return _start("litellm", command, launch, extra=extra)


def start_nginx(launch: Launch) -> Process:
    """nginx as a plain reverse proxy: round robin, kept connections, no buffering of answers."""
    servers = "\n".join(f"    server {url.removeprefix('http://')};" for url in launch.urls)
    work = launch.work_dir
    config = f"""daemon off;
worker_processes 1;
pid {work}/proxy.pid;
error_log stderr crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_buffer_size 64k;
  client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi; uwsgi_temp_path {work}/uwsgi; scgi_temp_path {work}/scgi;
  upstream backends {{
{servers}
    keepalive 128;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{launch.port} backlog=1024;
    location / {{
      proxy_pass http://backends;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
    work.mkdir(parents=True, exist_ok=True)
    path = work / "proxy.conf"
    path.write_text(config)
    return _start("nginx", ["nginx", "-p", str(work), "-e", "stderr", "-c", str(path)], launch)


def start_haproxy(launch: Launch) -> Process:
    """HAProxy with active checks every 500 ms: what a careful operator would put in front."""
    servers = "\n".join(
        f"  server b{index} {url.removeprefix('http://')} check inter 500ms"
        for index, url in enumerate(launch.urls)
    )
    config = f"""global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  option http-no-delay
  option redispatch
frontend f
  bind 127.0.0.1:{launch.port}
  default_backend b
backend b
  balance leastconn
  http-reuse always
  option httpchk GET /health
{servers}
"""
    launch.work_dir.mkdir(parents=True, exist_ok=True)
    path = launch.work_dir / "haproxy.cfg"
    path.write_text(config)
    return _start("haproxy", ["haproxy", "-db", "-f", str(path)], launch)


def install(cache: Path, say: Callable[[str], None]) -> None:
    """Make the virtual environment of every pinned contender that is not there yet."""
    for pin in read_pins():
        home = cache / pin.partition("==")[0].partition("[")[0]
        if _read_installed(home, pin) is not None:
            continue
        say(f"installing {pin} (LiteLLM needs 750 MB, the routers 150 MB each)")
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", pin]
        if subprocess.run(pip, check=False, stdout=sys.stderr).returncode != 0:
            say(f"{pin} could not be installed; it will be reported as not measured")


def read_pins() -> list[str]:
    """The requirement lines of contenders.txt."""
    lines = (line.strip() for line in PINS.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _build_router_options(launch: Launch, policy: str) -> list[str]:
    (metrics_port,) = process.find_free_ports(1)
    options = ["--host", "127.0.0.1", "--port", str(launch.port)]
    options += ["--prometheus-port", str(metrics_port), "--policy", policy]
    return [*options, "--worker-urls", *launch.urls]


def _start(
    name: str, command: Sequence[str], launch: Launch, *, extra: dict[str, str] | None = None
) -> Process:
    env = {**os.environ, **OFFLINE_ENV, **(extra or {})}
    return process.start(name, command, core=launch.core, work_dir=launch.work_dir, env=env)


def _build_hanse_env() -> dict[str, str]:
    """Our own source tree first, so that a checkout measures itself."""
    source = BENCHMARKS.parent / "src"
    path = os.pathsep.join([str(source), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def _say_hanse_missing(_cache: Path) -> str | None:
    probe = "from hanse.cli import main; import hanse.live.gateway"
    command = [sys.executable, "-c", probe]
    done = subprocess.run(command, env=_build_hanse_env(), capture_output=True, check=False)
    if done.returncode == 0:
        return None
    last = "".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])
    return f"this interpreter cannot import hanse ({last.partition(' (')[0]}); run: make env"


def _read_hanse_version(_cache: Path) -> str:
    try:
        version = importlib.metadata.version("hanse")
    except importlib.metadata.PackageNotFoundError:
        version = "not installed"
    command = ["git", "-C", str(BENCHMARKS), "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, check=False)
    return f"{version} ({done.stdout.decode().strip() or 'no commit'})"


def _read_installed(home: Path, pin: str) -> str | None:
    """Version in a contender's environment when it is the pinned one."""
    package, _, version = pin.partition("==")
    stem = package.partition("[")[0].replace("-", "_")
    found = list(home.glob(f"lib/python*/site-packages/{stem}-{version}.dist-info"))
    return version if found else None


def _say_package_missing(cache: Path, *, package: str) -> str | None:
    pin = _find_pin(package)
    if _read_installed(cache / package, pin) is not None:
        return None
    return f"{pin} is not installed; get it: python benchmarks/gateway.py --install"


def _read_package_version(_cache: Path, *, package: str) -> str:
    return _find_pin(package).partition("==")[2]


def _find_pin(package: str) -> str:
    return next(pin for pin in read_pins() if pin.partition("==")[0].partition("[")[0] == package)


def _say_program_missing(_cache: Path, *, program: str, debian: str) -> str | None:
    if shutil.which(program) is not None:
        return None
    return f"{program} is not installed; get it: apt-get install {debian}"


def _read_program_version(_cache: Path, *, program: str) -> str:
    done = subprocess.run([program, "-v"], capture_output=True, check=False)
    lines = (done.stdout + done.stderr).decode(errors="replace").splitlines()
    return lines[0].strip() if lines else "unknown"


def _package(name: str, package: str, note: str, start: Callable[[Launch], Process]) -> Contender:
    slow = package == "litellm"
    return Contender(
        name=name,
        note=note,
        say_missing=partial(_say_package_missing, package=package),
        read_version=partial(_read_package_version, package=package),
        start=start,
        ready_s=LITELLM_READY_S if slow else SERVER_READY_S,
        slow=slow,
    )


def _program(name: str, debian: str, note: str, start: Callable[[Launch], Process]) -> Contender:
    return Contender(
        name=name,
        note=note,
        say_missing=partial(_say_program_missing, program=name, debian=debian),
        read_version=partial(_read_program_version, program=name),
        start=start,
    )


def _start_hanse_at(launch: Launch, *, record: bool = False) -> Process:
    return start_hanse(launch.urls, launch.port, launch.core, launch.work_dir, record=record)


HANSE = Contender(
    name="hanse",
    note="law, keys, choosing and accounting on",
    say_missing=_say_hanse_missing,
    read_version=_read_hanse_version,
    start=_start_hanse_at,
    ready_s=60.0,
)
RECORDED = replace(
    HANSE,
    name="hanse-recorded",
    note="the same, writing its input log",
    start=partial(_start_hanse_at, record=True),
)
CONTENDERS = {
    one.name: one
    for one in (
        HANSE,
        RECORDED,
        _program("nginx", "nginx-light", "plain reverse proxy, round robin", start_nginx),
        _package(
            "sglang-router",
            "sglang-router",
            "cache_aware (its default)",
            partial(start_sglang, policy="cache_aware"),
        ),
        _package(
            "vllm-router",
            "vllm-router",
            "cache_aware (its default)",
            partial(start_vllm, policy="cache_aware"),
        ),
        _package("litellm", "litellm", "simple-shuffle (its default)", start_litellm),
        _program("haproxy", "haproxy", "leastconn, checks every 500 ms", start_haproxy),
        _package(
            "sglang-router-rr",
            "sglang-router",
            "round_robin",
            partial(start_sglang, policy="round_robin"),
        ),
        _package(
            "vllm-router-rr",
            "vllm-router",
            "round_robin",
            partial(start_vllm, policy="round_robin"),
        ),
    )
}
DEFAULTS = ("hanse", "nginx", "sglang-router", "vllm-router", "litellm")
