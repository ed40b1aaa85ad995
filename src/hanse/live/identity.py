"""Who a site is: its certificate, its TLS contexts, and the signed envelope of a hop.

Here: reading and judging certificates named in the SPIFFE form, mutual TLS contexts, the session key two sites share without a
round trip, sealing and opening envelopes, the memory against replays. Not here: issuing, renewing and revoking (`live.ca`), sockets
and connection pools (`live.gateway`), API keys of tenants (the table's), what a site signs about its log (`live.evidence`).

Rules: one Ed25519 key per site signs TLS handshakes and seals (each under its own context string); the key for envelopes is
derived from it and certified in the same certificate. `docs/decisions/0003-hop-envelope.md` says why.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import ssl
from base64 import b64encode
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    load_pem_private_key,
)
from cryptography.x509.oid import ObjectIdentifier

from hanse.errors import ConfigError
from hanse.model.told import Count, Whole
from hanse.units import SECONDS_PER_DAY

CLOCK_SKEW_S_MAX: Final = 30.0
"""An envelope older or newer than this is refused. Clocks kept by NTP differ by milliseconds; 30 s bounds the replay memory."""
REPLAY_IDS_MAX: Final = 500_000
"""Ids remembered per worker: 4,000 hops a second over two windows of 60 s, about 50 MB at worst."""
AGREEMENT_OID: Final = ObjectIdentifier(
    "1.2.840.113556.1.8000.2554.46552.56008.60576.13601.40357.7696451.5551251"
)
"""Certificate extension with the X25519 public key of the site. The arc is open to anybody who has a UUID, cut in seven numbers
(the published oidgen scheme); under 2.25 a UUID is one number of 128 bits, which Go's parser, and so NATS, refuses."""


