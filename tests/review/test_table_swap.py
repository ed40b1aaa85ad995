"""A table that renumbers subjects while a request is under way must not lend the request another subject's rights."""

import asyncio
import json
import time
from pathlib import Path

from hanse.dispatch.table import Table
from live.gateway.rig import (
    KEY,
    SiteRig,
    chat,
    connect,
    fleet_toml,
    read_answer,
    run,
    start,
)
from live.gateway.rig import table_bytes as made

NEWCOMER = """[[tenant]]
id = "newcomer"
classes = ["public"]
[[tenant.key]]
id = "newcomer"
countries = ["EE", "FR"]
"""


def renumbered(toml: str) -> Table:
    """The next table: a tenant before all others, so that row numbers of health become those of public data."""
    first = toml.index("[[tenant]]")
    return Table.from_bytes(made(toml[:first] + NEWCOMER + toml[first:], version=1))


def row_of(table: Table, data_class: str, country: str) -> int:
    """The clinic's row."""
    clinic = next(key for key in table.meta.keys.values() if key.id == "clinic")
    return clinic.subjects[data_class][country]


def head_and_body(data_class: str) -> tuple[bytes, bytes]:
    """A request in two pieces."""
    body = json.dumps(chat()).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        "host: test",
        f"authorization: Bearer {KEY}",
        f"x-hanse-class: {data_class}",
        "x-hanse-country: FR",
        f"content-length: {len(body)}",
        "content-type: application/json",
    ]
    return "\r\n".join([*lines, "", ""]).encode(), body


def heard(site: SiteRig, other: str) -> bool:
    """Whether a site has heard of another lately."""
    load, index = site.worker.routing.load, site.worker.routing.table.site_index[other]
    return bool(time.time() - load.sites["sampled_at_s"][index] < 1.0)


def test_a_body_that_arrives_after_the_law_changed_is_judged_by_the_new_law(tmp_path: Path) -> None:
    async def test() -> None:
        toml = fleet_toml(("lyon",), 1)
        league = await start(tmp_path, sites=("lyon",))
        lyon = league["lyon"]
        old = lyon.worker.routing.table
        # The certificate that lets this site hold French health data is gone.
        new = renumbered(toml.replace('"hds_certified_host"', ""))
        stale, fresh = row_of(old, "health", "FR"), row_of(new, "health", "FR")
        assert old.lawful(stale, 0) and not new.lawful(fresh, 0)
        assert new.lawful(stale, 0), "the old number belongs to public data now"
        head, body = head_and_body("health")
        reader, writer = await connect(lyon.port)
        writer.write(head)
        while not any(link.grant for link in lyon.worker.client_door.open_connections):
            await asyncio.sleep(0.01)
        lyon.worker.use_table(new)
        writer.write(body)
        answer = await read_answer(reader)
        writer.close()
        assert not lyon.engines[0].posts(), "health data went to an engine that the law bars"
        assert answer.status in (421, 451)

    run(test)


def test_a_retry_after_the_rows_moved_sends_the_body_nowhere_it_may_not_go(tmp_path: Path) -> None:
    async def test() -> None:
        toml = fleet_toml(("lyon", "virginia"), 1)
        league = await start(tmp_path, sites=("lyon", "virginia"))
        lyon, virginia = league["lyon"], league["virginia"]
        old, new = lyon.worker.routing.table, renumbered(toml)
        row, there = row_of(old, "health", "FR"), old.site_index["virginia"]
        assert not old.lawful(row, there)
        assert not new.lawful(row_of(new, "health", "FR"), there)
        assert new.lawful(row, there), "the old number belongs to public data now"
        lyon.engines[0].mode = "hang"
        reader, writer = await connect(lyon.port)
        writer.write(b"".join(head_and_body("health")))
        while not lyon.engines[0].posts():
            await asyncio.sleep(0.01)
        lyon.worker.use_table(new)
        virginia.worker.use_table(new)
        while not heard(lyon, "virginia"):
            await asyncio.sleep(0.01)
        lyon.engines[0].mode = "cut"
        lyon.worker.engines[0].target.close()
        answer = await read_answer(reader)
        writer.close()
        assert not virginia.records(), (
            "health data crossed to a site that the law bars in both tables"
        )
        assert answer.status in (451, 502, 503)

    run(test)
