"""A site that was taken over says what it likes on its own subjects: the controller goes on, and the others are not touched by it."""

from __future__ import annotations

import asyncio
import math
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from effort import effort
from hanse.dispatch import events as ev
from hanse.live import bus, controller
from hanse.live.archive import EvidenceCopy
from hanse.live.batch.follow import BatchReport
from hanse.live.controller import Controller
from hanse.live.demand import DemandReport
from hanse.live.first_start import prepare
from hanse.live.gateway.frames import LoadFrame, read_header, read_json
from hanse.live.hearsay import EPOCH_JUMP_MAX, EpochClaims
from hanse.model.fleet import Placement
from hanse.model.told import COUNT_MAX
from hanse.signals.forecast.expected import expected_demand
from hanse.view import DecisionRow, SiteStatus

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"
LIAR = "lyon"
TOLD: dict[str, Any] = {
    "status": SiteStatus,
    "decisions": list[DecisionRow],
    "demand": DemandReport,
    "batches": BatchReport,
}
"""What a site's agent and batch process publish, by the last part of the subject."""


class Deaf:
    """A bus that takes everything and says nothing."""

    is_connected = False

    async def publish(self, *_: Any) -> None: ...

    def jetstream(self, **_: Any) -> Any:
        return self


@pytest.fixture(scope="module")
def leader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """A controller that leads, on a deaf bus."""
    directory = tmp_path_factory.mktemp("hub")
    text = LEAGUE.read_text()
    for port in range(8101, 8106):
        text = text.replace(f"port = {port}", "port = 0")
    (directory / "league.toml").write_text(text)
    made = Controller(prepare(directory / "league.toml", directory / "state"), None)
    made._client = Deaf()  # type: ignore[assignment]
    made._load(b"", None)
    made._tell(ev.EpochGranted(at_s=time.time(), epoch=3))
    made._lease._revision, made._lease._renewed_s = 1, float("inf")
    made.asked = []  # type: ignore[attr-defined]
    made._slow.solve = made.asked.append  # type: ignore[attr-defined,method-assign]
    yield made
    made._log.close()


HEAR = {
    "status": Controller._hear_status,
    "decisions": Controller._hear_decisions,
    "demand": lambda made, message: made._slow.hear(message),
    "batches": Controller._hear_batches,
}


def hear(made: Controller, what: str, data: bytes) -> None:
    """One message of the liar, and everything that a controller does by its clock after it."""

    async def heard() -> None:
        await HEAR[what](made, SimpleNamespace(subject=bus.site_subject(LIAR, what), data=data))
        await made._tick()
        await made._listen()
        msgspec.json.encode(made._source.snapshot())
        expected_demand(made._slow.counts, time.time(), steps=48)

    asyncio.run(heard())


NUMBERS = st.sampled_from(
    [0, -1, 1, 3, 2**31, 2**32, COUNT_MAX, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1e-300, 1e15, 1e300,
     -1e300, float("nan"), float("inf"), float("-inf"), time.time(), 0.5]
)  # fmt: skip
NAMES = st.sampled_from(
    [
        "lyon",
        "virginia",
        "chat",
        "q4-1",
        "EU",
        "DE",
        "",
        "x" * 5000,
        "../..",
        "up",
        "served",
        "\ud800"[:0],
    ]
)
ODD = st.one_of(
    NUMBERS, NAMES, st.none(), st.booleans(), st.binary(max_size=4), st.just([]), st.just({})
)


def lies(kind: Any) -> st.SearchStrategy[Any]:
    """Values of about this form: every field may be of its kind but senseless, of another kind, or not there."""
    return _lies(inspect.type_info(kind))


def _lies(told: Any) -> st.SearchStrategy[Any]:
    if isinstance(told, inspect.StructType):
        fields = {
            f.encode_name: _lies(f.type)
            if isinstance(f.type, inspect.StructType | inspect.VarTupleType)
            else st.one_of(_lies(f.type), _lies(f.type), _lies(f.type), ODD)
            for f in told.fields
        }
        needed = {f.encode_name for f in told.fields if f.required}
        return st.fixed_dictionaries(
            {n: s for n, s in fields.items() if n in needed},
            optional={n: s for n, s in fields.items() if n not in needed},
        )
    if isinstance(told, inspect.VarTupleType | inspect.ListType | inspect.FrozenSetType):
        return st.lists(_lies(told.item_type), max_size=3)
    if isinstance(told, inspect.DictType):
        return st.dictionaries(NAMES, _lies(told.value_type), max_size=2)
    if isinstance(told, inspect.UnionType):
        return st.one_of(*(_lies(one) for one in told.types))
    if isinstance(told, inspect.IntType):
        return st.one_of(st.integers(0, 9), NUMBERS.filter(lambda n: isinstance(n, int)))
    if isinstance(told, inspect.FloatType):
        return NUMBERS
    if isinstance(told, inspect.LiteralType):
        return st.sampled_from(told.values)
    if isinstance(told, inspect.BoolType):
        return st.booleans()
    if isinstance(told, inspect.NoneType):
        return st.none()
    return NAMES


