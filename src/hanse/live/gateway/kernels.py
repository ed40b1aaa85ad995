"""The arithmetic of one request as compiled code: energy, header lines, sums, its note, its last record.

Here: kernels over plain numbers and arrays, and `Kernels`, which holds the entry points of one worker. Not here: when they are
called (`closing`, `measured`, `plain`), the decision (`dispatch`), what the figures mean (`measured`, `metrics`, `notes`).

Python took two thirds of a request's time for these few hundred additions, divisions and digits; compiled they take under a
microsecond. Called through `direct`: arguments have exactly the sampled types. Buffers belong to the caller; nothing is allocated.
"""

# mypy: disable-error-code="untyped-decorator, no-any-return"
# numba's decorators have no types; the functions they wrap are typed.

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numba import njit

from hanse.compiled import INLINED, KERNEL
from hanse.dispatch.load import OWN_DTYPE
from hanse.dispatch.table import ARRAYS
from hanse.live.gateway import metrics, notes
from hanse.live.gateway.direct import direct
from hanse.live.shared import NOTE_BYTES, NOTES_MAX, SharedPage

if TYPE_CHECKING:
    from hanse.live.gateway.metrics import Counts

Five = tuple[float, float, float, float, float]
"""(ttft_ms, e2e_ms, wh, g, usd)."""
TEXT_BYTES: Final = 2048
"""Of a buffer: two lines of five figures have at most 600 bytes, a last record 140."""
COUNT_MAX: Final = 2**31 - 1
"""Largest number of tokens that is written down; an engine that claims more is wrong."""
# What `LAYOUT` holds. It comes as an array, as another module's numbers would stay in numba's cache when they change there.
(
    AT_E2E,
    AT_TTFT,
    AT_TOKENS_IN,
    AT_TOKENS_OUT,
    AT_WH,
    AT_G,
    AT_USD,
    AT_LEAGUE,
    AT_MEASURED,
    AT_PREDICTED,
) = range(10)
AT_OK, AT_ANSWERED, NOTE_SET, NOTE_AT_F8, NOTE_NUMBERS, NOTE_FIGURES = range(10, 16)
LAYOUT: Final = np.array(
    [
        metrics.E2E, metrics.TTFT, metrics.TOKENS_IN, metrics.TOKENS_OUT, metrics.ENERGY_WH, metrics.CARBON_G,
        metrics.COST_USD, metrics.LEAGUE, metrics.COST["league_measured"], metrics.COST["league_predicted"],
        metrics.code_index(200), notes.OUTCOMES.index("answered"),
        notes.SET_SLOTS, notes.AT_F8, notes.NUMBERS_I4, notes.FIGURES_F8,
    ]
)  # fmt: skip
_BILLION: Final = 1_000_000_000
_INT_MAX: Final = 9.0e18


def _text(text: str) -> Any:
    return np.frombuffer(text.encode(), np.uint8)


# Compiled code copies from these.
_PREDICTED: Final = _text("x-hanse-predicted: ttft_ms=")
_MEASURED: Final = _text("x-hanse-measured: ttft_ms=")
_E2E: Final = _text(";e2e_ms=")
_WH: Final = _text(";wh=")
_G: Final = _text(";g=")
_USD: Final = _text(";usd=")
_IN: Final = _text(";tokens_in=")
_OUT: Final = _text(";tokens_out=")
_METHOD: Final = _text(";method=")
_ATTEMPTS: Final = _text(";attempts=")
_END: Final = _text("\r\n")
_MODELLED: Final = _text("modelled")
_ESTIMATED: Final = _text("estimated")
_MEASURED_BY: Final = _text("measured")


@njit(**INLINED)
def put(text: Any, at: int, what: Any) -> int:
    """Copy bytes; the place behind them."""
    for i in range(len(what)):
        text[at + i] = what[i]
    end: int = at + len(what)
    return end


@njit(**INLINED)
def put_padded(text: Any, at: int, number: int, width: int) -> int:
    """A number in so many digits."""
    for i in range(width):
        text[at + width - 1 - i] = 48 + number % 10
        number //= 10
    return at + width


@njit(**INLINED)
def put_number(text: Any, at: int, number: int) -> int:
    """A number in as many digits as it has."""
    width = 1
    rest = number // 10
    while rest > 0:
        width += 1
        rest //= 10
    return put_padded(text, at, number, width)


