"""Other ways to choose: what defines each, whatever they answer the gates hold, and how people bring their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.fleets import fleet, site, tenant
from effort import effort
from hanse.errors import ConfigError
from hanse.model.fleet import Central, Fleet, Placement
from hanse.signals.traces.trace import REQUEST_DTYPE, Origin, Trace, TraceMeta
from hanse.twin import arrays as ar
from hanse.twin import policies
from hanse.twin.policies import BUILT_IN, OWN, Features, Policy, names, resolve
from hanse.twin.runs import simulate
from hanse.twin.simulate import Simulation
from twin.fleets import powered_fleet, random_faults, random_trace

PAGE = Path(__file__).parents[2] / "docs" / "policies.md"
INF = float("inf")
PLACES = {"de": ("DE", 50.0, 8.0), "fr": ("FR", 46.0, 5.0), "us": ("US", 39.0, -77.0)}


def made(central: str | None = None) -> Fleet:
    """Three far sites; personal data of Germans may not go to the one in America."""
    return fleet(
        tuple(
            site(name, country, lat_deg=lat, lon_deg=lon)
            for name, (country, lat, lon) in PLACES.items()
        ),
        tenants=(tenant("t", ("DE",)),),
        central=Central(site=central) if central else None,
    )


def asked(count: int = 300, rate_rps: float = 1.0, cls: int = 0) -> Trace:
    """Requests of one class from Germany, too few to fill a site."""
    rng = np.random.default_rng(5)
    requests = np.zeros(count, REQUEST_DTYPE)
    requests["at_s"] = np.cumsum(rng.exponential(1.0 / rate_rps, count))
    requests["cls"] = cls
    requests["tokens_in"] = rng.integers(20, 200, count)
    requests["tokens_out"] = rng.integers(5, 40, count)
    meta = TraceMeta(
        name="asked",
        source="a test",
        licence="none",
        services=("chat",),
        classes=("public", "personal"),
        origins=(Origin(id="o", lat_deg=50.0, lon_deg=8.0, country="DE"),),
        tenants=("t",),
        count=count,
        duration_s=float(requests["at_s"][-1]) + 1.0,
    )
    return Trace.of(meta, requests)


def run(policy: Policy | str, made_: Fleet | None = None, trace: Trace | None = None) -> Any:
    """The arrays after a run."""
    simulation = Simulation(made_ or made(), trace or asked(), policy=policy)
    simulation.run()
    return simulation.world


def served(world: Any) -> list[int]:
    return world.flow.sum(axis=0).tolist()  # type: ignore[no-any-return]


def own(score: Callable[[Any], float]) -> Policy:
    return Policy("own", OWN, score, "a test")


def features(**known: float) -> Features:
    """An idle offer elsewhere, but for what is known."""
    idle = dict.fromkeys(Features._fields, 0.0) | {
        "replicas": 1.0,
        "slots": 8.0,
        "tokens_in": 100.0,
    }
    return Features(**(idle | known))


def scored(name: str, **known: float) -> float:
    return float(resolve(name).score.py_func(features(**known)))  # type: ignore[union-attr]


# --- what defines each


def test_nearest_stays_where_the_user_is() -> None:
    assert served(run("nearest")) == [300, 0, 0]


def test_round_robin_goes_round() -> None:
    assert served(run("round_robin")) == [100, 100, 100]


def test_round_robin_leaves_out_what_the_law_forbids() -> None:
    assert served(run("round_robin", trace=asked(cls=1))) == [150, 150, 0]


def test_central_only_serves_at_the_central_site() -> None:
    assert served(run("central_only", made("fr"))) == [0, 300, 0]


def test_central_only_refuses_what_may_not_go_there() -> None:
    world = run("central_only", made("us"), asked(cls=1))
    assert served(world) == [0, 0, 0]
    assert world.sums[0, ar.SUM_REFUSED] == 300


def test_central_only_needs_a_central_site() -> None:
    with pytest.raises(ConfigError, match="central"):
        Simulation(made(), asked(), policy="central_only")


@pytest.mark.parametrize("name", policies.ONE_ENTRY)
def test_one_balancer_is_everybodys_entry_where_law_lets_it(name: str) -> None:
    trace = asked(200)
    run = Simulation(made("fr"), trace, policy=name, rows=lambda rows: kept.append(rows.copy()))
    kept: list[np.ndarray] = []
    run.run()
    rows = np.concatenate(kept)
    assert len(rows) == 200 and set(rows["entry"].tolist()) == {1}
    assert served(run.world)[0] > 0, "it sends to all sites"
    world = Simulation(made("us"), asked(50, cls=1), policy=name)
    world.run()
    assert world.world.sums[0, ar.SUM_REFUSED] == 50, "no other gateway stands in for it"


def test_round_robin_takes_a_sites_engines_in_turn() -> None:
    one = site("de", "DE")
    many = fleet(
        (one,),
        placements=(Placement(service="chat", variant="v0", site="de", pool="gpu", replicas=4, slots=4),),
        tenants=(tenant("t", ("DE",)),),
    )  # fmt: skip
    trace = asked(400, 0.2)
    run = Simulation(many, trace, policy="round_robin")
    run.run()
    steps = run.world.engines["tokens_decoded"]
    fewest = Simulation(many, trace, policy="least_load")
    fewest.run()
    assert steps.max() < 1.3 * steps.min(), "each has had a hundred requests"
    assert fewest.world.engines["tokens_decoded"].min() == 0, (
        "an idle fleet's first is always the idlest"
    )


def test_least_load_spreads_by_requests_a_replica() -> None:
    busy = asked(count=600, rate_rps=40.0)
    shares = np.array(served(run("least_load", trace=busy))) / 600
    assert shares.min() > 0.2
    assert scored("least_load", load=2.0) < scored("least_load", load=3.0)


def test_single_figures_decide_the_single_minded() -> None:
    for name, figure in (
        ("least_latency", "e2e_ms"),
        ("cheapest", "usd"),
        ("greenest", "g"),
        ("nearest", "rtt_ms"),
        ("round_robin", "after_last"),
    ):
        assert scored(name, **{figure: 1.0}) < scored(name, **{figure: 2.0})
        assert scored(name, **{figure: 1.0}) == scored(name, **{figure: 1.0, "tokens": 7.0})


def test_greenest_and_cheapest_are_so() -> None:
    sums = {p: run(p).sums[0] for p in ("greenest", "cheapest", "nearest", "round_robin")}
    carbon_g = {p: s[ar.SUM_G] for p, s in sums.items()}
    usd_per_g = made().weights.usd_per_tonne_co2e / 1e6
    usd = {p: s[ar.SUM_USD] + usd_per_g * s[ar.SUM_G] for p, s in sums.items()}
    assert carbon_g["greenest"] == min(carbon_g.values()) < carbon_g["round_robin"]
    # Only predicted cost is minimised: what others add to a batch later may make another place cheaper after all.
    assert usd["cheapest"] < min(usd["nearest"], usd["round_robin"])


def test_prefix_affinity_follows_the_prefix_until_load_is_uneven() -> None:
    even = {"load_least": 10.0, "load_most": 60.0}
    uneven = {"load_least": 10.0, "load_most": 90.0}
    holder, idle = {"cached_tokens": 40.0, "load": 60.0}, {"load": 10.0}
    assert scored("prefix_affinity", **even, **holder) < scored("prefix_affinity", **even, **idle)
    assert scored("prefix_affinity", **uneven, **holder) > scored(
        "prefix_affinity", **uneven, **idle
    )
    slight = holder | {"cached_tokens": 30.0}  # not more than 0.3 of the prompt
    assert scored("prefix_affinity", **even, **slight) > scored("prefix_affinity", **even, **idle)


def test_selective_pushing_pushes_only_what_would_wait() -> None:
    here, full = {"is_local": 1.0}, {"pending": 1.0, "load": 8.0}
    holder = {"cached_tokens": 90.0, "cached_most": 90.0, "load": 7.0}
    idle = {"cached_most": 90.0, "load": 1.0}

    def score(**known: float) -> float:
        return scored("selective_pushing", **known)

    assert score(**here, load=7.0) < score(**holder) < score(**idle)
    assert score(**idle) < score(**here, **full) < score(**full)
    # Below half of the prompt the prefix does not count.
    assert score(cached_tokens=49.0, cached_most=49.0, load=7.0) > score(cached_most=49.0, load=1.0)


def test_selective_pushing_stays_at_home_while_there_is_room() -> None:
    assert served(run("selective_pushing")) == [300, 0, 0]
    assert served(run("selective_pushing", trace=asked(3000, 100.0)))[1] > 0


def test_latency_terms_add_up_in_milliseconds() -> None:
    known = {"rtt_ms": 90.0, "prefill_ms_per_token": 2.0, "prefill_tokens": 30.0, "replicas": 3.0}
    assert scored("latency_terms", **known, cached_tokens=60.0) == 90.0 + 2.0 * (10.0 + 40.0)


def test_equal_scores_go_to_the_lowest_offer() -> None:
    assert served(run(own(lambda f: 7.0))) == [300, 0, 0]


# --- the shipped decision


def shipped_again(f: Any) -> float:
    """On time before late, then cost, or the value of waiting among the late."""
    return 1e6 + f.cost_usd - f.usd if f.late != 0.0 else f.cost_usd


@pytest.mark.parametrize("rate_rps", [1.0, 60.0])
def test_a_policy_can_say_what_the_shipped_decision_does(rate_rps: float) -> None:
    """Other code, same figures, same order: each request goes to the same place."""
    trace = asked(800, rate_rps)
    np.testing.assert_array_equal(
        run("shipped", trace=trace).sums, run(own(shipped_again), trace=trace).sums
    )


def test_without_a_policy_the_shipped_decision_runs() -> None:
    simulation = Simulation(made(), asked())
    simulation.run()
    np.testing.assert_array_equal(simulation.world.sums, run("shipped").sums)
    assert (simulation.world.turns == -1).all(), "no policy chose"


# --- law, power, death and room are nobody's to decide


@given(
    seed=st.integers(0, 2**32 - 1),
    answers=st.lists(
        st.one_of(st.floats(), st.sampled_from([float("nan"), INF, -INF, -1e308, 0.0])),
        min_size=1,
        max_size=7,
    ),
)
@settings(max_examples=effort(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_answer_gets_past_a_gate(seed: int, answers: list[float]) -> None:
    rng = np.random.default_rng(seed)
    made_ = powered_fleet(rng)
    trace = random_trace(made_, rng, count=150)
    faults = random_faults(made_, rng, trace.meta.duration_s, 2)
    policy = own(lambda f: answers[int(f.offer + f.tokens_in) % len(answers)])
    simulation = Simulation(made_, trace, policy=policy, scenario=faults)
    simulation.run()
    world = simulation.world
    assert world.clock[0]["unlawful"] == 0
    ended = [ar.SUM_SERVED, ar.SUM_REFUSED, ar.SUM_FAILED, ar.SUM_BROKEN]
    assert world.sums[0][ended].sum() == 150
    assert not world.own["requests"].any()


def test_a_policy_that_wants_the_forbidden_site_does_not_get_it() -> None:
    def to_america(f: Any) -> float:
        return -INF if f.offer == 2.0 else f.rtt_ms

    assert served(run(own(to_america))) == [0, 0, 300]
    assert served(run(own(to_america), trace=asked(cls=1))) == [300, 0, 0]


def test_nan_and_infinity_mean_not_this_one() -> None:
    for never in (float("nan"), INF):
        assert served(run(own(lambda f, never=never: never if f.is_local else 1.0)))[0] == 0
        refused = run(own(lambda f, never=never: never))
        assert refused.sums[0, ar.SUM_REFUSED] == 300


# --- people's own


def test_compiled_or_not_the_same_function_chooses_the_same(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def fast(f):\n    return f.rtt_ms + 2.0 * f.load\n\n\n"
        "def slow(f):\n    return sum(map(float, [str(f.rtt_ms), str(2.0 * f.load)]))\n"
    )
    fast, slow = resolve(f"{path}:fast"), resolve(f"{path}:slow")
    assert fast.compiled and not slow.compiled and slow.why_not
    assert not fast.notes and slow.why_not in slow.notes[0]
    trace = asked(400, 30.0)
    np.testing.assert_array_equal(run(fast, trace=trace).sums, run(slow, trace=trace).sums)


@pytest.mark.parametrize(
    "name", [f.__name__ for f in BUILT_IN if not resolve(f.__name__).needs_central]
)
def test_runs_repeat_and_a_copy_of_a_built_in_policy_does_the_same(name: str) -> None:
    trace = asked(500, 40.0)
    one = run(name, trace=trace)
    np.testing.assert_array_equal(one.sums, run(name, trace=trace).sums)
    np.testing.assert_array_equal(one.sums, run(own(resolve(name).score), trace=trace).sums)  # type: ignore[arg-type]


def test_what_a_function_raises_is_raised_after_the_run() -> None:
    def broken(f: Any) -> float:
        raise KeyError({f.offer: {}})

    def compiled(f: Any) -> float:
        if f.offer >= 0.0:
            raise ValueError("no site is good enough")
        return 1.0

    assert own(compiled).compiled and not own(broken).compiled
    with pytest.raises(ConfigError, match="KeyError"):
        run(own(broken))
    with pytest.raises(
        ConfigError, match=r"ValueError: no site is good enough \(test_policies.py, line"
    ):
        run(own(compiled))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda f: f.rtt_s, "no attribute 'rtt_s'"),
        (lambda f: "soon", "could not convert string"),
        (lambda f: None, "not 'NoneType'"),
        (lambda f: f.rtt_ms + "", "unsupported operand"),
    ],
)
def test_what_numba_stumbles_over_is_told_in_pythons_words(wrong: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        run(own(wrong))


def test_a_result_says_that_its_policy_ran_as_python(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "def slow(f):\n    return float(str(f.rtt_ms))\n\n\ndef fast(f):\n    return f.rtt_ms\n"
    )
    league = Path(__file__).parents[2] / "examples" / "league.toml"
    for name, count in (("slow", 1), ("fast", 0)):
        notes = simulate(league, policy=f"{path}:{name}", scale=0.002).notes
        assert len([n for n in notes if "runs as Python" in n and "30 times" in n]) == count


def test_a_package_may_name_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("home", "hanse.twin.policies:nearest", "hanse.policies")
    monkeypatch.setattr(policies, "entry_points", lambda group: [point])
    assert "home" in names()
    assert served(run(resolve("home"))) == [300, 0, 0]


def test_names_are_found_and_others_are_told_what_there_is(tmp_path: Path) -> None:
    assert [resolve(n).number for n in names()[:14]] == list(range(14))
    assert resolve("least-load").name == "least_load"
    with pytest.raises(ConfigError, match="shipped, nearest, round_robin"):
        resolve("best")
    with pytest.raises(ConfigError, match="no such file"):
        resolve(f"{tmp_path}/none.py:score")
    path = tmp_path / "two.py"
    path.write_text("def one(f):\n    return 0.0\n\n\ndef two(f, g):\n    return 0.0\n")
    with pytest.raises(ConfigError, match="one, two"):
        resolve(f"{path}:three")
    with pytest.raises(ConfigError, match="2 arguments"):
        resolve(f"{path}:two")
    path.write_text("import nothing_of_that_name\n")
    with pytest.raises(ConfigError, match="nothing_of_that_name"):
        resolve(f"{path}:one")


def test_every_example_of_the_page_compiles_and_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(blocks) >= 3
    for i, block in enumerate(blocks):
        path = tmp_path / f"example{i}.py"
        path.write_text(block)
        policy = resolve(f"{path}:score")
        assert policy.compiled, policy.why_not
        assert run(policy, made("fr"), asked(60)).sums[0, ar.SUM_SERVED] == 60


def test_the_page_lists_every_feature_and_every_policy() -> None:
    text = PAGE.read_text()
    for name in (*Features._fields, *names()[:14]):
        assert f"`{name}`" in text, name
