"""The law document decodes whole, refers only to what exists, and answers plain questions."""

import msgspec

from hanse.catalogue import all_countries, jurisdiction_rules
from hanse.catalogue.tables import DATA


def test_nothing_in_the_document_is_dropped_on_the_way() -> None:
    raw = msgspec.json.decode((DATA / "jurisdictions.json").read_bytes())
    law = jurisdiction_rules()
    assert set(law.countries) == set(raw["countries"])
    rules = [r for c in law.countries.values() for r in c.rules]
    assert len(law.countries) == 60
    assert len(rules) == 75


def test_every_code_and_bloc_it_names_exists() -> None:
    law, known = jurisdiction_rules(), set(all_countries())
    assert set(law.countries) <= known
    for members in law.blocs.values():
        assert set(members) <= known
    for exporter, decisions in law.adequacy.items():
        assert exporter in known or exporter in law.blocs
        assert {d.to for d in decisions} <= known
    for c in law.countries.values():
        for rule in c.rules:
            assert not rule.within or rule.within in law.blocs
            assert not rule.destinations or rule.destinations in law.blocs


def test_every_rule_cites_an_act_and_names_known_classes() -> None:
    law = jurisdiction_rules()
    for c in law.countries.values():
        for rule in c.rules:
            assert rule.id and rule.law
            assert set(rule.classes) <= set(law.data_classes)
            assert rule.restriction in law.restriction_values


def test_rule_ids_repeat_only_for_the_same_rule() -> None:
    seen: dict[str, tuple[str, str]] = {}
    for c in jurisdiction_rules().countries.values():
        for rule in c.rules:
            assert seen.setdefault(rule.id, (rule.law, rule.restriction))[1] == rule.restriction


def test_estonia_is_in_both_blocs_and_britain_in_none() -> None:
    law = jurisdiction_rules()
    assert law.blocs_of("EE") == ("EU", "EEA")
    assert law.blocs_of("NO") == ("EEA",)
    assert law.blocs_of("GB") == ()


def test_the_decision_for_britain_ends_and_the_one_for_america_is_confined() -> None:
    decisions = {d.to: d for d in jurisdiction_rules().adequacy_from("DE")}
    assert decisions["GB"].sunset == "2031-12"
    assert "DPF" in decisions["US"].scope
    assert decisions["JP"].scope == ""


def test_norway_shares_the_decisions_of_the_union_and_china_has_none() -> None:
    law = jurisdiction_rules()
    assert law.adequacy_from("NO") == law.adequacy_from("FR")
    assert law.adequacy_from("CN") == ()


def test_an_unknown_country_has_no_rules_rather_than_an_empty_list() -> None:
    assert jurisdiction_rules().rules_of("ZZ") is None
    assert jurisdiction_rules().rules_of("DE")


def test_american_law_reaches_american_operators_wherever_the_site_is() -> None:
    law = jurisdiction_rules()
    assert any("CLOUD Act" in r.law for r in law.reach_of("US"))
    assert law.reach_of("EE") == ()
