"""What a site tells its peers about its load: on every forwarded answer and on every check.

Here: the frame and its two encodings. Not here: what is made of it (`dispatch.load`).
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode

import msgspec

from hanse.model.told import UNREADABLE, Count, Figure, Whole

FRAME_BYTES_MAX = 32 * 1024
"""64 local offers of 200 bytes, with room; more is not from a gateway."""


class OfferLoad(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Sums over the alive replicas of one offer. `requests` counts running and waiting."""

    key: str
    """`service/variant`."""
    replicas: Count
    requests: Whole
    tokens: Whole
    prefill_tokens: Whole
    """Prompt tokens of requests without a first byte."""
    rate_rps: Figure


class LoadFrame(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One site's sums. Array-shaped: it rides on every answer."""

    site: str
    table_version: Count
    epoch: Count
    age_ms: Figure
    """Age of the sums when sent; never a timestamp, clocks differ."""
    power_ok: bool
    offers: tuple[OfferLoad, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(LoadFrame).decode
_decode_json = msgspec.json.Decoder(LoadFrame).decode


def header_value(frame: LoadFrame) -> bytes:
    """The value of `hanse-load`."""
    return urlsafe_b64encode(_encode(frame)).rstrip(b"=")


def read_header(value: bytes) -> LoadFrame | None:
    """A frame from `hanse-load`; None for anything else."""
    if len(value) > FRAME_BYTES_MAX:
        return None
    try:
        return _decode(urlsafe_b64decode(value + b"=" * (-len(value) % 4)))
    except (*UNREADABLE, ValueError):
        return None


def read_json(body: bytes) -> LoadFrame | None:
    """A frame from the body of a check."""
    try:
        return _decode_json(body)
    except (*UNREADABLE, ValueError):
        return None
