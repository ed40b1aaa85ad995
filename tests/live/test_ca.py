"""The authority: keys that stay where they are, renewal from day 10, revocation that a site checks for itself."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError
from hanse.live.ca import (
    CERTIFICATE_DAYS,
    RENEW_FROM_DAY,
    Authority,
    ensure_identity,
    ensure_key,
    make_request,
    open_authority,
    read_request,
    renews_at_s,
    seat_name,
    seat_of,
    seats,
)
from hanse.live.identity import (
    AGREEMENT_OID,
    SiteName,
    agreement_key,
    certificate_flaw,
    load_identity,
    name_of,
)
from hanse.live.register import told_register
from hanse.live.revoked import REVOKED, Revoked, RevokedFile, read_list

DAY_S = 86_400.0
NOW_S = 20_833 * DAY_S
LYON = SiteName("league", "lyon")


def authority(home: Path) -> Authority:
    made = open_authority(home / "ca", "league", NOW_S, make=True)
    assert made is not None
    return made


def test_a_request_proves_its_key_and_carries_no_secret(tmp_path: Path) -> None:
    key = ensure_key(tmp_path / "there")
    pem = make_request(key, LYON)
    assert key.private_bytes_raw() not in read_request(pem).public_bytes(Encoding.DER)
    made = authority(tmp_path).answer(pem, "lyon", NOW_S, ("lyon.example", "10.0.0.2", "0.0.0.0"))
    assert certificate_flaw(made, authority(tmp_path).certificate, NOW_S) is None
    assert name_of(made) == LYON
    assert made.public_key() == key.public_key()
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["lyon.hanse", "lyon.1.hanse", "lyon.example"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == [
        "127.0.0.1",
        "10.0.0.2",
    ]
    agreed = made.extensions.get_extension_for_oid(AGREEMENT_OID).value
    assert isinstance(agreed, x509.UnrecognizedExtension)
    assert X25519PublicKey.from_public_bytes(agreed.value) == agreement_key(key).public_key()


def test_a_request_for_another_name_or_with_a_broken_proof_is_refused(tmp_path: Path) -> None:
    key, ca = ensure_key(tmp_path / "there"), authority(tmp_path)
    for name in (SiteName("league", "paris"), SiteName("other", "lyon")):
        with pytest.raises(ConfigError):
            ca.answer(make_request(key, name), "lyon", NOW_S)
    der = bytearray(x509.load_pem_x509_csr(make_request(key, LYON)).public_bytes(Encoding.DER))
    der[-1] ^= 1
    mixed = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    for pem in (b"", b"nothing", mixed, b"x" * 20_000):
        with pytest.raises(ConfigError):
            ca.answer(pem, "lyon", NOW_S)


def test_certificates_are_of_the_kind_that_the_bus_reads(tmp_path: Path) -> None:
    """Every number of an object identifier fits into 31 bits: Go's parser, and so NATS, refuses larger ones."""
    identity = ensure_identity(tmp_path, "league", "lyon", time.time())
    for extension in identity.certificate.extensions:
        assert all(int(arc) < 2**31 for arc in extension.oid.dotted_string.split("."))


@settings(max_examples=effort(60), deadline=None)
@given(
    cuts=st.lists(st.tuples(st.floats(0.0, 25.0), st.floats(0.0, 7.0)), min_size=1, max_size=12),
    every_h=st.floats(0.5, 24.0),
)
def test_an_identity_outlives_any_cuts_of_seven_days(
    cuts: list[tuple[float, float]], every_h: float
) -> None:
    """Days of contact and cuts of up to a week in turns, for up to a year: at no instant is the site without a certificate.

    The clock moves, the decisions are the program's own: when to renew, and what it is answered.
    """
    home = Path(tempfile.mkdtemp())
    key, ca = Ed25519PrivateKey.generate(), authority(home)
    own = ca.answer(make_request(key, LYON), "lyon", NOW_S)
    now_s, serials = NOW_S, {own.serial_number}
    for together_d, apart_d in cuts:
        until_s = now_s + together_d * DAY_S
        while now_s < until_s:
            assert certificate_flaw(own, ca.certificate, now_s) is None
            if now_s >= renews_at_s(own):
                own = ca.answer(make_request(key, LYON), "lyon", now_s)
                serials.add(own.serial_number)
            now_s = min(until_s, now_s + every_h * 3600)
        now_s = until_s + apart_d * DAY_S
        assert certificate_flaw(own, ca.certificate, now_s) is None, "after a week alone"
    lived_d = (now_s - NOW_S) / DAY_S
    assert len(serials) <= 1 + lived_d / RENEW_FROM_DAY + 1, (
        "and none is made more often than needed"
    )


