"""A spec says every request; what is drawn has the rates, shapes and prefixes that the spec states."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError
from hanse.model.read import read_fleet
from hanse.signals.traces import shipped_trace
from hanse.signals.traces.demand import Demand, burst_factors
from hanse.signals.traces.generate import TICKS_PER_S, generate
from hanse.signals.traces.spec import parse_spec, problems, read_spec
from hanse.signals.traces.trace import SHIPPED, checked
from hanse.units import s_from_hours
from signals.traces.made_traces import SPEC, same, spec, whole

ROOT = Path(__file__).parents[3]
CHAT = SPEC["service"][0]  # type: ignore[index]
ALONE: dict[str, Any] = {**CHAT, "conversation": {}}


@settings(max_examples=effort(8))
@given(st.integers(1, 5000), st.integers(0, 1 << 62), st.sampled_from([0.01, 0.5, 30.0]))
def test_the_same_seed_gives_the_same_bytes_whatever_the_chunk_size(
    size: int, seed: int, duration_h: float
) -> None:
    asked = spec(seed=seed, duration_h=duration_h, requests_per_s=3.0 / duration_h)
    assert same(whole(generate(asked), size), whole(generate(asked), 65_536))


CONVERSATIONS = st.fixed_dictionaries(
    {
        "turns_mean": st.sampled_from([1, 1.5, 20]),
        "think_s_median": st.sampled_from([0.01, 30, 5000]),
        "system_tokens": st.sampled_from([0, 31, 500]),
        "system_prompts": st.sampled_from([1, 70_000]),
        "context_tokens_max": st.sampled_from([1700, 1_000_000]),
    }
)
BURSTS = st.sampled_from(
    [
        {"kind": "gamma", "cv": 3.0, "interval_s": 7.0, "scope": "all"},
        {"kind": "markov", "factor": 50.0, "calm_s": 5, "busy_s": 900, "interval_s": 90.0},
    ]
)
FLASHES = st.lists(
    st.fixed_dictionaries(
        {
            "from_h": st.floats(0, 1),
            "until_h": st.floats(1.01, 9),
            "factor": st.sampled_from([0, 0.5, 9]),
        }
    ),
    max_size=2,
)


@settings(max_examples=effort(8))
@given(CONVERSATIONS, BURSTS, FLASHES, st.sampled_from([0.02, 3.0]), st.sampled_from([0, 1, 100]))
def test_whatever_a_spec_asks_for_its_trace_keeps_the_promises_of_one(
    talk: dict[str, Any],
    bursts: dict[str, Any],
    flash: list[dict[str, Any]],
    hours: float,
    size: int,
) -> None:
    asked = spec(
        service=[{**CHAT, "conversation": talk}, {**ALONE, "id": "embed"}],
        bursts=bursts,
        flash=flash,
        duration_h=hours,
        requests_per_s=0.3 / hours,
        block_tokens=size,
        growth_per_year=-0.5,
        tenant=[{"id": "a", "services": ["embed"]}, {"id": "b", "countries": ["EE"]}],
    )
    assert not list(problems(asked))
    trace = generate(asked)
    chunk = whole(trace, 97)
    list(checked([chunk], trace.meta, "made"))
    assert same(chunk, whole(generate(asked)))
    requests = chunk.requests
    assert (requests["tokens_in"] > 0).all()
    chat = requests[requests["service"] == 0]
    assert (chat["tokens_in"] + chat["tokens_out"] <= talk["context_tokens_max"]).all()
    assert (chat["tokens_in"] > talk["system_tokens"]).all()
    assert ((chat["session"] >= 0) == (talk["turns_mean"] > 1)).all()
    if size:
        assert (requests["block_count"] == requests["tokens_in"] // size).all()
        assert (chunk.blocks >= 0).all()


def test_another_seed_gives_another_trace() -> None:
    assert not same(whole(generate(spec(seed=1))), whole(generate(spec(seed=2))))


@settings(max_examples=effort(8))
@given(st.integers(0, 1000), st.sampled_from([0.001, 1.0, 40.0]), st.sampled_from([0, 32]))
def test_every_trace_is_sorted_within_its_window_and_knows_its_names(
    seed: int, rate: float, block_tokens: int
) -> None:
    trace = generate(
        spec(seed=seed, requests_per_s=rate, block_tokens=block_tokens, duration_h=0.5)
    )
    for chunk in checked(trace.chunks(1000), trace.meta, "made"):
        assert chunk.requests["at_s"][-1] < trace.meta.duration_s
        ticks = chunk.requests["at_s"] * TICKS_PER_S
        assert np.array_equal(ticks, np.floor(ticks)), "times are multiples of 2^-20 s"
        assert (len(chunk.blocks) == 0) == (block_tokens == 0)


@pytest.mark.parametrize("service", [CHAT, ALONE])
def test_the_mean_rate_is_the_stated_one(service: dict[str, Any]) -> None:
    asked = spec(requests_per_s=5.0, duration_h=24.0, service=[service])
    count = len(whole(generate(asked)).requests)
    # Conversations of mean 4: a standard error of about sqrt(count * 7); 1.5 % is above four of them.
    assert count == pytest.approx(5.0 * s_from_hours(24.0), rel=0.015)


def test_a_trace_begins_amid_conversations() -> None:
    asked = spec(requests_per_s=40.0, duration_h=1.0, hours=[1.0] * 24)
    per_part = np.histogram(whole(generate(asked)).requests["at_s"], bins=6)[0]
    assert per_part[0] == pytest.approx(per_part[1:].mean(), rel=0.08)


def test_origins_share_demand_by_weight_and_default_to_population() -> None:
    trace = generate(spec(requests_per_s=20.0))
    seen = np.bincount(whole(trace).requests["origin"], minlength=2)
    lyon = 520_774  # GeoNames, as the catalogue has it
    assert seen[0] / seen.sum() == pytest.approx(lyon / (lyon + 1e6), abs=0.01)
    assert [(o.id, o.country) for o in trace.meta.origins] == [("lyon", "FR"), ("tallinn", "EE")]


def test_the_day_follows_local_time_through_the_change_of_clocks() -> None:
    hours = [0.0] * 24
    hours[12] = 1.0  # everything around 12:30, local time
    asked = spec(duration_h=72.0, hours=hours, service=[ALONE], origin=[{"city": "Lyon"}])
    at_s = whole(generate(asked)).requests["at_s"] + asked.start.timestamp()
    middays = [
        at_s[(at_s >= day) & (at_s < day + 86_400.0)].mean()
        for day in at_s[0] // 86_400 * 86_400.0 + np.arange(3) * 86_400.0
    ]
    # Lyon is an hour ahead of UTC on 28 March 2026 and two from the 29th on.
    expected = [
        datetime(2026, 3, 28 + i, 11 - (i > 0), 30, tzinfo=UTC).timestamp() for i in range(3)
    ]
    assert middays == pytest.approx(expected, abs=300.0)


def test_weekdays_growth_and_crowds_lift_demand_by_their_factors() -> None:
    flat = {
        "hours": [1.0] * 24,
        "duration_h": 24.0 * 14,
        "origin": [{"city": "London"}, {"city": "Lyon"}],
    }
    demand = Demand(
        spec(
            **flat,
            weekdays=[1, 1, 1, 1, 1, 0.5, 0.5],
            growth_per_year=1.0,
            flash=[{"from_h": 100, "until_h": 101.5, "factor": 6.0, "origins": ["lyon"]}],
        )
    )
    begin_s = np.arange(24 * 14) * 3600.0
    plain = Demand(spec(**flat)).relative(begin_s, 3600.0)
    lifted = demand.relative(begin_s, 3600.0)
    ratio = lifted / plain
    assert ratio[24 * 7 + 12] / ratio[12] == pytest.approx(2.0 ** (7 / 365.2425))
    weekend_to_week = ratio[30] / ratio[60]  # Sunday to Monday
    assert weekend_to_week == pytest.approx(0.5, rel=0.01)
    assert (ratio[100] / ratio[99])[1] == pytest.approx(6.0, rel=0.01)
    assert (ratio[101] / ratio[99])[1] == pytest.approx(3.5, rel=0.01), "half of that hour"
    assert (ratio[100] / ratio[99])[0] == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize(
    "bursts",
    [
        {"kind": "gamma", "cv": 0.8, "interval_s": 30},
        {"kind": "markov", "factor": 5.0, "calm_s": 300, "busy_s": 60, "interval_s": 10},
    ],
)
def test_bursts_spread_demand_and_keep_its_mean(bursts: dict[str, Any]) -> None:
    asked = spec(bursts=bursts)
    rows = burst_factors(asked, 2)
    factors = np.array([next(rows) for _ in range(60_000)])
    assert factors.mean() == pytest.approx(1.0, rel=0.03)
    if bursts["kind"] == "gamma":
        assert factors.std() == pytest.approx(0.8, rel=0.03)
    else:
        assert factors.max() / factors.min() == pytest.approx(5.0)
        busy = factors[:, 0] > 1.0
        spells = np.diff(np.flatnonzero(np.diff(busy.astype(int))))
        lengths = sorted((spells[::2].mean() * 10, spells[1::2].mean() * 10))
        assert lengths == pytest.approx([60.0, 300.0], rel=0.1)
    assert abs(np.corrcoef(factors.T)[0, 1]) < 0.05, "each place has bursts of its own"
    counts = np.histogram(
        whole(
            generate(spec(bursts=bursts, requests_per_s=10.0, service=[ALONE], hours=[1.0] * 24))
        ).requests["at_s"],
        bins=240,
    )[0]
    assert counts.var() / counts.mean() > 3.0, "more than Poisson"


def test_a_turn_carries_everything_said_before_and_shares_its_blocks() -> None:
    chunk = whole(generate(spec(requests_per_s=5.0)))
    last: dict[int, tuple[int, int, list[int]]] = {}
    followed = 0
    for row in chunk.requests:
        size, session = 32, int(row["session"])
        ids = chunk.blocks[row["block_at"] : row["block_at"] + row["block_count"]].tolist()
        assert len(ids) == row["tokens_in"] // size, "full blocks only"
        assert row["tokens_in"] > 100, "a system prompt comes first"
        assert row["tokens_in"] + row["tokens_out"] <= 4000
        if session in last:
            before_in, before_out, before = last[session]
            assert row["tokens_in"] > before_in + before_out
            assert ids[: len(before)] == before
            followed += 1
        last[session] = (int(row["tokens_in"]), int(row["tokens_out"]), ids)
    assert followed > len(chunk.requests) / 2


def test_conversations_share_the_blocks_of_system_prompts_and_no_others() -> None:
    chunk = whole(generate(spec(requests_per_s=5.0)))
    owners: dict[int, set[int]] = {}
    for row in chunk.requests:
        for block in chunk.blocks[row["block_at"] : row["block_at"] + row["block_count"]].tolist():
            owners.setdefault(block, set()).add(int(row["session"]))
    shared = {block for block, sessions in owners.items() if len(sessions) > 1}
    assert shared == set(range(3 * (100 // 32))), "three prompts of three full blocks"


def test_turns_and_pauses_have_the_stated_means() -> None:
    talk = {
        **CHAT["conversation"],
        "context_tokens_max": 10_000_000,
        "think_s_sigma": 0.5,
        "turns_max": 1000,
    }
    asked = spec(service=[{**CHAT, "conversation": talk}], requests_per_s=20.0, duration_h=8.0)
    requests = whole(generate(asked)).requests
    inside = requests[(requests["at_s"] > 2000.0)]
    _, turns = np.unique(inside["session"], return_counts=True)
    assert turns.mean() == pytest.approx(4.0, rel=0.05)
    order = np.lexsort((inside["at_s"], inside["session"]))
    same_talk = np.diff(inside["session"][order]) == 0
    pauses = np.diff(inside["at_s"][order])[same_talk]
    assert np.median(pauses) == pytest.approx(40.0, rel=0.03)
    assert np.std(np.log(pauses)) == pytest.approx(0.5, rel=0.03)


def test_lengths_follow_their_distributions() -> None:
    requests = whole(generate(spec(service=[ALONE], requests_per_s=30.0))).requests
    logs = np.log(requests["tokens_in"][requests["tokens_in"] < 900])
    assert np.exp(np.median(logs)) == pytest.approx(80.0, rel=0.03)
    low = (requests["tokens_out"] < 50).mean()
    assert low == pytest.approx(0.25, abs=0.01)
    assert requests["tokens_out"].min() >= 1 and requests["tokens_out"].max() < 300
    assert (requests["session"] == -1).all(), "what stands alone has no session"


def test_a_tenant_sends_only_its_classes_and_services_from_its_countries() -> None:
    asked = spec(
        **{"class": [{"id": "public"}, {"id": "health", "weight": 3}]},
        tenant=[
            {"id": "all"},
            {"id": "clinic", "countries": ["EE"], "classes": ["health"], "weight": 3},
        ],
    )
    trace = generate(asked)
    requests = whole(trace).requests
    clinic = requests[requests["tenant"] == 1]
    assert set(clinic["origin"]) == {1} and set(clinic["cls"]) == {1}
    tallinn = requests[requests["origin"] == 1]
    assert (tallinn["tenant"] == 1).mean() == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"origin": [{"city": "Lyyon"}]}, "origin[0].city"),
        ({"origin": [{"city": "Lyon"}, {"city": "Lyon"}]}, "origin"),
        ({"tenant": [{"id": "t", "countries": ["DE"]}]}, "tenant.countries"),
        (
            {"flash": [{"from_h": 0, "until_h": 1, "factor": 2, "origins": ["x"]}]},
            "flash[0].origins",
        ),
        ({"hours": [0.0] * 23 + [1.0], "duration_h": 0.5}, "hours"),
    ],
)
def test_what_cannot_be_generated_is_said(change: dict[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as caught:
        whole(generate(spec(**change)))
    assert caught.value.where.startswith(where)


SHIPPED_TEXT = (SHIPPED / "league_day.toml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "where"),
    [
        ("seed = 1358", "seed = -1", "seed"),
        ("requests_per_s = 0.232", "requests_per_s = nan", "requests_per_s"),
        ("weekdays = [1.0, 1.0,", "weekdays = [1.0, inf,", "weekdays[1]"),
        ("turns_mean = 3.0", "turns_mean = inf", "service[0].conversation.turns_mean"),
        ("seed = 1358", "sed = 1358", "unknown field `sed`"),
        ("factor = 4", "factor = 4\nuntil_h = 1", "TOML"),
        ("until_h = 19.25", "until_h = 3", "flash[0].until_h"),
        ('id = "embed"', 'id = "chat"', "service"),
        ("context_tokens_max = 2048", "context_tokens_max = 512", "service[0].conversation"),
        ('classes = ["health", "personal", "public"]', 'classes = ["helth"]', "tenant[1].classes"),
        ("start = 2026-01-14T00:00:00Z", "start = 2026-01-14T00:00:00", "start"),
    ],
)
def test_a_wrong_spec_says_where(old: str, new: str, where: str) -> None:
    assert SHIPPED_TEXT.count(old) == 1
    with pytest.raises(ConfigError) as caught:
        parse_spec(SHIPPED_TEXT.replace(old, new), source="my.toml")
    assert "my.toml" in str(caught.value)
    assert where in str(caught.value).replace("'", "`")


def test_the_shipped_spec_still_makes_the_shipped_bytes() -> None:
    shipped, made = shipped_trace(), generate(read_spec(SHIPPED / "league_day.toml"))
    assert msgspec.structs.replace(shipped.meta, count=-1) == made.meta
    assert same(whole(shipped), whole(made))
    assert (SHIPPED / "league_day.parquet").stat().st_size < 400_000


def test_the_shipped_trace_fits_the_example_league() -> None:
    fleet = read_fleet(ROOT / "examples" / "league.toml")
    meta, chunk = shipped_trace().meta, whole(shipped_trace())
    assert 19_000 < meta.count < 22_000
    assert set(meta.services) == {s.id for s in fleet.services}
    assert set(meta.classes) == {c.id for c in fleet.classes}
    tenants = {t.id: t for t in fleet.tenants}
    assert set(meta.tenants) == set(tenants)
    rows = np.unique(chunk.requests[["tenant", "cls", "origin"]])
    assert len(rows) > 20
    for row in rows:
        tenant = tenants[meta.tenants[row["tenant"]]]
        assert meta.classes[row["cls"]] in tenant.classes
        allowed = {country for key in tenant.keys for country in key.countries}
        assert meta.origins[row["origin"]].country in allowed
    assert (chunk.requests["session"] >= 0).mean() > 0.5
