"""A secret of one directory: made by whoever comes first, read by all who may, its owner alone.

Here: `ensure_secret`. Not here: what is locked by one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def ensure_secret(path: Path) -> str:
    """The secret in a file, which is made where it is missing; two processes at once come to the same."""
    if not path.exists():
        beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        with contextlib.suppress(FileExistsError):
            path.hardlink_to(beside)  # whole or not at all, and never in place of one that is there
        beside.unlink()
    return path.read_text().strip()
