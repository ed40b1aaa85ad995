"""Why a request was refused, in words a person can act on.

Here: sentences for the refusals that are ours. Not here: what the law says; rule ids of law come
with their texts from whoever starts the dashboard, because the catalogue is not the web's to read.
"""

from __future__ import annotations

from collections.abc import Mapping

_OURS = {
    "hanse:no-permit": "No rule permits this class of data from this country at any site",
    "hanse:policy-error": "A policy could not be evaluated; what cannot be evaluated is denied",
    "LAW": "Law bars every site that could have served it",
    "QUALITY": "No variant is good enough for this class of data",
    "LENGTH": "The prompt is longer than any engine takes",
    "TRIED": "Every site that may serve it was already tried",
    "POWER": "The only sites allowed are shedding load",
    "DEAD": "The only sites allowed have no live engine",
    "STALE": "Nothing was heard of the only sites allowed",
    "ROOM": "The only sites allowed are full",
    "DEADLINE": "No site allowed would answer in time",
    "NO_OFFER": "The service runs nowhere",
    "TABLE_EXPIRED": "The routing table is too old to admit anything",
}
_ALIASES = {
    "no_room": "ROOM",
    "no_table": "TABLE_EXPIRED",
    "no_eligible_site": "LAW",
    "entry_not_eligible": "LAW",
}


def reason_text(reason: str, rule_texts: Mapping[str, str]) -> str:
    """A sentence for a rule id or a reason; the fleet's own texts come first."""
    known = rule_texts.get(reason) or _OURS.get(_ALIASES.get(reason, reason))
    known = known or _OURS.get(reason.upper().replace("-", "_"))
    if known:
        return known
    return "Refused without a stated reason" if not reason else "A rule of this fleet's policy"
