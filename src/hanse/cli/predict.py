"""`hanse predict`: how long and how many joules an inference engine takes, for one question or a file of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hanse.cli.output import print_json, say, table_console
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.serving.measured import MeasuredTable
    from hanse.serving.predict import Prediction

ASKED: Final = (
    "model",
    "accelerator",
    "count",
    "precision",
    "batch",
    "input_tokens",
    "output_tokens",
)
ANSWERED: Final = (
    "ttft_ms",
    "tpot_ms",
    "output_tok_s",
    "power_w",
    "j_per_token",
    "expected_error",
)
MARKED: Final = ("why", "method")
"""Why there is no answer, or how it was got: `roofline, not calibrated` is a warning."""


def predict(
    model: str = "",
    accelerator: str = "",
    /,
    *,
    count: int = 1,
    precision: str = "bf16",
    batch: int = 1,
    input: int = 1000,
    output: int = 200,
    csv: Path | None = None,
    table: tuple[str, ...] = (),
    json: bool = False,
) -> int:
    """Say how fast and at what energy a replica serves so many requests at once, with the expected error.

    Example: `hanse predict Llama-3.1-8B "H100 SXM" --precision fp8 --batch 64 --input 1000 --output 200`

    Parameters
    ----------
    model
        AI model, by the catalogue's id or as Hugging Face names it.
    accelerator
        Chip, card or box, such as `h100-sxm` or `RTX 4090`.
    count
        Chips of the replica, all working on every token.
    precision
        Of the weights: bf16, fp16, fp8, int8, nvfp4 (fp4), mxfp4, int4 (w4a16), awq, gptq, or a GGUF format such as q4_k_m.
    batch
        Requests in flight all the time; the next one starts when one is answered.
    input
        Tokens of a prompt.
    output
        Tokens of an answer.
    csv
        File of questions with the columns model, accelerator, count, precision, batch, input_tokens, output_tokens;
        its rows come back on standard output with the answers added, or with the reason why there is none.
    table
        Measured steps that override the model: `splitwise`, or a CSV file. May be given several times.
    json
        Print the answer as one JSON document on standard output.
    """
    tables = [_table(name) for name in table]
    if csv is not None:
        return _file(csv, tables)
    if not model or not accelerator:
        got = "no model" if not model else "no accelerator"
        raise ConfigError("predict", got=got, allowed="a model and an accelerator, or --csv FILE")
    asked = (model, accelerator, count, precision, batch, input, output)
    said = _one(dict(zip(ASKED, map(str, asked), strict=True)), tables)
    if json:
        print_json(said)
    else:
        _say(said)
    return 0


def _table(name: str) -> MeasuredTable:
    from hanse.serving.measured import SHIPPED, read_table, shipped

    return shipped(name) if name in SHIPPED else read_table(Path(name))


def _one(row: dict[str, str], tables: list[MeasuredTable]) -> Prediction:
    from hanse.catalogue import accelerator_named, ai_model_named
    from hanse.serving.predict import predict as answer

    return answer(
        ai_model_named(row["model"]),
        row["precision"],
        accelerator_named(row["accelerator"]),
        count=_whole(row, "count"),
        batch=_number(row, "batch"),
        input_tokens=_number(row, "input_tokens"),
        output_tokens=_number(row, "output_tokens"),
        tables=tables,
    )


def _number(row: dict[str, str], name: str) -> float:
    import math

    try:
        found = float(row[name].replace(",", ""))
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError(name, got=repr(row[name]), allowed="a number")
    return found


def _whole(row: dict[str, str], name: str) -> int:
    found = _number(row, name)
    if found != int(found):
        raise ConfigError(name, got=repr(row[name]), allowed="a whole number")
    return int(found)


def _file(path: Path, tables: list[MeasuredTable]) -> int:
    """Answer every row; a row that has no answer says why and stops nothing."""
    import csv
    import sys

    try:
        # Spreadsheets put a mark before the first column.
        with path.open(encoding="utf-8-sig", newline="") as f:
            reader = csv.DictReader(f)
            reader.fieldnames = [name.strip().casefold() for name in reader.fieldnames or ()]
            rows, columns = list(reader), list(reader.fieldnames)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(str(path), got=str(error), allowed="a readable CSV file") from error
    missing = [name for name in ASKED if name not in columns]
    if missing:
        got = f"no column {', '.join(missing)}"
        raise ConfigError(str(path), got=got, allowed=f"columns {', '.join(ASKED)}")
    extra = [name for name in (*ANSWERED, *MARKED) if name not in columns]
    writer = csv.DictWriter(
        sys.stdout, [*columns, *extra], lineterminator="\n", extrasaction="ignore"
    )
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, **_answer(row, tables)})
    return 0


def _answer(row: dict[str, Any], tables: list[MeasuredTable]) -> dict[str, str]:
    try:
        said = _one({name: row[name] or "" for name in ASKED}, tables)
    except ConfigError as error:
        return {**dict.fromkeys(ANSWERED, ""), "why": str(error), "method": ""}
    figures = {name: f"{getattr(said, name):.6g}" for name in ANSWERED}
    return {**figures, "why": "", "method": said.method}


def _say(said: Prediction) -> None:
    from rich.table import Table

    chips = f"{said.count} x {said.accelerator}"
    load = f"{said.batch:g} at once, {said.input_tokens:g} in, {said.output_tokens:g} out"
    table = Table(title=f"{said.model} {said.precision} on {chips}; {load}")
    for name in ("figure", "predicted", "expected error"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    table.add_row("time to first token", f"{said.ttft_ms:,.0f} ms", f"{said.ttft_error:.0%}")
    table.add_row("time per output token", f"{said.tpot_ms:,.2f} ms", f"{said.expected_error:.0%}")
    table.add_row("output", f"{said.output_tok_s:,.1f} tok/s", f"{said.expected_error:.0%}")
    table.add_row("power at the chips", f"{said.power_w:,.0f} W", f"{said.power_error:.0%}")
    table.add_row(
        "energy per output token", f"{said.j_per_token:,.4g} J", f"{said.power_error:.0%}"
    )
    table_console().print(table)
    say(f"  basis: {said.method}")
    for note in said.notes:
        say(f"  {note}")
