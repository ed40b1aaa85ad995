"""Requests drawn from ServeGen's recorded demand: rates of each client in windows of ten minutes, and lengths.

Here: reading `X_rates.csv[.gz]` with `X_lengths.csv[.gz]` beside it, and the requests that they stand for. Not here: a
demand of one's own (`generate`).

Source: Xiang et al., ServeGen, arXiv 2505.09999, repository alibaba/ServeGen (Apache-2.0). A client's arrivals are a
renewal process with the recorded kind of gaps (Gamma or Weibull) in operational time, in which its rate is 1, mapped
back through its integrated rate: Gerhardt and Nelson, INFORMS J. Computing 21(4), 2009, doi 10.1287/ijoc.1080.0323.
Counts then have the recorded rate whatever the burstiness. Only marginal lengths are published: input and output are
drawn independently. The clock hour of the recording is not published.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError, FeedError
from hanse.signals.traces import rows
from hanse.signals.traces.draws import Draws
from hanse.signals.traces.generate import TICKS_PER_S
from hanse.signals.traces.rows import BadRows, Progress
from hanse.signals.traces.tables import Imported
from hanse.signals.traces.trace import NO_BLOCKS, Chunk, Trace, TraceMeta, empty_requests

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WINDOW_S: Final = 600.0
SLICE_REQUESTS: Final = 65_536
STREAM: Final = 4
SOURCE: Final = "ServeGen (alibaba/ServeGen); Xiang et al., arXiv 2505.09999"
IN_FIELDS: Final = ("input_tokens", "text_tokens", "image_tokens")
OUT_FIELDS: Final = ("output_tokens",)
POOLED: Final = -1


class Rates(NamedTuple):
    """Recorded windows in order of time, then client."""

    at_s: Floats
    client: Ints
    rate_rps: Floats
    shape: Floats
    weibull: NDArray[np.bool_]

    def part(self, which: NDArray[Any]) -> Rates:
        """Some of the windows."""
        return Rates(
            self.at_s[which],
            self.client[which],
            self.rate_rps[which],
            self.shape[which],
            self.weibull[which],
        )


def read_servegen(
    path: Path,
    *,
    factor: float = 1.0,
    from_s: float = 0.0,
    until_s: float = math.inf,
    seed: int = 1,
    progress: Progress | None = None,
) -> Imported:
    """Requests of a model's demand times `factor`, in a part of the record; clients are tenants.

    Raises:
        FeedError: where a file is missing or has a bad row.
    """
    if factor <= 0.0 or not 0.0 <= from_s < until_s:
        got = f"factor {factor}, {from_s} to {until_s} s"
        raise ConfigError("servegen", got=got, allowed="a factor above 0, an end after the begin")
    lengths_path = path.with_name(path.name.replace("_rates", "_lengths"))
    rates = _read_rates(path, progress)
    last_s = float(rates.at_s.max()) + WINDOW_S
    until_s = min(until_s, last_s)
    inside = (rates.at_s + WINDOW_S > from_s) & (rates.at_s < until_s)
    if not inside.any():
        allowed = f"a window with demand within 0 to {last_s:.0f} s"
        raise ConfigError("servegen", got=f"{from_s} to {until_s} s", allowed=allowed)
    rates = rates.part(inside)
    lengths = _Lengths(lengths_path, int(rates.client.max()) + 1)
    name = path.name.split("_rates")[0]
    clients = range(int(rates.client.max()) + 1)
    meta = TraceMeta(
        name=f"servegen-{name}",
        source=f"{SOURCE}; demand x {factor:g} drawn with seed {seed}",
        licence="Apache-2.0",
        services=(name,),
        tenants=tuple(f"client-{i}" for i in clients),
        duration_s=until_s - from_s,
        note="input and output lengths are independent; clock hour unknown",
    )
    expected = float((rates.rate_rps * WINDOW_S).sum() * factor)
    said = [
        f"about {expected:,.0f} requests of {len(np.unique(rates.client))} clients",
        *lengths.said,
    ]
    maker = _Maker(rates, lengths, factor, from_s, until_s, seed)
    return Imported(Trace(meta, maker.pieces), tuple(said), 0)


class _Maker:
    """Arrivals of all clients, slice by slice of the recorded windows."""

    def __init__(
        self,
        rates: Rates,
        lengths: _Lengths,
        factor: float,
        from_s: float,
        until_s: float,
        seed: int,
    ) -> None:
        self.rates, self.lengths, self.factor = rates, lengths, factor
        self.from_s, self.until_s, self.seed = from_s, until_s, seed
        begins, counts = np.unique(rates.at_s, return_counts=True)
        self.windows = list(
            zip(begins.tolist(), np.cumsum(counts).tolist(), counts.tolist(), strict=True)
        )
        totals = np.add.reduceat(rates.rate_rps, np.cumsum(counts) - counts)
        per_window = float(totals.max()) * factor * WINDOW_S
        self.slices = 1 << max(0, math.ceil(math.log2(per_window / SLICE_REQUESTS)))

    def pieces(self) -> Iterator[Chunk]:
        """Sorted requests from `from_s` on, counted from there."""
        owed: dict[int, float] = {}  # operational time until each client's next arrival
        slice_s = WINDOW_S / self.slices
        for begin_s, end, count in self.windows:
            part = self.rates.part(np.arange(end - count, end))
            for i in range(self.slices):
                number = round((begin_s + i * slice_s) * TICKS_PER_S)
                draws = Draws(self.seed, STREAM, number)
                chunk = self._slice(draws, begin_s + i * slice_s, slice_s, part, owed)
                if len(chunk.requests):
                    yield chunk

    def _slice(
        self, draws: Draws, begin_s: float, slice_s: float, part: Rates, owed: dict[int, float]
    ) -> Chunk:
        arrivals, counts = [], []
        for client, rate_rps, shape, weibull in zip(
            part.client.tolist(),
            part.rate_rps.tolist(),
            part.shape.tolist(),
            part.weibull.tolist(),
            strict=True,
        ):
            due, owed[client] = _arrivals(
                draws, rate_rps * self.factor * slice_s, shape, weibull, owed.get(client)
            )
            arrivals.append(due * (1.0 / (rate_rps * self.factor)))
            counts.append(len(due))
        at_s = np.concatenate(arrivals) + (begin_s - self.from_s)
        client = np.repeat(part.client, counts)
        requests = empty_requests(len(at_s))
        requests["at_s"] = np.floor(at_s * TICKS_PER_S) * (1.0 / TICKS_PER_S)
        requests["service"] = 0
        requests["tenant"] = client
        requests["tokens_in"] = self.lengths.drawn(draws, client, IN_FIELDS)
        requests["tokens_out"] = self.lengths.drawn(draws, client, OUT_FIELDS)
        requests = requests[(at_s >= 0.0) & (at_s < self.until_s - self.from_s)]
        return Chunk(requests[np.argsort(requests["at_s"], kind="stable")], NO_BLOCKS)


def _arrivals(
    draws: Draws, span: float, shape: float, weibull: bool, owed: float | None
) -> tuple[Floats, float]:
    """Arrivals of a renewal process of rate 1 within `[0, span)`, and how far the next one is beyond it."""
    first = owed
    if first is None:  # somewhere within a first gap
        first = float(draws.gaps(1, shape, weibull)[0] * draws.uniform(1)[0])
    if first >= span:
        return np.empty(0), first - span
    parts = [np.array([first])]
    while (last := float(parts[-1][-1])) < span:
        # Some more than are expected: a second round is rare, and costs only time.
        count = int(span - last + 3.0 * math.sqrt(span - last)) + 8
        parts.append(last + np.cumsum(draws.gaps(count, shape, weibull)))
    times = np.concatenate(parts)
    inside = int(np.searchsorted(times, span))
    return times[:inside], float(times[inside]) - span


class _Lengths:
    """Histograms of lengths by client; a client that has none draws from all clients' mean."""

    def __init__(self, path: Path, clients: int) -> None:
        self.said: list[str] = []
        table = _read_lengths(path)
        self._fields: dict[str, tuple[Floats, Floats, Floats]] = {}
        for field, found in table.items():
            missing = [c for c in range(clients) if c not in found]
            if missing and field in ("input_tokens", "output_tokens"):
                self.said.append(
                    f"{field}: {len(missing)} of {clients} clients have none, the pooled ones stand in"
                )
            rows_of = [found.get(client, found[POOLED]) for client in range(clients)]
            low = np.concatenate([r[0] for r in rows_of])
            # Quarter-octave bins: up to the next multiple of 2^(1/4), where that is a new number at all.
            high = np.maximum(np.rint(low * 2.0**0.25), low + 1.0)
            upto = np.concatenate([np.cumsum(r[1]) / r[1].sum() + c for c, r in enumerate(rows_of)])
            upto[np.cumsum([len(r[0]) for r in rows_of]) - 1] = np.arange(1, clients + 1)
            self._fields[field] = (upto, low, high)
        if "image_tokens" in table:
            self.said.append(
                "image tokens are counted once a request: whether they are by image is not published"
            )

    def drawn(self, draws: Draws, client: Ints, fields: tuple[str, ...]) -> Ints:
        """Tokens of each request: the sum of the fields that this model has."""
        total = np.zeros(len(client), np.int64)
        for field in fields:
            if field in self._fields:
                upto, low, high = self._fields[field]
                where = client + draws.uniform(len(client)) * (1.0 - 2.0**-40)
                bins = np.searchsorted(upto, where, side="right")
                span = high[bins] - low[bins]
                total += (low[bins] + draws.uniform(len(client)) * span).astype(np.int64)
        return total


