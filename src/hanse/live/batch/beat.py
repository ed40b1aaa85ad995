"""What a home tells its standby of one batch, as it goes from gateway to gateway.

Here: `Beat`, and reading one of another site with suspicion. Not here: when it is sent, what is done about it (`standby`).
"""

from __future__ import annotations

import msgspec

from hanse.live.batch.commits import Note
from hanse.live.batch.values import (
    BatchMeta,
    FileMeta,
    Problem,
    Who,
    checked_id,
    is_batch_id,
    is_file_id,
)
from hanse.model.told import UNREADABLE


class Row(msgspec.Struct, frozen=True, array_like=True):
    """One commit on its way to the standby."""

    line: int
    note: Note
    content: bytes


class Beat(msgspec.Struct, frozen=True, kw_only=True):
    """What a home tells its standby of one batch."""

    batch: BatchMeta
    files: tuple[FileMeta, ...] = ()
    """Files whose bytes were sent before."""
    rows: tuple[Row, ...] = ()


def beat_of(data: bytes, who: Who) -> Beat:
    """A beat in which everything is what its envelope says, and ids are ids."""
    try:
        beat = msgspec.msgpack.decode(data, type=Beat)
    except UNREADABLE as error:
        raise Problem(400, "invalid_request", str(error)) from error
    told = beat.batch
    names = [(one.tenant, one.data_class, one.country) for one in beat.files]
    for one in ((told.tenant, told.data_class, told.country), *names):
        if one != who.names:
            raise Problem(400, "invalid_request", "the envelope is another tenant's")
    checked_id(told.id, is_batch_id)
    results = (one for one in (told.output_file_id, told.error_file_id) if one)
    for file_id in (told.input_file_id, *results, *(file.id for file in beat.files)):
        checked_id(file_id, is_file_id)
    if any(row.line < 0 for row in beat.rows):
        raise Problem(400, "invalid_request", "lines count from 0")
    return beat
