"""A link that hangs: the bus is started anew only where the hub could be reached all the time, and ever more rarely in vain."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.live import link_watch
from hanse.live.link_watch import WEDGED_S, WEDGED_S_MAX, LinkKeeper, LinkWatch, takes_connections
from hanse.live.supervise import write_pid

LOOKS = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60)


@given(LOOKS, st.floats(0.5, 20.0))
def test_it_is_started_anew_only_after_it_hung_for_the_whole_wait(
    looks: list[tuple[bool, bool]], step_s: float
) -> None:
    watch, hung_since_s, allowed_s = LinkWatch(), None, WEDGED_S
    for n, (heard, reached) in enumerate(looks):
        now_s = n * step_s
        allowed_s = WEDGED_S if heard else allowed_s
        if heard or not reached:
            hung_since_s = None
        elif hung_since_s is None:
            hung_since_s = now_s
        due = hung_since_s is not None and now_s - hung_since_s >= allowed_s
        assert watch.look(now_s, heard=heard, reached=reached) == due
        if due:
            hung_since_s, allowed_s = None, min(2 * allowed_s, WEDGED_S_MAX)


def test_a_hub_that_refuses_on_purpose_costs_a_restart_an_hour_in_the_end() -> None:
    watch = LinkWatch()
    at = [s for s in range(12 * 3600) if watch.look(float(s), heard=False, reached=True)]
    assert [b - a for a, b in pairwise(at)][-1] >= WEDGED_S_MAX
    assert len(at) < 24
    watch.look(1e6, heard=True, reached=True)
    assert watch.wait_s == WEDGED_S


def test_a_frozen_bus_is_ended_by_force_where_the_hub_takes_connections(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_watch, "ASK_EVERY_S", 0.0)
    code = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as bus:
        assert bus.stdout is not None
        bus.stdout.readline()
        write_pid(tmp_path / "pid/nats.pid", bus.pid)

        async def through() -> None:
            server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
            address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
            keeper = LinkKeeper(tmp_path, address)
            keeper._watch.wait_s = 0.05
            await keeper.see(True)
            keeper._watch.wait_s = 0.05
            await keeper.see(False)
            assert bus.poll() is None
            await asyncio.sleep(0.1)
            await keeper.see(False)
            server.close()
            await server.wait_closed()
            assert not await takes_connections(address)

        try:
            asyncio.run(through())
            assert bus.wait(5) == -9
        finally:
            bus.kill()
