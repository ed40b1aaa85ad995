"""The hot path's own encoder writes what the record types encode to."""

from types import SimpleNamespace

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from hanse.dispatch.choose import OUT_COUNT
from hanse.live.evidence.chain import Decided, Executed, sized
from hanse.live.gateway import records

names = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63)
floats = st.floats(allow_nan=False)
counts = st.integers(0, 2**31)


@given(
    request_id=st.binary(min_size=16, max_size=16),
    at_s=floats,
    number=st.integers(1, records.NUMBER_MAX),
    words=st.lists(names, min_size=7, max_size=7),
    subject=counts,
    version=counts,
    epoch=counts,
    figures=st.lists(floats, min_size=OUT_COUNT, max_size=OUT_COUNT),
)
def test_raw_records_equal_the_encoded_values(
    request_id, at_s, number, words, subject, version, epoch, figures
):
    key, tenant, data_class, country, service, site, variant = words
    grant = SimpleNamespace(
        key=SimpleNamespace(id=key, tenant=tenant),
        data_class=data_class,
        country=country,
        subject=subject,
    )
    meta = SimpleNamespace(version=version, epoch=epoch)
    routing = SimpleNamespace(site="entry", table=SimpleNamespace(meta=meta))
    offer = SimpleNamespace(site=site, variant=variant)
    shared = {
        "request_id": request_id,
        "at_s": at_s,
        "attempt": number,
        "tenant": tenant,
        "data_class": data_class,
        "country": country,
        "subject_row": subject,
        "entry_site": "entry",
        "variant": variant,
        "table_version": version,
    }
    decided = Decided(
        **shared,
        key_id=key,
        service=service,
        site=site,
        epoch=epoch,
        ttft_ms_predicted=figures[0],
        e2e_ms_predicted=figures[2],
        energy_wh_predicted=figures[3],
        carbon_g_predicted=figures[4],
        cost_usd_predicted=figures[5],
    )
    middle = records.decided_middle(grant, service, offer, routing)
    raw = records.decided_raw(request_id, at_s, number, middle, figures)
    assert raw == msgspec.msgpack.encode(decided)
    decided_middle = middle
    executed = Executed(**shared, site="entry", engine="e-1", allowed=True)
    middle = records.executed_middle(grant, offer, "e-1", routing)
    raw = records.executed_raw(request_id, at_s, number, middle)
    assert raw == msgspec.msgpack.encode(executed)
    both = records.FirstLocal(decided_middle, middle).pack(request_id, at_s, figures)
    one = records.decided_raw(request_id, at_s, 1, decided_middle, figures)
    two = records.executed_raw(request_id, at_s, 1, middle)
    assert both == sized(one) + sized(two)
