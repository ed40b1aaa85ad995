"""What evidence costs: microseconds of CPU per append, hop envelope, seal, receipt, verification and audited record.

Run: `python benchmarks/evidence.py [--seconds S]`. CPU time of this process, best of three, so that a busy machine disturbs little.
Writes under a temporary directory on the disk that holds TMPDIR; nothing waits for the disk (`durable=False`) except where said.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from hanse.live.ca import ensure_identity
from hanse.live.evidence import (
    ChainWriter,
    Decided,
    Ended,
    Executed,
    Opened,
    ReceiptBook,
    Sealer,
    SitePart,
    audit,
    make_receipt,
    verify_receipt,
)
from hanse.live.identity import (
    Envelope,
    Identity,
    ReplayGuard,
    open_envelope,
    seal_envelope,
    session_with,
)

REQUESTS_PER_S = 1000
"""One busy worker: what a seal covers."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="seconds of log to write and audit")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as name:
        state_dir = Path(name)
        now_s = time.time()
        oslo = ensure_identity(state_dir, "bench", "oslo", now_s)
        bergen = ensure_identity(state_dir, "bench", "bergen", now_s)
        envelopes(oslo, bergen, now_s)
        appends(state_dir / "appends", now_s)
        log(state_dir, oslo, now_s, seconds)


def say(what: str, us: float, note: str = "") -> None:
    print(f"{what:<44} {us:10.2f} us  {note}")


def best_us(call: Callable[[], object], count: int) -> float:
    """CPU microseconds per unit where one call does `count` units; best of three."""
    took = []
    for _ in range(3):
        start = time.process_time()
        call()
        took.append((time.process_time() - start) / count * 1e6)
    return min(took)


def envelopes(entry: Identity, serving: Identity, now_s: float) -> None:
    sending = session_with(entry, serving.certificate_der(), dialled=True)
    opening = session_with(serving, entry.certificate_der(), dialled=False)
    assert sending is not None and opening is not None
    count = 20_000
    made = [
        Envelope(
            request_id=number.to_bytes(16, "big"),
            attempt=1,
            entry_site="oslo",
            tenant="clinic",
            data_class="health",
            country="NO",
            subject_row=3,
            service="chat",
            variant="q8",
            epoch=1,
            table_version=1,
            budget_ms=59_000.0,
            sent_at_s=now_s,
            body_bytes=512,
        )
        for number in range(count)
    ]
    tokens = [seal_envelope(sending, envelope) for envelope in made]
    say("seal_envelope", best_us(lambda: [seal_envelope(sending, e) for e in made], count))

    def open_all() -> None:
        guard = ReplayGuard()
        for token in tokens:
            assert isinstance(open_envelope(opening, token, now_s, guard), Envelope)

    note = f"{len(tokens[0])} bytes"
    say("open_envelope, with replay memory", best_us(open_all, count), note)
    say(
        "session_with, per connection",
        best_us(
            lambda: [
                session_with(entry, serving.certificate_der(), dialled=True) for _ in range(100)
            ],
            100,
        ),
    )


def story(number: int, at_s: float) -> tuple[Decided, Executed, Ended]:
    """The records of a request served where it entered."""
    request_id = (number * 0x9E37_79B9_7F4A_7C15_F39C_0CC2_12A5_8D31 % 2**128).to_bytes(16, "big")
    return (
        Decided(
            request_id=request_id,
            at_s=at_s,
            attempt=1,
            key_id="clinic-1",
            tenant="clinic",
            data_class="health",
            country="NO",
            subject_row=3,
            service="chat",
            entry_site="oslo",
            site="oslo",
            variant="q8",
            table_version=1,
            epoch=1,
            ttft_ms_predicted=41.5,
            e2e_ms_predicted=420.25,
            energy_wh_predicted=0.011,
            carbon_g_predicted=0.0031,
            cost_usd_predicted=0.00012,
        ),
        Executed(
            request_id=request_id,
            at_s=at_s,
            attempt=1,
            tenant="clinic",
            data_class="health",
            country="NO",
            subject_row=3,
            entry_site="oslo",
            site="oslo",
            engine="llm-0",
            variant="q8",
            allowed=True,
            table_version=1,
        ),
        Ended(
            request_id=request_id,
            at_s=at_s,
            role="entry",
            outcome="answered",
            attempt=1,
            attempts=1,
            tokens_in=100,
            tokens_out=50,
            ttft_ms=40.0,
            e2e_ms=400.0,
            energy_wh=0.01,
            carbon_g=0.003,
            cost_usd=0.0001,
            method="modelled",
        ),
    )


