"""`hanse batch`: batches of a running league, as a key sees them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import App

from hanse.cli.league import call, message_of, secret_of, state_dir
from hanse.cli.output import print_json, say
from hanse.errors import ConfigError, SiteError

if TYPE_CHECKING:
    from hanse.live.runtime import StateDir

LISTED_MAX = 100
DEMO_KEY = "demo"
"""Key of the example fleets, as in the documentation."""

app = App(name="batch", help="Batches: what runs, what is done, what it took.")


@app.command(name="list")
def list_(
    *,
    key: str = "",
    site: str = "",
    class_: str = "",
    state: Path | None = None,
    json: bool = False,
) -> int:
    """List the latest batches that a key may see, of every home that answers.

    Parameters
    ----------
    key
        Key id of the fleet, or the key itself; default `demo`, else the only one of the league.
    site
        Site whose gateway is asked; default the first that answers.
    class_
        Data class; default the key's first.
    state
        State directory of the running league; default the only one below `.hanse`.
    json
        Print the list as one JSON document on standard output.
    """
    answer = _ask(state, key, class_, site, f"/v1/batches?limit={LISTED_MAX}")
    if json:
        print_json(answer)
        return 0
    for batch in answer["data"]:
        say(_line(batch))
    if not answer["data"]:
        say("no batches")
    return 0


@app.command
def show(
    batch_id: str,
    *,
    key: str = "",
    site: str = "",
    class_: str = "",
    state: Path | None = None,
    json: bool = False,
) -> int:
    """Show one batch: counts, files, energy, runs in vain, errors.

    Parameters
    ----------
    batch_id
        Id of the batch.
    key
        Key id of the fleet, or the key itself; default `demo`, else the only one of the league.
    site
        Site whose gateway is asked; default the first that answers.
    class_
        Data class; default the key's first.
    state
        State directory of the running league; default the only one below `.hanse`.
    json
        Print the batch as one JSON document on standard output.
    """
    batch = _ask(state, key, class_, site, f"/v1/batches/{batch_id}")
    if json:
        print_json(batch)
        return 0
    say(_line(batch))
    for name in ("model", "endpoint", "input_file_id", "output_file_id", "error_file_id"):
        say(f"  {name:<16} {batch[name] or '-'}")
    for name, value in (batch["metadata"] or {}).items():
        say(f"  {name:<16} {value}")
    for error in (batch["errors"] or {}).get("data", []):
        line = "" if error["line"] is None else f"line {error['line']}: "
        say(f"  {line}{error['code']}: {error['message']}")
    return 0


def _line(batch: dict[str, Any]) -> str:
    counts = batch["request_counts"]
    done = f"{counts['completed']} of {counts['total']}, {counts['failed']} failed"
    return f"{batch['id']}  {batch['status']:<11} {done}"


def _default_key(state: StateDir) -> str:
    """The key id meant where none was named.

    Raises:
        ConfigError: there are several to choose from, or none.
    """
    known = sorted(path.stem for path in state.keys_dir.glob("*.key"))
    if DEMO_KEY in known:
        return DEMO_KEY
    if len(known) == 1:
        return known[0]
    raise ConfigError(
        "--key",
        got="nothing",
        allowed=f"a key id made here ({', '.join(known) or 'none'}), or the key itself",
        fix=f"name one with --key {known[0] if known else 'KEY'}",
    )


def _ask(state: Path | None, key: str, class_: str, site: str, path: str) -> dict[str, Any]:
    directory = state_dir(state)
    runtime = directory.read_runtime()
    headers = {"authorization": f"Bearer {secret_of(directory, key or _default_key(directory))}"}
    if class_:
        headers["x-hanse-class"] = class_
    addresses = [runtime.site(site)] if site else list(runtime.sites.values())
    errors = []
    for address in addresses:
        try:
            status, answer = call("GET", address.local_url + path, headers=headers)
        except SiteError as error:
            errors.append(str(error))
            continue
        if status == 200 and isinstance(answer, dict):
            return answer
        if status != 421:  # another gateway may read it
            raise _refusal(status, message_of(answer))
        errors.append(message_of(answer))
    raise SiteError("league", got="; ".join(errors), fix="start it with `hanse up`")


def _refusal(status: int, message: str) -> ConfigError:
    """What a gateway's no means for who typed the command."""
    if status == 404:
        allowed = "the id of a batch that the key may see"
        return ConfigError("BATCH-ID", got=message, allowed=allowed, fix="see `hanse batch list`")
    if status == 401:
        return ConfigError("--key", got=message, allowed="a key of the league")
    return ConfigError("--key, --class", got=message, allowed="a key that may read this class here")
