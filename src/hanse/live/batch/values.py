"""Files and batches as values, and as OpenAI's clients see them.

Here: what is kept of each, ids, the wire objects (`openai.types.Batch`, `openai.types.FileObject`), completion windows. Not here: where
they are kept (`store`), how states change (`keeper`).

An id names the home it was made at, so any gateway knows whom to ask: `file-lyon-<hex>`, `batch_lyon_<hex>`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from hashlib import sha256
from secrets import token_hex
from typing import Any, Final, Literal

from hanse.model.fleet import Value
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

Status = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
ENDED: Final = frozenset(("failed", "completed", "expired", "cancelled"))

WINDOW_S_MIN: Final = 60.0
WINDOW_S_MAX: Final = 30 * SECONDS_PER_DAY
"""Input files live as long by default."""
ERRORS_MAX: Final = 100
"""Of one batch: who has more wrong lines sees it from these."""
METADATA_MAX: Final = 16
OWN_PREFIX: Final = "hanse:"
"""Of metadata that a batch gets from us."""
LIVES_S: Final = (int(SECONDS_PER_HOUR), int(30 * SECONDS_PER_DAY))
SHOWN_MAX: Final = 32
"""Characters of what was asked for, in an error."""

WINDOW_FORM: Final = 'minutes, hours or days such as "30m", "24h" or "7d", from "1m" to "30d"'
_WINDOW = re.compile(r"([1-9][0-9]{0,4})([mhd])")
_UNIT_S: Final = {"m": 60.0, "h": SECONDS_PER_HOUR, "d": SECONDS_PER_DAY}


class Who(Value, frozen=True, kw_only=True):
    """For whom something is asked or done: as the gateway says, never the client."""

    tenant: str
    key_id: str
    data_class: str
    country: str
    peer: str = ""
    """Site whose gateway the client came to, where it is not this one."""

    @property
    def names(self) -> tuple[str, str, str]:
        """What the law goes by."""
        return self.tenant, self.data_class, self.country


class FileMeta(Value, frozen=True, kw_only=True):
    """One file at its home."""

    id: str
    size_bytes: int
    created_at_s: float
    expires_at_s: float
    filename: str
    purpose: Literal["batch", "batch_output"]
    tenant: str
    key_id: str
    data_class: str
    country: str
    copy_of: str = ""
    """Home of the file that this is a standby's copy of; empty at the home itself."""


class Drop(Value, frozen=True, kw_only=True):
    """A file that is deleted here and may still be at other sites."""

    id: str
    file: FileMeta
    sites: tuple[str, ...]


class Sent(Value, frozen=True, kw_only=True):
    """Sites that bytes of a file were ever sent to."""

    id: str
    sites: tuple[str, ...]


class LineError(Value, frozen=True, kw_only=True):
    """Something wrong with an input file; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class Tally(Value, frozen=True, kw_only=True):
    """Sums over the commits of a batch."""

    completed: int = 0
    failed: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    energy_wh: float = 0.0
    carbon_g: float = 0.0
    cost_usd: float = 0.0
    extra_runs: int = 0
    """Runs that an engine began and that are no line's answer."""
    extra_wh: float = 0.0


class BatchMeta(Value, frozen=True, kw_only=True, omit_defaults=True):
    """One batch at its home."""

    id: str
    tenant: str
    key_id: str
    data_class: str
    country: str
    endpoint: str
    completion_window: str
    input_file_id: str
    metadata: dict[str, str] | None = None
    status: Status = "validating"
    created_at_s: float
    expires_at_s: float
    at_s: dict[str, float] = {}
    """State -> instant at which it was entered."""
    model: str = ""
    lines: int = 0
    tally: Tally = Tally()
    errors: tuple[LineError, ...] = ()
    output_file_id: str = ""
    error_file_id: str = ""
    home: str
    """Site that commits its lines now."""
    standby: str = ""
    """Site that holds a copy; empty: none."""
    epoch: int = 0
    """Sequence of the home's claim in the hub's stream of owners; 0: there is only one home, ever."""
    lost_runs: int = 0
    """Runs whose answer came after another's commit, and their energy."""
    lost_wh: float = 0.0
    output_lives_s: float = 0.0
    """Of its output and error file; 0: as long as any file."""

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.status in ENDED

    def runs_at(self, site: str) -> bool:
        """Whether it has not ended and a site is its home or its standby: another that lost it never hears of its end."""
        return not self.ended and site in (self.home, self.standby)


def who_of(meta: BatchMeta) -> Who:
    """For whom a batch runs."""
    return Who(
        tenant=meta.tenant,
        key_id=meta.key_id,
        data_class=meta.data_class,
        country=meta.country,
    )


class Problem(Exception):
    """A no to a client: `error` in OpenAI's shape."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, **hanse: object
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.hanse = hanse


def new_file_id(site: str) -> str:
    """An id of a file made at a site."""
    return f"file-{site}-{token_hex(12)}"


def new_batch_id(site: str) -> str:
    """An id of a batch made at a site."""
    return f"batch_{site}_{token_hex(12)}"


def result_file_id(site: str, batch_id: str, kind: str) -> str:
    """The id of a batch's output or error file, always the same. Ids are names: who may see a file is asked each time."""
    return f"file-{site}-{sha256(f'{batch_id}/{kind}'.encode()).hexdigest()[:24]}"


_FILE_ID = re.compile(r"file-([a-z0-9][a-z0-9_-]*)-[0-9a-f]{24}")
_BATCH_ID = re.compile(r"batch_([a-z0-9][a-z0-9_-]*)_[0-9a-f]{24}")


def home_in(object_id: str) -> str:
    """The site that an id names; empty where it is no id of ours."""
    found = _FILE_ID.fullmatch(object_id) or _BATCH_ID.fullmatch(object_id)
    return found[1] if found else ""


