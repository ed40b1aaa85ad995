"""Writing the input log: load, router, kernels and prefix table that do what theirs do and note it in order.

Here: `InputLog` (one file of one worker and start, tables beside it) and the parts that `routing` and `worker` take in the place of
the plain ones where a log is asked for. Without one nothing of this module runs. Not here: the log's form (`dispatch.journal`), the
replay (`twin.replay`).

Where several workers share a gateway, each reads what the others have in flight from shared memory while they write it. A recording
worker therefore brings a private copy up to date before each decision, notes what changed, and decides by the copy: what is in the
log is what the kernel read. A log that cannot be written ends; requests go on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from secrets import token_hex
from time import time
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from hanse import __version__
from hanse.dispatch import journal as form
from hanse.dispatch import load as load_kernels
from hanse.dispatch import mirror
from hanse.dispatch.journal import Ended, JournalHead, Recorder, head_bytes, table_digest
from hanse.dispatch.load import OWN_DTYPE, Load
from hanse.dispatch.prefix import PREFIX_DTYPE, Prefixes, forget
from hanse.live.gateway.affinity import Affinity, Holders
from hanse.live.gateway.direct import DirectLoad, DirectRouter, direct
from hanse.live.runtime import replace_file
from hanse.live.shared import ENGINES_MAX, OFFERS_MAX, PREFIXES_MAX

if TYPE_CHECKING:
    from hanse.dispatch.table import Records, Table
    from hanse.live.gateway.entry import Entry
    from hanse.live.gateway.hop import Hop
    from hanse.live.gateway.settings import GatewaySettings
    from hanse.live.shared import SharedPage

FILE_BYTES_MAX: Final = 4 * 1024**3
"""Some ten million requests. A full disk would end the evidence, and with it all service; this log ends long before."""
CHECK_EVERY_S: Final = 5.0


class InputLog:
    """See the module."""

    def __init__(
        self, directory: Path, settings: GatewaySettings, *, bytes_max: int = FILE_BYTES_MAX
    ) -> None:
        self.directory = directory
        self.worker = settings.worker
        self.recorder = Recorder(self._write)
        self._load: RecordedLoad | None = None
        self._left_bytes = bytes_max
        self._check_at_s = 0.0
        self._tables: set[bytes] = set()
        self._engines = len(settings.engines)
        self._executing = np.zeros((settings.workers, ENGINES_MAX), OWN_DTYPE)
        head = JournalHead(
            site=settings.site,
            worker=settings.worker,
            workers=settings.workers,
            boot=token_hex(8),
            software=__version__,
            opened_at_s=time(),
            offers_max=OFFERS_MAX,
            engines=tuple((seat.service, seat.variant) for seat in settings.engines),
            engines_max=ENGINES_MAX,
            prefix_slots=PREFIXES_MAX,
        )
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = directory / f"{settings.site}-{settings.worker}-{head.boot}.jnl"
        flags = os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC
        self._fd = os.open(self.path, flags, 0o600)
        self._write(memoryview(head_bytes(head)))

    # --- parts of a routing

    def load(self, table: Table, own: Records) -> RecordedLoad:
        """A fresh load."""
        self._load = RecordedLoad(table, own, self.worker, self)
        return self._load

    def router(self, table: Table, load: Load, origin: int) -> DirectRouter:
        """A router by that load."""
        assert isinstance(load, RecordedLoad)
        return RecordedRouter(table, load, origin)

    def kernels(self, load: Load) -> DirectLoad:
        """Its counting kernels."""
        assert isinstance(load, RecordedLoad)
        return RecordedKernels(load)

    def engine_choice(self, choose_engine: Any, *samples: object) -> Callable[..., int]:
        """`choose_engine` by a copy of what the workers execute; `samples` as for `direct`."""
        shared, states = samples[4], samples[3]
        copy, recorder, count = self._executing, self.recorder, self._engines
        rows, usable = np.zeros(mirror.ROWS_MAX, form.EXECUTING_ROW), np.zeros(1, np.uint64)
        raw, bits, size = _bytes(rows), memoryview(cast("Any", usable)), rows.itemsize
        changed = direct(mirror.changed_executing, shared, copy, 0, states, usable, rows)
        choose = direct(choose_engine, *samples[:4], copy, *samples[5:])

        def chosen(
            engine_offer: Any, requests_max: Any, tokens_max: Any, states: NDArray[np.int64], executing: Any,
            offers: Any, offer: int, tokens_in: float, tokens_out: float, held: NDArray[np.int64],
        ) -> int:  # fmt: skip
            found = mirror.ROWS_MAX
            while found == mirror.ROWS_MAX:
                found = changed(executing, copy, count, states, usable, rows)
                if found:
                    recorder.rows(form.EXECUTING, raw[: found * size], size)
            engine: int = choose(
                engine_offer, requests_max, tokens_max, states, copy, offers, offer, tokens_in, tokens_out, held
            )  # fmt: skip
            known = held if held[0, 0] >= 0 else None
            recorder.engine(offer, tokens_in, tokens_out, bits[0], engine, known)
            return engine

        return chosen

    def seats(self, engines: Sequence[tuple[str, str]]) -> None:
        """Engines came or went; the next routing is made of these."""
        self._engines = len(engines)
        self.recorder.seats(engines)

    def affinity(self, page: SharedPage, secret_path: Path | None) -> Affinity:
        """The site's prefix table."""
        return RecordedAffinity(page, secret_path, self.recorder)

    def table(self, table: Table, *, fresh: bool) -> None:
        """A table came into force; its bytes lie beside the logs under their digest."""
        raw = table.to_bytes()
        digest = table_digest(raw)
        if digest not in self._tables:
            self._tables.add(digest)
            path = self.directory / f"{digest.hex()}.tbl"
            if not path.exists():
                replace_file(path, raw)
        self.recorder.table(digest, time(), fresh=fresh)

    # --- beside decisions

    def ended(self, exchange: Entry | Hop, outcome: str, now_s: float, *, serving: bool) -> None:
        """A request is over."""
        self.recorder.ended(_ended(exchange, outcome, now_s, serving=serving))

    def tick(self, now_s: float) -> None:
        """Every 20 ms: hand what there is to the kernel; now and then a sum of the whole load."""
        load = self._load
        if load is not None and now_s >= self._check_at_s:
            self._check_at_s = now_s + CHECK_EVERY_S
            load.sync()
            self.recorder.check(load, now_s)
        self.recorder.flush()

    def close(self) -> None:
        """A clean end."""
        if self._load is not None:
            self._load.sync()
            self.recorder.check(self._load, time())
        self.recorder.closed()
        self.recorder.flush()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _write(self, data: memoryview) -> None:
        if self._fd < 0:
            return
        if len(data) > self._left_bytes:
            self._end(full=True)
            return
        self._left_bytes -= len(data)
        try:
            written = os.write(self._fd, data)
        except OSError:
            written = 0
        if written != len(data):  # half a block at the end is what a reader expects of a kill
            self._end(full=False)

    def _end(self, *, full: bool) -> None:
        fd, self._fd = self._fd, -1
        if full:
            last: list[bytes] = []
            closing = Recorder(lambda data: last.append(bytes(data)))
            closing.closed(full=True)
            closing.flush()
            os.write(fd, last[0])
        os.close(fd)


