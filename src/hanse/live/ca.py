"""The fleet's own certificate authority: it issues, renews and revokes what sites are known by.

Here: `Authority` (its key, its list of what it revoked), `ensure_identity` for sites on the machine that holds the key, requests of
sites elsewhere. Not here: the register of what it issued (`live.register`), reading and judging certificates (`live.identity`), what a
site does with the list of revoked ones (`live.revoked`), who may ask for a certificate (`live.join`).

A site's key is made where the site is and never leaves it: what travels is a signing request (PKCS #10). Each site has a *seat
name*, `<site>.<generation>.hanse`, beside its SPIFFE name; revoking a site ends its generation, so that the bus, which knows names
and no lists, tells the certificate of a site that joined anew from the stolen one.
"""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hanse.errors import ConfigError
from hanse.live.identity import (
    AGREEMENT_OID,
    Identity,
    SiteName,
    agreement_key,
    certificate_flaw,
    host_name,
    load_identity,
    load_key,
    name_of,
)
from hanse.live.register import Issued, Register, read_register
from hanse.live.revoked import LIST_DAYS, REVOKED
from hanse.live.runtime import private_folder
from hanse.units import SECONDS_PER_DAY, SECONDS_PER_HOUR

CERTIFICATE_DAYS: Final = 30
"""Outlives any cut from the authority that is not a decision to leave the fleet."""
RENEW_FROM_DAY: Final = 10
"""Of its life. So a site that is cut off at any instant has 20 days or more: the promised seven, and two weeks to mend the rest."""
AUTHORITY_DAYS: Final = 3650
BACKDATE_S: Final = SECONDS_PER_HOUR
"""A certificate is valid from an hour before its issue, so that a peer whose clock lags takes it."""
_REQUEST_BYTES_MAX: Final = 16_384


