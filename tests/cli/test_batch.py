"""`hanse batch`: whose batches are shown where no key is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse.cli.batch import _default_key
from hanse.errors import ConfigError
from hanse.live.runtime import StateDir


@pytest.mark.parametrize(
    ("made", "meant"), [(("clinic", "demo", "shop"), "demo"), (("only",), "only")]
)
def test_the_demo_key_or_the_only_one_is_meant(
    tmp_path: Path, made: tuple[str, ...], meant: str
) -> None:
    (tmp_path / "keys").mkdir()
    for key in made:
        (tmp_path / "keys" / f"{key}.key").write_text("hanse-x")
    assert _default_key(StateDir(tmp_path)) == meant


@pytest.mark.parametrize("made", [(), ("clinic", "shop")])
def test_of_several_keys_one_has_to_be_named(tmp_path: Path, made: tuple[str, ...]) -> None:
    (tmp_path / "keys").mkdir()
    for key in made:
        (tmp_path / "keys" / f"{key}.key").write_text("hanse-x")
    with pytest.raises(ConfigError) as error:
        _default_key(StateDir(tmp_path))
    assert "--key" in str(error.value)
    assert ", ".join(made) in str(error.value)
