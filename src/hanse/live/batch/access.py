"""Who may see what: by the routing table in force at this site.

Here: law for a subject at a site, what a key may do with a model, whether an asker may see a file or a batch. Not here: API keys (they
never leave the gateway), refusing a request before its body is read (the gateway did so).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, Final

from hanse.live.batch.values import BatchMeta, FileMeta, Problem, Who
from hanse.live.gateway.policy import Policy, offered
from hanse.live.gateway.tables import TableFile
from hanse.live.gateway.wording import listed, no_model
from hanse.live.shared import SharedPage

if TYPE_CHECKING:
    from hanse.dispatch.table import KeyMeta, Table

ENDPOINTS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/embeddings": "embeddings",
}


class Access:
    """Looks things up in the newest table."""

    def __init__(self, site: str, table_path: Path, urls: dict[str, str]) -> None:
        self.site = site
        self.urls = urls
        self._file = TableFile(table_path)
        self._page = SharedPage.private()
        self._policy: Policy | None = None
        self._keys: dict[str, KeyMeta] = {}

    def refresh(self) -> None:
        """Take a new table, if there is one."""
        table = self._file.newer()
        if table is not None and self.site in table.site_index:
            self._policy = Policy(table, self.site, self._page)
            self._keys = {key.id: key for key in table.meta.keys.values()}

    @property
    def table(self) -> Table:
        """The table in force.

        Raises:
            Problem: there is none, or it is too old: then nothing is admitted.
        """
        if self._policy is None or time() > self._policy.valid_until_s:
            raise Problem(503, "no_table", "no routing table in force; nothing is admitted")
        return self._policy.table

    def subject(self, names: tuple[str, str, str]) -> int:
        """Row of law; 0, which everything denies, where there is none."""
        self.table  # noqa: B018  # raises where there is none
        assert self._policy is not None
        return self._policy.subjects.get(names, 0)

    def lawful(self, names: tuple[str, str, str], site: str) -> bool:
        """Whether a site may read and execute for (tenant, class, country)."""
        index = self.table.site_index.get(site, -1)
        return index >= 0 and self.table.lawful(self.subject(names), index)

    def lawful_sites(self, names: tuple[str, str, str]) -> list[str]:
        """Sites that may, nearest to this one first."""
        table, subject = self.table, self.subject(names)
        paths = table.paths_from(table.site_index[self.site])
        found = [site.id for i, site in enumerate(table.meta.sites) if table.lawful(subject, i)]
        return sorted(
            found, key=lambda site: (float(paths[table.site_index[site]]["rtt_ms"]), site)
        )

    def check(self, who: Who, thing: FileMeta | BatchMeta) -> None:
        """May this asker, at the gateway it came to, see this?

        Raises:
            Problem: 404 for other tenants, 403 for a key without its class or country, 421 where that gateway may not read it.
        """
        if thing.tenant != who.tenant:
            raise not_found(thing.id)
        key = self._keys.get(who.key_id)
        if key is None or key.tenant != who.tenant:
            raise Problem(403, "not_allowed_any_more", "the key is gone")
        if thing.data_class not in key.classes:
            message = f"{thing.id} has class {thing.data_class!r}; this key may send {listed(key.classes, 'none')}"
            raise Problem(403, "class_not_allowed", message)
        if thing.country not in key.countries:
            message = f"{thing.id} is of country {thing.country!r}; this key may speak for {listed(key.countries, 'none')}"
            raise Problem(403, "country_not_allowed", message)
        names = (thing.tenant, thing.data_class, thing.country)
        entry = who.peer or self.site
        if not self.lawful(names, self.site) or not self.lawful(names, entry):
            sites = self.lawful_sites(names)
            url = self.urls.get(sites[0], "") if sites else ""
            raise Problem(
                421 if sites else 451,
                "entry_not_eligible" if sites else "no_eligible_site",
                f"this gateway may not read {thing.id}; ask {sites[0] if sites else 'nobody'} {url}",
                gateway={"site": sites[0] if sites else "", "url": url},
            )

    def visible(self, who: Who, thing: FileMeta | BatchMeta) -> bool:
        """Whether it belongs into a list."""
        try:
            self.check(who, thing)
        except Problem:
            return False
        return True

    def model_flaw(
        self, key_id: str, endpoint: str
    ) -> Callable[[str, int], tuple[str, str] | None]:
        """Says why a key may not ask for a model at an endpoint; for `lines.check_file`."""
        table, kind = self.table, ENDPOINTS[endpoint]
        key = self._keys.get(key_id)
        services = {name: table.meta.services[index] for name, index in table.service_index.items()}

        def flaw(model: str, body_bytes: int) -> tuple[str, str] | None:
            service = services.get(model)
            if service is None or key is None or service.id not in key.services:
                names = [] if key is None else offered(table, key.services)
                return "model_not_found", no_model(model, names)
            if kind not in service.endpoints:
                paths = ", ".join(p for p, one in ENDPOINTS.items() if one in service.endpoints)
                text = f"{service.id} does not serve {endpoint}; it serves {paths}"
                return "endpoint_not_supported", text
            if body_bytes > service.body_bytes_max:
                text = f"the body has {body_bytes} bytes; those for {service.id} have at most {service.body_bytes_max}"
                return "line_too_large", text
            return None

        return flaw

    def service_of(self, model: str) -> str:
        """The service that a model's name stands for; empty where the table knows none, or there is no table."""
        if self._policy is None:
            return ""
        table = self._policy.table
        index = table.service_index.get(model, -1)
        return table.meta.services[index].id if index >= 0 else ""

    def body_bytes_max(self) -> int:
        """Of any service."""
        return max((s.body_bytes_max for s in self.table.meta.services), default=0)


def not_found(object_id: str, kind: str = "", param: str = "id") -> Problem:
    """One answer for what is not there and what is somebody else's; `kind` where the id was written by a client."""
    kind = kind or ("file" if object_id.startswith("file-") else "batch")
    listed_at = "/v1/files" if kind == "file" else "/v1/batches"
    message = f"no {kind} {object_id[:100]!r}; GET {listed_at} lists those that there are"
    return Problem(404, f"{kind}_not_found", message, param)
