"""The routing table: everything a gateway needs to route without asking anyone.

Here: `Table` (names in `TableMeta`, numbers in record arrays), its byte layout, which serves straight from a memory
map, and look-ups by name. Not here: building one (`build`), opening files (`live`), using one (`choose`, `router`).

Axes: S sites, O offers = (site, service, variant), Q services, U subjects (row 0 denies everything), P profiles =
distinct rows of law. Origin = entry site. Arrays are read-only, so that a mapped and a built table are one type to
the kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.dispatch.paths import paths_from
from hanse.errors import ConfigError
from hanse.model import versions
from hanse.model.fleet import Endpoint, Link, Protocol, SiteKind, Slo, Value
from hanse.model.told import UNREADABLE

Records = NDArray[Any]
"""A structured array; its dtype is one of those below."""

MAGIC: Final = versions.TABLE.now.encode()
MAGIC_BEFORE: Final = versions.TABLE.before[0].encode()
"""Tables whose subjects have no rank yet: on a site's disk after an update, and beside older input logs."""
ALIGNMENT_BYTES: Final = 64
"""A cache line, and more than any field needs."""

SITE_DTYPE: Final = np.dtype(
    [
        ("pue", "f8"),
        ("usd_per_wh", "f8"),
        ("g_per_wh", "f8"),
        ("drained", "i8"),
    ],
    align=True,
)
"""One a site. `g_per_wh` and `usd_per_wh` are of the site's next Wh at the meter; `pue` lifts chips to the meter."""

SERVICE_DTYPE: Final = np.dtype(
    [
        ("ttft_ms_slo", "f8"),
        ("tpot_ms_slo", "f8"),
        ("usd_per_latency_s", "f8"),
        ("usd_per_g", "f8"),
    ],
    align=True,
)
"""One a service. `usd_per_g` is the fleet's carbon price."""

OFFER_DTYPE: Final = np.dtype(
    [
        ("site", "i4"),
        ("service", "i4"),
        ("variant", "i4"),
        ("replicas", "i4"),
        ("quality", "f8"),
        ("slots", "f8"),
        ("requests_max", "f8"),
        ("tokens_max", "f8"),
        ("request_tokens_max", "f8"),
        ("ttft_ms_fixed", "f8"),
        ("prefill_ms_per_token", "f8"),
        ("tpot_ms_base", "f8"),
        ("tpot_ms_per_running", "f8"),
        ("prefill_wh_per_token", "f8"),
        ("decode_wh_shared", "f8"),
        ("decode_wh_per_token", "f8"),
    ],
    align=True,
)
"""One an offer. `slots`, `requests_max` and `tokens_max` are of one replica; Wh are of the chips, before PUE.
An offer keeps its index while a fleet lives; one that is no longer placed stays with `replicas` 0."""

SUBJECT_DTYPE: Final = np.dtype(
    [("profile", "i8"), ("quality_min", "f8"), ("shed_rank", "i8")], align=True
)
"""One a subject and data class. `shed_rank`: its class's place among those that a site short of power gives up, from 1."""
SUBJECT_BEFORE_DTYPE: Final = np.dtype([("profile", "i8"), ("quality_min", "f8")], align=True)
RANK_LAST: Final = 1_000_000
"""Of a class whose priority is not known: given up with the last."""

ARRAYS: Final[dict[str, tuple[np.dtype[Any], int]]] = {
    "sites": (SITE_DTYPE, 1),
    "services": (SERVICE_DTYPE, 1),
    "subjects": (SUBJECT_DTYPE, 1),
    "law": (np.dtype("u1"), 2),
    "rule_set": (np.dtype("u2"), 2),
    "offers": (OFFER_DTYPE, 1),
    "central_offers": (OFFER_DTYPE, 1),
    "continues": (np.dtype("u1"), 1),
}
"""Name -> (dtype, dimensions) of every array in a table file; `law` and `rule_set` are [profile, site]. `continues` is [offer]: its
engines go on with an answer that others began. It is the last: who does not know it reads past it, and where it is missing no engine
does."""


class SiteMeta(Value, frozen=True, kw_only=True):
    """A site's names and place."""

    id: str
    kind: SiteKind
    city: str
    country: str
    lat_deg: float
    lon_deg: float


class ClassMeta(Value, frozen=True, kw_only=True):
    """A data class, as far as a brownout is concerned."""

    id: str
    priority: int


class VariantMeta(Value, frozen=True, kw_only=True):
    """One variant of a service."""

    id: str
    model: str
    precision: str
    quality: float
    served_model: str
    """What the engine calls it."""


