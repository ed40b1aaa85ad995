"""Who a site is: its certificate, its TLS contexts, and the signed envelope of a hop.

Here: the fleet's own certificate authority, site certificates named in the SPIFFE form, mutual TLS contexts, the session key two
sites share without a round trip, sealing and opening envelopes, the memory against replays. Not here: sockets and connection
pools (`live.gateway`), API keys of tenants (the table's), what a site signs about its log (`live.evidence`).

Rules: one Ed25519 key per site signs TLS handshakes and seals (each under its own context string); the key for envelopes is
derived from it and certified in the same certificate. `docs/decisions/0003-hop-envelope.md` says why.
"""

from __future__ import annotations

import binascii
import datetime
import fcntl
import hashlib
import hmac
import ipaddress
import os
import ssl
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from hanse.errors import ConfigError
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

CERTIFICATE_DAYS: Final = 30
"""Outlives any cut from the authority that is not a decision to leave the fleet."""
RENEW_DAYS: Final = 10
"""A third of the life left: the share at which common certificate tools renew."""
AUTHORITY_DAYS: Final = 3650
BACKDATE_S: Final = SECONDS_PER_HOUR
"""A certificate is valid from an hour before its issue, so that a peer whose clock lags takes it."""
CLOCK_SKEW_S_MAX: Final = 30.0
"""An envelope older or newer than this is refused. Clocks kept by NTP differ by milliseconds; 30 s bounds the replay memory."""
REPLAY_IDS_MAX: Final = 500_000
"""Ids remembered per worker: 4,000 hops a second over two windows of 60 s, about 50 MB at worst."""
AGREEMENT_OID: Final = ObjectIdentifier("2.25.241716240842671536034873142498175530131")
"""Certificate extension with the X25519 public key of the site; an arc of its own by ITU-T X.667 (UUID as OID)."""


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


def ensure_identity(state_dir: Path, fleet: str, site: str, now_s: float) -> Identity:
    """Load the site's identity; make or renew it where the authority's key is at hand.

    Layout: `ca/ca.pem`, `ca/ca.key` (only where certificates are issued), `sites/<site>/identity/{site.key,site.pem,ca.pem}`.
    A machine that runs one site has no `ca/`: it gets the three files of its site and renews by getting a new `site.pem`.

    Raises:
        ConfigError: no valid identity and no authority's key to make one.
    """
    home = state_dir / "sites" / site / "identity"
    with _locked(state_dir / "ca"):
        issuer = _open_authority(state_dir / "ca", home, fleet, now_s)
        if not (home / "site.key").exists():
            _write(home / "site.key", _private_pem(Ed25519PrivateKey.generate()), secret=True)
        key = _load_key(home / "site.key")
        if issuer is not None and _needs_issue(home / "site.pem", issuer[0], now_s):
            certificate = _issue_site(issuer, key, SiteName(fleet, site), now_s)
            _write(home / "ca.pem", issuer[0].public_bytes(Encoding.PEM))
            _write(home / "site.pem", certificate.public_bytes(Encoding.PEM))
    return load_identity(home, fleet, site, now_s)


def load_identity(home: Path, fleet: str, site: str, now_s: float) -> Identity:
    """Read an identity directory and check that it is whole, this site's and valid now."""
    for name in ("site.key", "site.pem", "ca.pem"):
        if not (home / name).exists():
            raise ConfigError(
                str(home / name),
                got="no file",
                fix="copy the site's identity here from the machine that holds the fleet's ca/ca.key",
            )
    authority = x509.load_pem_x509_certificate((home / "ca.pem").read_bytes())
    certificate = x509.load_pem_x509_certificate((home / "site.pem").read_bytes())
    key = _load_key(home / "site.key")
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
            fix="have it issued again where ca/ca.key is",
        )
    return Identity(
        name=SiteName(fleet, site),
        key=key,
        agreement_key=_agreement_key(key),
        certificate=certificate,
        authority=authority,
        key_path=home / "site.key",
        certificate_path=home / "site.pem",
        authority_path=home / "ca.pem",
    )


