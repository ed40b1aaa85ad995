"""Signed payloads of grid messages: JWS in compact form (RFC 7515), ES256 or RS256 and nothing else.

Here: `Keyring` (who may sign, and our own key). Not here: what is signed (`flex_messages`). Which algorithm holds is decided by the configured
key, never by the message, so that neither `none` nor an HMAC with a public key as its secret can be asked for.
"""

from __future__ import annotations

import contextlib
import json
from functools import partial
from pathlib import Path
from typing import Any, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from hanse.errors import ConfigError, SiteError
from hanse.live.facility.access import key_text
from hanse.live.facility.readings import needed
from hanse.live.runtime import replace_file
from hanse.model.fleet import Facility

RSA_BITS_MIN: Final = 2048
"""RFC 7518, 3.3."""


class Keyring:
    """Keys of one grid connection.

    Raises:
        ConfigError: a key file is missing, or holds no key of the two algorithms.
    """

    def __init__(self, facility: Facility, home: Path) -> None:
        self._jws = needed("joserfc.jws", "joserfc", "dsx-flex")
        self._jwk = needed("joserfc.jwk", "joserfc", "dsx-flex")
        self._errors = needed("joserfc.errors", "joserfc", "dsx-flex")
        self._known: dict[str, tuple[str, Any]] = {}
        """Key id -> algorithm and public key."""
        for signer in facility.signers:
            self._known[signer.kid] = self._key(key_text(signer.key_file, home), signer.key_file)
        self.kid = f"{facility.identifier or facility.site}"
        path = facility.signing_key_file or str(_own_key(facility, home))
        self._alg, self._own = self._key(key_text(path, home), path)
        if not self._own.is_private:
            raise ConfigError(path, got="a public key", allowed="the private key of own messages")

    def sign(self, payload: dict[str, Any]) -> str:
        """With our own key."""
        head = {"alg": self._alg, "kid": self.kid}
        text = json.dumps(payload, separators=(",", ":"))
        signed: str = self._jws.serialize_compact(head, text, self._own, algorithms=[self._alg])
        return signed

    def opened(self, signed: str) -> tuple[str, dict[str, Any]]:
        """Who signed a message, and its payload.

        Raises:
            SiteError: nobody known signed it, or it was changed since.
        """
        where = "signature"
        try:
            head = self._jws.extract_compact(signed.encode()).headers()
            kid = str(head.get("kid", ""))
        except (self._errors.JoseError, ValueError, AttributeError) as error:
            raise SiteError(where, got=repr(error), allowed="a JWS in compact form") from None
        if kid not in self._known:
            known = ", ".join(sorted(self._known))
            raise SiteError(where, got=f"key id {kid!r}", allowed=f"one of {known}")
        alg, key = self._known[kid]
        try:
            found = self._jws.deserialize_compact(signed, key, algorithms=[alg])
            payload = json.loads(found.payload)
        except (self._errors.JoseError, ValueError) as error:
            got = f"{error!r} with key {kid!r}"
            raise SiteError(where, got=got, allowed=f"a payload signed with {alg}") from None
        if not isinstance(payload, dict):
            raise SiteError(where, got="a payload that is no object", allowed="an object")
        return kid, payload

    def _key(self, pem: bytes, where: str) -> tuple[str, Any]:
        """The algorithm that a key is for, and the key."""
        known = _loaded(pem)
        if isinstance(known, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
            if known.curve.name == "secp256r1":
                return "ES256", self._jwk.ECKey.import_key(known)
        elif (
            isinstance(known, rsa.RSAPrivateKey | rsa.RSAPublicKey)
            and known.key_size >= RSA_BITS_MIN
        ):
            return "RS256", self._jwk.RSAKey.import_key(known)
        raise ConfigError(
            where,
            got="no such key",
            allowed=f"PEM of a P-256 key (ES256) or an RSA key of {RSA_BITS_MIN} bits or more (RS256)",
            fix="openssl ecparam -name prime256v1 -genkey -noout",
        )


def _loaded(pem: bytes) -> object:
    """A private or a public key; None: neither."""
    for load in (partial(load_pem_private_key, password=None), load_pem_public_key):
        with contextlib.suppress(ValueError, TypeError, UnsupportedAlgorithm):
            return load(pem)
    return None


def _own_key(facility: Facility, home: Path) -> Path:
    """Made once; its public half lies beside it, for whoever is to trust our messages."""
    folder = home / "facility"
    path = folder / f"{facility.id}.key.pem"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        replace_file(folder / f"{facility.id}.public.pem", public, mode=0o644)
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        replace_file(path, private)
    return path
