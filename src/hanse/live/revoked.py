"""Which site certificates count no more: the authority's signed list, as a site keeps and uses it.

Here: checking a list, the files of the newest one and of those before it, and the look-up that every connection between sites makes.
Not here: making a list (`live.ca`), bringing it (`live.agent`, from the bus).

A list is never too old to hold: a site that is cut off goes on with the last one it has, and refuses one of a lower number, so that
nobody brings an old one back. A hub that came back from an older copy of its disk makes newer lists without what it has forgotten: so an
older list whose serials a newer one lacks stays beside it, until by the authority's own dates all of its certificates have expired.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hanse.live.runtime import replace_file
from hanse.model.fleet import Value
from hanse.units import SECONDS_PER_DAY

REVOKED: Final = "revoked.crl"
"""In a site's identity directory."""
BEFORE: Final = "revoked-{number}.crl"
"""Beside it: an earlier list that has what the newest has not."""
LIST_DAYS: Final = 30
"""A list names when the next is due (RFC 5280 wants one). No certificate lives longer, so of one that a list has nothing is left a day later."""


class Revoked(Value, frozen=True, kw_only=True):
    """A list: its number, the serial numbers on it, when the authority made it by its own clock."""

    number: int = 0
    serials: frozenset[int] = frozenset()
    made_at_s: float = 0.0


def read_list(data: bytes, authority: x509.Certificate) -> Revoked | None:
    """A list that this authority has signed; None for any other bytes."""
    try:
        found = x509.load_der_x509_crl(data)
        public = authority.public_key()
        assert isinstance(public, Ed25519PublicKey), "our authorities sign with Ed25519"
        if found.issuer != authority.subject or not found.is_signature_valid(public):
            return None
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        serials = frozenset(one.serial_number for one in found)
        made_at_s = found.last_update_utc.timestamp()
        return Revoked(number=number, serials=serials, made_at_s=made_at_s)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None


class RevokedFile:
    """The newest list of one site and what is kept of earlier ones; the agent accepts, gateway workers look."""

    def __init__(self, identity_dir: Path, authority: x509.Certificate) -> None:
        self._path = identity_dir / REVOKED
        self._authority = authority
        self._seen: tuple[int, int] | None = None
        self._lists: tuple[Revoked, ...] = ()
        """The newest first."""
        self.revoked = Revoked()
        self.look()

    def look(self) -> bool:
        """Read the files where the newest is another than before; whether what is revoked has changed."""
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
        self._take((found, *self._before(), *self._lists))
        return True

    def accept(self, data: bytes) -> bool:
        """Keep a list that is newer than ours; True where it is."""
        found = read_list(data, self._authority)
        if found is None or found.number <= self.revoked.number:
            return False
        lists = _needed((found, *self._lists))
        if self._lists and self._lists[0] in lists:  # before the newest takes its place
            replace_file(self._place(self.revoked.number), self._path.read_bytes(), mode=0o644)
        replace_file(self._path, data, mode=0o644)
        self._take(lists)
        for path in self._path.parent.glob(BEFORE.format(number="*")):
            if path not in {self._place(one.number) for one in lists[1:]}:
                path.unlink(missing_ok=True)
        return True

    def holds(self, certificate_der: bytes | None) -> bool:
        """Whether a certificate that TLS has verified is on no list."""
        if certificate_der is None:
            return False
        return x509.load_der_x509_certificate(certificate_der).serial_number not in (
            self.revoked.serials
        )

    def _place(self, number: int) -> Path:
        return self._path.with_name(BEFORE.format(number=number))

    def _before(self) -> tuple[Revoked, ...]:
        found = []
        for path in self._path.parent.glob(BEFORE.format(number="*")):
            with contextlib.suppress(OSError):  # the agent has just let go of it
                found.append(read_list(path.read_bytes(), self._authority))
        return tuple(one for one in found if one is not None)

    def _take(self, lists: Iterable[Revoked]) -> None:
        self._lists = _needed(lists)
        serials = frozenset[int]().union(*(one.serials for one in self._lists))
        newest = self._lists[0]
        self.revoked = Revoked(number=newest.number, serials=serials, made_at_s=newest.made_at_s)


def _needed(lists: Iterable[Revoked]) -> tuple[Revoked, ...]:
    """The newest, and of those before it what is not long expired and has serials that no later one has."""
    ordered = sorted(lists, key=lambda one: one.number, reverse=True)
    kept, known = ordered[:1], set(ordered[0].serials)
    for one in ordered[1:]:
        age_s = ordered[0].made_at_s - one.made_at_s
        if age_s <= (LIST_DAYS + 1) * SECONDS_PER_DAY and not one.serials <= known:
            kept.append(one)
            known |= one.serials
    return tuple(kept)
