"""Rows for people: sent without waiting, dropped when nobody listens, and without content."""

import socket

import msgspec

from hanse.live.gateway import metrics
from hanse.live.gateway.feed import ROWS_PER_S_MAX, Feed
from hanse.view import DecisionRow
from live.gateway.rig import SHOP_KEY, ask, chat, run, start


def test_a_row_tells_of_each_request_beside_what_one_big_site_would_have_done(tmp_path):
    async def test():
        league = await start(tmp_path, sites=("lyon", "virginia"))
        lyon = league["lyon"]
        path = str(tmp_path / "feed.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as agent:
            agent.bind(path)
            agent.setblocking(False)
            lyon.worker.feed = Feed(path, lyon.worker.counts)
            await ask(lyon.port, chat("a secret of a patient"))
            data = agent.recv(65_536)
            row = msgspec.msgpack.decode(data, type=DecisionRow)
            assert (row.outcome, row.site, row.data_class) == ("served", "lyon", "health")
            assert row.measured is not None
            assert row.measured.energy_wh > 0
            assert row.predicted is not None
            assert row.central is not None
            assert row.central.outcome == "refused"  # virginia may not see a French clinic's data
            assert row.central.rules
            assert b"secret" not in data
            await ask(lyon.port, chat(), key=SHOP_KEY, headers={"x-hanse-country": "US"})
            row = msgspec.msgpack.decode(agent.recv(65_536), type=DecisionRow)
            assert row.central is not None
            assert row.central.outcome == "served"

    run(test)


def test_without_a_listener_rows_are_dropped_and_counted(tmp_path):
    async def test():
        league = await start(tmp_path)
        lyon = league["lyon"]
        lyon.worker.feed = Feed(str(tmp_path / "nobody.sock"), lyon.worker.counts)
        assert (await ask(lyon.port, chat())).status == 200
        assert lyon.worker.counts.row[metrics.FEED_DROPPED] == 1

    run(test)


def test_no_more_rows_are_built_than_an_agent_passes_on(tmp_path):
    async def test():
        league = await start(tmp_path)
        feed = Feed(str(tmp_path / "x.sock"), league["lyon"].worker.counts)
        wanted = 0
        while feed.wanted():
            feed._tokens -= 1.0
            wanted += 1
        assert wanted == ROWS_PER_S_MAX
        feed.refill(0.5)
        assert feed.wanted()

    run(test)
