"""Counters of all workers and their Prometheus text.

Here: the index of every counter in the shared page's `counters` row, the text. Not here: when they count, adding (`kernels`). Each
worker writes its own row; any worker answers `/metrics` for the whole site by adding the rows. Names are documented in
`docs/gateway.md`, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from hanse.live.shared import COUNTERS_MAX, SharedPage, cells
from hanse.units import JOULES_PER_WH

CODES: Final = (
    200, 400, 401, 403, 404, 405, 408, 409, 413, 415, 417, 421, 429, 431, 451, 499, 500, 502, 503, 504,
)  # fmt: skip
"""499 is nginx's code for a client that left; no client ever sees it."""

SECONDS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
)  # fmt: skip
"""Bucket bounds: llm-d's and vLLM's span from a cache hit to a full deadline."""

FAILURES: Final = ("connect", "status", "timeout", "dead", "broken", "refused")
RESULTS: Final = ("served", "refused_law", "refused_other", "lost")
COSTS: Final = ("ttft_ms", "e2e_ms", "energy_wh", "carbon_g", "cost_usd")
VIEWS: Final = ("league_measured", "league_predicted", "central_predicted")
"""The three ways a request is costed; sums run over requests that the view served."""


class _Layout:
    """Hands out indices, so that no number appears twice."""

    def __init__(self) -> None:
        self.used = 0

    def take(self, count: int = 1) -> int:
        first, self.used = self.used, self.used + count
        assert self.used <= COUNTERS_MAX
        return first


_layout = _Layout()
REQUESTS: Final = _layout.take(len(CODES) + 1)
"""By answered status; the last is every other status."""
ATTEMPTS_LOCAL: Final = _layout.take()
ATTEMPTS_HOP: Final = _layout.take()
FAILED: Final = _layout.take(len(FAILURES))
HEDGES: Final = _layout.take()
HEDGES_WON: Final = _layout.take()
RETRIES: Final = _layout.take()
BROKEN_STREAMS: Final = _layout.take()
TOKENS_IN: Final = _layout.take()
TOKENS_OUT: Final = _layout.take()
ENERGY_WH: Final = _layout.take()
CARBON_G: Final = _layout.take()
COST_USD: Final = _layout.take()
HOPS_SERVED: Final = _layout.take()
HOPS_REFUSED: Final = _layout.take()
LINES_YIELDED: Final = _layout.take()
FEED_SENT: Final = _layout.take()
FEED_DROPPED: Final = _layout.take()
RECORDS: Final = _layout.take()
TABLES: Final = _layout.take()
TTFT: Final = _layout.take(len(SECONDS) + 2)
E2E: Final = _layout.take(len(SECONDS) + 2)
LEAGUE: Final = _layout.take(len(RESULTS))
CENTRAL: Final = _layout.take(len(RESULTS))
COST: Final = {view: _layout.take(len(COSTS)) for view in VIEWS}
CONTINUED_STREAMS: Final = _layout.take()

_CODE_INDEX: Final = {code: REQUESTS + i for i, code in enumerate(CODES)}
_CODE_OTHER: Final = REQUESTS + len(CODES)


def code_index(status: int) -> int:
    """The counter of a final status."""
    return _CODE_INDEX.get(status, _CODE_OTHER)


class Counts:
    """One worker's row, in memory of its own; the page gets it twice a second."""

    __slots__ = ("_shared", "array", "row")

    def __init__(self, page: SharedPage, worker: int) -> None:
        self._shared = page.counters[worker]
        self.array = self._shared.copy()
        """For compiled code, which adds what ended requests took."""
        self.row = cells(self.array)
        """The same for everybody else."""

    def publish(self) -> None:
        """Let the other workers, and readers of the page, see it."""
        self._shared[:] = self.array

    def answered(self, status: int) -> None:
        """One request has its final status."""
        self.row[code_index(status)] += 1.0

    def add_cost(
        self,
        view: int,
        ttft_ms: float,
        e2e_ms: float,
        energy_wh: float,
        carbon_g: float,
        cost_usd: float,
    ) -> None:
        """Add one request's figures to the five sums at `view` (an index out of `COST`)."""
        row = self.row
        row[view] += ttft_ms
        row[view + 1] += e2e_ms
        row[view + 2] += energy_wh
        row[view + 3] += carbon_g
        row[view + 4] += cost_usd


def exposition(page: SharedPage, site: str, gauges: dict[str, float]) -> bytes:
    """The Prometheus text (format 0.0.4) over all workers of the site."""
    sums = page.counters.sum(axis=0).tolist()
    label = f'site="{site}"'
    lines = [*_counter_lines(sums, label), *_histogram_lines(sums, label)]
    for name, value in gauges.items():
        lines += [f"# TYPE {name} gauge", f"{name}{{{label}}} {value:.10g}"]
    return ("\n".join(lines) + "\n").encode()


