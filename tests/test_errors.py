"""Errors: what a person reads, and that it survives a process boundary."""

import pickle

from hanse.errors import ConfigError, HanseError


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
