"""Every finished request as a row of a Parquet file, with names in place of numbers.

Here: `RequestWriter`, fed some ten thousand rows at a time, so that memory stays flat. Not here: the records (`arrays.ROW_DTYPE`).
"""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hanse.errors import ConfigError
from hanse.twin.arrays import ANSWERED, BROKEN, FAILED_OUT, REASONS, REFUSED_OUT, ROW_DTYPE
from hanse.twin.simulate import Simulation
from hanse.twin.tally import REASON_NAMES

META_KEY: Final = b"hanse.run"
OUTCOMES: Final = {
    ANSWERED: "answered",
    REFUSED_OUT: "refused",
    FAILED_OUT: "failed",
    BROKEN: "broken",
}
NAMED: Final = ("service", "cls", "origin", "entry", "site", "offer", "outcome", "reason")
COLUMNS: Final = tuple(ROW_DTYPE.names or ())
COLUMN_NAMES: Final = {"cls": "class"}
"""Where a record's field cannot have the name that people use."""


class RequestWriter:
    """Writes rows as they come; the file appears whole, under its name, at the end."""

    def __init__(self, path: Path, simulation: Simulation, about: dict[str, Any]) -> None:
        """`about` goes into the file's metadata as JSON, under `hanse.run`.

        Raises:
            ConfigError: the file cannot be written there.
        """
        self._path, self._part = path, path.with_name(path.name + ".part")
        self._names = {
            name: pa.array(values, pa.string()) for name, values in _names(simulation).items()
        }
        schema = pa.schema(
            [pa.field(COLUMN_NAMES.get(n, n), _type(n)) for n in COLUMNS],
            metadata={META_KEY: msgspec.json.encode(about)},
        )
        self._schema = schema
        try:
            self._file = pq.ParquetWriter(str(self._part), schema, compression="zstd")
        except OSError as error:
            raise ConfigError(
                "--requests", got=str(error), allowed="a file that can be written"
            ) from error

    def take(self, rows: Any) -> None:
        """Add rows of `ROW_DTYPE`; what they point to may change afterwards."""
        columns = [self._column(name, rows[name]) for name in COLUMNS]
        self._file.write_table(pa.Table.from_arrays(columns, schema=self._schema))

    def _column(self, name: str, values: Any) -> Any:
        if name not in NAMED:
            return pa.array(np.ascontiguousarray(values))
        index = np.clip(-values, 0, REASONS - 1) if name == "reason" else values
        none = index == 0 if name == "reason" else index < 0
        indices = pa.array(np.where(none, 0, index).astype(np.int32), mask=np.asarray(none))
        return pa.DictionaryArray.from_arrays(indices, self._names[name])

    def __enter__(self) -> RequestWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._file.close()
        if kind is None:
            self._part.replace(self._path)
        else:
            self._part.unlink(missing_ok=True)


def _names(simulation: Simulation) -> dict[str, list[str]]:
    fleet = simulation.fleet
    sites = [site.id for site in fleet.sites]
    return {
        "service": [s.id for s in fleet.services],
        "cls": [c.id for c in fleet.classes],
        "origin": [o.id for o in simulation.trace.meta.origins] or ["everywhere"],
        "entry": sites,
        "site": sites,
        "offer": list(simulation.table.meta.offers),
        "outcome": [OUTCOMES[i] for i in range(len(OUTCOMES))],
        "reason": list(REASON_NAMES),
    }


def _type(name: str) -> Any:
    return (
        pa.dictionary(pa.int32(), pa.string())
        if name in NAMED
        else pa.from_numpy_dtype(ROW_DTYPE[name])
    )
