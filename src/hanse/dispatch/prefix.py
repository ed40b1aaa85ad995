"""Which sites, and which engines of a site, hold the KV cache of which prompt prefixes, known only by keyed digests.

Here: digests of a growing conversation; a table (digest, holder) -> tokens of fixed size, which the workers of a gateway may share;
how far such a table is to be believed. Not here: what a held prefix is worth (`choose`). A holder is a site or an engine, by index.

A table knows what was sent where, not what was evicted since. Answers tell afterwards how many tokens of the prompt were cached.
`trust` [holder, age] is the share of believed tokens that was really found, lately, of prefixes of about that age; the credit is tokens
times trust. So it fades as quickly as this holder evicts at this load, and a holder that was restarted or lied loses it. Engines that
do not tell are believed for five minutes.

A digest is keyed by a secret of the tenant, so equal prompts of two tenants differ and a table reveals no prompt;
it is never logged. Digests chain: one at the end of each message and of each block of a long message, each over all
before it, so a conversation finds its own earlier turns. The table is 4-way: a digest may lie in one of four slots;
the oldest gives way. Torn reads between workers can only give a wrong credit, never a wrong answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from hanse.compiled import KERNEL
from hanse.dispatch.choose import CACHED_MAX

BLOCK_BYTES: Final = 2_048
"""About 512 tokens: a system prompt shared by users is found to within half of this."""
BYTES_PER_TOKEN: Final = 4.0
"""English text under common tokenizers; other scripts have fewer, so their credit is too small rather than too large."""
DIGESTS_MAX: Final = 64
"""Of one prompt, the last ones count: a conversation of 32 turns, or 128 KiB of text."""
TTL_S: Final = 300.0
"""Of engines that do not tell what they found: they evict by space, not time; after five minutes of other traffic a prefix is likelier
gone than not. Where they tell, older ones are tried for as long as they are found."""
HOLDERS_MAX: Final = 4096
"""Sites, and engines of a site: more than there are offers."""
AGES: Final = 8
AGE_S_FIRST: Final = 5.0
"""Ages double from here: below 5, 10, 20, ... 320 s, and above. Requests of one burst come within the first."""
TRUST_SHARE: Final = 1.0 / 16.0
"""Of a new answer in the trust: sixteen answers move most of the way."""
TRUST_MIN: Final = 1.0 / 64.0
"""Never quite nothing: a holder that is believed to have nothing is not asked, and could never prove otherwise."""
WAYS: Final = 4

PREFIX_DTYPE: Final = np.dtype(
    [("digest", "u8"), ("site", "i4"), ("tokens", "i4"), ("at_s", "f8")], align=True
)


@njit(**KERNEL)
def age_of(age_s: float) -> int:
    """Column of `trust`."""
    age = 0
    edge_s = AGE_S_FIRST
    while age < AGES - 1 and age_s >= edge_s:
        edge_s *= 2.0
        age += 1
    return age


@njit(**KERNEL)
def believed(slots: Any, digests: Any, tokens: Any, count: int, holder: int, now_s: float) -> int:
    """What a holder has of a prompt if it kept everything: tokens * AGES + age, or 0."""
    sets = slots.shape[0] // WAYS
    for back in range(count):
        at = count - 1 - back
        first = int(digests[at] % np.uint64(sets)) * WAYS
        for way in range(WAYS):
            slot = slots[first + way]
            if slot.digest == digests[at] and slot.site == holder and slot.at_s > -1e300:
                packed: int = tokens[at] * AGES + age_of(now_s - slot.at_s)
                return packed
    return 0


@njit(**KERNEL)
def proved(trust: Any, holder: int, packed: int, found_tokens: int) -> None:
    """An answer told how many tokens of a prompt were cached; `packed` is what was `believed` when it was sent."""
    tokens = packed // AGES
    if tokens > 0 and holder < trust.shape[0]:
        share = min(found_tokens / tokens, 1.0)
        before = trust[holder, packed % AGES]
        trust[holder, packed % AGES] = max(before + TRUST_SHARE * (share - before), TRUST_MIN)


@njit(**KERNEL)
def look_up(
    slots: Any, digests: Any, tokens: Any, count: int, now_s: float, trust: Any, cached: Any
) -> int:
    """Fill `cached` [4, 2] with up to four holders and the tokens each is believed to find; how many there are."""
    found = 0
    sets = slots.shape[0] // WAYS
    for i in range(CACHED_MAX):
        cached[i, 0] = -1
        cached[i, 1] = -1
    for back in range(count):
        at = count - 1 - back
        first = int(digests[at] % np.uint64(sets)) * WAYS
        for way in range(WAYS):
            slot = slots[first + way]
            if slot.digest != digests[at] or not slot.at_s > -1e300:
                continue
            known = False
            for i in range(found):
                if cached[i, 0] == slot.site:
                    known = True
            if not known and found < CACHED_MAX:
                share = 0.0
                if slot.site < trust.shape[0]:
                    share = trust[slot.site, age_of(now_s - slot.at_s)]
                cached[found, 0] = slot.site
                cached[found, 1] = int(tokens[at] * share)
                found += 1
    return found


@njit(**KERNEL)
def remember(slots: Any, digests: Any, tokens: Any, count: int, site: int, now_s: float) -> None:
    """A site now holds these prefixes."""
    sets = slots.shape[0] // WAYS
    for at in range(count):
        first = int(digests[at] % np.uint64(sets)) * WAYS
        place = first
        for way in range(WAYS):
            slot = slots[first + way]
            if slot.digest == digests[at] and slot.site == site:
                place = first + way
                break
            if slot.at_s < slots[place].at_s:
                place = first + way
        slots[place].digest = digests[at]
        slots[place].site = site
        slots[place].tokens = tokens[at]
        slots[place].at_s = now_s


@njit(**KERNEL)
def forget(slots: Any, site: int) -> None:
    """A site's engines restarted: nothing is held there."""
    for i in range(slots.shape[0]):
        if slots[i].site == site:
            slots[i].at_s = -np.inf


