"""Measured values of the site's latest requests, readable by every worker.

Here: one fixed slot per request in the shared page, found by request id; an older request in the same slot is overwritten.
Not here: evidence (`live.evidence`), content of any kind.
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

    def write(
        self,
        request_id: bytes,
        key_mark: bytes,
        at_s: float,
        offer: int,
        attempts: int,
        outcome: int,
        method: int,
        tokens_in: int,
        tokens_out: int,
        predicted: tuple[float, float, float, float, float],
        measured: tuple[float, float, float, float, float],
    ) -> None:
        """Note one request; `key_mark` is the first 8 bytes of its key's digest."""
        _LAYOUT.pack_into(
            self._slots, _slot(request_id), request_id, key_mark, at_s, offer, attempts, outcome,
            method, tokens_in, tokens_out, *predicted, *measured, request_id,
        )  # fmt: skip

    def known(self, request_id: bytes) -> bool:
        """Whether a request of this id was noted lately."""
        at = _slot(request_id)
        return bytes(self._slots[at : at + 16]) == request_id

    def read(self, request_id: bytes, key_mark: bytes) -> Note | None:
        """The note of a request of this key; None where there is none (any more)."""
        row = _LAYOUT.unpack_from(self._slots, _slot(request_id))
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


def _slot(request_id: bytes) -> int:
    return int.from_bytes(request_id[-4:], "little") % NOTES_MAX * NOTE_BYTES


def _figures(five: tuple[float, ...]) -> Figures:
    return Figures(
        ttft_ms=five[0], e2e_ms=five[1], energy_wh=five[2], carbon_g=five[3], cost_usd=five[4]
    )
