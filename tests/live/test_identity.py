"""Certificates, mutual TLS between sites, and the envelope of a hop."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import time
from pathlib import Path

import msgspec
import pytest
import uvloop
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.errors import ConfigError
from hanse.live.ca import CERTIFICATE_DAYS, ensure_identity
from hanse.live.identity import (
    CLOCK_SKEW_S_MAX,
    Envelope,
    EnvelopeRefused,
    HopSession,
    Identity,
    ReplayGuard,
    SiteName,
    certificate_flaw,
    client_context,
    host_name,
    load_identity,
    name_of,
    open_envelope,
    peer_session,
    seal_envelope,
    server_context,
    session_with,
)

DAY_S = 86_400.0
NOW_S = 20_833 * DAY_S + 43_200  # noon


@pytest.fixture(scope="module")
def state_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def tallinn(state_dir: Path) -> Identity:
    return ensure_identity(state_dir, "league", "tallinn", NOW_S)


@pytest.fixture(scope="module")
def riga(state_dir: Path) -> Identity:
    return ensure_identity(state_dir, "league", "riga", NOW_S)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    """Same fleet name, same site name, another authority."""
    return ensure_identity(tmp_path_factory.mktemp("other"), "league", "tallinn", NOW_S)


# --- identities


def test_certificate_names_the_site_as_uri_host_and_loopback(tallinn: Identity) -> None:
    assert name_of(tallinn.certificate) == SiteName("league", "tallinn")
    kind = x509.SubjectAlternativeName
    names = tallinn.certificate.extensions.get_extension_for_class(kind).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == [
        "spiffe://league/site/tallinn"
    ]
    assert names.get_values_for_type(x509.DNSName) == ["tallinn.hanse", "tallinn.1.hanse"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    life = tallinn.certificate.not_valid_after_utc - tallinn.certificate.not_valid_before_utc
    assert life.days == CERTIFICATE_DAYS


def test_private_keys_are_readable_by_their_owner_only(state_dir: Path, tallinn: Identity) -> None:
    for path in (tallinn.key_path, state_dir / "ca" / "ca.key"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_second_call_loads_what_the_first_made(state_dir: Path, tallinn: Identity) -> None:
    again = ensure_identity(state_dir, "league", "tallinn", NOW_S + 9.9 * DAY_S)
    assert again.certificate == tallinn.certificate


def test_certificate_is_renewed_before_it_ends_and_keeps_its_key(tmp_path: Path) -> None:
    first = ensure_identity(tmp_path, "league", "oslo", NOW_S)
    renewed = ensure_identity(tmp_path, "league", "oslo", NOW_S + 10.1 * DAY_S)
    assert renewed.certificate != first.certificate
    assert renewed.certificate.public_key() == first.certificate.public_key()
    assert renewed.authority == first.authority
    expired = ensure_identity(tmp_path, "league", "oslo", NOW_S + 90 * DAY_S)
    assert certificate_flaw(expired.certificate, expired.authority, NOW_S + 90 * DAY_S) is None


def test_site_machine_without_authority_key_runs_until_its_certificate_ends(
    tmp_path: Path,
) -> None:
    ensure_identity(tmp_path / "center", "league", "oslo", NOW_S)
    place = Path("sites") / "oslo" / "identity"
    shutil.copytree(tmp_path / "center" / place, tmp_path / "edge" / place)
    late_s = NOW_S + 29 * DAY_S
    assert ensure_identity(tmp_path / "edge", "league", "oslo", late_s).site == "oslo"
    with pytest.raises(ConfigError, match="not valid at"):
        ensure_identity(tmp_path / "edge", "league", "oslo", NOW_S + 31 * DAY_S)
    assert not (tmp_path / "edge" / "ca" / "ca.key").exists()


def test_identity_of_another_site_or_key_is_refused(tmp_path: Path) -> None:
    oslo = ensure_identity(tmp_path, "league", "oslo", NOW_S)
    bergen = ensure_identity(tmp_path, "league", "bergen", NOW_S)
    home = oslo.certificate_path.parent
    with pytest.raises(ConfigError, match="site bergen"):
        load_identity(home, "league", "bergen", NOW_S)
    shutil.copy(bergen.key_path, oslo.key_path)
    with pytest.raises(ConfigError, match="another key"):
        load_identity(home, "league", "oslo", NOW_S)
    with pytest.raises(ConfigError, match="no file"):
        load_identity(tmp_path / "nowhere", "league", "oslo", NOW_S)


def test_certificate_flaws_are_named(tallinn: Identity, stranger: Identity) -> None:
    own, authority = tallinn.certificate, tallinn.authority
    assert certificate_flaw(own, authority, NOW_S) is None
    assert "not signed" in str(certificate_flaw(own, stranger.authority, NOW_S))
    assert "not valid at" in str(certificate_flaw(own, authority, NOW_S + 31 * DAY_S))
    assert "not valid at" in str(certificate_flaw(own, authority, NOW_S - DAY_S))
    assert certificate_flaw(authority, authority, NOW_S) == "no site name in it"
    assert certificate_flaw(authority, own, NOW_S) is not None


# --- TLS


async def greet(server: Identity, context: ssl.SSLContext, dialled: str) -> tuple[object, object]:
    """Connect once; the sessions of both ends, or whatever refused the handshake."""
    seen: asyncio.Future[HopSession | None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        seen.set_result(peer_session(server, tls, dialled=False))
        writer.write(b"x")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context(server))
    port = listener.sockets[0].getsockname()[1]
    try:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname=host_name(dialled)
        )
        # In TLS 1.3 the server's refusal comes after the client's handshake is done: as an alert or just the end.
        if await reader.read() != b"x":
            assert not seen.done()
            raise ConnectionResetError("the server hung up")
        tls = writer.get_extra_info("ssl_object")
        assert tls.version() == "TLSv1.3"
        writer.close()
        return tls, await seen
    finally:
        listener.close()


@pytest.fixture
def now_real(tmp_path: Path) -> tuple[Identity, Identity]:
    """TLS asks the machine's own clock, so these certificates are of now."""
    made = [ensure_identity(tmp_path, "league", site, time.time()) for site in ("oslo", "bergen")]
    return made[0], made[1]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_sites_meet_over_mutual_tls_and_share_a_session(
    now_real: tuple[Identity, Identity], run: object
) -> None:
    oslo, bergen = now_real
    tls, served = run(greet(bergen, client_context(oslo), "bergen"))  # type: ignore[operator]
    dialled = peer_session(oslo, tls, dialled=True)
    assert isinstance(served, HopSession)
    assert dialled is not None
    for session in (dialled, served):
        assert (session.entry_site, session.serving_site) == ("oslo", "bergen")
    assert dialled.mac_key(7) == served.mac_key(7)


