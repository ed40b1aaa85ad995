"""A statement as files: JSON signed by the hub, CSV, one HTML page, the list behind its root; and checking them again.

Here: writing and `check_statement`, `receipt_flaw`. Not here: what a statement says (`statement`).

The signature covers `hanse-statement/1` NUL and the JSON of the signed part as this program writes it: reading a document and
writing it again gives the same bytes, whatever spaces lie between. The list has a line a request, id and leaf in hex, in the order
of the ids; the statement holds the Merkle root over it. So a tenant that keeps statement and list can check any single receipt
against both, and nobody can take a request out of a month or put one in afterwards.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Final, Literal, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hanse.errors import ConfigError
from hanse.live.evidence.chain import Decided, decode_record
from hanse.live.evidence.merkle import leaf_hash, root_of
from hanse.live.evidence.receipt import Receipt
from hanse.live.evidence.statement import Leaf, Place, Stated, Statement, request_leaf
from hanse.live.identity import Identity, certificate_flaw, name_of, read_certificate
from hanse.live.runtime import HUB, replace_file
from hanse.model.fleet import Id, Value
from hanse.model.told import UNREADABLE

_CONTEXT: Final = b"hanse-statement/1\x00"
LIST_SUFFIX: Final = ".receipts"
_HEX: Final = 2
_ID_HEX: Final = 16 * _HEX
_LEAF_HEX: Final = 32 * _HEX


class _Said(Value, frozen=True, kw_only=True):
    """The signed part."""

    signed_at_s: float
    statement: Statement


class Document(Value, frozen=True, kw_only=True):
    """The JSON file."""

    schema: Literal["hanse-signed-statement/1"] = "hanse-signed-statement/1"
    said: _Said
    certificate: bytes = b""
    """DER of the hub's; empty: made without the hub's key, and so unsigned."""
    signature: bytes = b""


class Checked(NamedTuple):
    """A statement that was read again."""

    statement: Statement
    flaws: tuple[str, ...]
    """Why it is not to be relied on; empty: it holds."""


def document_of(statement: Statement, identity: Identity | None, now_s: float) -> bytes:
    """The JSON file's bytes."""
    said = _Said(signed_at_s=now_s, statement=statement)
    document = Document(said=said)
    if identity is not None:
        signature = identity.key.sign(_CONTEXT + msgspec.json.encode(said))
        document = Document(said=said, certificate=identity.certificate_der(), signature=signature)
    return msgspec.json.format(msgspec.json.encode(document), indent=1)


def check_statement(document: bytes, authority_pem: bytes) -> Checked:
    """Read a statement and say why it does not hold under this authority.

    Raises:
        ConfigError: it is no statement.
    """
    try:
        read = msgspec.json.decode(document, type=Document)
    except UNREADABLE as error:
        raise ConfigError("--statement", got=str(error), allowed="a statement's JSON") from None
    flaw = _signature_flaw(read, x509.load_pem_x509_certificate(authority_pem))
    return Checked(read.said.statement, () if flaw is None else (flaw,))


def _signature_flaw(read: Document, authority: x509.Certificate) -> str | None:
    if not read.signature:
        return "nobody signed it"
    try:
        certificate = read_certificate(read.certificate)
    except ValueError as error:
        return f"its certificate: {error}"
    flaw = certificate_flaw(certificate, authority, read.said.signed_at_s)
    if flaw is not None:
        return f"its certificate: {flaw}"
    name = name_of(certificate)
    if name is None or name.site != HUB or name.fleet != read.said.statement.fleet:
        return f"signed by {name}, which is not the hub of fleet {read.said.statement.fleet}"
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        return "its certificate holds no Ed25519 key"
    try:
        key.verify(read.signature, _CONTEXT + msgspec.json.encode(read.said))
    except InvalidSignature:
        return "the signature does not fit: it was changed"
    return None


# --- the list ------------------------------------------------------------------------------------


def list_of(leaves: Sequence[Leaf]) -> str:
    """The list behind a statement's root."""
    return "".join(f"{one.request_id.hex()} {one.leaf.hex()}\n" for one in leaves)


def read_list(text: str) -> list[Leaf]:
    """The list as it was written.

    Raises:
        ConfigError: it is none.
    """
    leaves = []
    for number, line in enumerate(text.splitlines(), 1):
        request_id, _, leaf = line.partition(" ")
        if len(request_id) != _ID_HEX or len(leaf) != _LEAF_HEX:
            raise ConfigError(f"line {number}", got=repr(line[:80]), allowed="an id and a leaf")
        try:
            leaves.append(Leaf(bytes.fromhex(request_id), bytes.fromhex(leaf)))
        except ValueError as error:
            raise ConfigError(f"line {number}", got=str(error), allowed="hex digits") from None
    return leaves


