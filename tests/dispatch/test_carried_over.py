"""When a fleet file takes another's place: what was placed since goes on where it still can."""

from __future__ import annotations

from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.rolling import carried_over, league_problem
from hanse.model.fleet import Fleet, Placement
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).parents[2] / "examples" / "league.toml")
SITES = [site.id for site in LEAGUE.sites]


def with_sites(*ids: str) -> Fleet:
    return msgspec.structs.replace(
        LEAGUE,
        sites=tuple(site for site in LEAGUE.sites if site.id in ids),
        placements=tuple(p for p in LEAGUE.placements if p.site in ids),
        links=(),
        central=None,
    )


@st.composite
def decided(draw: st.DrawFn) -> tuple[Fleet, tuple[Placement, ...], Fleet]:
    """An old file, what an optimiser has made of it, and a new file: sites come and go."""
    before = draw(st.sets(st.sampled_from(SITES), min_size=1))
    after = draw(st.sets(st.sampled_from(SITES), min_size=1))
    old = with_sites(*before)
    placed = tuple(p for p in old.placements if draw(st.booleans()))
    return old, placed, with_sites(*after)


@given(decided())
def test_what_is_carried_over_fits_and_changes_no_site_that_stays(
    case: tuple[Fleet, tuple[Placement, ...], Fleet],
) -> None:
    old, in_force, new = case
    kept = carried_over(old, in_force, new)
    if kept is None:
        return  # the new file's own holds
    assert league_problem(new, kept) == ""
    stay = {s.id for s in old.sites} & {s.id for s in new.sites}
    fresh = {s.id for s in new.sites} - stay
    assert [p for p in kept if p.site in stay] == [p for p in in_force if p.site in stay]
    assert {p for p in kept if p.site in fresh} == {p for p in new.placements if p.site in fresh}


@given(st.sets(st.sampled_from(SITES), min_size=1), st.sets(st.sampled_from(SITES), min_size=1))
def test_a_fleet_that_nobody_placed_anew_follows_its_file(
    before: set[str], after: set[str]
) -> None:
    old, new = with_sites(*before), with_sites(*after)
    assert carried_over(old, old.placements, new) is None


def test_an_operator_who_places_anew_at_a_site_that_stays_is_obeyed() -> None:
    old = with_sites("frankfurt", "lyon")
    in_force = old.placements[1:]
    moved = tuple(msgspec.structs.replace(p, slots=p.slots + 1) for p in old.placements)
    assert carried_over(old, in_force, msgspec.structs.replace(old, placements=moved)) is None
    assert carried_over(old, in_force, with_sites(*SITES)) is not None
