"""Prefixes in the twin: what an engine finds again, and what choosing by it brings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from dispatch.fleets import fleet, service, site
from hanse.model.fleet import Fleet, Placement, Slo
from hanse.signals.traces.formats import read_mooncake
from hanse.signals.traces.generate import generate
from hanse.signals.traces.spec import (
    ClassShare,
    Conversation,
    Lognormal,
    OriginShare,
    ServiceShare,
    TenantShare,
    TraceSpec,
)
from hanse.signals.traces.trace import Chunk, Origin, Trace
from hanse.twin import arrays as ar
from hanse.twin.blocks import no_blocks
from hanse.twin.handle import Handle
from hanse.twin.simulate import Simulation

MOONCAKE = Path(__file__).parents[3] / "shared/data/llm_trace_mooncake_2024/conversation.jsonl.gz"
BLOCKS = 288_500
"""Of all prompts of the trace; 182,790 of them differ."""


def made(replicas: int, context_tokens: int, slots: int) -> Fleet:
    one = site("a")
    return fleet(
        (one,),
        services=(service(slo=Slo(ttft_ms=5000.0, tpot_ms=200.0, deadline_s=600.0)),),
        placements=(
            Placement(
                service="chat", variant="v0", site="a", pool=one.pools[0].id,
                replicas=replicas, slots=slots, context_tokens=context_tokens,
            ),
        ),
    )  # fmt: skip


def conversations() -> Trace:
    return generate(
        TraceSpec(
            schema="hanse-trace-spec/1",
            name="talk",
            seed=3,
            start=datetime(2026, 1, 14, 12, tzinfo=UTC),
            duration_h=0.2,
            requests_per_s=3.0,
            block_tokens=64,
            origins=(OriginShare(city="Berlin", country="DE", id="o"),),
            services=(
                ServiceShare(
                    id="chat",
                    tokens_in=Lognormal(median=90.0, sigma=0.5, max=400),
                    tokens_out=Lognormal(median=60.0, sigma=0.5, max=200),
                    conversation=Conversation(
                        turns_mean=5.0, think_s_median=15.0, system_tokens=256, system_prompts=40,
                        context_tokens_max=3000,
                    ),
                ),
            ),
            classes=(ClassShare(id="public"),),
            tenants=(TenantShare(id="t", countries=("DE",)),),
        )
    )  # fmt: skip


@pytest.mark.parametrize("policy", ["shipped", "prefix_affinity"])
def test_a_site_that_chooses_engines_by_prefix_finds_more_of_it_again(policy: str) -> None:
    shares, times = [], []
    for held in (False, True):
        run = Simulation(made(4, 100_000, 32), conversations(), policy=policy, engine_affinity=held)
        run.run()
        sums = run.world.sums[0]
        assert sums[ar.SUM_SERVED] == sums[: ar.SUM_BROKEN + 1].sum() > 1500
        shares.append(sums[ar.SUM_CACHED] / sums[ar.SUM_TOKENS_IN])
        times.append(sums[ar.SUM_E2E_MS] / sums[ar.SUM_SERVED])
    assert shares[1] > shares[0] + 0.15
    assert times[1] < times[0]


def test_an_engine_that_forgets_nothing_finds_the_published_share_again() -> None:
    """One engine, so quick that prompts are read one after another: 36.6 % of all blocks."""
    if not MOONCAKE.exists():
        pytest.skip("needs shared/data/llm_trace_mooncake_2024, which is not here")
    trace = read_mooncake(MOONCAKE, service="chat").trace
    origin = Origin(id="o", lat_deg=50.0, lon_deg=8.0, country="DE")
    meta = msgspec.structs.replace(
        trace.meta, classes=("public",), origins=(origin,), tenants=("t",)
    )

    def pieces() -> object:
        for chunk in trace.chunks():
            requests = chunk.requests.copy()
            requests["cls"] = requests["origin"] = requests["tenant"] = 0
            yield Chunk(requests, chunk.blocks)

    run = Simulation(made(1, 8_000_000, 32), Trace(meta, pieces))  # type: ignore[arg-type]
    world = run.world._replace(**no_blocks(1, 512 << 20, 512))
    world.engines["kv_max"] = 10**12
    world.engines["speed"] = 10_000.0
    run.handle = Handle(world)
    run.run()
    sums = run.world.sums[0]
    assert sums[ar.SUM_SERVED] == 12_031
    assert sums[ar.SUM_CACHED] / 512 / BLOCKS == pytest.approx(0.366, abs=0.002)
