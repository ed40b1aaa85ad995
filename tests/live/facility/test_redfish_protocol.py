"""DMTF's own Redfish-Protocol-Validator against the service that the driver is tested with: what it calls a failure is one."""

from __future__ import annotations

import collections
import os
import subprocess
import sys
from pathlib import Path

import pytest

from live.facility.redfish_server import ADMIN, redfish_server, server_tls
from live.facility.redfish_tree import Machine

PASS_MIN = 380
"""A run that could not log in passes 85 and fails 38."""
PASSWORD = "correct-horse-9"


@pytest.mark.long
@pytest.mark.parametrize("old", [False, True], ids=["subsystems", "old"])
def test_dmtfs_protocol_validator_finds_no_failure(tmp_path: Path, old: bool) -> None:
    pytest.importorskip(
        "redfish_protocol_validator", reason="pip install redfish-protocol-validator"
    )
    tls, ca, _ = server_tls(tmp_path)
    module = "redfish_protocol_validator.console_scripts"
    # Its HTTP library lets the environment's bundle win over the one it is told to use.
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_CA_BUNDLE")}
    with redfish_server(Machine(old=old), tls, PASSWORD) as (url, _service):
        command = [sys.executable, "-m", module, "--user", ADMIN, "--password", PASSWORD]
        command += ["--rhost", url, "--ca-bundle", str(ca)]
        command += ["--report-dir", str(tmp_path), "--report-type", "tsv"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=110, check=False
        )
    (report,) = tmp_path.glob("*.tsv")
    rows = [line.split("\t") for line in report.read_text().splitlines()]
    bad = ["\t".join(row) for row in rows if {"FAIL", "WARN"} & set(row)]
    assert not bad, "\n".join(bad)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = collections.Counter(
        cell for row in rows for cell in row if cell in ("PASS", "NOT_TESTED")
    )
    print(f"Redfish-Protocol-Validator: {dict(counts)}")
    assert counts["PASS"] >= PASS_MIN
