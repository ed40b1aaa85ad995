"""A change of the fleet at run time: one request, one event, no restart; refused as a whole, and known to the next leader."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hanse.dispatch.table import Table
from hanse.errors import SiteError
from hanse.live import bus
from hanse.live.ask_change import ask as ask_hub
from hanse.live.fleet_change import newest_league
from hanse.live.hub_seats import _users
from hanse.live.join.compose import with_site
from hanse.live.league_file import Answered, Change, LeagueFile, LeagueStore, Standing
from hanse.live.runtime import HubAddress, Runtime, StateDir
from live.join.test_compose import hosts_example
from live.test_controller import Hub, run, until


async def ask(hub: Hub, change: Change) -> Answered:
    """As a program of the hub does; who does not lead yet says nothing."""
    while True:
        try:
            answer = await hub.client.request(
                bus.CHANGE_SUBJECT, msgspec.msgpack.encode(change), timeout=2.0
            )
        except Exception:
            await asyncio.sleep(0.1)
            continue
        return msgspec.msgpack.decode(answer.data, type=Answered)


def known(hub: Hub) -> LeagueFile:
    league = LeagueStore(hub.state.hub).newest()
    assert league is not None
    return league


def with_joiner(league: LeagueFile) -> Change:
    text = with_site(league.toml, "joiner", hosts_example(), {})
    return Change(
        base=league.revision, toml=text, files=league.files, by="join", joined=("joiner",)
    )


def test_a_site_joins_the_table_the_bus_and_the_picture_without_a_restart(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        before = await hub.table()
        controller = hub.controllers["one"][0]
        answer = await ask(hub, with_joiner(known(hub)))
        assert answer == Answered(revision=2)
        after = await hub.table(lambda table: "joiner" in table.site_index)
        assert after.meta.version > before.meta.version
        kept = after.meta.offers[: len(before.meta.offers)]
        assert kept == before.meta.offers, "offers keep their indices: nobody counts anew"
        conf = hub.state.hub / "hub.conf"
        await until(lambda: "joiner.1.hanse" in _users(conf.read_text()))
        sites = {site.id for site in (await hub.view()).sites}
        assert "joiner" in sites
        published, _ = await newest_league(hub.client)
        assert published is not None
        assert (published.revision, published.toml) == (2, known(hub).toml)
        assert published.epoch == controller._dispatcher.epoch
        for _ in range(200):  # seats are looked after once a second
            info = await hub.client.jetstream().stream_info(bus.EVIDENCE)
            named = {s.external.api for s in info.config.sources or () if s.external}
            if "$JS.joiner.API" in named:
                break
            await asyncio.sleep(0.05)
        assert "$JS.joiner.API" in named, "its evidence will be fetched"

    run(tmp_path, body)


def test_a_wrong_or_late_change_changes_nothing(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        await hub.table()
        right = with_joiner(known(hub))
        wrong = msgspec.structs.replace(right, toml=right.toml + "\n[[link]]\na = 'x'\nb = 'y'\n")
        answer = await ask(hub, wrong)
        assert answer.revision == 1
        assert "rtt_ms" in answer.problem
        assert (await ask(hub, right)).problem == ""
        late = await ask(hub, right)
        assert (late.revision, known(hub).revision) == (2, 2)
        assert "revision 1" in late.problem
        answer = await ask(hub, msgspec.structs.replace(right, base=2, toml=""))
        assert answer.problem
        assert known(hub).revision == 2

    run(tmp_path, body)


@pytest.mark.long
def test_a_leader_that_takes_over_knows_what_the_one_before_has_changed(tmp_path: Path) -> None:
    """The second has read its disk before the change, as one at another hub would."""

    async def body(hub: Hub) -> None:
        hub.start("one")
        await hub.table()
        hub.start("two")
        await asyncio.sleep(1.0)  # it has loaded the first revision and waits for the lease
        assert (await ask(hub, with_joiner(known(hub)))).revision == 2
        first = await hub.table(lambda table: "joiner" in table.site_index)
        LeagueStore(hub.state.hub)._path(2).unlink()  # the other hub's disk is another one
        await hub.kill("one")
        second = await hub.table(lambda table: table.meta.epoch > first.meta.epoch)
        assert "joiner" in second.site_index
        assert known(hub).revision == 2

    run(tmp_path, body)


def standing(hub: Hub, **fields: Any) -> Change:
    league = known(hub)
    return Change(base=league.revision, toml=league.toml, files=league.files, by="x", **fields)


def out(table: Table) -> set[str]:
    return {table.meta.sites[i].id for i in np.flatnonzero(table.sites["drained"])}


def test_a_site_out_of_service_is_in_every_table_until_its_time_is_over(tmp_path: Path) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        await hub.table()
        now_s = time.time()
        closed = Standing(state="maintenance", since_s=now_s, until_s=now_s + 3.0, why="disks")
        assert (await ask(hub, standing(hub, standing={"tallinn": closed}))).problem == ""
        await hub.table(lambda table: out(table) == {"tallinn"})
        shown = {site.id: site.standing for site in (await hub.view()).sites}
        assert shown["tallinn"] is not None and shown["tallinn"].why == "disks"
        assert shown["lyon"] is None
        await hub.end()
        hub.start("two")  # another leader, from the disk
        await hub.table(lambda table: out(table) == {"tallinn"})
        await hub.table(lambda table: not out(table))
        assert known(hub).standing == {}
        assert (known(hub).revision, known(hub).by) == (3, "time limit")

    run(tmp_path, body)


def test_who_would_be_left_without_a_lawful_site_is_named_and_a_word_overrules(
    tmp_path: Path,
) -> None:
    async def body(hub: Hub) -> None:
        hub.start()
        await hub.table()
        everywhere = {
            site: Standing(state="drained", since_s=0.0) for site in hub.prepared.runtime.sites
        }
        answer = await ask(hub, standing(hub, standing=everywhere))
        assert "no other site may and can answer" in answer.problem
        assert answer.revision == known(hub).revision == 1
        assert (await ask(hub, standing(hub, standing=everywhere, force=True))).problem == ""
        await hub.table(lambda table: out(table) == set(everywhere))

    run(tmp_path, body)


def test_what_needs_a_restart_is_refused_by_the_hub_itself(tmp_path: Path) -> None:
    """Whoever asks, by whatever program."""

    async def body(hub: Hub) -> None:
        hub.start()
        await hub.table()
        change = standing(hub)
        other = msgspec.structs.replace(change, toml=moved(change.toml))
        answer = await ask(hub, other)
        assert "gateway" in answer.problem and "To fix" in answer.problem
        assert known(hub).revision == 1

    run(tmp_path, body)


def test_slow_loop_feeds_and_policies_change_while_it_runs(tmp_path: Path) -> None:
    """What used to be read at a start; a policy that is wrong would shut everybody out, and is refused."""
    hour_s = time.time() // 3600.0 * 3600.0
    table = tmp_path / "own.csv"
    table.write_text(f"utc,g\n{hour_s - 3600.0},700\n{hour_s},777\n")
    feeds = f'[[feed]]\nprovider = "csv"\nzone = "virginia"\npath = "{table}"\n'

    async def body(hub: Hub) -> None:
        hub.start()
        await hub.table()
        controller = hub.controllers["one"][0]
        assert controller._dispatcher.slow.outlook is None
        league = known(hub)
        loop = "\n[slow_loop]\nplaces = true\nplace_every_s = 5\ndemand_bin_s = 60\n"
        text = league.toml.replace("\nname = ", '\nfeeds = "feeds.toml"\nname = ', 1) + loop
        change = Change(base=1, toml=text, files=league.files | {"feeds.toml": feeds}, by="x")
        assert await ask(hub, change) == Answered(revision=2)
        virginia = [s.id for s in hub.prepared.fleet.sites].index("virginia")
        await hub.table(lambda t: t.sites["g_per_wh"][virginia] > 0.7)
        await until(lambda: controller._dispatcher.slow.outlook is not None)
        assert controller._slow.counts.bin_s == 60

        named = text.replace("valid_s = 86400", 'valid_s = 86400\ncedar_files = ["own.cedar"]')
        wrong = msgspec.structs.replace(
            change, base=2, toml=named, files=change.files | {"own.cedar": "forbid (principal"}
        )
        answer = await ask(hub, wrong)
        assert "policy own.cedar" in answer.problem and known(hub).revision == 2

    run(tmp_path, body)


def moved(text: str) -> str:
    """A gateway with one worker more."""
    found = re.sub(r"gateway = \{ ([^}]*)\}", r"gateway = { workers = 3, \1}", text, count=1)
    assert found != text
    return found


def test_a_change_to_a_league_that_is_stopped_names_what_starts_it(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    state = StateDir(tmp_path)
    state.make((), hub=True)
    hub = HubAddress(host="127.0.0.1", client_port=port, leaf_port=2, control_port=3)
    known = Runtime(fleet="f", hub=hub, sites={})
    state.write_runtime(known)
    bus.ensure_secrets(state, (), hub=True)
    with pytest.raises(SiteError, match="hanse up FLEET"):
        ask_hub(state, Change(base=1, toml="", files={}, by="me", why=""))
