"""The register of the certificates that a fleet's authority issued: `ca/issued.json`.

Here: its form, reading it, what it says of a site's key. Not here: writing it, which needs the authority's lock (`live.ca`).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hanse.errors import ConfigError
from hanse.model.fleet import Value
from hanse.model.told import UNREADABLE


class Issued(Value, frozen=True, kw_only=True, forbid_unknown_fields=False, omit_defaults=True):
    """One certificate in the register."""

    site: str
    generation: int
    issued_at_s: float
    expires_at_s: float
    revoked_at_s: float | None = None
    key_sha256: str = ""
    """Of the key that it certifies; empty where an earlier version noted it."""


class Register(Value, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """`ca/issued.json`: what was issued and is not long expired, by serial number in hex."""

    issued: dict[str, Issued] = {}
    generations: dict[str, int] = {}
    """Of sites that were revoked; 1 for all others."""
    list_number: int = 0
    """Of the newest list of revoked certificates."""

    def is_revoked(self, site: str, key_sha256: str) -> bool:
        """Whether this key of a site was revoked and not let in again, or all that the site had was.

        A register that knows nothing of the site, from an older backup, says neither.
        """
        own = [one for one in self.issued.values() if one.site == site]
        of_key = [one for one in own if one.key_sha256 == key_sha256]
        return any(
            known and all(one.revoked_at_s is not None for one in known) for known in (own, of_key)
        )


def read_register(ca_dir: Path) -> Register:
    """What is in it; an empty one where there is none.

    Raises:
        ConfigError: it is unreadable.
    """
    try:
        return msgspec.json.decode((ca_dir / "issued.json").read_bytes(), type=Register)
    except FileNotFoundError:
        return Register(issued={}, generations={})
    except (*UNREADABLE, OSError) as error:
        raise ConfigError(
            str(ca_dir / "issued.json"), got=str(error), fix="restore it from a backup"
        ) from error


def told_register(ca_dir: Path) -> bytes:
    """The register as other hubs are told it, empty where there is none: without keys, which the version before does not know."""
    if not (ca_dir / "issued.json").exists():
        return b""
    known = read_register(ca_dir)
    told = {
        serial: msgspec.structs.replace(one, key_sha256="") for serial, one in known.issued.items()
    }
    return msgspec.json.encode(msgspec.structs.replace(known, issued=told))
