"""Decisions that were recorded, asked of another fleet: who would be refused, who would have to go elsewhere, who may now.

Here: `Asked`, `asked_again`, by keys, law, quality and placement, which need no load. Not here: which of several lawful offers would be
the cheapest (`twin.what_if`, from input logs), reading records (`live.recorded`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Literal, NamedTuple

import numpy as np

from hanse.dispatch.table import KeyMeta, Table
from hanse.model.fleet import Value

EXAMPLES_MAX: Final = 3
BY_LAW: Final = frozenset({"no_eligible_site", "entry_not_eligible"})
"""Refusals of a gateway that rest on law alone, before a body is read."""

Effect = Literal["refused", "elsewhere", "lawful"]


class Asked(NamedTuple):
    """What a decision was about and what came of it; equal ones are counted together."""

    key: str
    tenant: str
    data_class: str
    country: str
    service: str
    """Empty: refused before the body was read."""
    entry: str
    site: str
    """Where it was sent; empty: refused."""
    variant: str
    by_law: bool
    """Refused by law."""


class Consequence(Value, frozen=True, kw_only=True):
    """Alike decisions that would have come to something else."""

    effect: Effect
    """`refused`: it was sent somewhere and would not be. `elsewhere`: not where it was. `lawful`: law refused it and would not."""
    count: int
    tenant: str
    key: str
    data_class: str
    country: str
    service: str
    entry: str
    was: str
    """Site, or `refused by law`."""
    now: str
    """Sites that may, or why none."""
    newest_at_s: float


class AskedAgain(Value, frozen=True, kw_only=True):
    """What came of all of them."""

    decisions: int
    first_at_s: float
    last_at_s: float
    same: int
    consequences: tuple[Consequence, ...]
    """Refused first, then elsewhere, then lawful; of each the most first."""

    def count(self, effect: Effect) -> int:
        """Decisions of one effect."""
        return sum(one.count for one in self.consequences if one.effect == effect)


class _Verdict(NamedTuple):
    sites: tuple[str, ...]
    """That may and can answer."""
    why: str
    """None may; empty: some do."""


def asked_again(decisions: Iterable[tuple[Asked, float]], table: Table) -> AskedAgain:
    """Ask a table that carries the other fleet's keys, law and offers.

    Args:
        decisions: Each with its instant.
        table: See `declared.declared_table`.
    """
    counts: dict[Asked, tuple[int, float]] = {}
    first_s, last_s = float("inf"), float("-inf")
    for asked, at_s in decisions:
        count, newest_s = counts.get(asked, (0, at_s))
        counts[asked] = count + 1, max(newest_s, at_s)
        first_s, last_s = min(first_s, at_s), max(last_s, at_s)
    keys = {key.id: key for key in table.meta.keys.values()}
    found = [
        one
        for asked, (count, at_s) in counts.items()
        if (one := _consequence(asked, count, at_s, _verdict(table, keys, asked))) is not None
    ]
    effects: tuple[Effect, ...] = ("refused", "elsewhere", "lawful")
    found.sort(key=lambda one: (effects.index(one.effect), -one.count, one.tenant, one.was))
    decided = sum(count for count, _ in counts.values())
    return AskedAgain(
        decisions=decided,
        first_at_s=first_s if decided else 0.0,
        last_at_s=last_s if decided else 0.0,
        same=decided - sum(one.count for one in found),
        consequences=tuple(found),
    )


def _consequence(asked: Asked, count: int, at_s: float, verdict: _Verdict) -> Consequence | None:
    effect: Effect
    if asked.site:
        if asked.site in verdict.sites:
            return None
        effect = "elsewhere" if verdict.sites else "refused"
    elif asked.by_law and verdict.sites:
        effect = "lawful"
    else:
        return None
    return Consequence(
        effect=effect,
        count=count,
        tenant=asked.tenant,
        key=asked.key,
        data_class=asked.data_class,
        country=asked.country,
        service=asked.service,
        entry=asked.entry,
        was=asked.site or "refused by law",
        now=", ".join(verdict.sites) or verdict.why,
        newest_at_s=at_s,
    )


def _verdict(table: Table, keys: dict[str, KeyMeta], asked: Asked) -> _Verdict:
    key = keys.get(asked.key)
    if key is None or key.tenant != asked.tenant:
        return _Verdict((), "the key is gone")
    row = key.subjects.get(asked.data_class, {}).get(asked.country)
    if row is None:
        what = "country" if asked.data_class in key.classes else "class"
        return _Verdict((), f"the key may not use this {what} any more")
    services = [name for name in table.service_index if name == asked.service]
    if asked.service and (not services or asked.service not in key.services):
        return _Verdict((), "the key may not use this service any more, or it is gone")
    if asked.entry not in table.site_index:
        return _Verdict((), f"{asked.entry} is no way in any more")
    entry = table.site_index[asked.entry]
    lawful = [site.id for i, site in enumerate(table.meta.sites) if table.lawful(row, i)]
    if not table.lawful(row, entry):
        rules = ", ".join(table.rules(row, entry))
        if lawful:
            return _Verdict((), f"{asked.entry} may not read it ({rules}); {lawful[0]} may")
        return _Verdict((), f"no site may by law ({', '.join(table.rules_denying(row))})")
    if not asked.service:
        return _Verdict(tuple(lawful), "")
    return _placed(table, row, asked.service, lawful)


def _placed(table: Table, row: int, service: str, lawful: list[str]) -> _Verdict:
    offers, who = table.offers, table.subjects[row]
    mine = (offers["service"] == table.service_index[service]) & (offers["replicas"] > 0)
    good = mine & (offers["quality"] >= who["quality_min"])
    names = [site.id for site in table.meta.sites]
    placed = {names[int(i)] for i in np.unique(offers["site"][good])}
    sites = tuple(site for site in names if site in placed and site in lawful)
    if sites:
        return _Verdict(sites, "")
    if placed:
        return _Verdict((), f"no site that has {service} may by law")
    why = "is placed nowhere" if not mine.any() else "is nowhere of the quality that the class asks"
    return _Verdict((), f"{service} {why}")
