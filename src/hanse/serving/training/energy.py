"""Energy of a training run: chips that compute, chips that wait, and what their sites add (PUE).

Here: kWh by site and state. Not here: where the power comes from, price, carbon (`energy`, and the planner).

    busy     R w_busy PUE  x  computing time          waiting   R w_waiting PUE  x  (wall time - computing time)

It is the energy of chips times PUE; the rest of a server (fans, CPUs, network) counts only if `TrainingSite.busy_w` and `waiting_w` include it.
Without `busy_w` the chip's rated power is an upper bound. Without `waiting_w` a chip that waits is taken to draw what it draws at work, an
upper bound too: its idle power would be too little, for it holds its memory and asks the network all the time.
"""

from __future__ import annotations

from collections.abc import Sequence

from hanse.catalogue import accelerator_named
from hanse.model.fleet import Value
from hanse.serving.training.job import Figure, TrainingSite, Validity, known, not_known
from hanse.units import kwh_from_j


class TrainingEnergy(Value, frozen=True, kw_only=True):
    """Of all sites together, chips times PUE; `total_kwh` is the sum of the other two."""

    busy_kwh: Figure
    waiting_kwh: Figure
    total_kwh: Figure


def training_energy(
    sites: Sequence[TrainingSite], wall_s: Figure, computing_s: Figure
) -> TrainingEnergy:
    """Energy of a run that lasts `wall_s`, of which every site computes for `computing_s`."""
    if wall_s.value is None or computing_s.value is None:
        none = wall_s if wall_s.value is None else computing_s
        return TrainingEnergy(busy_kwh=none, waiting_kwh=none, total_kwh=none)
    waiting_s = max(0.0, wall_s.value - computing_s.value)
    busy = _kwh([_busy(site) for site in sites], sites, computing_s.value, computing_s.validity)
    waiting = (
        known(0.0, "nobody waits")
        if waiting_s == 0.0 and wall_s.validity == "known"
        else _kwh([_waiting(site) for site in sites], sites, waiting_s, wall_s.validity)
    )
    return TrainingEnergy(busy_kwh=busy, waiting_kwh=waiting, total_kwh=_sum(busy, waiting))


def _busy(site: TrainingSite) -> Figure:
    if site.busy_w is not None:
        return known(site.busy_w, "site's own")
    chip = accelerator_named(site.accelerator, where=f"site {site.id}.accelerator")
    if chip.tdp_w is None:
        return not_known(f"no power published for {chip.name}: give site {site.id}.busy_w")
    why = "rated power of the chips alone"
    return Figure(value=chip.tdp_w, validity="upper bound", why=why, source=chip.source)


def _waiting(site: TrainingSite) -> Figure:
    if site.waiting_w is not None:
        return known(site.waiting_w, "site's own")
    busy = _busy(site)
    if busy.value is None:
        return busy
    why = "a chip that waits draws at most what it draws at work"
    return Figure(value=busy.value, validity="upper bound", why=why, source=busy.source)


def _kwh(
    watts: Sequence[Figure], sites: Sequence[TrainingSite], duration_s: float, times: Validity
) -> Figure:
    for figure in watts:
        if figure.value is None:
            return figure
    joules = sum(
        (figure.value or 0.0) * site.chips_n * site.pue * duration_s
        for figure, site in zip(watts, sites, strict=True)
    )
    return _bounded(kwh_from_j(joules), [times, *(f.validity for f in watts)], watts[0])


def _sum(busy: Figure, waiting: Figure) -> Figure:
    if busy.value is None or waiting.value is None:
        return busy if busy.value is None else waiting
    if waiting.value == 0.0 and waiting.validity == "known":
        return busy
    total = busy.value + waiting.value
    return _bounded(total, [busy.validity, waiting.validity], busy)


def _bounded(value: float, validities: Sequence[Validity], like: Figure) -> Figure:
    """One figure of several that hold only so far."""
    found: set[Validity] = set(validities) - {"known"}
    if len(found) > 1:
        return not_known(
            "one part is an upper bound and another a lower bound: give busy_w and waiting_w of each site, and layers_n"
        )
    validity = found.pop() if found else "known"
    return Figure(value=value, validity=validity, why=like.why, source=like.source)
