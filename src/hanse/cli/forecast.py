"""`hanse forecast`: how good forecasts are on recorded years, and what one would say now.

Here: arguments, progress, tables. Not here: methods and errors (`signals.forecast`), own power (`energy.backtest`).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from hanse.cli.options import Hours
from hanse.cli.output import print_json, say, table_console
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.signals.forecast.backtest import Score

app = App(
    name="forecast", help="Forecasts of carbon, price, sun, wind and demand: how good, and now."
)
WIDTH = 118
Quantity = Literal["carbon", "marginal", "price", "pv", "wind", "demand"]


@app.command
def backtest(
    *,
    quantity: Annotated[list[Quantity] | None, Parameter(consume_multiple=True)] = None,
    zone: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    data: Path | None = None,
    json: bool = False,
) -> int:
    """Print the error of every method against persistence, by horizon, on recorded years.

    Example: `hanse forecast backtest --quantity carbon --zone GB DE`

    Parameters
    ----------
    quantity
        What to measure, one or more; default all that there is data for.
    zone
        Grid or weather zones, or services for demand; default all.
    data
        A folder with larger sets (`grid_ci_emaps_odbl`, `wholesale_price`); prices are in no shipped one.
    json
        Print all scores as one JSON document on standard output.
    """
    from hanse.cli.simulate import progress_bar

    cases = _cases(quantity, zone, data)
    found: list[Score] = []
    with progress_bar(f"{len(cases)} histories") as told:
        for i, (measured, name) in enumerate(cases):
            found += _scored(measured, name, data)
            told((i + 1) / len(cases))
    if json:
        print_json(found)
    else:
        for what in dict.fromkeys(one.quantity for one in found):
            _say([one for one in found if one.quantity == what])
    return 0


@app.command
def show(
    zone: str,
    /,
    *,
    quantity: Literal["carbon", "marginal"] = "carbon",
    at: str = "",
    hours: Hours = 24,
    json: bool = False,
) -> int:
    """Print a zone's forecast of the next hours, from its recorded year replayed at today's date.

    Example: `hanse forecast show GB --hours 24`

    Parameters
    ----------
    zone
        Grid zone that has a recording.
    quantity
        Average carbon intensity, or marginal where a recording has it.
    at
        Instant of issue, ISO 8601; default now.
    hours
        How far ahead; 1 to 1440: two months are what half a year of history can say something about.
    json
        Print the forecast as one JSON document on standard output.
    """
    from hanse.energy.outlook import replayed_history
    from hanse.signals.forecast import forecast

    issued_at_s = _instant(at)
    named: Literal["carbon_intensity", "marginal_intensity"] = (
        "carbon_intensity" if quantity == "carbon" else "marginal_intensity"
    )
    history = replayed_history(zone, named, issued_at_s)
    made = forecast(history, issued_at_s, steps=hours)
    if json:
        print_json(made)
        return 0
    _say_forecast(made.start_s, made.step_s, made.mean, made.high)
    say(
        f"{made.quantity} of {made.zone}, {made.unit}, {made.signal}, by {made.method}: {made.source}"
    )
    return 0


def _cases(
    quantity: list[Quantity] | None, zone: list[str] | None, data: Path | None
) -> list[tuple[Quantity, str]]:
    from hanse.signals.forecast.cases import QUANTITIES, histories

    asked: tuple[Quantity, ...] = tuple(quantity) if quantity else QUANTITIES
    known: dict[Quantity, list[str]] = {what: sorted(histories(what, data)) for what in asked}
    for what, zones in known.items():
        if quantity and not zones:
            raise ConfigError(
                "--quantity",
                got=what,
                allowed="a quantity with data",
                fix="name its folder in --data",
            )
    cases: list[tuple[Quantity, str]] = [
        (w, z) for w, zones in known.items() for z in zones if not zone or z in zone
    ]
    if not cases:
        every = sorted({z for zones in known.values() for z in zones})
        raise ConfigError("--zone", got=", ".join(zone or []), allowed=", ".join(every))
    return cases


def _scored(what: Quantity, name: str, data: Path | None) -> list[Score]:
    from hanse.signals.forecast.backtest import backtest as measure
    from hanse.signals.forecast.backtest import renamed
    from hanse.signals.forecast.cases import histories

    series = histories(what, data)[name]
    if what == "pv":
        from hanse.energy.backtest import backtest_pv
        from hanse.signals.recorded import weather_place

        lat_deg, lon_deg = weather_place(name)
        return backtest_pv(*series, lat_deg=lat_deg, lon_deg=lon_deg)
    if what == "wind":
        from hanse.energy.backtest import backtest_wind

        return backtest_wind(series[0])
    return renamed(measure(series[0]), what)


def _say(found: list[Score]) -> None:
    from rich.table import Table

    unit = found[0].unit
    table = Table(title=f"{found[0].quantity}: mean absolute error, {unit}, by hours ahead")
    columns = list(dict.fromkeys(one.horizon for one in found))
    for name in ("zone", "method", *columns, "RMSE", "bias", "skill", "under high"):
        table.add_column(name, justify="left" if name in ("zone", "method") else "right")
    for (zone, method), row in _rows(found):
        every = row["all"]
        table.add_row(
            zone,
            method,
            *(f"{row[name].mae:.3g}" for name in columns),
            f"{every.rmse:.3g}",
            f"{every.bias:+.2g}",
            f"{100.0 * every.skill:.0f} %",
            f"{100.0 * every.under_high:.0f} %",
            end_section=method == "blend",
        )
    console = table_console()
    # Cut columns say nothing: a narrow terminal wraps lines instead.
    console.width = max(console.width, WIDTH)
    console.print(table)
    say(
        "skill: 1 - error over that of persistence; under high: aims at 95 %; blend is the shipped method"
    )


def _rows(found: list[Score]) -> Iterator[tuple[tuple[str, str], dict[str, Score]]]:
    rows: dict[tuple[str, str], dict[str, Score]] = {}
    for one in found:
        rows.setdefault((one.zone, one.method), {})[one.horizon] = one
    yield from rows.items()


def _instant(at: str) -> float:
    import time
    from datetime import UTC, datetime

    if not at:
        return time.time()
    try:
        found = datetime.fromisoformat(at)
    except ValueError:
        raise ConfigError("--at", got=at, allowed="an instant as ISO 8601") from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()


def _say_forecast(
    start_s: float, step_s: float, mean: tuple[float, ...], high: tuple[float, ...]
) -> None:
    from datetime import UTC, datetime

    top = max(high) or 1.0
    for i, (m, h) in enumerate(zip(mean, high, strict=True)):
        when = datetime.fromtimestamp(start_s + i * step_s, UTC).strftime("%a %H:%MZ")
        bar = "#" * round(40.0 * m / top)
        say(f"{when} {m:8.1f}  at most {h:8.1f}  {bar}")


@app.command
def feeds(file: Path, /, *, json: bool = False) -> int:
    """Ask every feed of a file once and print what it said, how old it is, and what failed.

    Exit code 0 when all answered, else 1. Example: `hanse forecast feeds feeds.toml`

    Parameters
    ----------
    file
        Feeds file, as docs/feeds.md describes it.
    json
        Print states and values as one JSON document on standard output.
    """
    import time

    from hanse.signals.providers import LiveFeed, read_settings

    live = LiveFeed(read_settings(file))
    now_s = time.time()
    live.ask(now_s)
    states, said = live.states(now_s), live.observed(now_s)
    if json:
        print_json({"states": states, "observed": said})
    else:
        for state in states:
            age = "no value" if state.age_s is None else f"newest value {state.age_s:.0f} s old"
            say(f"{state.name}: {state.error or age}{''.join(f'; {n}' for n in state.notes)}")
        for one in said:
            say(
                f"  {one.place}: {one.quantity} {one.value:.4g} {one.unit}, {one.signal}, {one.source}"
            )
        for (zone, quantity), ahead in live.provided(now_s).items():
            say(
                f"  {zone}: {quantity}, {len(ahead.mean)} steps of {ahead.step_s:.0f} s by {ahead.method}"
            )
    return 0 if all(state.error == "" for state in states) else 1