def is_file_id(text: str) -> bool:
    """Whether it has the form of a file's id, and so may be a part of a path."""
    return _FILE_ID.fullmatch(text) is not None


def is_batch_id(text: str) -> bool:
    """The same of a batch."""
    return _BATCH_ID.fullmatch(text) is not None


def checked_id(text: str, is_one: Callable[[str], bool]) -> str:
    """An id from another site, which becomes a part of paths and subjects here.

    Raises:
        Problem: it does not have the form of one.
    """
    if not is_one(text):
        raise Problem(400, "invalid_request", f"{text[:100]!r} is no id")
    return text


def window_s(text: str) -> float:
    """Seconds of a completion window: `<n>m`, `<n>h` or `<n>d`.

    Raises:
        Problem: for anything else, and outside a minute to 30 days.
    """
    found = _WINDOW.fullmatch(text)
    length_s = int(found[1]) * _UNIT_S[found[2]] if found else 0.0
    if not WINDOW_S_MIN <= length_s <= WINDOW_S_MAX:
        message = f"completion_window is {text[:32]!r}; it must be {WINDOW_FORM}"
        raise Problem(400, "invalid_completion_window", message, "completion_window")
    return length_s


def lives_s(fields: Mapping[str, object], name: str = "expires_after") -> float:
    """`expires_after[seconds]`, within OpenAI's hour to 30 days; 0 where there is none. Of a form, or as a batch's `output_expires_after` is.

    Raises:
        Problem: it is something else.
    """
    anchor, text = (str(fields.get(f"{name}[{one}]", "")) for one in ("anchor", "seconds"))
    least, most = LIVES_S
    if anchor not in ("", "created_at"):
        message = f"{name}[anchor] is {anchor[:SHOWN_MAX]!r}; it must be created_at"
        raise Problem(400, "invalid_expires_after", message, name)
    if not text and not anchor:
        return 0.0
    if not whole(text) or not least <= int(text) <= most:
        message = f"{name}[seconds] is {text[:SHOWN_MAX]!r}; it must be whole seconds from {least} (an hour) to {most} (30 days), such as {SECONDS_PER_DAY:.0f}"
        raise Problem(400, "invalid_expires_after", message, name)
    return float(text)


def whole(text: str) -> bool:
    """Plain digits, and not so many that reading them costs anything."""
    return text.isascii() and text.isdigit() and len(text) <= SHOWN_MAX


def checked_metadata(metadata: dict[str, str] | None) -> dict[str, str] | None:
    """A client's metadata within OpenAI's limits.

    Raises:
        Problem: where it is not.
    """
    if metadata is None:
        return None
    # The league's own, which whoever copies another batch's metadata sends too.
    metadata = {k: v for k, v in metadata.items() if not k.startswith(OWN_PREFIX)}
    if len(metadata) > METADATA_MAX:
        message = f"metadata has {len(metadata)} pairs; at most {METADATA_MAX} are allowed"
        raise Problem(400, "invalid_metadata", message, "metadata")
    for key, value in metadata.items():
        if len(key) > 64 or len(value) > 512:
            message = f"metadata {key[:64]!r}: key of {len(key)} characters, value of {len(value)}; at most 64 and 512 are allowed"
            raise Problem(400, "invalid_metadata", message, "metadata")
    return metadata


def file_object(meta: FileMeta) -> dict[str, Any]:
    """As `openai.types.FileObject`."""
    return {
        "id": meta.id,
        "object": "file",
        "bytes": meta.size_bytes,
        "created_at": int(meta.created_at_s),
        "expires_at": int(meta.expires_at_s),
        "filename": meta.filename,
        "purpose": meta.purpose,
        "status": "processed",
        "status_details": None,
    }


def batch_object(meta: BatchMeta) -> dict[str, Any]:
    """As `openai.types.Batch`; what only we know is in `metadata`."""
    tally, errors = meta.tally, None
    if meta.errors:
        rows = [
            {"code": e.code, "message": e.message, "param": e.param, "line": e.line}
            for e in meta.errors
        ]
        errors = {"object": "list", "data": rows}
    instants = {
        f"{state}_at": int(meta.at_s[state]) if state in meta.at_s else None
        for state in (
            "in_progress",
            "finalizing",
            "completed",
            "failed",
            "expired",
            "cancelling",
            "cancelled",
        )
    }
    own = {
        "home": meta.home,
        "wh": f"{tally.energy_wh:.6g}",
        "g": f"{tally.carbon_g:.6g}",
        "usd": f"{tally.cost_usd:.6g}",
        "extra_runs": str(tally.extra_runs + meta.lost_runs),
        "extra_wh": f"{tally.extra_wh + meta.lost_wh:.6g}",
    }
    if meta.standby:
        own["standby"] = meta.standby
    metadata = (meta.metadata or {}) | {OWN_PREFIX + name: value for name, value in own.items()}
    usage = {
        "input_tokens": tally.tokens_in,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tally.tokens_out,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tally.tokens_in + tally.tokens_out,
    }
    counts = {"total": meta.lines, "completed": tally.completed, "failed": tally.failed}
    return {
        "id": meta.id,
        "object": "batch",
        "endpoint": meta.endpoint,
        "model": meta.model or None,
        "errors": errors,
        "input_file_id": meta.input_file_id,
        "completion_window": meta.completion_window,
        "status": meta.status,
        "output_file_id": meta.output_file_id or None,
        "error_file_id": meta.error_file_id or None,
        "created_at": int(meta.created_at_s),
        "expires_at": int(meta.expires_at_s),
        **instants,
        "request_counts": counts,
        "usage": usage,
        "metadata": metadata,
    }
