"""Time, traffic, energy and loss of one training run, each figure with its validity.

Here: `forecast`, and the bandwidth that a wanted utilisation needs. Not here: money, carbon, failures, which option to take (`compare`).

Formulas. N parameters (N' per token), D tokens a step, R chips of Q achieved operations a second, M sites, b bits, B bit/s, H inner steps.

    computing of a step   T = 6 N' D / sum(R Q)                     arXiv 2001.08361; sites take tokens by their speed
    an exchange           X = 2 b N (1 - 1/M) / B + 2 (M - 1) l     ring all-reduce, l seconds a hop one way
    data parallel         T/3 + max(2 T/3, X) a step                backward hides the exchange
    DiLoCo                H T + X a round                           all stop and wait
    streaming DiLoCo      event by event (`fragments`)              without a number of layers: max(H T, X), a bound

Checked on published figures, in tests and in docs/training.md (bandwidth found over published):
data parallel 0.98 to 1.16 and DiLoCo 1.03 to 1.30 for utilisations of 50 to 95 % (arXiv 2501.18512, Table 4), streaming 0.89 to 1.22 up to 99 %; DiLoCo
with 100 and 300 inner steps 1.18 to 1.40 (arXiv 2503.09799, Table 6), which is on the safe side;
INTELLECT-1 (arXiv 2412.01152) 95.7, 85.6, 82.9 % against 95.7, 85.6, 83.0. Above 95 % data parallel is an upper bound (the last
layer's gradient has nothing to hide behind) and DiLoCo a lower one (its last backward pass hides some of the exchange).

Failures are left out: published goodput (torchft at Crusoe; arXiv 2604.21428) does not follow from failure rates by one formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Final

from hanse.catalogue import Accelerator, accelerator_named
from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.serving.training.energy import TrainingEnergy, training_energy
from hanse.serving.training.fragments import FORWARD_SHARE, streamed_utilisation
from hanse.serving.training.job import (
    DataParallel,
    DiLoCo,
    Figure,
    Method,
    MethodName,
    StreamingDiLoCo,
    TrainingJob,
    TrainingSite,
    Validity,
    Wan,
    known,
    method_name,
    not_known,
)
from hanse.serving.training.loss import DELAY_STEPS_MAX, loss_penalty
from hanse.units import BITS_PER_BYTE, BYTES_PER_GB, s_from_ms

OPERATIONS: Final = 6.0
"""Per parameter and token, forward and backward (arXiv 2001.08361); attention over the context is not in it."""
MFU_PUBLISHED: Final = {("h100-sxm", "bf16"): 0.433}
"""INTELLECT-1 at one site, 10B (arXiv 2412.01152, Table 2). Others: give the site's own."""
CHECKED_UTILISATION_MAX: Final = 0.95
STATE_BYTES: Final = 12.0
"""Per parameter: FP32 parameters and two Adam moments (arXiv 2501.18512, section 2.5)."""
OUTER_STATE_BYTES: Final = 8.0
"""Per parameter: outer parameters and Nesterov moment (same); streaming holds one fragment's."""
PAPER: Final = "arXiv 2501.18512 section 3.1, Table 4"
FLIPPED: Final[dict[Validity, Validity]] = {
    "known": "known",
    "upper bound": "lower bound",
    "lower bound": "upper bound",
    "not known": "not known",
}
SEARCH_TURNS: Final = 30
"""Halvings of fifteen decades: found to a part in ten million."""


