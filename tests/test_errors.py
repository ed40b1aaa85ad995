"""Errors: what a person reads, and that it survives a process boundary."""

import pickle

from hanse.errors import ConfigError, HanseError, all_of


def test_an_error_says_where_got_allowed_and_fix() -> None:
    error = ConfigError("sites[2].power_kw_max", got=-3, allowed="> 0", fix="set the feed's rating")
    assert str(error) == "sites[2].power_kw_max: got -3, need > 0. To fix: set the feed's rating"


def test_an_error_without_rule_or_fix_says_only_what_it_knows() -> None:
    assert str(HanseError("fleet.toml", got="no such file")) == "fleet.toml: got no such file"


def test_an_error_from_another_process_keeps_its_fields_and_class() -> None:
    sent = ConfigError("a.b", got="x", allowed="y", fix="z")
    received = pickle.loads(pickle.dumps(sent))
    assert type(received) is ConfigError
    assert (str(received), received.fix) == (str(sent), "z")


def test_several_errors_are_a_line_each_and_one_stays_itself() -> None:
    one, other = ConfigError("a.b", got="x", allowed="y"), ConfigError("c", got="z", fix="w")
    assert str(all_of([one], within="f.toml")) == "f.toml: a.b: got x, need y"
    both = pickle.loads(pickle.dumps(all_of([one, other])))
    assert str(both) == "a.b: got x, need y\nc: got z. To fix: w"
    assert (both.where, both.each[1].fix) == ("a.b", "w")
