"""The fleet file in force: a numbered document that the hub keeps and every site hears.

Here: the document (`LeagueFile`), the hub's numbered history of it, what a start makes of the operator's file, how a change is asked
for and judged. Not here: carrying a change out (`live.controller` at the hub, `live.agent` at a site), what a change should be
(`live.join.compose` for a site that joins).

A change of the fleet is one event. Whoever wants one sends a `Change`, the whole new text under the revision that it was made from;
the leading controller checks it, numbers it, writes it, tells its Dispatcher (`FleetLoaded`) and publishes it in the stream of what
comes down to sites. `docs/decisions/0010-a-fleet-is-a-numbered-document.md` says why.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import msgspec

from hanse.errors import ConfigError
from hanse.live.runtime import StateDir, replace_file
from hanse.model import versions
from hanse.model.fleet import Fleet, Id, Value
from hanse.model.read import parse_fleet, read_fleet
from hanse.model.told import UNREADABLE

LEAGUE: Final = "league"
"""Name of a site's copy, in its directory."""
KEPT: Final = 200
"""Revisions that the hub keeps, to go back to: a change a day for half a year."""

OWN_NAMES: Final = frozenset(
    {
        "ca", "hub", "sites", "keys", "log", "pid",
        "fleet.toml", "runtime.json", "links.json", "links.sock", "keys.json",
        "traffic.json",
    }
)  # fmt: skip
"""First parts of what a state directory holds itself (`runtime.StateDir`)."""
FILES_ALLOWED: Final = (
    "a path below the fleet file's own directory, its first part none of "
    f"{', '.join(sorted(OWN_NAMES))}"
)


