"""The table of a fleet as its file declares it: what a start without any signal would publish first.

Here: `declared_table`. Not here: signals, reports, anything that happened since (`dispatcher`).
"""

from __future__ import annotations

from hashlib import sha256

from hanse.dispatch import events as ev
from hanse.dispatch.dispatcher import Dispatcher
from hanse.dispatch.policies import PolicyText
from hanse.dispatch.table import Table
from hanse.model.fleet import Fleet


def declared_table(
    fleet: Fleet, policies: tuple[PolicyText, ...], digests: dict[str, str], at_s: float
) -> Table:
    """The table at an instant, with the keys whose digest is known."""
    dispatcher = Dispatcher("fleet")
    loaded = ev.FleetLoaded(at_s=at_s, fleet=fleet, policies=policies, digests=digests)
    dispatcher.handle(loaded)
    dispatcher.handle(ev.Ticked(at_s=at_s))
    assert dispatcher.table is not None, "the first tick publishes"
    return dispatcher.table


def stand_in_digests(fleet: Fleet) -> dict[str, str]:
    """A digest for every key, of its id: to ask what a key may do before its secret is made."""
    keys = (key for tenant in fleet.tenants for key in tenant.keys)
    return {key.id: sha256(key.id.encode()).hexdigest() for key in keys}
