"""A pymodbus server in a thread of its own, whose registers a test may change while it runs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def modbus_server(
    holding: Mapping[int, int], inputs: Mapping[int, int] | None = None, unit: int = 1
) -> Iterator[tuple[str, dict[int, int]]]:
    """URL, and the holding registers by address; addresses not named are refused, as by a real device."""
    from pymodbus.server import ModbusTcpServer
    from pymodbus.simulator import DataType, SimData, SimDevice

    live = dict(holding)

    def blocks(words: Mapping[int, int]) -> list[Any]:
        runs: list[list[int]] = []
        for address in sorted(words):
            if runs and runs[-1][-1] == address - 1:
                runs[-1].append(address)
            else:
                runs.append([address])
        return [
            SimData(run[0], values=[words[a] for a in run], datatype=DataType.REGISTERS)
            for run in runs
        ]

    async def fresh(
        function: int, start: int, address: int, count: int, registers: list[int], _set: Any
    ) -> None:
        if function == 3:
            for at in range(address, address + count):
                if at in live:
                    registers[at - start] = live[at]

    none = [SimData(0, values=False, count=16, datatype=DataType.BITS)]
    device = SimDevice(
        unit, simdata=(none, none, blocks(holding), blocks(inputs or {0: 0})), action=fresh
    )
    started, ended = threading.Event(), threading.Event()
    found: list[Any] = []

    async def serve() -> None:
        server = ModbusTcpServer(device, address=("127.0.0.1", 0))
        await server.listen()
        found.append(server.transport.sockets[0].getsockname()[1])
        started.set()
        while not ended.is_set():
            await asyncio.sleep(0.02)
        await server.shutdown()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert started.wait(20), "pymodbus does not listen"
        yield f"modbus://127.0.0.1:{found[0]}", live
    finally:
        ended.set()
        thread.join()
