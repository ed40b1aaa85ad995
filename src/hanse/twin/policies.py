"""Ways to choose beside the shipped decision: for comparison, and for people's own.

Here: `Features`, what a policy sees of one offer; the built-in policies; `Policy` and `resolve`, which finds one by name, in a file or
among installed packages. Not here: gates and the search over offers (`picking`), the shipped decision (`dispatch.choose`).

A policy is one function `score(f) -> float`: the lowest score wins, ties go to the lowest offer index, infinity and NaN mean "not this
one". It scores only offers that have passed all gates (law, quality, length, tried, power, dead, stale, room, deadline) and cannot see
others. Policies get the same figures as the shipped decision, own change since the last frame and guessed peers included, which is more
than most of the systems they are named after know.

Sources of the definitions: prefix affinity: sglang's router, policy `cache_aware` with its defaults; selective pushing: SkyWalker, Xia et
al., EuroSys 2026, arXiv 2505.24095, and the defaults of its prefix tree; latency terms: GORGO, Toniolo et al., arXiv 2602.11688, with all
weights 1 in milliseconds (its `gorgo-2d`), untuned; round robin and least load: as SkyServe, Mao et al., EuroSys 2025, arXiv 2411.01438.
"""

from __future__ import annotations

import ctypes
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numba import cfunc, njit, types
from numba.np.numpy_support import carray, from_dtype

from hanse.compiled import KERNEL
from hanse.errors import ConfigError
from hanse.twin.arrays import ENGINES_FEWEST, ENGINES_HELD, ENGINES_IN_TURN

INF: Final = float("inf")
GROUP: Final = "hanse.policies"
"""Entry point group in which other packages name their policies."""
AFFINITY_SHARE: Final = 0.3
"""Of the prompt that has to be held somewhere before sglang's router follows it (`--cache-threshold`)."""
UNEVEN_REQUESTS: Final = 64.0
UNEVEN_RATIO: Final = 1.5
"""Busiest over idlest replica beyond which sglang's router goes to the shortest queue (`--balance-abs-threshold`, `-rel-`)."""
SLOWER_AS_PYTHON: Final = (
    "a run takes about 30 times as long with 20 sites (measured: 30 to 32), in proportion to sites"
)
"""A compiled function of the user's took 1.00 to 1.01 times what a built-in one takes."""
PUSH_SHARE: Final = 0.5
"""As `AFFINITY_SHARE`, of SkyWalker's prefix tree."""


class Features(NamedTuple):
    """What a policy may know of an offer for this request; all are floats."""

    offer: float
    """Index."""
    is_local: float
    """1: at the gateway's own site."""
    is_central: float
    """1: at the fleet's `[central]` site."""
    after_last: float
    """Places behind the offer that this gateway chose last for the service, going round: 0 is the next one."""
    rtt_ms: float
    """Round trip between the gateway and the site."""
    path_ms: float
    """The round trip and the prompt's bytes."""
    replicas: float
    """Alive."""
    slots: float
    """Requests that one replica decodes at once."""
    requests: float
    """At all replicas of the offer, running and waiting: heard, own change since, peers' guessed."""
    tokens: float
    """Prompt and guessed answer of those."""
    prefill_tokens: float
    """Prompts among them that have no first token yet."""
    pending: float
    """1: one more request would wait, for a slot or for KV memory."""
    load: float
    """Requests a replica."""
    load_least: float
    load_most: float
    """Of all offers that passed the gates."""
    tokens_in: float
    """Of this request."""
    tokens_out: float
    """Guessed."""
    cached_tokens: float
    """Of its prompt, believed to be held by the site."""
    cached_most: float
    """Of all offers that passed the gates and have no pending requests."""
    prefill_ms_per_token: float
    ttft_ms: float
    tpot_ms: float
    e2e_ms: float
    """Predicted for this request, path and learned corrections included."""
    ttft_ms_slo: float
    tpot_ms_slo: float
    deadline_ms: float
    """What is left of it."""
    late: float
    """1: predicted to miss the SLO or the deadline."""
    wh: float
    """Predicted, of the site's meter: PUE included."""
    g: float
    """CO2e of that, location-based."""
    usd: float
    """Energy, carbon at its price, egress."""
    cost_usd: float
    """`usd` and the value of waiting: what the shipped decision minimises."""
    quality: float
    """Of the variant, 0 to 1."""


FEATURE_DTYPE: Final = np.dtype([(name, "f8") for name in Features._fields])
FEATURES: Final = len(Features._fields)
Score = Callable[[Any], float]


# --- built in: a few lines each, named after what they do


@njit(**KERNEL)
def nearest(f: Any) -> float:
    """The shortest round trip."""
    return float(f.rtt_ms)


@njit(**KERNEL)
def round_robin(f: Any) -> float:
    """One offer after another, whatever they do; each gateway goes round for itself."""
    return float(f.after_last)


@njit(**KERNEL)
def least_load(f: Any) -> float:
    """The fewest requests a replica."""
    return float(f.load)


@njit(**KERNEL)
def least_latency(f: Any) -> float:
    """The shortest predicted time to the last token."""
    return float(f.e2e_ms)


