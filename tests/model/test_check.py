"""Each wrong meaning put into a good fleet is found at its path, alone and among others."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.model import fleet as nouns
from hanse.model.check import RANGES, _walk, check_fleet
from hanse.model.fleet import Fleet, Value
from hanse.model.known_ids import check_known_ids
from hanse.model.problem import Problem
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).with_name("five_sites.toml"))

Change = Callable[[Any], Any]


def changed(value: Any, path: str, change: Change) -> Any:
    """`value` with what stands at `path` put through `change`; nothing is validated on the way."""
    steps = re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)
    return _changed(value, [(name, int(index or 0)) for name, index in steps], change)


def _changed(value: Any, steps: list[tuple[str, int]], change: Change) -> Any:
    if not steps:
        return change(value)
    (name, index), rest = steps[0], steps[1:]
    if not name:
        return (*value[:index], _changed(value[index], rest, change), *value[index + 1 :])
    field = next(f.name for f in msgspec.structs.fields(value) if name in (f.encode_name, f.name))
    new = _changed(getattr(value, field), rest, change)
    return msgspec.structs.replace(value, **{field: new})


def put(new: object) -> Change:
    return lambda old: new


def again(**other: object) -> Change:
    """Append the first item once more, with other fields."""
    return lambda items: (*items, msgspec.structs.replace(items[0], **other))


EXTERNAL = {"driver": "external", "urls": ("http://127.0.0.1:1",)}

SLIPS: dict[str, tuple[str, Change, str]] = {
    "class doubled": ("class", again(), "class[3].id"),
    "site doubled": ("site", again(), "site[5].id"),
    "site called hub": ("site[2].id", put("hub"), "site[2].id"),
    "pool doubled": ("site[0].pool", again(), "site[0].pool[1].id"),
    "service doubled": ("service", again(aliases=()), "service[1].id"),
    "variant doubled": ("service[0].variant", again(), "service[0].variant[2].id"),
    "tenant doubled": ("tenant", again(keys=()), "tenant[3].id"),
    "key doubled": ("tenant[2].key[0].id", put("demo"), "tenant[2].key[0].id"),
    "central unknown": ("central.site", put("virgina"), "central.site"),
    "quality out of reach": ("class[2].quality_min", put(0.9), "class[2].quality_min"),
    "country of a wrong shape": ("site[1].country", put("fr"), "site[1].country"),
    "no supply": ("site[1].power.grid_kw_max", put(0.0), "site[1].power.grid_kw_max"),
    "battery without power": (
        "site[0].power.battery_kw_max",
        put(0.0),
        "site[0].power.battery_kw_max",
    ),
    "battery without energy": ("site[3].power.battery_kwh", put(0.0), "site[3].power.battery_kwh"),
    "external without urls": ("site[1].pool[0].driver", put("external"), "site[1].pool[0].urls"),
    "urls without external": (
        "site[1].pool[0].urls",
        put(("http://127.0.0.1:1",)),
        "site[1].pool[0].urls",
    ),
    "no url": (
        "site[1].pool[0]",
        lambda pool: msgspec.structs.replace(pool, driver="external", urls=("localhost:1",)),
        "site[1].pool[0].urls[0]",
    ),
    "port doubled": ("site[4].gateway.port", put(8102), "site[4].gateway.port"),
    "hop port as a port": ("site[4].gateway.hop_port", put(8103), "site[4].gateway.hop_port"),
    "link to nowhere": ("link[0].b", put("lion"), "link[0].b"),
    "link to itself": ("link[9].b", put("tallinn"), "link[9].b"),
    "link doubled": ("link", again(a="lyon", b="frankfurt"), "link[10]"),
    "site alone": (
        "site",
        lambda sites: (
            *sites,
            msgspec.structs.replace(sites[0], id="oslo", gateway=nouns.Gateway()),
        ),
        "site[5].id",
    ),
    "service without variant": ("service[0].variant", put(()), "service[0].variant"),
    "service without endpoint": ("service[0].endpoints", put(()), "service[0].endpoints"),
    "deadline before first token": (
        "service[0].slo.ttft_ms",
        put(70e3),
        "service[0].slo.deadline_s",
    ),
    "quality without source": (
        "service[0].variant[1].quality_source",
        put(" "),
        "service[0].variant[1].quality_source",
    ),
    "alias taken": ("service[0].aliases", put(("chat",)), "service[0].aliases[0]"),
    "alias doubled": ("service[0].aliases", put(("a", "a")), "service[0].aliases[1]"),
    "tenant without class": ("tenant[0].classes", put(()), "tenant[0].classes"),
    "tenant without key": ("tenant[0].key", put(()), "tenant[0].key"),
    "class of a tenant unknown": ("tenant[1].classes", put(("helth",)), "tenant[1].classes[0]"),
    "class of a tenant twice": (
        "tenant[1].classes",
        put(("public", "public")),
        "tenant[1].classes[1]",
    ),
    "service of a tenant unknown": ("tenant[1].services", put(("chad",)), "tenant[1].services[0]"),
    "key without country": ("tenant[1].key[0].countries", put(()), "tenant[1].key[0].countries"),
    "digest of a wrong shape": ("tenant[1].key[0].sha256", put("abc"), "tenant[1].key[0].sha256"),
    "service of a placement unknown": ("placement[1].service", put("chad"), "placement[1].service"),
    "variant of a placement unknown": ("placement[1].variant", put("q8"), "placement[1].variant"),
    "site of a placement unknown": ("placement[2].site", put("londn"), "placement[2].site"),
    "pool of a placement unknown": ("placement[2].pool", put("gpu"), "placement[2].pool"),
    "placement doubled": ("placement", again(), "placement[5]"),
    "more replicas than chips": ("placement[4].replicas", put(2), "placement[4].replicas"),
    "policy of another kind": ("policy.cedar_files", put(("a.txt",)), "policy.cedar_files[0]"),
}


def wheres(fleet: Fleet) -> set[str]:
    return {problem.where for problem in check_fleet(fleet)}


def test_the_example_league_has_no_problem() -> None:
    assert check_fleet(LEAGUE) == []


@pytest.mark.parametrize("name", SLIPS)
def test_each_slip_is_found_at_its_path(name: str) -> None:
    path, change, where = SLIPS[name]
    problems = check_fleet(changed(LEAGUE, path, change))
    found = [problem for problem in problems if problem.where == where]
    assert found, problems
    assert all(problem.got and problem.allowed for problem in found)


def _touch(one: str, other: str) -> bool:
    """Whether two slips change the same part, so that one may hide the other."""
    a, b = SLIPS[one][0], SLIPS[other][0]
    return a.startswith(b) or b.startswith(a)


@given(st.lists(st.sampled_from(sorted(SLIPS)), min_size=2, max_size=8, unique=True))
def test_slips_at_once_are_all_found(names: list[str]) -> None:
    kept: list[str] = []
    for name in names:
        if not any(_touch(name, other) or _hides(name, other) for other in kept):
            kept.append(name)
    fleet = LEAGUE
    for name in kept:
        path, change, _ = SLIPS[name]
        fleet = changed(fleet, path, change)
    assert {SLIPS[name][2] for name in kept} <= wheres(fleet)


def _hides(one: str, other: str) -> bool:
    """A reference is judged only where what it leans on is there: these pairs are one slip, not two."""
    leaning = [
        {"service of a placement unknown", "variant of a placement unknown"},
        {"site of a placement unknown", "pool of a placement unknown"},
        {"service without variant", "quality out of reach"},
        {"service without variant", "quality without source"},
        {"link doubled", "link to nowhere"},
        {"link doubled", "link to itself"},
        {"port doubled", "hop port as a port"},
        {"site of a placement unknown", "more replicas than chips"},
        {"key doubled", "tenant without key"},
        {"site alone", "site doubled"},
        {"site called hub", "pool of a placement unknown"},
        {"external without urls", "urls without external"},
        {"placement doubled", "more replicas than chips"},
    ]
    return {one, other} in leaning


NUMBERS = [(where, type(owner), name) for where, owner, name, _ in _walk(LEAGUE, "")]


@given(
    st.sampled_from(NUMBERS),
    st.sampled_from(["nan", "inf", "-inf", "below", "above"]),
    st.floats(min_value=1e-3, max_value=1e6),
)
def test_every_number_out_of_its_range_is_found(
    number: tuple[str, type, str], how: str, by: float
) -> None:
    where, owner, name = number
    allowed = RANGES[owner, name]
    bad = {
        "nan": math.nan,
        "inf": math.inf,
        "-inf": -math.inf,
        "below": allowed.low - by,
        "above": allowed.high + by,
    }[how]
    assert where in wheres(changed(LEAGUE, where, put(bad)))


def test_every_number_of_every_noun_has_a_range() -> None:
    values = [v for v in vars(nouns).values() if isinstance(v, type) and issubclass(v, Value)]
    for noun in values:
        for field in msgspec.structs.fields(noun):
            text = str(field.type)
            if any(kind in text for kind in ("float", "int")) and "Struct" not in text:
                assert (noun, field.name) in RANGES, f"{noun.__name__}.{field.name}"


@given(st.permutations(range(5)), st.permutations(range(10)))
def test_the_order_of_tables_makes_no_problem(sites: list[int], links: list[int]) -> None:
    shuffled = msgspec.structs.replace(
        LEAGUE,
        sites=tuple(LEAGUE.sites[i] for i in sites),
        links=tuple(LEAGUE.links[i] for i in links),
    )
    assert check_fleet(shuffled) == []


def test_a_single_site_needs_no_link() -> None:
    site = LEAGUE.sites[0]
    placements = tuple(p for p in LEAGUE.placements if p.site == site.id)
    alone = msgspec.structs.replace(
        LEAGUE, sites=(site,), links=(), placements=placements, central=None
    )
    assert check_fleet(alone) == []


def test_a_digest_that_may_be_the_secret_is_never_shown() -> None:
    bad = changed(LEAGUE, "tenant[1].key[0].sha256", put("hanse-secret"))
    assert not any("hanse-secret" in str(problem) for problem in check_fleet(bad))


def known_ids(fleet: Fleet) -> list[Problem]:
    return check_known_ids(
        fleet,
        accelerators={"x86-thread"},
        models={"SmolLM2-135M": "dense", "MiniLM": "embedding", "Whisper": "asr"},
        countries={"DE", "FR", "GB", "EE", "US"},
    )


@pytest.mark.parametrize(
    ("model", "endpoints", "wrong"),
    [
        ("MiniLM", ("embeddings",), False),
        ("SmolLM2-135M", ("embeddings",), False),
        ("MiniLM", ("chat",), True),
        ("MiniLM", ("chat", "embeddings"), True),
        ("Whisper", ("embeddings",), True),
    ],
)
def test_a_model_of_another_kind_than_its_service_is_found(
    model: str, endpoints: tuple[str, ...], wrong: bool
) -> None:
    fleet = changed(LEAGUE, "service[0].variant[0].model", put(model))
    fleet = changed(fleet, "service[0].endpoints", put(endpoints))
    found = [problem.where for problem in known_ids(fleet)]
    assert found == (["service[0].variant[0].model"] if wrong else [])


def test_ids_unknown_to_the_catalogue_are_named_with_a_guess() -> None:
    assert known_ids(LEAGUE) == []
    bad = LEAGUE
    for path, new in (
        ("site[0].pool[0].accelerator", "x86-tread"),
        ("service[0].variant[1].model", "SmolLM-135M"),
        ("site[2].country", "UK"),
    ):
        bad = changed(bad, path, put(new))
    problems = known_ids(bad)
    assert {problem.where: problem.fix for problem in problems} == {
        "site[0].pool[0].accelerator": "did you mean 'x86-thread'?",
        "service[0].variant[1].model": "did you mean 'SmolLM2-135M'?",
        "site[2].country": "did you mean 'GB'?",
    }


def test_engines_beyond_what_a_site_can_watch_are_found() -> None:
    many = changed(LEAGUE, "site[0].pool[0].count", put(100))
    many = changed(many, "placement[0].replicas", put(65))
    assert wheres(many) == {"placement[0].replicas"}


def test_reports_do_not_repeat_themselves() -> None:
    for path, change, _ in SLIPS.values():
        problems = check_fleet(changed(LEAGUE, path, change))
        assert all(a != b for a, b in itertools.combinations(problems, 2))
