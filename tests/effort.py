"""How hard property tests try: what `make test` has time for, and twenty times as much in `make test-thorough`.

Here: `effort`. Not here: the two profiles, `hanse` and `thorough` (`conftest`).
"""

from __future__ import annotations

import hypothesis


def effort(examples: int) -> int:
    """How many examples a property gets under the profile in force, of those it deserves; the profile's `max_examples` are percent."""
    return max(1, round(examples * hypothesis.settings.default.max_examples / 100))
