"""Evidence of what was decided and executed where: chains, seals, receipts, audits.

Here: the names other parts use. Not here: identities and certificates (`live.identity`).
"""

from hanse.live.evidence.audit import AuditReport, Finding, Witness, audit
from hanse.live.evidence.chain import ChainWriter, Decided, Ended, Executed, Opened, Record
from hanse.live.evidence.judge import LawCheck, Subject
from hanse.live.evidence.receipt import (
    Missing,
    ReceiptBook,
    SitePart,
    Verdict,
    decode_part,
    encode_part,
    make_receipt,
    verify_receipt,
)
from hanse.live.evidence.seal import Sealed, Sealer
from hanse.live.evidence.shipping import ChainShipper, EvidenceCopy, Received

__all__ = [
    "AuditReport",
    "ChainShipper",
    "ChainWriter",
    "Decided",
    "Ended",
    "EvidenceCopy",
    "Executed",
    "Finding",
    "LawCheck",
    "Missing",
    "Opened",
    "ReceiptBook",
    "Received",
    "Record",
    "Sealed",
    "Sealer",
    "SitePart",
    "Subject",
    "Verdict",
    "Witness",
    "audit",
    "decode_part",
    "encode_part",
    "make_receipt",
    "verify_receipt",
]
