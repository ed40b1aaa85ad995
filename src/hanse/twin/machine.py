"""One machine that all engines of a league run on, as `hanse up` starts them.

Here: `Machine` and where its figures go in the arrays. Not here: how cores are shared (`engine`).
"""

from __future__ import annotations

from hanse.model.fleet import Value
from hanse.twin import arrays as ar
from hanse.twin.arrays import World


class Machine(Value, frozen=True, kw_only=True):
    """What all engines of a league on one machine share."""

    cores: float
    """Of them what idle gateways, links and agents leave."""
    token_cpu_s: float = 0.0
    """CPU seconds that gateways, links and users take for each token of an answer, all of them on this machine too."""


def run_on(machine: Machine | None, world: World) -> None:
    """Let all engines share it; None: each has its own."""
    if machine is not None:
        world.options[ar.OPTION_CORES] = machine.cores
        world.options[ar.OPTION_TOKEN_S] = machine.token_cpu_s