def test_tls_refuses_wrong_names_other_authorities_and_no_certificate(
    now_real: tuple[Identity, Identity], tmp_path: Path
) -> None:
    oslo, bergen = now_real
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(greet(bergen, client_context(oslo), "riga"))
    other = ensure_identity(tmp_path / "other", "league", "oslo", time.time())
    with pytest.raises(ssl.SSLCertVerificationError):
        asyncio.run(greet(bergen, client_context(other), "bergen"))
    trusting = client_context(other)
    trusting.load_verify_locations(bergen.authority_path)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(greet(bergen, trusting, "bergen"))
    anonymous = ssl.create_default_context(cafile=str(bergen.authority_path))
    with pytest.raises((ssl.SSLError, ConnectionError)):
        asyncio.run(greet(bergen, anonymous, "bergen"))


# --- envelopes


def sessions(entry: Identity, serving: Identity) -> tuple[HopSession, HopSession]:
    sending = session_with(entry, serving.certificate_der(), dialled=True)
    opening = session_with(serving, entry.certificate_der(), dialled=False)
    assert sending is not None
    assert opening is not None
    return sending, opening


def envelope(**changes: object) -> Envelope:
    fields = {
        "request_id": bytes(range(16)),
        "attempt": 1,
        "entry_site": "tallinn",
        "tenant": "clinic",
        "data_class": "health",
        "country": "EE",
        "subject_row": 3,
        "service": "chat",
        "variant": "q8",
        "epoch": 4,
        "table_version": 9,
        "budget_ms": 59_000.0,
        "sent_at_s": NOW_S,
        "body_bytes": 512,
    }
    return Envelope(**(fields | changes))