class Authority:
    """The key that everything in a fleet trusts; one process at a time writes (`ca/.lock`)."""

    def __init__(
        self, home: Path, certificate: x509.Certificate, key: Ed25519PrivateKey, fleet: str
    ) -> None:
        self.home = home
        self.certificate = certificate
        self.fleet = fleet
        self._key = key

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the certificate: what a join token pins."""
        return fingerprint(self.certificate)

    @property
    def list_path(self) -> Path:
        """Where the newest list of revoked certificates lies; none before the first."""
        return self.home / REVOKED

    def generation(self, site: str) -> int:
        """Which identity of a site counts: rises when it is revoked."""
        return self._register().generations.get(site, 1)

    def issue(
        self,
        public: Ed25519PublicKey,
        agreement: bytes,
        site: str,
        now_s: float,
        hosts: Iterable[str] = (),
    ) -> x509.Certificate:
        """A certificate for a key that its holder has proved to have; noted in the register before it is returned."""
        with self._writing() as register:
            return self._issue(register, public, agreement, site, now_s, hosts)

    def _issue(
        self,
        register: Register,
        public: Ed25519PublicKey,
        agreement: bytes,
        site: str,
        now_s: float,
        hosts: Iterable[str],
    ) -> x509.Certificate:
        generation = register.generations.get(site, 1)
        name = SiteName(self.fleet, site)
        made = _site_certificate(
            self.certificate, self._key, public, agreement, name, generation, now_s, hosts
        )
        self._note(register, made, site, generation, now_s)
        return made

    def answer(
        self, request_pem: bytes, site: str, now_s: float, hosts: Iterable[str] = ()
    ) -> x509.Certificate:
        """The certificate that a signing request asks for, where it asks for this site's name and proves its key.

        Raises:
            ConfigError: it does not.
        """
        public, agreement = self._asked(request_pem, site)
        return self.issue(public, agreement, site, now_s, hosts)

    def renew(
        self, request_pem: bytes, site: str, now_s: float, hosts: Iterable[str] = ()
    ) -> x509.Certificate:
        """The same for a site that is in already, unless it was revoked: a question may have been on its way when it was.

        Raises:
            ConfigError: the request is none of this site, or the site or its key was revoked and nobody let it in since.
        """
        public, agreement = self._asked(request_pem, site)
        with self._writing() as register:
            if register.is_revoked(site, key_digest(public)):
                raise ConfigError(
                    "site",
                    got=f"{site!r}, which was revoked",
                    allowed="a site whose certificate stands",
                    fix="join again with a new token (`hanse token`)",
                )
            return self._issue(register, public, agreement, site, now_s, hosts)

    def _asked(self, request_pem: bytes, site: str) -> tuple[Ed25519PublicKey, bytes]:
        request = read_request(request_pem)
        if name_in_request(request) != SiteName(self.fleet, site):
            raise ConfigError(
                "certificate request",
                got=f"one for {name_in_request(request)}",
                allowed=f"site {site!r} of fleet {self.fleet!r}",
            )
        public = request.public_key()
        assert isinstance(public, Ed25519PublicKey), "read_request has looked"
        return public, _agreement_in(request)

    def stands(self, certificate: x509.Certificate, now_s: float) -> bool:
        """Whether a site certificate is one of ours, in time and not revoked."""
        noted = self._register().issued.get(f"{certificate.serial_number:x}")
        if certificate_flaw(certificate, self.certificate, now_s) is not None:
            return False
        return noted is not None and noted.revoked_at_s is None

    def revoke(self, site: str, now_s: float) -> int:
        """Revoke every certificate of a site and write the new list; how many that were."""
        with self._writing() as register:
            hit = 0
            for serial, one in register.issued.items():
                if one.site == site and one.revoked_at_s is None:
                    register.issued[serial] = msgspec.structs.replace(one, revoked_at_s=now_s)
                    hit += 1
            if hit:
                register.generations[site] = register.generations.get(site, 1) + 1
                # By the clock, so that a hub that came back from a backup goes on above what it has forgotten.
                number = max(register.list_number + 1, int(now_s))
                self._save(msgspec.structs.replace(register, list_number=number), now_s)
                write_file(self.list_path, self._list(register, number, now_s))
        return hit

    def _list(self, register: Register, number: int, now_s: float) -> bytes:
        """A certificate revocation list (RFC 5280, section 5) in DER."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(_instant(now_s))
            .next_update(_instant(now_s + LIST_DAYS * SECONDS_PER_DAY))
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial, one in sorted(register.issued.items()):
            if one.revoked_at_s is not None:
                revoked = x509.RevokedCertificateBuilder()
                revoked = revoked.serial_number(int(serial, 16))
                revoked = revoked.revocation_date(_instant(one.revoked_at_s))
                builder = builder.add_revoked_certificate(revoked.build())
        return builder.sign(self._key, None).public_bytes(Encoding.DER)

    # --- the register

    def _register(self) -> Register:
        return read_register(self.home)

    @contextmanager
    def _writing(self) -> Iterator[Register]:
        with locked(self.home):
            yield self._register()

    def _note(
        self, register: Register, made: x509.Certificate, site: str, generation: int, now_s: float
    ) -> None:
        register.issued[f"{made.serial_number:x}"] = Issued(
            site=site,
            generation=generation,
            issued_at_s=now_s,
            expires_at_s=made.not_valid_after_utc.timestamp(),
            key_sha256=key_digest(made.public_key()),
        )
        self._save(register, now_s)

    def _save(self, register: Register, now_s: float) -> None:
        """Expired for more than a day: neither worth revoking nor worth listing."""
        kept = {
            serial: one
            for serial, one in register.issued.items()
            if one.expires_at_s > now_s - SECONDS_PER_DAY
        }
        register = msgspec.structs.replace(register, issued=kept)
        write_file(self.home / "issued.json", msgspec.json.encode(register), secret=True)


def open_authority(ca_dir: Path, fleet: str, now_s: float, *, make: bool) -> Authority | None:
    """The authority whose key lies here; made on first use where `make`; None where there is none."""
    with locked(ca_dir):
        return _open(ca_dir, fleet, now_s, make=make)


def _open(ca_dir: Path, fleet: str, now_s: float, *, make: bool) -> Authority | None:
    certificate_path, key_path = ca_dir / "ca.pem", ca_dir / "ca.key"
    if not key_path.exists():
        if not make or certificate_path.exists():
            return None
        key = Ed25519PrivateKey.generate()
        write_file(key_path, private_pem(key), secret=True)
        made = _authority_certificate(key, fleet, now_s)
        write_file(certificate_path, made.public_bytes(Encoding.PEM))
    if not certificate_path.exists():  # killed between the two writes above
        made = _authority_certificate(load_key(key_path), fleet, now_s)
        write_file(certificate_path, made.public_bytes(Encoding.PEM))
    certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
    return Authority(ca_dir, certificate, load_key(key_path), fleet)


