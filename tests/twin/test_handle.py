"""Compiled code sees through a handle exactly the arrays of Python."""

from __future__ import annotations

import numpy as np
from numba import njit

from dispatch.fleets import fleet, site, table_of
from hanse.signals.traces.trace import TraceMeta
from hanse.twin import arrays as ar
from hanse.twin.arrays import World
from hanse.twin.gateway import first_byte
from hanse.twin.handle import Handle
from hanse.twin.world import build_world

META = TraceMeta(name="none", source="a test", licence="none", duration_s=1.0)


def made_world() -> World:
    made = fleet((site("a"), site("b", "FR")))
    return build_world(made, made.placements, table_of(made), META)


@njit(_nrt=False)
def poke(w, e, t):  # type: ignore[no-untyped-def]
    w.engines[e].speed = t
    w.link_up[1, 0] = 7
    w.frame_open[1, 3, 0] = 5
    return w.engines.shape[0], w.candidate.shape[3], w.paths[0, 1].rtt_ms, w.hist.size


def test_reads_and_writes_go_through() -> None:
    world = made_world()
    handle = Handle(world)
    engines, profiles, rtt_ms, bins = poke(handle, 1, 0.25)
    assert engines == len(world.engines) and profiles == world.candidate.shape[3]
    assert rtt_ms == world.paths[0, 1]["rtt_ms"] > 0.0 and bins == world.hist.size
    assert world.engines["speed"].tolist() == [1.0, 0.25]
    assert world.link_up.tolist() == [[1, 1], [7, 1]]
    assert world.frame_open[1, 3, 0] == 5 and np.count_nonzero(world.frame_open == 5) == 1


def test_every_array_lies_where_its_descriptor_says() -> None:
    world = made_world()
    handle = Handle(world)
    at = 0
    words = handle._table
    for array in world:
        assert words[at + 2] == array.size and words[at + 3] == array.itemsize
        assert words[at + 4] == array.ctypes.data
        shape = words[at + 5 : at + 5 + array.ndim]
        assert tuple(shape) == array.shape
        at += 5 + 2 * array.ndim
    assert at == len(words)


def test_a_first_byte_that_comes_too_late_touches_nobody() -> None:
    """Its attempt is over: the slot is free, or another request waits there for a first byte of its own."""
    world = made_world()
    handle = Handle(world)
    free, waiting = world.attempts[0], world.attempts[1]
    free["gateway"] = free["site"] = free["offer"] = -1
    free["first_at_s"] = 1.0
    waiting["stage"], waiting["counted_prefill"] = ar.AT_ENGINE, 9
    for a in (0, 1):
        first_byte(handle, a, 2.0)
    assert not world.attempts["answering"].any() and not world.own["prefill_tokens"].any()
    waiting["first_at_s"], waiting["heard_at_s"] = 1.0, 2.5
    first_byte(handle, 1, 2.0)
    assert waiting["answering"] == 0, "its own is still on the way"
    first_byte(handle, 1, 2.5)
    assert waiting["answering"] == 1 and world.own[0, 0, 0]["prefill_tokens"] == -9


def test_arrays_that_are_read_together_lie_in_the_same_cache_lines() -> None:
    world = made_world()
    for one, two, bytes_between in (
        ("load_offers", "own", 80), ("load_sites", "paths", 24), ("load_sites", "heard", 48)
    ):  # fmt: skip
        first, second = getattr(world, one), getattr(world, two)
        assert first.ctypes.data % 64 == 0 and first.itemsize == second.itemsize
        assert second.ctypes.data - first.ctypes.data == bytes_between
    world.own["tokens"] = 5
    world.paths["rtt_ms"] = 7.0
    assert not world.load_offers["requests"].any() and (world.load_sites["reachable"] == 1).all()
    assert (world.load_offers["tpot_factor"] == 1.0).all() and not world.heard["count"].any()
