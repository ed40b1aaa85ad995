"""Charts that only a planning report has, from the parts of the house's charts: ranges, lines over few points, a tornado, a map of sites.

Here: inline SVG. Not here: which figures they show (`figures`), stacked bars, heat strips and curves (`twin.report.charts`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

from hanse.plan.answer import Range, SiteAnswer
from hanse.plan.doubt import Swing
from hanse.plan.report.table import anchor, large
from hanse.twin.report.atlas import Frame, Projection, world
from hanse.twin.report.charts import (
    BOTTOM,
    COLOURS,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    drawing,
    legend,
    nice_top,
    row_name,
    scale,
    upright,
    value_axis,
    words,
)
from hanse.web.figures import number, power

KINDS: Final = ("edge", "micro", "region")
"""Of sites, by colour: `.c0`, `.c1`, `.c2`."""
RADIUS_PX: Final = (2.5, 13.0)
LABELS_MAX: Final = 10
CHARACTER_PX: Final = 6.2
"""Width of a letter of a label, on average."""
MAP_PX: Final = 450.0
NAME_PX: Final = 250
Box = tuple[float, float, float, float]


def ranges(rows: Mapping[str, Range], unit: str) -> str:
    """p5 to p95 as a bar and p50 as a dot, one row a design, all from nothing to the same round number."""
    known = {name: r for name, r in rows.items() if all(map(math.isfinite, (r.p5, r.p50, r.p95)))}
    if not known:
        return ""
    top = max(r.p95 for r in known.values())
    low, high = min(0.0, *(r.p5 for r in known.values())), nice_top(top)
    left, pitch = 160, 28
    height = TOP + pitch * len(known) + BOTTOM
    x = scale(low, high, left, WIDTH - 190)
    parts = []
    for i in range(5):
        value = low + (high - low) * i / 4
        parts.append(upright(x(value), height - BOTTOM + 4))
        parts.append(words(x(value), height - 12, _short(value), "middle"))
    parts.append(words(WIDTH - RIGHT, height - 12, unit, "end", "unit"))
    for i, (name, r) in enumerate(known.items()):
        y = TOP + i * pitch + 10
        said = f"{number(r.p50)} ({number(r.p5)} to {number(r.p95)})"
        parts.append(row_name(left - 8, y + 4, name))
        parts.append(
            f"<g><title>{escape(f'{name}: {said} {unit}')}</title>"
            f'<rect class="c{i % COLOURS} range" x="{x(r.p5):.1f}" y="{y - 5}" width="{max(x(r.p95) - x(r.p5), 1.0):.1f}" height="10"/>'
            f'<circle class="c{i % COLOURS} dot" cx="{x(r.p50):.1f}" cy="{y}" r="6"/></g>'
        )
        parts.append(words(x(r.p95) + 10, y + 4, said, "start"))
    return drawing(parts, height, f"ranges over draws, {unit}")


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    ticks: Sequence[tuple[float, str]],
    unit: str,
    *,
    high: float | None = None,
    span: bool = False,
) -> str:
    """A line with points for each name; every point stands over a tick, or, with `span`, anywhere between the outermost points."""
    points = [p for line in series.values() for p in line]
    if not points or len(ticks) < 1:
        return ""
    height = 230
    y = scale(0.0, high or nice_top(max(v for _, v in points)), height - BOTTOM, TOP)
    first, last = ticks[0][0], max(ticks[-1][0], ticks[0][0] + 1.0)
    if span:
        first, last = min(at for at, _ in points), max(at for at, _ in points)
        last = last if last > first else first + 1.0
    x = scale(first, last, LEFT + 100, WIDTH - RIGHT - 60)
    parts = value_axis(y, high or nice_top(max(v for _, v in points)), unit)
    parts += [words(x(at), height - 12, label, "middle") for at, label in ticks]
    for i, (name, line) in enumerate(series.items()):
        track = " ".join(f"{x(at):.1f},{y(v):.1f}" for at, v in line)
        parts.append(f'<polyline class="line s{i % COLOURS}" points="{track}"/>')
        for at, v in line:
            title = f"<title>{escape(f'{name}: {number(v)} {unit}')}</title>"
            parts.append(
                f'<circle class="c{i % COLOURS}" cx="{x(at):.1f}" cy="{y(v):.1f}" r="3">{title}</circle>'
            )
    return drawing(parts, height, f"{', '.join(series)}: {unit}") + legend(list(series))


def tornado(swings: Sequence[Swing], units: Mapping[str, str], first: str, second: str) -> str:
    """How the difference first - second moves between the ends of each figure, widest on top; a name leads to its assumption."""
    ends = [v for s in swings for v in (s.at_low, s.at_high) if math.isfinite(v)]
    if not ends:
        return ""
    low, high = min(0.0, *ends), max(0.0, *ends)
    space = 86
    x = scale(low, high if high > low else low + 1.0, NAME_PX + space, WIDTH - RIGHT - space)
    pitch = 26
    height = TOP + 16 + pitch * len(swings) + BOTTOM
    parts = [upright(x(0.0), height - 22, "zero")]
    parts += _sides(x(0.0), first, second)
    for i, swing in enumerate(swings):
        parts += _swing(swing, TOP + 26 + i * pitch, x, units)
    for value in sorted({low, 0.0, high}):
        parts.append(words(x(value), height - 8, number(value), "middle"))
    parts.append(words(NAME_PX, height - 8, "USD/Mtoken", "end", "unit"))
    return drawing(parts, height, f"cost of {first} less cost of {second}") + (
        '<ul class="legend"><li><svg viewBox="0 0 14 10" aria-hidden="true"><circle class="c0" cx="7" cy="5" r="5"/></svg>low end of the range</li>'
        '<li><svg viewBox="0 0 14 10" aria-hidden="true"><circle class="c1" cx="7" cy="5" r="5"/></svg>high end</li></ul>'
    )


def _sides(zero: float, first: str, second: str) -> list[str]:
    """Who is cheaper on which side of the line of equal cost, where there is room to say it."""
    parts = []
    for name, at, end in ((first, zero - 8, "end"), (second, zero + 8, "start")):
        said = f"{name[:28]} cheaper"
        room = zero - NAME_PX if end == "end" else WIDTH - zero
        if len(said) * CHARACTER_PX < room:
            parts.append(words(at, TOP + 2, said, end, "unit"))
    return parts


def _swing(
    swing: Swing, y: float, x: Callable[[float], float], units: Mapping[str, str]
) -> list[str]:
    if not (math.isfinite(swing.at_low) and math.isfinite(swing.at_high)):
        return [row_name(NAME_PX, y + 4, swing.id, 40), words(NAME_PX + 10, y + 4, "delivers nothing at an end", "start")]  # fmt: skip
    a, b = x(swing.at_low), x(swing.at_high)
    said = (
        f"{swing.id} from {number(swing.low)} to {number(swing.high)} {units.get(swing.id, '')}: "
        f"{number(swing.at_low)} to {number(swing.at_high)} USD per million tokens"
    )
    left, right = (swing.low, swing.high) if a <= b else (swing.high, swing.low)
    name = row_name(NAME_PX, y + 4, swing.id, 40)
    linked = f'<a href="#{anchor("a", swing.id)}">{name}</a>' if swing.id in units else name
    return [
        linked,
        f'<g><title>{escape(said)}</title><rect class="bar" x="{min(a, b):.1f}" y="{y - 6}" width="{abs(b - a):.1f}" height="12"/>'
        f'<circle class="c0" cx="{a:.1f}" cy="{y}" r="5"/><circle class="c1" cx="{b:.1f}" cy="{y}" r="5"/></g>',
        words(min(a, b) - 9, y + 4, large(left), "end"),
        words(max(a, b) + 9, y + 4, large(right), "start"),
    ]


def site_map(sites: Sequence[SiteAnswer], frame: Frame, most_kw: float, key: str, name: str) -> str:
    """Sites of one design: area by IT power of the last year, colour by kind."""
    low, high = RADIUS_PX

    def radius(site: SiteAnswer) -> float:
        kw = site.it_kw[-1] if site.it_kw else 0.0
        return low + (high - low) * math.sqrt(kw / most_kw) if most_kw > 0.0 else low

    def marks(at: Projection) -> list[str]:
        largest = sorted(sites, key=lambda s: (-radius(s), s.id))
        parts = [_dot(site, at, radius(site)) for site in largest]
        return parts + _labels(largest, at, [radius(s) for s in largest])

    return world(frame, marks, key=key, label=f"sites of {name}", width_px=MAP_PX)


def _dot(site: SiteAnswer, at: Projection, radius: float) -> str:
    x, y = at(site.lon_deg, site.lat_deg)
    colour = KINDS.index(site.kind) if site.kind in KINDS else len(KINDS)
    said = f"{site.id}, {site.city}, {site.country}: {power(site.it_kw[-1] if site.it_kw else 0.0)} IT, {site.size}"
    return (
        f'<circle class="c{colour} place" cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        f"<title>{escape(said)}</title></circle>"
    )


def _labels(sites: Sequence[SiteAnswer], at: Projection, radius: Sequence[float]) -> list[str]:
    """City names beside the largest sites, where they run into no other name and not out of the map."""
    spots = [(*at(s.lon_deg, s.lat_deg), r) for s, r in zip(sites, radius, strict=True)]
    taken: list[Box] = [(x - r, y - r, x + r, y + r) for x, y, r in spots]
    parts = []
    for site, (x, y, r) in zip(sites[:LABELS_MAX], spots, strict=False):
        wide = CHARACTER_PX * len(site.city)
        for anchor_x, dx, dy in (("start", r + 3, 4), ("end", -r - 3, 4), ("middle", 0, -r - 4), ("middle", 0, r + 12)):  # fmt: skip
            left = x + dx - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor_x]
            box = (left, y + dy - 10, left + wide, y + dy + 2)
            if box[0] > 0.0 and box[2] < MAP_PX and not any(_meet(box, other) for other in taken):
                taken.append(box)
                parts.append(words(x + dx, y + dy, site.city, anchor_x, "label"))
                break
    return parts


def _meet(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _short(value: float) -> str:
    said = number(value)
    return said.rstrip("0").rstrip(".") if "." in said else said