class TrainingForecast(Value, frozen=True, kw_only=True):
    """What one way of training takes."""

    method: MethodName
    sites: tuple[str, ...]
    compute_s: Figure
    """One step's computing."""
    step_s: Figure
    """One step with its share of waiting."""
    exchange_s: Figure
    """One exchange of all parameters (streaming: all fragments), alone on the link; 0 at one site."""
    utilisation: Figure
    """Share of time that computes."""
    wan_gbit_s_mean: Figure
    """Sent by each site, over the whole run; each receives as much."""
    wan_gbit_s_peak: Figure
    bytes_per_site: Figure
    """Sent by each site over the whole run."""
    wall_s: Figure
    energy: TrainingEnergy
    loss_penalty_pct: Figure
    state_gb: float
    """Parameters and optimizer at each site; activations come on top."""
    fits: tuple[str, ...]
    """Sites whose chips hold that."""


def forecast(
    job: TrainingJob,
    sites: Sequence[TrainingSite],
    wan: Wan | None = None,
    method: Method | None = None,
) -> TrainingForecast:
    """Train `job` at these sites.

    Raises:
        ConfigError: no sites, several sites without links or a method, or more fragments than layers.
    """
    wan, method = _checked(job, sites, wan, method)
    compute = compute_s(job, sites)
    exchange = _exchange(job, len(sites), wan, method)
    used = _utilisation(job, len(sites), wan, method, compute)
    step = _derived((used, compute), lambda u, t: t / u, flips=True)
    wall = _derived((step,), lambda s: s * job.steps_n)
    sent = _sent_bytes(job, len(sites), method)
    state_gb = _state_bytes(job, method) / BYTES_PER_GB
    return TrainingForecast(
        method="one site" if method is None else method_name(method),
        sites=tuple(site.id for site in sites),
        compute_s=compute,
        step_s=step,
        exchange_s=exchange,
        utilisation=used,
        wan_gbit_s_mean=_derived((wall,), lambda w: sent * BITS_PER_BYTE / w / 1e9, flips=True),
        wan_gbit_s_peak=_peak(wan, method),
        bytes_per_site=known(sent, "2 b N (1 - 1/M) an exchange, ring all-reduce"),
        wall_s=wall,
        energy=training_energy(sites, wall, _derived((compute,), lambda t: t * job.steps_n)),
        loss_penalty_pct=known(0.0, "one site")
        if method is None
        else loss_penalty(job, method, len(sites), _spread(job, sites)),
        state_gb=state_gb,
        fits=tuple(site.id for site in sites if _memory_gb(site) >= state_gb),
    )


def compute_s(job: TrainingJob, sites: Sequence[TrainingSite]) -> Figure:
    """Computing of one step if every site takes tokens in proportion to its speed."""
    speeds = [operations_s(site, job.precision) for site in sites]
    for speed in speeds:
        if speed.value is None:
            return speed
    total = sum(speed.value for speed in speeds if speed.value is not None)
    sources = "; ".join(dict.fromkeys(s.source for s in speeds if s.source))
    operations = OPERATIONS * job.computed_n * job.batch_tokens
    return known(operations / total, "6 N D operations over achieved rates", sources)


def operations_s(site: TrainingSite, precision: str) -> Figure:
    """Achieved operations a second of a whole site."""
    chip = accelerator_named(site.accelerator, where=f"site {site.id}.accelerator")
    tflops = chip.bf16_tflops_dense if precision == "bf16" else chip.fp8_tflops_dense
    if tflops is None:
        return not_known(f"no {precision} rate published for {chip.name}", chip.source)
    mfu, source = site.mfu, "site's own MFU"
    if mfu is None:
        mfu, source = MFU_PUBLISHED.get((chip.id, precision)), "arXiv 2412.01152 Table 2"
    if mfu is None:
        return not_known(
            f"no training MFU published here for {chip.name} at {precision}: give site {site.id}.mfu"
        )
    return known(site.chips_n * mfu * tflops * 1e12, f"MFU {mfu:g}", source)


def data_parallel_share(step_s: float, exchange_s: float) -> float:
    """Utilisation if backward passes hide exchanges."""
    hidden_s = (1.0 - FORWARD_SHARE) * step_s
    return step_s / (FORWARD_SHARE * step_s + max(hidden_s, exchange_s))


