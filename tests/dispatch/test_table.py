"""The table: the same bytes for the same belief, served from its bytes, whole or not at all."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

import numpy as np
import pytest
from msgspec import structs

from dispatch.fleets import NOW_S, fleet, random_fleet, service, site, table_of, tenant
from hanse.dispatch.load import Load
from hanse.dispatch.router import Router, warm
from hanse.dispatch.table import (
    ALIGNMENT_BYTES,
    ARRAYS,
    MAGIC_BEFORE,
    RANK_LAST,
    SUBJECT_BEFORE_DTYPE,
    Table,
)
from hanse.errors import ConfigError
from hanse.model.fleet import Central, Key, Link, Placement


def test_a_table_survives_its_bytes() -> None:
    for seed in range(5):
        table = table_of(random_fleet(np.random.default_rng(seed)))
        again = Table.from_bytes(table.to_bytes())
        assert again.meta == table.meta
        for name in ARRAYS:
            assert np.array_equal(again.arrays[name], table.arrays[name])
        assert again.to_bytes() == table.to_bytes()


def test_the_same_belief_gives_the_same_bytes() -> None:
    made = random_fleet(np.random.default_rng(3))
    assert table_of(made).to_bytes() == table_of(made).to_bytes()


def test_a_mapped_file_is_used_in_place_and_cannot_be_written(tmp_path: Path) -> None:
    table = table_of(fleet((site("a"), site("b")), central=Central(site="b", replicas=2)))
    path = tmp_path / "table-1.tbl"
    path.write_bytes(table.to_bytes())
    with path.open("rb") as f:
        mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
    again = Table.from_bytes(mapped)
    start = np.frombuffer(mapped, np.uint8).ctypes.data
    for array in again.arrays.values():
        if array.size:
            assert start <= array.ctypes.data < start + len(mapped)
            assert (array.ctypes.data - start) % ALIGNMENT_BYTES == 0
        assert not array.flags.writeable
    assert Router(again, Load.of_shadow(again), 0)


@pytest.mark.parametrize("keep", [0, 7, 12, 40, -1, -70])
def test_a_cut_off_file_is_refused(keep: int) -> None:
    content = table_of(fleet((site("a"),))).to_bytes()
    with pytest.raises(ConfigError, match="routing table"):
        Table.from_bytes(content[:keep])


def test_a_file_of_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match="routing table"):
        Table.from_bytes(b"PNG" + bytes(100))


def test_names_lead_to_indices() -> None:
    chat = service("chat", aliases=("gpt-x", "other"))
    table = table_of(fleet((site("a"), site("b")), services=(chat, service("other"))))
    assert table.service_index == {"chat": 0, "gpt-x": 0, "other": 1}
    assert table.offer_names[table.offer_index["b/other/v0"]] == ("b", "other", "v0")
    assert table.variant(table.offer_index["b/other/v0"]).id == "v0"


def test_keys_are_found_by_their_digest_and_lead_to_rows_of_law() -> None:
    digest = hashlib.sha256(b"secret").hexdigest()
    key = Key(id="k", sha256=digest.upper(), countries=("DE", "FR", "AQ"))
    owner = tenant("t", (), classes=("personal", "health"), keys=(key,))
    table = table_of(fleet((site("a", "DE"), site("b", "US")), tenants=(owner,)))
    meta = table.meta.keys[digest]
    assert meta.services == ("chat",)
    row = meta.subjects["personal"]["FR"]
    assert table.lawful(row, 0)
    assert table.rules(row, 1) == ("GDPR-V",)
    assert table.rules_denying(row) == ("GDPR-V",)
    assert table.meta.rule_texts["GDPR-V"].startswith("GDPR")
    assert meta.subjects["health"]["AQ"] == 0
    assert table.subjects[meta.subjects["health"]["DE"]]["quality_min"] == 0.45
    assert b"secret" not in table.to_bytes()


def test_a_key_without_a_digest_opens_nothing() -> None:
    owner = tenant("t", (), keys=(Key(id="k", countries=("DE",)),))
    assert table_of(fleet((site("a"),), tenants=(owner,))).meta.keys == {}


def test_the_central_table_has_the_best_variant_at_one_site_only() -> None:
    made = fleet(
        (site("a"), site("b", "US")),
        services=(service(variants=2),),
        central=Central(site="b", replicas=5),
    )
    table = table_of(made)
    central = Table.from_bytes(table.to_bytes()).central
    assert central is not None
    assert central.meta.offers == ("b/chat/v0",)
    assert central.offers[0]["replicas"] == 5
    assert central.central is None
    router = Router(central, Load.of_shadow(central), 0)
    chosen = router.route(
        0, 1, tokens_in=9, tokens_out=9, deadline_ms=6e4, body_bytes=9, now_s=NOW_S
    )
    assert chosen == 0
    assert table_of(fleet((site("a"),))).central is None


def test_a_replica_gets_an_equal_share_of_its_pool() -> None:
    alone = Placement(service="chat", variant="v0", site="a", pool="gpu", replicas=1, slots=8)
    shared = Placement(service="chat", variant="v0", site="a", pool="gpu", replicas=4, slots=8)
    step_ms = [
        table_of(fleet((site("a"),), placements=(p,))).offers[0]["tpot_ms_base"]
        for p in (alone, shared)
    ]
    assert step_ms[1] > 2.0 * step_ms[0]


def test_paths_prefer_the_link_then_the_quickest_chain_then_the_internet() -> None:
    links = (
        Link(a="a", b="b", rtt_ms=50.0, mbit_s=100.0, usd_per_gb=0.01),
        Link(a="a", b="c", rtt_ms=10.0, mbit_s=1000.0, usd_per_gb=0.02),
        Link(a="c", b="b", rtt_ms=10.0, mbit_s=50.0, usd_per_gb=0.03),
        Link(a="b", b="d", rtt_ms=5.0, mbit_s=1000.0, usd_per_gb=0.04),
    )
    names = ("a", "b", "c", "d", "e")
    table = table_of(fleet(tuple(site(n) for n in names), links=links))
    paths = table.paths_from(0)
    assert paths["rtt_ms"][:4].tolist() == [0.0, 50.0, 10.0, 25.0]
    assert paths["ms_per_byte"][3] == pytest.approx(8.0 / 50e3, rel=1e-12)
    assert paths["usd_per_byte"][3] == pytest.approx(0.09e-9)
    assert paths["rtt_ms"][4] == 5.0, "same place, no link: two access networks"
    assert paths[0].tolist() == (0.0, 0.0, 0.0)


def test_warming_up_leaves_nothing_to_compile_for_a_request() -> None:
    from hanse.dispatch import choose as kernels

    warm()
    known = {
        name: len(getattr(kernels, name).signatures) for name in ("choose", "assess", "candidates")
    }
    table = Table.from_bytes(table_of(fleet((site("a"), site("b")))).to_bytes())
    load = Load(table)
    load.heard(0, NOW_S, age_s=0.0, power_ok=True, offers=[(0, 1, 0, 0, 0, 0)])
    router = Router(table, load, 0)
    router.explain(0, 1, tokens_in=9, tokens_out=9, deadline_ms=6, body_bytes=9, now_s=int(NOW_S))
    assert known == {name: len(getattr(kernels, name).signatures) for name in known}


def test_a_table_of_before_there_were_ranks_is_still_read_and_gives_up_its_classes_last() -> None:
    table = table_of(fleet((site("a"),)))
    raw = table.to_bytes()
    before = np.zeros(table.subjects.shape, SUBJECT_BEFORE_DTYPE)
    before["profile"], before["quality_min"] = (
        table.subjects["profile"],
        table.subjects["quality_min"],
    )
    arrays = {**table.arrays, "subjects": before}
    parts = [MAGIC_BEFORE, raw[8:16], raw[16 : 16 + int.from_bytes(raw[8:16], "little")]]
    length = sum(map(len, parts))
    for name in ARRAYS:
        content = np.ascontiguousarray(arrays[name]).tobytes()
        parts += [b"\0" * (-length % 64), content]
        length += -length % 64 + len(content)
    old = Table.from_bytes(b"".join(parts))
    assert (old.subjects["shed_rank"] == RANK_LAST).all()
    for name in ("profile", "quality_min"):
        assert (old.subjects[name] == table.subjects[name]).all()
    assert (old.offers == table.offers).all()
    assert Table.from_bytes(old.to_bytes()).meta == table.meta


def test_which_engines_go_on_with_others_answers_is_told_by_driver_and_file() -> None:
    made = fleet((site("a"), site("b"), site("c")))
    drivers: list[dict[str, object]] = [
        {},
        {"driver": "external", "urls": ("http://127.0.0.1:1",)},
        {"driver": "external", "urls": ("http://127.0.0.1:1",), "continues": True},
    ]
    sites = tuple(
        structs.replace(one, pools=tuple(structs.replace(pool, **more) for pool in one.pools))
        for one, more in zip(made.sites, drivers, strict=True)
    )
    table = table_of(structs.replace(made, sites=sites))
    told = {key.split("/")[0]: bool(table.continues[i]) for key, i in table.offer_index.items()}
    assert told == {"a": True, "b": False, "c": True}


def test_a_table_of_before_engines_could_go_on_is_read_and_none_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the version before reads past what it does not know: the array is the last."""
    table = table_of(fleet((site("a"), site("b"))))
    assert table.continues.all() and list(ARRAYS)[-1] == "continues"
    with monkeypatch.context() as older:
        older.setattr(table, "arrays", {n: a for n, a in table.arrays.items() if n != "continues"})
        older.delitem(ARRAYS, "continues")
        before = table.to_bytes()
    again = Table.from_bytes(before)
    assert not again.continues.any() and np.array_equal(again.offers, table.offers)
