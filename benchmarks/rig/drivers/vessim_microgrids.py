"""Vessim: microgrids with load, solar, battery and grid at five minutes. Runs in Vessim's own environment.

Load and solar are ready series, the policy is Vessim's default, and nothing is recorded: the fastest way that it has.
"""

import argparse
import json
import time

import numpy as np
import pandas as pd
import vessim as vs
from peak import rss_mib

STEP_S = 300
DAY_STEPS = 86_400 // STEP_S


def series(values):
    return vs.Trace(pd.Series(values, index=np.arange(len(values)) * float(STEP_S)))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--sites", type=int, required=True)
    parser.add_argument("--days", type=int, required=True)
    args = parser.parse_args()
    begun_cpu_s = time.process_time()
    env = vs.Environment(sim_start="2026-06-01", step_size=STEP_S)
    # One step more than is run: a trace raises when it is asked beyond its end.
    turn = 2 * np.pi * np.arange(args.days * DAY_STEPS + 1) / DAY_STEPS
    for i in range(args.sites):
        load_w = 80e3 * (1 + 0.3 * np.sin(turn + 0.1 * i))
        solar_w = (80e3 + 1e3 * i) * np.maximum(0, np.sin(turn - np.pi / 2 + 0.1 * i))
        env.add_microgrid(
            actors=[
                vs.Consumer("load", series(load_w)),
                vs.Producer("solar", series(solar_w)),
            ],
            dispatchables=[
                vs.SimpleBattery("battery", capacity=200e3, initial_soc=0.5, c_rate=0.25),
                vs.GridConnection("grid"),
            ],
            name=f"site-{i}",
        )
    env.run(until=args.days * 86_400)
    found = {
        "units": args.sites * args.days * DAY_STEPS,
        "work_cpu_s": time.process_time() - begun_cpu_s,
        "rss_mib": rss_mib(),
        "last_grid_kw": sum(grid.p_grid for grid in env.microgrids.values()) / 1000,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
