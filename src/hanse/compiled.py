"""How kernels are compiled and when what was compiled is still good.

Here: the options of all kernels, and numba's cache keyed by the text of every module that has kernels. Not here: kernels. Importing
this imports numba.

numba keeps a compiled function on disk until its own file changes. Kernels call kernels of other files, whose code is compiled into
them; a change there (a `git pull`) would leave the callers as they were, and a gateway would decide by one text while the twin, or
the reader, has another. So every kernel of the package is stamped with the texts of all of them.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from numba import config
from numba.core import caching

KERNEL: Final[dict[str, Any]] = {"cache": True, "error_model": "numpy", "_nrt": False}
"""No reference counting: kernels own nothing, and the atomic counts of a dozen arrays cost ten times the arithmetic.
Division follows IEEE 754, which spares a branch; no divisor here can be 0 behind the gates."""
HOT: Final[dict[str, Any]] = {**KERNEL, "forceinline": True}
"""For what is called millions of times a second and from few places: LLVM puts it into its callers whatever it thinks of its size. On every
kernel it is no quicker and takes twice as long to compile."""
INLINED: Final[dict[str, Any]] = {**KERNEL, "inline": "always"}

HERE: Final = Path(__file__).resolve().parent


@cache
def stamp() -> bytes:
    """Digest of the texts of all modules of the package that compile anything."""
    digest = sha256()
    for path in sorted(HERE.rglob("*.py")):
        text = path.read_bytes()
        if b"numba" in text or b"compiled" in text:
            digest.update(path.relative_to(HERE).as_posix().encode() + b"\0" + text + b"\0")
    return digest.digest()


class _Stamped:
    """Where numba keeps a function, as always; how it knows that it is still good, by all kernels' texts."""

    _py_file: str

    def get_source_stamp(self) -> Any:
        if HERE in Path(self._py_file).resolve().parents:
            return stamp()
        return super().get_source_stamp()  # type: ignore[misc]


class UserProvided(_Stamped, caching.UserProvidedCacheLocator):
    """In `NUMBA_CACHE_DIR`."""


class InTree(_Stamped, caching.InTreeCacheLocator):
    """Beside the module."""


class UserWide(_Stamped, caching.UserWideCacheLocator):
    """In the user's cache, where the package cannot be written."""


_SETTING: Final = "CACHE_LOCATOR_CLASSES"
if not getattr(config, _SETTING):
    kinds = (UserProvided, InTree, UserWide)
    setattr(config, _SETTING, ",".join(f"{__name__}.{kind.__name__}" for kind in kinds))
