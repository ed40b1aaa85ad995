"""Measured values of the site's latest requests, readable by every worker.

Here: fixed slots in the shared page, in sets of eight found by request id; of a full set the oldest request is overwritten.
Not here: writing them (`kernels`), evidence (`live.evidence`), content of any kind.
"""

from __future__ import annotations

import struct
from typing import Final

from hanse.live.shared import NOTE_BYTES, NOTES_MAX, SharedPage
from hanse.model.fleet import Value

OUTCOMES: Final = ("running", "answered", "failed", "broken", "cancelled", "refused")
METHODS: Final = ("", "modelled", "estimated", "measured")

# id, key digest prefix, at_s, offer, attempts, outcome, method, tokens in, tokens out, five predicted, five measured, id again
_LAYOUT: Final = struct.Struct("<16s8sdiiiiii10d16s")
assert _LAYOUT.size <= NOTE_BYTES

SET_SLOTS: Final = 8
"""With one slot an id, a hundred requests would already lose one note in a hundred to chance. With sets of eight 8,192
slots keep the latest 2,000 requests but for one in a thousand (Poisson)."""
# Where compiled code finds a slot's instant, numbers and figures, counted in 8, 4 and 8 bytes.
AT_F8: Final = 24 // 8
NUMBERS_I4: Final = 32 // 4
FIGURES_F8: Final = 56 // 8


class Figures(Value, frozen=True, kw_only=True):
    """What one request took, or was predicted to take."""

    ttft_ms: float
    e2e_ms: float
    energy_wh: float
    carbon_g: float
    cost_usd: float


class Note(Value, frozen=True, kw_only=True):
    """One request as its client may ask for it again."""

    id: str
    at_s: float
    offer: int
    attempts: int
    outcome: str
    method: str
    tokens_in: int
    tokens_out: int
    predicted: Figures
    measured: Figures


class Notes:
    """The slots."""

    __slots__ = ("_slots",)

    def __init__(self, page: SharedPage) -> None:
        self._slots = page.notes

    def known(self, request_id: bytes) -> bool:
        """Whether a request of this id was noted lately."""
        return self._find(request_id) >= 0

    def read(self, request_id: bytes, key_mark: bytes) -> Note | None:
        """The note of a request of this key; None where there is none (any more)."""
        at = self._find(request_id)
        if at < 0:
            return None
        row = _LAYOUT.unpack_from(self._slots, at)
        if row[0] != request_id or row[-1] != request_id or row[1] != key_mark:
            return None
        return Note(
            id=request_id.hex(),
            at_s=row[2],
            offer=row[3],
            attempts=row[4],
            outcome=OUTCOMES[row[5]],
            method=METHODS[row[6]],
            tokens_in=row[7],
            tokens_out=row[8],
            predicted=_figures(row[9:14]),
            measured=_figures(row[14:19]),
        )

    def _find(self, request_id: bytes) -> int:
        """Offset of a request's slot; -1 where it has none."""
        first = _set(request_id)
        for at in range(first, first + SET_SLOTS * NOTE_BYTES, NOTE_BYTES):
            if self._slots[at : at + 16] == request_id:
                return at
        return -1


def _set(request_id: bytes) -> int:
    """Offset of the set of slots in which a request's note is."""
    number = int.from_bytes(request_id[-4:], "little") % (NOTES_MAX // SET_SLOTS)
    return number * SET_SLOTS * NOTE_BYTES


def _figures(five: tuple[float, ...]) -> Figures:
    return Figures(
        ttft_ms=five[0], e2e_ms=five[1], energy_wh=five[2], carbon_g=five[3], cost_usd=five[4]
    )