class ServiceMeta(Value, frozen=True, kw_only=True):
    """What a gateway must know of a service beyond numbers for choosing."""

    id: str
    protocol: Protocol
    endpoints: tuple[Endpoint, ...]
    aliases: tuple[str, ...]
    slo: Slo
    body_bytes_max: int
    output_tokens_max: int
    variants: tuple[VariantMeta, ...]


class KeyMeta(Value, frozen=True, kw_only=True):
    """What a key may do; found by the SHA-256 of the key, which is itself nowhere."""

    id: str
    tenant: str
    classes: tuple[str, ...]
    """The first is the default."""
    countries: tuple[str, ...]
    """The first is the default."""
    services: tuple[str, ...]
    """All that it may use; never empty by meaning "all"."""
    requests_per_s_max: float
    burst: int
    subjects: dict[str, dict[str, int]]
    """Class -> country -> subject row."""


class SubjectMeta(Value, frozen=True, kw_only=True):
    """A row of law, readable."""

    digest: str
    data_class: str
    law: str
    country: str
    mechanisms: tuple[str, ...] = ()
    sovereign: bool = False
    tenant: str = ""
    """Set only where a policy of the operator names tenants."""


class TableMeta(Value, frozen=True, kw_only=True):
    """Names and texts of a table."""

    version: int
    epoch: int
    issued_at_s: float
    valid_until_s: float
    fleet: str
    heard_stale_s: float
    sites: tuple[SiteMeta, ...]
    services: tuple[ServiceMeta, ...]
    offers: tuple[str, ...]
    """`site/service/variant` by offer index."""
    keys: dict[str, KeyMeta]
    subjects: tuple[SubjectMeta, ...]
    rule_sets: tuple[tuple[str, ...], ...]
    """Rule ids that deny, by the numbers in `rule_set`; 0 is the empty set: allowed."""
    rule_texts: dict[str, str]
    """Rule id -> citation."""
    links: tuple[Link, ...] = ()
    """Ways between sites are computed from these by whoever needs them (`Table.paths_from`)."""
    central_site: str = ""
    central_offers: tuple[str, ...] = ()
    classes: tuple[ClassMeta, ...] = ()


