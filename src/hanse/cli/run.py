"""`hanse up`, `hanse site`, `hanse hub`, `hanse warm`: start the league or one piece of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hanse.cli.options import Plain
from hanse.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Callable


def up(
    fleet: Path,
    /,
    *,
    state: Path | None = None,
    no_traffic: Annotated[bool, Plain] = False,
    record: bool = False,
) -> int:
    """Start every site of a fleet on this machine, with emulated links between them, until Ctrl-C.

    A second start of the same fleet goes on with its keys, certificates and logs. Example:
    `hanse up examples/league.toml`

    Parameters
    ----------
    fleet
        Path of the fleet file.
    state
        Directory of everything that is kept; default `.hanse/<fleet name>`.
    no_traffic
        Start no demo users.
    record
        Let gateways write their input logs, for `hanse replay`, `hanse record` and `hanse calibrate`.
    """
    from hanse.cli.check import checked_fleet
    from hanse.live.up import run_up

    checked_fleet(fleet)
    _record(record)
    return run_up(fleet, state, traffic=not no_traffic)


def site(
    site: str, /, *, fleet: Path | None = None, state: Path | None = None, record: bool = False
) -> int:
    """Run one site by itself: its bus, agent, gateway and engines, until Ctrl-C.

    Parameters
    ----------
    site
        Id of the site in the fleet file.
    fleet
        Path of the fleet file; not needed where the state directory is prepared already.
    state
        State directory; default `.hanse/<fleet name>`.
    record
        Let the gateway write its input logs.
    """
    from hanse.live.site_group import run_site

    _record(record)
    return run_site(site, fleet, state)


def hub(fleet: Path | None = None, /, *, state: Path | None = None) -> int:
    """Run the hub by itself: its bus and the controller with the dashboard, until Ctrl-C.

    Parameters
    ----------
    fleet
        Path of the fleet file; not needed where the state directory is prepared already.
    state
        State directory; default `.hanse/<fleet name>`.
    """
    from hanse.live.hub import run_hub

    return run_hub(fleet, state)


def warm(fleet: Path | None = None, /, *, cache: Path | None = None) -> int:
    """Compile the kernels and make the embedded weights once, so that later starts are quick.

    Parameters
    ----------
    fleet
        Path of the fleet file that will be started, for what it needs alone: the kernels of placement, which take four
        fifths of the time, only where its controller places. Default: everything.
    cache
        Where requantised weights go; default `~/.cache/hanse`.
    """
    from functools import partial

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from hanse.cli.check import checked_fleet
    from hanse.dispatch.place_warm import warm as warm_placement
    from hanse.dispatch.router import warm as warm_decisions
    from hanse.live.gateway.kernels import warm as warm_accounts
    from hanse.live.weights import default_cache_dir, known_weights, weights_path

    places = fleet is None or checked_fleet(fleet).slow_loop.places
    placement = [("Compiling the kernels of placement (once)", warm_placement)] if places else []
    folder = cache or default_cache_dir()
    steps: list[tuple[str, Callable[[], object]]] = [
        ("Compiling the kernels of routing (once)", warm_decisions),
        ("Compiling the kernels of accounts (once)", warm_accounts),
        *placement,
        *(
            (f"Weights of {model} {precision}", partial(weights_path, model, precision, folder))
            for model, precision in known_weights()
        ),
    ]
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for description, step in steps:
            task = progress.add_task(description, total=1)
            step()
            progress.update(task, completed=1)
    say("warm: kernels compiled, weights ready")
    return 0


def _record(asked: bool) -> None:
    """All processes that are started from now on inherit it."""
    import os

    from hanse.live.gateway.settings import RECORD_VARIABLE

    if asked:
        os.environ[RECORD_VARIABLE] = "1"
