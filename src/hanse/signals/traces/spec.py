"""`TraceSpec`: what a generated trace should be like, as an operator writes it in TOML.

Here: the values, their defaults with reasons, reading a file, and what a spec must mean. Not here: making requests
(`generate`), when they come (`demand`).
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

from hanse.errors import ConfigError
from hanse.model.fleet import CountryCode, Id, Value
from hanse.model.read import toml_of

Positive = Annotated[float, Meta(gt=0)]
Weight = Annotated[float, Meta(ge=0)]
Tokens = Annotated[int, Meta(ge=0, le=100_000_000)]

HOURS_DEFAULT: Final = (
    (0.714, 0.733, 0.676, 0.714, 0.660, 0.684, 0.855, 1.015, 1.054, 1.125, 1.093, 1.060)
    + (1.073, 1.060, 1.047, 1.091, 1.079, 1.007, 1.229, 1.456, 1.402, 1.270, 1.063, 0.839)
)  # fmt: skip
"""Demand by local hour over its mean: mean day of 14 of the service m-small in ServeGen (Xiang et al., arXiv 2505.09999),
whose clock is not published; turned so that the lowest hour is 4 to 5 in the morning, which is an assumption."""


class Lognormal(Value, frozen=True, kw_only=True, tag_field="kind", tag="lognormal"):
    """Tokens whose logarithm is normal: what prompts and answers of most services are close to."""

    median: Positive
    sigma: Annotated[float, Meta(ge=0, le=10)] = 0.0
    """Of the natural logarithm; 0: always the median."""
    min: Annotated[int, Meta(ge=0)] = 1
    max: Tokens


class Histogram(Value, frozen=True, kw_only=True, tag_field="kind", tag="histogram"):
    """Tokens as counted: evenly from each bin's low end up to the next, the last up to `max`."""

    bin_low: tuple[Tokens, ...]
    share: tuple[Weight, ...]
    max: Tokens


class Conversation(Value, frozen=True, kw_only=True):
    """How a service is talked to: each turn sends everything said so far again."""

    turns_mean: Annotated[float, Meta(ge=1)] = 1.0
    """Geometric; 1: every request stands alone and has no session."""
    turns_max: Annotated[int, Meta(ge=1, le=1000)] = 50
    think_s_median: Positive = 60.0
    """From one request to the next of the conversation: answering, reading and typing. A minute, by introspection."""
    think_s_sigma: Annotated[float, Meta(ge=0, le=3)] = 1.0
    system_tokens: Tokens = 0
    """Every prompt begins with so many tokens of a system prompt."""
    system_prompts: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """Different ones, used equally; conversations with the same one share its blocks."""
    context_tokens_max: Annotated[int, Meta(gt=0, le=100_000_000)] = 8192
    """A conversation ends before a turn that would not fit with its answer."""


class ServiceShare(Value, frozen=True, kw_only=True):
    """A service and its share of conversations."""

    id: Id
    weight: Weight = 1.0
    tokens_in: Lognormal | Histogram
    """What the user adds in one turn."""
    tokens_out: Lognormal | Histogram
    conversation: Conversation = Conversation()


class ClassShare(Value, frozen=True, kw_only=True):
    """A data class and its share of conversations."""

    id: Id
    weight: Weight = 1.0


class TenantShare(Value, frozen=True, kw_only=True):
    """A tenant, its share of conversations, and what it sends from where."""

    id: Id
    weight: Weight = 1.0
    countries: tuple[CountryCode, ...] = ()
    """Origins' countries in which it has users; empty: all."""
    classes: tuple[Id, ...] = ()
    services: tuple[Id, ...] = ()


class OriginShare(Value, frozen=True, kw_only=True):
    """A city of users; position, country and time zone come from the catalogue."""

    city: str
    country: CountryCode | None = None
    """Where several cities have the name; else the largest."""
    id: Id | None = None
    """Default: the city's name in lower case with hyphens."""
    weight: Weight | None = None
    """Default: the city's population."""


class GammaBursts(Value, frozen=True, kw_only=True, tag_field="kind", tag="gamma"):
    """Demand of each interval times a Gamma variate of mean 1."""

    cv: Annotated[float, Meta(gt=0, le=20)]
    """Standard deviation of the factor."""
    interval_s: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    scope: Literal["origin", "all"] = "origin"


class MarkovBursts(Value, frozen=True, kw_only=True, tag_field="kind", tag="markov"):
    """Calm and busy spells of geometric length; the mean over both is 1 (Markov-modulated Poisson)."""

    factor: Annotated[float, Meta(gt=1, le=1000)]
    """Demand when busy over demand when calm."""
    calm_s: Positive
    busy_s: Positive
    interval_s: Annotated[float, Meta(ge=1, le=86_400)] = 10.0
    scope: Literal["origin", "all"] = "origin"


class Flash(Value, frozen=True, kw_only=True):
    """A crowd: for a while so many times the usual demand, on top of the mean."""

    from_h: Annotated[float, Meta(ge=0)]
    until_h: Positive
    factor: Annotated[float, Meta(ge=0, le=1000)]
    origins: tuple[str, ...] = ()
    """Ids; empty: everywhere."""


