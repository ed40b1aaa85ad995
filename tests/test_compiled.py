"""What was compiled is used only while every kernel's text is as it was then."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse import compiled
from hanse.dispatch.load import observed
from hanse.twin.gateway import ended


def test_kernels_are_kept_by_the_texts_of_all_kernels() -> None:
    for kernel in (observed, ended):
        locator = kernel._cache._impl.locator
        assert locator.get_source_stamp() == compiled.stamp()


def test_a_change_in_any_kernels_text_makes_all_of_them_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stamped() -> bytes:
        return compiled.stamp.__wrapped__()

    monkeypatch.setattr(compiled, "HERE", tmp_path)
    (tmp_path / "caller.py").write_text("from numba import njit\n")
    (tmp_path / "inner").mkdir()
    callee = tmp_path / "inner" / "callee.py"
    callee.write_text("from numba import njit  # one\n")
    (tmp_path / "plain.py").write_text("one = 1\n")
    before = stamped()
    (tmp_path / "plain.py").write_text("one = 2\n")
    assert stamped() == before, "a module without kernels does not matter"
    callee.write_text("from numba import njit  # two\n")
    assert stamped() != before