def test_it_renews_from_day_ten_and_not_before(tmp_path: Path) -> None:
    ca, key = authority(tmp_path), ensure_key(tmp_path / "there")
    own = ca.answer(make_request(key, LYON), "lyon", NOW_S)
    assert renews_at_s(own) == pytest.approx(NOW_S + 10 * DAY_S, abs=1)
    assert CERTIFICATE_DAYS - RENEW_FROM_DAY >= 7


def test_revoking_ends_a_generation_and_every_site_can_check_it(tmp_path: Path) -> None:
    ca, key = authority(tmp_path), ensure_key(tmp_path / "there")
    first = ca.answer(make_request(key, LYON), "lyon", NOW_S)
    second = ca.answer(make_request(key, LYON), "lyon", NOW_S + 10 * DAY_S)
    paris = ca.answer(
        make_request(ensure_key(tmp_path / "p"), SiteName("league", "paris")), "paris", NOW_S
    )
    assert seat_of(first) == seat_name("lyon", 1) == seats(tmp_path / "ca", ["lyon"])["lyon"]
    assert ca.revoke("lyon", NOW_S + 11 * DAY_S) == 2
    assert not ca.stands(second, NOW_S + 11 * DAY_S)
    assert ca.stands(paris, NOW_S + 11 * DAY_S)
    found = read_list(ca.list_path.read_bytes(), ca.certificate)
    assert found is not None
    assert found.serials == {first.serial_number, second.serial_number}
    again = ca.answer(make_request(key, LYON), "lyon", NOW_S + 12 * DAY_S)
    assert seat_of(again) == seat_name("lyon", 2) == seats(tmp_path / "ca", ["lyon"])["lyon"]
    assert ca.stands(again, NOW_S + 12 * DAY_S)
    assert ca.revoke("nobody", NOW_S) == 0


def test_a_revoked_site_is_not_renewed_by_a_question_that_was_on_its_way(tmp_path: Path) -> None:
    ca, key = authority(tmp_path), ensure_key(tmp_path / "there")
    ca.answer(make_request(key, LYON), "lyon", NOW_S)
    assert ca.stands(ca.renew(make_request(key, LYON), "lyon", NOW_S), NOW_S)
    ca.revoke("lyon", NOW_S)
    for asks in (key, Ed25519PrivateKey.generate()):
        with pytest.raises(ConfigError, match="revoked"):
            ca.renew(make_request(asks, LYON), "lyon", NOW_S)
    other = Ed25519PrivateKey.generate()
    ca.answer(make_request(other, LYON), "lyon", NOW_S)
    assert ca.stands(ca.renew(make_request(other, LYON), "lyon", NOW_S), NOW_S)
    with pytest.raises(ConfigError, match="revoked"):
        ca.renew(make_request(key, LYON), "lyon", NOW_S)
    ca.answer(make_request(key, LYON), "lyon", NOW_S)
    assert ca.stands(ca.renew(make_request(key, LYON), "lyon", NOW_S), NOW_S), "let in again"


def test_a_site_is_renewed_by_a_register_that_says_nothing_of_it_or_of_its_key(
    tmp_path: Path,
) -> None:
    ca, key = authority(tmp_path), ensure_key(tmp_path / "there")
    assert ca.stands(ca.renew(make_request(key, LYON), "lyon", NOW_S), NOW_S), "an older backup"
    path = tmp_path / "ca" / "issued.json"
    before = msgspec.json.decode(path.read_bytes())
    for one in before["issued"].values():
        del one["key_sha256"]
    path.write_bytes(msgspec.json.encode(before))
    assert ca.stands(ca.renew(make_request(key, LYON), "lyon", NOW_S), NOW_S), "an older version"
    ca.revoke("lyon", NOW_S)
    with pytest.raises(ConfigError, match="revoked"):
        ca.renew(make_request(key, LYON), "lyon", NOW_S)


