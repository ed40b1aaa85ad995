"""A hub's bus: `python -m hanse.live.hub_bus --state DIR`, which becomes the NATS server.

Here: what has to happen to streams before a server that was alone is one of several, and afterwards (`take_in`). Not here: its
configuration (`live.bus`), when it changes (`live.hub_seats`).

A NATS server that was alone and starts as one of a cluster takes its streams for strays and deletes them (nats-server 5467, and so in
2.15). So they are saved while nobody can write to them, by a server by itself; the store is put aside; and once the cluster has a
leader they are restored into it, with a copy at each hub. Sequences go on: those of OWNERS are epochs of batches. Every step is done
again after a crash in its middle; the store of before is deleted when all is in place.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Final, NoReturn

import msgspec
from nats.aio.client import Client

from hanse.errors import HanseError
from hanse.live import bus
from hanse.live.hub_server import by_itself
from hanse.live.hub_streams import SavedStream, load_streams, save_streams, stream_names
from hanse.live.logline import log_line
from hanse.live.runtime import StateDir, replace_file

CLUSTERED: Final = "clustered"
"""In the hub's directory: its store is a cluster's."""
MOVING: Final = "moving"
"""Streams on their way into the cluster."""
ASIDE: Final = "jetstream-alone"
_LIST: Final = "streams.json"


def leave_alone(state: StateDir) -> None:
    """Save what a server that was alone has, and put its store aside; nothing where that is done.

    Raises:
        HanseError: the streams could not be saved; nothing has changed then.
    """
    hub = state.hub
    if (hub / CLUSTERED).exists():
        return
    if not (hub / MOVING).exists():
        draft = hub / f"{MOVING}.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        with by_itself(state) as (port, password):
            saved = asyncio.run(_save(port, password, draft))
        replace_file(draft / _LIST, msgspec.json.encode(saved))
        draft.rename(hub / MOVING)
        log_line(f"hub bus: {len(saved)} streams saved, to be the cluster's")
    if not (hub / ASIDE).exists():
        (hub / "jetstream").rename(hub / ASIDE)
    (hub / "jetstream").mkdir(mode=0o700, exist_ok=True)
    replace_file(hub / CLUSTERED, b"")


async def _save(port: int, password: str, folder: Path) -> list[SavedStream]:
    client = await bus.connect_when_up(lambda: bus.connect_restoring(port, password))
    try:
        return await save_streams(client, folder)
    finally:
        await bus.leave(client)


async def take_in(client: Client, state: StateDir, copies: int) -> None:
    """Restore what was saved into the cluster, with so many copies; nothing where nothing waits.

    Raises:
        HanseError: the cluster does not answer yet; to be called again.
    """
    folder = state.hub / MOVING
    if folder.exists():
        saved = msgspec.json.decode((folder / _LIST).read_bytes(), type=list[SavedStream])
        there = await stream_names(client)
        waiting = [_copied(stream, copies) for stream in saved if stream.name not in there]
        await load_streams(client, waiting, folder)
        log_line(f"hub bus: {len(waiting)} streams are the cluster's")
        shutil.rmtree(folder)
    shutil.rmtree(state.hub / ASIDE, ignore_errors=True)


def _copied(stream: SavedStream, copies: int) -> SavedStream:
    request = json.loads(stream.request)
    request["config"]["num_replicas"] = copies
    return msgspec.structs.replace(stream, request=json.dumps(request))


def is_clustered(conf: Path) -> bool:
    """Whether a configuration is of one of several."""
    with contextlib.suppress(OSError, ValueError):
        return "cluster" in json.loads(conf.read_text())
    return False


def main() -> int:
    """Become the server; its pid is this process's, so that its keeper knows it."""
    parser = argparse.ArgumentParser(prog="hanse.live.hub_bus")
    parser.add_argument("--state", type=Path, required=True)
    state = StateDir(parser.parse_args().state)
    conf = state.hub / "hub.conf"
    try:
        if is_clustered(conf):
            leave_alone(state)
        _become(bus.server_command(conf))
    except HanseError as error:
        log_line(str(error))
    return 2


def _become(command: list[str]) -> NoReturn:
    os.execv(command[0], command)  # noqa: S606


if __name__ == "__main__":
    sys.exit(main())
