"""Finding a running league from a terminal: its state directory, its addresses, its keys; small HTTP calls to it.

Not here: any command.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from hanse.errors import ConfigError, SiteError

if TYPE_CHECKING:
    from hanse.live.runtime import Runtime, StateDir
    from hanse.view import LeagueView

Found = TypeVar("Found")

TIMEOUT_S = 5.0
KEY_PREFIX = "hanse-"


def state_dir(given: Path | None) -> StateDir:
    """The state directory meant: the one given, else the only one below `.hanse`.

    Raises:
        ConfigError: none, or more than one to choose from.
    """
    from hanse.live.runtime import StateDir

    if given is not None:
        return StateDir(given)
    found = sorted(path.parent for path in Path(".hanse").glob("*/runtime.json"))
    if len(found) == 1:
        return StateDir(found[0])
    raise ConfigError(
        "--state",
        got="nothing, and " + (f"{len(found)} below .hanse" if found else "none below .hanse"),
        allowed="the state directory of a league",
        fix="name one with --state, or start a league with `hanse up`",
    )


def hub_dir(given: Path | None) -> tuple[StateDir, str]:
    """The state directory of a hub, as `state_dir`, and its fleet's name.

    Raises:
        ConfigError: it is of a machine without the hub.
    """
    directory = state_dir(given)
    runtime = directory.read_runtime()
    if runtime.hub is None:
        raise ConfigError(
            "--state", got=f"{directory.path}, a site's", allowed="the hub's", fix="run it there"
        )
    return directory, runtime.fleet


def read_view(runtime: Runtime) -> LeagueView:
    """The picture as the controller has it.

    Raises:
        SiteError: no controller answers.
    """
    import msgspec

    from hanse.view import LeagueView

    if runtime.hub is None:
        raise SiteError("hub", got="none in this runtime")
    code, answer = call("GET", f"{runtime.hub.dashboard_url}/api/view.json")
    if code != 200:
        raise SiteError(runtime.hub.dashboard_url, got=f"status {code}")
    return msgspec.convert(answer, LeagueView)


def secret_of(state: StateDir, key: str) -> str:
    """The secret behind a key id made by `hanse up`; a secret itself is taken as it is.

    Raises:
        ConfigError: no such key here.
    """
    if key.startswith(KEY_PREFIX):
        return key
    path = state.keys_dir / f"{key}.key"
    if path.exists():
        return path.read_text().strip()
    known = ", ".join(sorted(one.stem for one in state.keys_dir.glob("*.key"))) or "none"
    raise ConfigError(
        "--key", got=repr(key), allowed=f"a key id made here ({known}), or the key itself"
    )


def authority_of(state: StateDir) -> Path | None:
    """The certificate of the league's authority, which gateways on other machines are trusted by."""
    found = [state.ca_dir / "ca.pem", *sorted(state.path.glob("sites/*/identity/ca.pem"))]
    return next((path for path in found if path.exists()), None)


def call(
    method: str,
    url: str,
    *,
    headers: dict[str, str] | None = None,
    body: Any = None,
    authority: Path | None = None,
) -> tuple[int, Any]:
    """Status and decoded JSON of one request; `authority` is trusted where the URL is of TLS.

    Raises:
        SiteError: nobody answers there.
    """
    where = urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, TIMEOUT_S)
    if where.scheme == "https":
        trust = ssl.create_default_context(cafile=authority)
        connection = http.client.HTTPSConnection(
            where.hostname or "", where.port, timeout=TIMEOUT_S, context=trust
        )
    target = where.path + (f"?{where.query}" if where.query else "")
    content = None if body is None else json.dumps(body).encode()
    sent = {"content-type": "application/json", **(headers or {})}
    try:
        connection.request(method, target, content, sent)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise SiteError(
            url, got=f"no answer ({error!r})", fix="`hanse status` shows what runs"
        ) from error
    finally:
        connection.close()
    try:
        return response.status, json.loads(answer)
    except ValueError:
        return response.status, answer.decode(errors="replace")


def first_gateway(
    runtime: Runtime, headers: dict[str, str], *, lat_deg: float, lon_deg: float
) -> tuple[str, str]:
    """(site, URL) of the nearest gateway that may read such a request, as any gateway that answers lists them.

    Raises:
        SiteError: no gateway answers.
        ConfigError: every gateway refuses the key, class or country; the message is the gateway's.
    """
    errors = []
    for address in runtime.sites.values():
        url = f"{address.local_url}/.well-known/hanse?lat={lat_deg}&lon={lon_deg}"
        try:
            status, answer = call("GET", url, headers=headers)
        except SiteError as error:
            errors.append(str(error))
            continue
        if status != 200:
            raise ConfigError("request", got=message_of(answer), allowed="an eligible one")
        gateways = answer["gateways"]
        if not gateways:
            raise ConfigError("request", got="no gateway may read it", allowed="an eligible one")
        site = str(gateways[0]["site"])
        here = runtime.sites.get(site)
        return site, here.local_url if here is not None else str(gateways[0]["url"])
    raise SiteError("league", got="; ".join(errors), fix="start it with `hanse up`")


def message_of(answer: Any) -> str:
    """The message inside an OpenAI error, else the answer itself."""
    if isinstance(answer, dict) and isinstance(answer.get("error"), dict):
        return str(answer["error"].get("message"))
    return str(answer)


def last_decided(
    state: Path | None, reading: Callable[..., Found | None], *, got: str, allowed: str, fix: str
) -> Found:
    """What `reading` finds last in a league's controller's log (`event_log.last_of`).

    Raises:
        ConfigError: there is none; `got`, `allowed` and `fix` say so.
    """
    from hanse.live.event_log import last_of

    where = state_dir(state).path
    found = last_of(where, reading)
    if found is None:
        raise ConfigError(str(where), got=got, allowed=allowed, fix=fix)
    return found