def test_other_hubs_are_told_the_register_as_the_version_before_reads_it(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    ca.answer(make_request(ensure_key(tmp_path / "there"), LYON), "lyon", NOW_S)
    told = msgspec.json.decode(told_register(tmp_path / "ca"))
    (one,) = told["issued"].values()
    assert set(one) == {"site", "generation", "issued_at_s", "expires_at_s"}
    assert told_register(tmp_path / "none") == b""


def test_a_list_of_another_hand_or_a_lower_number_is_refused(tmp_path: Path) -> None:
    ca, other = authority(tmp_path), authority(tmp_path / "other")
    for one in (ca, other):
        one.answer(make_request(ensure_key(tmp_path / "there"), LYON), "lyon", NOW_S)
        one.revoke("lyon", NOW_S)
    first = ca.list_path.read_bytes()
    ca.answer(make_request(ensure_key(tmp_path / "there"), LYON), "lyon", NOW_S)
    ca.revoke("lyon", NOW_S)
    second = ca.list_path.read_bytes()
    home = tmp_path / "identity"
    home.mkdir()
    kept = RevokedFile(home, ca.certificate)
    assert kept.revoked == Revoked()
    forged = other.list_path.read_bytes()
    assert not kept.accept(forged)
    assert not kept.accept(b"noise")
    assert kept.accept(second)
    assert not kept.accept(first), "an older list brings nobody back"
    reader = RevokedFile(home, ca.certificate)
    assert reader.revoked == kept.revoked, "also after a restart while cut off"
    (home / REVOKED).write_bytes(first)
    assert not reader.look()
    assert reader.revoked == kept.revoked


def test_a_hub_restored_from_a_backup_revokes_on_and_lifts_nothing(tmp_path: Path) -> None:
    ca, key = authority(tmp_path), ensure_key(tmp_path / "there")
    register = tmp_path / "ca" / "issued.json"

    def revoked(site: str, now_s: float) -> tuple[int, bytes]:
        made = ca.answer(make_request(key, SiteName("league", site)), site, now_s)
        assert ca.revoke(site, now_s) == 1
        return made.serial_number, ca.list_path.read_bytes()

    first, _ = revoked("lyon", NOW_S)
    backup = register.read_bytes()
    second, _ = revoked("paris", NOW_S + 10)
    third, before = revoked("oslo", NOW_S + 11)
    register.write_bytes(backup)
    fourth, after = revoked("rome", NOW_S + 20)
    home = tmp_path / "identity"
    home.mkdir()
    kept = RevokedFile(home, ca.certificate)
    looks = RevokedFile(home, ca.certificate)
    assert kept.accept(before)
    assert kept.accept(after), "the restored hub is heard"
    for one in (kept, looks, RevokedFile(home, ca.certificate)):
        one.look()
        assert one.revoked.serials == {first, second, third, fourth}
    register.write_bytes(backup)
    fifth, again = revoked("bern", NOW_S + 30)
    assert kept.accept(again)
    looks.look()
    for one in (kept, looks, RevokedFile(home, ca.certificate)):
        assert one.revoked.serials == {first, second, third, fourth, fifth}
    assert len(list(home.iterdir())) == 3
    sixth, late = revoked("kiel", NOW_S + 40 * DAY_S)
    assert kept.accept(late)
    assert RevokedFile(home, ca.certificate).revoked.serials == kept.revoked.serials == {sixth}
    assert [path.name for path in home.iterdir()] == [REVOKED], "what has expired goes"


@given(data=st.binary(max_size=400))
def test_noise_is_no_list(data: bytes) -> None:
    assert read_list(data, _CERTIFICATE) is None


def test_expired_certificates_leave_register_and_list(tmp_path: Path) -> None:
    ca, key = authority(tmp_path), ensure_key(tmp_path / "there")
    ca.answer(make_request(key, LYON), "lyon", NOW_S)
    ca.revoke("lyon", NOW_S)
    ca.answer(make_request(key, LYON), "lyon", NOW_S + 40 * DAY_S)
    register = msgspec.json.decode((tmp_path / "ca" / "issued.json").read_bytes())
    assert len(register["issued"]) == 1
    ca.revoke("lyon", NOW_S + 40 * DAY_S)
    found = read_list(ca.list_path.read_bytes(), ca.certificate)
    assert found is not None
    assert (found.number, len(found.serials)) == (int(NOW_S + 40 * DAY_S), 1)


def test_a_local_site_gets_another_certificate_when_its_address_changes(tmp_path: Path) -> None:
    first = ensure_identity(tmp_path, "league", "lyon", NOW_S, hosts=("10.0.0.1",))
    same = ensure_identity(tmp_path, "league", "lyon", NOW_S, hosts=("10.0.0.1",))
    moved = ensure_identity(tmp_path, "league", "lyon", NOW_S, hosts=("10.0.0.9",))
    assert first.certificate == same.certificate != moved.certificate
    assert load_identity(tmp_path / "sites/lyon/identity", "league", "lyon", NOW_S).site == "lyon"


_CERTIFICATE = authority(Path(tempfile.mkdtemp())).certificate
