"""Prefix affinity: a conversation goes back to the site that holds its KV cache, while that is worth more than the load there.

Here: the tenant's secret, digests of a request's messages, the table that all workers of a site share. Not here: what a held prefix
is worth (`dispatch.choose`), the table itself (`dispatch.prefix`). Digests are keyed per tenant and appear in no log and no message.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.prefix import PREFIX_DTYPE, Prefixes, PrefixTable, prefixes_of

if TYPE_CHECKING:
    from hanse.live.gateway.body import Head
    from hanse.live.shared import SharedPage

SECRET_BYTES = 32
PROMPT_BYTES_MIN = 256
"""About 64 tokens: a shorter prefix saves less prefill than the digests and a longer queue cost."""


class Affinity:
    """What one worker asks and tells of held prefixes."""

    def __init__(self, page: SharedPage, secret_path: Path | None) -> None:
        self._table = PrefixTable(slots=page.prefixes.view(PREFIX_DTYPE)[..., 0])
        self._secret = _secret(secret_path)
        self._keys: dict[str, bytes] = {}

    def prefixes(self, head: Head, tenant: str, service: str) -> Prefixes | None:
        """Digests of a prompt's turns; None where it is too short to matter."""
        raws = head.messages if head.messages is not None else [head.prompt]
        parts = [("", bytes(raw)) for raw in raws]
        if sum(len(part) for _, part in parts) < PROMPT_BYTES_MIN:
            return None
        return prefixes_of(parts, self._key(tenant), service.encode())

    def held(self, prefixes: Prefixes, now_s: float) -> NDArray[np.int64]:
        """[4, 2] (site, tokens held), for `Router.route`; valid until the next call."""
        return self._table.look_up(prefixes, now_s)

    def remember(self, prefixes: Prefixes, site: int, now_s: float) -> None:
        """A site has read this prompt."""
        self._table.remember(prefixes, site, now_s)

    def forget(self, site: int) -> None:
        """A site's engines restarted."""
        self._table.forget(site)

    def _key(self, tenant: str) -> bytes:
        key = self._keys.get(tenant)
        if key is None:
            key = hashlib.blake2b(tenant.encode(), key=self._secret, digest_size=32).digest()
            self._keys[tenant] = key
        return key


def _secret(path: Path | None) -> bytes:
    """The site's secret: one for all workers and restarts; a worker by itself has its own."""
    if path is None:
        return secrets.token_bytes(SECRET_BYTES)
    if not path.exists():
        draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        draft.touch(mode=0o600)
        draft.write_bytes(secrets.token_bytes(SECRET_BYTES))
        with suppress(FileExistsError):
            path.hardlink_to(draft)  # whole or not at all, and the first worker's counts
        draft.unlink()
    return path.read_bytes()
