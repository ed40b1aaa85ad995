"""The fleet that these tests run: two EU micro sites, one in Britain, one American region; as a fleet file's text.

Small so that it starts on two cores; every port is 0. `external` gives each engine a URL instead of a process.
"""

from __future__ import annotations

from typing import Final

SITES: Final = ("frankfurt", "lyon", "london", "virginia")
EU: Final = ("frankfurt", "lyon")

HEAD: Final = """
schema = "hanse-fleet/1"
name = "small"

[weights]
usd_per_latency_s = 0.000005
usd_per_tonne_co2e = 100

[central]
site = "virginia"
replicas = 4

[[class]]
id = "public"
law = "non_personal"

[[class]]
id = "personal"
law = "personal"

[[class]]
id = "health"
law = "health"
quality_min = 0.5

[[class]]
id = "important"
law = "important"
"""

SLOW_LOOP: Final = """
[slow_loop]
places = true
place_every_s = 8
window_s = 60
demand_bin_s = 4
"""

OWN_CHIPS: Final = "chips = 2\ncontext_tokens = 1944"
"""As the controller sizes a replica here: a running one then stays as it is."""

PLACES: Final = {
    "frankfurt": ("micro", "DE", 50.11, 8.68, "DE", "[]"),
    "lyon": ("micro", "FR", 45.76, 4.84, "FR", '["hds_certified_host"]'),
    "london": ("micro", "GB", 51.51, -0.13, "GB", "[]"),
    "virginia": ("region", "US", 39.04, -77.49, "US", '["baa"]'),
}

LINKS: Final = {
    ("frankfurt", "lyon"): 14,
    ("frankfurt", "london"): 15,
    ("frankfurt", "virginia"): 92,
    ("lyon", "london"): 18,
    ("lyon", "virginia"): 88,
    ("london", "virginia"): 76,
}

CHAT: Final = """
[[service]]
id = "chat"
aliases = ["gpt-4o-mini"]
endpoints = ["chat", "completions"]
slo = { ttft_ms = 1500, tpot_ms = 120, deadline_s = DEADLINE_S }
output_tokens_max = 1024

[[service.variant]]
id = "q4-1"
model = "SmolLM2-135M"
precision = "q4_1"
quality = 0.535
quality_source = "next-token accuracy, measured by benchmarks/quality.py"

[[service.variant]]
id = "q4-0"
model = "SmolLM2-135M"
precision = "q4_0"
quality = 0.488
quality_source = "next-token accuracy, measured by benchmarks/quality.py"
"""

EMBED: Final = """
[[service]]
id = "embed"
aliases = ["text-embedding-3-small"]
endpoints = ["embeddings"]
slo = { ttft_ms = 1500, tpot_ms = 120 }

[[service.variant]]
id = "f16"
model = "all-MiniLM-L6-v2"
precision = "f16"
quality = 0.5
quality_source = "the only variant"
"""

# (tenant, classes, mechanisms, sovereign, countries of its one key, requests a second, burst)
TENANTS: Final = (
    ("demo", ("public", "personal"), (), False, ("DE", "FR", "GB"), 500, 1000),
    ("clinic", ("health", "personal", "public"), (), True, ("FR", "DE"), 500, 1000),
    ("shop", ("public", "personal"), ("scc+tia",), False, ("DE", "FR", "US"), 500, 1000),
    ("mill", ("important", "public"), (), False, ("CN", "US"), 500, 1000),
    ("slowly", ("public",), (), False, ("DE",), 0.2, 2),
)


def fleet_text(
    *,
    workers: dict[str, int] | None = None,
    embed_at: str = "",
    external: dict[str, str] | None = None,
    slots: int = 2,
    replicas: int = 1,
    deadline_s: int = 60,
    cedar_files: tuple[str, ...] = (),
    places: bool = False,
    placed: tuple[str, ...] = SITES,
) -> str:
    """The fleet file.

    Args:
        workers: Site -> gateway workers, where not 1.
        embed_at: Site that also serves embeddings; empty: none.
        external: Site -> comma-separated URLs of its engines; None: llama.cpp processes.
        places: The controller decides which replicas run where, every few seconds.
        placed: Sites with a replica at the start.
    """
    files = ", ".join(f'"{name}"' for name in cedar_files)
    parts = [HEAD, f"[policy]\nvalid_s = 86400\ncedar_files = [{files}]\n"]
    if places:
        parts.append(SLOW_LOOP)
    parts += [_site(name, (workers or {}).get(name, 1), external) for name in SITES]
    parts += [
        f'[[link]]\na = "{a}"\nb = "{b}"\nrtt_ms = {rtt_ms}\nmbit_s = 1000\n'
        for (a, b), rtt_ms in LINKS.items()
    ]
    parts.append(CHAT.replace("DEADLINE_S", str(deadline_s)))
    if embed_at:
        parts.append(EMBED)
    parts += [_tenant(*row) for row in TENANTS]
    more = OWN_CHIPS if places else ""
    parts += [_placed("chat", "q4-1", name, slots, replicas, more) for name in placed]
    if embed_at:
        parts.append(_placed("embed", "f16", embed_at, slots, 1))
    return "\n".join(parts)


def _site(name: str, workers: int, external: dict[str, str] | None) -> str:
    kind, country, lat, lon, hq, certifications = PLACES[name]
    pool = 'accelerator = "x86-thread"\ncount = 2'
    if external is not None:
        urls = ", ".join(f'"{url}"' for url in external[name].split(","))
        pool += f'\ndriver = "external"\nurls = [{urls}]\ncontinues = true'
    return f"""
[[site]]
id = "{name}"
kind = "{kind}"
city = "{name}"
country = "{country}"
lat_deg = {lat}
lon_deg = {lon}
operator_hq = "{hq}"
certifications = {certifications}
power = {{ grid_kw_max = 600 }}
gateway = {{ workers = {workers} }}

[[site.pool]]
id = "cpu"
{pool}
"""


def _tenant(
    name: str,
    classes: tuple[str, ...],
    mechanisms: tuple[str, ...],
    sovereign: bool,
    countries: tuple[str, ...],
    rate: float,
    burst: int,
) -> str:
    def listed(values: tuple[str, ...]) -> str:
        return "[" + ", ".join(f'"{v}"' for v in values) + "]"

    return f"""
[[tenant]]
id = "{name}"
classes = {listed(classes)}
mechanisms = {listed(mechanisms)}
sovereign = {str(sovereign).lower()}

[[tenant.key]]
id = "{name}"
countries = {listed(countries)}
requests_per_s_max = {rate}
burst = {burst}
"""


def _placed(
    service: str, variant: str, site: str, slots: int, replicas: int, more: str = ""
) -> str:
    return f"""
[[placement]]
service = "{service}"
variant = "{variant}"
site = "{site}"
pool = "cpu"
replicas = {replicas}
slots = {slots}
{more or f"context_tokens = {2048 * slots}"}
"""