def _counter_lines(sums: list[float], label: str) -> Iterator[str]:
    for name, unit, series in _families():
        yield f"# TYPE {name} counter"
        if unit:
            yield f"# UNIT {name} {unit}"
        for labels, index, factor in series:
            inner = f"{label},{labels}" if labels else label
            yield f"{name}{{{inner}}} {sums[index] * factor:.10g}"


def _families() -> Iterator[tuple[str, str, list[tuple[str, int, float]]]]:
    """(name, unit, [(labels, index, factor to the base unit)]) of every counter."""
    codes = [(f'code="{code}"', REQUESTS + i, 1.0) for i, code in enumerate(CODES)]
    yield "hanse_gateway_requests_total", "", [*codes, ('code="other"', _CODE_OTHER, 1.0)]
    attempts = [('leg="local"', ATTEMPTS_LOCAL, 1.0), ('leg="hop"', ATTEMPTS_HOP, 1.0)]
    yield "hanse_gateway_attempts_total", "", attempts
    failures = [(f'reason="{name}"', FAILED + i, 1.0) for i, name in enumerate(FAILURES)]
    yield "hanse_gateway_attempt_failures_total", "", failures
    yield "hanse_gateway_retries_total", "", [("", RETRIES, 1.0)]
    yield "hanse_gateway_hedges_total", "", [("", HEDGES, 1.0)]
    yield "hanse_gateway_hedges_won_total", "", [("", HEDGES_WON, 1.0)]
    yield "hanse_gateway_streams_broken_total", "", [("", BROKEN_STREAMS, 1.0)]
    yield "hanse_gateway_streams_continued_total", "", [("", CONTINUED_STREAMS, 1.0)]
    tokens = [('direction="in"', TOKENS_IN, 1.0), ('direction="out"', TOKENS_OUT, 1.0)]
    yield "hanse_gateway_tokens_total", "", tokens
    joules = JOULES_PER_WH  # Prometheus wants base units
    yield "hanse_gateway_energy_joules_total", "joules", [("", ENERGY_WH, joules)]
    yield "hanse_gateway_carbon_grams_total", "grams", [("", CARBON_G, 1.0)]
    yield "hanse_gateway_cost_usd_total", "usd", [("", COST_USD, 1.0)]
    yield "hanse_gateway_hops_served_total", "", [("", HOPS_SERVED, 1.0)]
    yield "hanse_gateway_hops_refused_total", "", [("", HOPS_REFUSED, 1.0)]
    yield "hanse_gateway_lines_yielded_total", "", [("", LINES_YIELDED, 1.0)]
    yield "hanse_gateway_feed_rows_total", "", [("", FEED_SENT, 1.0)]
    yield "hanse_gateway_feed_dropped_total", "", [("", FEED_DROPPED, 1.0)]
    yield "hanse_gateway_evidence_records_total", "", [("", RECORDS, 1.0)]
    yield "hanse_gateway_tables_applied_total", "", [("", TABLES, 1.0)]
    yield from _shadow_families()


def _shadow_families() -> Iterator[tuple[str, str, list[tuple[str, int, float]]]]:
    league = [(f'view="league",result="{name}"', LEAGUE + i, 1.0) for i, name in enumerate(RESULTS)]
    central = [
        (f'view="central",result="{name}"', CENTRAL + i, 1.0) for i, name in enumerate(RESULTS)
    ]
    yield "hanse_shadow_requests_total", "", league + central
    for offset, (name, unit, factor) in enumerate(
        (
            ("ttft_seconds", "seconds", 1e-3),
            ("duration_seconds", "seconds", 1e-3),
            ("energy_joules", "joules", JOULES_PER_WH),
            ("carbon_grams", "grams", 1.0),
            ("cost_usd", "usd", 1.0),
        )
    ):
        series = [(f'view="{view}"', COST[view] + offset, factor) for view in VIEWS]
        yield f"hanse_shadow_{name}_total", unit, series


def _histogram_lines(sums: list[float], label: str) -> Iterator[str]:
    for name, first in (
        ("hanse_gateway_ttft_seconds", TTFT),
        ("hanse_gateway_duration_seconds", E2E),
    ):
        yield f"# TYPE {name} histogram"
        total = 0.0
        for i, bound in enumerate((*SECONDS, float("inf"))):
            total += sums[first + i]
            shown = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f'{name}_bucket{{{label},le="{shown}"}} {total:.10g}'
        yield f"{name}_sum{{{label}}} {sums[first + len(SECONDS) + 1]:.10g}"
        yield f"{name}_count{{{label}}} {total:.10g}"
