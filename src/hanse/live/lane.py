"""One direction of an emulated link: rate, delay, cut, and the limits that bound what it holds.

Here: ``Lane``, a first-in first-out queue without loop, clock or socket. Not here: sockets and
timers (``live/relay.py``). A chunk waits for its turn at the link's rate, then for the delay, and
leaves in order. A cut lane keeps what it holds; when healed it sends all of it again, as TCP would.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Payload = bytes | memoryview

QUEUE_S_MAX: Final = 0.25  # a router holds about one round trip; the longest usual one is this
QUEUE_BYTES_MIN: Final = 65_536  # one read of a socket fits, so a very slow link still moves
QUEUE_BYTES_MAX: Final = 1_048_576  # waiting for the wire; then the senders are no longer read
FLIGHT_BYTES_MAX: Final = 16_777_216  # on the wire: 1 Gbit/s at 125 ms one way is 15.6 MB
CHUNK_S_MAX: Final = 0.004  # pieces of at most this wire time: bytes flow and do not lump
CHUNK_BYTES_MIN: Final = 1_460  # TCP payload of an Ethernet frame; smaller only costs CPU
CHUNK_BYTES_MAX: Final = 65_536  # larger socket writes gain nothing measurable


@dataclass(slots=True)
class Chunk:
    """Bytes on a lane, and what to call with them; empty bytes are a control mark."""

    act: Callable[[Payload], None]
    payload: Payload
    sent_at_s: float
    due_at_s: float


class Lane:
    """One direction of a link: a first-in first-out queue with a rate, a delay and a switch.

    Attributes:
        held_bytes: Sum of the queue's payload sizes.
        delivered_bytes_total: Payload that has left, never falling.
    """

    def __init__(self, *, delay_s: float, bytes_per_s: float) -> None:
        self.delay_s = delay_s
        self.bytes_per_s = bytes_per_s
        self.is_cut = False
        self.held_bytes = 0
        self.delivered_bytes_total = 0
        self._queue: deque[Chunk] = deque()
        self._free_at_s = -math.inf

    @property
    def queue_bytes_max(self) -> int:
        """The router's buffer: what may wait for the wire."""
        return int(min(max(self.bytes_per_s * QUEUE_S_MAX, QUEUE_BYTES_MIN), QUEUE_BYTES_MAX))

    @property
    def held_bytes_max(self) -> int:
        """Senders are no longer read above this: the router's buffer plus what fits on the wire."""
        return self.queue_bytes_max + int(min(self.bytes_per_s * self.delay_s, FLIGHT_BYTES_MAX))

    @property
    def chunk_bytes_max(self) -> int:
        """Larger payloads are cut into pieces of this size."""
        return int(min(max(self.bytes_per_s * CHUNK_S_MAX, CHUNK_BYTES_MIN), CHUNK_BYTES_MAX))

    @property
    def wake_at_s(self) -> float | None:
        """When the next chunk is due; None while there is none or the lane is cut."""
        return self._queue[0].due_at_s if self._queue and not self.is_cut else None

    @property
    def held_count(self) -> int:
        """Chunks held, control marks included."""
        return len(self._queue)

    def carry(self, now_s: float, act: Callable[[Payload], None], payload: Payload) -> None:
        """Queue `payload`; `act` gets it when it has crossed."""
        size_bytes = len(payload)
        if size_bytes <= self.chunk_bytes_max:
            self._append(now_s, act, payload)
        else:
            view = memoryview(payload)
            for start in range(0, size_bytes, self.chunk_bytes_max):
                self._append(now_s, act, view[start : start + self.chunk_bytes_max])
        self.held_bytes += size_bytes

    def _append(self, now_s: float, act: Callable[[Payload], None], payload: Payload) -> None:
        chunk = Chunk(act, payload, 0.0, 0.0)
        self._schedule(chunk, now_s, len(payload))
        self._queue.append(chunk)

    def _schedule(self, chunk: Chunk, now_s: float, left_bytes: float) -> None:
        self._free_at_s = max(now_s, self._free_at_s) + left_bytes / self.bytes_per_s
        chunk.sent_at_s = self._free_at_s
        chunk.due_at_s = self._free_at_s + self.delay_s

    def take_due(self, now_s: float) -> list[Chunk]:
        """Remove and return what has crossed by `now_s`, in order even where a delay has fallen."""
        due: list[Chunk] = []
        queue = self._queue
        while queue and not self.is_cut and queue[0].due_at_s <= now_s:
            chunk = queue.popleft()
            self.held_bytes -= len(chunk.payload)
            self.delivered_bytes_total += len(chunk.payload)
            due.append(chunk)
        return due

    def change(self, now_s: float, *, delay_s: float, bytes_per_s: float, is_cut: bool) -> None:
        """Apply new figures to what is not on the wire yet; after a cut, to everything."""
        resend_all = self.is_cut and not is_cut
        rate_before = self.bytes_per_s
        self.delay_s, self.bytes_per_s, self.is_cut = delay_s, bytes_per_s, is_cut
        self._free_at_s = -math.inf
        for chunk in self._queue:
            left_bytes = min(len(chunk.payload), (chunk.sent_at_s - now_s) * rate_before)
            if resend_all:
                self._schedule(chunk, now_s, len(chunk.payload))
            elif chunk.sent_at_s > now_s:
                self._schedule(chunk, now_s, left_bytes)

    def discard(self, act: Callable[[Payload], None]) -> None:
        """Take back empty chunks that would call `act`, so that a long cut does not collect them."""
        if any(chunk.act == act for chunk in self._queue):
            self._queue = deque(chunk for chunk in self._queue if chunk.act != act)

    def drop_all(self) -> None:
        """Forget what is held: its connections are gone."""
        self._queue.clear()
        self.held_bytes = 0
        self._free_at_s = -math.inf