def reason(opened: Envelope | EnvelopeRefused) -> str:
    return opened.reason if isinstance(opened, EnvelopeRefused) else "opened"


@given(
    sent=st.builds(
        envelope,
        request_id=st.binary(min_size=16, max_size=16),
        attempt=st.integers(1, 9),
        tenant=st.text(max_size=40),
        country=st.sampled_from(["EE", "US"]),
        budget_ms=st.floats(0.1, 1e6),
        sent_at_s=st.floats(NOW_S - CLOCK_SKEW_S_MAX, NOW_S + CLOCK_SKEW_S_MAX),
        body_bytes=st.integers(0, 2**40),
    )
)
def test_opened_envelope_is_the_sealed_one(
    tallinn: Identity, riga: Identity, sent: Envelope
) -> None:
    sending, opening = sessions(tallinn, riga)
    token = seal_envelope(sending, sent)
    assert token.isascii() and b"=" not in token and b"\n" not in token
    assert open_envelope(opening, token, NOW_S, ReplayGuard()) == sent


@settings(max_examples=effort(300))
@given(data=st.data())
def test_any_altered_byte_of_an_envelope_is_refused(
    tallinn: Identity, riga: Identity, data: st.DataObject
) -> None:
    sending, opening = sessions(tallinn, riga)
    token = seal_envelope(sending, envelope())
    at = data.draw(st.integers(0, len(token) - 1))
    changed = token[:at] + bytes([token[at] ^ data.draw(st.integers(1, 255))]) + token[at + 1 :]
    opened = open_envelope(opening, changed, NOW_S, ReplayGuard())
    # The last character of base64 may carry unused bits: then it is the same message.
    assert isinstance(opened, EnvelopeRefused) or (at == len(token) - 1 and opened == envelope())


@pytest.mark.parametrize(("ours", "others"), [(b"-", b"+"), (b"_", b"/")])
def test_the_other_alphabet_of_base64_is_refused(
    tallinn: Identity, riga: Identity, ours: bytes, others: bytes
) -> None:
    sending, opening = sessions(tallinn, riga)
    sealed = (seal_envelope(sending, envelope(request_id=bytes([k] * 16))) for k in range(256))
    token = next(t for t in sealed if ours in t)
    changed = token.replace(ours, others, 1)
    assert isinstance(open_envelope(opening, changed, NOW_S, ReplayGuard()), EnvelopeRefused)
    assert not isinstance(open_envelope(opening, token, NOW_S, ReplayGuard()), EnvelopeRefused)


@given(token=st.binary(max_size=300))
def test_garbage_is_a_refusal_not_an_exception(
    tallinn: Identity, riga: Identity, token: bytes
) -> None:
    _, opening = sessions(tallinn, riga)
    assert isinstance(open_envelope(opening, token, NOW_S, ReplayGuard()), EnvelopeRefused)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"entry_site": "oslo"}, "entry_site"),
        ({"hop": 2}, "hop"),
        ({"hop": 0}, "hop"),
        ({"budget_ms": 0.0}, "deadline"),
        ({"budget_ms": float("nan")}, "deadline"),
        ({"sent_at_s": NOW_S - CLOCK_SKEW_S_MAX - 1}, "clock"),
        ({"sent_at_s": NOW_S + CLOCK_SKEW_S_MAX + 1}, "clock"),
        ({"sent_at_s": NOW_S + 2 * DAY_S}, "key_day"),
        ({"tenant": "x" * 4096}, "malformed"),
    ],
)
def test_envelope_that_says_the_wrong_thing_is_refused(
    tallinn: Identity, riga: Identity, changes: dict[str, object], expected: str
) -> None:
    sending, opening = sessions(tallinn, riga)
    token = seal_envelope(sending, envelope(**changes))
    assert reason(open_envelope(opening, token, NOW_S, ReplayGuard())) == expected