class RecordedLoad(Load):
    """A load whose `own` is a copy where other workers write the true one."""

    def __init__(self, table: Table, own: Records, worker: int, log: InputLog) -> None:
        self.log, self.recorder = log, log.recorder
        self.shared: Records | None = own if own.shape[0] > 1 else None
        copy = own if self.shared is None else np.zeros(own.shape, OWN_DTYPE)
        super().__init__(table, own=copy, worker=worker)
        self._rows = np.zeros(mirror.ROWS_MAX, form.OWN_ROW)
        self._raw = _bytes(self._rows)
        self._changed = direct(mirror.changed_own, own, copy, 0, 0, self._rows)
        log.table(table, fresh=True)

    def adopt(self, table: Table) -> bool:
        same = super().adopt(table)
        if same:
            self.log.table(table, fresh=False)
        return same

    def sync(self) -> None:
        """Read what the other workers have in flight."""
        if self.shared is None:
            return
        rows, count = self._rows, len(self.table.offers)
        found = mirror.ROWS_MAX
        while found == mirror.ROWS_MAX:
            found = self._changed(self.shared, self.own, self.worker, count, rows)
            if found:
                size = rows.itemsize
                self.recorder.rows(form.OWN, self._raw[: found * size], size)

    def heard(
        self,
        site: int,
        now_s: float,
        *,
        age_s: float,
        power_ok: int,
        offers: Sequence[tuple[int, float, float, float, float, float]],
    ) -> bool:
        self.sync()
        taken = super().heard(site, now_s, age_s=age_s, power_ok=power_ok, offers=offers)
        self.recorder.heard(site, now_s, age_s, offers, power_ok=power_ok, taken=taken)
        return taken

    def lost(self, site: int) -> None:
        super().lost(site)
        self.recorder.lost(site)