@njit(**INLINED)
def put_scaled(text: Any, at: int, value: float, scale: int, digits: int) -> int:
    """A figure of at least 0 with so many digits behind the point: whole numbers of hundredths and billionths."""
    number = int(min(max(value * scale + 0.5, 0.0), _INT_MAX))
    at = put_number(text, at, number // scale)
    text[at] = 46
    return put_padded(text, at + 1, number % scale, digits)


@njit(**KERNEL)
def predicted_line(five: Five, text: Any, at: int) -> int:
    """`x-hanse-predicted:` header line into `text` from `at` on; its end."""
    at = put(text, at, _PREDICTED)
    at = put_scaled(text, at, five[0], 100, 2)
    at = put_scaled(text, put(text, at, _E2E), five[1], 100, 2)
    at = put_scaled(text, put(text, at, _WH), five[2], _BILLION, 9)
    at = put_scaled(text, put(text, at, _G), five[3], _BILLION, 9)
    at = put_scaled(text, put(text, at, _USD), five[4], _BILLION, 9)
    end: int = put(text, at, _END)
    return end


@njit(**KERNEL)
def measured_line(
    five: Five, tokens_in: int, tokens_out: int, method: int, attempts: int, text: Any, at: int
) -> int:
    """`x-hanse-measured:` header line into `text` from `at` on; its end. `method` is an index of `notes.METHODS`."""
    at = put(text, at, _MEASURED)
    at = put_scaled(text, at, five[0], 100, 2)
    at = put_scaled(text, put(text, at, _E2E), five[1], 100, 2)
    at = put_number(text, put(text, at, _IN), tokens_in)
    at = put_number(text, put(text, at, _OUT), tokens_out)
    at = put_scaled(text, put(text, at, _WH), five[2], _BILLION, 9)
    at = put_scaled(text, put(text, at, _G), five[3], _BILLION, 9)
    at = put_scaled(text, put(text, at, _USD), five[4], _BILLION, 9)
    at = put(text, at, _METHOD)
    if method == 1:
        at = put(text, at, _MODELLED)
    elif method == 2:
        at = put(text, at, _ESTIMATED)
    elif method == 3:
        at = put(text, at, _MEASURED_BY)
    at = put_number(text, put(text, at, _ATTEMPTS), attempts)
    end: int = put(text, at, _END)
    return end


@njit(**INLINED)
def put_int(out: Any, at: int, number: int, size: int) -> int:
    """Big-endian bytes of a whole number."""
    for i in range(size):
        out[at + i] = (number >> (8 * (size - 1 - i))) & 0xFF
    return at + size


@njit(**INLINED)
def pack_float(out: Any, at: int, value: float) -> int:
    """msgpack's float64."""
    out[at] = 0xCB
    return put_int(out, at + 1, np.float64(value).view(np.int64), 8)


@njit(**INLINED)
def pack_count(out: Any, at: int, number: int) -> int:
    """msgpack's shortest form of a number from 0 to COUNT_MAX."""
    if number < 128:
        return put_int(out, at, number, 1)
    if number < 256:
        out[at] = 0xCC
        return put_int(out, at + 1, number, 1)
    if number < 65536:
        out[at] = 0xCD
        return put_int(out, at + 1, number, 2)
    out[at] = 0xCE
    return put_int(out, at + 1, number, 4)


@njit(**KERNEL)
def ended_record(
    opening: Any,
    request_id: Any,
    at_s: float,
    outcome: Any,
    attempt: int,
    attempts: int,
    tokens_in: int,
    tokens_out: int,
    five: Five,
    method: Any,
    out: Any,
) -> int:
    """A sized `Ended` record of an entry site; `opening`, `outcome` and `method` are bytes of `records`."""
    at = put(out, put(out, 4, opening), request_id)
    at = put(out, pack_float(out, at, at_s), outcome)
    at = pack_count(out, pack_count(out, at, attempt), attempts)
    at = pack_count(out, pack_count(out, at, tokens_in), tokens_out)
    for i in range(5):
        at = pack_float(out, at, five[i])
    at = put(out, at, method)
    for i in range(4):
        out[i] = ((at - 4) >> (8 * i)) & 0xFF
    end: int = at
    return end


@njit(**KERNEL)
def local_wh(
    offers: Any,
    sites: Any,
    executing: Any,
    engine: int,
    offer: int,
    tokens_in: int,
    cached: int,
    tokens_out: int,
    batch_then: float,
) -> float:
    """Modelled Wh of a request at a local engine: halfway between the batch it joined and the batch it leaves."""
    row = offers[offer]
    running = 0
    for worker in range(executing.shape[0]):
        running += executing[worker, engine].requests
    batch = max(1.0, min(row.slots, (max(1.0, batch_then) + running) / 2.0))
    decode_wh = (row.decode_wh_shared / batch + row.decode_wh_per_token) * tokens_out
    prefill_wh = row.prefill_wh_per_token * max(0, tokens_in - cached)
    wh: float = (decode_wh + prefill_wh) * sites[row.site].pue
    return wh


@njit(**KERNEL)
def hand_over(
    executing: Any, begun: Any, worker: int, engine: int, tokens: int, prefill_tokens: int
) -> None:
    """One more request of a worker is at an engine; as `Engine.begin`."""
    busy = executing[worker, engine]
    busy.requests += 1
    busy.tokens += tokens
    busy.prefill_tokens += prefill_tokens
    begun[worker, engine] += 1.0


@njit(**INLINED)
def observe(counts: Any, bounds: Any, histogram: int, seen_s: float) -> None:
    """One value into a histogram; below 0 nothing was seen."""
    if seen_s >= 0.0:
        bucket = 0
        while bucket < bounds.shape[0] and bounds[bucket] < seen_s:
            bucket += 1
        counts[histogram + bucket] += 1.0
        counts[histogram + bounds.shape[0] + 1] += seen_s


@njit(**KERNEL)
def count_end(
    row: Any,
    status: int,
    result: int,
    tokens_in: int,
    tokens_out: int,
    predicted: Five,
    five: Five,
    e2e_s: float,
    ttft_s: float,
) -> None:
    """Add one ended request to its worker's counters.

    `row` is (counters, `LAYOUT`, bounds of the histograms); `status` the counter of its status, `result` an index of
    `metrics.RESULTS` or -1; durations below 0 were not seen.
    """
    counts, layout, bounds = row
    counts[status] += 1.0
    observe(counts, bounds, layout[AT_E2E], e2e_s)
    observe(counts, bounds, layout[AT_TTFT], ttft_s)
    counts[layout[AT_TOKENS_IN]] += tokens_in
    counts[layout[AT_TOKENS_OUT]] += tokens_out
    counts[layout[AT_WH]] += five[2]
    counts[layout[AT_G]] += five[3]
    counts[layout[AT_USD]] += five[4]
    if result >= 0:
        counts[layout[AT_LEAGUE] + result] += 1.0
    if result == 0:
        for i in range(5):
            counts[layout[AT_MEASURED] + i] += five[i]
            counts[layout[AT_PREDICTED] + i] += predicted[i]


@njit(**KERNEL)
def note_end(
    notes: Any,
    request_id: Any,
    mark: Any,
    at_s: float,
    shown: tuple[int, int, int, int, int, int],
    predicted: Five,
    five: Five,
) -> None:
    """Note one request in the oldest slot of its set.

    `notes` is (bytes, float64, int32 of all slots, `LAYOUT`); `shown` offer, attempts, outcome, method, tokens in and out.
    """
    slots, floats, numbers, layout = notes
    at_f8, set_slots = layout[NOTE_AT_F8], layout[NOTE_SET]
    number = 0
    for i in range(4):
        number += request_id[12 + i] * 256**i
    first = number % (slots.shape[0] // set_slots) * set_slots
    slot = first
    for other in range(first + 1, first + set_slots):
        if floats[other, at_f8] < floats[slot, at_f8]:
            slot = other
    for i in range(16):
        slots[slot, i] = request_id[i]
    for i in range(8):
        slots[slot, 16 + i] = mark[i]
    floats[slot, at_f8] = at_s
    for i in range(6):
        numbers[slot, layout[NOTE_NUMBERS] + i] = shown[i]
    figures = layout[NOTE_FIGURES]
    for i in range(5):
        floats[slot, figures + i] = predicted[i]
        floats[slot, figures + 5 + i] = five[i]
    for i in range(16):
        slots[slot, (figures + 10) * 8 + i] = request_id[i]


@njit(**KERNEL)
def end_plain(
    table: Any,
    executing: Any,
    row: Any,
    notes: Any,
    where: tuple[int, int, int, int, int],
    predicted: Five,
    batch_then: float,
    times: tuple[float, float, float, float],
    tokens: tuple[int, int, int],
    words: Any,
    text: Any,
    made: Any,
) -> int:
    """Everything that ends the only attempt of a request, at a local engine, with a whole 200.

    Args:
        table: (offers, sites) of the table.
        executing: [worker, engine] in flight.
        row: As in `count_end`.
        notes: As in `note_end`.
        where: worker, engine, offer; tokens and unread prompt tokens to take back at the engine.
        predicted: The five figures of the prediction.
        batch_then: Batch that it was predicted to join.
        times: Begin, now, Wh of the engine's power that fell to it (below 0: none is known), USD per gram.
        tokens: In, of these cached, out.
        words: request id, its key's mark, and the bytes of `records` that its last record is put together from.
        text: Takes both header lines, then the sized record.
        made: [5] takes the figures.

    Returns:
        Bytes of the header lines, and of the record times 65536.
    """
    worker, engine, offer, counted, prefill = where
    started_at_s, now_s, share_wh, usd_per_g = times
    tokens_in, cached, tokens_out = tokens
    request_id, mark, opening, outcome, modelled, estimated = words
    offers, sites = table
    site = sites[offers[offer].site]
    if share_wh >= 0.0:
        method, wh = 2, share_wh * site.pue
    else:
        method, wh = (
            1,
            local_wh(
                offers, sites, executing, engine, offer, tokens_in, cached, tokens_out, batch_then
            ),
        )
    g = wh * site.g_per_wh
    e2e_s = now_s - started_at_s
    five = (e2e_s * 1000.0, e2e_s * 1000.0, wh, g, wh * site.usd_per_wh + g * usd_per_g)
    for i in range(5):
        made[i] = five[i]
    busy = executing[worker, engine]
    busy.requests -= 1
    busy.tokens -= counted
    busy.prefill_tokens -= prefill
    count_end(row, row[1][AT_OK], 0, tokens_in, tokens_out, predicted, five, e2e_s, -1.0)
    shown = (offer, 1, row[1][AT_ANSWERED], method, tokens_in, tokens_out)
    note_end(notes, request_id, mark, started_at_s, shown, predicted, five)
    lines = measured_line(
        five, tokens_in, tokens_out, method, 1, text, predicted_line(predicted, text, 0)
    )
    record = ended_record(
        opening, request_id, now_s, outcome, 1, 1, tokens_in, tokens_out, five,
        estimated if method == 2 else modelled, text[lines:],
    )  # fmt: skip
    packed: int = lines + record * 65536
    return packed


_FIVE: Final[Five] = (0.0, 0.0, 0.0, 0.0, 0.0)


class Kernels:
    """Entry points for the arrays of one worker, and the buffers they write to."""

    __slots__ = (
        "buffer",
        "count",
        "ended",
        "made",
        "measured",
        "note",
        "notes",
        "predicted",
        "row",
        "view",
    )

    def __init__(self, counts: Counts, page: SharedPage) -> None:
        self.buffer = np.zeros(TEXT_BYTES, np.uint8)
        self.view = memoryview(self.buffer)  # type: ignore[arg-type]
        """Read results here before the next call."""
        self.made = np.zeros(5)
        """Figures of the last `end_plain`."""
        self.row = counts.array, LAYOUT, np.array(metrics.SECONDS)
        memory = np.frombuffer(page.notes, np.uint8).reshape(NOTES_MAX, NOTE_BYTES)
        self.notes = memory, memory.view(np.float64), memory.view(np.int32), LAYOUT
        self.predicted: Callable[..., Any] = direct(predicted_line, _FIVE, self.buffer, 0)
        self.measured: Callable[..., Any] = direct(measured_line, _FIVE, 1, 1, 1, 1, self.buffer, 0)
        self.ended: Callable[..., Any] = direct(
            ended_record, b"", b"", 1.0, b"", 1, 1, 1, 1, _FIVE, b"", self.buffer
        )
        self.count: Callable[..., Any] = direct(
            count_end, self.row, 1, 1, 1, 1, _FIVE, _FIVE, 1.0, 1.0
        )
        self.note: Callable[..., Any] = direct(
            note_end, self.notes, b"", b"", 1.0, (1,) * 6, _FIVE, _FIVE
        )

    def end_plain(self, offers: Any, sites: Any, executing: Any) -> Callable[..., Any]:
        """The entry point for the arrays of one table."""
        return direct(
            end_plain,
            (offers, sites),
            executing,
            self.row,
            self.notes,
            (1,) * 5,
            _FIVE,
            1.0,
            (1.0,) * 4,
            (1,) * 3,
            (b"",) * 6,
            self.buffer,
            self.made,
        )


def warm() -> None:
    """Compile every kernel here for the arrays of a real worker, and leave it in the cache on disk."""
    page = SharedPage.private()
    arrays = {name: np.zeros((1,) * n, dtype) for name, (dtype, n) in ARRAYS.items()}
    for array in arrays.values():
        array.flags.writeable = False  # as in a table that is mapped
    offers, sites = arrays["offers"], arrays["sites"]
    executing = page.exec[:1].view(OWN_DTYPE)[..., 0]
    Kernels(metrics.Counts(page, 0), page).end_plain(offers, sites, executing)
    direct(local_wh, offers, sites, executing, 0, 0, 0, 0, 0, 1.0)
    direct(hand_over, executing, page.begun, 0, 0, 0, 0)
