"""What one gateway worker is told at its start.

Here: the values, from a JSON file (any gateway by itself) or from a site's state directory. Not here: keys, law and offers,
which are in the routing table.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import msgspec

from hanse.dispatch.belief import EngineSpec
from hanse.errors import ConfigError
from hanse.live.engines import ENGINE_KEY, engine_specs
from hanse.live.gateway.incoming import Limits
from hanse.live.reach import reach_of
from hanse.live.runtime import StateDir
from hanse.live.seats import SEATS
from hanse.model.fleet import DriverKind, Fleet, Id, Value
from hanse.model.told import UNREADABLE

RECORD_VARIABLE: Final = "HANSE_RECORD"
"""Environment variable that `hanse up --record` sets and a league's processes inherit: workers of sites write input logs."""
JOURNAL: Final = "journal"
BATCH_SOCKET: Final = "jobs.sock"
"""Of a site's directory. Socket names are short: a path of one has at most 107 bytes."""


def inner_socket(worker: int) -> str:
    """Name of the Unix socket on which a worker takes lines of batches."""
    return f"in-{worker}.sock"


class EngineSeat(Value, frozen=True, kw_only=True):
    """One engine this gateway may send to; its position is its row in the shared page."""

    service: str
    variant: str
    url: str
    served_model: str = ""
    """What the engine calls the model; empty: the service's id."""
    driver: DriverKind = "external"
    name: str = ""
    """Of the engine at its site; empty: service, variant and row."""


VACANT: Final = EngineSeat(service="", variant="", url="http://127.0.0.1:9")
"""A row in which nobody sits. The URL is never asked (port 9 is discard)."""


class GatewaySettings(Value, frozen=True, kw_only=True):
    """One worker of one site's gateway."""

    site: Id
    fleet: str = ""
    """Name of the fleet, as in its certificates; only hops need it."""
    worker: Annotated[int, msgspec.Meta(ge=0, lt=16)] = 0
    workers: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    """Workers of this gateway; they share ports and page."""
    host: str = "127.0.0.1"
    port: int = 0
    hop_host: str = "127.0.0.1"
    hop_port: int | None = None
    """None: this gateway serves no peers."""
    table: str
    """A table file, or a directory with `current` and `table-<version>.tbl`."""
    page: str = ""
    """The site's shared page; empty: a page of this process only (one worker, no agent)."""
    engines: tuple[EngineSeat, ...] = ()
    """At the start, where there are no `seats`."""
    seats: str = ""
    """File in which a site's agent says which engines there are; empty: they never change."""
    engine_key: str = ""
    """File with what this site's own engines ask for; empty: they ask for nothing."""
    peers: dict[str, str] = {}
    """Site id -> `host:port` to dial for its hop port."""
    gateway_urls: dict[str, str] = {}
    """Site id -> client URL, for 421 and `/.well-known/hanse`."""
    identity_dir: str = ""
    """Key and certificates for hops; empty: no hops."""
    evidence_dir: str = ""
    """Where the chain goes; empty: `evidence` beside the table."""
    state_dir: str = ""
    """The fleet's state directory, for receipts; empty: no receipts."""
    feed: str = ""
    """Unix datagram socket that takes decision rows for people; empty: none are sent."""
    prefix_secret: str = ""
    """File with the key of prefix digests, made by the first worker; empty: a key of this process only."""
    journal_dir: str = ""
    """Where the input log goes (`dispatch.journal`); empty: none is written."""
    batch_socket: str = ""
    """Unix socket of the site's batch process; empty: no `/v1/files` and `/v1/batches` here."""
    inner_socket: str = ""
    """Unix socket on which this worker takes lines of batches; empty: it takes none."""
    batch_file_bytes_max: int = 200_000_000
    pid_file: str = ""
    limits: Limits = Limits()


def read_settings(path: Path) -> GatewaySettings:
    """Decode a settings file.

    Raises:
        ConfigError: where it is missing or malformed.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=GatewaySettings)
    except (*UNREADABLE, OSError) as error:
        raise ConfigError(str(path), got=str(error), fix="see docs/gateway.md") from error


def seats_of(specs: Sequence[EngineSpec]) -> tuple[EngineSeat, ...]:
    """Seats by row; one without a URL cannot be asked yet."""
    seats = [VACANT] * (1 + max((spec.index for spec in specs), default=-1))
    for spec in specs:
        if spec.url:
            seats[spec.index] = EngineSeat(
                service=spec.service,
                variant=spec.variant,
                url=spec.url,
                served_model=spec.served_names[0],
                driver=spec.driver,
                name=spec.name,
            )
    return tuple(seats)


def site_settings(fleet: Fleet, site: str, state_path: Path, worker: int) -> GatewaySettings:
    """The settings of a worker of a site group, from the fleet file and `runtime.json`."""
    state = StateDir(state_path)
    runtime = state.read_runtime()
    address = runtime.site(site)
    home = state.site(site)
    reach = reach_of(fleet, runtime, site)
    return GatewaySettings(
        site=site,
        fleet=fleet.name,
        worker=worker,
        workers=address.workers,
        host=address.host,
        port=address.client_port,
        hop_host=address.host,
        hop_port=address.hop_port,
        table=str(home),
        page=str(home / "shared.mmap"),
        engines=seats_of(engine_specs(fleet, address)),
        seats=str(home / SEATS),
        engine_key=str(home / ENGINE_KEY),
        peers=reach.peers,
        gateway_urls=reach.urls,
        identity_dir=str(home / "identity"),
        evidence_dir=str(home / "evidence"),
        state_dir=str(state.path),
        feed=str(home / "feed.sock"),
        prefix_secret=str(home / "prefix.secret"),
        journal_dir=str(home / JOURNAL) if os.environ.get(RECORD_VARIABLE) else "",
        batch_socket=str(home / BATCH_SOCKET),
        inner_socket=str(home / inner_socket(worker)),
        batch_file_bytes_max=fleet.batch.file_bytes_max,
        pid_file=str(home / "pid" / f"gateway-{worker}.pid"),
    )