def receipt_flaw(statement: Statement, leaves: Sequence[Leaf], receipt: bytes) -> str:
    """Why a receipt is not one of a statement's requests, exactly as it was counted; empty: it is."""
    if root_of([one.leaf for one in leaves]).hex() != statement.receipts_root:
        return "the list of receipts does not lead to the statement's root"
    try:
        read = msgspec.json.decode(receipt, type=Receipt)
        request_id = bytes.fromhex(read.request_id)
        records = [
            (part.site, decode_record(held.record), leaf_hash(held.record))
            for part in read.parts
            for held in part.records
        ]
    except ValueError as error:
        return f"not a receipt: {error}"
    entries = {
        record.entry_site
        for site, record, _ in records
        if isinstance(record, Decided) and site == record.entry_site
    }
    if not entries:
        return "the receipt holds no decision"
    entry = min(entries)
    counted = next((one for one in leaves if one.request_id == request_id), None)
    if counted is None:
        return "the request is not in this statement"
    own = request_leaf(request_id, [leaf for site, _, leaf in records if site == entry])
    if own != counted:
        return (
            "the receipt's records are not those that were counted: "
            "it was fetched before the request had ended, or one of both was changed"
        )
    return ""


# --- for people ----------------------------------------------------------------------------------

Row = tuple[str, str, str, str, str, str, str]
HEAD: Final[Row] = ("kind", "name", "country", "quantity", "method", "value", "unit")


def rows_of(statement: Statement) -> Iterator[Row]:
    """The statement as a tidy table, a figure a row."""
    s = statement
    yield "total", s.tenant, "", "requests", "", str(s.requests), "1"
    for fate, count in s.fates.items():
        yield "total", s.tenant, "", fate, "", str(count), "1"
    yield "total", s.tenant, "", "tokens_in", "", str(s.tokens_in), "1"
    yield "total", s.tenant, "", "tokens_out", "", str(s.tokens_out), "1"
    for method, wh in s.energy_wh.items():
        yield "total", s.tenant, "", "energy", method, repr(wh), "Wh"
        yield "total", s.tenant, "", "energy_error", method, repr(s.energy_error_share[method]), "1"
    carbon = s.carbon
    yield "carbon", s.tenant, "", "location", "", repr(carbon.location_g), "gCO2e"
    yield "carbon", s.tenant, "", "market", "", repr(carbon.market_g), "gCO2e"
    yield "carbon", s.tenant, "", "market_unknown", "", repr(carbon.market_unknown_wh), "Wh"
    yield "carbon", s.tenant, "", "marginal", "", repr(carbon.marginal_g), "gCO2e"
    yield "carbon", s.tenant, "", "marginal_unknown", "", repr(carbon.marginal_unknown_wh), "Wh"
    yield "total", s.tenant, "", "cost", "", repr(s.cost_usd), "USD"
    for place in s.places:
        yield from _place_rows(place)
    r = s.residency
    for name in ("lawful", "refused_by_law", "refused_otherwise", "unproven", "against_law"):
        yield "residency", s.tenant, "", name, "", str(getattr(r, name)), "1"
    for rule, count in r.rules.items():
        yield "rule", rule, "", "refused", "", str(count), "1"
    for reason, count in r.reasons.items():
        yield "unproven", reason, "", "requests", "", str(count), "1"
    yield "receipts", s.tenant, "", "root", "RFC 9162", s.receipts_root, "hex"
    for sentence in s.missing:
        yield "missing", sentence, "", "", "", "", ""


def _place_rows(place: Place) -> Iterator[Row]:
    name, country = place.site, place.country
    yield "place", name, country, "requests", "", str(place.requests), "1"
    yield "place", name, country, "tokens_in", "", str(place.tokens_in), "1"
    yield "place", name, country, "tokens_out", "", str(place.tokens_out), "1"
    for method, wh in place.energy_wh.items():
        yield "place", name, country, "energy", method, repr(wh), "Wh"
    yield "place", name, country, "carbon_location", "", repr(place.carbon_location_g), "gCO2e"
    yield "place", name, country, "cost", "", repr(place.cost_usd), "USD"


def csv_of(statement: Statement) -> str:
    """RFC 4180. A name that a spreadsheet would take for a formula has an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(("from", "until", *HEAD))
    period = utc_day(statement.from_s), utc_day(statement.until_s)
    for row in rows_of(statement):
        writer.writerow((*period, row[0], _plain(row[1]), *row[2:]))
    return text.getvalue()


def _plain(name: str) -> str:
    return f"'{name}" if name.startswith(("=", "+", "-", "@")) else name


_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1c2530}
h1{font-size:1.5rem}h2{font-size:1.1rem;margin-top:2rem}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.25rem .6rem;border-bottom:1px solid #d8dee6}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
code{font-size:.85em;word-break:break-all}.missing{background:#fff4d6;border:1px solid #e0b040;padding:.6rem 1rem}
@media print{body{margin:0}}
"""


