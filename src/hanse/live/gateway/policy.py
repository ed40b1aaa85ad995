"""Who may ask for what: keys, classes, countries, and whether this gateway may even read the request.

Here: one table's keys turned into look-ups that a request needs one or two of, rate limits. Not here: where a request goes
(`dispatch`), HTTP (`doors`).

Everything fails closed: an unknown key, class or country is refused, and a class or country without a row of law gets
row 0, which every site denies.
"""

from __future__ import annotations

from collections.abc import Collection
from hashlib import sha256

from hanse.dispatch.table import KeyMeta, Table
from hanse.live.shared import KEYS_MAX, SharedPage, cells

BEARER = b"Bearer "
KEY_BYTES_MAX = 512


class Grant:
    """What one key may do under one class and country: interned, so a request only looks it up."""

    __slots__ = ("country", "data_class", "entry_lawful", "key", "subject", "table")

    def __init__(
        self,
        table: Table,
        key: KeyRow,
        data_class: str,
        country: str,
        subject: int,
        *,
        entry_lawful: bool,
    ) -> None:
        self.table = table
        """In which `subject` is a row; in any other table the number means somebody else."""
        self.key = key
        self.data_class = data_class
        self.country = country
        self.subject = subject
        self.entry_lawful = entry_lawful
        """Whether this gateway's site may read such a request at all."""


class KeyRow:
    """One key: its meta data, its grants, its token bucket in the shared page."""

    __slots__ = (
        "_bucket",
        "_burst",
        "_rate",
        "_row",
        "digest",
        "grants",
        "id",
        "mark",
        "meta",
        "services",
        "tenant",
    )

    def __init__(self, meta: KeyMeta, digest: bytes, row: int, page: SharedPage) -> None:
        self.meta = meta
        self.digest = digest
        self.mark = digest[:8]
        self.id = meta.id
        self.tenant = meta.tenant
        self.services = frozenset(meta.services)
        self.grants: dict[tuple[bytes | None, bytes | None], Grant] = {}
        self._rate = meta.requests_per_s_max
        self._burst = float(meta.burst)
        self._bucket = cells(page.buckets.reshape(-1))
        self._row = 2 * row

    def admit(self, now_s: float) -> float:
        """Spend one request; 0 when admitted, else the seconds until the next would be.

        The bucket starts full: a page of zeros means it was last touched in 1970.
        """
        bucket, row = self._bucket, self._row
        tokens, elapsed_s = bucket[row], now_s - bucket[row + 1]
        if elapsed_s > 0.0:
            tokens += elapsed_s * self._rate
        if tokens > self._burst:
            tokens = self._burst
        bucket[row + 1] = now_s
        if tokens < 1.0:
            bucket[row] = tokens
            return (1.0 - tokens) / self._rate if self._rate > 0.0 else 60.0
        bucket[row] = tokens - 1.0
        return 0.0


def offered(table: Table, services: Collection[str]) -> list[str]:
    """Names of models that a key with these services may ask for."""
    mine = [service for service in table.meta.services if service.id in services]
    return [name for service in mine for name in (service.id, *service.aliases)]


class Policy:
    """The keys of one table, as seen from one site."""

    def __init__(self, table: Table, site: str, page: SharedPage) -> None:
        self.table = table
        self.valid_until_s = table.meta.valid_until_s
        self.site_index = table.site_index.get(site, -1)
        self.keys: dict[bytes, KeyRow] = {}
        # Rows by key id, so that workers with different table versions still share most buckets.
        ordered = sorted(table.meta.keys.items(), key=lambda item: item[1].id)
        for row, (digest, meta) in enumerate(ordered):
            key = KeyRow(meta, bytes.fromhex(digest), row % KEYS_MAX, page)
            self._fill(key)
            self.keys[bytes.fromhex(digest)] = key
        self.subjects = {
            (key.tenant, grant.data_class, grant.country): grant.subject
            for key in self.keys.values()
            for grant in key.grants.values()
        }
        """(tenant, class, country) -> subject row: how a hop's names are read in this table."""

    def grant_for(self, headers: dict[bytes, bytes]) -> Grant | None:
        """The grant of a request spelt as clients spell it; None for all else, refused or only unusual."""
        authorization = headers.get(b"authorization", b"")
        if authorization[:7] != BEARER or len(authorization) > KEY_BYTES_MAX:
            return None
        key = self.keys.get(sha256(authorization[7:]).digest())
        if key is None:
            return None
        return key.grants.get((headers.get(b"x-hanse-class"), headers.get(b"x-hanse-country")))

    def key_of(self, authorization: bytes | None) -> KeyRow | None:
        """The key of an `Authorization` header; None where there is no such key."""
        if authorization is None or len(authorization) > KEY_BYTES_MAX:
            return None
        if not authorization.startswith(BEARER) and authorization[:7].lower() != b"bearer ":
            return None
        return self.keys.get(sha256(authorization[7:].strip()).digest())

    def current(self, grant: Grant) -> Grant | None:
        """The same grant under this table, looked up again by its names; None where there is none any more."""
        if grant.table is self.table:
            return grant
        key = self.keys.get(grant.key.digest)
        names = grant.data_class.encode(), grant.country.encode()
        return None if key is None else key.grants.get(names)

    def lawful_sites(self, subject: int) -> list[str]:
        """Sites that may read and execute this subject's requests."""
        sites = self.table.meta.sites
        return [site.id for i, site in enumerate(sites) if self.table.lawful(subject, i)]

    def _fill(self, key: KeyRow) -> None:
        meta = key.meta
        for data_class in meta.classes:
            for country in meta.countries:
                subject = meta.subjects.get(data_class, {}).get(country, 0)
                lawful = self.site_index >= 0 and self.table.lawful(subject, self.site_index)
                grant = Grant(self.table, key, data_class, country, subject, entry_lawful=lawful)
                key.grants[data_class.encode(), country.encode()] = grant
        for data_class in meta.classes:
            default = key.grants.get((data_class.encode(), meta.countries[0].encode()))
            if default is not None:
                key.grants[data_class.encode(), None] = default
        for country in meta.countries:
            default = key.grants.get((meta.classes[0].encode(), country.encode()))
            if default is not None:
                key.grants[None, country.encode()] = default
        if meta.classes and meta.countries:
            key.grants[None, None] = key.grants[None, meta.countries[0].encode()]
