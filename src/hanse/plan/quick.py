"""A study made of one line: cities, tokens a day, a class of data, growth, a latency.

Here: `quick_study`. Not here: solving it (`solve`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from math import inf
from typing import Final, get_args

from hanse.catalogue import City, city
from hanse.errors import ConfigError
from hanse.model.fleet import LawClass, Value
from hanse.plan.read import checked
from hanse.plan.study_file import Study, StudyCity, Workload

START: Final = date(2027, 1, 1)
"""The first full year after this version's figures of cost."""
MODEL: Final = "Llama-3.1-70B"
"""Dense, of the size that most open deployments serve as their good model."""


class QuickOptions(Value, frozen=True, kw_only=True):
    """What a person says."""

    cities: tuple[str, ...]
    tokens_per_day: float
    data_class: str = "personal"
    growth: float = 0.3
    latency_ms: float | None = None
    model: str = MODEL
    precision: str = "fp8"
    draws: int = 200
    seed: int = 1


def quick_study(options: QuickOptions) -> Study:
    """The study it stands for.

    `latency_ms` limits the round trip from user to site, last mile included; health, payment and government data stay in the user's country.

    Raises:
        ConfigError: a city, class or figure that cannot be meant.
    """
    law = options.data_class.replace("-", "_")
    allowed = get_args(LawClass)
    if law not in allowed:
        raise ConfigError(
            "--class", got=repr(options.data_class), allowed=f"one of {', '.join(allowed)}"
        )
    if not 0.0 < options.tokens_per_day < inf:
        raise ConfigError("--tokens-per-day", got=options.tokens_per_day, allowed="above 0")
    if options.latency_ms is not None and not 0.0 < options.latency_ms < inf:
        raise ConfigError("--latency-ms", got=options.latency_ms, allowed="above 0")
    if not -1.0 < options.growth < inf:
        raise ConfigError("--growth", got=options.growth, allowed="above -1; 0.4 is 40 % a year")
    named = [name for name in options.cities if name.strip()]
    if not named:
        raise ConfigError(
            "--cities",
            got=repr(",".join(options.cities)),
            allowed="names of cities, with commas",
            fix="for example --cities frankfurt,lyon",
        )
    places = [city(name.strip(), where="--cities") for name in named]
    return checked(
        Study(
            schema="hanse-study/1",
            name="quick",
            start=START,
            growth_per_year=options.growth,
            operator_hq=places[0].iso2,
            certifications=("hds_certified_host",),
            mechanisms=("scc+tia",),
            seed=options.seed,
            draws=options.draws,
            cities=_unique(places),
            workloads=(
                Workload(
                    id=law.replace("_", "-"),
                    model=options.model,
                    precision=options.precision,
                    law=law,  # type: ignore[arg-type]
                    own_country=law in ("health", "payment", "government"),
                    tokens_per_day=options.tokens_per_day,
                    rtt_ms_max=options.latency_ms,
                    tpot_ms=60.0,
                ),
            ),
        )
    )


def _unique(places: Sequence[City]) -> tuple[StudyCity, ...]:
    found = dict.fromkeys((p.name, p.iso2) for p in places)
    return tuple(StudyCity(city=name, country=iso2) for name, iso2 in found)