class RecordedRouter(DirectRouter):
    """A router that notes what it is asked and what it answers."""

    def __init__(self, table: Table, load: RecordedLoad, origin: int) -> None:
        super().__init__(table, load, origin)
        self._recorded, self._recorder = load, load.recorder
        self._shared = load.shared is not None
        self._bytes = _bytes(self._row)

    def ask(
        self,
        service: int,
        subject: int,
        request: tuple[float, float, float, float],
        now_s: float,
        tried: list[int],
        cached: NDArray[np.int64] | None,
    ) -> int:
        if self._shared:
            self._recorded.sync()
        chosen = super().ask(service, subject, request, now_s, tried, cached)
        self._recorder.choice(service, subject, request, now_s, tried, cached, chosen, self._bytes)
        return chosen

    def ask_at(
        self,
        site: int,
        service: int,
        subject: int,
        request: tuple[float, float, float, float],
        now_s: float,
        tried: list[int],
    ) -> int:
        """Where a schedule sends a line is no choice of this gateway's: the load it makes is noted, as everybody's."""
        if self._shared:
            self._recorded.sync()
        return super().ask_at(site, service, subject, request, now_s, tried)


class RecordedKernels(DirectLoad):
    """Counting kernels that note their arguments; counts go to the copy and to what the other workers see."""

    def __init__(self, load: RecordedLoad) -> None:
        super().__init__(load)
        note, shared = load.recorder, load.shared
        begin, first_byte, end = self.begin, self.first_byte, self.end
        arrived, observed = self.arrived, self.observed
        if shared is not None:
            begin = _both(begin, direct(load_kernels.begin, shared, 0, 0, 0, 0), shared)
            first_byte = _both(first_byte, direct(load_kernels.first_byte, shared, 0, 0, 0), shared)
            end = _both(end, direct(load_kernels.end, shared, 0, 0, 0, 0), shared)

        def noted_begin(own: Any, worker: int, offer: int, prefill: int, tokens: int) -> None:
            begin(own, worker, offer, prefill, tokens)
            note.begin(offer, prefill, tokens)

        def noted_first_byte(own: Any, worker: int, offer: int, prefill: int) -> None:
            first_byte(own, worker, offer, prefill)
            note.first_byte(offer, prefill)

        def noted_end(own: Any, worker: int, offer: int, prefill: int, tokens: int) -> None:
            end(own, worker, offer, prefill, tokens)
            note.end(offer, prefill, tokens)

        def noted_arrived(services: Any, service: int, workers: float, now_s: float) -> None:
            arrived(services, service, workers, now_s)
            note.arrived(service, workers, now_s)

        def noted_observed(offers: Any, offer: int, ttft_ratio: float, tpot_ratio: float) -> None:
            observed(offers, offer, ttft_ratio, tpot_ratio)
            note.ratio(offer, ttft_ratio, tpot_ratio)

        self.begin, self.first_byte, self.end = noted_begin, noted_first_byte, noted_end
        self.arrived, self.observed = noted_arrived, noted_observed


def _bytes(array: NDArray[Any]) -> memoryview:
    """An array's memory."""
    return memoryview(cast("Any", array.view(np.uint8)))


def _both(kernel: Callable[..., Any], other: Callable[..., Any], shared: Any) -> Callable[..., Any]:
    def counted(own: Any, *counts: int) -> None:
        kernel(own, *counts)
        other(shared, *counts)

    return counted


