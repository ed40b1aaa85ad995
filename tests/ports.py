"""Ports that tests listen on.

Here: `free_port`. Not here: how the product chooses its own (`hanse.live.runtime`), which is asked.
"""

from __future__ import annotations

import random
from typing import Final

from hanse.live import runtime

_given: Final[set[int]] = set()
_rng: Final = random.Random()  # other processes choose at the same time


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on and that no outgoing connection may take before a test does; never the same twice."""
    port = runtime.free_port(host, _given, _rng)
    _given.add(port)
    return port
