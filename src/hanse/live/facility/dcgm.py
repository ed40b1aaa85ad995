"""DCGM exporter: power, energy and temperature of GPUs from its Prometheus page.

Here: `DcgmDriver` and `gpu_readings`. Not here: what GPUs do (engines tell that themselves).

Field names are those of dcgm-exporter 4 (`DCGM_FI_DEV_*`). Its host label was `Hostname` until May 2026 and is `hostname` since: either is
understood. A field that a GPU does not have comes as one of DCGM's blanks, near 2^63: those are left out. A GPU cut into MIG instances is
listed once an instance, with the power of the whole: it counts once.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

from hanse.errors import SiteError
from hanse.live.facility.access import secret_of, tls_of
from hanse.live.facility.readings import Reading
from hanse.live.facility.web import Web
from hanse.model.fleet import Facility, Quantity
from hanse.units import JOULES_PER_WH

FIELDS: Final[dict[str, tuple[str, Quantity, float]]] = {
    "DCGM_FI_DEV_POWER_USAGE": ("power", "power_w", 1.0),
    "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION": ("energy", "energy_wh", 1e-3 / JOULES_PER_WH),  # mJ
    "DCGM_FI_DEV_GPU_TEMP": ("temp", "temp_c", 1.0),
    "DCGM_FI_DEV_MEMORY_TEMP": ("temp-memory", "temp_c", 1.0),
    "DCGM_FI_DEV_POWER_MGMT_LIMIT": ("limit", "limit_w", 1.0),
    "DCGM_FI_DEV_XID_ERRORS": ("xid", "state", 1.0),
}
BLANK_FROM: Final = 2.0**47
"""DCGM's smallest blank (32-bit ones are below any of these fields' range as well: 2147483632)."""
BLANK_32_FROM: Final = 2_147_483_632.0


class DcgmDriver:
    """One exporter."""

    def __init__(self, facility: Facility, home: Path) -> None:
        self._facility, self._home = facility, home
        tls = tls_of(facility, home) if facility.url.startswith("https") else None
        self._web = Web(facility.url, tls=tls, fingerprint_sha256=facility.fingerprint_sha256)

    async def read(self) -> tuple[Reading, ...]:
        """All GPUs of the page.

        Raises:
            SiteError: no answer, or a page without GPUs.
        """
        headers = {"Accept": "text/plain"}
        if token := secret_of(self._facility, self._home):
            headers["Authorization"] = f"Bearer {token}"
        path = self._web.base_path or "/metrics"
        answer = await self._web.ask("GET", path, headers=headers)
        where = f"dcgm {self._facility.id} ({self._web.url}{path})"
        if answer.status != 200:
            raise SiteError(where, got=str(answer.status), allowed="200")
        try:
            found = gpu_readings(bytes(answer.body).decode(), time.time())
        except (ValueError, KeyError, IndexError) as error:
            raise SiteError(where, got=repr(error), allowed="a Prometheus text") from error
        if not found:
            raise SiteError(where, got="no GPU", allowed="metrics of dcgm-exporter")
        return found

    async def close(self) -> None:
        """Close the connection."""
        await self._web.close()


def gpu_readings(text: str, now_s: float) -> tuple[Reading, ...]:
    """What a page tells of each GPU."""
    from prometheus_client.parser import text_string_to_metric_families

    samples: list[Any] = [
        sample
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if _field(sample.name) in FIELDS
    ]
    hosts = {_host(sample.labels) for sample in samples}
    found: dict[str, Reading] = {}
    for sample in samples:
        point, quantity, scale = FIELDS[_field(sample.name)]
        blank = sample.value >= BLANK_32_FROM and quantity != "energy_wh"
        if (
            blank
            or sample.value >= BLANK_FROM
            or sample.value < 0.0
            or sample.value != sample.value
        ):
            continue
        host = f"{_host(sample.labels)}." if len(hosts) > 1 else ""
        name = f"{host}gpu-{sample.labels.get('gpu', '0')}.{point}"
        value = sample.value * scale
        found.setdefault(name, Reading(point=name, quantity=quantity, value=value, at_s=now_s))
    return tuple(found.values())


def _field(name: str) -> str:
    """Counters may come with the suffix that OpenMetrics wants."""
    return name.removesuffix("_total")


def _host(labels: dict[str, str]) -> str:
    return (labels.get("hostname") or labels.get("Hostname") or "").lower()