@njit(**KERNEL)
def cheapest(f: Any) -> float:
    """The least energy and egress cost, carbon at its price."""
    return float(f.usd)


@njit(**KERNEL)
def greenest(f: Any) -> float:
    """The least CO2e."""
    return float(f.g)


@njit(**KERNEL)
def prefix_affinity(f: Any) -> float:
    """The longest held prefix while load is even and the prefix is worth it, else the shortest queue."""
    uneven = (
        f.load_most - f.load_least > UNEVEN_REQUESTS and f.load_most > UNEVEN_RATIO * f.load_least
    )
    if not uneven and f.cached_tokens > AFFINITY_SHARE * f.tokens_in:
        return float(-f.cached_tokens)
    return float(f.load)


@njit(**KERNEL)
def selective_pushing(f: Any) -> float:
    """Here unless requests are pending here; then where none are, by prefix, else by load. Here again if they are pending everywhere."""
    if f.is_local != 0.0:
        return 2e9 if f.pending != 0.0 else -2e9
    if f.pending != 0.0:
        return 3e9 + f.load
    if f.cached_most > PUSH_SHARE * f.tokens_in:
        return float(-f.cached_tokens)
    return float(f.load)


@njit(**KERNEL)
def latency_terms(f: Any) -> float:
    """Round trip, prompts in the queue, and what is not cached of this one, in milliseconds."""
    ahead = f.prefill_tokens / f.replicas
    return float(f.rtt_ms + f.prefill_ms_per_token * (ahead + f.tokens_in - f.cached_tokens))


@njit(**KERNEL)
def central_only(f: Any) -> float:
    """The fleet's central site or nothing."""
    return 0.0 if f.is_central != 0.0 else INF


@njit(**KERNEL)
def central_round_robin(f: Any) -> float:
    """`round_robin` by one balancer at the central site, through which all requests go."""
    return float(f.after_last)


@njit(**KERNEL)
def central_least_load(f: Any) -> float:
    """`least_load` by one balancer at the central site, through which all requests go."""
    return float(f.load)


@njit(**KERNEL)
def central_prefix_affinity(f: Any) -> float:
    """`prefix_affinity` by one router at the central site, through which all requests go."""
    return prefix_affinity(f)


IN_TURN: Final = ("round_robin", "central_round_robin")
FEWEST_REQUESTS: Final = ("least_load", "central_least_load")
"""Know nothing of prefixes, so a site picks the next replica in turn, or the one with the fewest requests; under all others it picks as
live sites do."""
ONE_ENTRY: Final = ("central_round_robin", "central_least_load", "central_prefix_affinity")
"""As these were measured against selective pushing: one balancer in one region before the replicas of all."""
SHIPPED: Final = 0
OWN: Final = 14
"""Number of a function that the user brought."""
BUILT_IN: Final[tuple[Any, ...]] = (
    nearest,
    round_robin,
    least_load,
    least_latency,
    cheapest,
    greenest,
    prefix_affinity,
    selective_pushing,
    latency_terms,
    central_only,
    central_round_robin,
    central_least_load,
    central_prefix_affinity,
)
"""Number 1 and so on."""


@njit(**KERNEL)
def score_built_in(policy: int, f: Any) -> float:
    """Score by number: a chain of ifs, since a table of functions would be a call that nothing can inline."""
    if policy == 1:
        return nearest(f)
    if policy == 2:
        return round_robin(f)
    if policy == 3:
        return least_load(f)
    if policy == 4:
        return least_latency(f)
    if policy == 5:
        return cheapest(f)
    if policy == 6:
        return greenest(f)
    if policy == 7:
        return prefix_affinity(f)
    if policy == 8:
        return selective_pushing(f)
    if policy == 9:
        return latency_terms(f)
    if policy == 10:
        return central_only(f)
    if policy == 11:
        return central_round_robin(f)
    if policy == 12:
        return central_least_load(f)
    return central_prefix_affinity(f)


