"""What is put into the wheel comes out in its slab, whatever lies between."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hanse.signals.traces.trace import empty_requests
from hanse.signals.traces.wheel import Wheel

# How far ahead requests are due, by slab: near and far, over several levels.
AHEAD = st.lists(st.lists(st.integers(0, 700) | st.integers(0, 3), max_size=8), max_size=90)


@given(AHEAD)
def test_every_request_comes_out_once_in_its_slab(ahead: list[list[int]]) -> None:
    wheel, serial, expected = Wheel(), 0, {}
    last = max((now + a for now, row in enumerate(ahead) for a in row), default=0)
    for now in range(last + 1):
        row = ahead[now] if now < len(ahead) else []
        requests = empty_requests(len(row))
        requests["session"] = np.arange(serial, serial + len(row))
        wheel.add(now, requests, np.array([now + a for a in row], np.int64))
        for number, a in enumerate(row, serial):
            expected.setdefault(now + a, set()).add(number)
        serial += len(row)
        due = wheel.take(now)["session"].tolist()
        assert len(due) == len(set(due)) and set(due) == expected.get(now, set())
    assert not wheel._buckets
