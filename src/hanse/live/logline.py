"""One way for a live process to say something to its log file: a line on standard error."""

from __future__ import annotations

import os
import time


def log_line(text: str) -> None:
    """Write one line with the time of day (UTC); a single write, so that lines of processes never mix."""
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.write(2, f"{stamp} {text}\n".encode())
