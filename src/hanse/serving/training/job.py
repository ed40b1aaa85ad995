"""What is trained, where, over which links and by which method; and what a figure with its validity is.

Here: frozen values and their checks. Not here: any formula (`forecast`, `fragments`, `loss`).
"""

from __future__ import annotations

from typing import Final, Literal

from hanse.errors import ConfigError
from hanse.model.fleet import Value

Validity = Literal["known", "upper bound", "lower bound", "not known"]
MethodName = Literal["one site", "data_parallel", "diloco", "streaming_diloco"]

BITS_MIN: Final = 4.0
"""Fewest published without loss (E3M0, arXiv 2501.18512 section 2.4); sparser exchanges are other algorithms."""
BITS_MAX: Final = 32.0


class Figure(Value, frozen=True, kw_only=True):
    """One number, how far it holds, why, and who says so; `value` is None exactly where it is not known."""

    value: float | None
    validity: Validity
    why: str
    source: str = ""


class TrainingJob(Value, frozen=True, kw_only=True):
    """One pre-training or fine-tuning run of a transformer."""

    parameters_n: float
    """All that are exchanged; of a mixture of experts, all experts."""
    tokens_n: float
    batch_tokens: float
    """Tokens of one step over all sites together; each site takes its share by its speed."""
    active_parameters_n: float | None = None
    """Those that one token passes through; None: all (a dense model)."""
    layers_n: int | None = None
    """None: how much of a streamed exchange hides behind computing is only bounded."""
    precision: Literal["bf16", "fp8"] = "bf16"
    """Of the multiplications; it picks the rated figure of a chip."""

    def __post_init__(self) -> None:
        _above_zero("job.parameters_n", self.parameters_n)
        _above_zero("job.tokens_n", self.tokens_n)
        _above_zero("job.batch_tokens", self.batch_tokens)
        active = self.computed_n
        if not 0.0 < active <= self.parameters_n:
            raise ConfigError(
                "job.active_parameters_n",
                got=f"{active:g}",
                allowed=f"above 0, at most {self.parameters_n:g}",
            )
        if self.layers_n is not None and self.layers_n < 1:
            raise ConfigError("job.layers_n", got=self.layers_n, allowed="at least 1, or none")

    @property
    def computed_n(self) -> float:
        """Parameters that cost operations per token."""
        return self.parameters_n if self.active_parameters_n is None else self.active_parameters_n

    @property
    def steps_n(self) -> float:
        return self.tokens_n / self.batch_tokens


class TrainingSite(Value, frozen=True, kw_only=True):
    """One replica: all chips of a site that train together behind fast links."""

    id: str
    accelerator: str
    """Catalogue id or name."""
    chips_n: int
    pue: float
    mfu: float | None = None
    """Share of rated dense operations that training inside the site reaches, its own exchange included; None: the
    published one where there is one (`forecast.MFU_PUBLISHED`), else not known."""
    busy_w: float | None = None
    """Per chip with its share of the server while it computes; None: the chip's rated power, an upper bound for the chip."""
    waiting_w: float | None = None
    """Per chip with its share of the server while it waits for an exchange; None: as busy, an upper bound."""

    def __post_init__(self) -> None:
        where = f"site {self.id}"
        _above_zero(f"{where}.chips_n", self.chips_n)
        if not self.pue >= 1.0:
            raise ConfigError(f"{where}.pue", got=self.pue, allowed="at least 1")
        if self.mfu is not None and not 0.0 < self.mfu <= 1.0:
            raise ConfigError(f"{where}.mfu", got=self.mfu, allowed="above 0, at most 1")
        for name, watts in (("busy_w", self.busy_w), ("waiting_w", self.waiting_w)):
            if watts is not None and not watts >= 0.0:
                raise ConfigError(f"{where}.{name}", got=watts, allowed="0 or more")


class Wan(Value, frozen=True, kw_only=True):
    """The ring of sites, by its slowest link; each direction of a link has this rate."""

    bottleneck_mbit_s: float
    one_way_ms: float
    """Of the slowest hop."""

    def __post_init__(self) -> None:
        _above_zero("wan.bottleneck_mbit_s", self.bottleneck_mbit_s)
        if not self.one_way_ms >= 0.0:
            raise ConfigError("wan.one_way_ms", got=self.one_way_ms, allowed="0 or more")


class DataParallel(Value, frozen=True, kw_only=True):
    """Gradients are averaged over all sites in every step."""

    bits: float = 16.0
    """Per parameter; 16 is what the published simulation of data parallel fits (arXiv 2501.18512, Table 4)."""

    def __post_init__(self) -> None:
        _bits("data_parallel.bits", self.bits)


class DiLoCo(Value, frozen=True, kw_only=True):
    """Sites train alone for `inner_steps`, then stop and average what they changed (arXiv 2311.08105)."""

    inner_steps: int = 100
    """As INTELLECT-1 did (arXiv 2412.01152); 500 in the first paper, 30 where losses were compared."""
    bits: float = 16.0
    """FP16 cost no loss in OpenDiLoCo (arXiv 2407.07852)."""

    def __post_init__(self) -> None:
        _inner("diloco.inner_steps", self.inner_steps)
        _bits("diloco.bits", self.bits)


class StreamingDiLoCo(Value, frozen=True, kw_only=True):
    """As DiLoCo, but one fragment of the layers at a time, applied `delay_steps` later (arXiv 2501.18512)."""

    fragments_n: int
    """Published with three layers in each."""
    inner_steps: int = 100
    """Between two exchanges of the same fragment; 100 in the paper's simulation."""
    delay_steps: int = 1
    """The paper's setting; losses hold up to 5 (its section 3.3.2)."""
    bits: float = 4.0
    """E3M0, sums in FP32 (its section 2.4)."""

    def __post_init__(self) -> None:
        _inner("streaming_diloco.inner_steps", self.inner_steps)
        _bits("streaming_diloco.bits", self.bits)
        if not 1 <= self.fragments_n <= self.inner_steps:
            raise ConfigError(
                "streaming_diloco.fragments_n",
                got=self.fragments_n,
                allowed=f"1 to {self.inner_steps}: at most one fragment a step",
            )
        if not 0 <= self.delay_steps < self.inner_steps:
            raise ConfigError(
                "streaming_diloco.delay_steps",
                got=self.delay_steps,
                allowed=f"0 to {self.inner_steps - 1}: a fragment's own next exchange comes after",
            )


Method = DataParallel | DiLoCo | StreamingDiLoCo


def known(value: float, why: str, source: str = "") -> Figure:
    """A figure inside the range its formula was checked in."""
    return Figure(value=value, validity="known", why=why, source=source)


def not_known(why: str, source: str = "") -> Figure:
    """No figure, and the reason."""
    return Figure(value=None, validity="not known", why=why, source=source)


def method_name(method: Method) -> MethodName:
    """Name of a method as it stands in answers."""
    if isinstance(method, DataParallel):
        return "data_parallel"
    return "diloco" if isinstance(method, DiLoCo) else "streaming_diloco"


def _above_zero(where: str, value: float) -> None:
    if not 0.0 < value < float("inf"):
        raise ConfigError(where, got=value, allowed="a finite number above 0")


def _bits(where: str, bits: float) -> None:
    if not BITS_MIN <= bits <= BITS_MAX:
        raise ConfigError(where, got=bits, allowed=f"{BITS_MIN:g} to {BITS_MAX:g} per parameter")


def _inner(where: str, steps: int) -> None:
    if steps < 1:
        raise ConfigError(where, got=steps, allowed="at least 1")
