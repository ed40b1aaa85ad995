"""`hanse facility` and `hanse inventory`: what a site's devices say, and a fleet as a DCIM's objects."""

from __future__ import annotations

import time
from pathlib import Path

from hanse.cli.league import state_dir
from hanse.cli.output import note, print_json, say, table_console
from hanse.errors import ConfigError


def facility(site: str = "", /, *, state: Path | None = None, json: bool = False) -> int:
    """List the devices of sites that run on this machine, and every reading with its name, for `[[meter]]`.

    Exit code 1 where a device does not answer. Example: `hanse facility frankfurt`

    Parameters
    ----------
    site
        Id of a site; default all that run here.
    state
        State directory; default the only one below `.hanse`.
    json
        Print all as one JSON document on standard output.
    """
    from hanse.live.facility.snapshot import PlantSnapshot, read_snapshot

    directory = state_dir(state)
    runtime = directory.read_runtime()
    names = [site] if site else sorted(runtime.sites)
    found: dict[str, PlantSnapshot] = {}
    for name in names:
        runtime.site(name)
        snapshot = read_snapshot(directory.site(name))
        if snapshot is not None:
            found[name] = snapshot
    if json:
        print_json(found)
    else:
        for name, snapshot in found.items():
            _print(name, snapshot)
        if not found:
            note(
                "no agent has written of its devices: it writes every five seconds where the fleet file has a [[facility]]"
            )
    states = {one.state for snapshot in found.values() for one in snapshot.facilities}
    return 0 if found and states <= {"up"} else 1


def _print(site: str, snapshot: object) -> None:
    from rich.table import Table

    from hanse.live.facility.readings import UNITS
    from hanse.live.facility.snapshot import PlantSnapshot

    assert isinstance(snapshot, PlantSnapshot)
    table = Table(title=f"{site}, {time.time() - snapshot.at_s:.0f} s ago", title_justify="left")
    for column in ("device", "driver", "state", "reading", "value", "age"):
        table.add_column(column)
    for one in snapshot.facilities:
        table.add_row(one.id, one.driver, one.state, one.why, "", "")
        for reading in snapshot.readings.get(one.id, ()):
            value = f"{reading.value:.6g} {UNITS[reading.quantity]}"
            age = f"{snapshot.at_s - reading.at_s:.0f} s"
            table.add_row("", "", "", reading.point, value, age)
    table_console().print(table)


def inventory(
    fleet: Path,
    /,
    *,
    netbox: bool = False,
    url: str = "",
    token_file: Path | None = None,
    ca_file: Path | None = None,
) -> int:
    """Print a fleet as NetBox's objects, or put them into a NetBox.

    Without `--url` the objects go to standard output as JSON, endpoint by endpoint in the order in which they can be posted. With it, what is
    missing is made and what differs is corrected; nothing is deleted. Example:
    `hanse inventory fleet.toml --netbox --url https://netbox.example --token-file token`

    Parameters
    ----------
    fleet
        Path of the fleet file.
    netbox
        In NetBox's shapes (REST API 4); the only ones there are.
    url
        Address of a NetBox to put them into.
    token_file
        File with the API token, which only you may read.
    ca_file
        PEM of who signed its certificate; default the machine's own roots.
    """
    import asyncio

    from hanse.live.facility.inventory import count, netbox_objects
    from hanse.twin.fleet_file import checked_fleet

    if not netbox:
        raise ConfigError("inventory", got="no format", allowed="--netbox")
    objects = netbox_objects(checked_fleet(fleet))
    if not url:
        print_json(objects)
        return 0
    if token_file is None:
        raise ConfigError("--token-file", got="nothing", allowed="a file with NetBox's API token")
    asyncio.run(_put(objects, url, token_file, ca_file))
    say(f"{count(objects)} objects are in {url}")
    return 0


async def _put(
    objects: dict[str, list[dict[str, object]]], url: str, token_file: Path, ca_file: Path | None
) -> None:
    from hanse.live.facility.access import secret_of, tls_of
    from hanse.live.facility.inventory import push
    from hanse.live.facility.web import Web
    from hanse.model.fleet import Facility

    # A NetBox is reached as a device is: by its certificate's CA, with a secret from a file that only its owner reads.
    there = Facility(
        id="netbox",
        site="here",
        driver="dcgm",
        url=url,
        secret_file=str(token_file),
        ca_file=str(ca_file) if ca_file is not None else "",
    )
    here = Path()
    web = Web(url, tls=tls_of(there, here) if url.startswith("https") else None)
    try:
        await push(objects, web, secret_of(there, here).strip(), note)
    finally:
        await web.close()
