"""A host's facts become lines of a fleet file that `hanse check` accepts and that change nothing of the others'."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effort import effort
from hanse.catalogue.models import ai_models
from hanse.errors import ConfigError
from hanse.live.first_start import problems_of
from hanse.live.join.compose import first_fleet, slug, with_hub, with_site
from hanse.live.join.messages import FoundChips, FoundEngine, Host
from hanse.model.fleet import Fleet, OtherHub
from hanse.model.read import parse_fleet

LEAGUE = (Path(__file__).parents[3] / "examples" / "league.toml").read_text()

NAMES = st.one_of(
    st.sampled_from(
        ["meta-llama/Llama-3.1-8B-Instruct", "qwen3:8b", "chat", "a\nb", 'q"\\', "é\x7f"]
    ),
    st.text(min_size=1, max_size=30),
)


@st.composite
def engines(draw: st.DrawFn) -> FoundEngine:
    port = draw(st.integers(1, 65535))
    return FoundEngine(
        url=f"http://127.0.0.1:{port}",
        server=draw(st.sampled_from(["vLLM", "llama.cpp", "x\n[[site]]\nid = 'evil'"])),
        served_name=draw(NAMES),
        model=draw(st.sampled_from(["Llama-3.1-8B", "SmolLM2-135M", "all-MiniLM-L6-v2"])),
        precision=draw(st.sampled_from(["bf16", "q4_k_m"])),
        slots=draw(st.integers(1, 64)),
        context_tokens=draw(st.integers(1, 100_000)),
        continues=draw(st.booleans()),
    )


@st.composite
def hosts(draw: st.DrawFn, *, engines_min: int = 0) -> Host:
    chips = (FoundChips(accelerator="h100-sxm", name="H100", count=draw(st.integers(1, 8))),)
    found = draw(
        st.lists(engines(), min_size=engines_min, max_size=4, unique_by=lambda one: one.served_name)
    )
    return Host(
        kind="micro",
        city="Lyon",
        country="FR",
        lat_deg=draw(st.floats(-90, 90)),
        lon_deg=draw(st.floats(-180, 180)),
        operator_hq="FR",
        grid_kw_max=draw(st.floats(0.1, 1000)),
        host=draw(st.sampled_from(["127.0.0.2", "10.1.2.3"])),
        reached_at=draw(st.sampled_from(["127.0.0.2", "lyon.example"])),
        port=8443,
        hop_port=8444,
        threads=draw(st.integers(1, 256)),
        chips=draw(st.sampled_from([(), chips])),
        meters=tuple(draw(st.lists(st.text(max_size=10), max_size=2))),
        engines=tuple(found),
    )


def read(text: str) -> Fleet:
    return parse_fleet(text.encode(), source="test")


def right(text: str) -> Fleet:
    fleet = read(text)
    assert [str(p.error()) for p in problems_of(fleet)] == []
    return fleet


@settings(max_examples=effort(20), deadline=None)
@given(host=hosts(engines_min=1))
def test_a_first_fleet_passes_every_check_and_places_every_engine(host: Host) -> None:
    text = first_fleet("home", "lyon", host, hub_host="10.1.2.3", leaf_port=7000, door_port=7001)
    fleet = right(text)
    urls = [url for pool in fleet.sites[0].pools for url in pool.urls]
    assert sorted(urls) == sorted(one.url for one in host.engines)
    able = {one.url for one in host.engines if one.continues}
    pools = fleet.sites[0].pools
    assert all((url in able) == pool.goes_on for pool in pools for url in pool.urls)
    assert sum(p.replicas for p in fleet.placements) == len(host.engines)
    served = {v.served_model for s in fleet.services for v in s.variants}
    assert served == {one.served_name for one in host.engines}
    assert fleet.hub.leaf_port == 7000


@settings(max_examples=effort(20), deadline=None)
@given(host=hosts(), rtt_ms=st.floats(0, 500))
def test_a_joining_site_changes_nothing_of_the_others(host: Host, rtt_ms: float) -> None:
    before = read(LEAGUE)
    after = right(with_site(LEAGUE, "joiner", host, {"frankfurt": rtt_ms}))
    assert after.sites[:-1] == before.sites
    assert (after.tenants, after.classes, after.links[: len(before.links)]) == (
        before.tenants,
        before.classes,
        before.links,
    )
    assert after.placements[: len(before.placements)] == before.placements
    assert [s.id for s in after.services[: len(before.services)]] == [s.id for s in before.services]
    ways = {link.b: link.rtt_ms for link in after.links[len(before.links) :]}
    assert set(ways) == {site.id for site in before.sites}
    assert ways["frankfurt"] == pytest.approx(max(rtt_ms, 0.01), abs=0.006)


@settings(max_examples=effort(40), deadline=None)
@given(first=hosts(), second=hosts())
def test_a_site_that_joins_again_leaves_nothing_of_its_former_self(
    first: Host, second: Host
) -> None:
    once = with_site(LEAGUE, "joiner", first, {})
    again = right(with_site(once, "joiner", second, {}))
    site = again.sites[-1]
    assert (site.id, site.gateway.reached_at) == ("joiner", second.reached_at)
    placed = [p for p in again.placements if p.site == "joiner"]
    assert sum(p.replicas for p in placed) == len(second.engines)
    assert sum("joiner" in (link.a, link.b) for link in again.links) == len(again.sites) - 1


def test_an_operators_comments_and_order_stay() -> None:
    host = hosts_example()
    text = with_site(LEAGUE, "joiner", host, {})
    assert text.startswith(LEAGUE.rstrip("\n")), "lines are added behind"
    back = with_site(text, "joiner", host, {})
    comments = re.findall(r"(?m)^#.*$", LEAGUE)
    assert [c for c in comments if c not in back] == []


def test_an_engine_of_a_known_service_joins_it_with_a_variant_of_its_own() -> None:
    host = hosts_example(served_name="chat", model="SmolLM2-135M", precision="q4_1")
    fleet = right(with_site(LEAGUE, "joiner", host, {}))
    chat = next(s for s in fleet.services if s.id == "chat")
    placed = next(p for p in fleet.placements if p.site == "joiner")
    assert placed.service == "chat"
    assert placed.variant in {v.id for v in chat.variants}


def test_a_file_that_lines_cannot_be_added_to_is_refused_and_not_bent() -> None:
    """Inline arrays of tables are right TOML, but nothing can be added behind them."""
    host = hosts_example()
    inline = re.sub(r"(?s)\[\[link\]\].*?(?=\n\[\[service|\n# ---)", "", LEAGUE)
    inline = inline.replace(
        'name = "league"',
        'name = "league"\nlink = [{a = "frankfurt", b = "lyon", rtt_ms = 1, mbit_s = 1}]',
        1,
    )
    with pytest.raises(ConfigError):
        with_site(inline, "joiner", host, {})


@given(st.text(max_size=100))
def test_any_name_has_an_id(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", slug(name))


def hosts_example(
    served_name: str = "my-model", model: str = "Llama-3.1-8B", precision: str = "bf16"
) -> Host:
    assert model in ai_models()
    one = FoundEngine(
        url="http://127.0.0.1:8000",
        server="vLLM",
        served_name=served_name,
        model=model,
        precision=precision,
        slots=8,
        context_tokens=16384,
    )
    return Host(
        kind="micro",
        city="Lyon",
        country="FR",
        lat_deg=45.75,
        lon_deg=4.85,
        operator_hq="FR",
        grid_kw_max=2.0,
        host="10.0.0.2",
        reached_at="10.0.0.2",
        port=8443,
        hop_port=8444,
        threads=8,
        engines=(one,),
    )


def own_league() -> str:
    return first_fleet(
        "home", "berlin", hosts_example(), hub_host="10.0.0.1", leaf_port=8445, door_port=8446
    )


def test_further_hubs_are_added_behind_and_one_that_comes_again_gives_way() -> None:
    second = OtherHub(id="second", host="10.0.0.2", leaf_port=1, cluster_port=2)
    third = OtherHub(id="third", host="h.example", leaf_port=3, cluster_port=4)
    before = own_league()
    text = with_hub(before, second, 8447)
    made = parse_fleet(text.encode(), source="fleet")
    assert (made.hub.cluster_port, made.hub.others) == (8447, (second,))
    assert problems_of(made) == []
    assert [line for line in before.splitlines() if line not in text.splitlines()] == []
    text = with_hub(text, third, 9999)
    moved = OtherHub(id="second", host="10.0.0.9", leaf_port=5, cluster_port=6)
    made = parse_fleet(with_hub(text, moved, 9999).encode(), source="fleet")
    assert (made.hub.cluster_port, made.hub.others) == (8447, (third, moved))
    assert problems_of(made) == []


def test_a_league_of_emulated_links_has_one_hub() -> None:
    other = OtherHub(id="second", host="10.0.0.2", leaf_port=1, cluster_port=2)
    with pytest.raises(ConfigError, match="hub"):
        with_hub(LEAGUE, other, 8447)
