"""A fleet of many sites for `scale.py`, and a hub's state directory in which all of them have joined.

Here: the fleet file (regions and micro sites in the world's cities, links to the nearest region, three services, twenty tenants) and
what has to lie there before `hanse hub` starts. Not here: the sites themselves (`scale_sites`), starting anything (`scale.py`).
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

from hanse.catalogue.cities import City, cities, distance_km, rtt_ms_floor
from hanse.live.first_start import Prepared, prepare
from hanse.live.league_file import LeagueFile, LeagueStore, source_digest
from hanse.live.runtime import StateDir
from hanse.model.read import parse_fleet

REGION_EACH = 20
"""One site in twenty is a region: what a league of small sites falls back on."""
EMBEDS_EACH = 4
"""Every fourth site also embeds."""
TENANTS = 20
COUNTRIES = ("DE", "FR", "NL", "SE", "PL", "IT", "ES", "GB", "US", "JP")
STAND_IN = frozenset(
    ("DE", "FR", "NL", "SE", "PL", "IT", "ES", "GB", "US", "JP", "FI", "NO", "AT", "BE", "CH", "DK", "IE", "PT", "CZ", "CA", "AU")
)  # fmt: skip
"""Countries whose electricity has published means."""
CHIPS = 4
ACCESS_MS = 4.0
"""Of both access networks of a link, beyond light in fibre."""

HEAD = """schema = "hanse-fleet/1"
name = "scale"

[hub]
host = "127.0.0.1"
advertise = "localhost"

[[class]]
id = "public"
law = "non_personal"

[[class]]
id = "personal"
law = "personal"

[[class]]
id = "health"
law = "health"

[[service]]
id = "chat"
endpoints = ["chat", "completions"]
slo = { ttft_ms = 800, tpot_ms = 60, deadline_s = 120 }

[[service.variant]]
id = "large"
model = "Llama-3.1-70B"
precision = "fp8"
quality = 0.8
quality_source = "of the benchmark"

[[service.variant]]
id = "small"
model = "Llama-3.1-8B"
precision = "fp8"
quality = 0.6
quality_source = "of the benchmark"

[[service]]
id = "embed"
endpoints = ["embeddings"]
slo = { ttft_ms = 500, tpot_ms = 60, deadline_s = 30 }

[[service.variant]]
id = "small"
model = "Qwen3-0.6B"
precision = "bf16"
quality = 0.5
quality_source = "of the benchmark"
"""


def site_name(index: int) -> str:
    """`s0000`."""
    return f"s{index:04d}"


def fleet_toml(sites_n: int) -> str:
    """The file: the same for the same number of sites."""
    draw = random.Random(7)
    places = draw.choices([one for one in cities() if one.iso2 in STAND_IN], k=sites_n)
    regions = [i for i in range(sites_n) if i % REGION_EACH == 0]
    parts = [HEAD]
    parts += (_site(i, place) for i, place in enumerate(places))
    parts += _links(places, regions)
    parts += (_tenant(number) for number in range(TENANTS))
    parts += (_placements(i) for i in range(sites_n))
    return "\n".join(parts)


def prepared(folder: Path, sites_n: int) -> Prepared:
    """A state directory of a hub that every site of the fleet has joined from another machine."""
    fleet_path = folder / "fleet.toml"
    text = fleet_toml(sites_n)
    fleet_path.write_text(text)
    state = StateDir(folder / "state")
    state.make((), hub=True)
    joined = tuple(site.id for site in parse_fleet(text.encode(), source="fleet").sites)
    league = LeagueFile(
        revision=1,
        at_s=time.time(),
        by="file",
        toml=text,
        joined=joined,
        source_sha256=source_digest(text, {}),
    )
    LeagueStore(state.hub).put(league)
    return prepare(fleet_path, state.path)


def _site(index: int, place: City) -> str:
    kind = "region" if index % REGION_EACH == 0 else "micro"
    chip = "h100-sxm" if kind == "region" else "l40s"
    grid_kw = 4000 if kind == "region" else 60
    urls = ", ".join(f'"http://127.0.0.1:{9000 + i}"' for i in range(CHIPS))
    return f"""[[site]]
id = "{site_name(index)}"
kind = "{kind}"
city = "{place.name}"
country = "{place.iso2}"
lat_deg = {place.lat:.2f}
lon_deg = {place.lon:.2f}
operator_hq = "{place.iso2}"
power = {{ grid_kw_max = {grid_kw}, price_usd_per_kwh = 0.2 }}
gateway = {{ host = "10.{index // 250}.{index % 250}.2", port = 8443, hop_port = 8444 }}

[[site.pool]]
id = "gpu"
accelerator = "{chip}"
count = {CHIPS}
driver = "external"
urls = [{urls}]
"""


def _links(places: list[City], regions: list[int]) -> Iterator[str]:
    """Of each site to the nearest region; regions in a ring."""
    for i, place in enumerate(places):
        others = [r for r in regions if r != i]
        if not others:
            continue
        near = min(others, key=lambda r: (_km(place, places[r]), r))
        if i in regions:
            near = others[regions.index(i) % len(others)]
        rtt_ms = rtt_ms_floor(_km(place, places[near])) + ACCESS_MS
        if (i in regions and near in regions) and near < i:
            continue
        yield f'[[link]]\na = "{site_name(i)}"\nb = "{site_name(near)}"\nrtt_ms = {rtt_ms:.1f}\nmbit_s = 1000\n'


def _km(a: City, b: City) -> float:
    return distance_km(a.lat, a.lon, b.lat, b.lon)


def _tenant(number: int) -> str:
    home = COUNTRIES[number % len(COUNTRIES)]
    key = sha256(f"scale-{number}".encode()).hexdigest()
    return f"""[[tenant]]
id = "t{number:02d}"
classes = ["public", "personal", "health"]

[[tenant.key]]
id = "t{number:02d}"
sha256 = "{key}"
countries = ["{home}"]
requests_per_s_max = 100.0
burst = 100
"""


def _placements(index: int) -> str:
    variant = "large" if index % REGION_EACH == 0 else "small"
    embeds = index % EMBEDS_EACH == 1
    text = f"""[[placement]]
service = "chat"
variant = "{variant}"
site = "{site_name(index)}"
pool = "gpu"
replicas = {CHIPS - embeds}
slots = 16
context_tokens = 131072
"""
    if embeds:
        text += f"""
[[placement]]
service = "embed"
variant = "small"
site = "{site_name(index)}"
pool = "gpu"
replicas = 1
slots = 32
context_tokens = 16384
"""
    return text