class Prefixes:
    """Digests of one prompt, shortest prefix first, and the tokens each stands for."""

    __slots__ = ("count", "digests", "tokens")

    def __init__(self, digests: list[int], tokens: list[int]) -> None:
        self.count = min(len(digests), DIGESTS_MAX)
        self.digests: NDArray[np.uint64] = np.array(digests[-DIGESTS_MAX:] or [0], np.uint64)
        self.tokens: NDArray[np.int64] = np.array(tokens[-DIGESTS_MAX:] or [0], np.int64)


def prefixes_of(parts: Iterable[tuple[str, bytes]], secret: bytes, scope: bytes) -> Prefixes:
    """Digests of a prompt given as (role, content) parts.

    Args:
        parts: Messages in order; a plain prompt is one part with an empty role.
        secret: Of the tenant, up to 64 bytes.
        scope: What else must agree for a cache to be of use: service and variant family.
    """
    digests: list[int] = []
    tokens: list[int] = []
    key = secret[:64]
    chain = scope
    length = 0
    for role, content in parts:
        # Lengths go in before contents, so that no two splits of the same bytes look alike.
        head = b"\0%b\0%d\0" % (role.encode(), len(content))
        for start in range(0, max(len(content), 1), BLOCK_BYTES):
            block = content[start : start + BLOCK_BYTES]
            chain = hashlib.blake2b(
                b"%b%b%b" % (chain, head, block), key=key, digest_size=16
            ).digest()
            head = b""
            length += len(block)
            digests.append(int.from_bytes(chain[:8], "little"))
            tokens.append(int(length / BYTES_PER_TOKEN))
    return Prefixes(digests, tokens)


def first_trust(*shape: int) -> NDArray[np.float64]:
    """[..., holder, age] before anything was told: all of it within `TTL_S`, nothing after."""
    trust = np.full((*shape, AGES), TRUST_MIN)
    trust[..., : age_of(TTL_S) + 1] = 1.0
    return trust


class PrefixTable:
    """(digest, holder) -> tokens held, in a fixed array; pass `slots` to share one between workers."""

    def __init__(self, *, slots_max: int = 65_536, slots: NDArray[Any] | None = None) -> None:
        self.slots = np.zeros(slots_max, PREFIX_DTYPE) if slots is None else slots
        assert self.slots.dtype == PREFIX_DTYPE and len(self.slots) % WAYS == 0
        if slots is None:
            self.slots["at_s"] = -np.inf
        self.trust = first_trust(HOLDERS_MAX)
        self._cached = np.full((CACHED_MAX, 2), -1, np.int64)

    def look_up(self, prefixes: Prefixes, now_s: float) -> NDArray[np.int64]:
        """[4, 2] (holder, tokens), -1 padded, as `Router.route` takes it; valid until the next call."""
        args = prefixes.digests, prefixes.tokens, prefixes.count
        look_up(self.slots, *args, float(now_s), self.trust, self._cached)
        return self._cached

    def believed(self, prefixes: Prefixes, holder: int, now_s: float) -> int:
        """What `proved` wants to know of the moment at which a prompt was sent."""
        args = prefixes.digests, prefixes.tokens, prefixes.count
        packed: int = believed(self.slots, *args, holder, float(now_s))
        return packed

    def proved(self, holder: int, packed: int, found_tokens: int) -> None:
        """An answer told how many tokens of its prompt the holder had."""
        proved(self.trust, holder, packed, found_tokens)

    def remember(self, prefixes: Prefixes, site: int, now_s: float) -> None:
        """A holder has read this prompt, so it holds its prefixes now."""
        args = prefixes.digests, prefixes.tokens, prefixes.count
        remember(self.slots, *args, site, float(now_s))

    def forget(self, site: int) -> None:
        """A holder has nothing any more."""
        forget(self.slots, site)


def text_parts(messages: Sequence[Any]) -> list[tuple[str, bytes]]:
    """(role, content) of an OpenAI `messages` array; what is not text counts by its printed form."""
    found = []
    for message in messages:
        role = message.get("role", "") if isinstance(message, dict) else ""
        content = message.get("content") if isinstance(message, dict) else message
        text = content if isinstance(content, str) else repr(content)
        found.append((str(role), text.encode()))
    return found
