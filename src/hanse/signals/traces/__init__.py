"""Requests as data: who asked what service, when, from where, with how many tokens and which shared prefix.

Here: traces in chunks (`Trace`), their file format, readers of public traces, a generator and transforms. Memory is flat
in a trace's length. Not here: anything that serves a request, live or simulated.
"""

from hanse.signals.traces.trace import (
    CHUNK_REQUESTS,
    REQUEST_DTYPE,
    Blocks,
    Chunk,
    Origin,
    Requests,
    Trace,
    TraceMeta,
    open_trace,
    shipped_trace,
    write_trace,
)

__all__ = [
    "CHUNK_REQUESTS",
    "REQUEST_DTYPE",
    "Blocks",
    "Chunk",
    "Origin",
    "Requests",
    "Trace",
    "TraceMeta",
    "open_trace",
    "shipped_trace",
    "write_trace",
]