class Standing(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """What a site is not to do for a while, by its operator's word."""

    state: Literal["drained", "maintenance"]
    """`drained`: no new requests. `maintenance`: that too, and its silence is no alarm."""
    since_s: float
    until_s: float | None = None
    """When it takes work again by itself; None: when somebody says so."""
    by: str = ""
    why: str = ""


class LeagueFile(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """A fleet file with everything it names, as one revision of a league."""

    schema: str = versions.LEAGUE.now
    epoch: int = 0
    """Of the leader that published it, 0 on the hub's disk; of two, the one with the higher (epoch, revision) is newer, as with tables:
    who leads says what is in force, also a hub that came back from an older copy of its disk."""
    revision: int
    at_s: float
    by: str = ""
    """Who asked for it: `file`, `join`, or a person's name."""
    why: str = ""
    toml: str
    files: dict[str, str] = {}
    """Texts of the policies and feeds that it names."""
    digests: dict[str, str] = {}
    """SHA-256 hex of keys that the file does not state itself, by key id; never a key."""
    joined: tuple[Id, ...] = ()
    """Sites on other machines, which came with a token."""
    source_sha256: str = ""
    """Of the operator's file that a start or a change has last read."""
    standing: dict[Id, Standing] = {}
    """Sites that are out of service. Not part of the file: going back to an older one brings no site back into service."""

    def fleet(self) -> Fleet:
        """The fleet with every key's digest.

        Raises:
            ConfigError: it is not readable by this version.
        """
        return with_digests(parsed(self.toml), self.digests)


class Change(Value, frozen=True, kw_only=True):
    """What somebody at the hub asks of the leading controller."""

    base: int
    """Revision that it was made from; a change made from an older one is refused."""
    toml: str
    files: dict[str, str] = {}
    by: str
    why: str = ""
    joined: tuple[Id, ...] | None = None
    """None: as before, without sites that are gone."""
    standing: dict[Id, Standing] | None = None
    """None: as before, without sites that are gone."""
    source_sha256: str = ""
    """Of the file that it was made of; empty: of none."""
    force: bool = False
    """Take sites out of service even where that leaves requests without a lawful one."""


class Answered(Value, frozen=True, kw_only=True):
    """What came of a change."""

    revision: int
    """In force now, whether the change was taken or not."""
    problem: str = ""
    """Why it was not; empty: it was."""


class LeagueStore:
    """The hub's numbered history: `hub/fleet/<revision>.league`, each written once; the highest is in force."""

    def __init__(self, hub_dir: Path) -> None:
        self.home = hub_dir / "fleet"

    def newest(self) -> LeagueFile | None:
        """The revision in force; None before the first."""
        found = self.numbers()
        return self.get(found[-1]) if found else None

    def get(self, revision: int) -> LeagueFile:
        """One revision.

        Raises:
            ConfigError: there is none of this number, or it is unreadable.
        """
        known = self.numbers()
        if revision not in known:
            kept = f"{known[0]} to {known[-1]}" if known else "none"
            raise ConfigError("revision", got=revision, allowed=f"one that is kept: {kept}")
        return read_league(self._path(revision))

    def put(self, league: LeagueFile) -> None:
        """Write a revision; the oldest beyond `KEPT` go."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self._path(league.revision), league_bytes(league))
        for number in self.numbers()[:-KEPT]:
            self._path(number).unlink(missing_ok=True)

    def numbers(self) -> list[int]:
        """Of all revisions that are kept, the newest last."""
        return sorted(int(path.stem) for path in self.home.glob("[0-9]*.league"))

    def _path(self, revision: int) -> Path:
        return self.home / f"{revision:08d}.league"


@lru_cache(maxsize=2)
def parsed(toml: str) -> Fleet:
    """What a fleet file says; of the last two texts it is known already, for one of a thousand sites takes a quarter of a second to read.

    Raises:
        ConfigError: it is not readable by this version.
    """
    return parse_fleet(toml.encode(), source="fleet")


def league_bytes(league: LeagueFile) -> bytes:
    """For a file or the wire. What the version before does not know is left out while it says nothing (`model.versions`)."""
    written = msgspec.structs.asdict(league)
    if not league.standing:
        del written["standing"]
    return msgspec.msgpack.encode(written)


def league_from_bytes(data: bytes) -> LeagueFile | None:
    """From the wire; None where it is none of a version that is understood (`league_refusal` says which it is)."""
    return None if league_refusal(data) else msgspec.msgpack.decode(data, type=LeagueFile)


class _Head(msgspec.Struct):
    """What any version of the document says of itself."""

    schema: str = ""
    revision: int = 0


def league_refusal(data: bytes) -> str:
    """Why bytes are not taken as a fleet in force; empty: they are."""
    try:
        head = msgspec.msgpack.decode(data, type=_Head)
    except UNREADABLE as error:
        return f"not a fleet in force: {error}"
    flaw = versions.LEAGUE.refusal(head.schema)
    if flaw:
        return f"revision {head.revision}: {flaw}"
    try:
        league = msgspec.msgpack.decode(data, type=LeagueFile)
    except UNREADABLE as error:
        return f"revision {head.revision}: {error}"
    wrong = [name for name in league.files if not may_lie(name)]
    return f"revision {head.revision}: names a file {wrong[0]!r}" if wrong else ""


def read_league(path: Path) -> LeagueFile:
    """A revision on disk.

    Raises:
        ConfigError: there is none, or it is unreadable.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(str(path), got=str(error), allowed="a fleet revision") from error
    found = league_from_bytes(data)
    if found is None:
        raise ConfigError(str(path), got=league_refusal(data), allowed="a fleet revision")
    return found


def site_fleet(state: StateDir, site: str) -> Fleet:
    """The fleet as a site last heard of it; of a site without a hub the file that it was started with."""
    copy = state.site(site) / LEAGUE
    if copy.exists():
        return read_league(copy).fleet()
    return with_digests(read_fleet(state.fleet_toml), read_digests(state))


class LeagueCopy:
    """A site's copy as a process that only reads it follows it."""

    def __init__(self, state: StateDir, site: str) -> None:
        self._path = state.site(site) / LEAGUE
        self._seen = self._stamp()

    def newer(self) -> Fleet | None:
        """The fleet where it is another file than before; None else, and where it cannot be read: the agent says so."""
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            return read_league(self._path).fleet()
        except ConfigError:
            return None

    def _stamp(self) -> tuple[int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return 0, 0
        return stat.st_ino, stat.st_mtime_ns


def read_digests(state: StateDir) -> dict[str, str]:
    """SHA-256 of the keys that were made here, by id.

    Raises:
        ConfigError: the file is unreadable.
    """
    try:
        return msgspec.json.decode(state.keys_json.read_bytes(), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except UNREADABLE as error:
        raise ConfigError(
            str(state.keys_json), got=str(error), fix="remove it and keys/: new keys are made"
        ) from error


def closed_until_s(standing: Standing | None) -> float:
    """Until when a site's silence is no alarm; infinity: until somebody says so; 0: it is one."""
    if standing is None or standing.state != "maintenance":
        return 0.0
    return math.inf if standing.until_s is None else standing.until_s


def newer(a: LeagueFile, b: LeagueFile | None) -> bool:
    """Whether `a` is to replace `b`."""
    return b is None or (a.epoch, a.revision) > (b.epoch, b.revision)


def imported(
    text: str, files: dict[str, str], known: LeagueFile | None, fleet: Fleet, now_s: float
) -> LeagueFile:
    """What a start with an operator's file has in force.

    The file that the last start read: whatever has changed since then goes on. Another file: it is the next revision, unless sites
    have joined that it does not name, for then it would put them out without a word.

    Raises:
        ConfigError: it would.
    """
    source = source_digest(text, files)
    if known is None:
        return LeagueFile(
            revision=1, at_s=now_s, by="file", toml=text, files=files, source_sha256=source
        )
    if source == known.source_sha256:
        return known
    if (
        known.fleet().hub.others
    ):  # this is one of several: what it finds in a file, most of them have not agreed on
        raise ConfigError(
            "FLEET",
            got="another file than the one in force, at one of several hubs",
            allowed="none: `hanse hub --state DIR` goes on as it is",
            fix="start without a file, then `hanse apply FILE`",
        )
    names = {site.id for site in fleet.sites}
    out = [site for site in known.joined if site not in names]
    if out and text != known.toml:
        raise ConfigError(
            "FLEET",
            got=f"a changed file without {', '.join(out)}, which joined since",
            allowed="one that names every site of the league",
            fix="start with --state alone to go on as it is, or take the [[site]] blocks over from "
            "STATE/fleet.toml",
        )
    return LeagueFile(
        revision=known.revision + 1,
        at_s=now_s,
        by="file",
        toml=text,
        files=files,
        digests=known.digests,
        joined=known.joined,
        source_sha256=source,
        standing={site: one for site, one in known.standing.items() if site in names},
    )


def source_digest(text: str, files: dict[str, str]) -> str:
    """Of an operator's file with what it names."""
    parts = [text, *(f"{name}\0{content}" for name, content in sorted(files.items()))]
    return sha256("\0".join(parts).encode()).hexdigest()


def changed(known: LeagueFile, change: Change, fleet: Fleet, now_s: float) -> LeagueFile:
    """The next revision that a change makes of the one in force."""
    names = {site.id for site in fleet.sites}
    joined = known.joined if change.joined is None else change.joined
    standing = known.standing if change.standing is None else change.standing
    return LeagueFile(
        revision=known.revision + 1,
        at_s=now_s,
        by=change.by,
        why=change.why,
        toml=change.toml,
        files=change.files,
        digests=known.digests,
        joined=tuple(site for site in dict.fromkeys(joined) if site in names),
        source_sha256=change.source_sha256 or known.source_sha256,
        standing={site: one for site, one in standing.items() if site in names},
    )


def with_digests(fleet: Fleet, digests: dict[str, str]) -> Fleet:
    """The fleet with digests filled in where it states none; a key without any stays as it is."""
    tenants = tuple(
        msgspec.structs.replace(
            tenant,
            keys=tuple(
                msgspec.structs.replace(key, sha256=key.sha256 or digests.get(key.id, ""))
                for key in tenant.keys
            ),
        )
        for tenant in fleet.tenants
    )
    return msgspec.structs.replace(fleet, tenants=tenants)


def may_lie(name: str) -> bool:
    """Whether a file that a fleet file names may be called so: it lies below the state directory, and is none of that directory's own."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or "\0" in name:
        return False
    return path.parts[0] not in OWN_NAMES


def lay_out(league: LeagueFile, state: StateDir) -> None:
    """Write a revision's fleet file and the files it names where processes read them; what it brings and does not name is left out.

    Raises:
        ConfigError: a file is called as none may be.
    """
    named = set(named_files(parsed(league.toml)))
    for name, text in league.files.items():
        if name not in named:
            continue
        target = state.path / name
        if not may_lie(name) or not target.resolve().is_relative_to(state.path.resolve()):
            raise ConfigError(name, got=repr(name), allowed=FILES_ALLOWED)
        target.parent.mkdir(parents=True, exist_ok=True)
        replace_file(target, text.encode())
    replace_file(state.fleet_toml, league.toml.encode())


def named_files(fleet: Fleet) -> Collection[str]:
    """Names of the files that a fleet file is incomplete without."""
    return (*fleet.policy.cedar_files, *((fleet.feeds,) if fleet.feeds else ()))
