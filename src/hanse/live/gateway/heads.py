"""Heads that were read before: what the strict parser made of exactly these bytes is not asked of it again.

Here: `Heads`, a bounded memory from a head's bytes (up to and with the blank line) to what was derived from them (`KnownHead`,
`KnownAnswer`), and the proof that a head ends where it seems to. Not here: parsing and what is derived (`incoming`, `outgoing`), who may ask (`doors`).

A head is learned only after the parser and all checks took the same bytes as part of a whole, ordinary message, and when its like
was seen before: heads that never come again cost two look-ups and no memory. Two heads are alike where they differ in the digits of
one plain `content-length: N` line and in the hex digits and dashes of one plain `traceparent: V` line, which only passes through; every
other byte is the same, so every other check would end the same.

Heads hold keys: they stay in this memory, and nothing here is ever written or logged.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import httptools

if TYPE_CHECKING:
    from hanse.live.gateway.outgoing import Target
    from hanse.live.gateway.policy import Grant

END = b"\r\n\r\n"
HEADS_MAX = 1024
HEAD_BYTES_MAX = 4096
"""With the one above at most 4 MiB; a head is a tenth of that."""
ONCE_MAX = 4096
_VARYING = re.compile(
    rb"\r\n(content-length|traceparent): ([0-9a-f-]{1,64})(?=\r\n)", re.IGNORECASE
)
_DIGITS_MAX = 9

T = TypeVar("T")


class KnownHead:
    """What a request head that was read and admitted before means."""

    __slots__ = (
        "_post",
        "endpoint",
        "grant",
        "head",
        "headers",
        "length",
        "path",
        "post_tail",
        "query",
    )

    def __init__(
        self,
        head: bytes,
        path: bytes,
        query: bytes,
        headers: dict[bytes, bytes],
        length: int,
        grant: Grant,
        endpoint: str,
    ) -> None:
        self.head = head
        """Its bytes, the blank line with them: what begins with them begins with a whole head."""
        self.path = path
        self.query = query
        self.headers = headers
        """Shared by all requests of this head: nobody changes it."""
        self.length = length
        self.grant = grant
        """Of the table in force when it was learned; a later table forgets all heads."""
        self.endpoint = endpoint
        trace = headers.get(b"traceparent")
        self.post_tail = b"\r\n\r\n" if trace is None else b"\r\ntraceparent: %b\r\n\r\n" % trace
        """What is sent to an engine behind the request's id."""
        self._post: dict[Target, bytes] = {}

    def resized(self, head: bytes, values: dict[bytes, bytes]) -> KnownHead:
        """The same with another content-length, and another trace where it has one."""
        headers = {**self.headers, **values}
        length = int(values[b"content-length"])
        return KnownHead(head, self.path, self.query, headers, length, self.grant, self.endpoint)

    def post_head(self, target: Target) -> bytes:
        """What is sent to an engine before the id of a request whose body goes on as it is."""
        head = self._post.get(target)
        if head is None:
            head = self._post[target] = b"%bcontent-length: %d\r\nx-request-id: " % (
                target.post_head(self.path),
                self.length,
            )
        return head


class KnownAnswer:
    """What an answer's head that was read before means."""

    __slots__ = ("head", "headers", "keep", "length", "opening", "plain", "status")

    def __init__(
        self, head: bytes, status: int, headers: dict[bytes, bytes], keep: bool, length: int
    ) -> None:
        self.head = head
        self.status = status
        self.headers = headers
        """Shared by all answers of this head: nobody changes it."""
        self.keep = keep
        self.length = length
        kind = headers.get(b"content-type", b"application/json")
        self.plain = status == 200 and not kind.startswith(b"text/event-stream")
        self.opening = b"content-type: %b\r\ncontent-length: " % kind

    def resized(self, head: bytes, values: dict[bytes, bytes]) -> KnownAnswer:
        """The same with another content-length."""
        digits = values[b"content-length"]
        headers = {**self.headers, b"content-length": digits}
        return KnownAnswer(head, self.status, headers, self.keep, int(digits))


class Heads(Generic[T]):
    """One direction's heads."""

    __slots__ = ("_exact", "_once", "_resized", "_shapes")

    def __init__(self, resized: Callable[[T, bytes, dict[bytes, bytes]], T]) -> None:
        self._exact: dict[bytes, T] = {}
        self._resized = resized
        """The same meaning for a head with other values in the lines that may vary."""
        self._shapes: dict[bytes, T] = {}
        self._once: set[int] = set()

    def find(self, data: bytes) -> T | None:
        """What the head at the beginning of these bytes means; None where it is not known."""
        if not self._exact:
            return None
        head = data[: data.find(END) + len(END)]
        known = self._exact.get(head)
        if known is not None:
            return known
        found = _split(head)
        alike = self._shapes.get(found[0]) if found is not None else None
        if found is None or alike is None:
            return None
        known = self._resized(alike, head, found[1])
        if b"traceparent" not in found[1]:  # those never come twice
            self._keep(self._exact, head, known)
        return known

    def learn(self, head: bytes, known: T, parser: type) -> None:
        """Remember what a head means, where one like it was seen before and it ends where it seems to."""
        found = _split(head) if len(head) <= HEAD_BYTES_MAX else None
        if found is None:
            return
        mark = hash(found[0])
        if mark not in self._once:
            if len(self._once) >= ONCE_MAX:
                self._once.clear()
            self._once.add(mark)
        elif ends_with_last_byte(head, parser):
            self._keep(self._shapes, found[0], known)
            self._keep(self._exact, head, known)

    def clear(self) -> None:
        """Forget what may mean something else now."""
        self._exact.clear()
        self._shapes.clear()

    def _keep(self, where: dict[bytes, T], key: bytes, known: T) -> None:
        if len(where) >= HEADS_MAX:
            where.clear()
        where[key] = known


def _split(head: bytes) -> tuple[bytes, dict[bytes, bytes]] | None:
    """A head without the values that may vary, and these; None where a line is not spelt plainly, or twice."""
    values: dict[bytes, bytes] = {}
    parts = []
    at = 0
    for found in _VARYING.finditer(head):
        name = found[1].lower()
        if name in values:
            return None
        values[name] = found[2]
        parts.append(head[at : found.start(2)])
        at = found.end(2)
    digits = values.get(b"content-length", b"")
    if not digits.isdigit() or len(digits) > _DIGITS_MAX:
        return None
    parts.append(head[at:])
    return b"\0".join(parts), values  # no head that was learned has a zero byte


def ends_with_last_byte(head: bytes, parser: type) -> bool:
    """Whether a new parser ends the headers with the last of these bytes, and not before."""
    witness = _Witness()
    try:
        fresh = parser(witness)
        fresh.feed_data(head[:-1])
        early = witness.complete
        fresh.feed_data(head[-1:])
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return witness.complete and not early


class _Witness:
    """Hears only where headers end."""

    def __init__(self) -> None:
        self.complete = False

    def on_headers_complete(self) -> None:
        self.complete = True