def _open_authority(
    ca_dir: Path, home: Path, fleet: str, now_s: float
) -> tuple[x509.Certificate, Ed25519PrivateKey] | None:
    """The authority to issue with; made on first use, None on a machine that only runs a site."""
    certificate_path, key_path = ca_dir / "ca.pem", ca_dir / "ca.key"
    if not key_path.exists():
        if certificate_path.exists() or (home / "ca.pem").exists():
            return None
        key = Ed25519PrivateKey.generate()
        _write(key_path, _private_pem(key), secret=True)
        _write(certificate_path, _issue_authority(key, fleet, now_s).public_bytes(Encoding.PEM))
    if not certificate_path.exists():  # killed between the two writes above
        authority = _issue_authority(_load_key(key_path), fleet, now_s)
        _write(certificate_path, authority.public_bytes(Encoding.PEM))
    return x509.load_pem_x509_certificate(certificate_path.read_bytes()), _load_key(key_path)


def _needs_issue(path: Path, authority: x509.Certificate, now_s: float) -> bool:
    if not path.exists():
        return True
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    renew_at_s = certificate.not_valid_after_utc.timestamp() - RENEW_DAYS * SECONDS_PER_DAY
    return now_s >= renew_at_s or certificate_flaw(certificate, authority, now_s) is not None


def _write(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Write by rename, so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600 if secret else 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.replace(draft, path)


@contextmanager
def _locked(ca_dir: Path) -> Iterator[None]:
    """One process at a time makes authorities and keys."""
    ca_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    fd = os.open(ca_dir / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _private_pem(key: Ed25519PrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _load_key(path: Path) -> Ed25519PrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(str(path), got=type(key).__name__, allowed="an Ed25519 private key")
    return key


def _agreement_key(key: Ed25519PrivateKey) -> X25519PrivateKey:
    """A second key from the same seed: one secret to keep, two keys that share no equation."""
    return X25519PrivateKey.from_private_bytes(_hkdf(key.private_bytes_raw(), b"hanse-agreement/1"))


def _hkdf(secret: bytes, info: bytes) -> bytes:
    """HKDF-SHA256 (RFC 5869), 32 bytes."""
    return HKDF(algorithm=SHA256(), length=32, salt=b"hanse", info=info).derive(secret)


# --- certificates ------------------------------------------------------------------------------


def _issue_authority(key: Ed25519PrivateKey, fleet: str, now_s: float) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{fleet} authority")])
    public = key.public_key()
    uri = x509.UniformResourceIdentifier(f"spiffe://{fleet}")
    return (
        _builder(name, name, public, public, now_s, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .sign(key, None)
    )


def _issue_site(
    issuer: tuple[x509.Certificate, Ed25519PrivateKey],
    key: Ed25519PrivateKey,
    name: SiteName,
    now_s: float,
) -> x509.Certificate:
    authority, authority_key = issuer
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name.site)])
    names = x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(f"spiffe://{name.fleet}/site/{name.site}"),
            x509.DNSName(host_name(name.site)),
            x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
        ]
    )
    roles = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    agreement = _agreement_key(key).public_key().public_bytes_raw()
    public, signer = key.public_key(), authority_key.public_key()
    return (
        _builder(subject, authority.subject, public, signer, now_s, CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(roles), critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.UnrecognizedExtension(AGREEMENT_OID, agreement), critical=False)
        .sign(authority_key, None)
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: Ed25519PublicKey,
    signer: Ed25519PublicKey,
    now_s: float,
    life_days: int,
) -> x509.CertificateBuilder:
    start = datetime.datetime.fromtimestamp(int(now_s - BACKDATE_S), datetime.UTC)
    signer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(signer)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=life_days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(signer_id, critical=False)
    )


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


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

    One level deep: sites are issued by the authority itself. Revocation is not looked at; 30 days is the longest a stolen key lasts.
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
    hop: int = 1
    attempt: int
    """1 for the first try; a retry or hedge of the same request counts on, so it is no replay."""
    entry_site: str
    tenant: str
    data_class: str
    country: str
    """Legal country of origin."""
    subject_row: int
    """Row in table `table_version`; the names beside it find the row in another version."""
    service: str
    variant: str
    epoch: int
    table_version: int
    budget_ms: float
    """What is left of the request's deadline when this was sent: a duration, so clocks need not agree."""
    sent_at_s: float
    """Only against replays."""
    body_bytes: int
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