def seats(ca_dir: Path, sites: Iterable[str]) -> dict[str, str]:
    """The seat name by which each site is known now; reads the register, needs no key."""
    known = read_register(ca_dir)
    return {site: seat_name(site, known.generations.get(site, 1)) for site in sites}


def certified(ca_dir: Path, now_s: float) -> set[str]:
    """Sites that have a certificate that counts; reads the register, needs no key."""
    issued = read_register(ca_dir).issued.values()
    return {one.site for one in issued if one.revoked_at_s is None and one.expires_at_s > now_s}


def ensure_identity(
    state_dir: Path, fleet: str, site: str, now_s: float, *, hosts: Sequence[str] = ()
) -> Identity:
    """Load the site's identity; make or renew it where the authority's key is at hand.

    Layout: `ca/ca.pem`, `ca/ca.key` (only where certificates are issued), `sites/<site>/identity/{site.key,site.pem,ca.pem}`.
    A machine without `ca/ca.key` renews over the bus (`live.renewal`).

    Args:
        state_dir: The state directory.
        fleet: Its name.
        site: Whose identity.
        now_s: The clock.
        hosts: Addresses under which others reach it, to stand in its certificate.

    Raises:
        ConfigError: no valid identity and no authority's key to make one.
    """
    home = state_dir / "sites" / site / "identity"
    authority = open_authority(state_dir / "ca", fleet, now_s, make=not (home / "ca.pem").exists())
    with locked(state_dir / "ca"):
        key = ensure_key(home)
    if authority is not None and _needs_issue(home / "site.pem", authority, key, now_s, hosts):
        agreement = agreement_key(key).public_key().public_bytes_raw()
        made = authority.issue(key.public_key(), agreement, site, now_s, hosts)
        write_file(home / "ca.pem", authority.certificate.public_bytes(Encoding.PEM))
        write_file(home / "site.pem", made.public_bytes(Encoding.PEM))
    return load_identity(home, fleet, site, now_s)


def ensure_key(home: Path) -> Ed25519PrivateKey:
    """The private key of a site, made here on first use (mode 0600)."""
    if not (home / "site.key").exists():
        write_file(home / "site.key", private_pem(Ed25519PrivateKey.generate()), secret=True)
    return load_key(home / "site.key")


def renews_at_s(certificate: x509.Certificate) -> float:
    """From when on a certificate is to be renewed."""
    start_s = certificate.not_valid_before_utc.timestamp() + BACKDATE_S
    return start_s + RENEW_FROM_DAY * SECONDS_PER_DAY


def _needs_issue(
    path: Path, authority: Authority, key: Ed25519PrivateKey, now_s: float, hosts: Sequence[str]
) -> bool:
    if not path.exists():
        return True
    certificate = x509.load_pem_x509_certificate(path.read_bytes())
    if now_s >= renews_at_s(certificate) or not authority.stands(certificate, now_s):
        return True
    if certificate.public_key() != key.public_key():
        return True
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return not set(_alternative(hosts)) <= set(names)


# --- requests ------------------------------------------------------------------------------------


def make_request(key: Ed25519PrivateKey, name: SiteName) -> bytes:
    """A signing request (PKCS #10, PEM) for a site's name, which proves that its maker has the key."""
    agreement = agreement_key(key).public_key().public_bytes_raw()
    uri = x509.UniformResourceIdentifier(f"spiffe://{name.fleet}/site/{name.site}")
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name.site)]))
        .add_extension(x509.SubjectAlternativeName([uri]), critical=False)
        .add_extension(x509.UnrecognizedExtension(AGREEMENT_OID, agreement), critical=False)
        .sign(key, None)
        .public_bytes(Encoding.PEM)
    )


