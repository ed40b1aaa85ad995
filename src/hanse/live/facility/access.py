"""Secrets, keys and certificates of devices: read when needed, never kept in a value that is shown.

Here: `secret_of`, `key_text`, `tls_of`. Not here: making site identities (`live.identity`), which have nothing to do with devices.
"""

from __future__ import annotations

import hashlib
import os
import ssl
from pathlib import Path

from hanse.errors import ConfigError, SiteError
from hanse.model.fleet import Facility

SECRET_BYTES_MAX = 16_384
"""A password has tens of bytes, an RSA key 3 kB."""


def secret_of(facility: Facility, home: Path) -> str:
    """The device's secret, read anew each time so that a changed one needs no restart; empty where none is named.

    Raises:
        ConfigError: it is named and not there, or others may read it.
    """
    if facility.secret_env:
        found = os.environ.get(facility.secret_env, "")
        where = f"environment variable {facility.secret_env}"
    elif facility.secret_file:
        path = _path(facility.secret_file, home)
        where = f"file {path}"
        found = _read(path, where)
        if path.stat().st_mode & 0o077:
            raise ConfigError(
                where,
                got="a file that others may read",
                allowed="mode 0600",
                fix=f"chmod 600 {path}",
            )
    else:
        return ""
    found = found.strip("\r\n")
    if not found:
        raise ConfigError(where, got="nothing", allowed=f"the secret of facility {facility.id!r}")
    return found


def key_text(name: str, home: Path) -> bytes:
    """A public key's PEM.

    Raises:
        ConfigError: there is no such file.
    """
    path = _path(name, home)
    return _read(path, f"file {path}").encode()


def tls_of(facility: Facility, home: Path) -> ssl.SSLContext:
    """How the device is known: by its CA, by exactly its certificate (checked by `check_pin`), or by the machine's roots.

    Raises:
        ConfigError: the CA's file cannot be read.
    """
    if facility.fingerprint_sha256:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the pin is stronger than a name
        context.verify_mode = ssl.CERT_NONE
    elif facility.ca_file:
        pem = key_text(facility.ca_file, home).decode()
        try:
            context = ssl.create_default_context(cadata=pem)
        except ssl.SSLError as error:
            raise ConfigError(facility.ca_file, got=str(error), allowed="a PEM file") from error
    else:
        context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def check_pin(found: ssl.SSLObject, fingerprint_sha256: str, where: str) -> None:
    """Nothing may be sent before this: the certificate is the pinned one, or the device is another.

    Raises:
        SiteError: it is another.
    """
    der = found.getpeercert(binary_form=True) or b""
    got = hashlib.sha256(der).hexdigest()
    if got != fingerprint_sha256:
        raise SiteError(
            where,
            got=f"a certificate with fingerprint {got}",
            allowed=fingerprint_sha256,
            fix="find out why it changed, then correct fingerprint_sha256",
        )


def _path(name: str, home: Path) -> Path:
    path = Path(name).expanduser()
    return path if path.is_absolute() else home / path


def _read(path: Path, where: str) -> str:
    try:
        with path.open() as file:
            return file.read(SECRET_BYTES_MAX)
    except (OSError, UnicodeDecodeError) as error:
        got = getattr(error, "strerror", None) or "no text"
        raise ConfigError(where, got=got, allowed="a readable text file") from None
