"""On the path of the hub's processes in `scale.py` alone: every site's user at the hub's bus also has a password.

Sites are let in by certificate, at the port for leaf servers. Light sites (`rig.scale_sites`) are clients, and come in by the port for clients,
as the same users with the same permissions; a certificate counts for nothing there. A server takes its own domain out of a client's subjects
before it looks at permissions, so the two questions of JetStream that a site has are also allowed as they are then.
"""

from typing import Any

from hanse.live import bus

PASSWORD = "scale"
_site_user = bus._site_user


def _with_password(site: str, seat: str) -> dict[str, Any]:
    user = _site_user(site, seat) | {"password": PASSWORD}
    allowed = user["permissions"]["publish"]["allow"]
    own = f"$JS.{bus.HUB}.API."
    allowed += [f"$JS.API.{name.removeprefix(own)}" for name in allowed if name.startswith(own)]
    return user


bus._site_user = _with_password
