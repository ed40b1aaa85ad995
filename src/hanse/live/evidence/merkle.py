"""Merkle trees over record hashes, as in RFC 9162 section 2.1: leaf and node hashes live in separate domains.

Here: leaf hash, root, inclusion path and its check. Not here: what is hashed (`chain`) and who signs roots (`seal`).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Final

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = sha256(b"").digest()
"""Root over no leaves (RFC 9162, 2.1.1)."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of one entry."""
    return sha256(b"\x00" + data).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """Root over leaf hashes, in order."""
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level)
    return level[0] if level else EMPTY_ROOT


def path_to(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """Sibling hashes from the leaf up; a level where the node has no sibling adds nothing."""
    assert 0 <= index < len(leaves)
    level, path = list(leaves), []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            path.append(level[sibling])
        level = _parents(level)
        index >>= 1
    return tuple(path)


def root_from(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes | None:
    """The root that a path leads to (RFC 9162, 2.1.3.2); None where the path has the wrong length."""
    if not 0 <= index < size:
        return None
    node, last, used = leaf, size - 1, 0
    while last > 0:
        if index ^ 1 <= last:
            if used == len(path):
                return None
            pair = path[used] + node if index & 1 else node + path[used]
            node = sha256(b"\x01" + pair).digest()
            used += 1
        index >>= 1
        last >>= 1
    return node if used == len(path) else None


def _parents(level: list[bytes]) -> list[bytes]:
    """One level up; an odd last node moves up as it is, which gives RFC 9162's tree shape."""
    pairs = zip(level[::2], level[1::2], strict=False)
    nodes = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
    if len(level) % 2:
        nodes.append(level[-1])
    return nodes
