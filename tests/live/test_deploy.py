"""Units, image recipe and compose file start commands that there are, as a user that is not root."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hanse.cli import app

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def unit(path: Path) -> configparser.ConfigParser:
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(path.read_text())
    return parsed


def parses(arguments: list[str]) -> None:
    """The command line takes them; nothing is run."""
    command, _, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    assert command.__name__ == arguments[0]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_a_unit_runs_a_command_that_there_is_as_a_user_of_its_own(path: Path) -> None:
    service = unit(path)["Service"]
    parses(service["ExecStart"].replace("%i", "lyon").split()[1:])
    assert service["User"] != "root"
    assert service["NoNewPrivileges"] == "yes"
    assert service["UMask"] == "0077"
    assert int(service["TimeoutStopSec"]) > 10, "an ordered stop takes up to 10 s"


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_reads_the_units_without_a_complaint(path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    complaints = [
        line
        for line in (done.stdout + done.stderr).splitlines()
        if path.name in line and "is not executable" not in line  # of /opt/hanse, which is not here
    ]
    assert complaints == []


def test_the_commands_in_the_units_comments_are_right() -> None:
    for path in UNITS:
        for line in re.findall(r"^#.*?/hanse (join .*)$", path.read_text(), re.M):
            parses(line.split())


def test_the_compose_file_runs_commands_that_there_are() -> None:
    yaml = pytest.importorskip("yaml")
    text = (DEPLOY / "compose.yaml").read_text()
    services = yaml.safe_load(text)["services"]
    for one in services.values():
        parses([word.replace("${SITE:-site}", "lyon") for word in one["command"]])
        assert one["cap_drop"] == ["ALL"]
        assert one["read_only"] is True
    for line in re.findall(r"^#.* run --rm (?:hub|site) (.*)$", text, re.M):
        parses(line.split())


def test_the_image_runs_as_nobody_special_and_ends_in_order() -> None:
    text = (DEPLOY / "Containerfile").read_text()
    assert re.search(r"^USER hanse$", text, re.M)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.M)
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M)
    for names in copied:
        for name in names.split():
            assert (DEPLOY.parent / name).exists(), name
