"""Which installation runs a site: the interpreter that its directory names, else the one that starts it.

Here: naming one, asking one what it understands, handing a start over to it. Not here: when that happens (`live.rollout`).

A site's group is always started by whoever started it before: `hanse up`, `hanse site`, a unit. What it starts with hands over to the
named interpreter before anything is prepared, so a restart changes the version whoever does it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from hanse.errors import ConfigError
from hanse.live.runtime import replace_file
from hanse.model.told import UNREADABLE
from hanse.model.versions import FORMS, Form, side_by_side

NAME: Final = "python"
"""Of the file in a site's directory."""
HANDED_OVER: Final = "HANSE_INTERPRETER"
"""Environment variable of a process that was started by a handing over, and by which path: a path may lead to another name of its own."""
ANSWER_S_MAX: Final = 30.0


def named(home: Path) -> str:
    """The interpreter that a site's directory names; empty: none."""
    try:
        return (home / NAME).read_text().strip()
    except FileNotFoundError:
        return ""


def name(home: Path, path: str) -> None:
    """From the next start on; empty: whoever starts it."""
    if path:
        replace_file(home / NAME, f"{path}\n".encode())
    else:
        (home / NAME).unlink(missing_ok=True)


def hand_over(home: Path, module: str, arguments: Sequence[str]) -> None:
    """Become the named interpreter, where this is another; does not return then.

    Raises:
        ConfigError: it cannot be started.
    """
    path = named(home)
    if not path or path == sys.executable or os.environ.get(HANDED_OVER) == path:
        return
    os.environ[HANDED_OVER] = path
    try:
        os.execv(path, [path, "-m", module, *arguments])  # noqa: S606  # the pid stays
    except OSError as error:
        raise ConfigError(
            str(home / NAME),
            got=f"{path}: {error}",
            fix="name an interpreter that has hanse, or remove the file",
        ) from error


def forms_of(path: str) -> tuple[Form, ...]:
    """What an installation understands, as it says itself.

    Raises:
        ConfigError: it is none, or of before it could say so.
    """
    command = [path, "-m", "hanse.model.versions"]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=ANSWER_S_MAX, check=True, stdin=subprocess.DEVNULL
        )
        return msgspec.json.decode(done.stdout, type=tuple[Form, ...])
    except (*UNREADABLE, OSError, subprocess.SubprocessError) as error:
        raise ConfigError(
            "--python",
            got=f"{path}: {error}",
            allowed="an interpreter with an installation of hanse",
        ) from error


def refuse_apart(path: str) -> None:
    """Raise where an installation could not run beside this one.

    Raises:
        ConfigError: it could not; says in what.
    """
    flaws = side_by_side(FORMS, forms_of(path))
    if flaws:
        raise ConfigError(
            "--python",
            got=f"{path}: {'; '.join(flaws)}",
            allowed="a version that runs beside this one",
            fix="take the version between them first",
        )
