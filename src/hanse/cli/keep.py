"""`hanse backup` and `hanse restore`: the hub on one file, and back."""

from __future__ import annotations

import time
from pathlib import Path

from hanse.cli.league import state_dir
from hanse.cli.output import print_json, say

MB = 1e6


def backup(target: Path, /, *, state: Path | None = None, json: bool = False) -> int:
    """Write everything that the hub is made of to one file, while it runs or not.

    The authority's key, keys made here, bus passwords, fleet revisions, join tokens, the controller's epoch and log, streams, and the
    copy of all evidence. The file is readable by its owner alone: who has it can act as the league's authority. See docs/backup.md.

    Parameters
    ----------
    target
        A new file, or a folder that gets one named by fleet and instant.
    state
        State directory of the hub; default: the only one below `.hanse`.
    json
        Print what was written as one JSON document on standard output.
    """
    from hanse.live.backup import back_up

    made = back_up(state_dir(state), target, time.time())
    if json:
        print_json(made)
        return 0
    manifest = made.manifest
    streams = ", ".join(f"{s.name} {s.messages}" for s in manifest.streams) or "as files"
    say(f"wrote {made.path}: {made.size_bytes / MB:.1f} MB, {len(manifest.members)} files")
    say(f"fleet {manifest.fleet}, revision {manifest.revision}; messages in streams: {streams}")
    say(f"SHA-256 {made.sha256}")
    return 0


def restore(source: Path, /, *, state: Path, json: bool = False) -> int:
    """Make a hub's directory of a backup; `hanse hub --state DIR` then starts it.

    Every file is checked by its digest before anything is moved into place. Nothing is overwritten: a hub that runs, or another hub's
    files in the same place, end it. Sites find the hub again by themselves where it has the same address. See docs/backup.md.

    Parameters
    ----------
    source
        A file that `hanse backup` wrote.
    state
        The directory to make; empty, missing, or what is left of the same hub.
    json
        Print the backup's manifest as one JSON document on standard output.
    """
    from hanse.live.backup import restore as restore_hub
    from hanse.live.runtime import StateDir

    manifest = restore_hub(source, StateDir(state))
    if json:
        print_json(manifest)
        return 0
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(manifest.at_s))
    say(f"restored {manifest.fleet} as it was at {at}, fleet revision {manifest.revision}")
    say(f"start it: hanse hub --state {state}")
    say(
        "what was revoked or spent since that instant is not known here: revoke again what has to be"
    )
    return 0
