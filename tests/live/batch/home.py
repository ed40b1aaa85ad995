"""One home of batches in this process: a real disk, a stream of commits and a gateway in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

from hanse.errors import SiteError
from hanse.live.batch.access import Access
from hanse.live.batch.asking import Hops, Lines, Whole
from hanse.live.batch.commits import Commits, Note, StreamFull
from hanse.live.batch.keeper import Ask, Keeper
from hanse.live.batch.runner import Runner
from hanse.live.batch.store import Store
from hanse.live.batch.values import BatchMeta, FileMeta, Who
from hanse.model.fleet import Batch as Limits

CHAT = "/v1/chat/completions"
WHO = Who(tenant="t", key_id="k", data_class="public", country="FR")


class MemoryCommits:
    """As `Commits`, without a server; `away` makes it one that does not answer."""

    def __init__(self) -> None:
        self.kept: dict[tuple[str, int], tuple[Note, bytes]] = {}
        self.away = False
        self.bytes_max = 10**9
        self.forgotten: list[str] = []

    def _ask(self) -> None:
        if self.away:
            raise SiteError("bus", got="nothing", allowed="an answer")

    async def commit(self, batch_id: str, line: int, payload: bytes, note: Note) -> Note:
        self._ask()
        stored = sum(len(content) for _, content in self.kept.values())
        if (batch_id, line) not in self.kept and stored + len(payload) > self.bytes_max:
            raise StreamFull("bus", got="no room", fix="make some")
        return self.kept.setdefault((batch_id, line), (note, payload))[0]

    async def notes(self, batch_id: str) -> AsyncIterator[tuple[int, Note]]:
        async for line, note, _ in self.read(batch_id):
            yield line, note

    async def read(self, batch_id: str) -> AsyncIterator[tuple[int, Note, bytes]]:
        for (batch, line), (note, content) in tuple(self.kept.items()):
            self._ask()
            if batch == batch_id:
                yield line, note, content

    async def stored_bytes(self, batch_id: str) -> int:
        return sum([len(content) async for _, _, content in self.read(batch_id)])

    async def content(self, batch_id: str, line: int) -> bytes | None:
        self._ask()
        found = self.kept.get((batch_id, line))
        return None if found is None else found[1]

    async def forget(self, batch_id: str) -> None:
        self._ask()
        self.forgotten.append(batch_id)
        for key in [key for key in self.kept if key[0] == batch_id]:
            del self.kept[key]


class MemoryAccess:
    """Knows one model, `known`, as long as that is true."""

    def __init__(self) -> None:
        self.known = True
        self.sites = ["lyon", "tallinn"]

    def refresh(self) -> None: ...

    def body_bytes_max(self) -> int:
        return 10_000 if self.known else 0

    def model_flaw(self, *_: object) -> Callable[[str, int], tuple[str, str] | None]:
        return lambda *_: None if self.known else ("model_not_found", "gone")

    def visible(self, *_: object) -> bool:
        return True

    def lawful(self, _: object, site: str) -> bool:
        return site in self.sites

    def lawful_sites(self, _: object) -> list[str]:
        return self.sites


def answered(status: int = 200, body: bytes = b"{}", request_id: str = "r") -> Whole:
    return Whole(status, {"x-request-id": request_id}, body)


class MemoryLines:
    """The gateway: `act` says what becomes of a line."""

    def __init__(self, act: Callable[[bytes], Whole]) -> None:
        self.act = act
        self.sent: list[bytes] = []
        self.sent_to: list[str] = []

    async def post(self, endpoint: str, who: Who, body: bytes, at: str = "") -> Whole:
        self.sent_to.append(at)
        self.sent.append(body)
        return self.act(body)


class Home:
    """Of `lyon`; made again on the same directory it is the same home after a crash."""

    def __init__(
        self,
        path: Path,
        act: Callable[[bytes], Whole] = lambda _: answered(),
        commits: MemoryCommits | None = None,
    ) -> None:
        self.store = Store(path)
        self.access = MemoryAccess()
        self.commits = commits or MemoryCommits()
        self.lines = MemoryLines(act)
        self.runner = Runner(
            cast(Lines, self.lines),
            cast(Commits, self.commits),
            8,
            lambda work: self.keeper.progressed(work),
        )
        self.keeper = Keeper(
            "lyon",
            self.store,
            cast(Access, self.access),
            cast(Commits, self.commits),
            self.runner,
            Limits(),
        )

    def upload(self, count: int, **body: object) -> FileMeta:
        rows = (
            {
                "custom_id": f"c{n}",
                "method": "POST",
                "url": CHAT,
                "body": {"model": "m", "messages": [], "n": n} | body,
            }
            for n in range(count)
        )
        draft = self.store.draft()
        draft.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        meta = self.keeper.new_file(WHO, "in.jsonl", draft.stat().st_size)
        self.store.add_file(meta, draft)
        return meta

    def begin(self, count: int, window: str = "24h") -> BatchMeta:
        ask = Ask(input_file_id=self.upload(count).id, endpoint=CHAT, completion_window=window)
        return self.keeper.create(WHO, self.store.files[ask.input_file_id], ask)

    def change(self, batch_id: str, **changes: Any) -> BatchMeta:
        return self.store.change(batch_id, **changes)

    def rows(self, file_id: str) -> list[dict[str, Any]]:
        if not file_id:
            return []
        return [
            json.loads(line)
            for line in self.store.data_path(file_id).read_bytes().split(b"\n")[:-1]
        ]


class PeerHops:
    """Peers that answer as `act` says; remembers what they were told."""

    def __init__(self, act: Callable[[str, str, str], Whole]) -> None:
        self.peers = {"tallinn": "", "oslo": ""}
        self.act = act
        self.told: list[tuple[str, str, str, Any]] = []

    async def whole(
        self, site: str, method: str, path: str, who: Who, body: Any = b"", **_: object
    ) -> Whole:
        self.told.append((site, method, path, body))
        return self.act(site, method, path)


def hops(act: Callable[[str, str, str], Whole]) -> tuple[PeerHops, Hops]:
    made = PeerHops(act)
    return made, cast(Hops, made)
