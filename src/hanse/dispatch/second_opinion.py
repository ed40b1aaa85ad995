"""Whether a site that the hub does not hear is cut off or dead: what the other sites say decides.

Here: `verdicts`, pure, and the rule. Not here: who checks whom (`live.gateway.peers`, twice a second, on the path that requests take),
when a site counts as silent (`live.controller`), what follows for placements (`place_problem`).

The rule. A site is **dead** only if nobody hears it, and **cut** off from the hub if any other site does; a silent site of which no other
site can say anything is **unsure**, since then it may be the hub that is cut off. Only of a dead site is work placed anew: what runs at a
site that is cut off goes on running and serving its neighbours, and a second copy would be one too many. Where no site ever said whom it
hears (agents of an earlier release, simulations, a league of one site) silence decides, as nobody can be asked.

Instants decide nothing here: a witness counts by its newest report for as long as it is heard itself. A report that is half a second old
may still name a site that has just died; then the verdict is *cut* for that long, never *dead* for a site that lives.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

Verdict = Literal["heard", "cut", "dead", "unsure"]


class Known(Protocol):
    """What of a site is looked at (`belief.SiteBelief`)."""

    @property
    def up(self) -> bool:
        """The hub hears it."""

    @property
    def lost(self) -> bool:
        """The hub heard it once, and does not now."""

    @property
    def unheard(self) -> tuple[str, ...] | None:
        """Sites that do not answer it; None: it does not say."""


def verdicts(sites: Mapping[str, Known]) -> dict[str, Verdict]:
    """By site; a site that was never heard is taken as it stands in the file, and is not silent."""
    speaks = {name for name, known in sites.items() if known.unheard is not None}
    witnesses = {
        name: frozenset(known.unheard)
        for name, known in sites.items()
        if known.up and known.unheard is not None
    }
    return {
        name: judge(name, witnesses, asked=bool(speaks - {name})) if known.lost else "heard"
        for name, known in sites.items()
    }


def judge(site: str, witnesses: Mapping[str, frozenset[str]], *, asked: bool) -> Verdict:
    """Of one silent site.

    Args:
        site: Who is silent.
        witnesses: Sites that the hub hears and that say whom they do not hear.
        asked: Whether any other site ever said whom it hears.
    """
    others = [unheard for name, unheard in witnesses.items() if name != site]
    if any(site not in unheard for unheard in others):
        return "cut"
    # Without witnesses: those who could say are silent themselves, or nobody ever could and silence decides.
    return "dead" if others or not asked else "unsure"
