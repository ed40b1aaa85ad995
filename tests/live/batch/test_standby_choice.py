"""Which site stands by: who is asked, who may not any more, and that nobody else takes a batch over."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from hanse.errors import SiteError
from hanse.live.batch.api import PREFIX
from hanse.live.batch.asking import Whole
from hanse.live.batch.beat import Beat, Row
from hanse.live.batch.owners import Owner
from hanse.live.batch.standby import TAKEOVER_S
from hanse.live.batch.store import Store
from hanse.live.batch.values import BatchMeta
from live.batch.home import WHO, answered
from live.batch.test_standby import NOTE, Site, mine, told_by


def by_gateway(refusal: str) -> Whole:
    """What the standby's gateway says before its batch process hears of it."""
    return Whole(409, {"x-hanse-refusal": refusal}, b"")


@pytest.mark.parametrize("answer", [answered(500), answered(503), by_gateway("table")])
def test_the_hub_vouches_where_the_standby_answers_something_else(
    tmp_path: Path, answer: Whole
) -> None:
    site = Site(tmp_path, lambda *_: answer)
    meta = mine(site)
    site.owners.is_owned_by("lyon", meta.epoch)
    with pytest.raises(SiteError):
        asyncio.run(site.standby._beat(meta))
    site.standby._hold_unsure(time.monotonic())
    assert site.home.runner.held == frozenset()
    assert site.batches[meta.id] == meta and len(site.home.commits.kept) == 5


def test_who_is_told_of_another_home_and_is_the_owner_keeps_what_it_has(tmp_path: Path) -> None:
    site = Site(tmp_path, lambda *_: answered(409))
    meta = mine(site)
    site.owners.is_owned_by("lyon", meta.epoch + 1)
    asyncio.run(site.standby._beat(meta))
    assert site.batches[meta.id] == msgspec.structs.replace(meta, epoch=meta.epoch + 1)
    assert len(site.home.commits.kept) == 5


def test_a_standby_that_is_barred_at_its_home_is_parted_with(tmp_path: Path) -> None:
    """Or is in the table no more: law says the same of both."""
    site = Site(tmp_path)
    meta = mine(site)
    site.owners.is_owned_by("lyon", meta.epoch)
    site.home.access.sites = ["lyon", "oslo"]
    asyncio.run(site.standby._beat(meta))
    assert not site.peers.told, "nothing is sent to whom it is barred from"
    assert (site.batches[meta.id].standby, site.batches[meta.id].epoch) == ("", meta.epoch + 1)
    site.standby._hold_unsure(time.monotonic())
    assert site.home.runner.held == frozenset(), "lines go on"
    for _ in range(2):
        asyncio.run(site.standby._beat(site.batches[meta.id]))
    assert site.batches[meta.id].standby == "oslo"
    assert [len(beat.rows) for beat in site.beats()] == [0, 5]


def test_a_standby_that_is_barred_by_its_own_table_is_parted_with(tmp_path: Path) -> None:
    site = Site(tmp_path, lambda *_: by_gateway("law"))
    meta = mine(site)
    site.owners.is_owned_by("lyon", meta.epoch)
    site.owners.away = True
    with pytest.raises(SiteError):
        asyncio.run(site.standby._beat(meta))
    assert site.batches[meta.id] == meta, "without a claim it could still take over"
    site.owners.away = False
    asyncio.run(site.standby._beat(meta))
    assert (site.batches[meta.id].standby, site.batches[meta.id].epoch) == ("", meta.epoch + 1)


def silent(site: Site, meta: BatchMeta) -> None:
    """Its home has said nothing for long enough."""
    site.standby._heard_at_s[meta.id] = time.monotonic() - TAKEOVER_S - 1.0
    asyncio.run(site.standby._watch(site.batches[meta.id]))


@pytest.mark.parametrize("barred", [False, True])
def test_a_standby_takes_over_what_it_may_read_and_deletes_what_it_may_not(
    tmp_path: Path, barred: bool
) -> None:
    site, meta = Site(tmp_path), told_by("tallinn")
    file = msgspec.structs.replace(site.home.keeper.new_file(WHO, "a", 1), id=meta.input_file_id)
    site.home.store.data_path(file.id).write_bytes(b"x")
    site.hear(Beat(batch=meta, files=(file,), rows=(Row(0, NOTE, b"x"),)))
    site.owners.is_owned_by("tallinn", meta.epoch)
    if barred:
        site.home.access.sites = ["tallinn"]
    silent(site, meta)
    if barred:
        assert site.owners.last is not None and site.owners.last.site == "tallinn"
        assert not site.batches and not site.home.store.files and not site.home.commits.kept
        assert not site.home.store.data_path(file.id).exists()
    else:
        assert site.batches[meta.id].home == "lyon"


