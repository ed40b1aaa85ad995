"""A plain table of one's own: a file or an address, a column of instants and one of values.

Here: `utc,<quantity>` with a header; instants as ISO 8601 with an offset or as Unix seconds. Rows dated later than now
are a forecast, as old as the newest that is not. A row holds from its own instant on, be that a full hour or not. Not here: units, which the setting states.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hanse.errors import ConfigError, FeedError
from hanse.signals.providers.answer import Answer, Meaning, history, instant, provided
from hanse.signals.providers.settings import MEANINGS, FeedSetting
from hanse.signals.providers.web import get


def ask(setting: FeedSetting, now_s: float) -> Answer:
    """All rows."""
    where = setting.path or setting.url
    points = rows(_content(setting, now_s), where)
    unit, signal = MEANINGS[setting.quantity]
    meaning = Meaning(
        quantity=setting.quantity if setting.quantity != "price" else "price_usd_per_kwh",
        unit=unit,
        signal=signal,
        zone=setting.zone,
        source=Path(where).name,
        licence="the operator's own",
    )
    step_s = _step_s(points, where)
    phase_s = min(points) % step_s  # such as half an hour, or midnight where days begin elsewhere
    past = {at_s: value for at_s, value in points.items() if at_s <= now_s}
    ahead = {at_s: value for at_s, value in points.items() if at_s + step_s > now_s}
    return Answer(
        series=(history(past, step_s, meaning, phase_s=phase_s),) if past else (),
        forecasts=(provided(ahead, step_s, meaning, max(past, default=now_s), phase_s=phase_s),)
        if max(points) > now_s
        else (),
    )


def rows(content: bytes, where: str) -> dict[float, float]:
    """Instant -> value; a row without a value is a gap, a bad one an error that names its line."""
    table = csv.reader(io.StringIO(content.decode("utf-8-sig", "replace")))
    points: dict[float, float] = {}
    for line, row in enumerate(_cells(table, where), 1):
        if line == 1 or not row or (len(row) > 1 and not row[1].strip()):
            continue
        try:
            at_s = _instant(row[0].strip(), where)
            value = float(row[1])
        except (IndexError, ValueError):
            raise FeedError(
                f"{where}:{line}", got=",".join(row)[:80], allowed="an instant and a number"
            ) from None
        if not np.isfinite(value):
            raise FeedError(f"{where}:{line}", got=row[1], allowed="a finite number")
        points[at_s] = value
    if not points:
        raise FeedError(where, got="no row", allowed="a header and rows of instant,value")
    return points


def _cells(table: Iterator[list[str]], where: str) -> Iterator[list[str]]:
    try:
        yield from table
    except csv.Error as error:  # a field without an end, a line's end inside one
        raise FeedError(where, got=str(error), allowed="a table of commas") from None


def _content(setting: FeedSetting, now_s: float) -> bytes:
    if setting.url:
        return get(setting.url, now_s=now_s)
    if not setting.path:
        raise ConfigError(f"feed of {setting.zone}", got="neither", allowed="path or url")
    try:
        return Path(setting.path).read_bytes()
    except OSError as error:
        raise FeedError(setting.path, got=error.strerror or "no file", allowed="a file") from None


def _instant(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        return instant(text, where)


def _step_s(points: dict[float, float], where: str) -> float:
    """The shortest distance of two rows; of a single row an hour."""
    instants = np.array(sorted(points))
    if len(instants) < 2:
        return 60.0 * 60.0
    step_s = float(np.diff(instants).min())
    if np.abs(np.mod(instants - instants[0], step_s)).max() > 1e-6:
        off = int(np.argmax(np.abs(np.mod(instants - instants[0], step_s)) > 1e-6))
        raise FeedError(
            where,
            got=f"rows {step_s:g} s apart, and one at {instants[off]:.0f} between them",
            allowed="equal steps, gaps allowed",
            fix="put every row on one grid, such as full hours, and leave out rows of other times",
        )
    return step_s
