"""Where a fleet could run its services: what `hanse apply` asks where the controller places, and what `hanse check` warns of."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from dispatch.fleets import fleet, service, site, table_of, tenant
from hanse.cli.check import check
from hanse.cli.hosts import could_run, misfits
from hanse.dispatch.asked_again import Asked, asked_again
from hanse.model.fleet import Fleet, Placement, Pool, SlowLoop, Variant

PLACES = SlowLoop(places=True)


def placed(at: str) -> tuple[Placement, ...]:
    return (Placement(service="chat", variant="v0", site=at, pool="gpu"),)


def two_sites() -> Fleet:
    """The file places at `a` alone."""
    made = fleet(
        (site("a"), site("b", "FR")), tenants=(tenant("t", ("DE", "FR")),), placements=placed("a")
    )
    return msgspec.structs.replace(made, slow_loop=PLACES)


def test_a_request_served_where_the_controller_placed_is_not_sent_elsewhere_by_the_files_placements() -> (
    None
):
    made = two_sites()
    asked = Asked("t-key", "t", "public", "DE", "chat", "a", "b", "v0", by_law=False)
    by_file = asked_again([(asked, 1.0)], table_of(made))
    assert by_file.count("elsewhere") == 1, "what would be told of a fleet placed by hand"
    could = msgspec.structs.replace(made, placements=could_run(made))
    assert asked_again([(asked, 1.0)], table_of(could)).same == 1
    gone = msgspec.structs.replace(could, placements=could_run(fleet((site("a"),))))
    assert asked_again([(asked, 1.0)], table_of(gone)).count("elsewhere") == 1


LARGE = Variant(
    id="v0", model="Llama-3.1-405B", precision="bf16", quality=0.5, quality_source="made up"
)


def mixed() -> Fleet:
    """Engines that somebody else runs at `a` and `b`, one small pool at `c`; one service fits nowhere."""
    given = Pool(id="gpu", accelerator="h100-sxm", count=1, driver="external", urls=("http://e:1",))
    large = msgspec.structs.replace(service("large"), variants=(LARGE,))
    return fleet(
        (site("a", pools=(given,)), site("b", pools=(given,)), site("c")),
        services=(service(), large),
        placements=placed("a"),
    )


def test_engines_that_nobody_starts_are_where_the_file_says() -> None:
    found = {(p.service, p.site, p.pool) for p in could_run(mixed())}
    assert found == {("chat", "a", "gpu"), ("chat", "c", "gpu")}


def test_a_service_that_no_pool_holds_is_warned_of_where_the_controller_places() -> None:
    made = mixed()
    assert misfits(made) == [], "placed by hand, and not at all"
    told = misfits(msgspec.structs.replace(made, slow_loop=PLACES))
    assert [one.where for one in told] == ["service[1]"]
    assert "8 x l4 at most" in told[0].got


def test_a_placement_that_its_pool_cannot_hold_is_warned_of() -> None:
    made = mixed()
    too_large = Placement(service="large", variant="v0", site="c", pool="gpu")
    fits = Placement(service="chat", variant="v0", site="c", pool="gpu", chips=1)
    told = misfits(msgspec.structs.replace(made, placements=(*placed("a"), fits, too_large)))
    assert [one.where for one in told] == ["placement[2]"]
    assert told[0].got == "Llama-3.1-405B in bf16 on 8 x l4, which cannot hold it"


def test_check_tells_it_as_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = Path("examples/league.toml").read_text()
    for was, now in (
        ('model = "SmolLM2-135M"', 'model = "Llama-3.1-405B"'),
        ('accelerator = "x86-thread"', 'accelerator = "l4"'),
    ):
        assert was in text
        text = text.replace(was, now)
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    assert check(path) == 0
    assert "warning: placement[0]: got Llama-3.1-405B" in capsys.readouterr().out
