"""A token makes one machine one site, once, and nobody can read it from the hub's disk."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import ConfigError
from hanse.live.join.token import PREFIX, Token, TokenBook, read_token

NOW_S = 1_800_000_000.0
A_KEY, OTHER_KEY = "a" * 64, "b" * 64
IDS = st.from_regex(r"[a-z0-9][a-z0-9-]{0,30}", fullmatch=True)


def book() -> TokenBook:
    return TokenBook(Path(tempfile.mkdtemp()) / "tokens.json")


@given(fleet=IDS, site=IDS, hub=st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=3))
def test_a_token_is_read_back_as_it_was_made(fleet: str, site: str, hub: list[str]) -> None:
    made = Token(fleet=fleet, site=site, hub=tuple(hub), authority_sha256="0" * 64, secret="s" * 43)
    text = made.text()
    assert "\n" not in text
    assert read_token(f" {text}\n") == made


@given(st.text(max_size=300))
def test_what_is_no_token_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_token(PREFIX + "secret" + text)
    assert "secret" not in str(refused.value)


@given(
    shown=st.lists(
        st.tuples(st.sampled_from([A_KEY, OTHER_KEY]), st.floats(0, 7200), st.booleans()),
        max_size=12,
    )
)
def test_only_the_first_key_that_spends_it_is_let_in_and_only_in_time(
    shown: list[tuple[str, float, bool]],
) -> None:
    """Whatever the order of attempts: no two keys ever get in, and nobody after the hour."""
    tokens = book()
    secret = tokens.make("lyon", NOW_S)
    let_in = set()
    for key, after_s, right in sorted(shown, key=lambda one: one[1]):
        refusal = tokens.spend(secret if right else secret[::-1], "lyon", key, NOW_S + after_s)
        if refusal is None:
            assert right
            assert after_s < 3600
            let_in.add(key)
        elif right and after_s < 3600:
            assert refusal == "spent"
            assert let_in
            assert key not in let_in
    assert len(let_in) <= 1


def test_a_token_is_of_one_site_and_a_newer_one_takes_its_place() -> None:
    tokens = book()
    first = tokens.make("lyon", NOW_S)
    assert tokens.refusal(first, "paris", A_KEY, NOW_S) == "other site"
    second = tokens.make("lyon", NOW_S)
    assert tokens.refusal(first, "lyon", A_KEY, NOW_S) == "unknown"
    assert tokens.refusal(second, "lyon", A_KEY, NOW_S) is None, "asking spends nothing"
    assert tokens.spend(second, "lyon", A_KEY, NOW_S) is None
    tokens.void("lyon")
    assert tokens.refusal(second, "lyon", A_KEY, NOW_S) == "unknown"


def test_the_hub_keeps_a_hash_in_a_file_of_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "tokens.json"
    secret = TokenBook(path).make("lyon", NOW_S)
    assert secret.encode() not in path.read_bytes()
    assert len(secret) >= 43
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_token_in_a_command_line_is_hidden_from_others() -> None:
    """As another user's `ps` reads it: `/proc/<pid>/cmdline` of the running process."""
    secret = PREFIX + "x1" * 60
    code = (
        "import sys, pathlib; from hanse.live.join.hide import hide_argument; "
        "print(hide_argument(sys.argv[2])); print(pathlib.Path('/proc/self/cmdline').read_bytes()); "
        "print(sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "join", secret, "--city", "Lyon"],
        capture_output=True,
        text=True,
        check=True,
    )
    found, shown, kept = done.stdout.splitlines()
    assert found == "True"
    assert secret not in shown
    assert "Lyon" in shown
    assert kept == secret, "the process itself still has it"


def test_a_token_of_a_hub_makes_no_site_and_one_of_a_site_no_hub() -> None:
    tokens = book()
    hub = tokens.make("second", NOW_S, role="hub")
    assert tokens.refusal(hub, "second", A_KEY, NOW_S) == "other site"
    assert tokens.refusal(hub, "second", A_KEY, NOW_S, "hub") is None
    site = tokens.make("lyon", NOW_S)
    assert tokens.refusal(site, "lyon", A_KEY, NOW_S, "hub") == "other site"
    assert tokens.spend(hub, "second", A_KEY, NOW_S, "hub") is None
    assert tokens.spend(hub, "second", OTHER_KEY, NOW_S, "hub") == "spent"
    made = Token(
        role="hub", fleet="f", site="second", hub=("h:1",), authority_sha256="0" * 64, secret="s"
    )
    assert read_token(made.text()) == made
