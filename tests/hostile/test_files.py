"""Files that a person gives, as a stranger would write them: read, or refused in words; never a traceback, never a hang, nothing outside."""

from __future__ import annotations

import io
import os
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hanse.dispatch.table import MAGIC, Table
from hanse.errors import HanseError
from hanse.live.backup import MANIFEST, restore
from hanse.live.batch.lines import Line, LineError, read_line
from hanse.live.evidence.receipt import verify_receipt
from hanse.live.evidence.seal import SealPlace, SealReader
from hanse.live.evidence.statement_files import check_statement, read_list
from hanse.live.join.token import read_token
from hanse.live.league_file import league_from_bytes, league_refusal
from hanse.live.runtime import StateDir
from hanse.model.check import check_fleet
from hanse.model.read import parse_fleet, read_fleet
from hanse.signals.providers import read_settings
from hanse.twin.scenario import read_scenario

EXAMPLES = Path(__file__).parents[2] / "examples"
LEAGUE = (EXAMPLES / "league.toml").read_bytes()
FLEET = read_fleet(EXAMPLES / "league.toml")
QUICK, LONG = 60, 5000


def read_or_why(read: Callable[[], Any]) -> Any:
    """What was read; None where it was refused, which is said in words."""
    try:
        return read()
    except HanseError as error:
        why = str(error)
    assert why
    return None


Check = Callable[[Callable[..., None]], Any]