class TraceSpec(
    Value,
    frozen=True,
    kw_only=True,
    rename={
        "flashes": "flash",
        "origins": "origin",
        "services": "service",
        "classes": "class",
        "tenants": "tenant",
    },
):
    """Everything about a trace that is to be made; with its seed it says every request of it."""

    schema: Literal["hanse-trace-spec/1"]
    name: Id
    seed: Annotated[int, Meta(ge=0)]
    start: Annotated[datetime, Meta(tz=True)]
    duration_h: Annotated[float, Meta(gt=0, le=1_000_000)]
    requests_per_s: Annotated[float, Meta(gt=0, le=10_000_000)]
    """Expected mean over the whole trace, before flash crowds."""
    growth_per_year: Annotated[float, Meta(gt=-1)] = 0.0
    block_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    """Tokens of a prefix block; only full blocks have an id, as engines cache only full ones. 0: no blocks."""
    hours: Annotated[tuple[Weight, ...], Meta(min_length=24, max_length=24)] = HOURS_DEFAULT
    weekdays: Annotated[tuple[Weight, ...], Meta(min_length=7, max_length=7)] = (1.0,) * 7
    """Monday to Sunday by local time. Flat: the public recordings show no common week."""
    bursts: GammaBursts | MarkovBursts | None = None
    flashes: tuple[Flash, ...] = ()
    origins: Annotated[tuple[OriginShare, ...], Meta(min_length=1)]
    services: Annotated[tuple[ServiceShare, ...], Meta(min_length=1)]
    classes: tuple[ClassShare, ...] = ()
    tenants: tuple[TenantShare, ...] = ()
    source: str = "generated by hanse trace make"
    licence: str = "none: generated"
    note: str = ""


def read_spec(path: Path) -> TraceSpec:
    """The spec of a file.

    Raises:
        ConfigError: where it cannot be read, is no TOML, has a wrong field, or cannot be meant so.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        fix = "name a file of TOML that can be read"
        raise ConfigError(str(path), got=str(error), fix=fix) from error
    return parse_spec(text, source=str(path))


def parse_spec(text: str, *, source: str) -> TraceSpec:
    """The spec in a text; `source` names it where the error is about the whole."""
    document = toml_of(text.encode(), source=source)
    for where, number in _not_finite(document):
        raise ConfigError(f"{source}: {where}", got=number, allowed="a finite number")
    try:
        spec = msgspec.convert(document, TraceSpec)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        where = where.rstrip("`").lstrip(".")
        raise ConfigError(
            f"{source}: {where}" if where else source,
            got=_value_at(document, where) if where else "a spec of another shape",
            allowed=what.replace("`", "'"),
            fix="docs/traces.md describes every field",
        ) from error
    for where, got, allowed in problems(spec):
        raise ConfigError(f"{source}: {where}", got=got, allowed=allowed)
    return spec


def problems(spec: TraceSpec) -> Iterator[tuple[str, object, str]]:
    """What is wrong with the meaning of a spec: (where, got, allowed)."""
    for name, items in (
        ("service", spec.services),
        ("class", spec.classes),
        ("tenant", spec.tenants),
    ):
        ids = [item.id for item in items]
        if len(set(ids)) < len(ids):
            yield name, ", ".join(ids), "each id once"
        if items and not any(item.weight > 0 for item in items):
            yield f"{name}.weight", 0, "a weight above 0 for one at least"
    for i, service in enumerate(spec.services):
        yield from _service_problems(f"service[{i}]", service)
    for i, tenant in enumerate(spec.tenants):
        for field, names, known in (
            ("classes", tenant.classes, [c.id for c in spec.classes]),
            ("services", tenant.services, [s.id for s in spec.services]),
        ):
            for name in names:
                if name not in known:
                    yield f"tenant[{i}].{field}", name, f"one of {', '.join(known)}"
    for i, flash in enumerate(spec.flashes):
        if flash.until_h <= flash.from_h:
            yield f"flash[{i}].until_h", flash.until_h, f"more than from_h ({flash.from_h})"
    if not any(spec.hours) or not any(spec.weekdays):
        yield "hours, weekdays", "all 0", "a factor above 0"


def _service_problems(where: str, service: ServiceShare) -> Iterator[tuple[str, object, str]]:
    for name, lengths in (("tokens_in", service.tokens_in), ("tokens_out", service.tokens_out)):
        if isinstance(lengths, Lognormal):
            if lengths.max < lengths.min:
                yield f"{where}.{name}.max", lengths.max, f"at least min ({lengths.min})"
            continue
        edges = [*lengths.bin_low, lengths.max]
        if not lengths.bin_low or any(b <= a for a, b in itertools.pairwise(edges)):
            yield f"{where}.{name}.bin_low", edges, "ascending bins, all below max"
        if len(lengths.share) != len(lengths.bin_low) or not any(lengths.share):
            yield f"{where}.{name}.share", lengths.share, "a share for each bin, one above 0"
    longest = service.conversation.system_tokens + service.tokens_in.max + service.tokens_out.max
    if longest > service.conversation.context_tokens_max:
        yield (
            f"{where}.conversation.context_tokens_max",
            service.conversation.context_tokens_max,
            f"at least {longest}: system prompt, longest message and longest answer",
        )


def _not_finite(value: Any, where: str = "") -> Iterator[tuple[str, float]]:
    """inf and nan, which TOML knows and no field can mean."""
    if isinstance(value, float) and not math.isfinite(value):
        yield where, value
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _not_finite(part, f"{where}[{index}]")
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _not_finite(part, f"{where}.{name}" if where else name)


def _value_at(document: Any, where: str) -> object:
    for name, index in re.findall(r"([^.\[\]]+)|\[(\d+)\]", where):
        try:
            document = document[int(index)] if index else document[name]
        except (KeyError, IndexError, TypeError):
            return "nothing"
    return document
