"""Published results, rerun from data that a user points to and printed beside the numbers that were published.

Here: the list of them. Each is a function of a data folder that returns one frozen `Reproduction`. The pieces they are
made of are for use by themselves: `transport` (moving load under limits), `batch` (when a batch job runs), `pooling`
(one fleet or several), `prefix` (reuse of cached prompt blocks). Not here: data, which is not shipped with Hanse and
lies where `--data` says, and the picture (`picture`), which needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from hanse.errors import ConfigError
from hanse.twin.reproduce.values import Reproduction

REPRODUCTIONS = {
    "eurosys24-latency": (
        "eurosys24:latency",
        "How far must load move, in ms of round trip, to find clean power? 34 cloud regions.",
    ),
    "eurosys24-idle": (
        "eurosys24:idle",
        "How much does spare capacity anywhere help? 123 grid zones.",
    ),
    "eurosys24-migrations": (
        "eurosys24:migrations",
        "Is moving every hour better than moving once? 123 grid zones.",
    ),
    "gaia-batch": (
        "gaia:batch_policies",
        "What does a batch job's patience buy? Six policies, 1,000 jobs, South Australia.",
    ),
    "pooling-timezones": (
        "pooling:timezones",
        "What does one fleet for five time zones save against five? Four LLM services.",
    ),
    "mooncake-reuse": (
        "prefix:mooncake",
        "How much of a chat hour's prompts was read before? 12,031 requests.",
    ),
    "splitwise-azure": (
        "splitwise:azure",
        "Are the two LLM services of the Splitwise paper the ones we hold? 28,185 requests.",
    ),
    "temporal-shift": (
        "temporal:temporal_shift",
        "What does a 4 h job save by waiting up to a day, and how much of it with forecasts? 16 grid zones.",
    ),
    "spatial-shift": (
        "spatial:spatial_shift",
        "What does moving work by the hour gain over siting it well, in carbon and in USD? 17 grids and markets.",
    ),
}
"""Name -> (module of this package and function, the question in one line)."""


def reproduce(name: str, data: Path) -> Reproduction:
    """Rerun one published result from the data in a folder (layout: docs/reproduce.md)."""
    if name not in REPRODUCTIONS:
        raise ConfigError("name", got=repr(name), allowed=f"one of {', '.join(REPRODUCTIONS)}")
    module, function = REPRODUCTIONS[name][0].split(":")
    run = getattr(import_module(f"hanse.twin.reproduce.{module}"), function)
    return cast(Callable[[Path], Reproduction], run)(data)
