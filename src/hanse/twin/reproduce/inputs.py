"""Finding and reading the data that a reproduction runs on.

Here: where the folder is, and one reader a kind of file. Not here: data; what the folder must hold, and where each file
comes from, stands in docs/reproduce.md.
"""

from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from hanse.errors import ConfigError

VARIABLE = "HANSE_DATA"
BESIDE = Path(__file__).parents[4].parent / "shared" / "data"
"""Beside a checkout of the repository; an installed package has nothing there."""
HOW = "see docs/reproduce.md for the files and where they come from"


def data_dir(given: Path | None = None) -> Path:
    """The data folder: the one given, else that of the environment, else the one beside the repository."""
    named = os.environ.get(VARIABLE)
    if given is not None:
        where, path = "--data", given
    elif named:
        where, path = VARIABLE, Path(named)
    else:
        where, path = "--data", BESIDE
    if not path.is_dir():
        got = str(path) if given or named else "nothing"
        raise ConfigError(
            where,
            got=got,
            allowed="a folder with the data",
            fix=f"pass --data DIR or set {VARIABLE}; {HOW}",
        )
    return path


def file_in(data: Path, name: str) -> Path:
    """A file of the data folder that is there."""
    path = data / name
    if not path.is_file():
        raise ConfigError(str(path), got="no such file", fix=f"put it there; {HOW}")
    return path


def opened(data: Path, name: str) -> TextIO:
    """A text file of the data folder, unpacked where its name ends in .gz."""
    path = file_in(data, name)
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def table(data: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV file by column name."""
    with opened(data, name) as text:
        yield from csv.DictReader(text)


def columns(data: Path, name: str, *names: str) -> tuple[NDArray[np.float64], ...]:
    """Numeric columns of a CSV file, each one array [row]."""
    with opened(data, name) as text:
        header = text.readline().rstrip("\r\n").split(",")
        missing = [one for one in names if one not in header]
        if missing:
            raise ConfigError(
                f"{data / name}", got=f"columns {', '.join(header)}", allowed=", ".join(missing)
            )
        wanted = [header.index(one) for one in names]
        read = np.loadtxt(text, delimiter=",", usecols=wanted, ndmin=2)
    return tuple(read.T)


CARBON_FILE = "grid_ci_2022_123zones/ci_2022_hourly.csv.gz"


def hourly_carbon(data: Path) -> tuple[list[str], NDArray[np.float64]]:
    """Hourly carbon intensity of 2022: zone names and an array [hour, zone] in gCO2e/kWh."""
    with opened(data, CARBON_FILE) as text:
        zones = text.readline().rstrip("\r\n").split(",")[1:]
        read = np.loadtxt(text, delimiter=",", ndmin=2)
    return zones, read[:, 1:]


def zone_carbon(data: Path, zone: str) -> NDArray[np.float64]:
    """Hourly carbon intensity of 2022 of one zone, an array [hour] in gCO2e/kWh."""
    return columns(data, CARBON_FILE, zone)[0]
