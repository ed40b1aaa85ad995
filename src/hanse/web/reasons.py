"""Why a request was refused, in words a person can act on.

Here: sentences for the refusals that are ours. Not here: what the law says; rule ids of law come
with their texts from whoever starts the dashboard, because the catalogue is not the web's to read.
"""

from __future__ import annotations

from collections.abc import Mapping

_OURS = {
    "hanse:no-permit": "No rule permits this class of data from this country at any site",
    "hanse:no-rule": "No rule of the country speaks of this class of data, so it stays there",
    "hanse:policy-error": "A policy could not be evaluated; what cannot be evaluated is denied",
    "hanse:sovereign": "A sovereign tenant's data stays out of reach of foreign disclosure orders",
    "hanse:unknown-subject": "Tenant, class or country is unknown; nothing is admitted for it",
    "class_not_allowed": "The key's tenant may not send this class of data",
    "context_length_exceeded": "The prompt is longer than any engine takes",
    "country_not_allowed": "The key does not list this country",
    "deadline_exceeded": "No answer came before the deadline",
    "entry_not_eligible": "Law bars the gateway it came to; it was told of another one",
    "no_eligible_site": "Law bars every site that could have served it",
    "no_evidence": "The decision could not be written to disk, so nothing was sent on",
    "no_room": "The only sites allowed are full, shedding load or not reached",
    "power": "The sites allowed are short of power and gave up this class of work first",
    "no_table": "The routing table is missing or too old to admit anything",
    "rate_limit_exceeded": "The key sent more than its limit",
    "upstream_failed": "Every site that may serve it failed",
}
_GATES = {
    "LAW": "no_eligible_site",
    "LENGTH": "context_length_exceeded",
    "POWER": "power",
    "DEAD": "no_room",
    "STALE": "no_room",
    "ROOM": "no_room",
    "TABLE_EXPIRED": "no_table",
}
"""Gates of the decision core, where a refusal is named by its gate."""


def reason_text(reason: str, rule_texts: Mapping[str, str]) -> str:
    """A sentence for a rule id or a reason; the fleet's own texts come first."""
    # One rule may be compiled as several policies: `id~2` is the second of `id`.
    plain = reason.partition("~")[0]
    for name in (reason, plain):
        if text := rule_texts.get(name) or _OURS.get(_GATES.get(name, name)):
            return text
    return "A rule of this fleet's policy" if reason else "Refused without a stated reason"
