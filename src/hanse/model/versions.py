"""Which form everything has that one process writes and another reads, and which older forms are still read.

Here: one declaration for tables, logs, documents and bus messages; modules take their marks from it. Not here: reading and writing them.
`python -m hanse.model.versions` prints it as JSON, so that a rollout can ask an installation what it understands before it starts it.

Rules. A number rises when a reader of the version before would misunderstand what is written, never for a field that may be missing.
Each form names every number that is read; the one before the last is always among them, so that two versions can run side by side. The
hub is upgraded first: it hears its sites, and what it sends down it writes so that the version before can read it, leaving out what says
nothing. Whatever is of no known form is refused by name and changes nothing.
"""

from __future__ import annotations

import sys
from typing import Final

import msgspec

from hanse.model.fleet import Value


class Form(Value, frozen=True, kw_only=True):
    """One kind of thing that is written."""

    name: str
    now: str
    """Written."""
    before: tuple[str, ...] = ()
    """Read as well, the newest first."""
    crosses_sites: bool
    """Whether sites and hub of different versions meet in it; else one site, or one disk, has one version."""

    @property
    def understood(self) -> tuple[str, ...]:
        """Everything that is read."""
        return (self.now, *self.before)

    def refusal(self, got: str) -> str:
        """Why something of another form is not taken; empty: it is."""
        if got in self.understood:
            return ""
        return f"{self.name} of form {got!r}: this version understands {', '.join(self.understood)}; upgrade it first"


TABLE: Final = Form(name="routing table", now="HANSETB2", before=("HANSETB1",), crosses_sites=True)
INPUT_LOG: Final = Form(name="input log", now="HANSEJN2", crosses_sites=False)
EVENT_LOG: Final = Form(name="controller's log", now="hanseev1", crosses_sites=False)
FLEET: Final = Form(name="fleet file", now="hanse-fleet/1", crosses_sites=True)
LEAGUE: Final = Form(name="fleet in force", now="hanse-league/1", crosses_sites=True)
EVIDENCE: Final = Form(name="evidence", now="hanse-evidence/1", crosses_sites=True)
RECEIPT: Final = Form(name="receipt", now="hanse-receipt/1", crosses_sites=True)
BUS: Final = Form(name="bus", now="2", before=("1",), crosses_sites=True)
"""Reports of sites to the hub. 1 said no number and refused fields that it did not know; 2 says it and reads past them."""
PAGE: Final = Form(name="shared page", now="4", crosses_sites=False)
RUNTIME: Final = Form(name="addresses", now="hanse-runtime/1", crosses_sites=False)

FORMS: Final = (TABLE, INPUT_LOG, EVENT_LOG, FLEET, LEAGUE, EVIDENCE, RECEIPT, BUS, PAGE, RUNTIME)


def side_by_side(ours: tuple[Form, ...], theirs: tuple[Form, ...]) -> list[str]:
    """What keeps two versions from running in one league: forms that cross sites and that one of them would not read."""
    others = {form.name: form for form in theirs}
    flaws = []
    for form in ours:
        other = others.get(form.name)
        if not form.crosses_sites or other is None:
            continue
        if form.now not in other.understood:
            flaws.append(f"{form.name}: it does not read {form.now}, which is written here")
        if other.now not in form.understood:
            flaws.append(f"{form.name}: it writes {other.now}, which is not read here")
    return flaws


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(FORMS).decode() + "\n")