def html_of(statement: Statement) -> str:
    """One page that needs nothing else; no script."""
    s = statement
    who = s.tenant or "all tenants"
    title = f"{who}: {utc_day(s.from_s)} to {utc_day(s.until_s)} (UTC, end not included)"
    parts = [
        f"<h1>Statement of {escape(who)}, fleet {escape(s.fleet)}</h1><p>{escape(title)}</p>",
        _missing_html(s),
        _table("Requests", ("", "count"), _counts(s)),
        _table(
            "Where it ran",
            ("country", "site", "requests", "tokens in", "tokens out", "Wh", "gCO2e", "USD"),
            [_place_cells(place) for place in s.places],
            words=2,
        ),
        _table(
            "Energy",
            ("method", "Wh", "error"),
            [
                (m, _figure(wh), f"within {s.energy_error_share[m]:.0%}")
                for m, wh in s.energy_wh.items()
            ],
        ),
        _table("Carbon: three answers to three questions, never a sum", ("basis", "gCO2e", "unknown for Wh"), _carbon_cells(s)),
        _table("Law", ("", "requests"), _law_cells(s)),
        "<h2>Receipts</h2><p>Merkle root (RFC 9162) over all requests, in the order of their ids: "
        f"<code>{s.receipts_root}</code>. <code>hanse verify RECEIPT --ca CA --statement FILE</code> checks one.</p>",
        _table("How far logs reach", ("site", "sealed until"), [(e.site, utc(e.sealed_until_s)) for e in s.extents]),
    ]  # fmt: skip
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _missing_html(s: Statement) -> str:
    if s.complete:
        return "<p>Complete: every site's log is here, to the end of the period.</p>"
    listed = "".join(f"<li>{escape(sentence)}</li>" for sentence in s.missing)
    return f'<div class="missing"><strong>Not complete</strong><ul>{listed}</ul></div>'


def _counts(s: Statement) -> list[tuple[str, ...]]:
    rows = [("requests", str(s.requests)), *((fate, str(n)) for fate, n in s.fates.items())]
    return [
        *rows,
        ("tokens in", str(s.tokens_in)),
        ("tokens out", str(s.tokens_out)),
        ("USD", _figure(s.cost_usd)),
    ]


def _place_cells(place: Place) -> tuple[str, ...]:
    return (
        place.country or "?",
        place.site or "not shown",
        str(place.requests),
        str(place.tokens_in),
        str(place.tokens_out),
        ", ".join(f"{_figure(wh)} {m}" for m, wh in place.energy_wh.items()) or "0",
        _figure(place.carbon_location_g),
        _figure(place.cost_usd),
    )


def _carbon_cells(s: Statement) -> list[tuple[str, ...]]:
    c = s.carbon
    return [
        ("location: average of the grid where it ran, own generation included", _figure(c.location_g), ""),
        ("market: by contracts, the rest by the residual mix", _figure(c.market_g), _figure(c.market_unknown_wh)),
        ("marginal: what one more kWh there emitted", _figure(c.marginal_g), _figure(c.marginal_unknown_wh)),
    ]  # fmt: skip


def _law_cells(s: Statement) -> list[tuple[str, ...]]:
    r = s.residency
    return [
        ("executed where the law allows it, shown by both sites", str(r.lawful)),
        ("refused by law", str(r.refused_by_law)),
        *((f"by rule {rule}", str(count)) for rule, count in r.rules.items()),
        ("refused for room, power and the like", str(r.refused_otherwise)),
        ("unproven", str(r.unproven)),
        ("of these against the law", str(r.against_law)),
        *((f"unproven: {reason}", str(count)) for reason, count in r.reasons.items()),
    ]


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], words: int = 1) -> str:
    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{tag}{'' if i < words else ' class=n'}>{escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<h2>{escape(title)}</h2><table><tr>{cells('th', head)}</tr>{body}</table>"


def _figure(value: float) -> str:
    return f"{value:.6g}"


def utc_day(at_s: float) -> str:
    """An instant that mostly is a midnight."""
    text = datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return text.removesuffix("T00:00:00Z")


def utc(at_s: float) -> str:
    """An instant; 0: never."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC") if at_s else "never"


def stem_of(statement: Statement, period: str) -> str:
    """What its files are called; a tenant's name that is no id, which only a site's log can hold, stands there as its digest."""
    name = statement.tenant or "all"
    try:
        msgspec.convert(name, Id)
    except msgspec.ValidationError:
        name = f"unnamed-{sha256(name.encode()).hexdigest()[:16]}"
    return f"statement-{name}-{period}"


def write_files(
    folder: Path, name: str, stated: Stated, identity: Identity | None, now_s: float
) -> list[Path]:
    """`<name>.json`, `.csv`, `.html` and `.receipts` in a folder, readable by their owner alone; their paths."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    contents = {
        ".json": document_of(stated.statement, identity, now_s),
        ".csv": csv_of(stated.statement).encode(),
        ".html": html_of(stated.statement).encode(),
        LIST_SUFFIX: list_of(stated.leaves).encode(),
    }
    for suffix, content in contents.items():
        replace_file(folder / f"{name}{suffix}", content)
    return [folder / f"{name}{suffix}" for suffix in contents]
