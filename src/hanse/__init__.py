"""Hanse runs AI workloads over many small data centers as one service, or finds out first whether you should.

Here: the version, and the two functions that people call from Python: `hanse.simulate` and `hanse.compare` (docs/twin.md).
Importing the package imports no part of it, so every command starts with only what it needs; the functions are found
when they are first asked for.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"
__all__ = ["__version__", "compare", "simulate"]

_LATER = {"compare": "hanse.twin.compare", "simulate": "hanse.twin.runs"}
"""Name -> module that has it. As text: layers above may be reached from here, but nothing below depends on them."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'hanse' has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)
