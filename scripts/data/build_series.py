"""Build `src/hanse/signals/data` from the source tables (not needed to run Hanse).

Run: `python scripts/data/build_series.py SOURCE_DIR OUT_DIR`. SOURCE_DIR holds the folders
grid_ci_entsoe_2020, grid_mix_eia_2022 and weather_openmeteo as their publishers' extracts.
Each series becomes one gzipped CSV of values only; `index.json` says when it starts and what it is.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import sys
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

HOUR_S = 3600
ENTSOE = (
    "Wiesner et al., Let's Wait Awhile (Middleware 2021, doi 10.1145/3464298.3493399), computed "
    "from ENTSO-E Transparency Platform generation per type and IPCC SRREN 2011 medians"
)
EIA = (
    "U.S. Energy Information Administration, hourly electric grid monitor (EIA-930), 2022; "
    "carbon intensity computed with IPCC AR5 lifecycle medians, production based"
)
OPEN_METEO = (
    "Weather data by Open-Meteo.com, CC BY 4.0; contains modified Copernicus Climate Change "
    "Service information"
)
ENTSOE_UTC_OFFSET_H = {"DE": 1, "FR": 1, "GB": 0}  # times are local standard time
EIA_ZONES = {
    "AZPS": "US-SW-AZPS",
    "BPAT": "US-NW-BPAT",
    "CISO": "US-CAL-CISO",
    "ERCO": "US-TEX-ERCO",
    "MISO": "US-MIDW-MISO",
    "NYIS": "US-NY-NYIS",
    "PJM": "US-MIDA-PJM",
    "SOCO": "US-SE-SOCO",
}
CARBON = [{"quantity": "carbon_intensity", "unit": "gCO2e/kWh", "signal": "average_location"}]
CARBON_FREE = {"quantity": "carbon_free_pct", "unit": "%", "signal": "carbon_free"}
MARGINAL = {"quantity": "marginal_intensity", "unit": "gCO2e/kWh", "signal": "marginal"}
G_PER_KWH = {"hydro": 24, "oil": 650, "gas": 490, "coal": 820, "nuclear": 12, "other": 230}  # AR5
QUARTER_H = 365 * 24 / 4
FREE_FUELS = ("wind", "solar", "hydro", "nuclear")  # "other" is mixed: counted as not carbon-free
FUELS = (*FREE_FUELS, "oil", "gas", "coal", "other")
WEATHER = [
    {"quantity": "temp_c", "unit": "degC", "signal": "weather"},
    {"quantity": "rh_pct", "unit": "%", "signal": "weather"},
    {"quantity": "cloud_pct", "unit": "%", "signal": "weather"},
    {"quantity": "wind10_ms", "unit": "m/s", "signal": "weather"},
]
WEATHER_ALIASES = {
    "DE-LU": ["DE"],
    "US-CAL-CISO": ["CISO"],
    "US-MIDA-PJM": ["PJM"],
    "US-NY-NYIS": ["NYIS"],
    "US-TEX-ERCO": ["ERCO"],
}
WEATHER_HOURS = 8760  # the local year 2023; the sets start at local midnight


def rows(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as f:
        return list(csv.DictReader(f))


def instant_s(text: str) -> int:
    return int(datetime.fromisoformat(text.rstrip("Z")).replace(tzinfo=UTC).timestamp())


def by(table: list[dict[str, str]], key: str) -> dict[str, list[dict[str, str]]]:
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for row in table:
        groups[row[key]].append(row)
    return groups


def write(out: Path, name: str, columns: list[list[str]]) -> None:
    path = out / f"{name}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(",".join(r) + "\n" for r in zip(*columns, strict=True))
    path.write_bytes(gzip.compress(text.encode(), mtime=0))


def check_hourly(times_s: list[int]) -> None:
    gaps = [b - a for a, b in itertools.pairwise(times_s)]
    if set(gaps) != {HOUR_S}:
        raise SystemExit(f"not hourly: {set(gaps)}")


def carbon(source: Path, out: Path) -> list[dict[str, object]]:
    index: list[dict[str, object]] = []
    for zone, table in by(
        rows(source / "grid_ci_entsoe_2020/ci_2020_hourly.csv.gz"), "zone"
    ).items():
        shift = ENTSOE_UTC_OFFSET_H[zone] * HOUR_S
        times = [instant_s(r["time"]) - shift for r in table]
        aliases = ["DE-LU"] if zone == "DE" else []
        licence = "CC BY 4.0 (ENTSO-E input data)"
        index.append(
            entry(out, zone, aliases, times, [[r["ci_lca"] for r in table]], ENTSOE, licence)
        )
    for ba, table in by(rows(source / "grid_mix_eia_2022/eia930_2022_hourly.csv.gz"), "ba").items():
        times = [instant_s(r["utc"]) for r in table]
        values = [[r["ci_lca"] for r in table], [carbon_free_pct(r) for r in table]]
        values.append(marginal_g_per_kwh(table))
        index.append(entry(out, EIA_ZONES[ba], [ba], times, values, EIA, "US public domain"))
    return index


def carbon_free_pct(row: dict[str, str]) -> str:
    """Share of generation from wind, sun, water and nuclear; pumping and metering below zero count as none."""
    made = {fuel: max(0.0, float(row[fuel] or 0.0)) for fuel in FUELS}
    return f"{100.0 * sum(made[f] for f in FREE_FUELS) / sum(made.values()):.1f}"


def marginal_g_per_kwh(table: list[dict[str, str]]) -> list[str]:
    """How emissions followed what wind and sun left to serve: slope of hourly changes, by hour of day and quarter.

    Least squares through the origin (Hawkes, Energy Policy 38, 2010; Siler-Evans et al., Environ. Sci. Technol. 46,
    2012), on lifecycle factors. An average answer to a change of demand, without imports and curtailment.
    """
    made = [{fuel: float(row[fuel] or 0.0) for fuel in G_PER_KWH} for row in table]
    served = [sum(hour.values()) for hour in made]
    grams = [sum(G_PER_KWH[fuel] * mwh for fuel, mwh in hour.items()) for hour in made]
    sums: dict[tuple[int, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for i in range(1, len(table)):
        change, cell = served[i] - served[i - 1], sums[_cell(i)]
        cell[0] += change * (grams[i] - grams[i - 1])
        cell[1] += change * change
    return [f"{sums[_cell(i)][0] / sums[_cell(i)][1]:.0f}" for i in range(len(table))]


def _cell(hour: int) -> tuple[int, int]:
    return hour % 24, min(3, int(hour / QUARTER_H))


def entry(
    out: Path,
    zone: str,
    aliases: list[str],
    times: list[int],
    columns: list[list[str]],
    source: str,
    licence: str,
) -> dict[str, object]:
    check_hourly(times)
    name = f"carbon/{zone}"
    write(out, name, columns)
    kinds = (CARBON + [CARBON_FREE, MARGINAL])[: len(columns)]
    common = {"file": name, "zone": zone, "aliases": aliases, "columns": kinds}
    return {**common, "start_s": times[0], "step_s": HOUR_S, "source": source, "licence": licence}


def weather(source: Path, out: Path) -> list[dict[str, object]]:
    folder = source / "weather_openmeteo"
    with (folder / "sites.csv").open(encoding="utf-8", newline="") as f:
        places = {r["zone"]: r for r in csv.DictReader(f)}
    index: list[dict[str, object]] = []
    for zone, table in by(rows(folder / "weather_2023_2024_hourly.csv.gz"), "zone").items():
        year = table[:WEATHER_HOURS]
        times = [instant_s(r["utc"]) for r in year]
        check_hourly(times)
        name = f"weather/{zone}"
        write(out, name, [[r[c["quantity"]] for r in year] for c in WEATHER])
        index.append(
            {
                "file": name,
                "zone": zone,
                "aliases": WEATHER_ALIASES.get(zone, []),
                "columns": WEATHER,
                "start_s": times[0],
                "step_s": HOUR_S,
                "source": OPEN_METEO,
                "licence": "CC BY 4.0",
                "lat_deg": float(places[zone]["lat"]),
                "lon_deg": float(places[zone]["lon"]),
            }
        )
    return index


def main() -> None:
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    index = carbon(source, out) + weather(source, out)
    (out / "index.json").write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    print(f"{len(index)} series written")


if __name__ == "__main__":
    main()
