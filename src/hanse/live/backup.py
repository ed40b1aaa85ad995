"""The hub on one file, and one file as a hub again.

Here: `back_up` (while the hub runs or not) and `restore`. Not here: the streams' part (`live.hub_streams`), the command line.

A tar file of mode 0600: first the streams, each of one instant, then the files, seal logs before chains, so that whatever a stream says
was taken in lies in the files too; last `manifest.json` with size and SHA-256 of every member. It holds the authority's key, the keys
made here, bus passwords, every fleet revision, join tokens' digests, the controller's epoch, demand and log, the copy of all evidence.
Of one of several hubs no streams are in it: the others have them, and give them to who takes its place.
It holds no site's key: those never leave their machines. Sites that run at the hub's own directory (`hanse up`) are not in it either.

A restore writes beside, checks every digest, and only then moves into place. It overwrites nothing: where a file is there already and
is another, it says so and ends.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import secrets
import shutil
import tarfile
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO, Final, Literal

import msgspec
from nats.aio.client import Client

from hanse import __version__
from hanse.errors import ConfigError, HanseError, SiteError
from hanse.live import bus
from hanse.live.hub_bus import ASIDE, CLUSTERED, MOVING
from hanse.live.hub_server import by_itself
from hanse.live.hub_streams import SavedStream, load_streams, save_streams
from hanse.live.league_file import LeagueStore
from hanse.live.runtime import HUB, StateDir, private_folder
from hanse.live.supervise import running_pid
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE

MANIFEST: Final = "manifest.json"
SUFFIX: Final = ".tar"
_STATE, _STREAMS = "state", "streams"
_COPY_BYTES: Final = 1 << 20
_HUB_LEFT_OUT: Final = frozenset({"jetstream", "log", "pid", "hub.conf", ASIDE, MOVING})
"""Streams go as snapshots; the rest is made anew by every start."""


class Held(Value, frozen=True, kw_only=True):
    """One member."""

    size_bytes: int
    sha256: str


class Manifest(Value, frozen=True, kw_only=True):
    """The last member."""

    schema: Literal["hanse-backup/1"] = "hanse-backup/1"
    fleet: str
    at_s: float
    software: str
    revision: int
    """Of the fleet file in force."""
    running: bool
    """The hub ran meanwhile: streams are snapshots; else their files are members."""
    streams: tuple[SavedStream, ...]
    members: dict[str, Held]


class BackedUp(Value, frozen=True, kw_only=True):
    """What came of it."""

    path: str
    manifest: Manifest
    size_bytes: int
    sha256: str
    """Of the whole file: what to write down beside it."""


# --- making --------------------------------------------------------------------------------------


def back_up(state: StateDir, target: Path, now_s: float) -> BackedUp:
    """Write a backup of a hub; a target that is a folder gets a file named by fleet and instant.

    Raises:
        ConfigError: this directory has no hub, or the target is there already.
        SiteError: the hub runs and its bus does not answer.
    """
    runtime = state.read_runtime()
    if runtime.hub is None or not (state.ca_dir / "ca.key").exists():
        raise ConfigError(
            str(state.path),
            got="no authority's key",
            allowed="the directory that the league's first hub runs from",
        )
    if target.is_dir():
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
        target = target / f"hanse-{runtime.fleet}-{stamp}{SUFFIX}"
    if target.exists():
        raise ConfigError(str(target), got="a file that is there already", allowed="a new name")
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    work = target.with_name(f".{target.name}.{os.getpid()}.streams")
    try:
        work.mkdir(mode=0o700, parents=True)
        running = running_pid(state.hub / "pid" / "hub.pid") is not None
        alone = not (state.hub / CLUSTERED).exists()
        streams = asyncio.run(_save(state, work)) if running and alone else []
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            manifest = _write(file, state, work, streams, now_s, running=running)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)
        shutil.rmtree(work, ignore_errors=True)
    return BackedUp(
        path=str(target),
        manifest=manifest,
        size_bytes=target.stat().st_size,
        sha256=_digest_of(target),
    )


async def _save(state: StateDir, folder: Path) -> list[SavedStream]:
    client = await bus.connect_hub(state.read_runtime(), state, name="backup")
    try:
        return await save_streams(client, folder)
    finally:
        await bus.leave(client)


def _write(
    file: BinaryIO,
    state: StateDir,
    work: Path,
    streams: list[SavedStream],
    now_s: float,
    *,
    running: bool,
) -> Manifest:
    members: dict[str, Held] = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for stream in streams:
            _add(tar, f"{_STREAMS}/{stream.name}", work / stream.name, members)
        alone = not (state.hub / CLUSTERED).exists()
        for path in hub_files(state, streams=not running and alone):
            _add(tar, f"{_STATE}/{path.relative_to(state.path).as_posix()}", path, members)
        newest = LeagueStore(state.hub).newest()
        manifest = Manifest(
            fleet=state.read_runtime().fleet,
            at_s=now_s,
            software=__version__,
            revision=0 if newest is None else newest.revision,
            running=running,
            streams=tuple(streams),
            members=members,
        )
        content = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        tar.addfile(_info(MANIFEST, len(content)), io.BytesIO(content))
    return manifest


def hub_files(state: StateDir, *, streams: bool) -> Iterator[Path]:
    """Every file that a hub is made of, in the order in which they are to be read.

    Args:
        streams: The files of JetStream too; only of a hub that does not run.
    """
    newest = LeagueStore(state.hub).newest()
    named = () if newest is None else tuple(sorted(newest.files))
    for name in ("fleet.toml", "runtime.json", "keys.json", "links.json", *named):
        if (state.path / name).is_file():
            yield state.path / name
    folders = [state.path / "keys", state.ca_dir, state.site(HUB) / "identity"]
    left_out = _HUB_LEFT_OUT - ({"jetstream"} if streams else set())
    for entry in sorted(state.hub.iterdir()):
        if entry.name in left_out:
            continue
        if entry.is_dir():
            folders.append(entry)
        elif _is_plain(entry):
            yield entry
    for folder in folders:
        # A seal says what a chain had at least when it was written: chains are read after their seals.
        found = (path for path in folder.rglob("*") if _is_plain(path))
        yield from sorted(found, key=lambda path: (path.name != "seals.log", path))


def _is_plain(path: Path) -> bool:
    """A file, no link or socket, and not the half of one that is being replaced."""
    return path.is_file() and not path.is_symlink() and not path.name.startswith(".")


def _add(tar: tarfile.TarFile, name: str, path: Path, members: dict[str, Held]) -> None:
    """A file as long as it is now: what is appended meanwhile is in the next backup."""
    try:
        source = path.open("rb")
    except FileNotFoundError:
        return  # an old revision or log that has just been dropped by its rule
    with source:
        counted = _Counted(source, os.fstat(source.fileno()).st_size)
        try:
            tar.addfile(_info(name, counted.size), counted)
        except OSError as error:
            raise SiteError(str(path), got=str(error), fix="make the backup again") from error
        members[name] = Held(size_bytes=counted.size, sha256=counted.digest.hexdigest())


class _Counted(io.RawIOBase):
    """Reads so many bytes of a file, and their digest along the way."""

    def __init__(self, source: BinaryIO, size: int) -> None:
        self._source, self.size, self._left = source, size, size
        self.digest = sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """As a file's."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._source.read(wanted)
        self._left -= len(data)
        self.digest.update(data)
        return data


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info


