"""The other home of a batch (stub to be replaced in this commit series)."""

from __future__ import annotations

import asyncio


class Standby:
    def __init__(self, *a: object) -> None: ...
    def join(self, api: object) -> None: ...
    async def run(self) -> None:
        await asyncio.Event().wait()
