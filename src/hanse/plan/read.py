"""A study file becomes a `Study`, or every wrong meaning at once; an answer is read back.

Here: reading and checking. Not here: the nouns (`study_file`), reading TOML (`model.read`), figures with ranges (`assumptions`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec

from hanse.catalogue import accelerator_named, ai_model_named, city, country
from hanse.errors import ConfigError
from hanse.model.read import parse_toml, read_toml
from hanse.model.told import UNREADABLE
from hanse.plan.answer import Answer
from hanse.plan.study_file import Study
from hanse.serving.precisions import known_precision

EMBEDDED: Final = "europe"


def read_study(path: Path | None = None) -> Study:
    """A study by its file, or the one that ships with Hanse.

    Raises:
        ConfigError: it cannot be read, is no study, or cannot be meant so; all that is wrong is said at once.
    """
    if path is None:
        content = (files("hanse.plan") / "data" / f"{EMBEDDED}.toml").read_bytes()
        return checked(parse_toml(content, Study, source=EMBEDDED, noun="study"))
    return checked(read_toml(path, Study, noun="study"), source=str(path))


def read_answer(path: Path) -> Answer:
    """What `hanse plan` wrote as answer.json.

    Raises:
        ConfigError: it cannot be read, or is no answer of this version.
    """
    allowed = "the answer.json that `hanse plan` of this version wrote"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Answer)
    except OSError as error:
        raise ConfigError(str(path), got=error.strerror or str(error), allowed=allowed) from error
    except UNREADABLE as error:
        raise ConfigError(str(path), got=str(error), allowed=allowed) from error


def checked(study: Study, *, source: str = "study") -> Study:
    """The study itself, where nothing is wrong with it."""
    wrong = list(problems(study))
    if not wrong:
        return study
    if len(wrong) == 1:
        raise wrong[0]
    raise ConfigError(
        source,
        got=f"{len(wrong)} things that cannot be meant so:\n  "
        + "\n  ".join(str(e) for e in wrong)
        + "\n ",
        allowed="none; docs/plan.md describes every field",
    )


def problems(study: Study) -> Iterator[ConfigError]:
    """What is wrong with the meaning of a study."""
    yield from _doubles(study)
    yield from _places(study)
    yield from _work(study)
    yield from _ways(study)
    for i, policy in enumerate(study.policies):
        where = f"policy[{i}]"
        for code in policy.countries:
            yield from _caught(partial(country, code, where=f"{where}.countries"))
        if policy.until is not None and policy.until <= policy.from_:
            allowed = f"a day after from ({policy.from_})"
            yield ConfigError(f"{where}.until", got=policy.until, allowed=allowed)
        if policy.kind == "investment_credit" and policy.value > 1.0:
            yield ConfigError(f"{where}.value", got=policy.value, allowed="a share of 0 to 1")
        if policy.kind == "localisation" and not policy.laws:
            yield ConfigError(f"{where}.laws", got="nothing", allowed="a class of law at least")


def _doubles(study: Study) -> Iterator[ConfigError]:
    named = {
        "city": [f"{c.city} {c.country or ''}".strip() for c in study.cities],
        "candidate": [f"{c.city} {c.country or ''}".strip() for c in study.candidates],
        "workload": [w.id for w in study.workloads],
        "training": [t.id for t in study.trainings],
        "size": [s.id for s in study.sizes],
        "design": [d.id for d in study.designs],
        "policy": [p.id for p in study.policies],
    }
    for what, names in named.items():
        for name, count in Counter(names).items():
            if count > 1:
                yield ConfigError(what, got=f"{name!r} {count} times", allowed="each once")
    if not study.workloads and not study.trainings:
        yield ConfigError("workload", got="none", allowed="one at least, or a [[training]]")


def _places(study: Study) -> Iterator[ConfigError]:
    sizes = [s.id for s in study.sizes]
    named = {
        "city": [(c.city, c.country) for c in study.cities],
        "candidate": [(c.city, c.country) for c in study.candidates],
        "cloud": [(c.city, c.country) for c in study.clouds],
    }
    for what, places in named.items():
        for i, (name, iso2) in enumerate(places):
            yield from _caught(partial(city, name, iso2=iso2 or "", where=f"{what}[{i}].city"))
    for i, candidate in enumerate(study.candidates):
        yield from _known(f"candidate[{i}].sizes", candidate.sizes, sizes)
    weights = [c.weight for c in study.cities]
    if all(w == 0.0 for w in weights):
        yield ConfigError("city.weight", got="0 everywhere", allowed="above 0 for one at least")


def _work(study: Study) -> Iterator[ConfigError]:
    known = [c.city for c in study.cities]
    for i, work in enumerate(study.workloads):
        where = f"workload[{i}]"
        yield from _known(f"{where}.cities", work.cities, known)
        yield from _caught(partial(ai_model_named, work.model, where=f"{where}.model"))
        yield from _caught(partial(known_precision, work.precision, where=f"{where}.precision"))
        if work.accelerator:
            yield from _chip(work.accelerator, f"{where}.accelerator")
        if work.kind == "interactive" and work.slack_h > 0.0:
            allowed = "0 for interactive work"
            yield ConfigError(f"{where}.slack_h", got=work.slack_h, allowed=allowed)
    for i, training in enumerate(study.trainings):
        yield from _chip(training.accelerator, f"training[{i}].accelerator")
        if training.year >= study.years:
            allowed = f"0 to {study.years - 1}"
            yield ConfigError(f"training[{i}].year", got=training.year, allowed=allowed)


def _ways(study: Study) -> Iterator[ConfigError]:
    sizes = [s.id for s in study.sizes]
    if not study.designs:
        yield ConfigError("design", got="none", allowed="one at least")
    for i, design in enumerate(study.designs):
        yield from _known(f"design[{i}].sizes", design.sizes, sizes)
    for i, size in enumerate(study.sizes):
        where = f"size[{i}]"
        if not size.accelerators:
            yield ConfigError(f"{where}.accelerators", got="none", allowed="one at least")
        for name in size.accelerators:
            yield from _chip(name, f"{where}.accelerators")
        if size.module_kw > size.it_kw:
            allowed = f"at most it_kw ({size.it_kw:g})"
            yield ConfigError(f"{where}.module_kw", got=size.module_kw, allowed=allowed)


def _chip(name: str, where: str) -> Iterator[ConfigError]:
    yield from _caught(partial(accelerator_named, name, where=where))


def _known(where: str, names: Sequence[str], known: Sequence[str]) -> Iterator[ConfigError]:
    for name in names:
        if name not in known:
            yield ConfigError(where, got=repr(name), allowed=f"one of {', '.join(known)}")


def _caught(look_up: Callable[[], object]) -> Iterator[ConfigError]:
    try:
        look_up()
    except ConfigError as error:
        yield error
