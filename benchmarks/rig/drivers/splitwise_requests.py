"""SplitwiseSim: a request table through DGX-H100 servers with Llama-2-70B. Runs in its own environment, in a checkout's folder.

Its configuration is copied and loses its two lines about the Ray launcher, which one run does not need and which would ask for Ray.
Scheduler, start state and performance model are those of its script for the H100 baseline. Nothing is written into the checkout.
"""

import argparse
import json
import re
import shutil
import sys
import time
from pathlib import Path

from peak import rss_mib

RAY = re.compile(r"  - override hydra/launcher: ray\n|\n  launcher:\n(?:    .*\n?)+")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--servers", type=int, required=True)
    parser.add_argument("--work", type=Path, required=True)
    args = parser.parse_args()
    checkout = Path.cwd()
    sys.path.insert(0, str(checkout))
    shutil.copytree(checkout / "configs", args.work / "configs", dirs_exist_ok=True)
    config = args.work / "configs" / "config.yaml"
    config.write_text(RAY.sub("\n", config.read_text()))
    import run

    sys.argv = [
        "run.py", "--config-path", str(args.work / "configs"), "seed=0",
        "cluster=half_half", "cluster.servers.0.count=0", f"cluster.servers.1.count={args.servers}",
        "applications.0.scheduler=token_jsq", "applications.0.model_architecture=llama2-70b",
        "applications.0.model_size=llama2-70b-fp16", "start_state=baseline", "performance_model=db",
        f"trace.path={args.requests}", f"hydra.run.dir={args.work / 'out'}",
    ]  # fmt: skip
    begun_cpu_s = time.process_time()
    run.run()
    work_cpu_s = time.process_time() - begun_cpu_s
    served = (args.work / "out" / "detailed" / "0.csv").read_text().count("\n") - 1
    if served != (wanted := args.requests.read_text().count("\n") - 1):
        sys.exit(f"served {served} of {wanted} requests")
    print(json.dumps({"units": served, "work_cpu_s": work_cpu_s, "rss_mib": rss_mib()}))


if __name__ == "__main__":
    main()
