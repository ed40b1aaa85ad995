"""Training across sites: published cells are met, figures are ordered as they must be, and what is not known says so."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError
from hanse.serving.training import (
    DataParallel,
    DiLoCo,
    Figure,
    Method,
    StreamingDiLoCo,
    TrainingJob,
    TrainingSite,
    Wan,
    bandwidth_needed_mbit_s,
    compare_training,
    forecast,
    loss_penalty,
    utilisation_of,
)
from hanse.serving.training.forecast import diloco_share
from hanse.serving.training.fragments import ROUNDS, streamed_utilisation

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("training_tables", ROOT / "benchmarks/training.py")
assert SPEC is not None and SPEC.loader is not None
published = importlib.util.module_from_spec(SPEC)
sys.modules["training_tables"] = published
SPEC.loader.exec_module(published)

PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
JOB = TrainingJob(parameters_n=1e9, layers_n=24, tokens_n=25e9, batch_tokens=1e6)
WAN = Wan(bottleneck_mbit_s=1000.0, one_way_ms=10.0)
STREAM = StreamingDiLoCo(fragments_n=8)


def site(name: str, chips: int = 16, **other: object) -> TrainingSite:
    given_w = {"busy_w": 900.0, "waiting_w": 300.0}
    return msgspec.convert(
        {"id": name, "accelerator": "h100-sxm", "chips_n": chips, "pue": 1.25, **given_w, **other},
        TrainingSite,
    )


def sites(count: int, **other: object) -> list[TrainingSite]:
    return [site(f"s{i}", **other) for i in range(count)]


def value(figure: Figure) -> float:
    assert figure.value is not None, figure.why
    return figure.value


methods = st.one_of(
    st.builds(DataParallel, bits=st.sampled_from([4.0, 8.0, 16.0, 32.0])),
    st.builds(DiLoCo, inner_steps=st.integers(1, 500), bits=st.sampled_from([4.0, 8.0, 16.0])),
    st.builds(
        StreamingDiLoCo,
        fragments_n=st.integers(1, 24),
        inner_steps=st.integers(24, 200),
        delay_steps=st.integers(0, 1),
        bits=st.sampled_from([4.0, 16.0]),
    ),
)
wans = st.builds(
    Wan,
    bottleneck_mbit_s=st.floats(10.0, 1e6),
    one_way_ms=st.floats(0.0, 200.0),
)
counts = st.integers(2, 12)


@pytest.mark.parametrize(("where", "exchange_s", "percent"), published.INTELLECT_1)
def test_intellect_1_is_reproduced(where: str, exchange_s: float, percent: float) -> None:
    found = 100.0 * diloco_share(published.INTELLECT_1_INNER_S, exchange_s)
    assert found == pytest.approx(percent, abs=0.1), where


@pytest.mark.parametrize(
    ("method", "inner", "best", "low", "high", "cells"),
    [
        ("data_parallel", 1, 0.95, 0.98, 1.16, 12),
        ("diloco", 100, 0.95, 1.03, 1.30, 12),
        ("streaming_diloco", 100, 0.99, 0.88, 1.22, 45),
        ("streaming_diloco", 30, 0.99, 0.98, 1.26, 15),
    ],
)
def test_published_bandwidths_are_met(
    method: str, inner: int, best: float, low: float, high: float, cells: int
) -> None:
    ratios = [
        published.needed_gbit_s(cell) / float(cell["gbit_s"])
        for cell in published.cells()
        if cell["method"] == method
        and int(cell["inner_steps"]) == inner
        and float(cell["utilisation"]) <= best
    ]
    assert len(ratios) == cells
    assert min(ratios) >= low - 0.005 and max(ratios) <= high + 0.005


def test_one_graph_of_layers_meets_all_methods_up_to_99_percent() -> None:
    """Data parallel and DiLoCo are the event model with one fragment; their closed forms fail at 99 %."""
    for cell in published.cells():
        if cell["method"] == "streaming_diloco":
            continue
        alike = StreamingDiLoCo(
            fragments_n=1, inner_steps=int(cell["inner_steps"]), delay_steps=0, bits=16.0
        )
        found = bandwidth_needed_mbit_s(
            published.job_of(cell), 2, alike, float(cell["step_s"]), float(cell["utilisation"])
        )
        assert found is not None
        assert 0.85 < found / 1e3 / float(cell["gbit_s"]) < 1.25, cell


@pytest.mark.parametrize("method", ["data_parallel", "streaming_diloco"])
def test_hours_on_dolma_at_one_gbit_are_met(method: str) -> None:
    for compute_h, hours in published.DOLMA_HOURS[method]:
        assert published.dolma_hours(method, compute_h) == pytest.approx(hours, rel=0.04)


def test_the_page_holds_the_tables_that_the_benchmark_prints() -> None:
    assert published.tables() in PAGE, "run benchmarks/training.py --write"


def test_the_pages_example_runs_and_gives_reasons() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    printed: list[tuple[object, ...]] = []
    exec(compile(code, "docs/training.md", "exec"), {"print": lambda *v: printed.append(v)})
    assert printed and printed[0][0] == "across sites"


@given(methods, wans, counts)
def test_utilisation_is_a_share_and_grows_with_bandwidth(
    method: Method, wan: Wan, count: int
) -> None:
    faster = msgspec.structs.replace(wan, bottleneck_mbit_s=2.0 * wan.bottleneck_mbit_s)
    slow = value(utilisation_of(JOB, count, wan, method, 0.1))
    fast = value(utilisation_of(JOB, count, faster, method, 0.1))
    assert 0.0 < slow <= fast * (1.0 + 1e-9) and fast <= 1.0


@given(methods, wans, counts, st.integers(2, 4))
def test_utilisation_grows_with_inner_steps(
    method: Method, wan: Wan, count: int, times: int
) -> None:
    if isinstance(method, DataParallel):
        return
    longer = msgspec.structs.replace(method, inner_steps=times * method.inner_steps)
    often = value(utilisation_of(JOB, count, wan, method, 0.1))
    rarely = value(utilisation_of(JOB, count, wan, longer, 0.1))
    assert rarely >= often * (1.0 - 1e-9)


@given(methods, counts)
def test_more_sites_never_send_less(method: Method, count: int) -> None:
    few = forecast(JOB, sites(count), WAN, method)
    more = forecast(JOB, sites(count + 1), WAN, method)
    assert value(more.bytes_per_site) > value(few.bytes_per_site)
    assert value(more.exchange_s) > value(few.exchange_s)


@given(methods, wans, counts)
def test_energy_and_time_add_up(method: Method, wan: Wan, count: int) -> None:
    found = forecast(JOB, sites(count), wan, method)
    wall, computing = value(found.wall_s), value(found.compute_s) * JOB.steps_n
    power_kw = count * 16 * 1.25 / 1000.0
    assert value(found.energy.busy_kwh) == pytest.approx(power_kw * 900.0 * computing / 3600.0)
    total = value(found.energy.busy_kwh) + value(found.energy.waiting_kwh)
    assert value(found.energy.total_kwh) == pytest.approx(total)
    waiting_kwh = power_kw * 300.0 * max(0.0, wall - computing) / 3600.0
    assert value(found.energy.waiting_kwh) == pytest.approx(waiting_kwh, abs=1e-6 * total)
    assert value(found.utilisation) == pytest.approx(computing / wall)
    sent_gbit = value(found.bytes_per_site) * 8.0 / 1e9
    assert value(found.wan_gbit_s_mean) * wall == pytest.approx(sent_gbit)


@given(wans, counts, st.integers(1, 24), st.integers(24, 200), st.integers(0, 1))
@settings(max_examples=effort(50))
def test_a_streamed_round_repeats_itself(
    wan: Wan, count: int, fragments: int, inner: int, delay: int
) -> None:
    exchange_s = 4e9 * 2.0 * (1.0 - 1.0 / count) / (wan.bottleneck_mbit_s * 1e6)
    few, many = (
        streamed_utilisation(
            step_s=0.1, layers_n=24, fragments_n=fragments, inner_steps=inner, delay_steps=delay,
            layer_exchange_s=exchange_s / 24, latency_s=wan.one_way_ms / 1e3, rounds=rounds,
        )
        for rounds in (ROUNDS, 3 * ROUNDS)
    )  # fmt: skip
    assert few == pytest.approx(many, rel=1e-6)


@given(wans, counts)
def test_without_layers_a_streamed_utilisation_is_an_upper_bound(wan: Wan, count: int) -> None:
    bound = utilisation_of(msgspec.structs.replace(JOB, layers_n=None), count, wan, STREAM, 0.1)
    assert bound.validity == "upper bound"
    assert value(bound) >= value(utilisation_of(JOB, count, wan, STREAM, 0.1)) - 1e-9
    found = forecast(msgspec.structs.replace(JOB, layers_n=None), sites(count), wan, STREAM)
    assert found.wall_s.validity == "lower bound"


def test_one_site_waits_for_nobody() -> None:
    found = forecast(JOB, [site("alone")])
    assert value(found.utilisation) == 1.0 and value(found.bytes_per_site) == 0.0
    assert value(found.wall_s) == pytest.approx(6 * 1e9 * 25e9 / (16 * 0.433 * 989e12))
    assert value(found.loss_penalty_pct) == 0.0 and found.fits == ("alone",)


@pytest.mark.parametrize(
    ("method", "parameters", "count", "percent", "validity"),
    [
        (DataParallel(), 70e9, 100, 0.0, "known"),
        (DiLoCo(inner_steps=30), 35e6, 8, 3.9, "known"),
        (DiLoCo(inner_steps=30), 10e9, 2, -0.19, "known"),
        (DiLoCo(inner_steps=30), 10e9, 8, None, "not known"),
        (DiLoCo(inner_steps=30), 11e9, 2, None, "not known"),
        (DiLoCo(inner_steps=30), 1.3e9, 9, None, "not known"),
        (DiLoCo(inner_steps=10), 1.3e9, 4, 0.5, "upper bound"),
        (DiLoCo(inner_steps=100), 1.3e9, 4, 0.5, "lower bound"),
        (StreamingDiLoCo(fragments_n=8), 1e9, 2, 0.40, "known"),
        (StreamingDiLoCo(fragments_n=8, inner_steps=50), 1e9, 2, 0.40, "upper bound"),
        (StreamingDiLoCo(fragments_n=8), 1e9, 8, None, "not known"),
    ],
)
def test_loss_is_that_of_published_cells_or_says_how_far_it_holds(
    method: Method, parameters: float, count: int, percent: float | None, validity: str
) -> None:
    job = TrainingJob(parameters_n=parameters, tokens_n=20 * parameters, batch_tokens=1e6)
    found = loss_penalty(job, method, count)
    assert found.validity == validity and found.why
    assert found.value == (None if percent is None else pytest.approx(percent, abs=0.005))


@given(st.floats(35e6, 2.4e9), st.integers(2, 8))
def test_interpolated_losses_lie_between_published_ones(parameters: float, count: int) -> None:
    job = TrainingJob(parameters_n=parameters, tokens_n=20 * parameters, batch_tokens=1e6)
    found = value(loss_penalty(job, DiLoCo(inner_steps=30), count))
    more = loss_penalty(job, DiLoCo(inner_steps=30), min(8, count + 1))
    assert -0.4 <= found <= 3.9 and found <= value(more) + 1e-9


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"active_parameters_n": 5e8}, "dense"),
        ({"tokens_n": 1e9}, "tokens per parameter"),
        ({"tokens_n": 1e12}, "tokens per parameter"),
    ],
)
def test_a_job_unlike_published_runs_has_no_known_loss(change: dict[str, float], why: str) -> None:
    found = loss_penalty(msgspec.structs.replace(JOB, **change), STREAM, 2)
    assert found.value is None and why in found.why


def test_unequal_sites_have_a_time_but_no_known_loss() -> None:
    found = forecast(JOB, [site("a", 16), site("b", 48)], WAN, STREAM)
    equal = forecast(JOB, sites(2, chips=32), WAN, STREAM)
    assert value(found.wall_s) == pytest.approx(value(equal.wall_s))
    assert found.loss_penalty_pct.value is None and "speed" in found.loss_penalty_pct.why


def test_a_chip_without_published_mfu_has_no_known_time() -> None:
    found = forecast(JOB, sites(2, accelerator="a100-sxm-80"), WAN, STREAM)
    for figure in (found.wall_s, found.utilisation, found.energy.total_kwh, found.wan_gbit_s_mean):
        assert figure.validity == "not known" and "mfu" in figure.why
    assert (
        value(forecast(JOB, sites(2, accelerator="a100-sxm-80", mfu=0.4), WAN, STREAM).wall_s) > 0
    )


def test_a_delay_beyond_what_was_checked_has_no_known_utilisation() -> None:
    for method in (
        StreamingDiLoCo(fragments_n=8, delay_steps=13),
        StreamingDiLoCo(fragments_n=2, delay_steps=6),
    ):
        found = forecast(JOB, sites(2), WAN, method)
        assert found.wall_s.validity == "not known" and "delay" in found.wall_s.why


def test_closed_forms_are_bounds_above_95_percent() -> None:
    quick = Wan(bottleneck_mbit_s=1e6, one_way_ms=0.0)
    assert utilisation_of(JOB, 2, quick, DataParallel(), 0.1).validity == "upper bound"
    assert utilisation_of(JOB, 2, quick, DiLoCo(), 0.1).validity == "lower bound"
    alike = StreamingDiLoCo(fragments_n=1, inner_steps=1, delay_steps=0, bits=16.0)
    assert value(utilisation_of(JOB, 2, quick, alike, 0.1)) <= value(
        utilisation_of(JOB, 2, quick, DataParallel(), 0.1)
    )


def test_power_that_is_not_given_is_bounded_by_the_chips_rating() -> None:
    rated = forecast(JOB, sites(2, busy_w=None, waiting_w=None), WAN, DiLoCo())
    assert rated.energy.total_kwh.validity == "upper bound"
    kw = 2 * 16 * 1.25 * 0.7
    assert value(rated.energy.total_kwh) == pytest.approx(kw * value(rated.wall_s) / 3600.0)


def test_rated_power_over_a_least_time_is_no_bound() -> None:
    open_ = msgspec.structs.replace(JOB, layers_n=None)
    found = forecast(open_, sites(2, waiting_w=None), WAN, STREAM)
    assert found.energy.total_kwh.validity == "not known"


def test_central_is_chosen_where_it_meets_the_deadline() -> None:
    free = compare_training(JOB, central=site("c"), sites=sites(2), wan=WAN, methods=[STREAM])
    assert free.choice == "across sites" and "streaming_diloco" in free.reasons[0]
    assert free.central is not None
    limit = value(free.central.wall_s) + 1.0
    tied = compare_training(
        JOB, central=site("c"), sites=sites(2), wan=WAN, methods=[STREAM], deadline_s=limit
    )
    assert tied.choice == "central" and tied.chosen == tied.central


def test_central_is_chosen_where_it_is_about_as_fast() -> None:
    found = compare_training(
        JOB, central=site("c", 32), sites=sites(2), wan=WAN, methods=[STREAM, DataParallel()]
    )
    assert found.choice == "central" and "times as fast" in found.reasons[0]


def test_a_way_whose_loss_is_not_known_is_not_chosen() -> None:
    large = TrainingJob(parameters_n=1.3e9, layers_n=24, tokens_n=26e9, batch_tokens=1e6)
    found = compare_training(
        large, central=None, sites=sites(4), wan=WAN, methods=[DiLoCo(inner_steps=100)]
    )
    assert found.choice == "none" and found.chosen is None
    assert any("at least" in reason for reason in found.reasons)
    lenient = compare_training(
        large, central=None, sites=sites(4), wan=WAN, methods=[DiLoCo(inner_steps=30)]
    )
    assert lenient.choice == "across sites"


def test_a_model_that_does_not_fit_centrally_goes_across_only_if_it_fits_there() -> None:
    big = TrainingJob(parameters_n=10e9, layers_n=48, tokens_n=200e9, batch_tokens=4e6)
    one_chip = site("c", 1)
    found = compare_training(
        big, central=one_chip, sites=sites(2), wan=WAN, methods=[DiLoCo(inner_steps=30)]
    )
    assert found.choice == "across sites" and any("do not fit at c" in r for r in found.reasons)
    none = compare_training(
        big, central=one_chip, sites=sites(2, chips=1), wan=WAN, methods=[DiLoCo(inner_steps=30)]
    )
    assert none.choice == "none"


@given(methods, wans, counts, st.integers(1, 200), st.floats(0.0, 4.0))
@settings(max_examples=effort(60))
def test_what_is_chosen_fits_has_a_time_and_keeps_the_loss(
    method: Method, wan: Wan, count: int, chips: int, limit: float
) -> None:
    found = compare_training(
        JOB, central=site("c", chips), sites=sites(count), wan=wan, methods=[method],
        loss_penalty_pct_max=limit,
    )  # fmt: skip
    assert found.reasons and found.choice in ("central", "across sites")
    chosen = found.chosen
    assert chosen is not None and set(chosen.fits) == set(chosen.sites)
    assert value(chosen.loss_penalty_pct) <= limit
    assert chosen.wall_s.validity in ("known", "upper bound")
    if found.choice == "across sites" and found.central is not None:
        assert value(found.central.wall_s) >= 1.1 * value(chosen.wall_s)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: TrainingJob(parameters_n=0.0, tokens_n=1.0, batch_tokens=1.0),
        lambda: TrainingJob(
            parameters_n=1.0, tokens_n=1.0, batch_tokens=1.0, active_parameters_n=2.0
        ),
        lambda: site("a", mfu=1.5),
        lambda: site("a", pue=0.9),
        lambda: Wan(bottleneck_mbit_s=0.0, one_way_ms=0.0),
        lambda: DiLoCo(bits=2.0),
        lambda: StreamingDiLoCo(fragments_n=101),
        lambda: forecast(JOB, []),
        lambda: forecast(JOB, sites(2)),
        lambda: forecast(JOB, sites(2), WAN, StreamingDiLoCo(fragments_n=25)),
    ],
    ids=[
        "no parameters",
        "more active than all",
        "mfu",
        "pue",
        "no bandwidth",
        "too few bits",
        "more fragments than steps",
        "no sites",
        "no links",
        "more fragments than layers",
    ],
)
def test_what_cannot_be_is_refused_with_where_and_what_is_allowed(wrong) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ConfigError) as error:
        wrong()
    assert error.value.where and error.value.allowed
