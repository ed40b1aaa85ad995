"""Each wrong meaning of `[hub]` is found at its path, and a right one is none."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from hanse.model.check import check_fleet
from hanse.model.fleet import Fleet, Hub, OtherHub
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).with_name("five_sites.toml"))


def fleet(*ids: str, cluster_port: int = 8447, leaf_port: int = 8443) -> Fleet:
    others = tuple(
        OtherHub(id=id, host="10.0.0.2", leaf_port=leaf_port, cluster_port=8444) for id in ids
    )
    return replace(LEAGUE, hub=Hub(host="10.0.0.1", cluster_port=cluster_port, others=others))


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (fleet("a", "b", "c"), "hub.others"),
        (fleet("a", cluster_port=0), "hub.cluster_port"),
        (fleet("a", "a"), "hub.others[1].id"),
        (fleet(LEAGUE.sites[0].id), "hub.others[0].id"),
        (fleet("hub"), "hub.others[0].id"),
        (fleet("a", leaf_port=0), "hub.others[0].leaf_port"),
    ],
)
def test_a_wrong_hub_is_found_at_its_path(wrong: Fleet, where: str) -> None:
    assert [problem.where for problem in check_fleet(wrong)] == [where]


@pytest.mark.parametrize("ids", [(), ("a",), ("a", "b")])
def test_one_hub_three_and_one_that_waits_are_right(ids: tuple[str, ...]) -> None:
    assert check_fleet(fleet(*ids)) == []
