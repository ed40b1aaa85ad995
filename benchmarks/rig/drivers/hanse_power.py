"""Ours beside Vessim: the same number of sites and steps through `hanse.energy.year`. Runs in our environment.

Solar comes from weather and the sun's place, and cooling, UPS, prices, carbon and water are on; they cannot be turned off.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from energy_year import START_S, fleet_sites
from peak import rss_mib

from hanse.energy.year import run_year
from hanse.signals import StepAxis

DAY_STEPS = 288


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--days", type=int, required=True)
    args = parser.parse_args()
    begun_cpu_s = time.process_time()
    axis = StepAxis(start_s=START_S, count=args.days * DAY_STEPS)
    turn = 2 * np.pi * np.arange(axis.count) / DAY_STEPS
    late = 0.1 * np.arange(args.sites)[:, None]
    result = run_year(fleet_sites(args.sites), 80.0 * (1 + 0.3 * np.sin(turn + late)), axis)
    found = {
        "units": int(result.sums["steps"].sum()),
        "work_cpu_s": time.process_time() - begun_cpu_s,
        "rss_mib": rss_mib(),
        "import_kwh": float(result.sums["import_kwh"].sum()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
