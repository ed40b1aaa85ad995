"""`hanse warm`: what a fleet will need, and no more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hanse.cli.run import warm
from hanse.errors import ConfigError

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"

Compiled = list[str]


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> Compiled:
    """What was compiled, in order; the compiler itself is the true edge here."""
    done: Compiled = []

    def note(what: str) -> Callable[[], None]:
        return lambda: done.append(what)

    monkeypatch.setattr("hanse.dispatch.router.warm", note("routing"))
    monkeypatch.setattr("hanse.live.gateway.kernels.warm", note("accounts"))
    monkeypatch.setattr("hanse.dispatch.place_warm.warm", note("placement"))
    return done


def test_everything_without_a_fleet(compiled: Compiled, capsys: pytest.CaptureFixture[str]) -> None:
    assert warm() == 0
    assert compiled == ["routing", "accounts", "placement"]
    printed = capsys.readouterr()
    assert printed.out == "warm: kernels compiled, weights ready\n"
    assert "Compiling the kernels of placement" in printed.err


@pytest.mark.parametrize("places", [False, True])
def test_placement_only_where_the_controller_places(
    compiled: Compiled, tmp_path: Path, places: bool
) -> None:
    fleet = tmp_path / "fleet.toml"
    fleet.write_text(f"{LEAGUE.read_text()}\n[slow_loop]\nplaces = {str(places).lower()}\n")
    assert warm(fleet) == 0
    assert ("placement" in compiled) is places


def test_a_fleet_that_cannot_be_read(compiled: Compiled, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        warm(tmp_path / "nowhere.toml")
    assert compiled == []