_UNREADABLE: Final = (
    ValueError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for certificates that were not made here."""


class SiteName(NamedTuple):
    """What a certificate says about its holder."""

    fleet: str
    site: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """A site's name with its keys and certificates.

    The private keys stay in this process and in `key_path` (mode 0600).
    """

    name: SiteName
    key: Ed25519PrivateKey
    agreement_key: X25519PrivateKey
    certificate: x509.Certificate
    authority: x509.Certificate
    key_path: Path
    certificate_path: Path
    authority_path: Path

    @property
    def site(self) -> str:
        """The site's id."""
        return self.name.site

    def certificate_der(self) -> bytes:
        """The site certificate as it travels in seals and receipts."""
        return self.certificate.public_bytes(Encoding.DER)


# --- files -------------------------------------------------------------------------------------


def load_identity(home: Path, fleet: str, site: str, now_s: float) -> Identity:
    """Read an identity directory and check that it is whole, this site's and valid now."""
    for name in ("site.key", "site.pem", "ca.pem"):
        if not (home / name).exists():
            raise ConfigError(
                str(home / name),
                got="no file",
                fix="let this site join (`hanse token` at the hub, `hanse join` here)",
            )
    authority = x509.load_pem_x509_certificate((home / "ca.pem").read_bytes())
    certificate = x509.load_pem_x509_certificate((home / "site.pem").read_bytes())
    key = load_key(home / "site.key")
    flaw = certificate_flaw(certificate, authority, now_s)
    if flaw is None and certificate.public_key() != key.public_key():
        flaw = "a certificate of another key"
    if flaw is None and name_of(certificate) != SiteName(fleet, site):
        flaw = f"a certificate of {name_of(certificate)}"
    if flaw is not None:
        raise ConfigError(
            str(home / "site.pem"),
            got=flaw,
            allowed=f"a valid certificate of site {site} in fleet {fleet}",
            fix="let it join again: `hanse token` at the hub, `hanse join` here",
        )
    return Identity(
        name=SiteName(fleet, site),
        key=key,
        agreement_key=agreement_key(key),
        certificate=certificate,
        authority=authority,
        key_path=home / "site.key",
        certificate_path=home / "site.pem",
        authority_path=home / "ca.pem",
    )


def load_key(path: Path) -> Ed25519PrivateKey:
    """A site's or the authority's private key."""
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(str(path), got=type(key).__name__, allowed="an Ed25519 private key")
    return key


def agreement_key(key: Ed25519PrivateKey) -> X25519PrivateKey:
    """A second key from the same seed: one secret to keep, two keys that share no equation."""
    return X25519PrivateKey.from_private_bytes(_hkdf(key.private_bytes_raw(), b"hanse-agreement/1"))


def _hkdf(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 32 bytes."""
    return HKDF(algorithm=SHA256(), length=32, salt=b"hanse", info=info).derive(secret)


# --- certificates ------------------------------------------------------------------------------


def read_certificate(der: bytes) -> x509.Certificate:
    """A certificate from anywhere.

    Raises:
        ValueError: these bytes are none.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except (x509.InvalidVersion, UnsupportedAlgorithm) as error:
        raise ValueError(str(error)) from None


def name_of(certificate: x509.Certificate) -> SiteName | None:
    """The SPIFFE-form name in a certificate, or None where it has none or more than one."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except _UNREADABLE:
        return None
    return _parse_name(names.get_values_for_type(x509.UniformResourceIdentifier))


def _parse_name(uris: list[str]) -> SiteName | None:
    if len(uris) != 1:
        return None
    scheme, _, rest = uris[0].partition("://")
    parts = rest.split("/")
    if scheme != "spiffe" or len(parts) != 3 or parts[1] != "site" or not all(parts):
        return None
    return SiteName(parts[0], parts[2])


def certificate_flaw(
    certificate: x509.Certificate, authority: x509.Certificate, at_s: float
) -> str | None:
    """Why this site certificate does not hold under this authority at this instant; None: it does.

    One level deep: sites are issued by the authority itself. Whether it was revoked says `live.revoked`.
    """
    flaw = _issue_flaw(certificate, authority)
    if flaw is not None:
        return flaw
    for held, what in ((certificate, "certificate"), (authority, "authority")):
        start_s = held.not_valid_before_utc.timestamp()
        if not start_s <= at_s <= held.not_valid_after_utc.timestamp():
            return f"{what} not valid at {at_s:.0f}"
    return None


@lru_cache(maxsize=1024)  # an audit asks it for every seal, of a handful of certificates
def _issue_flaw(certificate: x509.Certificate, authority: x509.Certificate) -> str | None:
    """The part of `certificate_flaw` that does not depend on the instant."""
    try:
        rights = authority.extensions.get_extension_for_class(x509.BasicConstraints).value
        uris = authority.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        certificate.verify_directly_issued_by(authority)
    except InvalidSignature:
        return "not signed by this authority"
    except (*_UNREADABLE, TypeError) as error:
        return f"not issued by this authority ({error})"
    name = name_of(certificate)
    if not rights.ca or name is None:
        return "issuer is no authority" if not rights.ca else "no site name in it"
    if uris.get_values_for_type(x509.UniformResourceIdentifier) != [f"spiffe://{name.fleet}"]:
        return f"names fleet {name.fleet}, which is not this authority's"
    return None


# --- TLS ---------------------------------------------------------------------------------------


def host_name(site: str) -> str:
    """The name to pass as `server_hostname` when dialling a site's hop port."""
    return f"{site}.hanse"


def server_context(identity: Identity) -> ssl.SSLContext:
    """For the hop port: TLS 1.3 only, a certificate of this fleet required."""
    return _context(identity, ssl.PROTOCOL_TLS_SERVER)


def client_door_context(identity: Identity) -> ssl.SSLContext:
    """For the port of clients on other machines: TLS 1.2 or newer, since clients are not ours; they show a key, no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context


def client_context(identity: Identity) -> ssl.SSLContext:
    """For dialling a hop port; the dialled name is checked (`host_name`)."""
    return _context(identity, ssl.PROTOCOL_TLS_CLIENT)


def _context(identity: Identity, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(identity.authority_path)
    context.load_cert_chain(identity.certificate_path, identity.key_path)
    return context


def peer_session(
    identity: Identity, tls: ssl.SSLObject | ssl.SSLSocket, *, dialled: bool
) -> HopSession | None:
    """The envelope session with whoever is at the other end of a verified mTLS connection.

    Args:
        identity: This end.
        tls: `transport.get_extra_info("ssl_object")` after the handshake.
        dialled: True at the entry site (it sends envelopes), False at the serving site.

    Returns:
        The session, whose `entry_site` and `serving_site` are from the two certificates; None where the peer's certificate
        names no other site of this fleet.
    """
    der = tls.getpeercert(binary_form=True)
    return None if der is None else session_with(identity, der, dialled=dialled)


# --- envelopes ---------------------------------------------------------------------------------


class Envelope(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True
):
    """What the entry site tells the serving site beside the request's bytes."""

    request_id: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    hop: Whole = 1
    attempt: Count
    """1 for the first try; a retry or hedge of the same request counts on, so it is no replay."""
    entry_site: str
    tenant: str
    data_class: str
    country: str
    """Legal country of origin."""
    subject_row: Whole
    """Row in table `table_version`; the names beside it find the row in another version."""
    service: str
    variant: str
    epoch: Count
    table_version: Count
    budget_ms: float
    """What is left of the request's deadline when this was sent: a duration, so clocks need not agree."""
    sent_at_s: float
    """Only against replays."""
    body_bytes: Count
    deferrable: bool = False
    """A line of a batch: only where there is room to spare, and out of the way of whoever waits for an answer."""


RefusalReason = Literal[
    "malformed", "key_day", "mac", "entry_site", "hop", "deadline", "clock", "replay", "busy"
]


class EnvelopeRefused(msgspec.Struct, frozen=True, kw_only=True):
    """Why an envelope was not opened: a value, not an exception."""

    reason: RefusalReason


class HopSession:
    """The shared secret of one direction, entry site to serving site, with one MAC key per day."""

    __slots__ = ("_keys", "_secret", "entry_site", "fleet", "serving_site")

    def __init__(self, secret: bytes, *, fleet: str, entry_site: str, serving_site: str) -> None:
        self.fleet = fleet
        self.entry_site = entry_site
        self.serving_site = serving_site
        self._secret = secret
        self._keys: dict[int, bytes] = {}

    def mac_key(self, day: int) -> bytes:
        """The key of one UTC day; the caller has checked that the day is near."""
        key = self._keys.get(day)
        if key is None:
            info = f"hanse-hop/1 {self.fleet} {self.entry_site} {self.serving_site} {day}"
            self._keys = {d: k for d, k in self._keys.items() if abs(d - day) <= 1}
            key = self._keys[day] = _hkdf(self._secret, info.encode())
        return key


def session_with(identity: Identity, peer_der: bytes, *, dialled: bool) -> HopSession | None:
    """The session with the holder of a certificate that TLS has verified; both ends get the same."""
    peer = read_certificate(peer_der)
    name = name_of(peer)
    if name is None or name.fleet != identity.name.fleet or name.site == identity.site:
        return None
    try:
        extension = peer.extensions.get_extension_for_oid(AGREEMENT_OID).value
        assert isinstance(extension, x509.UnrecognizedExtension)
        public = X25519PublicKey.from_public_bytes(extension.value)
        secret = identity.agreement_key.exchange(public)
    except _UNREADABLE:
        return None
    entry, serving = (identity.site, name.site) if dialled else (name.site, identity.site)
    return HopSession(secret, fleet=name.fleet, entry_site=entry, serving_site=serving)


_DAY_BYTES: Final = 4
_MAC_BYTES: Final = 16
_PERSON: Final = b"hanse-envelope/1"
_STANDARD_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_URL_TO_STANDARD: Final = bytes.maketrans(b"-_+/", b"+/-_")
"""The other two stand for nothing, or one message would have several forms."""
_ENVELOPE_BYTES_MAX: Final = 4096
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(Envelope).decode


def seal_envelope(session: HopSession, envelope: Envelope) -> bytes:
    """The value of `x-hanse-envelope`: base64url without padding of day, fields and MAC."""
    day = int(envelope.sent_at_s // SECONDS_PER_DAY)
    text = day.to_bytes(_DAY_BYTES, "big") + _encode(envelope)
    return b64encode(text + _mac(session, day, text)).rstrip(b"=").translate(_STANDARD_TO_URL)


def open_envelope(
    session: HopSession, token: bytes, now_s: float, replays: ReplayGuard
) -> Envelope | EnvelopeRefused:
    """Check and decode a header value; an opened envelope is remembered in `replays`."""
    if len(token) > _ENVELOPE_BYTES_MAX:
        return EnvelopeRefused(reason="malformed")
    try:
        padded = token.translate(_URL_TO_STANDARD) + b"=" * (-len(token) % 4)
        data = binascii.a2b_base64(padded, strict_mode=True)
    except binascii.Error:
        return EnvelopeRefused(reason="malformed")
    text, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
    day = int.from_bytes(text[:_DAY_BYTES], "big")
    if abs(day - now_s // SECONDS_PER_DAY) > 1:
        return EnvelopeRefused(reason="key_day")
    if not hmac.compare_digest(mac, _mac(session, day, text)):
        return EnvelopeRefused(reason="mac")
    try:
        envelope = _decode(text[_DAY_BYTES:])
    except ValueError:
        return EnvelopeRefused(reason="malformed")
    reason = _content_flaw(session, envelope, now_s) or replays.admit(envelope, now_s)
    return envelope if reason is None else EnvelopeRefused(reason=reason)


def _mac(session: HopSession, day: int, text: bytes) -> bytes:
    """Keyed BLAKE2b (RFC 7693): a third of the time of HMAC-SHA256 from Python."""
    return hashlib.blake2b(
        text, digest_size=_MAC_BYTES, key=session.mac_key(day), person=_PERSON
    ).digest()


def _content_flaw(session: HopSession, envelope: Envelope, now_s: float) -> RefusalReason | None:
    if envelope.entry_site != session.entry_site:
        return "entry_site"
    if envelope.hop != 1:
        return "hop"
    if not envelope.budget_ms > 0:
        return "deadline"
    if not abs(now_s - envelope.sent_at_s) <= CLOCK_SKEW_S_MAX:
        return "clock"
    return None


class ReplayGuard:
    """Ids opened by one worker in the last one to two windows; two sets that take turns.

    An envelope is acceptable for 2 x `CLOCK_SKEW_S_MAX` on the receiver's clock, so each is remembered at least that long.
    """

    __slots__ = ("_current", "_ids_max", "_previous", "_turned_at_s")

    def __init__(self, ids_max: int = REPLAY_IDS_MAX) -> None:
        self._ids_max = ids_max
        self._current: set[tuple[bytes, str, int]] = set()
        self._previous: set[tuple[bytes, str, int]] = set()
        self._turned_at_s = float("-inf")

    def admit(self, envelope: Envelope, now_s: float) -> RefusalReason | None:
        """Remember an envelope; why not, where it was seen before or the memory is full."""
        age_s = now_s - self._turned_at_s
        if age_s > 2 * CLOCK_SKEW_S_MAX:
            # After two idle windows the older set holds nothing that could still be accepted.
            self._previous = self._current if age_s <= 4 * CLOCK_SKEW_S_MAX else set()
            self._current = set()
            self._turned_at_s = now_s
        seen = (envelope.request_id, envelope.entry_site, envelope.attempt)
        if seen in self._current or seen in self._previous:
            return "replay"
        if len(self._current) + len(self._previous) >= self._ids_max:
            return "busy"
        self._current.add(seen)
        return None
