"""What of its site a worker looks at beside tables and engines: ways to other sites, revoked certificates, its own certificate.

Here: following three files that the site's agent replaces by rename, without a restart and without a word to requests under way. Not
here: writing them (`live.agent_league`), tables (`tables`), engines (`worker`).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from hanse.errors import HanseError
from hanse.live.gateway.peers import Peer, PeerTarget
from hanse.live.identity import (
    Identity,
    client_context,
    client_door_context,
    load_identity,
    server_context,
)
from hanse.live.reach import ReachFile
from hanse.live.revoked import RevokedFile

if TYPE_CHECKING:
    from hanse.live.gateway.settings import GatewaySettings
    from hanse.live.gateway.worker import Worker


class Surroundings:
    """One worker's; without an identity there are no hops and nothing to follow but URLs."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._home = Path(settings.identity_dir) if settings.identity_dir else None
        self._settings = settings
        self.urls = dict(settings.gateway_urls)
        self.peers = dict(settings.peers)
        self.maintenance = False
        """The operator is about to work on this site."""
        self.identity = self._load()
        self._certificate_seen = self._certificate_stamp()
        self._reach = ReachFile(Path(settings.table))
        self._revoked: RevokedFile | None = None
        self.tls_out: ssl.SSLContext | None = None
        self.tls_hop: ssl.SSLContext | None = None
        self.tls_client: ssl.SSLContext | None = None
        """Of the client port where that is reached from other machines."""
        if self.identity is not None:
            assert self._home is not None, "an identity lies somewhere"
            self._revoked = RevokedFile(self._home, self.identity.authority)
            self.tls_out = client_context(self.identity)
            self.tls_hop = server_context(self.identity)
            self.tls_client = client_door_context(self.identity)
        self._take_reach()

    def trusts(self, certificate_der: bytes | None) -> bool:
        """Whether the certificate of a verified connection is not revoked."""
        return self._revoked is None or self._revoked.holds(certificate_der)

    def look(self, worker: Worker) -> None:
        """Twice a second."""
        if self._take_reach():
            self._follow_peers(worker)
        if self._revoked is not None and self._revoked.look():
            self._put_out(worker)
        stamp = self._certificate_stamp()
        if stamp != self._certificate_seen:
            self._certificate_seen = stamp
            self._renew(worker)

    def make_peers(self, worker: Worker) -> None:
        """Targets and checks for sites that have none yet."""
        if self.identity is None or self.tls_out is None:
            return
        for site, address in self.peers.items():
            if site in worker.targets:
                continue
            target = PeerTarget(
                site, address, self.identity, self.tls_out, worker.loop, trusts=self.trusts
            )
            worker.targets[site] = target
            worker.peers[site] = Peer(target, worker.heard, worker.lost)
            worker.seen.add(site)

    def _take_reach(self) -> bool:
        reach = self._reach.newer()
        if reach is None:
            return False
        self.urls, self.maintenance = reach.urls or self.urls, reach.maintenance
        known, self.peers = self.peers, reach.peers or self.peers
        return known != self.peers

    def _follow_peers(self, worker: Worker) -> None:
        for site, target in list(worker.targets.items()):
            if target.url != f"https://{self.peers.get(site, '')}":
                worker.drop_peer(site)
        self.make_peers(worker)
        worker.reroute()

    def _put_out(self, worker: Worker) -> None:
        """Connections of revoked certificates end now, in both directions; what waits on them goes elsewhere."""
        worker.hop_door.forget_sessions()
        for link in tuple(worker.hop_door.open_connections):
            tls = link.transport.get_extra_info("ssl_object")
            if tls is not None and not self.trusts(tls.getpeercert(binary_form=True)):
                link.transport.abort()
        for target in worker.targets.values():
            for out in tuple(target.open):
                tls = out.transport.get_extra_info("ssl_object")
                if tls is not None and not self.trusts(tls.getpeercert(binary_form=True)):
                    target.close()
                    break

    def _renew(self, worker: Worker) -> None:
        """New handshakes show the new certificate; connections that are open stay."""
        try:
            identity = self._load()
        except HanseError:
            return  # the agent says what is wrong with it
        if identity is None:
            return
        self.identity = worker.identity = identity
        for context in (self.tls_out, self.tls_hop, self.tls_client):
            if context is not None:
                context.load_cert_chain(identity.certificate_path, identity.key_path)

    def _load(self) -> Identity | None:
        if self._home is None or not (self._home / "site.pem").exists():
            return None
        return load_identity(self._home, self._settings.fleet, self._settings.site, time())

    def _certificate_stamp(self) -> tuple[int, int]:
        if self._home is None:
            return 0, 0
        try:
            stat = (self._home / "site.pem").stat()
        except OSError:
            return 0, 0
        return stat.st_ino, stat.st_mtime_ns
