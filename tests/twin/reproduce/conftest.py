"""Where the data is that published results are rerun on."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse.errors import ConfigError
from hanse.twin.reproduce.inputs import data_dir


@pytest.fixture(scope="session")
def data() -> Path:
    try:
        return data_dir()
    except ConfigError as error:
        pytest.skip(f"the data is not part of the repository: {error}")
