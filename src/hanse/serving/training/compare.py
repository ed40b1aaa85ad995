"""Train at one site or across several: the choice, and why, in words and numbers.

Here: `compare_training`. Not here: money and carbon; a planner weighs those with the forecasts returned here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from hanse.model.fleet import Value
from hanse.serving.training.forecast import TrainingForecast, forecast
from hanse.serving.training.job import Method, TrainingJob, TrainingSite, Wan
from hanse.units import hours_from_s

PENALTY_PCT_MAX: Final = 0.5
"""About what two sites lose at 1B and above in the published cells; a wish, so change it first."""
FASTER_MIN: Final = 1.1
"""Across sites must be so many times faster: many sites are more to operate, and the formulas are about so exact."""


class TrainingComparison(Value, frozen=True, kw_only=True):
    """Every option's forecast, the option taken, and the reasons, the decisive one first."""

    choice: Literal["central", "across sites", "none"]
    chosen: TrainingForecast | None
    central: TrainingForecast | None
    across: tuple[TrainingForecast, ...]
    reasons: tuple[str, ...]


def compare_training(
    job: TrainingJob,
    *,
    central: TrainingSite | None,
    sites: Sequence[TrainingSite],
    wan: Wan,
    methods: Sequence[Method],
    loss_penalty_pct_max: float = PENALTY_PCT_MAX,
    deadline_s: float | None = None,
) -> TrainingComparison:
    """Choose between `central` alone and all of `sites` by one of `methods`.

    An option counts only if it surely fits into memory, has a time that is known or at most as said, and a loss penalty that is
    surely at most `loss_penalty_pct_max`. Central wins if it meets the deadline, or if no other option is `FASTER_MIN` faster.

    Raises:
        ConfigError: fewer than two sites where methods are given, or what `forecast` raises.
    """
    alone = None if central is None else forecast(job, [central])
    across = tuple(forecast(job, sites, wan, method) for method in methods)
    barred = [(option, _bar(option, loss_penalty_pct_max)) for option in across]
    open_ = [option for option, bar in barred if not bar]
    reasons = [f"{option.method}: {bar}" for option, bar in barred if bar]
    best = min(open_, key=_wall_s, default=None)
    why_not_alone = "no central site is given" if alone is None else _bar(alone, 0.0)
    choice, why = _decided(None if why_not_alone else alone, best, deadline_s)
    if why_not_alone:
        reasons.insert(0, f"central: {why_not_alone}")
    chosen = {"central": alone, "across sites": best, "none": None}[choice]
    return TrainingComparison(
        choice=choice,
        chosen=chosen,
        central=alone,
        across=across,
        reasons=(why, *reasons),
    )


def _decided(
    alone: TrainingForecast | None, best: TrainingForecast | None, deadline_s: float | None
) -> tuple[Literal["central", "across sites", "none"], str]:
    if alone is None and best is None:
        return "none", "no option is known to work"
    if best is None:
        assert alone is not None
        return "central", f"central takes {_hours(alone)}; no way across sites is known to work"
    if alone is None:
        return "across sites", f"{_said(best)}; central is not possible or not known"
    if deadline_s is not None and _wall_s(alone) <= deadline_s:
        limit = f"{hours_from_s(deadline_s):,.1f} h"
        return "central", f"central takes {_hours(alone)}, within {limit}, and sends nothing"
    faster = _wall_s(alone) / _wall_s(best)
    if faster >= FASTER_MIN:
        return "across sites", f"{_said(best)}, {faster:.2f} times faster than {_hours(alone)}"
    return (
        "central",
        f"central takes {_hours(alone)}; the best way across sites, {_said(best)}, is only {faster:.2f} times as fast",
    )


def _bar(option: TrainingForecast, penalty_pct_max: float) -> str:
    """Why an option does not count; empty: it does."""
    missing = [site for site in option.sites if site not in option.fits]
    if missing:
        return f"{option.state_gb:,.0f} GB of parameters and optimizer do not fit at {', '.join(missing)}"
    if option.wall_s.validity in ("not known", "lower bound"):
        return f"time {option.wall_s.validity}: {option.wall_s.why}"
    loss = option.loss_penalty_pct
    if loss.value is None:
        return f"loss not known: {loss.why}"
    if loss.value > penalty_pct_max:
        return f"loss {loss.value:+.2f} % against at most {penalty_pct_max:g} %"
    if loss.validity == "lower bound":
        return f"loss is at least {loss.value:+.2f} %, but by how much is not known: {loss.why}"
    return ""


def _said(option: TrainingForecast) -> str:
    used, sent = option.utilisation.value or 0.0, option.bytes_per_site.value or 0.0
    loss = option.loss_penalty_pct.value or 0.0
    return (
        f"{option.method} over {len(option.sites)} sites takes {_hours(option)} at {used:.1%} utilisation, "
        f"sends {sent / 1e12:,.2f} TB per site, loss {loss:+.2f} %"
    )


def _hours(option: TrainingForecast) -> str:
    return f"{hours_from_s(_wall_s(option)):,.1f} h"


def _wall_s(option: TrainingForecast) -> float:
    assert option.wall_s.value is not None
    return option.wall_s.value
