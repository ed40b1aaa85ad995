"""Charts as inline SVG, drawn by hand: no network, no script, the same bytes for the same figures.

Here: lines over time, quantile curves, stacked bars, heat strips, and what further charts are made of (`words`, `drawing`, `legend`, `scale`,
`value_axis`). Not here: the map (`atlas`), which figures they show (`page`).
Colours are classes of the page's style sheet; every chart is also a table on the page.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from hanse.twin.result import Happened
from hanse.units import SECONDS_PER_HOUR
from hanse.web.figures import number

WIDTH: Final = 920
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 14, 30
COLOURS: Final = 13
"""Of the style sheet: `.c0` to `.c12`; the first eight are the easiest to tell apart."""
NAME_MAX: Final = 25
"""Characters of a row's name that have room beside a bar."""
Values = Sequence[float | None]


def over_time(
    series: Mapping[str, Values],
    step_s: float,
    unit: str,
    happened: Sequence[Happened] = (),
    *,
    height: int = 210,
    floor: float = 0.0,
) -> str:
    """Lines over the run's hours; faults are bands with the number that the list of faults gives them."""
    length = max((len(v) for v in series.values()), default=0)
    top = max((x for v in series.values() for x in v if x is not None), default=0.0)
    if length == 0:
        return ""
    span_s = length * step_s
    high = nice_top(max(top, floor))
    x = scale(0.0, span_s, LEFT, WIDTH - RIGHT)
    y = scale(0.0, high, height - BOTTOM, TOP)
    parts = [*_time_axis(x, span_s, height), *value_axis(y, high, unit)]
    parts += _faults(happened, x, span_s, height)
    for i, values in enumerate(series.values()):
        for run in _runs(values):
            points = " ".join(f"{x((t + 0.5) * step_s):.1f},{y(v):.1f}" for t, v in run)
            parts.append(f'<polyline class="line s{i % COLOURS}" points="{points}"/>')
    return drawing(parts, height, f"{', '.join(series)}, {unit}, over time") + legend(list(series))


def quantile_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], unit: str
) -> str:
    """Share of answers (up) that took at most so long (across, logarithmic)."""
    known = {name: curve for name, curve in curves.items() if curve[1]}
    values = [v for _, ms in known.values() for v in ms if v > 0.0]
    if not values:
        return ""
    height = 230
    low, high = math.log10(min(values)), math.log10(max(values))
    ticks = [
        math.log10(digit) + decade
        for decade in range(math.floor(low), math.ceil(high) + 1)
        for digit in (1, 2, 5)
    ]
    low = max((t for t in ticks if t <= low), default=low)
    high = max(min((t for t in ticks if t >= high), default=high), low + 0.5)
    x = scale(low, high, LEFT, WIDTH - RIGHT - 20)
    y = scale(0.0, 1.0, height - BOTTOM, TOP)
    parts = []
    for at in (t for t in ticks if low <= t <= high):
        parts.append(
            f'<line class="grid" x1="{x(at):.1f}" x2="{x(at):.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
        parts.append(words(x(at), height - BOTTOM + 16, f"{10.0**at:,.6g}", "middle"))
    parts.append(words(WIDTH - RIGHT, height - 2, unit, "end"))
    for share in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(share):.1f}" y2="{y(share):.1f}"/>'
        )
        parts.append(words(LEFT - 6, y(share) + 4, f"{share:.0%}", "end"))
    for i, (shares, ms) in enumerate(known.values()):
        points = " ".join(
            f"{x(math.log10(max(v, 10.0**low))):.1f},{y(s):.1f}"
            for s, v in zip(shares, ms, strict=True)
        )
        parts.append(f'<polyline class="line s{i % COLOURS}" points="{points}"/>')
    return drawing(parts, height, f"share of answers by {unit}") + legend(list(known))


