"""One holder at a time, whatever answers are lost."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from nats.js.errors import KeyNotFoundError, KeyWrongLastSequenceError

from hanse.live import bus, lease
from hanse.live.lease import Lease


class Bucket:
    """One key with revisions; answers of writes may be lost."""

    def __init__(self) -> None:
        self.value: bytes | None = None
        self.revision = 0
        self.lose = False

    def _write(self, value: bytes, last: int) -> int:
        if last != (self.revision if self.value is not None else 0):
            raise KeyWrongLastSequenceError
        self.value, self.revision = value, self.revision + 1
        if self.lose:
            raise TimeoutError
        return self.revision

    async def create(self, _key: str, value: bytes) -> int:
        return self._write(value, 0)

    async def update(self, _key: str, value: bytes, last: int) -> int:
        return self._write(value, last)

    async def get(self, _key: str) -> Any:
        if self.value is None:
            raise KeyNotFoundError
        return SimpleNamespace(value=self.value, revision=self.revision)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket()

    async def lease_bucket(*_: Any, **__: Any) -> Bucket:
        return made

    monkeypatch.setattr(bus, "lease_bucket", lease_bucket)
    return made


def keep(one: Lease) -> bool:
    return asyncio.run(one.keep())


def test_a_lease_that_was_taken_without_an_answer_is_known_by_its_name(bucket: Bucket) -> None:
    mine, other = Lease(None, "mine"), Lease(None, "other")  # type: ignore[arg-type]
    bucket.lose = True
    assert not keep(mine)
    bucket.lose = False
    assert not keep(other)
    assert keep(mine)
    assert mine.first_revision == bucket.revision


def test_a_renewal_without_an_answer_does_not_lose_it(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr(lease.time, "monotonic", lambda: now_s)
    mine = Lease(None, "mine")  # type: ignore[arg-type]
    assert keep(mine)
    bucket.lose = True
    now_s += bus.LEASE_S - 0.1
    assert keep(mine), "by the clock"
    now_s += 0.2
    assert not mine.held, "an answer that did not come proves nothing"
    bucket.lose = False
    assert keep(mine)
    assert mine.held


def test_a_holder_that_was_replaced_knows_it(bucket: Bucket) -> None:
    mine, other = Lease(None, "mine"), Lease(None, "other")  # type: ignore[arg-type]
    assert keep(mine)
    bucket.value = None  # it was not renewed in time, and vanished
    assert keep(other)
    assert not keep(mine)
    assert keep(other)
