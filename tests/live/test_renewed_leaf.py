"""A leaf's bus shows its renewed certificate at the next handshake, without a restart: what SIGHUP after a renewal is for."""

from __future__ import annotations

import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hanse.live import bus
from hanse.live.ca import ensure_identity, make_request, open_authority, write_file
from hanse.live.identity import SiteName, server_context
from hanse.live.runtime import StateDir, plan_runtime
from hanse.model.read import read_fleet

LEAGUE = read_fleet(Path(__file__).parents[2] / "examples" / "league.toml")
INFO = b'INFO {"server_id":"x","server_name":"hub","version":"2.11.0","proto":1,"host":"127.0.0.1","port":1,"auth_required":true,"tls_required":true,"tls_verify":true,"max_payload":1048576,"headers":true}\r\n'


def shown(listening: socket.socket, context: ssl.SSLContext, within_s: float = 15.0) -> int:
    """Serial number of the certificate with which the leaf comes next."""
    end_s = time.monotonic() + within_s
    listening.settimeout(within_s)
    while time.monotonic() < end_s:
        plain, _ = listening.accept()
        try:
            plain.settimeout(5)
            plain.sendall(INFO)
            with context.wrap_socket(plain, server_side=True) as tls:
                der = tls.getpeercert(binary_form=True)
                assert der is not None
                return x509.load_der_x509_certificate(der).serial_number
        except OSError:
            continue
    raise AssertionError("no leaf came")


def test_a_leaf_shows_its_renewed_certificate_without_a_restart(tmp_path: Path) -> None:
    sites = tuple(
        msgspec.structs.replace(s, gateway=msgspec.structs.replace(s.gateway, port=0))
        for s in LEAGUE.sites
    )
    fleet = msgspec.structs.replace(LEAGUE, sites=sites)
    state = StateDir(tmp_path)
    planned = plan_runtime(fleet, tmp_path)
    state.make(("lyon",), hub=True)
    bus.ensure_secrets(state, ("lyon",), hub=True)
    hub = ensure_identity(tmp_path, "league", "hub", time.time())
    first = ensure_identity(tmp_path, "league", "lyon", time.time())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        at = f"127.0.0.1:{listening.getsockname()[1]}"
        address = msgspec.structs.replace(planned.site("lyon"), hub_leaf=at)
        planned = msgspec.structs.replace(planned, sites={"lyon": address})
        conf = bus.write_leaf_conf(planned, state, "lyon")
        with (tmp_path / "leaf.log").open("wb") as log:
            leaf = subprocess.Popen(bus.server_command(conf), stdout=log, stderr=log)
        try:
            context = server_context(hub)
            assert shown(listening, context) == first.certificate.serial_number
            authority = open_authority(state.ca_dir, "league", time.time(), make=False)
            assert authority is not None
            request = make_request(first.key, SiteName("league", "lyon"))
            second = authority.answer(request, "lyon", time.time())
            write_file(first.certificate_path, second.public_bytes(Encoding.PEM))
            assert shown(listening, context) == first.certificate.serial_number
            leaf.send_signal(signal.SIGHUP)
            end_s = time.monotonic() + 15
            while shown(listening, context) != second.serial_number:
                assert time.monotonic() < end_s, (tmp_path / "leaf.log").read_text()
            assert leaf.poll() is None
        finally:
            leaf.terminate()
            leaf.wait()
