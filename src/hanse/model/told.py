"""Numbers as another machine tells them: a NaN, an infinity or a number that no computation takes is refused where bytes become values.

Here: the types, and what reading raises. Not here: whether what is told is true; who believes whom stands in docs/threats.md.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from msgspec import Meta

FIGURE_MAX: Final = 1e15
"""Beyond any power, time, amount or price in the units that are used here; squares and sums of it stay finite."""
COUNT_MAX: Final = 2**53
"""Whole numbers up to here are exact as floats too, and one more fits wherever numbers are kept."""

Figure = Annotated[float, Meta(ge=-FIGURE_MAX, le=FIGURE_MAX)]
Amount = Annotated[float, Meta(ge=0.0, le=FIGURE_MAX)]
Until = Annotated[float, Meta(ge=-FIGURE_MAX)]
"""An instant; infinity: without an end."""
Count = Annotated[int, Meta(ge=0, le=COUNT_MAX)]
Whole = Annotated[int, Meta(ge=-COUNT_MAX, le=COUNT_MAX)]

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding bytes of another machine raises where they are none of its messages: text that is no UTF-8 and nesting without end are not
`DecodeError`."""
