"""Which site certificates count no more: the authority's signed list, as a site keeps and uses it.

Here: checking a list, the file of the newest one, and the look-up that every connection between sites makes. Not here: making a
list (`live.ca`), bringing it (`live.agent`, from the bus).

A list is never too old to hold: a site that is cut off goes on with the last one it has, and refuses one of a lower number, so that
nobody brings an old one back.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hanse.live.runtime import replace_file
from hanse.model.fleet import Value

REVOKED: Final = "revoked.crl"
"""In a site's identity directory."""


class Revoked(Value, frozen=True, kw_only=True):
    """A list: its number and the serial numbers on it."""

    number: int = 0
    serials: frozenset[int] = frozenset()


def read_list(data: bytes, authority: x509.Certificate) -> Revoked | None:
    """A list that this authority has signed; None for any other bytes."""
    try:
        found = x509.load_der_x509_crl(data)
        public = authority.public_key()
        assert isinstance(public, Ed25519PublicKey), "our authorities sign with Ed25519"
        if found.issuer != authority.subject or not found.is_signature_valid(public):
            return None
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        return Revoked(number=number, serials=frozenset(one.serial_number for one in found))
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None


class RevokedFile:
    """The newest list of one site; the agent accepts, gateway workers look."""

    def __init__(self, identity_dir: Path, authority: x509.Certificate) -> None:
        self._path = identity_dir / REVOKED
        self._authority = authority
        self._seen: tuple[int, int] | None = None
        self.revoked = Revoked()
        self.look()

    def look(self) -> bool:
        """Read the file where it is another than before; whether the list has changed."""
        try:
            stat = self._path.stat()
            seen = stat.st_ino, stat.st_mtime_ns
            if seen == self._seen:
                return False
            data = self._path.read_bytes()
        except OSError:
            return False
        self._seen = seen
        found = read_list(data, self._authority)
        if found is None or found.number <= self.revoked.number:
            return False
        self.revoked = found
        return True

    def accept(self, data: bytes) -> bool:
        """Keep a list that is newer than ours; True where it is."""
        found = read_list(data, self._authority)
        if found is None or found.number <= self.revoked.number:
            return False
        replace_file(self._path, data, mode=0o644)
        self.revoked = found
        return True

    def holds(self, certificate_der: bytes | None) -> bool:
        """Whether a certificate that TLS has verified is not on the list."""
        if certificate_der is None:
            return False
        return x509.load_der_x509_certificate(certificate_der).serial_number not in (
            self.revoked.serials
        )