def opened(boot: int, now_s: float) -> Opened:
    return Opened(
        at_s=now_s, site="oslo", worker=0, boot=f"{boot:08x}", software="bench", table_version=1
    )


def appends(directory: Path, now_s: float) -> None:
    writer = ChainWriter(directory, opened(1, now_s))
    records = [story(number, now_s)[0] for number in range(20_000)]
    say(
        "making one record value",
        best_us(lambda: [story(1, now_s) for _ in range(20_000)], 60_000),
    )
    say("ChainWriter.append", best_us(lambda: [writer.append(r) for r in records], len(records)))
    for batch in (4, 16):
        parts = [records[i : i + batch] for i in range(0, len(records), batch)]
        us = best_us(lambda parts=parts: [writer.append_many(p) for p in parts], len(records))  # type: ignore[misc]
        say(f"ChainWriter.append_many of {batch}, per record", us)
    writer.close()


def log(state_dir: Path, identity: Identity, now_s: float, seconds: int) -> None:
    directory = state_dir / "sites" / "oslo" / "evidence"
    sealer = Sealer(directory, identity, durable=False)
    writer = ChainWriter(directory, opened(2, now_s))
    took = []
    for second in range(seconds):
        at_s = now_s + second
        for number in range(REQUESTS_PER_S):
            writer.append_many(story(second * REQUESTS_PER_S + number, at_s))
        start = time.process_time()
        sealer.seal(at_s + 1)
        took.append((time.process_time() - start) * 1e6)
    records = REQUESTS_PER_S * 3
    us = sorted(took)[len(took) // 2]
    say(f"Sealer.seal of {records} records", us, f"{us / records:.2f} us a record")
    size = (directory / f"{writer.chain}.log").stat().st_size
    print(f"{'':<44} {size / writer.count:10.1f} bytes a record on disk")
    receipts(directory, state_dir, now_s, seconds)
    report = None

    def audit_all() -> None:
        nonlocal report
        report = audit(directory, (state_dir / "ca" / "ca.pem").read_bytes())

    us = best_us(audit_all, records * seconds)
    assert report is not None and report.exit_status == 0
    say("audit, per record", us, f"{report.proven} requests proven")
    writer.append(story(0, now_s)[0])
    sealer.close()
    durable = Sealer(directory, identity)
    start = time.perf_counter()
    durable.seal(now_s + seconds + 1)
    say("Sealer.seal, durable, wall clock", (time.perf_counter() - start) * 1e6, "one record")


def receipts(directory: Path, state_dir: Path, now_s: float, seconds: int) -> None:
    book = ReceiptBook(directory)
    request_id = story((seconds - 1) * REQUESTS_PER_S, now_s)[0].request_id
    part = book.part(request_id)
    assert isinstance(part, SitePart)
    say("ReceiptBook.part, whole log searched", best_us(lambda: book.part(request_id), 1))
    since_s = now_s + seconds - 1
    say(
        "ReceiptBook.part, since the request began",
        best_us(lambda: book.part(request_id, since_s=since_s), 1),
    )
    document = make_receipt(request_id, [part])
    authority_pem = (state_dir / "ca" / "ca.pem").read_bytes()
    assert verify_receipt(document, authority_pem).status == "proven"
    us = best_us(lambda: verify_receipt(document, authority_pem), 1)
    say("verify_receipt, local request", us, f"{len(document)} bytes")


if __name__ == "__main__":
    main()
