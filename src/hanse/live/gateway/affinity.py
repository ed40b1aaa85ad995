"""Prefix affinity: a conversation goes back to the site and the engine that hold its KV cache, while that is worth more than the load there.

Here: the tenant's secret, digests of a request's messages, the tables of sites and of this site's engines that all workers share, what
answers prove of them. Not here: what a held prefix is worth (`dispatch.choose`), the tables themselves (`dispatch.prefix`). Digests are
keyed per tenant: no tenant's prompt finds another's.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.choose import CACHED_MAX
from hanse.dispatch.prefix import (
    HOLDERS_MAX,
    PREFIX_DTYPE,
    Prefixes,
    believed,
    first_trust,
    forget,
    look_up,
    prefixes_of,
    proved,
    remember,
)
from hanse.live.gateway.direct import direct

if TYPE_CHECKING:
    from hanse.live.gateway.attempt import Attempt
    from hanse.live.gateway.body import Head
    from hanse.live.gateway.entry import Entry
    from hanse.live.gateway.measured import Measured
    from hanse.live.shared import SharedPage

SECRET_BYTES = 32
PROMPT_TOKENS_MIN = 64
PROMPT_BYTES_MIN = 256
"""About 64 tokens: a shorter prefix saves less prefill than the digests and a longer queue cost."""


class Holders:
    """One table, of sites or of engines, as one worker uses it; all workers share the slots, each has its own trust."""

    def __init__(self, slots: NDArray[Any]) -> None:
        self.slots = slots
        self.trust = first_trust(HOLDERS_MAX)
        self.cached = np.full((CACHED_MAX, 2), -1, np.int64)
        prompt = np.zeros(1, np.uint64), np.zeros(1, np.int64), 0
        self._look_up = direct(look_up, slots, *prompt, 1.0, self.trust, self.cached)
        self._believed = direct(believed, slots, *prompt, 0, 1.0)
        self._remember = direct(remember, slots, *prompt, 0, 1.0)
        self._proved = direct(proved, self.trust, 0, 0, 0)

    def held(self, prefixes: Prefixes, now_s: float) -> NDArray[np.int64]:
        """[4, 2] (holder, tokens) for the kernels of `dispatch.choose`; valid until the next call."""
        p = prefixes
        self._look_up(self.slots, p.digests, p.tokens, p.count, now_s, self.trust, self.cached)
        return self.cached

    def believed(self, prefixes: Prefixes, holder: int, now_s: float) -> int:
        """To be kept until the answer tells."""
        p = prefixes
        packed: int = self._believed(self.slots, p.digests, p.tokens, p.count, holder, now_s)
        return packed

    def remember(self, prefixes: Prefixes, holder: int, now_s: float) -> None:
        """A holder reads this prompt."""
        p = prefixes
        self._remember(self.slots, p.digests, p.tokens, p.count, holder, now_s)

    def proved(self, holder: int, packed: int, found_tokens: int) -> None:
        """An answer told what was cached."""
        self._proved(self.trust, holder, packed, found_tokens)

    def forget(self, holder: int) -> None:
        """A holder has nothing any more."""
        forget(self.slots, holder)


class Affinity:
    """What one worker asks and tells of held prefixes."""

    def __init__(self, page: SharedPage, secret_path: Path | None) -> None:
        self.sites = self._holders(page.prefixes.view(PREFIX_DTYPE)[..., 0], engines=False)
        self.engines = self._holders(page.engine_prefixes.view(PREFIX_DTYPE)[..., 0], engines=True)
        self._secret = _secret(secret_path)
        self._keys: dict[str, bytes] = {}

    def _holders(self, slots: NDArray[Any], *, engines: bool) -> Holders:
        return Holders(slots)

    def prefixes(self, head: Head, tenant: str, service: str) -> Prefixes | None:
        """Digests of a prompt's turns; None where it is too short to matter."""
        raws = head.messages if head.messages is not None else [head.prompt]
        parts = [("", bytes(raw)) for raw in raws]
        if sum(len(part) for _, part in parts) < PROMPT_BYTES_MIN:
            return None
        return prefixes_of(parts, self._key(tenant), service.encode())

    def sent(self, attempt: Attempt, prefixes: Prefixes, *, spread: bool) -> None:
        """A prompt is about to go to an engine here, or to another site; `spread`: several sites could have had it."""
        offer, at_s = attempt.offer, attempt.began_at_s
        if spread:
            attempt.believed_site = self.sites.believed(prefixes, offer.site_index, at_s)
        if len(offer.engines) > 1:
            attempt.believed_engine = self.engines.believed(prefixes, attempt.engine, at_s)
            self.engines.remember(prefixes, attempt.engine, at_s)

    def answered(
        self, attempt: Attempt, prefixes: Prefixes, found_tokens: int, now_s: float, *, spread: bool
    ) -> None:
        """An answer came; `found_tokens` of its prompt were cached, below 0: nobody said."""
        if found_tokens >= 0 and attempt.believed_engine:
            self.engines.proved(attempt.engine, attempt.believed_engine, found_tokens)
        if spread:
            site = attempt.offer.site_index
            if found_tokens >= 0 and attempt.believed_site:
                self.sites.proved(site, attempt.believed_site, found_tokens)
            self.sites.remember(prefixes, site, now_s)

    def ended(self, entry: Entry, attempt: Attempt, measured: Measured, now_s: float) -> None:
        """The same of a request that entered here."""
        assert entry.prefixes is not None
        found, spread = measured.found(entry.tokens_in), entry.service.spread
        self.answered(attempt, entry.prefixes, found, now_s, spread=spread)

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