# --- taking back ---------------------------------------------------------------------------------


def restore(source: Path, state: StateDir) -> Manifest:
    """Make a hub's directory of a backup.

    Raises:
        ConfigError: no backup, a damaged one, a hub that runs, or a directory that holds something else.
        SiteError: the streams could not be restored; nothing is left in place then.
    """
    refuse_living(state)
    state.path.mkdir(parents=True, exist_ok=True, mode=0o700)
    work = state.path / f".restore-{secrets.token_hex(4)}"
    try:
        work.mkdir(mode=0o700)
        manifest = _unpack(source, work)
        _refuse_other(work / _STATE, state)
        inside = StateDir(work / _STATE)
        inside.make((), hub=True)
        if manifest.streams:
            _load(inside, list(manifest.streams), work / _STREAMS)
        _move(work / _STATE, state.path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return manifest


def refuse_living(state: StateDir) -> None:
    """Raise where a hub runs from this directory, or something is in its place."""
    for pid_file in (state.hub / "pid" / "hub.pid", state.pid_dir / "up.pid"):
        running = running_pid(pid_file)
        if running is not None:
            raise ConfigError(
                str(state.path),
                got=f"a hub that runs (process {running})",
                allowed="a directory that no hub runs from",
                fix="end it first, or restore into another directory",
            )
    held = [p for p in state.hub.rglob("*") if p.is_file()] if state.hub.exists() else []
    if held:
        raise ConfigError(
            str(state.hub),
            got=f"a hub's directory of {len(held)} files",
            allowed="none, or an empty one",
            fix="move it away; a restore overwrites nothing",
        )


def _unpack(source: Path, work: Path) -> Manifest:
    """All members below `work`, every digest checked."""
    found: dict[str, Held] = {}
    manifest: Manifest | None = None
    with _opened(source) as tar:
        for member in _members(tar, source):
            if member.name == MANIFEST and member.isreg() and not member.issparse():
                manifest = _manifest_of(tar, member, source)
                continue
            path = work / _safe(member, source)
            content = tar.extractfile(member)
            assert content is not None, "a plain member has content"
            try:
                private_folder(path.parent)
                found[member.name] = _copy(content, path, source)
            except (
                OSError,
                ValueError,
            ) as error:  # twice the same, a file as a folder, no name of a file
                raise _damaged(source, f"member {member.name[:80]!r}: {error}") from error
    if manifest is None:
        raise _damaged(source, "no manifest: it was cut off, or is of something else")
    wrong = [
        name
        for name in sorted(manifest.members.keys() | found.keys())
        if manifest.members.get(name) != found.get(name)
    ]
    if wrong:
        raise _damaged(source, f"{len(wrong)} members that are not what was saved: {wrong[0]}")
    return manifest


def _members(tar: tarfile.TarFile, source: Path) -> Iterator[tarfile.TarInfo]:
    try:
        yield from tar
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise _damaged(source, str(error)) from error


def _opened(source: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(source, mode="r:")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise _damaged(source, str(error)) from error


def _manifest_of(tar: tarfile.TarFile, member: tarfile.TarInfo, source: Path) -> Manifest:
    try:
        content = tar.extractfile(member)
        return msgspec.json.decode(content.read() if content else b"", type=Manifest)
    except (*UNREADABLE, tarfile.TarError, OSError) as error:
        raise _damaged(source, f"no manifest that this version reads ({error})") from error


def _safe(member: tarfile.TarInfo, source: Path) -> PurePosixPath:
    name = PurePosixPath(member.name)
    inside = not name.is_absolute() and ".." not in name.parts and len(name.parts) > 1
    plain = member.isreg() and not member.issparse()  # whose holes would fill the disk
    if not (plain and inside and name.parts[0] in (_STATE, _STREAMS)):
        raise _damaged(source, f"a member {member.name!r} that no backup has")
    return name


def _copy(content: IO[bytes], path: Path, source: Path) -> Held:
    digest, size = sha256(), 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            while data := content.read(_COPY_BYTES):
                digest.update(data)
                size += len(data)
                file.write(data)
    except (tarfile.TarError, EOFError) as error:
        raise _damaged(source, str(error)) from error
    return Held(size_bytes=size, sha256=digest.hexdigest())


def _damaged(source: Path, got: str) -> ConfigError:
    return ConfigError(str(source), got=got, allowed="a whole file that `hanse backup` wrote")


def _refuse_other(fresh: Path, state: StateDir) -> None:
    """A directory may hold what the backup holds too, and other things, but nothing different in its place."""
    other = []
    for path in fresh.rglob("*"):
        there = state.path / path.relative_to(fresh)
        if path.is_file() and there.exists() and _digest_of(there) != _digest_of(path):
            other.append(there.relative_to(state.path).as_posix())
    if other:
        raise ConfigError(
            str(state.path),
            got=f"{len(other)} files that differ from the backup's: {', '.join(sorted(other)[:3])}",
            allowed="an empty directory, or what is left of the same hub",
            fix="move them away; a restore overwrites nothing",
        )


def _move(fresh: Path, home: Path) -> None:
    """Into place by renames; a hub is there when its `ca` and `hub` are, which come last."""
    last = {"ca", "hub"}
    for path in sorted(fresh.iterdir(), key=lambda one: (one.name in last, one.name)):
        _place(path, home / path.name)


def _place(path: Path, target: Path) -> None:
    if path.is_dir() and target.is_dir():
        for inner in sorted(path.iterdir()):
            _place(inner, target / inner.name)
    else:
        path.replace(target)


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while data := file.read(_COPY_BYTES):
            digest.update(data)
    return digest.hexdigest()


def _load(state: StateDir, streams: list[SavedStream], folder: Path) -> None:
    """Streams into the directory's JetStream."""
    try:
        with by_itself(state) as (port, password):
            asyncio.run(_send(port, password, streams, folder))
    except HanseError:
        raise
    except (OSError, json.JSONDecodeError) as error:
        raise SiteError(str(state.hub), got=repr(error), fix="try again") from error


async def _send(port: int, password: str, streams: list[SavedStream], folder: Path) -> None:
    client: Client = await bus.connect_when_up(lambda: bus.connect_restoring(port, password))
    try:
        await load_streams(client, streams, folder)
    finally:
        await bus.leave(client)
