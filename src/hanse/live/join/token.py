"""Join tokens: one line that lets one machine become one site, once.

Here: what a token says, the hub's book of tokens. Not here: who answers to one (`join.door`).

A token carries the hub's addresses and the fingerprint of the authority, so that its holder knows whom it talks to before it says
the secret; the hub keeps only the secret's SHA-256. It is spent by the first key that shows it: the same key may ask again while the
token lasts (an answer may be lost on the way), another key may not.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import secrets
from base64 import urlsafe_b64decode, urlsafe_b64encode
from pathlib import Path
from typing import Final, Literal

import msgspec

from hanse.errors import ConfigError
from hanse.live.ca import locked, write_file
from hanse.model.fleet import Id, Value
from hanse.model.told import UNREADABLE
from hanse.units import SECONDS_PER_HOUR

PREFIX: Final = "hanse-join-"
"""So that scanners for secrets in repositories and logs can know one."""
SECRET_BYTES: Final = 32
"""256 random bits: not to be guessed, so a plain SHA-256 of it is kept."""
VALID_S: Final = SECONDS_PER_HOUR
"""Long enough to walk to the other machine; `hanse token` makes another in a second."""
VALID_S_MAX: Final = 7 * 24 * SECONDS_PER_HOUR
TEXT_BYTES_MAX: Final = 2048

Refusal = Literal["unknown", "expired", "spent", "other site"]


Role = Literal["site", "hub"]


class Token(Value, frozen=True, kw_only=True, omit_defaults=True):
    """What the line says."""

    version: Literal[1] = 1
    role: Role = "site"
    fleet: Id
    site: Id
    """What it is good for: a site, or a further hub."""
    hub: tuple[str, ...]
    """`host:port` of the hub's door, in the order to try."""
    authority_sha256: str
    """Hex SHA-256 of the authority's certificate."""
    secret: str

    def text(self) -> str:
        """The line."""
        packed = urlsafe_b64encode(msgspec.msgpack.encode(self)).rstrip(b"=")
        return PREFIX + packed.decode()


def read_token(text: str) -> Token:
    """A token from its line.

    Raises:
        ConfigError: it is none. The message never repeats it.
    """
    wrong = ConfigError(
        "TOKEN",
        got=f"{len(text)} characters that are no token",
        allowed=f"the line that `hanse token SITE` printed at the hub ({PREFIX}...)",
    )
    text = text.strip()
    if not text.startswith(PREFIX) or len(text) > TEXT_BYTES_MAX:
        raise wrong
    packed = text.removeprefix(PREFIX)
    try:
        data = urlsafe_b64decode(packed + "=" * (-len(packed) % 4))
        token = msgspec.msgpack.decode(data, type=Token)
    except (binascii.Error, ValueError):
        raise wrong from None
    if len(token.authority_sha256) != 64 or not token.hub:
        raise wrong
    return token


class Kept(Value, frozen=True, kw_only=True):
    """One token in the hub's book."""

    site: str
    made_at_s: float
    expires_at_s: float
    spent_by: str = ""
    """Hex SHA-256 of the public key that showed it first."""
    role: Role = "site"


class TokenBook:
    """`hub/tokens.json`: digest of the secret -> what it is good for."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def make(self, site: str, now_s: float, valid_s: float = VALID_S, role: Role = "site") -> str:
        """A new secret for a site; tokens of the site that nobody has used are void from now on."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        with locked(self._path.parent):
            book = {
                digest: one
                for digest, one in self._read().items()
                if one.expires_at_s > now_s and (one.site != site or one.spent_by)
            }
            book[_digest(secret)] = Kept(
                site=site, made_at_s=now_s, expires_at_s=now_s + valid_s, role=role
            )
            self._write(book)
        return secret

    def refusal(
        self, secret: str, site: str, public_sha256: str, now_s: float, role: Role = "site"
    ) -> Refusal | None:
        """Why a token lets this key not be this site (or hub) now; None: it does. Nothing is spent."""
        return _refusal(self._read(), secret, site, public_sha256, now_s, role)

    def spend(
        self, secret: str, site: str, public_sha256: str, now_s: float, role: Role = "site"
    ) -> Refusal | None:
        """The same, and from now on it is this key's alone."""
        with locked(self._path.parent):
            book = self._read()
            refusal = _refusal(book, secret, site, public_sha256, now_s, role)
            if refusal is None:
                digest = _digest(secret)
                book[digest] = msgspec.structs.replace(book[digest], spent_by=public_sha256)
                self._write(book)
        return refusal

    def void(self, site: str) -> None:
        """No token of a site counts any more."""
        with locked(self._path.parent):
            self._write({d: one for d, one in self._read().items() if one.site != site})

    def _read(self) -> dict[str, Kept]:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, Kept])
        except FileNotFoundError:
            return {}
        except (*UNREADABLE, OSError) as error:
            raise ConfigError(
                str(self._path), got=str(error), fix="remove it and make new tokens"
            ) from error

    def _write(self, book: dict[str, Kept]) -> None:
        write_file(self._path, msgspec.json.encode(book), secret=True)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _refusal(
    book: dict[str, Kept], secret: str, site: str, public_sha256: str, now_s: float, role: Role
) -> Refusal | None:
    kept = book.get(_digest(secret))
    if kept is None:
        return "unknown"
    if (kept.site, kept.role) != (site, role):
        return "other site"
    if now_s >= kept.expires_at_s:
        return "expired"
    if kept.spent_by and not hmac.compare_digest(kept.spent_by, public_sha256):
        return "spent"
    return None