def diloco_share(round_s: float, exchange_s: float) -> float:
    """Utilisation if all stop computing for an exchange."""
    return round_s / (round_s + exchange_s)


def exchange_seconds(
    parameters_n: float, bits: float, sites_n: int, bit_s: float, hop_s: float
) -> float:
    """One ring all-reduce over the slowest link."""
    volume = 2.0 * bits * parameters_n * (1.0 - 1.0 / sites_n)
    return volume / bit_s + latency_seconds(sites_n, hop_s)


def latency_seconds(sites_n: int, hop_s: float) -> float:
    """A ring all-reduce passes 2 (M - 1) hops one after the other."""
    return 2.0 * (sites_n - 1) * hop_s


def utilisation_of(
    job: TrainingJob, sites_n: int, wan: Wan, method: Method, step_s: float
) -> Figure:
    """Share of time that computes, if a step computes for `step_s`.

    Raises:
        ConfigError: more fragments than layers.
    """
    exchange_s = _exchange_value(job, sites_n, wan, method)
    if isinstance(method, DataParallel):
        why = "the last layer's gradient has nothing to hide behind"
        return _within(data_parallel_share(step_s, exchange_s), "upper bound", why)
    if isinstance(method, DiLoCo):
        why = "the last backward pass hides some of the exchange"
        share = diloco_share(method.inner_steps * step_s, exchange_s)
        return _within(share, "lower bound", why)
    return _streamed(job, sites_n, wan, method, step_s, exchange_s)


