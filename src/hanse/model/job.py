"""A deferrable job as the slow loop sees it: batch inference, fine-tuning, training.

Here: the noun. Not here: its files and lines (`live`), when and where it runs (`dispatch.defer`).
"""

from __future__ import annotations

from typing import Literal

from hanse.model.fleet import CountryCode, Id, Value

JobKind = Literal["batch", "fine_tuning", "training"]


class Job(Value, frozen=True, kw_only=True):
    """Work that may wait until its deadline, and what is left of it."""

    id: Id
    kind: JobKind
    tenant: Id
    data_class: Id
    country: CountryCode
    """Of legal origin; with tenant and class it names the subject (`LawTable.find`)."""
    home: Id
    """Site that holds its data and commits its results; eligible itself."""
    data_gb: float = 0.0
    """To be read wherever it runs outside its home."""
    state_gb: float = 0.0
    """Checkpoint: what moving it takes across the WAN."""
    submitted_at_s: float
    deadline_at_s: float
    chip_s: dict[str, float]
    """Seconds of one chip that are left, by accelerator id; one that is not named cannot run it. Empty for requests of a `service`:
    what those take follows from its replicas."""
    chips_min: int = 1
    """Fewer at once do not run (one replica, one tensor or data parallel group)."""
    chips_max: int = 1
    """More at once do not help."""
    checkpoint_every_s: float = 0.0
    """Work lost when it yields is at most this; 0: it loses nothing (lines of a batch are committed one by one)."""
    restart_s: float = 0.0
    """Loading weights and state whenever it begins or goes on at a site."""
    weight: float = 1.0
    """Of its lateness against others'."""
    service: Id | None = None
    """It is made of requests of this service, which run in the room that its replicas have to spare."""
    requests: float = 0.0
    """Of them that are left."""
    input_tokens: float = 0.0
    output_tokens: float = 0.0
    """Means of one."""
    request_s: dict[str, float] = {}
    """Site -> seconds that one took there, of late; absent: as predicted."""