def _read_rates(path: Path, progress: Progress | None) -> Rates:
    columns = ["client", "t_s", "rate_rps", "pattern", "shape"]
    parts: list[list[Floats]] = []
    bad = BadRows(path, "csv", skip=False)
    for batch in _batches(path, columns, bad, progress):
        weibull = np.array(batch.columns["pattern"].to_pylist()) == "W"
        numbers = [
            rows.numbers(batch, name, bad) for name in ("t_s", "client", "rate_rps", "shape")
        ]
        parts.append([*numbers, weibull.astype(np.float64)])
    if not parts:
        raise FeedError(str(path), got="no row", allowed="a window of a client at least")
    at_s, client, rate_rps, shape, weibull = (
        np.concatenate(column) for column in zip(*parts, strict=True)
    )
    if rate_rps.min() <= 0.0 or shape.min() <= 0.0 or client.min() < 0.0:
        raise FeedError(
            str(path), got="a client, rate or shape of 0 or less", allowed="numbers above 0"
        )
    order = np.lexsort((client, at_s))
    return Rates(
        at_s[order],
        client[order].astype(np.int64),
        rate_rps[order],
        shape[order],
        weibull[order] > 0.0,
    )


def _read_lengths(path: Path) -> dict[str, dict[int, tuple[Floats, Floats]]]:
    """Field -> client -> (low ends of bins, shares); client -1 is the mean over all."""
    table: dict[str, dict[int, tuple[Floats, Floats]]] = {}
    bad = BadRows(path, "csv", skip=False)
    for batch in _batches(path, ["client", "field", "bin_low", "share"], bad, None):
        names = np.array(batch.columns["field"].to_pylist())
        client, low, share = (rows.numbers(batch, n, bad) for n in ("client", "bin_low", "share"))
        for field in (*IN_FIELDS, *OUT_FIELDS):
            for one in np.unique(client[names == field]).tolist():
                here = (names == field) & (client == one)
                known = table.setdefault(field, {})
                before = known.get(int(one), (np.empty(0), np.empty(0)))
                known[int(one)] = (
                    np.concatenate((before[0], low[here])),
                    np.concatenate((before[1], share[here])),
                )
    if not table:
        raise FeedError(
            str(path), got="no lengths", allowed="input_tokens and output_tokens by client"
        )
    for known in table.values():
        low = np.concatenate([bins for bins, _ in known.values()])
        share = np.concatenate([part / part.sum() for _, part in known.values()])
        distinct, which = np.unique(low, return_inverse=True)
        known[POOLED] = (distinct, np.bincount(which, weights=share).astype(np.float64))
    return table


def _batches(
    path: Path, columns: list[str], bad: BadRows, progress: Progress | None
) -> Iterator[rows.Batch]:
    header, _ = rows.header_of(path)
    for name in columns:
        if name not in header:
            allowed = f"a ServeGen table with {', '.join(columns)}"
            raise FeedError(str(path), got=f"columns {', '.join(header)}", allowed=allowed)
    return rows.csv_batches(path, columns, bad, progress)