def read_request(pem: bytes) -> x509.CertificateSigningRequest:
    """Decode a signing request and check its signature.

    Raises:
        ConfigError: it is none, its key is of another kind, or it does not prove its key.
    """
    try:
        if len(pem) > _REQUEST_BYTES_MAX:
            raise ValueError(f"{len(pem)} bytes")
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
        public = request.public_key()
        _agreement_in(request)
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise ConfigError(
            "certificate request", got=f"unreadable ({error})", allowed="PKCS #10 in PEM"
        ) from None
    if not valid or not isinstance(public, Ed25519PublicKey):
        raise ConfigError(
            "certificate request", got="no proof of an Ed25519 key", allowed="one signed by its key"
        )
    return request


def name_in_request(request: x509.CertificateSigningRequest) -> SiteName | None:
    """The SPIFFE-form name that it asks for."""
    try:
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    parts = uris[0].removeprefix("spiffe://").split("/") if len(uris) == 1 else []
    return SiteName(parts[0], parts[2]) if len(parts) == 3 and parts[1] == "site" else None


def _agreement_in(request: x509.CertificateSigningRequest) -> bytes:
    found = request.extensions.get_extension_for_oid(AGREEMENT_OID).value
    assert isinstance(found, x509.UnrecognizedExtension)
    return X25519PublicKey.from_public_bytes(found.value).public_bytes_raw()


# --- certificates ---------------------------------------------------------------------------------


def key_digest(public: PublicKeyTypes) -> str:
    """Hex SHA-256 of a public key."""
    return sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def fingerprint(certificate: x509.Certificate) -> str:
    """Hex SHA-256 of a certificate's DER."""
    return sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def seat_name(site: str, generation: int) -> str:
    """The name of one generation of a site's identity: a DNS name in its certificate, and its user at the hub's bus."""
    return f"{site}.{generation}.hanse"


def seat_of(certificate: x509.Certificate) -> str:
    """The seat name in a site certificate; empty where it has none."""
    site = name_of(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    for name in names.get_values_for_type(x509.DNSName):
        if site is not None and name.startswith(f"{site.site}.") and name.count(".") == 2:
            return name
    return ""


def _authority_certificate(key: Ed25519PrivateKey, fleet: str, now_s: float) -> x509.Certificate:
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


def _site_certificate(
    authority: x509.Certificate,
    authority_key: Ed25519PrivateKey,
    public: Ed25519PublicKey,
    agreement: bytes,
    name: SiteName,
    generation: int,
    now_s: float,
    hosts: Iterable[str] = (),
) -> x509.Certificate:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name.site)])
    own: list[x509.GeneralName] = [
        x509.UniformResourceIdentifier(f"spiffe://{name.fleet}/site/{name.site}"),
        x509.DNSName(host_name(name.site)),
        x509.DNSName(seat_name(name.site, generation)),
        x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
    ]
    names = x509.SubjectAlternativeName(
        own + [one for one in _alternative(hosts) if one not in own]
    )
    roles = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    signer = authority_key.public_key()
    return (
        _builder(subject, authority.subject, public, signer, now_s, CERTIFICATE_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(roles), critical=False)
        .add_extension(names, critical=False)
        .add_extension(x509.UnrecognizedExtension(AGREEMENT_OID, agreement), critical=False)
        .sign(authority_key, None)
    )


def _alternative(hosts: Iterable[str]) -> list[x509.GeneralName]:
    """Addresses as IP addresses, all else as DNS names; an address to listen on everywhere names nobody."""
    found: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            if host.isascii():
                found.append(x509.DNSName(host))
        else:
            if not address.is_unspecified:
                found.append(x509.IPAddress(address))
    return found


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: Ed25519PublicKey,
    signer: Ed25519PublicKey,
    now_s: float,
    life_days: int,
) -> x509.CertificateBuilder:
    start = _instant(now_s - BACKDATE_S)
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


def _instant(at_s: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(int(at_s), datetime.UTC)


# --- files ---------------------------------------------------------------------------------------


def write_file(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Write by rename, so that a reader sees the old file or the whole new one."""
    private_folder(path.parent)
    draft = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600 if secret else 0o644)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    os.replace(draft, path)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """One process at a time writes what is in a directory."""
    private_folder(directory)
    fd = os.open(directory / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """A private key as it lies on disk."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
