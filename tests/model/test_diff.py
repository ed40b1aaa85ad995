"""The difference of two fleet files: applied to the one it is the other, and it is empty only where they are equal."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.model.diff import Edit, fleet_edits, said, with_edits
from hanse.model.fleet import Facility, Fleet, Key, Link, PlantMeter, Register
from hanse.model.read import read_fleet
from league.random_fleets import random_fleet

FIVE = read_fleet(Path(__file__).with_name("five_sites.toml"))
replace = msgspec.structs.replace


def mixed(rng: np.random.Generator, one: Fleet, other: Fleet) -> Fleet:
    """A fleet with some things of each, in an order of its own: no right fleet, but one of its form."""
    fields = {}
    for name in ("classes", "sites", "links", "services", "tenants", "placements"):
        items = list(getattr(one, name)) + list(getattr(other, name))
        chosen = [item for item in items if rng.random() < 0.7]
        rng.shuffle(chosen)  # type: ignore[arg-type]
        fields[name] = tuple(chosen)
    for name in ("policy", "weights", "slow_loop", "central", "hub", "batch"):
        fields[name] = getattr(one if rng.random() < 0.5 else other, name)
    if rng.random() < 0.5:
        registers = (Register(point="p", quantity="power_w", address=int(rng.integers(9))),)
        fields["facilities"] = (
            Facility(id="meter", site="a", driver="modbus", registers=registers),
        )
        fields["meters"] = (
            PlantMeter(id="m", site="a", facility="meter", point="p", measures="it"),
        )
    return replace(one, **fields)


@settings(max_examples=effort(150), deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_a_difference_applied_to_the_old_is_the_new(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = random_fleet(rng, "one"), random_fleet(rng, "one")
    old, new = mixed(rng, one, other), mixed(rng, one, other)
    edits = fleet_edits(old, new)
    assert with_edits(old, edits) == new
    assert with_edits(new, fleet_edits(new, old)) == old
    assert bool(edits) == (old != new)
    assert bool(said(edits)) == bool(edits)
    assert fleet_edits(old, old) == ()


def test_it_survives_the_wire() -> None:
    new = replace(FIVE, sites=FIVE.sites[1:], links=())
    edits = fleet_edits(FIVE, new)
    sent = msgspec.json.decode(msgspec.json.encode(edits), type=type(edits))
    back = msgspec.convert(sent, tuple[Edit, ...])
    assert with_edits(FIVE, back) == new


def test_what_a_person_reads_names_the_thing_and_the_field() -> None:
    site = FIVE.sites[0]
    more = replace(site, power=replace(site.power, grid_kw_max=7.0))
    tenant = FIVE.tenants[0]
    key = Key(id="second", countries=("SE",), sha256="ab" * 32)
    new = replace(
        FIVE,
        sites=(more, *FIVE.sites[2:]),
        tenants=(
            replace(
                tenant,
                keys=(
                    replace(tenant.keys[0], countries=(*tenant.keys[0].countries, "NO")),
                    *tenant.keys[1:],
                    key,
                ),
            ),
            *FIVE.tenants[1:],
        ),
        links=tuple(link for link in FIVE.links if FIVE.sites[1].id not in (link.a, link.b)),
        policy=replace(FIVE.policy, valid_s=60.0),
    )
    lines = said(fleet_edits(FIVE, new))
    text = "\n".join(lines)
    assert f"site {site.id}\n  ~ power.grid_kw_max: {site.power.grid_kw_max:g} -> 7" in text
    assert f"- site {FIVE.sites[1].id}: " in text
    assert f"tenant {tenant.id}\n  ~ key {tenant.keys[0].id}.countries: +NO" in text
    assert "  + key second: speaks for SE" in text
    assert "policy\n  ~ valid_s: 86400 -> 60" in text
    assert "ab" * 32 not in text


def test_order_alone_is_a_difference_and_spelling_is_none() -> None:
    turned = replace(FIVE, sites=FIVE.sites[::-1])
    (edit,) = fleet_edits(FIVE, turned)
    assert (edit.kind, edit.path) == ("order", ("site",))
    assert with_edits(FIVE, (edit,)) == turned


def test_two_links_of_one_pair_are_told_apart() -> None:
    link = Link(a="a", b="b", rtt_ms=1.0, mbit_s=1.0)
    old, new = replace(FIVE, links=(link, link)), replace(FIVE, links=(link,))
    (edit,) = fleet_edits(old, new)
    assert edit.kind == "remove"
    assert with_edits(old, (edit,)) == new