def bandwidth_needed_mbit_s(
    job: TrainingJob,
    sites_n: int,
    method: Method,
    step_s: float,
    utilisation: float,
    one_way_ms: float = 0.0,
) -> float | None:
    """Rate of the slowest link with which sites compute for this share of time; None: no rate does, or it is not known."""

    def reached(mbit_s: float) -> float:
        wan = Wan(bottleneck_mbit_s=mbit_s, one_way_ms=one_way_ms)
        return utilisation_of(job, sites_n, wan, method, step_s).value or 0.0

    low, high = 1e-3, 1e12
    if reached(high) < utilisation:
        return None
    for _ in range(SEARCH_TURNS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reached(middle) >= utilisation else (middle, high)
    return high


def _checked(
    job: TrainingJob, sites: Sequence[TrainingSite], wan: Wan | None, method: Method | None
) -> tuple[Wan | None, Method | None]:
    if not sites:
        raise ConfigError("sites", got="none", allowed="at least one")
    if len(sites) == 1:
        return None, None
    if wan is None or method is None:
        got = f"{len(sites)} sites without {'links' if wan is None else 'a method'}"
        raise ConfigError("training", got=got, allowed="a wan and a method for several sites")
    if isinstance(method, StreamingDiLoCo) and (job.layers_n or math.inf) < method.fragments_n:
        raise ConfigError(
            "streaming_diloco.fragments_n",
            got=method.fragments_n,
            allowed=f"at most {job.layers_n}, the model's layers",
        )
    return wan, method


def _exchange_value(job: TrainingJob, sites_n: int, wan: Wan, method: Method) -> float:
    bit_s, hop_s = wan.bottleneck_mbit_s * 1e6, s_from_ms(wan.one_way_ms)
    return exchange_seconds(job.parameters_n, method.bits, sites_n, bit_s, hop_s)


def _exchange(job: TrainingJob, sites_n: int, wan: Wan | None, method: Method | None) -> Figure:
    if wan is None or method is None:
        return known(0.0, "one site")
    return known(
        _exchange_value(job, sites_n, wan, method), "ring all-reduce over the slowest link"
    )


def _utilisation(
    job: TrainingJob, sites_n: int, wan: Wan | None, method: Method | None, compute: Figure
) -> Figure:
    if wan is None or method is None:
        return known(1.0, "one site: its own exchange is in its MFU")
    if compute.value is None:
        return compute
    return utilisation_of(job, sites_n, wan, method, compute.value)


def _within(share: float, beyond: Validity, why: str) -> Figure:
    if share <= CHECKED_UTILISATION_MAX:
        return known(share, "closed form, checked up to 95 %", PAPER)
    return Figure(value=share, validity=beyond, why=why, source=PAPER)


def _streamed(
    job: TrainingJob,
    sites_n: int,
    wan: Wan,
    method: StreamingDiLoCo,
    step_s: float,
    exchange_s: float,
) -> Figure:
    spacing = method.inner_steps / method.fragments_n
    if method.delay_steps > min(spacing, DELAY_STEPS_MAX):
        return not_known(
            f"a delay of {method.delay_steps} steps: checked up to the {spacing:.3g} between two fragments, and up to {DELAY_STEPS_MAX}",
            PAPER,
        )
    if job.layers_n is None:
        round_s = method.inner_steps * step_s
        return Figure(
            value=round_s / max(round_s, exchange_s),
            validity="upper bound",
            why="layers_n not given, so all of the exchange is taken as hidden",
            source=PAPER,
        )
    if job.layers_n < method.fragments_n:
        raise ConfigError(
            "streaming_diloco.fragments_n",
            got=method.fragments_n,
            allowed=f"at most {job.layers_n}, the model's layers",
        )
    latency_s = latency_seconds(sites_n, s_from_ms(wan.one_way_ms))
    share = streamed_utilisation(
        step_s=step_s,
        layers_n=job.layers_n,
        fragments_n=method.fragments_n,
        inner_steps=method.inner_steps,
        delay_steps=method.delay_steps,
        layer_exchange_s=(exchange_s - latency_s) / job.layers_n,
        latency_s=latency_s,
    )
    return known(share, "event by event, checked at 30 and 100 inner steps, delay 0 and 1", PAPER)


def _sent_bytes(job: TrainingJob, sites_n: int, method: Method | None) -> float:
    """By each site over the run; a round that the run does not finish counts by its share."""
    if method is None:
        return 0.0
    every = 1 if isinstance(method, DataParallel) else method.inner_steps
    once = 2.0 * method.bits * job.parameters_n * (1.0 - 1.0 / sites_n) / BITS_PER_BYTE
    return once * job.steps_n / every


def _peak(wan: Wan | None, method: Method | None) -> Figure:
    if wan is None or method is None:
        return known(0.0, "one site")
    return known(wan.bottleneck_mbit_s / 1e3, "while an exchange runs it fills the slowest link")


def _state_bytes(job: TrainingJob, method: Method | None) -> float:
    if isinstance(method, StreamingDiLoCo):
        return job.parameters_n * (STATE_BYTES + OUTER_STATE_BYTES / method.fragments_n)
    outer = OUTER_STATE_BYTES if isinstance(method, DiLoCo) else 0.0
    return job.parameters_n * (STATE_BYTES + outer)


def _memory_gb(site: TrainingSite) -> float:
    chip: Accelerator = accelerator_named(site.accelerator, where=f"site {site.id}.accelerator")
    return site.chips_n * (chip.memory_gb or 0.0)


def _spread(job: TrainingJob, sites: Sequence[TrainingSite]) -> float:
    speeds = [s for site in sites if (s := operations_s(site, job.precision).value)]
    return max(speeds) / min(speeds) if len(speeds) == len(sites) else math.inf


def _derived(
    given: tuple[Figure, ...], formula: Callable[..., float], *, flips: bool = False
) -> Figure:
    """A figure computed from others; its bound is that of the first, turned round where `flips`."""
    values = [figure.value for figure in given]
    for figure in given:
        if figure.value is None:
            return figure
    first = given[0]
    return Figure(
        value=formula(*values),
        validity=FLIPPED[first.validity] if flips else first.validity,
        why=first.why,
        source=first.source,
    )