def about_the_liar(value: Any) -> Any:
    """As the true owner of the subject would sign it, so that the lie is not dropped for its name alone."""
    if isinstance(value, dict):
        own = {"site": LIAR, "entry": LIAR, "origin": LIAR}
        return {k: own.get(k, about_the_liar(v)) for k, v in value.items()}
    return [about_the_liar(one) for one in value] if isinstance(value, list) else value


@pytest.mark.parametrize("what", list(TOLD))
@pytest.mark.parametrize("examples", [40, pytest.param(3000, marks=pytest.mark.long)])
def test_no_report_of_one_site_stops_the_controller(leader: Any, what: str, examples: int) -> None:
    @settings(max_examples=examples, suppress_health_check=list(HealthCheck), database=None)
    @given(told=lies(TOLD[what]), honest_name=st.booleans())
    def lie(told: Any, honest_name: bool) -> None:
        hear(leader, what, msgspec.msgpack.encode(about_the_liar(told) if honest_name else told))

    lie()
    leader._tell(ev.OutlookIssued(at_s=time.time(), outlook=leader._slow._outlook(time.time())))
    leader._tell(ev.Ticked(at_s=time.time() + 1000.0))
    for asked in leader.asked[-2:]:
        leader._tell(asyncio.run(leader._slow._answer(asked)))
    assert leader._epochs.epoch < COUNT_MAX / 2
    assert set(leader._view.served_by) <= leader._view.site_ids
    assert all(key.origin == LIAR for key in leader._slow.counts.kinds())


@pytest.mark.parametrize("what", list(TOLD))
def test_bytes_that_are_no_message_are_none(leader: Controller, what: str) -> None:
    deep = b"\x91" * 100_000 + b"\x90"
    for data in (
        b"",
        b"\xc1",
        b"\xff" * 100,
        deep,
        b"\xa1\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x81\xa4site\xa1\xff",
    ):
        hear(leader, what, data)


def test_a_site_that_says_a_higher_epoch_again_and_again_is_believed_once_a_minute() -> None:
    claims = EpochClaims()
    assert claims.believed("a", 3, 5, 0.0) == 3
    assert claims.believed("a", 9, 5, 1.0) == 9
    assert claims.believed("a", 11, 10, 1.5) == 10
    assert claims.believed("b", 11, 10, 1.5) == 11
    assert claims.believed("a", 13, 12, 62.0) == 13
    assert claims.believed("c", 10 + EPOCH_JUMP_MAX + 1, 10, 0.0) == 10


def test_a_lie_about_the_epoch_costs_one_more_epoch_and_no_more(leader: Controller) -> None:
    def status(epoch: int) -> bytes:
        power = dict.fromkeys(
            ("it_kw", "pue", "pv_kw", "wind_kw", "import_kw", "export_kw", "carbon_g_per_kwh", "price_usd_per_kwh"),
            1.0,
        )  # fmt: skip
        return msgspec.msgpack.encode(
            {"site": LIAR, "at_s": time.time(), "epoch": epoch, "table_version": 1, "hub_connected": True, "engines": [],
             "gateway_workers": 1, "running": 0.0, "waiting": 0.0, "power": power | {"sources": []}, "spoken": "2"}
        )  # fmt: skip

    leader._claims = EpochClaims()
    before = leader._epochs.epoch
    hear(leader, "status", status(before + 10))
    assert leader._dispatcher.epoch == leader._epochs.epoch == before + 11
    for ahead in (1, 100, 2**40, 2**53):
        hear(leader, "status", status(leader._epochs.epoch + ahead))
    assert leader._dispatcher.epoch == leader._epochs.epoch == before + 11


