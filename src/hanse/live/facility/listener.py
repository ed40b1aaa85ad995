"""The MQTT listener of a site's own bus: what the leaf's configuration gets for it, and who may say what.

Here: `mqtt_listener`. Not here: the rest of the leaf's configuration (`live.bus`), speaking MQTT (`mqtt`).

NATS speaks MQTT 3.1.1 itself, with sessions and QoS 1 and 2 kept in JetStream. The listener's users are in the account that no other server
takes part in, so building systems' points and grid targets never leave the site by it; a user sees its own kind of topics alone. A topic's
slashes are a subject's dots.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from hanse.errors import ConfigError
from hanse.live.facility.access import secret_of
from hanse.live.logline import log_line
from hanse.model.fleet import Facility, Fleet
from hanse.model.plant_check import OWN_BUS

MQTT_SUBJECTS: Final = "$MQTT.sub.>"
"""Deliveries of QoS 1 and 2, which the server makes a client subscribe to."""
ACK_WAIT: Final = "10s"
"""Until a message of QoS 1 or 2 is sent again."""
IN_FLIGHT_MAX: Final = 256


def plant_user(site: str) -> str:
    """The agent's own user there."""
    return f"{site}.plant"


def own_bus(fleet: Fleet, site: str) -> tuple[Facility, ...]:
    """Facilities of a site that speak through its own bus."""
    return tuple(
        f for f in fleet.facilities if f.site == site and not f.url and f.driver in OWN_BUS
    )


def mqtt_listener(
    fleet: Fleet, site: str, home: Path, password: str
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The `mqtt` block and the users of the leaf's own account; both empty where nobody needs them.

    Args:
        home: The site's state directory.
        password: Of the agent's own user.
    """
    listed = own_bus(fleet, site)
    if not listed:
        return {}, []
    host, _, port = listed[0].listen.rpartition(":")
    block: dict[str, Any] = {
        "host": host,
        "port": int(port),
        "ack_wait": ACK_WAIT,
        "max_ack_pending": IN_FLIGHT_MAX,
    }
    if not _is_loopback(host):
        identity = home / "identity"
        block["tls"] = {
            "cert_file": str(identity / "site.pem"),
            "key_file": str(identity / "site.key"),
        }
    users: list[dict[str, Any]] = [{"user": plant_user(site), "password": password}]
    by_name: dict[str, dict[str, Any]] = {}
    for facility in listed:
        says, hears = _subjects(facility, site)
        try:
            secret = secret_of(facility, home)
        except ConfigError as error:  # its publisher cannot log in; the site serves all the same
            log_line(f"facility {facility.id}: its publisher is not let in: {error}")
            continue
        known = by_name.setdefault(facility.user, {"password": secret, "says": [], "hears": []})
        known["says"] += says
        known["hears"] += hears
    for name, known in by_name.items():
        allowed = {
            "publish": {"allow": known["says"]},
            "subscribe": {"allow": [*known["hears"], MQTT_SUBJECTS]},
        }
        users.append({"user": name, "password": known["password"], "permissions": allowed})
    return block, users


def _subjects(facility: Facility, site: str) -> tuple[list[str], list[str]]:
    """What a publisher may say and hear."""
    if facility.driver == "mqtt":
        return ["BMS.v1.PUB.>"], ["BMS.v1.>"]
    name = facility.identifier or site
    own = [f"grid.v1.{role}.{name}.>" for role in ("dsx-flex-agent", "poweragent")]
    return ["grid.v1.isv.>", "grid.v1.infra.>"], own


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"
