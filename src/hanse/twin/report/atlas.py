"""Maps as inline SVG: land outlines with marks on them; who was served where: origins, sites, and a line for each flow.

Here: `world`, `flow_map`, decoding the dashboard's world atlas (TopoJSON, the specification at github.com/topojson/topojson-specification), a plain
equirectangular projection stretched to keep shapes at the middle latitude. Not here: other charts (`charts`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final
from xml.sax.saxutils import escape

from hanse import web
from hanse.twin.report.charts import WIDTH
from hanse.twin.result import Flows
from hanse.web.figures import count

ATLAS: Final = "static/vendor/world-atlas-2.0.2-countries-110m.json"
HEIGHT_MAX: Final = 520.0
MARGIN_DEG: Final = 5.0
NAMES_MAX: Final = 12
FLOWS_MAX: Final = 60
"""Lines drawn, the busiest: more would be a tangle."""
Line = list[tuple[float, float]]
Frame = tuple[float, float, float, float]
"""West, east, south, north in degrees."""
Projection = Callable[[float, float], tuple[float, float]]
"""Longitude and latitude to a point of the picture."""


def flow_map(flows: Flows) -> str:
    """The map; empty where the trace does not say where its users are."""
    if not flows.origins:
        return ""
    places = [(p.lon_deg, p.lat_deg) for p in (*flows.origins, *flows.sites)]

    def marks(at: Projection) -> list[str]:
        return [*_lines(flows, at), *_marks(flows, at)]

    return world(frame_of(places), marks, key="frame", label="map of flows")


def world(
    frame: Frame,
    marks: Callable[[Projection], list[str]],
    *,
    key: str,
    label: str,
    width_px: float = WIDTH,
) -> str:
    """Land and sea within a frame, and marks on it; `key` is an id that no other picture of the page has."""
    west, east, south, north = frame
    shrink = math.cos(math.radians((south + north) / 2.0))
    unit = min(width_px / ((east - west) * shrink), HEIGHT_MAX / (north - south))
    width, height = (east - west) * shrink * unit, (north - south) * unit
    shift = (width_px - width) / 2.0

    def at(lon_deg: float, lat_deg: float) -> tuple[float, float]:
        return shift + (lon_deg - west) * shrink * unit, (north - lat_deg) * unit

    parts = [
        f'<clipPath id="{key}"><rect x="{shift:.1f}" width="{width:.1f}" height="{height:.1f}"/></clipPath>'
    ]
    parts.append(
        f'<g clip-path="url(#{key})"><rect class="sea" x="{shift:.1f}" width="{width:.1f}" height="{height:.1f}"/>'
    )
    parts += _land(at, frame)
    parts += marks(at)
    parts.append("</g>")
    named = escape(label, {chr(34): "&quot;"})
    return f'<svg viewBox="0 0 {width_px:g} {height:.0f}" role="img" aria-label="{named}">{"".join(parts)}</svg>'


def frame_of(places: Sequence[tuple[float, float]]) -> Frame:
    """West, east, south, north in degrees, with a margin, of places given as longitude and latitude."""
    lons, lats = [p[0] for p in places], [p[1] for p in places]
    west, east = min(lons) - MARGIN_DEG, max(lons) + MARGIN_DEG
    south, north = max(min(lats) - MARGIN_DEG, -85.0), min(max(lats) + MARGIN_DEG, 85.0)
    return west, east, south, north


def _land(at: Projection, frame: Frame) -> list[str]:
    west, east, south, north = frame
    parts = []
    for ring in _rings():
        lons, lats = [p[0] for p in ring], [p[1] for p in ring]
        outside = max(lons) < west or min(lons) > east or max(lats) < south or min(lats) > north
        if outside or max(lons) - min(lons) > 300.0:  # the second wraps round the date line
            continue
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in ring))
        parts.append(f'<polygon class="land" points="{points}"/>')
    return parts


def _lines(flows: Flows, at: Projection) -> list[str]:
    pairs = [
        (n, o, s)
        for o, row in zip(flows.origins, flows.served, strict=True)
        for s, n in zip(flows.sites, row, strict=True)
        if n
    ]
    pairs.sort(key=lambda pair: -pair[0])
    most = pairs[0][0] if pairs else 1
    parts = []
    for n, origin, site in pairs[:FLOWS_MAX]:
        (x1, y1), (x2, y2) = at(origin.lon_deg, origin.lat_deg), at(site.lon_deg, site.lat_deg)
        bend = 0.12
        cx, cy = (x1 + x2) / 2 + bend * (y1 - y2), (y1 + y2) / 2 + bend * (x2 - x1)
        title = f"<title>{escape(f'{origin.id} to {site.id}: {count(n)}')}</title>"
        parts.append(
            f'<path class="flow" d="M{x1:.1f} {y1:.1f}Q{cx:.1f} {cy:.1f} {x2:.1f} {y2:.1f}" '
            f'stroke-width="{0.6 + 6.0 * math.sqrt(n / most):.2f}">{title}</path>'
        )
    return parts


def _marks(flows: Flows, at: Projection) -> list[str]:
    parts = []
    for origin in flows.origins:
        x, y = at(origin.lon_deg, origin.lat_deg)
        parts.append(
            f'<circle class="origin" cx="{x:.1f}" cy="{y:.1f}" r="3"><title>{escape(origin.id)}</title></circle>'
        )
    sums = [sum(row[i] for row in flows.served) for i in range(len(flows.sites))]
    named = sorted(range(len(sums)), key=lambda i: -sums[i])[:NAMES_MAX]
    for i, site in enumerate(flows.sites):
        x, y = at(site.lon_deg, site.lat_deg)
        side, anchor = (-8, "end") if x > 0.8 * WIDTH else (8, "start")
        parts.append(f'<rect class="site" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>')
        if i in named:
            parts.append(
                f'<text class="label" x="{x + side:.1f}" y="{y - 6:.1f}" text-anchor="{anchor}">'
                f"{escape(site.id)} {count(sums[i])}</text>"
            )
    return parts


@cache
def _rings() -> tuple[Line, ...]:
    """Outer rings of all countries, in degrees."""
    path = Path(web.__file__).parent / ATLAS
    atlas: dict[str, Any] = json.loads(path.read_text())
    (kx, ky), (dx, dy) = atlas["transform"]["scale"], atlas["transform"]["translate"]
    arcs: list[Line] = []
    for arc in atlas["arcs"]:
        x = y = 0
        line = []
        for step_x, step_y in arc:
            x, y = x + step_x, y + step_y
            line.append((x * kx + dx, y * ky + dy))
        arcs.append(line)
    rings = []
    for shape in atlas["objects"]["countries"]["geometries"]:
        polygons = (
            shape.get("arcs", [])
            if shape.get("type") == "MultiPolygon"
            else [shape.get("arcs", [])]
        )
        for polygon in polygons:
            rings += [_ring(polygon[0], arcs)] if polygon else []
    return tuple(rings)


def _ring(numbers: Sequence[int], arcs: Sequence[Line]) -> Line:
    """Arcs one after another; a negative number is the arc ~n backwards."""
    ring: Line = []
    for n in numbers:
        line = arcs[n] if n >= 0 else arcs[~n][::-1]
        ring += line[1:] if ring else line
    return ring
