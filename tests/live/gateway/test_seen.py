"""Which other sites answer: what workers write into the shared page is what the agent reads from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hanse.live.gateway.seen import PeerRow, digest, unheard
from hanse.live.shared import PEERS_MAX, WORKERS_MAX, SharedPage

SITES = tuple(f"site-{n}" for n in range(5))
DONE = st.lists(
    st.tuples(
        st.integers(0, 1), st.sampled_from(SITES), st.sampled_from(("answers", "silent", "drop"))
    ),
    max_size=40,
)


@given(DONE, st.sets(st.integers(0, 1), min_size=1))
def test_unheard_is_who_answers_no_living_worker(
    done: list[tuple[int, str, str]], living: set[int]
) -> None:
    page = SharedPage.private()
    rows = [PeerRow(page.peers[worker]) for worker in range(2)]
    truth: list[dict[str, str]] = [{}, {}]
    for worker, site, what in done:
        rows[worker].add(site)
        getattr(rows[worker], what)(site)
        if what == "drop":
            truth[worker].pop(site, None)
        else:
            truth[worker][site] = what
    alive = page.workers[:, 0] != 0.0
    alive[sorted(living)] = True
    told = unheard(page.peers, alive, SITES)
    if not any(truth[worker] for worker in living):
        assert told is None
    else:
        heard = {s for worker in living for s, state in truth[worker].items() if state == "answers"}
        assert told == tuple(site for site in SITES if site not in heard)


def test_nothing_is_said_before_every_peer_was_asked() -> None:
    page = SharedPage.private()
    row = PeerRow(page.peers[0])
    alive = page.workers[:, 0] == 0.0
    assert unheard(page.peers, alive, SITES) is None
    for site in SITES:
        row.add(site)
    for site in SITES[:-1]:
        row.answers(site)
    assert unheard(page.peers, alive, SITES) is None
    row.silent(SITES[-1])
    assert unheard(page.peers, alive, SITES) == SITES[-1:]
    page.clear_worker(0)
    assert unheard(page.peers, alive, SITES) is None


def test_a_league_of_more_sites_than_slots_is_told_of_as_far_as_it_goes() -> None:
    page = SharedPage.private()
    row = PeerRow(page.peers[WORKERS_MAX - 1])
    sites = [f"s{n}" for n in range(PEERS_MAX + 3)]
    for site in sites:
        row.add(site)
        row.answers(site)
    alive = page.workers[:, 0] == 0.0
    assert unheard(page.peers, alive, sites) == tuple(sites[PEERS_MAX:])
    assert len({digest(site) for site in sites}) == len(sites)