def test_a_site_tells_of_its_own_decisions_and_demand_alone(leader: Controller) -> None:
    seen = len(leader._view.decisions)
    row = {"at_s": 1.0, "request_id": "0" * 32, "key_id": "k", "data_class": "c", "country": "DE", "service": "chat",
           "outcome": "served", "site": "lyon"}  # fmt: skip
    hear(
        leader,
        "decisions",
        msgspec.msgpack.encode(
            [{**row, "entry": "virginia"}, {**row, "entry": LIAR, "site": "nowhere"}]
        ),
    )
    assert len(leader._view.decisions) == seen
    hear(leader, "decisions", msgspec.msgpack.encode([{**row, "entry": LIAR}]))
    assert leader._view.decisions[-1].entry == LIAR
    kinds = leader._slow.counts.kinds()
    key = {
        "service": "chat",
        "tenant": "clinic",
        "data_class": "public",
        "country": "DE",
        "origin": "virginia",
    }
    count = {"key": key, "requests": 1e6, "tokens_in": 1.0, "tokens_out": 1.0}
    for site, made in (
        (LIAR, key),
        ("virginia", key),
        (LIAR, {**key, "origin": LIAR, "service": "made-up"}),
    ):
        told = {
            "site": site,
            "at_s": time.time(),
            "sampled": 1.0,
            "counts": [{**count, "key": made}],
        }
        hear(leader, "demand", msgspec.msgpack.encode(told))
    assert leader._slow.counts.kinds() == kinds


def numbers_without_limits(kind: Any) -> set[str]:
    """`Struct.field` of numbers that may be anything."""
    found: set[str] = set()

    def walk(told: Any, where: str) -> None:
        if isinstance(told, inspect.StructType):
            for f in told.fields:
                walk(f.type, f"{told.cls.__name__}.{f.name}")
        elif isinstance(told, inspect.IntType | inspect.FloatType):
            if told.ge is None and told.gt is None and told.le is None and told.lt is None:
                found.add(where)
        else:
            for name in ("item_type", "key_type", "value_type"):
                if hasattr(told, name):
                    walk(getattr(told, name), where)
            for one in getattr(told, "types", ()) or getattr(told, "item_types", ()):
                walk(one, where)

    walk(inspect.type_info(kind), "")
    return found


@pytest.mark.parametrize("kind", [*TOLD.values(), LoadFrame])
def test_every_number_that_a_site_tells_has_limits(kind: Any) -> None:
    # Of placements the fleet's own ranges hold (`known_placements`).
    own = {f"Placement.{name}" for name in Placement.__struct_fields__}
    assert numbers_without_limits(kind) <= own


@settings(max_examples=effort(150))
@given(told=lies(LoadFrame), named=st.booleans())
def test_a_load_frame_of_a_peer_is_read_or_is_none(told: dict[str, Any], named: bool) -> None:
    shaped: Any = told if named else list(told.values())
    packed = urlsafe_b64encode(msgspec.msgpack.encode(shaped)).rstrip(b"=")
    for frame in (read_header(packed), read_json(msgspec.json.encode(shaped))):
        assert frame is None or (frame.epoch <= COUNT_MAX and math.isfinite(frame.age_ms))


@settings(max_examples=effort(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.one_of(st.binary(max_size=200), lies(dict[str, Any]).map(msgspec.msgpack.encode)))
def test_evidence_that_is_none_is_malformed(tmp_path: Path, data: bytes) -> None:
    assert EvidenceCopy(tmp_path).accept(data, LIAR).outcome == "malformed"
    assert not any(tmp_path.iterdir())


def test_a_piece_of_evidence_stays_in_the_directory_of_its_site(tmp_path: Path) -> None:
    for name in ("../../x", "/etc/x", "..", "a/b.log", "seals.log/../x", "x\n.log", ""):
        piece = {"file": name, "offset": 0, "data": b"x"}
        told = {"schema": "hanse-evidence/1", "site": LIAR, "seq": 1, "pieces": [piece]}
        assert (
            EvidenceCopy(tmp_path).accept(msgspec.msgpack.encode(told), LIAR).outcome == "malformed"
        ), name
    assert not any(tmp_path.iterdir())


def test_what_the_test_knows_is_what_the_controller_hears() -> None:
    text = Path(controller.__file__).read_text()
    assert {what for what in TOLD if f'"site.*.{what}"' in text} == set(TOLD)
    assert text.count('subscribe("site.') == len(TOLD)
