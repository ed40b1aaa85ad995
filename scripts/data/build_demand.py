"""Write `signals/data/demand/servegen.csv.gz`: requests per second of three recorded services in windows of ten minutes.

Run with the folder of ServeGen's tables (`m-large_rates.csv.gz` and so on) as argument. A window in which nobody asked is
a gap of the recording and left empty.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import numpy as np

from hanse.signals.traces.servegen import WINDOW_S, _read_rates

OUT = Path(__file__).parents[2] / "src/hanse/signals/data/demand/servegen.csv.gz"
SERVICES = ("m-large", "m-mid", "m-small")
WINDOWS = 2016


def main() -> None:
    columns = []
    for name in SERVICES:
        rates = _read_rates(Path(sys.argv[1]) / f"{name}_rates.csv.gz", None)
        window = np.rint(rates.at_s / WINDOW_S).astype(np.int64)
        columns.append(np.bincount(window, weights=rates.rate_rps, minlength=WINDOWS)[:WINDOWS])
    lines = [",".join(SERVICES)]
    lines += [
        ",".join("" if v == 0.0 else f"{v:.5g}" for v in row)
        for row in np.transpose(columns).tolist()
    ]
    with OUT.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as f:
        f.write(("\n".join(lines) + "\n").encode())
    print(f"{OUT}: {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