class Policy:
    """A way to choose; keep it as long as a run uses it, which calls its function by address."""

    def __init__(self, name: str, number: int, score: Score | None, source: str) -> None:
        self.name = name
        self.number = number
        self.score = score
        """Python, or compiled by numba; None: the shipped decision."""
        self.source = source
        self.doc = inspect.getdoc(score) or "" if score is not None else _SHIPPED_DOC
        self.address = 0
        """Of a C function that takes the address of a row of `FEATURE_DTYPE`; 0 for built-in ones."""
        self.compiled = True
        self.why_not = ""
        """What numba said where it could not compile the function."""
        self.error: BaseException | None = None
        """The first exception of the user's function; its offer counted as infinity."""
        self._kept: Any = None
        if number == OWN:
            self._prepare()

    @property
    def engines(self) -> int:
        """How sites choose engines: `arrays.ENGINES_HELD` and so on."""
        if self.name in IN_TURN:
            return ENGINES_IN_TURN
        return ENGINES_FEWEST if self.name in FEWEST_REQUESTS else ENGINES_HELD

    @property
    def one_entry(self) -> bool:
        """Whether all requests enter at the central site."""
        return self.name in ONE_ENTRY

    @property
    def needs_central(self) -> bool:
        """Whether the fleet has to name a central site."""
        return self.one_entry or self.name == "central_only"

    @property
    def notes(self) -> tuple[str, ...]:
        """For the report: none where the policy costs what a built-in one costs."""
        if self.compiled:
            return ()
        return (f"policy {self.name} runs as Python ({self.why_not}): {SLOWER_AS_PYTHON}",)

    def check(self) -> None:
        """Raise what the policy's function raised during a run."""
        if self.error is not None:
            last = traceback.extract_tb(self.error.__traceback__)[-1]
            raise ConfigError(
                f"policy {self.name}",
                got=f"{type(self.error).__name__}: {self.error} ({Path(last.filename).name}, line {last.lineno})",
                allowed="a score for every offer",
                fix="docs/policies.md lists the features",
            ) from self.error

    def _prepare(self) -> None:
        as_python = _SCORE_C(self._call)
        try:
            self._kept = _compiled(self.score, as_python), as_python
            self.address = self._kept[0].address
        except Exception as error:  # of names that are wrong numba raises more than its own errors; as Python they get a clear one
            self.compiled = False
            self.why_not = (str(error).strip() or type(error).__name__).splitlines()[0]
            self._kept = as_python
            self.address = ctypes.cast(self._kept, ctypes.c_void_p).value or 0

    def _call(self, address: int) -> float:
        """From compiled code into Python; an exception must not cross that border."""
        try:
            row = (ctypes.c_double * FEATURES).from_address(address)
            as_python: Any = getattr(self.score, "py_func", self.score)
            return float(as_python(Features(*row)))
        except Exception as error:  # whatever it is, `check` raises it again
            self.error = self.error or error
            return INF


_SHIPPED_DOC: Final = (
    "What the live gateway does: on time before late, then least cost (`dispatch.choose`)."
)
_SCORE_C: Final = ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_void_p)
_ROW: Final = from_dtype(FEATURE_DTYPE)


def _compiled(score: Any, as_python: Any) -> Any:
    """A C function around a user's, as fast as a built-in one but for the call; what raises is asked again as Python, which keeps the exception."""
    # Division by zero gives infinity or NaN, which mean "not this one".
    inner = score if hasattr(score, "py_func") else njit(error_model="numpy")(score)

    def outer(pointer: Any) -> float:
        rows, raised, found = carray(pointer, (1,)), False, 0.0
        try:
            found = float(inner(rows[0]))
        except Exception:
            raised = True
        return float(as_python(rows.ctypes)) if raised else found

    pointer_type = types.CPointer(_ROW)
    return cfunc(types.float64(pointer_type), error_model="numpy")(outer)


def names() -> tuple[str, ...]:
    """Known without a file, the shipped decision first; then those of installed packages."""
    own = sorted(point.name for point in entry_points(group=GROUP))
    return ("shipped", *(f.__name__ for f in BUILT_IN), *own)


def resolve(name: str) -> Policy:
    """The policy of that name, or the function of `FILE.py:FUNCTION`.

    Hyphens and underscores are the same.

    Raises:
        ConfigError: there is none, or the file has no such function.
    """
    plain = name.replace("-", "_")
    if plain == "shipped":
        return Policy("shipped", SHIPPED, None, "hanse")
    for number, score in enumerate(BUILT_IN, 1):
        if score.__name__ == plain:
            return Policy(plain, number, score, "hanse")
    if ".py:" in name:
        path, _, function = name.rpartition(":")
        return Policy(name, OWN, _function_of(Path(path), function), path)
    for point in entry_points(group=GROUP):
        if point.name in (name, plain):
            return Policy(point.name, OWN, _checked(point.load(), point.value), point.value)
    raise ConfigError(
        "policy",
        got=repr(name),
        allowed=f"{', '.join(names())}, or FILE.py:FUNCTION",
        fix="docs/policies.md says how to write one",
    )


def _function_of(path: Path, function: str) -> Score:
    where = f"policy {path}:{function}"
    if not path.is_file():
        raise ConfigError(where, got="no such file", allowed="a Python file")
    # The name is the file's own, so that two policies of one name in two folders do not meet.
    spec = importlib.util.spec_from_file_location(f"hanse_policy_{abs(hash(path.resolve()))}", path)
    assert spec is not None and spec.loader is not None, "a file that ends in .py has a loader"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(
            where, got=f"{type(error).__name__}: {error}", allowed="a file that can be imported"
        ) from error
    found = getattr(module, function, None)
    if found is None:
        known = [
            n
            for n, v in vars(module).items()
            if callable(v) and getattr(v, "__module__", "") == spec.name
        ]
        raise ConfigError(
            where, got="no such function", allowed=", ".join(known) or "a function in that file"
        )
    return _checked(found, where)


def _checked(score: Any, where: str) -> Score:
    if not callable(score):
        raise ConfigError(where, got=type(score).__name__, allowed="a function of one argument")
    count = len(inspect.signature(getattr(score, "py_func", score)).parameters)
    if count != 1:
        raise ConfigError(where, got=f"{count} arguments", allowed="one: the features of an offer")
    found: Score = score
    return found
