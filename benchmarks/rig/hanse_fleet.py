"""The fleet file our own gateway is measured with: one site, external engines, one tenant, law on.

Not here: starting it (`contenders`).
"""

from __future__ import annotations

from rig.payload import MODEL

SLOTS = 64
"""A replica's batch; 4 x 64 leaves room for the 64 clients of the widest scenario."""


def build_fleet(urls: tuple[str, ...], port: int, key_sha256: str) -> str:
    """TOML of a fleet whose only site listens on `port` and routes to `urls`."""
    listed = ", ".join(f'"{url}"' for url in urls)
    return f"""schema = "hanse-fleet/1"
name = "bench"

[[class]]
id = "public"
law = "non_personal"

[[class]]
id = "personal"
law = "personal"

[[site]]
id = "bench"
kind = "micro"
city = "Lubeck"
country = "DE"
lat_deg = 53.87
lon_deg = 10.69
operator_hq = "DE"
power = {{ grid_kw_max = 60, price_usd_per_kwh = 0.2 }}
gateway = {{ port = {port}, workers = 1 }}

[[site.pool]]
id = "mock"
accelerator = "x86-thread"
count = {len(urls)}
driver = "external"
urls = [{listed}]

[[service]]
id = "chat"
aliases = ["{MODEL}"]
endpoints = ["chat", "completions"]
slo = {{ ttft_ms = 1500, tpot_ms = 120, deadline_s = 60 }}

[[service.variant]]
id = "mock"
model = "SmolLM2-135M"
precision = "q4_1"
quality = 0.4
quality_source = "a mock engine of the benchmark; never read by a person"
served_model = "{MODEL}"

[[tenant]]
id = "bench"
classes = ["personal", "public"]

[[tenant.key]]
id = "bench"
sha256 = "{key_sha256}"
countries = ["DE"]
# The limiter runs, and never bites: it is part of the cost, not of the result.
requests_per_s_max = 1000000.0
burst = 1000000

[[placement]]
service = "chat"
variant = "mock"
site = "bench"
pool = "mock"
replicas = {len(urls)}
slots = {SLOTS}
context_tokens = 1000000
"""