def stacked_bars(
    rows: Mapping[str, Sequence[float]],
    parts_names: Sequence[str],
    show: Callable[[float], str],
    ends: Mapping[str, str] | None = None,
) -> str:
    """One bar a row, all to the same scale; parts in the order of the names, and at its end its sum or what `ends` says.

    What is earned (negative) stands left of the line of nothing.
    """
    top = max((sum(v for v in values if v > 0.0) for values in rows.values()), default=0.0)
    bottom = min((sum(v for v in values if v < 0.0) for values in rows.values()), default=0.0)
    if top <= 0.0:
        return ""
    left, pitch = 150, 30
    height = TOP + pitch * len(rows) + 8
    x = scale(bottom, top, left, WIDTH - 110)
    parts = []
    for i, (name, values) in enumerate(rows.items()):
        y = TOP + i * pitch
        parts.append(row_name(left - 8, y + 15, name))
        ahead = behind = 0.0
        for part, value in enumerate(values):
            begin = ahead if value > 0.0 else behind + value
            if value != 0.0:
                title = f"<title>{escape(f'{name}, {parts_names[part]}: {show(value)}')}</title>"
                wide = x(begin + abs(value)) - x(begin)
                parts.append(
                    f'<rect class="c{part % COLOURS}" x="{x(begin):.1f}" y="{y}" width="{wide:.1f}" height="20">{title}</rect>'
                )
            ahead, behind = ahead + max(value, 0.0), behind + min(value, 0.0)
        end = ends[name] if ends else show(sum(values))
        parts.append(words(x(ahead) + 6, y + 15, end, "start"))
    if bottom < 0.0:
        parts.append(upright(x(0.0), height, "zero"))
    return drawing(parts, height, "bars: " + ", ".join(parts_names)) + legend(
        list(parts_names), square=True
    )


def heat_strip(rows: Mapping[str, Values], start_hour: int, unit_h: int) -> str:
    """Shares by hour, one strip a row: darker is more; hatched where nobody knows."""
    length = max((len(v) for v in rows.values()), default=0)
    if length == 0:
        return ""
    left, pitch = 150, 24
    height = TOP + pitch * len(rows) + BOTTOM
    x = scale(0.0, float(length), left, WIDTH - 70)
    parts = []
    for i, (name, values) in enumerate(rows.items()):
        y = TOP + i * pitch
        parts.append(row_name(left - 8, y + 14, name))
        for t, share in enumerate(values):
            title = f"<title>{escape(name)}, hour {t * unit_h}: {_percent(share)}</title>"
            look = (
                'class="none"'
                if share is None
                else f'class="clean" fill-opacity="{max(share, 0.02):.3f}"'
            )
            wide = x(t + 1.0) - x(float(t)) - (0.6 if length < 200 else 0.0)
            parts.append(
                f'<rect {look} x="{x(float(t)):.2f}" y="{y}" width="{wide:.2f}" height="18">{title}</rect>'
            )
        known = [v for v in values if v is not None]
        mean = sum(known) / len(known) if known else None
        parts.append(words(WIDTH - 64, y + 14, _percent(mean), "start"))
    every = next(e for e in (1, 2, 3, 6, 12, 24, 48, 96, 168, 720, 10_000) if length / e <= 16)
    for t in range(0, length, every):
        hour = start_hour + t * unit_h
        label = f"{hour % 24}:00" if unit_h * length <= 48 else f"day {hour // 24}"
        parts.append(words(x(float(t)), height - BOTTOM + 18, label, "start"))
    return drawing(parts, height, "carbon-free share by hour")


def nice_top(value: float) -> float:
    """The next 1, 2, 2.5 or 5 times a power of ten, so that an axis has round numbers."""
    if value <= 0.0:
        return 1.0
    decade = 10.0 ** math.floor(math.log10(value))
    return next(
        decade * m for m in (1.0, 2.0, 2.5, 5.0, 10.0) if value <= decade * m * (1.0 + 1e-12)
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.0%}"


def upright(x: float, height: int, kind: str = "grid") -> str:
    """A line from top to bottom."""
    return f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{height - 4}"/>'


