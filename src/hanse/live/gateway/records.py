"""Evidence records of the hot path, written straight to the bytes that `evidence.chain` would encode.

Here: `decided` and `executed` put together from a part that is the same for every request of one grant at one offer, and the few
fields that differ. Not here: what the records mean (`evidence.chain`), who writes them (`ledger`). A test compares each with the
encoder of the record types, so a change of theirs cannot pass unseen.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import TYPE_CHECKING

import msgspec

from hanse.live.evidence.chain import Decided, Ended, Executed
from hanse.live.gateway.notes import METHODS

if TYPE_CHECKING:
    from hanse.live.gateway.policy import Grant
    from hanse.live.gateway.routing import OfferRow, Routing

_encode = msgspec.msgpack.Encoder().encode
_F8 = 0xCB
"""msgpack's mark of a float64; `0xC4 0x10` below marks 16 raw bytes."""
_AT = Layout(">BdB").pack
_FIVE = Layout(">BdBdBdBdBd").pack
NUMBER_MAX = 127
"""Attempt numbers are one byte in msgpack up to this; a request makes at most 8."""


_LEADING = ("request_id", "at_s", "attempt")
_PREDICTED = (
    "ttft_ms_predicted",
    "e2e_ms_predicted",
    "energy_wh_predicted",
    "carbon_g_predicted",
    "cost_usd_predicted",
)
for _kind, _last in ((Decided, _PREDICTED), (Executed, ())):
    _names = tuple(field.name for field in msgspec.structs.fields(_kind))
    assert _names[:3] == _LEADING and _names[len(_names) - len(_last) :] == _last
assert tuple(field.name for field in msgspec.structs.fields(Ended)) == (
    "request_id",
    "at_s",
    "role",
    "outcome",
    "attempt",
    "attempts",
    "tokens_in",
    "tokens_out",
    "ttft_ms",
    "e2e_ms",
    "energy_wh",
    "carbon_g",
    "cost_usd",
    "method",
)


def _opening(kind: type[Decided | Ended | Executed]) -> bytes:
    """Array length, tag, and the mark before the request id."""
    count = len(msgspec.structs.fields(kind)) + 1
    array = bytes((0x90 | count,)) if count < 16 else b"\xdc" + count.to_bytes(2, "big")
    tag = kind.__struct_config__.tag
    return array + _encode(tag) + b"\xc4\x10"


_DECIDED = _opening(Decided)
_EXECUTED = _opening(Executed)
ENDED = _opening(Ended)
ENTRY_OUTCOME = {
    outcome: _encode("entry") + _encode(outcome)
    for outcome in ("answered", "failed", "broken", "cancelled")
}
METHOD = tuple(_encode(method) for method in METHODS)
"""What `kernels.ended_record` puts a last record together from."""


def decided_middle(
    grant: Grant, service: str, offer: OfferRow, routing: Routing, rules: tuple[str, ...] = ()
) -> bytes:
    """Fields `key_id` to `epoch` of a decision for an offer."""
    meta = routing.table.meta
    return _middle(
        Decided,
        len(_PREDICTED),
        key_id=grant.key.id,
        tenant=grant.key.tenant,
        data_class=grant.data_class,
        country=grant.country,
        subject_row=grant.subject,
        service=service,
        entry_site=routing.site,
        site=offer.site,
        variant=offer.variant,
        rules=rules,
        table_version=meta.version,
        epoch=meta.epoch,
    )


def executed_middle(grant: Grant, offer: OfferRow, engine: str, routing: Routing) -> bytes:
    """Fields `tenant` to `table_version` of an execution at one of this site's engines."""
    return _middle(
        Executed,
        0,
        tenant=grant.key.tenant,
        data_class=grant.data_class,
        country=grant.country,
        subject_row=grant.subject,
        entry_site=routing.site,
        site=routing.site,
        engine=engine,
        variant=offer.variant,
        allowed=True,
        table_version=routing.table.meta.version,
    )


def _middle(kind: type[Decided | Executed], left_out: int, **values: object) -> bytes:
    """All fields behind `_LEADING` but the last few, in the record's order; what is not given has its default."""
    fields = msgspec.structs.fields(kind)
    inner = fields[len(_LEADING) : len(fields) - left_out]
    assert set(values) <= {field.name for field in inner}
    return b"".join(_encode(values.get(field.name, field.default)) for field in inner)


def decided_raw(
    request_id: bytes, at_s: float, number: int, middle: bytes, figures: list[float]
) -> bytes:
    """One decision; `figures` are columns `OUT_*` of `dispatch.choose`."""
    return b"".join(
        (
            _DECIDED,
            request_id,
            _AT(_F8, at_s, number),
            middle,
            # ttft, e2e, Wh, g, USD: columns 0, 2, 3, 4, 5
            _FIVE(
                _F8, figures[0], _F8, figures[2], _F8, figures[3], _F8, figures[4], _F8, figures[5]
            ),
        )
    )


def executed_raw(request_id: bytes, at_s: float, number: int, middle: bytes) -> bytes:
    """One execution."""
    return b"".join((_EXECUTED, request_id, _AT(_F8, at_s, number), middle))


class FirstLocal:
    """Both records of a first attempt at a local engine, sized, as one piece: all but id, instant and prediction is constant."""

    __slots__ = ("_decided", "_executed", "_middle", "_pack", "_rest")

    def __init__(self, decided: bytes, executed: bytes) -> None:
        first = bytes((1,))  # the attempt's number
        self._middle = first + decided
        self._rest = first + executed
        size = len(_DECIDED) + 16 + 9 + len(self._middle) + 5 * 9
        self._decided = size.to_bytes(4, "little") + _DECIDED
        size = len(_EXECUTED) + 16 + 9 + len(self._rest)
        self._executed = size.to_bytes(4, "little") + _EXECUTED
        one, two, three, four = map(len, (self._decided, self._middle, self._executed, self._rest))
        self._pack = Layout(f">{one}s16sBd{two}sBdBdBdBdBd{three}s16sBd{four}s").pack

    def pack(self, request_id: bytes, at_s: float, figures: list[float]) -> bytes:
        """As `decided_raw` and `executed_raw`."""
        f = figures
        return self._pack(
            self._decided, request_id, _F8, at_s, self._middle, _F8, f[0], _F8, f[2], _F8, f[3], _F8, f[4], _F8, f[5],
            self._executed, request_id, _F8, at_s, self._rest,
        )  # fmt: skip
