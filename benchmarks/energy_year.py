"""How long a year of a fleet's power takes at five minutes, and how much memory: series, balance, books.

Run: `python benchmarks/energy_year.py [--sites 50] [--json] [--gate]`. A fresh process is measured whole, from its start to
its end, kernels compiled before (`hanse.energy.steps.warm`); the second line says what a first start costs. Not here: the
engines' power, which the twin simulates; a constant load stands in, and the balance takes the same time for any.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

LIMIT_S = 10.0
START_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
YEAR_STEPS = 365 * 288
KINDS = ("micro", "edge", "region")
PLACES = [  # country, grid zone, weather zone, latitude, longitude
    ("DE", "DE", "DE-LU", 50.1, 8.7),
    ("FR", "FR", "", 45.8, 4.8),
    ("GB", "GB", "GB", 51.5, -0.1),
    ("US", "US-CAL-CISO", "US-CAL-CISO", 37.4, -121.9),
    ("US", "US-TEX-ERCO", "US-TEX-ERCO", 32.9, -97.0),
    ("US", "US-MIDA-PJM", "US-MIDA-PJM", 39.0, -77.5),
    ("IN", "", "IN-WE", 19.1, 72.9),
    ("SG", "", "SG", 1.3, 103.9),
    ("AU", "", "AU-NSW", -33.8, 151.2),
    ("EE", "", "", 59.4, 24.8),
]


def fleet_sites(count: int) -> Any:
    import msgspec

    from hanse.model.fleet import Site

    raw = []
    for i in range(count):
        country, grid, weather, lat, lon = PLACES[i % len(PLACES)]
        power = {"pv_kw_peak": 80.0 + i, "wind_kw_rated": 20.0 * (i % 3)}
        battery = {"battery_kwh": 200.0, "battery_kw_max": 50.0}
        raw.append(
            {
                "id": f"site-{i}",
                "kind": KINDS[i % len(KINDS)],
                "city": "-",
                "country": country,
                "lat_deg": lat + 0.01 * i,
                "lon_deg": lon,
                "operator_hq": country,
                "grid_zone": grid,
                "weather_zone": weather,
                "power": {"grid_kw_max": 200.0, **power, **battery},
            }
        )
    return msgspec.convert(raw, tuple[Site, ...])


def measured(count: int) -> dict[str, Any]:
    """One year in this process; times of its parts by the wall."""
    begun = time.perf_counter()
    from hanse.energy import year
    from hanse.signals import StepAxis

    imported = time.perf_counter()
    inner, spent = year.site_series, [0.0]

    def timed(*args: Any) -> Any:
        before = time.perf_counter()
        found = inner(*args)
        spent[0] += time.perf_counter() - before
        return found

    year.site_series = timed
    axis = StepAxis(start_s=START_S, count=YEAR_STEPS)
    sites = fleet_sites(count)
    result = year.run_year(sites, 80.0, axis)
    ended = time.perf_counter()
    sums = result.sums
    made = sum(sums[f"{n}_kwh"] for n in ("pv", "wind", "discharge", "ups_discharge", "import"))
    used = sum(sums[f"{n}_kwh"] for n in ("facility", "charge", "ups_charge", "export"))
    gap = made + sums["unserved_kwh"] - used - sums["curtailed_kwh"]
    return {
        "site_steps": int(sums["steps"].sum()),
        "import_s": imported - begun,
        "series_s": spent[0],
        "balance_s": ended - imported - spent[0],
        "balance_error": float(abs(gap / used).max()),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0,
    }


def whole_process(count: int) -> dict[str, Any]:
    begun = time.perf_counter()
    command = [sys.executable, __file__, "--inner", "--sites", str(count)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return {**json.loads(ran.stdout), "process_s": time.perf_counter() - begun}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sites", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--gate", action="store_true", help="exit 1 above the limit")
    parser.add_argument("--inner", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inner:
        print(json.dumps(measured(args.sites)))
        return 0
    first = whole_process(args.sites)  # compiles where the cache is cold
    best = min(
        (whole_process(args.sites) for _ in range(args.rounds)), key=lambda r: r["process_s"]
    )
    if args.json:
        print(json.dumps({"first": first, "best": best, "limit_s": LIMIT_S}))
    else:
        print(
            f"{args.sites} sites, a year at 5 minutes, {best['site_steps']:,} site-steps: "
            f"{best['process_s']:.2f} s whole process (limit {LIMIT_S:g} s at 50 sites), "
            f"{best['peak_mb']:.0f} MB\n"
            f"  import {best['import_s']:.2f} s, series {best['series_s']:.2f} s, "
            f"balance {best['balance_s']:.2f} s; in = out within {best['balance_error']:.1e}\n"
            f"  first start: {first['process_s']:.2f} s"
        )
    return int(args.gate and best["process_s"] > LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
