"""A gateway worker without sockets: bytes go in and come out of transports that only remember them."""

from __future__ import annotations

import asyncio
import re
import time
from pathlib import Path

from hanse.live.gateway.incoming import Incoming
from hanse.live.gateway.outgoing import Outgoing
from hanse.live.gateway.settings import EngineSeat, GatewaySettings
from hanse.live.gateway.worker import Worker
from hanse.live.shared import ENGINE_ALIVE, ENGINE_STATE, FLAG_AGENT_AT_S
from live.gateway.rig import fleet_toml, table_bytes

VARYING = re.compile(
    rb"(x-request-id: |date: |ttft_ms=|e2e_ms=|wh=|g=|usd=|\"request_id\":\")[^;\r\"]*"
)
"""What two runs of the same request differ in."""


class Wire:
    """A transport that remembers what was written to it and whether it was closed."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = ""
        self.reading = True

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.written += data

    def take(self) -> bytes:
        data, self.written = self.written, b""
        return data

    def set_write_buffer_limits(self, high: int) -> None:
        pass

    def get_extra_info(self, name: str) -> None:
        return None

    def is_closing(self) -> bool:
        return self.closed in ("close", "abort")

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closed = self.closed or "eof"

    def close(self) -> None:
        self.closed = "close"

    def abort(self) -> None:
        self.closed = "abort"

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True


class Unwired:
    """One site of one worker with one engine for `chat`."""

    def __init__(self, home: Path, loop: asyncio.AbstractEventLoop) -> None:
        home.mkdir(parents=True)
        self.home = home
        (home / "table-1.tbl").write_bytes(table_bytes(fleet_toml(("lyon",), 1, central=False)))
        (home / "current").write_text("1\n")
        url = "http://127.0.0.1:1"
        settings = GatewaySettings(
            site="lyon",
            fleet="test",
            port=0,
            table=str(home),
            page=str(home / "shared.mmap"),
            engines=(
                EngineSeat(service="chat", variant="q4", url=url),
                EngineSeat(service="embed", variant="mini", url=url),
            ),
            evidence_dir=str(home / "evidence"),
            state_dir=str(home),
        )
        self.worker = Worker(settings, loop)
        page = self.worker.page
        page.flags[FLAG_AGENT_AT_S] = time.time() + 1e6
        page.engines[:2, ENGINE_STATE] = ENGINE_ALIVE
        self.worker.routing.refresh(time.time())
        self.engine_wires: list[Wire] = []
        for engine in self.worker.engines:
            out, wire = Outgoing(engine.target), Wire()
            out.connection_made(wire)  # type: ignore[arg-type]
            engine.target.release(out)
            self.engine_wires.append(wire)
        self.outs = [engine.target.idle[0] for engine in self.worker.engines]

    def connect(self) -> tuple[Incoming, Wire]:
        """A client's connection."""
        link, wire = Incoming(self.worker.client_door), Wire()
        link.connection_made(wire)  # type: ignore[arg-type]
        return link, wire

    def turn(self, answer: bytes) -> bytes:
        """Let requests go on, give each engine's answer; what the engines were sent."""
        self.worker.ledger.flush()
        sent = b""
        for wire, out in zip(self.engine_wires, self.outs, strict=True):
            data = wire.take()
            if data:
                sent += data
                out.data_received(answer)
        return sent

    def close(self) -> None:
        self.worker.ledger.close()


def alike(data: bytes) -> bytes:
    """Bytes without what differs from run to run."""
    return VARYING.sub(rb"\1", data)
