"""A reproduction as a picture: one SVG, published numbers hollow, ours filled.

Here: dots row by row, which suits any reproduction, and curves where rows are points of a curve. Not here: numbers; all
are the reproduction's own. Needs matplotlib. The same reproduction gives the same bytes with the same matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.errors import ConfigError
from hanse.twin.reproduce.values import Reproduction, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, OURS, BEST = "#8a1c1c", "#1c4f8a", "#2e7d32"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "hanse",  # ids in the file are random otherwise
    "svg.fonttype": "none",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


def draw(reproduction: Reproduction, path: Path) -> None:
    """Write the picture of a reproduction as an SVG file."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "--svg", got="no matplotlib", allowed="matplotlib", fix="pip install matplotlib"
        ) from None
    if not path.parent.is_dir():
        raise ConfigError("--svg", got=str(path), allowed="a file in a folder that exists")
    with matplotlib.rc_context(STYLE):
        figure = Figure(layout="constrained")
        if reproduction.name == "eurosys24-latency":
            _curves(figure, reproduction.rows)
        else:
            _dots(figure, reproduction.rows)
        figure.suptitle(reproduction.question, fontsize=10)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _dots(figure: Figure, rows: Iterable[Row]) -> None:
    """A panel for each unit, a line for each row."""
    panels: dict[str, list[Row]] = {}
    for one in rows:
        panels.setdefault(one.unit, []).append(one)
    heights = [len(panel) for panel in panels.values()]
    figure.set_size_inches(8.0, 0.8 + 0.28 * sum(heights) + 0.5 * len(heights))
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axis, (unit, panel) in zip(axes[:, 0], panels.items(), strict=True):
        lines = range(len(panel), 0, -1)
        known = [
            (y, one.paper) for y, one in zip(lines, panel, strict=True) if one.paper is not None
        ]
        axis.plot([one.ours for one in panel], list(lines), "o", color=OURS, ms=4, label="ours")
        axis.plot(
            [paper for _, paper in known],
            [y for y, _ in known],
            "o",
            mfc="none",
            mec=PAPER,
            ms=8,
            label="published",
        )
        axis.set_yticks(list(lines), [one.name for one in panel])
        axis.set_ylim(0.4, len(panel) + 0.6)
        axis.set_xlabel(unit)
        axis.grid(axis="x", alpha=0.3)
    axes[0, 0].legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


def _curves(figure: Figure, rows: Iterable[Row]) -> None:
    """Carbon over the latency limit, a curve for each idle share; rows are named "<limit> ms, <idle> % idle"."""
    figure.set_size_inches(8.0, 4.5)
    axis: Axes = figure.subplots()
    curves: dict[str, list[tuple[float, Row]]] = {}
    for one in rows:
        limit, idle = one.name.split(", ")
        curves.setdefault(idle, []).append((float(limit.removesuffix(" ms")), one))
    for idle, points in curves.items():
        limits, cases = zip(*points, strict=True)
        axis.plot(limits, [one.ours for one in cases], "o-", color=OURS, ms=4, lw=1)
        axis.plot(limits, [one.paper for one in cases], "o", mfc="none", mec=PAPER, ms=8)
        axis.plot(limits, [one.also["optimum"] for one in cases], ":", color=BEST)
        axis.plot(limits, [one.also["all 34"] for one in cases], "--", color=BEST, lw=0.8)
        axis.annotate(idle, (limits[-1], cases[-1].ours), (6, -3), textcoords="offset points")
    axis.lines[0].set_label("ours, the study's rule")
    axis.lines[1].set_label("published")
    axis.lines[2].set_label("optimum, the study's regions")
    axis.lines[3].set_label("optimum, all 34 regions")
    axis.set_xlabel("round trip within which load may move, ms")
    axis.set_ylabel("mean gCO2e/kWh of all load")
    axis.set_ylim(bottom=0.0)
    axis.legend(loc="lower left")
