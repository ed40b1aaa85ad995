"""The answer without each of a study's rules with dates, beside the answer with all of them.

Here: `policy_answers`. A duty leaves the design as it is and changes what it pays; a rule of money that own power sees (credit, tariff, carbon tax) leaves the sites and has
own power sized anew without it; a rule of law (localisation) says where one may build, so that without it the sites are searched anew. Not here: what a rule does to a year's cost (`policy`, `tco.policy_effects`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from hanse.plan.answer import PolicyAnswer
from hanse.plan.design import Design, freedom
from hanse.plan.doubt import apart, wins
from hanse.plan.drawn import Drawn, draw, stretches, together
from hanse.plan.meter import Meter
from hanse.plan.policy import CREDITED
from hanse.plan.sited import metered, powered, sited
from hanse.plan.steps import Steps
from hanse.plan.study_file import PolicyEntry, Study

Floats = NDArray[np.float64]


class Paid(NamedTuple):
    """What counts of a design, [draw]."""

    npv: Floats
    usd_per_mtoken: Floats


def policy_answers(
    study: Study, designs: Sequence[Design], drawn: Sequence[Drawn], steps: Steps, quick: bool
) -> tuple[PolicyAnswer, ...]:
    """One for each policy of the study."""
    ids = [d.spec.id for d in designs]
    order = [d.spec.id for d in sorted(designs, key=lambda d: freedom(d.spec))]
    found = []
    for policy in study.policies:
        resited = policy.kind == "localisation"
        if resited:
            without = _resited(study, policy, steps, quick)
        elif not quick and _sizes_own_power(policy):
            without = _rebuilt(study, policy, steps, designs)
        else:
            without = [_unpaid(r, policy.id) for r in drawn]
        cost = [w.usd_per_mtoken for w in without]
        median = {id: _median(c) for id, c in zip(ids, cost, strict=True)}
        priced = {id: np.inf if usd is None else usd for id, usd in median.items()}
        share = wins(apart(designs, cost))
        found.append(
            PolicyAnswer(
                id=policy.id,
                kind=policy.kind,
                source=policy.source,
                usd_by_design={
                    id: float(np.median(r.npv - w.npv))
                    for id, r, w in zip(ids, drawn, without, strict=True)
                },
                usd_per_mtoken_without=median,
                win_share_without={id: float(s) for id, s in zip(ids, share, strict=True)},
                winner_without=min(order, key=priced.__getitem__),
                resited=resited,
            )
        )
    return tuple(found)


def _unpaid(r: Drawn, id: str) -> Paid:
    """The same design without what the policy does to its cost; the tokens are the same."""
    npv = r.npv - r.policies[id]
    return Paid(npv=npv, usd_per_mtoken=r.usd_per_mtoken * npv / r.npv)


def _sizes_own_power(policy: PolicyEntry) -> bool:
    """Sun, wind or batteries are sized by what it pays or takes."""
    if policy.kind == "investment_credit":
        return bool(set(policy.on or CREDITED) & set(CREDITED))
    return policy.kind in ("feed_in_tariff", "carbon_tax")


def _without(study: Study, policy: PolicyEntry) -> Study:
    others = tuple(p for p in study.policies if p.id != policy.id)
    return msgspec.structs.replace(study, policies=others)


def _resited(study: Study, policy: PolicyEntry, steps: Steps, quick: bool) -> list[Paid]:
    """All designs of the study that does not have the policy."""
    free, key = _without(study, policy), f"without-{policy.id}"
    designs = steps.map(
        Design, sited, {f"{key}-site-{s.id}": (free, s, True) for s in free.designs}
    )
    if not quick:
        return _rebuilt(study, policy, steps, designs)
    return _paid(free, key, steps, designs)


def _rebuilt(
    study: Study, policy: PolicyEntry, steps: Steps, designs: Sequence[Design]
) -> list[Paid]:
    """The same sites, with own power as it pays without the policy."""
    free, key = _without(study, policy), f"without-{policy.id}"
    bare = {f"{key}-power-{d.spec.id}": (d, free) for d in designs}
    return _paid(free, key, steps, steps.map(Design, powered, bare))


def _paid(free: Study, key: str, steps: Steps, designs: Sequence[Design]) -> list[Paid]:
    meters = steps.map(Meter, metered, {f"{key}-meter-{d.spec.id}": (d, free) for d in designs})
    found = []
    for design, meter in zip(designs, meters, strict=True):
        tasks = {
            f"{key}-draws-{design.spec.id}-{first}": (design, free, meter, first, last)
            for first, last in stretches(free)
        }
        whole = together(steps.map(Drawn, draw, tasks))
        found.append(Paid(npv=whole.npv, usd_per_mtoken=whole.usd_per_mtoken))
    return found


def _median(usd: Floats) -> float | None:
    middle = float(np.median(usd))
    return None if np.isnan(middle) else middle
