"""Steps of a study: each is done once, kept as a file until the study is through, and not done again after an interruption.

Here: `Steps`, which runs tasks by `workers` and keeps their results; `Store`, the files; `digest_of`, what they belong to. Not here: which steps
there are (`solve`).

A file is named after its step and opens with the hash of what follows; one that was cut short does not count. All stand in a folder named by the
digest of study, options, version and source code: a changed study begins anew, and what an older one left is deleted.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse import __version__
from hanse.plan.study_file import Study
from hanse.plan.workers import Here, Task, Workers

T = TypeVar("T")
FOLDER: Final = "unfinished"
"""In the folder that a study is written to."""
HASH_BYTES: Final = 16


class Store:
    """Results in files."""

    def __init__(self, out: Path, digest: str) -> None:
        self.root = out / FOLDER
        self.folder = self.root / digest
        if self.root.is_dir():
            for old in self.root.iterdir():
                if old.name != digest:
                    shutil.rmtree(old, ignore_errors=True)

    def load(self, key: str, kind: Any) -> Any | None:
        """A result, or None where there is none that is whole."""
        try:
            raw = (self.folder / key).read_bytes()
        except OSError:
            return None
        if _hash(raw[HASH_BYTES:]) != raw[:HASH_BYTES]:
            return None
        return msgspec.msgpack.decode(raw[HASH_BYTES:], type=kind, dec_hook=_array)

    def save(self, key: str, value: Any) -> None:
        """Keep a result: wholly, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        body = msgspec.msgpack.encode(value, enc_hook=_parts)
        written = self.folder / f"{key}.{os.getpid()}.part"
        with written.open("wb") as file:
            file.write(_hash(body) + body)
            file.flush()
            os.fsync(file.fileno())
        written.replace(self.folder / key)

    def count(self) -> int:
        """Results that are there."""
        if not self.folder.is_dir():
            return 0
        return sum(not path.name.endswith(".part") for path in self.folder.iterdir())

    def clear(self) -> None:
        """The study is through."""
        shutil.rmtree(self.root, ignore_errors=True)


class Steps:
    """Runs what is not done yet."""

    def __init__(self, workers: Workers | None = None, store: Store | None = None) -> None:
        self.workers = workers or Here()
        self.store = store
        self.found = 0
        """Results that were there already."""

    def map(
        self,
        kind: type[T],
        function: Callable[..., T],
        tasks: Mapping[str, Task],
        progress: Callable[[float], None] | None = None,
    ) -> list[T]:
        """Results of all tasks, in their order; keys are names of files."""
        done = {key: found for key in tasks if (found := self.load(key, kind)) is not None}
        self.found += len(done)
        left = [key for key in tasks if key not in done]
        for number, result in self.workers.run(function, [tasks[key] for key in left]):
            done[left[number]] = result
            self.save(left[number], result)
            if progress is not None:
                progress(len(done) / len(tasks))
        return [done[key] for key in tasks]

    def load(self, key: str, kind: Any) -> Any | None:
        """What was kept, if anything was."""
        return None if self.store is None else self.store.load(key, kind)

    def save(self, key: str, value: Any) -> None:
        """Keep a result, where results are kept."""
        if self.store is not None:
            self.store.save(key, value)


SOURCES: Final = frozenset((".py", ".toml", ".csv", ".gz"))
"""Code, and the tables that it reads."""


def digest_of(study: Study, options: Sequence[object]) -> str:
    """Of all that results depend on."""
    said = msgspec.json.encode([study, list(options), __version__, source_digest()])
    return hashlib.blake2b(said, digest_size=HASH_BYTES).hexdigest()


@cache
def source_digest(without: tuple[str, ...] = ()) -> str:
    """Of code and its tables, without some of the packages: in a checkout the version stays the same from one change to the next."""
    with as_file(files("hanse")) as root:
        found = hashlib.blake2b(digest_size=HASH_BYTES)
        for path in sorted(p for p in root.rglob("*") if p.suffix in SOURCES):
            name = path.relative_to(root)
            if name.parts[0] not in without:
                found.update(name.as_posix().encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _hash(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=HASH_BYTES).digest()


def _parts(value: Any) -> Any:
    """An array as type, shape and bytes."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()
    raise NotImplementedError(f"no step gives a {type(value).__name__}")


def _array(kind: Any, value: Any) -> NDArray[Any]:
    """`_parts` turned round; the array is one's own, to be written to."""
    dtype, shape, raw = value
    return np.frombuffer(raw, dtype).reshape(shape).copy()
