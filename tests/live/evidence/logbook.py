"""A small league that writes evidence: two sites, every kind of request, no clock but the caller's."""

from __future__ import annotations

from pathlib import Path

from hanse.live.ca import ensure_identity
from hanse.live.evidence import ChainWriter, Decided, Ended, Executed, Opened, ReceiptBook, Sealer
from hanse.live.evidence.receipt import SitePart, make_receipt
from hanse.live.identity import Identity

NOW_S = 1_800_000_000.0
SUBJECT = {"tenant": "clinic", "data_class": "health", "country": "EE", "subject_row": 3}


class Desk:
    """One site's writer, sealer and book."""

    def __init__(self, state_dir: Path, site: str, *, fleet: str = "league") -> None:
        self.site = site
        self.identity: Identity = ensure_identity(state_dir, fleet, site, NOW_S)
        self.directory = state_dir / "sites" / site / "evidence"
        self.sealer = Sealer(self.directory, self.identity, durable=False)
        self.book = ReceiptBook(self.directory)
        self.boots = 0
        self.writer = self.boot()

    def boot(self) -> ChainWriter:
        """A new worker process: a new chain."""
        self.boots += 1
        opened = Opened(
            at_s=NOW_S,
            site=self.site,
            worker=0,
            boot=f"{self.boots:08x}",
            software="1.0",
            table_version=1,
        )
        self.writer = ChainWriter(self.directory, opened)
        return self.writer

    def part(self, request: int) -> SitePart:
        part = self.book.part(request_id(request))
        assert isinstance(part, SitePart), part
        return part

    def close(self) -> None:
        self.writer.close()
        self.sealer.close()


class League:
    """Sites tallinn (entry) and riga (serving), and what a gateway would write for each request."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.tallinn = Desk(state_dir, "tallinn")
        self.riga = Desk(state_dir, "riga")
        self.desks = (self.tallinn, self.riga)
        self.authority_pem = (state_dir / "ca" / "ca.pem").read_bytes()
        self.now_s = NOW_S

    def seal(self) -> None:
        self.now_s += 1.0
        for desk in self.desks:
            desk.sealer.seal(self.now_s)

    def local(self, request: int) -> None:
        """Served where it entered."""
        self.tallinn.writer.append(self.decided(request, site="tallinn"))
        self.tallinn.writer.append(self.executed(request, site="tallinn"))
        self.tallinn.writer.append(self.ended(request, role="entry"))

    def forwarded(self, request: int) -> None:
        self.tallinn.writer.append(self.decided(request, site="riga"))
        self.riga.writer.append(self.executed(request, site="riga"))
        self.riga.writer.append(self.ended(request, role="serving"))
        self.tallinn.writer.append(self.ended(request, role="entry"))

    def retried(self, request: int) -> None:
        """Riga has no room, tallinn serves."""
        self.tallinn.writer.append(self.decided(request, site="riga"))
        self.riga.writer.append(self.executed(request, site="riga", engine="", refusal="room"))
        self.tallinn.writer.append(self.decided(request, site="tallinn", attempt=2))
        self.tallinn.writer.append(self.executed(request, site="tallinn", attempt=2))
        self.tallinn.writer.append(self.ended(request, role="entry", attempt=2, attempts=2))

    def refused(self, request: int) -> None:
        refusal = {"refusal": "no_eligible_site", "rules": ("gdpr-44", "health-host")}
        self.tallinn.writer.append(self.decided(request, site="", variant="", **refusal))

    def decided(self, request: int, **changes: object) -> Decided:
        fields = SUBJECT | {
            "request_id": request_id(request),
            "at_s": self.now_s,
            "attempt": 1,
            "key_id": "clinic-1",
            "service": "chat",
            "entry_site": "tallinn",
            "variant": "q8",
            "table_version": 1,
            "epoch": 1,
        }
        return Decided(**(fields | changes))

    def executed(self, request: int, **changes: object) -> Executed:
        fields = SUBJECT | {
            "request_id": request_id(request),
            "at_s": self.now_s + 0.01,
            "attempt": 1,
            "entry_site": "tallinn",
            "engine": "llm-0",
            "variant": "q8",
            "allowed": True,
            "table_version": 1,
        }
        return Executed(**(fields | changes))

    def ended(self, request: int, **changes: object) -> Ended:
        fields = {
            "request_id": request_id(request),
            "at_s": self.now_s + 0.5,
            "outcome": "answered",
            "attempt": 1,
            "attempts": 1,
            "tokens_in": 12,
            "tokens_out": 7,
            "ttft_ms": 40.0,
            "e2e_ms": 300.0,
            "energy_wh": 0.01,
            "carbon_g": 0.002,
            "cost_usd": 0.0001,
            "method": "modelled",
        }
        return Ended(**(fields | changes))

    def receipt(self, request: int, *desks: Desk) -> bytes:
        parts = [desk.part(request) for desk in desks]
        return make_receipt(request_id(request), parts)

    def close(self) -> None:
        for desk in self.desks:
            desk.close()


def request_id(request: int) -> bytes:
    """Looks random, as real ids do, so that a search for one finds no other."""
    return (0x9E37_79B9_7F4A_7C15_F39C_0CC2_12A5_8D31 * (request + 1) % 2**128).to_bytes(16, "big")
