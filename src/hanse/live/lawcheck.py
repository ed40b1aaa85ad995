"""Asking the law again, after the fact: for `hanse audit`, from the fleet file and not from any table.

Here: `law_check_of`. Not here: the law (`dispatch.law`), reading evidence (`live.evidence`).
"""

from __future__ import annotations

import time
from functools import cache

from hanse.dispatch.law import compile_law, subject
from hanse.dispatch.policies import PolicyText
from hanse.errors import ConfigError
from hanse.live.evidence.judge import LawCheck, Subject
from hanse.live.runtime import StateDir
from hanse.model.fleet import Fleet
from hanse.model.read import read_fleet


def law_check_of(state: StateDir) -> LawCheck:
    """Whether a subject's data may be processed at a site, by the fleet file and policies of a state directory.

    Law that has changed since a request ran is judged as it is today; the difference shows as unproven.
    """
    fleet = read_fleet(state.fleet_toml)
    return law_check(fleet, read_policies(fleet, state), time.time())


def law_check(fleet: Fleet, policies: tuple[PolicyText, ...], now_s: float) -> LawCheck:
    """The same for a fleet in hand."""
    law = compile_law(fleet, policies, now_s)
    sites = {site.id: index for index, site in enumerate(fleet.sites)}
    tenants = {tenant.id: tenant for tenant in fleet.tenants}
    classes = {one.id: one for one in fleet.classes}

    @cache
    def lawful(tenant_id: str, class_id: str, country: str, site: str) -> bool:
        tenant, data_class = tenants.get(tenant_id), classes.get(class_id)
        if tenant is None or data_class is None or site not in sites:
            return False
        asked = {
            law.find(
                subject(
                    data_class=class_id,
                    law=data_class.law,
                    country=country,
                    mechanisms=tenant.mechanisms,
                    sovereign=tenant.sovereign,
                    tenant=named,
                )
            )
            # Rows carry the tenant only where an operator's policy names tenants.
            for named in ("", tenant_id)
        } - {0}
        return bool(asked) and all(law.lawful(row, sites[site]) for row in asked)

    def check(who: Subject, site: str, _table_version: int) -> bool:
        return lawful(who.tenant, who.data_class, who.country, site)

    return check


def read_policies(fleet: Fleet, state: StateDir) -> tuple[PolicyText, ...]:
    """The operator's policy files as they lie beside the copied fleet file."""
    texts = []
    for name in fleet.policy.cedar_files:
        path = state.path / name
        try:
            texts.append(PolicyText(name=name, text=path.read_text()))
        except OSError as error:
            raise ConfigError(str(path), got=error.strerror, allowed="a readable file") from error
    return tuple(texts)
