"""The catalogue's tables decode, name their sources, and answer a wrong id with a helping error."""

import subprocess
import sys

import pytest

from hanse.catalogue import (
    accelerator,
    ai_model,
    ai_models,
    all_accelerators,
    all_countries,
    country,
    country_electricity,
    egress_usd_per_gb,
    emission_factor,
)
from hanse.catalogue.egress import egress_matrix
from hanse.catalogue.electricity import price_usd_per_kwh_median
from hanse.errors import ConfigError


def test_every_accelerator_names_its_source_and_every_idle_and_price_figure_too() -> None:
    assert len(all_accelerators()) >= 35
    for a in all_accelerators().values():
        assert a.source, a.id
        assert a.idle_w is None or a.source_idle, a.id
        assert a.price_usd is None or a.source_price, a.id
        assert a.tdp_w is None or a.tdp_kind, a.id


def test_known_figures_of_an_accelerator_are_read_with_their_units() -> None:
    h100 = accelerator("h100-sxm")
    assert (h100.memory_gb, h100.memory_bw_gb_s, h100.tdp_w, h100.idle_w) == (80, 3350, 700, 70)


def test_an_unpublished_figure_is_none_and_never_zero() -> None:
    assert accelerator("h100-pcie").idle_w is None
    assert accelerator("xeon-6980p").memory_gb is None


def test_a_demo_thread_is_marked_as_an_assumption_with_its_range() -> None:
    thread = accelerator("x86-thread")
    assert thread.tdp_kind == "assumption"
    assert thread.tdp_w_low is not None and thread.tdp_w_high is not None
    assert thread.tdp_w is not None and thread.idle_w is not None
    assert thread.idle_w < thread.tdp_w_low < thread.tdp_w < thread.tdp_w_high


def test_a_wrong_accelerator_is_refused_with_the_closest_known_ones() -> None:
    with pytest.raises(ConfigError) as refused:
        accelerator("h100", where="site[0].pool[0].accelerator")
    assert refused.value.where == "site[0].pool[0].accelerator"
    assert "h100-sxm" in str(refused.value.fix)


def test_a_model_is_found_by_alias_and_in_any_case() -> None:
    assert ai_model("llama-3.3-70b").id == "Llama-3.1-70B"
    assert ai_model("smollm2-135m-instruct").id == "SmolLM2-135M"
    with pytest.raises(ConfigError, match=r"Llama-3\.1-8B"):
        ai_model("Lama-3.1-8B")


def test_computed_parameters_agree_with_the_named_size_within_two_percent() -> None:
    # Names round ("8B" is 8.03); the check catches a wrong shape, not a rounded name.
    compared = [
        (m.id, m.params_total_b, m.params_total_computed_b)
        for m in ai_models().values()
        if m.params_total_b and m.params_total_computed_b
    ]
    assert len(compared) >= 10
    for name, named, computed in compared:
        assert computed == pytest.approx(named, rel=0.06), name


def test_kv_bytes_follow_from_the_shape_of_plain_attention() -> None:
    m = ai_model("SmolLM2-135M")
    assert m.kv_heads is not None and m.head_dim is not None
    assert m.kv_bytes_per_token_16bit == 2 * m.layers * m.kv_heads * m.head_dim * 2


def test_countries_cover_every_code_of_iso_3166_and_refuse_others() -> None:
    assert len(all_countries()) == 250  # 249 of ISO 3166-1 and XK
    assert country("LI").name == "Liechtenstein"
    with pytest.raises(ConfigError):
        country("XX")


def test_electricity_figures_carry_year_and_source() -> None:
    estonia = country_electricity("EE")
    assert (estonia.carbon_g_per_kwh, estonia.ci_year) == (416.7, 2023)
    assert estonia.price_usd_per_kwh == 0.1288
    assert "Eurostat" in estonia.price_source


def test_the_median_price_lies_among_the_published_prices() -> None:
    median, count = price_usd_per_kwh_median()
    assert count == 60
    assert 0.05 < median < 0.2


def test_lifecycle_factors_are_the_published_medians() -> None:
    assert emission_factor("solar_rooftop_pv").gco2e_kwh_median == 41
    assert emission_factor("wind_onshore").gco2e_kwh_median == 11


def test_sending_data_costs_nothing_at_home_and_something_abroad() -> None:
    for provider in ("aws", "azure", "gcp"):
        for region, row in egress_matrix(provider).items():
            assert row[region] == 0.0
            assert all(price >= 0.0 for price in row.values())
    assert egress_usd_per_gb("aws", "eu-central-1", "us-east-1") == 0.02
    with pytest.raises(ConfigError, match="eu-central-1"):
        egress_usd_per_gb("aws", "eu-centrl-1", "us-east-1")


def test_importing_the_catalogue_reads_no_table_and_brings_no_numpy() -> None:
    code = (
        "import sys, hanse.catalogue as c; from hanse.catalogue.cities import cities;"
        "print('numpy' in sys.modules, cities.cache_info().currsize)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False", "0"]