class RecordedHolders(Holders):
    """Look-ups by a copy of the slots they may find."""

    def __init__(self, slots: NDArray[Any], recorder: Recorder, flags: int) -> None:
        super().__init__(np.zeros(len(slots), PREFIX_DTYPE))
        self._shared, self._recorder, self._flags = slots, recorder, flags
        self._rows = np.zeros(mirror.ROWS_MAX, form.SLOT_ROW)
        self._raw = _bytes(self._rows)

    def held(self, prefixes: Prefixes, now_s: float) -> NDArray[np.int64]:
        self._sync(prefixes)
        cached = super().held(prefixes, now_s)
        self._recorder.look_up(prefixes, now_s, cached, self._flags)
        return cached

    def believed(self, prefixes: Prefixes, holder: int, now_s: float) -> int:
        self._sync(prefixes)
        return super().believed(prefixes, holder, now_s)

    def remember(self, prefixes: Prefixes, holder: int, now_s: float) -> None:
        self._sync(prefixes)
        super().remember(prefixes, holder, now_s)
        p = prefixes
        self._remember(self._shared, p.digests, p.tokens, p.count, holder, now_s)
        self._recorder.remember(prefixes, holder, now_s, self._flags)

    def proved(self, holder: int, packed: int, found_tokens: int) -> None:
        super().proved(holder, packed, found_tokens)
        self._recorder.proved(holder, packed, found_tokens, self._flags)

    def forget(self, holder: int) -> None:
        super().forget(holder)
        forget(self._shared, holder)
        self._recorder.forget(holder, self._flags)

    def _sync(self, prefixes: Prefixes) -> None:
        rows, found = self._rows, mirror.ROWS_MAX
        while found == mirror.ROWS_MAX:
            found = mirror.changed_slots(
                self._shared, self.slots, prefixes.digests, prefixes.count, rows
            )
            if found:
                size = rows.itemsize
                self._recorder.rows(form.SLOTS, self._raw[: found * size], size, self._flags)


class RecordedAffinity(Affinity):
    """Both tables with notes."""

    def __init__(self, page: SharedPage, secret_path: Path | None, recorder: Recorder) -> None:
        self._recorder = recorder
        super().__init__(page, secret_path)

    def _holders(self, slots: NDArray[Any], *, engines: bool) -> Holders:
        return RecordedHolders(slots, self._recorder, form.ENGINES if engines else 0)


def _ended(exchange: Entry | Hop, outcome: str, now_s: float, *, serving: bool) -> Ended:
    """A request's end, for whoever makes traces and calibrations of logs."""
    routing, attempts, measured = exchange.worker.routing, exchange.attempts, exchange.measured
    last = exchange.winner or (attempts[-1] if attempts else None)
    digest, offer = 0, -1
    if serving:
        asked = exchange.envelope  # type: ignore[union-attr]
        tenant, data_class, country, name = (
            asked.tenant,
            asked.data_class,
            asked.country,
            asked.service,
        )
    else:
        grant, prefixes = exchange.grant, exchange.prefixes  # type: ignore[union-attr]
        tenant, data_class, country = grant.key.tenant, grant.data_class, grant.country
        name = exchange.service.id  # type: ignore[union-attr]
        if prefixes is not None and prefixes.count:
            digest = int(prefixes.digests[-1])
    service = routing.service_named.get(name)
    if last is not None:
        offer = last.offer.index
        if (
            offer >= len(routing.offers) or routing.offers[offer] is not last.offer
        ):  # a new table came since
            offer = routing.table.offer_index.get(f"{last.offer.site}/{last.offer.key}", -1)
    return Ended(
        exchange.request_id,
        -1 if service is None else service.index,
        offer,
        tenant,
        data_class,
        country,
        outcome,
        -1 if last is None else last.engine,
        exchange.started_at_s,
        0.0 if last is None else last.began_at_s,
        exchange.first_byte_at_s if exchange.tap is not None else 0.0,
        now_s,
        digest,
        exchange.tokens_in if measured is None else _count(measured.tokens_in),
        0 if measured is None else _count(measured.tokens_out),
        0 if measured is None else _count(measured.cached),
        len(attempts),
        exchange.status,
        serving,
    )


def _count(tokens: int) -> int:
    """An engine's claim, within what a record holds."""
    return min(max(tokens, 0), 2**31 - 1)
