"""Public traces of language model services, by name of their format.

Here: which columns each has, where it comes from and under what licence. Not here: reading them (`tables`); ServeGen,
which is rates and not requests (`servegen`).
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from hanse.errors import ConfigError
from hanse.signals.traces import rows
from hanse.signals.traces.rows import Progress
from hanse.signals.traces.tables import Columns, Imported, Table, read_table

AZURE_SOURCE: Final = (
    "Azure LLM inference trace 2023 (Azure/AzurePublicDataset); Patel et al., Splitwise, ISCA 2024"
)
AZURE_ZERO: Final = datetime(2023, 11, 16, 18, tzinfo=UTC).timestamp()
"""What `t_s` of the repackaged files counts from."""
MOONCAKE_SOURCE: Final = (
    "Mooncake FAST25 traces (kvcache-ai/Mooncake); Qin et al., Mooncake, FAST 2025"
)
MOONCAKE_BLOCK_TOKENS: Final = 512
BURSTGPT_SOURCE: Final = "BurstGPT (HPMLL/BurstGPT); Wang et al., arXiv 2401.17644"


def read_azure(
    path: Path, *, service: str = "", skip_bad: bool = False, progress: Progress | None = None
) -> Imported:
    """One file of the Azure LLM inference trace of 2023, as published or with times in seconds after 18:00 UTC.

    `service` defaults to the last word of the file's name: `conv` or `code`. It has neither conversations nor prefixes (AzurePublicDataset, issue 53).
    """
    header, _ = rows.header_of(path)
    service = service or _stem(path).rpartition("_")[2]
    published = Columns(at="TIMESTAMP", tokens_in="ContextTokens", tokens_out="GeneratedTokens")
    repackaged = Columns(at="t_s", tokens_in="input_tokens", tokens_out="output_tokens")
    columns = repackaged if "t_s" in header else published
    table = Table(
        path=path,
        form="csv",
        columns=columns,
        time="s" if columns is repackaged else "iso",
        zero_at_s=AZURE_ZERO if columns is repackaged else 0.0,
        service=service,
        name=f"azure-2023-{service}",
        source=AZURE_SOURCE,
        licence="CC-BY-4.0",
        skip_bad=skip_bad,
    )
    return read_table(table, progress)


def read_mooncake(
    path: Path, *, service: str = "", skip_bad: bool = False, progress: Progress | None = None
) -> Imported:
    """A trace in Mooncake's format: one JSON object a line, times in ms, ids of 512-token prefix blocks.

    The last block of a prompt may be partly full, so blocks times 512 can exceed `tokens_in`.
    """
    table = Table(
        path=path,
        form="jsonl",
        columns=Columns(
            at="timestamp", tokens_in="input_length", tokens_out="output_length", blocks="hash_ids"
        ),
        time="ms",
        service=service or _stem(path),
        block_tokens=MOONCAKE_BLOCK_TOKENS,
        name=f"mooncake-{service or _stem(path)}",
        source=MOONCAKE_SOURCE,
        licence="Apache-2.0",
        note="a prompt's last block may be partly full",
        skip_bad=skip_bad,
    )
    return read_table(table, progress)


def read_burstgpt(
    path: Path, *, skip_bad: bool = False, progress: Progress | None = None
) -> Imported:
    """A file of BurstGPT: services are its models, tenants its log types; conversations where it names them.

    Requests that failed have no tokens out; upstream also publishes files without them.
    """
    header, _ = rows.header_of(path)
    table = Table(
        path=path,
        form="csv",
        columns=Columns(
            at="Timestamp",
            tokens_in="Request tokens",
            tokens_out="Response tokens",
            service="Model",
            tenant="Log Type",
            session="Session ID" if "Session ID" in header else "",
        ),
        time="s",
        name=f"burstgpt-{_stem(path)}",
        source=BURSTGPT_SOURCE,
        licence="CC-BY-4.0",
        note="seconds count from local midnight of the first day; failed requests have no tokens out",
        skip_bad=skip_bad,
    )
    return read_table(table, progress)


def columns_of(text: str) -> Columns:
    """Columns from `at=timestamp,in=ContextTokens,out=GeneratedTokens`.

    Raises:
        ConfigError: where a pair is none, a field is unknown, or one of at, in and out is missing.
    """
    names = [field.encode_name for field in msgspec.structs.fields(Columns)]
    pairs = dict(pair.partition("=")[::2] for pair in text.split(",") if pair)
    for field, column in pairs.items():
        if field not in names or not column:
            raise ConfigError(
                "--map", got=f"{field}={column}", allowed=f"{', '.join(names)}; each =COLUMN"
            )
    for field in ("at", "in", "out"):
        if field not in pairs:
            raise ConfigError("--map", got=repr(text), allowed="at=, in= and out= at least")
    return msgspec.convert(pairs, Columns)


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