def scale(low: float, high: float, at_low: float, at_high: float) -> Callable[[float], float]:
    """Where a value stands between two ends of the picture."""
    factor = (at_high - at_low) / (high - low)
    return lambda value: at_low + (value - low) * factor


def _runs(values: Values) -> list[list[tuple[int, float]]]:
    """Stretches without gaps."""
    runs: list[list[tuple[int, float]]] = [[]]
    for t, value in enumerate(values):
        if value is not None:
            runs[-1].append((t, value))
        elif runs[-1]:
            runs.append([])
    # A point by itself would not be seen as a line.
    return [[*run, (run[0][0] + 1, run[0][1])] if len(run) == 1 else run for run in runs if run]


def _time_axis(x: Callable[[float], float], span_s: float, height: int) -> list[str]:
    steps_h = (1 / 60, 1 / 12, 1 / 6, 0.5, 1, 2, 3, 6, 12, 24, 48, 168, 720, 2160)
    hours = span_s / SECONDS_PER_HOUR
    step = next((h for h in steps_h if hours / h <= 13), 8760.0)
    parts = []
    for i in range(int(hours / step + 1e-9) + 1):
        at = x(i * step * SECONDS_PER_HOUR)
        parts.append(
            f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
        label = f"{round(i * step * 60)} min" if step < 0.5 else f"{i * step:g} h"
        anchor = "middle" if at < WIDTH - RIGHT - 20 else "end"
        parts.append(words(at, height - BOTTOM + 16, label, anchor))
    return parts


def value_axis(y: Callable[[float], float], high: float, unit: str) -> list[str]:
    """Five lines from nothing to `high`, with figures and the unit."""
    parts = []
    for i in range(5):
        value = high * i / 4
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(
            words(
                LEFT - 6,
                y(value) + 4,
                number(value).rstrip("0").rstrip(".") if "." in number(value) else number(value),
                "end",
            )
        )
    parts.append(words(LEFT + 4, TOP + 10, unit, "start", "unit"))
    return parts


def _faults(
    happened: Sequence[Happened], x: Callable[[float], float], span_s: float, height: int
) -> list[str]:
    parts = []
    for i, fault in enumerate(happened, 1):
        begin = x(min(fault.at_s, span_s))
        end = x(min(fault.until_s if fault.until_s is not None else span_s, span_s))
        title = f"<title>{escape(fault.text)}</title>"
        parts.append(
            f'<rect class="fault" x="{begin:.1f}" y="{TOP}" width="{max(end - begin, 1.5):.1f}" '
            f'height="{height - BOTTOM - TOP}">{title}</rect>'
        )
        parts.append(words(begin + 2, TOP - 3, str(i), "start", "mark"))
    return parts


def row_name(x: float, y: float, name: str, most: int = NAME_MAX) -> str:
    """What a row is called, shortened where it would run out of the picture."""
    if len(name) <= most:
        return words(x, y, name, "end")
    return f"<g><title>{escape(name)}</title>{words(x, y, name[: most - 1] + '…', 'end')}</g>"


def words(x: float, y: float, text: str, anchor: str, kind: str = "") -> str:
    """One line of text."""
    look = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escape(text)}</text>'


def drawing(parts: Sequence[str], height: int, label: str) -> str:
    """The picture as one element; the label is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label, {chr(34): "&quot;"})}">'
        + "".join(parts)
        + "</svg>"
    )


def legend(names: Sequence[str], *, square: bool = False) -> str:
    """Colours and what they stand for; a single line needs none."""
    if len(names) < 2 and not square:
        return ""
    kind = "c" if square else "s"
    keys = "".join(
        '<li><svg viewBox="0 0 14 10" aria-hidden="true">'
        + (
            f'<rect class="{kind}{i % COLOURS}" width="14" height="10"/>'
            if square
            else f'<line class="line {kind}{i % COLOURS}" x1="0" x2="14" y1="5" y2="5"/>'
        )
        + f"</svg>{escape(name)}</li>"
        for i, name in enumerate(names)
    )
    return f'<ul class="legend">{keys}</ul>'