def test_who_has_a_standby_keeps_it_when_one_home_is_enough_for_new_batches(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path)
    meta = mine(site)
    site.standby.copies = 1
    assert not site.standby._idle(meta), "else its lines would be held after a few seconds"
    assert not site.standby._idle(msgspec.structs.replace(meta, status="completed"))
    alone = msgspec.structs.replace(meta, standby="")
    assert site.standby._idle(alone)
    site.standby.copies = 2
    assert not site.standby._idle(alone)
    assert site.standby._idle(msgspec.structs.replace(alone, status="finalizing"))


def test_a_claim_that_a_crash_came_after_is_known_again(tmp_path: Path) -> None:
    site = Site(tmp_path)
    meta = mine(site)
    site.owners.is_owned_by("lyon", meta.epoch + 1)
    assert asyncio.run(site.standby.may_begin(meta))
    assert site.batches[meta.id].epoch == meta.epoch + 1


def unchosen(site: Site) -> BatchMeta:
    """A batch of this home that has no standby yet."""
    meta = site.home.change(site.home.begin(2).id, status="in_progress", lines=2)
    site.home.access.sites = ["lyon", "tallinn", "oslo"]
    return meta


def lose_first_beat(site: Site, hub_too: bool) -> Callable[[str, str, str], Whole]:
    """Tallinn hears everything, and the answer to its first beat is lost."""

    def act(at: str, _: str, path: str) -> Whole:
        if (at, path) == ("tallinn", f"{PREFIX}/beat"):
            kept = Store(site.home.store.home)  # as after a crash here
            assert [one.standby for one in kept.batches.values()] == ["tallinn"]
            site.owners.away = hub_too
            raise SiteError("tallinn", got="nothing", allowed="an answer")
        return answered()

    return act


def test_who_was_told_of_a_batch_and_did_not_answer_cannot_take_it_over(tmp_path: Path) -> None:
    site = Site(tmp_path)
    meta = unchosen(site)
    site.peers.act = lose_first_beat(site, hub_too=False)
    asyncio.run(site.standby._beat(meta))
    first, second = site.beats()
    assert (first.batch.standby, second.batch.standby) == ("tallinn", "oslo")
    assert site.owners.last is not None
    assert first.batch.epoch < second.batch.epoch == site.owners.last.epoch
    assert site.batches[meta.id].standby == "oslo"

    file = site.home.store.files[meta.input_file_id]
    site.home.change(meta.id, status="completed")
    site.home.keeper.delete_file(file.id)
    assert site.home.store.drops[file.id].sites == ("oslo", "tallinn"), "both have its bytes"


def test_it_stays_the_standby_where_no_claim_keeps_it_from_taking_over(tmp_path: Path) -> None:
    site = Site(tmp_path)
    meta = unchosen(site)
    site.peers.act = lose_first_beat(site, hub_too=True)
    with pytest.raises(SiteError):
        asyncio.run(site.standby._beat(meta))
    assert site.batches[meta.id].standby == "tallinn"
    site.peers.act = lambda *_: answered()
    asyncio.run(site.standby._beat(site.batches[meta.id]))
    first, again = site.beats()
    assert again.files == first.files == (site.home.store.files[meta.input_file_id],)


def test_a_batch_that_is_anothers_is_given_up_while_a_standby_is_sought(tmp_path: Path) -> None:
    site = Site(tmp_path)
    meta = unchosen(site)

    def act(at: str, _: str, path: str) -> Whole:
        site.owners.is_owned_by("tallinn", 9)
        return answered(409 if path.endswith("/beat") else 200)

    site.peers.act = act
    asyncio.run(site.standby._beat(meta))
    assert (site.batches[meta.id].home, site.batches[meta.id].standby) == ("tallinn", "")


def test_no_site_that_takes_a_copy_is_a_reason_to_pause(tmp_path: Path) -> None:
    site = Site(tmp_path, lambda *_: answered(503))
    meta = unchosen(site)
    with pytest.raises(SiteError, match="no site"):
        asyncio.run(site.standby._beat(meta))
    assert site.batches[meta.id].standby == ""


def test_a_copy_that_its_home_gave_another_epoch_is_deleted(tmp_path: Path) -> None:
    site, meta = Site(tmp_path), told_by("tallinn")
    site.hear(Beat(batch=meta))
    site.owners.last = Owner(site="tallinn", epoch=meta.epoch + 1, ended=True)
    silent(site, meta)
    assert site.batches == {meta.id: meta}, (
        "its last word was said, and its files are still to come"
    )
    site.owners.is_owned_by("tallinn", meta.epoch + 1)
    silent(site, meta)
    assert not site.batches


def test_an_end_is_not_copied_to_whom_it_is_barred_from(tmp_path: Path) -> None:
    site = Site(tmp_path)
    meta = site.home.change(mine(site).id, status="completed")
    site.home.access.sites = ["lyon"]
    asyncio.run(site.standby._beat(meta))
    assert not site.peers.told and site.standby._idle(site.batches[meta.id])