def many(*cases: bytes, **strategies: Any) -> Check:
    """The test with some examples, known cases first; `make test-long` asks `LONG` times."""

    def made(test: Callable[..., None]) -> Any:
        @pytest.mark.parametrize("examples", [QUICK, pytest.param(LONG, marks=pytest.mark.long)])
        def asked(examples: int, tmp_path: Path) -> None:
            def one(**given_values: Any) -> None:
                test(tmp_path, **given_values)

            found: Any = given(**strategies)(one)
            for case in cases:
                found = example(**{next(iter(strategies)): case})(found)
            quiet = [HealthCheck.too_slow, HealthCheck.data_too_large]
            settings(max_examples=examples, database=None, suppress_health_check=quiet)(found)()

        asked.__name__, asked.__doc__ = test.__name__, test.__doc__
        return asked

    return made


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """A good text with a few bytes cut, doubled, put in or changed."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        size = draw(st.sampled_from([0, 1, 2, 8, 40]))
        new = draw(
            st.one_of(
                st.binary(max_size=4),
                st.just(bytes(data[at : at + size]) * 2),
                st.sampled_from([b"nan", b"-inf", b"1e999", b"9" * 30, b'""', b"[[", b"{", b"true", b"'\xff'", b"\x00", b"\n", b"= "]),
            )
        )  # fmt: skip
        data[at : at + size] = new
    return bytes(data)


DEEP_TOML = [
    b"a = " + b"[" * 5000 + b"]" * 5000,
    b"a" + b".a" * 5000 + b" = 1",
    b"[" + b"a." * 5000 + b"a]",
]
ODD_TOML = [b"", b"\xff", b"a = " + b"9" * 5000, b"a = 0000-00-00", b"a = 9999-12-31T23:59:60Z", b"a = 1\na = 2", b"\xef\xbb\xbf" + LEAGUE,
            b"schema = nan", LEAGUE.replace(b"name = ", b"name = inf #", 1), b"site = [[]]", b"site = 3"]  # fmt: skip


@many(*DEEP_TOML, *ODD_TOML, text=st.one_of(damaged(LEAGUE), st.binary(max_size=200)))
def test_a_fleet_file_is_read_or_refused_in_words(home: Path, text: bytes) -> None:
    fleet = read_or_why(lambda: parse_fleet(text, source="x"))
    for problem in check_fleet(fleet) if fleet else ():
        assert str(problem)


@many(*DEEP_TOML, *ODD_TOML, text=damaged((EXAMPLES / "follow.toml").read_bytes()))
def test_a_scenario_and_a_feed_file_are_read_or_refused_in_words(home: Path, text: bytes) -> None:
    path = home / "x.toml"
    path.write_bytes(text)
    for read in (lambda: read_scenario(path, FLEET), lambda: read_settings(path)):
        read_or_why(read)


DEEP_JSON = b"[" * 100_000
NESTED = b'{"a":' * 100_000
LINE = b'{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{"model":"chat","messages":[{"role":"user","content":"x"}],"max_tokens":3}}'
ODD_JSON = [b"", b"{}", b"null", b"NaN", DEEP_JSON, NESTED, b'{"custom_id":' + DEEP_JSON, b'{"custom_id":"\xff"}', b'{"custom_id":"\\ud800"}',
            LINE.replace(b"3}", b"1e999}"), LINE.replace(b"3}", b"9" * 400 + b"}"), LINE.replace(b'"model":"chat"', b'"model":"\xff"'),
            LINE.replace(b'{"model"', b'{"x":' + DEEP_JSON + b',"model"')]  # fmt: skip


@many(*ODD_JSON, data=st.one_of(damaged(LINE), st.binary(max_size=100)))
def test_a_line_of_a_batch_is_read_or_refused(home: Path, data: bytes) -> None:
    read = read_line(data, "/v1/chat/completions")
    assert isinstance(read, Line | LineError)
    if isinstance(read, LineError):
        assert read.message
        read.message.encode()


AUTHORITY = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"


@many(
    *ODD_JSON,
    data=st.one_of(
        damaged(
            b'{"schema":"hanse-receipt/1","request_id":"00","parts":[{"site":"a","seals":[],"records":[],"certificates":[]}]}'
        ),
        st.binary(max_size=60),
    ),
)
def test_what_is_no_receipt_proves_nothing(home: Path, data: bytes) -> None:
    for authority in (AUTHORITY, b"", b"\xff", data):
        verdict = verify_receipt(data, authority)
        assert verdict.status == "unproven" and verdict.reasons
    read_or_why(lambda: check_statement(data, AUTHORITY))
    read_or_why(lambda: read_list(data.decode(errors="replace")))


@many(b"\xff" * 64, b"\x00" * 64, data=st.binary(max_size=300))
def test_logs_tables_tokens_and_fleets_of_strange_bytes_are_refused(
    home: Path, data: bytes
) -> None:
    path = home / "seals"
    path.write_bytes(data)
    assert list(SealReader(path, SealPlace())) == []
    assert league_from_bytes(data) is None and league_refusal(data)
    for read in (lambda: Table.from_bytes(data), lambda: read_token(data.decode("latin-1"))):
        with pytest.raises(HanseError):
            read()


@many(b"", b"\xff" * 16, data=st.binary(max_size=120))
def test_a_table_with_the_right_first_bytes_and_nothing_behind_is_refused(
    home: Path, data: bytes
) -> None:
    for content in (MAGIC + data, MAGIC + len(data).to_bytes(8, "little") + data):
        with pytest.raises(HanseError):
            Table.from_bytes(content)


# --- a backup: a tar file


def tar_of(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def member(
    name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = size, kind, link
    return made


def sparse(name: str) -> tuple[tarfile.TarInfo, bytes]:
    """A terabyte of nothing in a few bytes."""
    made = member(name, 4)
    made.pax_headers = {
        "GNU.sparse.major": "0",
        "GNU.sparse.minor": "1",
        "GNU.sparse.size": str(2**40),
        "GNU.sparse.map": "0,4",
    }
    return made, b"xxxx"


HOSTILE_TARS = {
    "up and out": [(member("state/../../x", 1), b"x")],
    "an absolute path": [(member("/etc/x", 1), b"x")],
    "a link": [(member("state/a", kind=tarfile.SYMTYPE, link="/etc"), b""), (member("state/a/x", 1), b"x")],
    "a hard link": [(member("state/a", kind=tarfile.LNKTYPE, link="/etc/passwd"), b"")],
    "a device": [(member("state/a", kind=tarfile.CHRTYPE), b"")],
    "a pipe": [(member("state/a", kind=tarfile.FIFOTYPE), b"")],
    "twice the same": [(member("state/a", 1), b"x"), (member("state/a", 1), b"y")],
    "a file as a folder": [(member("state/a", 1), b"x"), (member("state/a/b", 1), b"y")],
    "a name that no file has": [(member("state/" + "n" * 300, 1), b"x")],
    "a deep name": [(member("state" + "/n" * 4000, 1), b"x")],
    "a member of no backup": [(member("home/x", 1), b"x")],
    "holes": [sparse("state/a")],
    "a manifest of holes": [sparse(MANIFEST)],
    "a manifest that is a link": [(member(MANIFEST, kind=tarfile.SYMTYPE, link="/etc/passwd"), b"")],
    "a manifest that is none": [(member(MANIFEST, 2), b"{}")],
    "a manifest of strange text": [(member(MANIFEST, 1), b"\xff")],
    "a manifest without an end": [(member(MANIFEST, len(DEEP_JSON)), DEEP_JSON)],
    "no manifest": [],
}  # fmt: skip


def refused(home: Path, content: bytes) -> str:
    """Why a backup was refused; nothing of it is left, inside or outside."""
    source, target = home / "b.hanse", home / "a" / "b" / "state"
    source.write_bytes(content)
    with pytest.raises(HanseError) as error:
        restore(source, StateDir(target))
    left = [path for path in home.rglob("*") if path.is_file() and path != source]
    assert left == [] and os.listdir(target) == []
    return str(error.value)


@pytest.mark.parametrize("name", list(HOSTILE_TARS))
def test_a_backup_that_reaches_out_is_refused_and_nothing_is_left(
    name: str, tmp_path: Path
) -> None:
    assert refused(tmp_path, tar_of(*HOSTILE_TARS[name]))


GOOD_TAR = tar_of((member("state/a", 5), b"hello"), (member(MANIFEST, 2), b"{}"))


@many(
    b"",
    b"\x00" * 10240,
    GOOD_TAR[:700],
    content=st.one_of(damaged(GOOD_TAR), st.binary(max_size=600)),
)
def test_a_damaged_backup_is_refused_in_words(home: Path, content: bytes) -> None:
    assert refused(home, content)


def test_the_examples_that_are_damaged_here_are_good_ones() -> None:
    assert tomllib.loads(LEAGUE.decode()) and check_fleet(FLEET) == []
    assert isinstance(read_line(LINE, "/v1/chat/completions"), Line)
    assert msgspec.json.decode(LINE)