def test_envelope_opens_across_midnight(tallinn: Identity, riga: Identity) -> None:
    sending, opening = sessions(tallinn, riga)
    midnight_s = 20_834 * DAY_S
    token = seal_envelope(sending, envelope(sent_at_s=midnight_s - 1))
    assert reason(open_envelope(opening, token, midnight_s + 1, ReplayGuard())) == "opened"


def test_envelope_for_one_site_or_direction_opens_at_no_other(
    tallinn: Identity, riga: Identity, state_dir: Path, stranger: Identity
) -> None:
    oslo = ensure_identity(state_dir, "league", "oslo", NOW_S)
    token = seal_envelope(sessions(tallinn, riga)[0], envelope())
    for entry, serving in ((tallinn, oslo), (oslo, riga), (riga, tallinn), (stranger, riga)):
        _, opening = sessions(entry, serving)
        assert reason(open_envelope(opening, token, NOW_S, ReplayGuard())) == "mac"


def test_no_session_with_oneself_or_another_fleet(tallinn: Identity, tmp_path: Path) -> None:
    other = ensure_identity(tmp_path, "rhine", "riga", NOW_S)
    assert session_with(tallinn, tallinn.certificate_der(), dialled=True) is None
    assert session_with(tallinn, other.certificate_der(), dialled=True) is None


# --- replays


def test_replay_is_refused_and_a_retry_is_none(tallinn: Identity, riga: Identity) -> None:
    sending, opening = sessions(tallinn, riga)
    guard = ReplayGuard()
    token = seal_envelope(sending, envelope())
    retry = seal_envelope(sending, envelope(attempt=2))
    opened = [reason(open_envelope(opening, t, NOW_S, guard)) for t in (token, retry, token)]
    assert opened == ["opened", "opened", "replay"]


@given(
    pauses_s=st.lists(st.floats(0, 100), min_size=1, max_size=40),
    sent_at_s=st.floats(-CLOCK_SKEW_S_MAX, CLOCK_SKEW_S_MAX),
)
def test_no_envelope_is_opened_twice_while_its_clock_allows_it(
    tallinn: Identity, riga: Identity, pauses_s: list[float], sent_at_s: float
) -> None:
    """The same envelope again and again, with other traffic between: the first time only."""
    sending, opening = sessions(tallinn, riga)
    guard = ReplayGuard()
    token = seal_envelope(sending, envelope(sent_at_s=NOW_S + sent_at_s))
    assert reason(open_envelope(opening, token, NOW_S, guard)) == "opened"
    now_s = NOW_S
    for number, pause_s in enumerate(pauses_s):
        now_s += pause_s
        other = envelope(request_id=number.to_bytes(16, "little"), sent_at_s=now_s)
        assert reason(open_envelope(opening, seal_envelope(sending, other), now_s, guard)) in (
            "opened",
            "replay",
        )
        assert reason(open_envelope(opening, token, now_s, guard)) in ("replay", "clock")


def test_full_memory_refuses_rather_than_forgets(tallinn: Identity, riga: Identity) -> None:
    guard = ReplayGuard(ids_max=3)
    for number in range(3):
        assert guard.admit(envelope(request_id=number.to_bytes(16, "big")), NOW_S) is None
    other = envelope(request_id=b"x" * 16)
    assert guard.admit(other, NOW_S) == "busy"
    assert guard.admit(other, NOW_S + 4 * CLOCK_SKEW_S_MAX + 1) is None


def test_envelope_has_no_unknown_fields(tallinn: Identity, riga: Identity) -> None:
    raw = msgspec.msgpack.decode(msgspec.msgpack.encode(envelope()))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode([*raw, 1]), type=Envelope)