class Table:
    """A frozen routing table; build it with `build_table`, or map it with `from_bytes`."""

    def __init__(self, meta: TableMeta, arrays: Mapping[str, Records]) -> None:
        self.meta = meta
        if "continues" not in arrays:
            arrays = {**arrays, "continues": np.zeros(len(meta.offers), np.uint8)}
        self.arrays = {name: _checked(name, arrays[name]) for name in ARRAYS}
        self.sites = self.arrays["sites"]
        self.services = self.arrays["services"]
        self.subjects = self.arrays["subjects"]
        self._paths: dict[int, Records] = {}
        self.law = self.arrays["law"]
        self.rule_set = self.arrays["rule_set"]
        self.offers = self.arrays["offers"]
        self.continues = self.arrays["continues"]
        assert len(self.offers) == len(self.continues) == len(meta.offers)
        assert self.law.shape == self.rule_set.shape == (self.law.shape[0], len(meta.sites))

    # --- names

    @cached_property
    def site_index(self) -> dict[str, int]:
        """Site id -> index."""
        return {site.id: i for i, site in enumerate(self.meta.sites)}

    @cached_property
    def service_index(self) -> dict[str, int]:
        """Service id or alias -> index; an id wins over an alias of the same name."""
        index = {alias: i for i, s in enumerate(self.meta.services) for alias in s.aliases}
        return index | {service.id: i for i, service in enumerate(self.meta.services)}

    @cached_property
    def offer_index(self) -> dict[str, int]:
        """`site/service/variant` -> index."""
        return {key: i for i, key in enumerate(self.meta.offers)}

    @cached_property
    def offer_names(self) -> tuple[tuple[str, str, str], ...]:
        """(site, service, variant) by offer index."""
        return tuple(_split(key) for key in self.meta.offers)

    def variant(self, offer: int) -> VariantMeta:
        """The variant an offer serves."""
        record = self.offers[offer]
        return self.meta.services[int(record["service"])].variants[int(record["variant"])]

    def paths_from(self, origin: int) -> Records:
        """[site] `PATH_DTYPE`: ways from an entry site to all."""
        if origin not in self._paths:
            sites = self.meta.sites
            places = [(site.lat_deg, site.lon_deg) for site in sites]
            paths = paths_from(origin, [site.id for site in sites], places, self.meta.links)
            self._paths[origin] = _frozen(paths)
        return self._paths[origin]

    def share_paths(self, other: Table) -> None:
        """Compute no way again that another table has computed, where sites and links are the same."""
        if self.meta.sites == other.meta.sites and self.meta.links == other.meta.links:
            self._paths = other._paths

    # --- law

    def lawful(self, subject: int, site: int) -> bool:
        """Whether a subject's data may be read or executed at a site."""
        return bool(self.law[self.subjects[subject]["profile"], site])

    def rules(self, subject: int, site: int) -> tuple[str, ...]:
        """Ids of the rules that deny a subject a site; empty: allowed."""
        return self.meta.rule_sets[int(self.rule_set[self.subjects[subject]["profile"], site])]

    def rules_denying(self, subject: int) -> tuple[str, ...]:
        """Ids of all rules that deny a subject any site, each once, sorted."""
        sets = np.unique(self.rule_set[self.subjects[subject]["profile"]])
        return tuple(sorted({rule for number in sets for rule in self.meta.rule_sets[int(number)]}))

    # --- the one big site

    @cached_property
    def central(self) -> Table | None:
        """The same fleet with only the central site's offers; None where the fleet names none."""
        if not self.meta.central_site:
            return None
        meta = msgspec.structs.replace(
            self.meta, offers=self.meta.central_offers, central_site="", central_offers=()
        )
        offers = self.arrays["central_offers"]
        arrays = {**self.arrays, "offers": offers, "central_offers": offers[:0]}
        del arrays["continues"]
        return Table(meta, arrays)

    # --- bytes

    def to_bytes(self) -> bytes:
        """Magic, length of the head, head (msgpack), arrays at multiples of 64 bytes."""
        head = _Head(meta=self.meta, shapes={n: a.shape for n, a in self.arrays.items()})
        encoded = msgspec.msgpack.encode(head)
        parts = [MAGIC, len(encoded).to_bytes(8, "little"), encoded]
        length = sum(map(len, parts))
        for name in ARRAYS:
            raw = self.arrays[name].tobytes()
            padding = -length % ALIGNMENT_BYTES
            parts += [b"\0" * padding, raw]
            length += padding + len(raw)
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, buffer: bytes | bytearray | memoryview) -> Table:
        """A table over a buffer, such as a memory map, without copying its arrays."""
        view = memoryview(buffer)
        magic = bytes(view[:8])
        if magic not in (MAGIC, MAGIC_BEFORE):
            raise _not_a_table(versions.TABLE.refusal(magic.decode("latin-1")))
        start = 16 + int.from_bytes(view[8:16], "little")
        try:
            head = msgspec.msgpack.decode(view[16:start], type=_Head)
        except UNREADABLE as error:
            raise _not_a_table(str(error)) from error
        arrays: dict[str, Records] = {}
        for name, (dtype, _) in ARRAYS.items():
            if magic == MAGIC_BEFORE and name == "subjects":
                dtype = SUBJECT_BEFORE_DTYPE
            if name == "continues" and name not in head.shapes:
                continue
            start += -start % ALIGNMENT_BYTES
            shape = head.shapes[name]
            count = int(np.prod(shape))
            if start + count * dtype.itemsize > len(view):
                raise _not_a_table(f"{len(view)} bytes, cut off in {name}")
            arrays[name] = np.frombuffer(view, dtype, count, start).reshape(shape)
            start += count * dtype.itemsize
        if magic == MAGIC_BEFORE:
            arrays["subjects"] = _with_ranks(arrays["subjects"])
        return cls(head.meta, arrays)


class _Head(Value, frozen=True, kw_only=True):
    meta: TableMeta
    shapes: dict[str, tuple[int, ...]]


def _with_ranks(before: Records) -> Records:
    subjects = np.zeros(before.shape, SUBJECT_DTYPE)
    subjects["profile"], subjects["quality_min"] = before["profile"], before["quality_min"]
    subjects["shed_rank"] = RANK_LAST
    return subjects


def _checked(name: str, array: Records) -> Records:
    dtype, dimensions = ARRAYS[name]
    assert array.dtype == dtype and array.ndim == dimensions, (name, array.dtype, array.shape)
    return _frozen(array)


def _frozen(array: Records) -> Records:
    frozen = np.ascontiguousarray(array).view()
    frozen.flags.writeable = False
    return frozen


def _split(key: str) -> tuple[str, str, str]:
    site, service, variant = key.split("/")
    return site, service, variant


def _not_a_table(got: str) -> ConfigError:
    return ConfigError(
        where="routing table", got=got, allowed="a table of this version", fix="fetch it again"
    )
