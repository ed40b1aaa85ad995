"""Wrong meanings of a fleet's plant: each is found where it stands, and a right one has none."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanse.dispatch.belief import fleet_digest
from hanse.errors import ConfigError
from hanse.model.check import check_fleet
from hanse.model.read import parse_fleet

EXAMPLE = (Path(__file__).parents[2] / "examples/league.toml").read_text()

RIGHT = """
[[facility]]
id = "bmc"
site = "frankfurt"
driver = "redfish"
url = "https://10.0.0.5"
user = "hanse"
secret_file = "bmc.secret"
fingerprint_sha256 = "{pin}"
caps_power = true
resets = ["cpu"]

[[facility]]
id = "ups"
site = "frankfurt"
driver = "snmp"
url = "snmp://10.0.0.9"
profile = "ups-mib"
version = "3"
user = "observer"
secret_env = "UPS_SECRET"

[[facility]]
id = "inverter"
site = "lyon"
driver = "modbus"
url = "modbus://10.1.0.7:1502"
profile = "sunspec"
unit = 126

[[facility]]
id = "main-meter"
site = "lyon"
driver = "modbus"
url = "modbus://10.1.0.8"
[[facility.register]]
point = "power"
quantity = "power_w"
address = 52
kind = "f32"

[[facility]]
id = "grid"
site = "frankfurt"
driver = "dsx-flex"
user = "acme"
secret_file = "acme.secret"
[[facility.signer]]
kid = "acme-1"
key_file = "acme.pem"

[[facility]]
id = "building"
site = "frankfurt"
driver = "mqtt"
url = "mqtts://bms.example:8883"

[[facility]]
id = "utility"
site = "lyon"
driver = "openadr"
url = "https://vtn.example/openadr3/3.1.0"

[[meter]]
id = "it"
site = "frankfurt"
facility = "bmc"
point = "tray1.power"
energy_point = "tray1.energy"
measures = "it"
pool = "cpu"

[[meter]]
id = "pv"
site = "lyon"
facility = "inverter"
point = "inverter.power"
measures = "pv"
error_share = 0.02
""".replace("{pin}", "ab" * 32)


def wheres(more: str) -> dict[str, str]:
    problems = check_fleet(parse_fleet((EXAMPLE + more).encode(), source="test"))
    return {p.where: str(p) for p in problems}


def test_a_plant_as_it_should_be_has_no_problem() -> None:
    assert wheres(RIGHT) == {}


CASES = [
    ('site = "frankfurt"\ndriver = "redfish"', 'site = "frankfort"\ndriver = "redfish"', "facility[0].site", "did you mean 'frankfurt'"),
    ('url = "https://10.0.0.5"', 'url = "ftp://10.0.0.5"', "facility[0].url", "https://HOST[:PORT]"),
    ('url = "https://10.0.0.5"', "", "facility[0].url", "https://HOST"),
    ('url = "https://10.0.0.5"', 'url = "https://root:calvin@10.0.0.5"', "facility[0].url", "secret_file or secret_env"),
    ('secret_file = "bmc.secret"', 'secret_file = "bmc.secret"\nsecret_env = "X"', "facility[0]", "one of them"),
    ("ab" * 32, "AB:CD", "facility[0].fingerprint_sha256", "sha256sum"),
    ('fingerprint_sha256 = "', 'ca_file = "ca.pem"\nfingerprint_sha256 = "', "facility[0]", "one of them"),
    ('resets = ["cpu"]', 'resets = ["cpus"]', "facility[0].resets[0]", "did you mean 'cpu'"),
    ('profile = "ups-mib"', 'profile = "ups"', "facility[1].profile", "'ups-mib'"),
    ('user = "observer"', "", "facility[1].user", "SNMP v3"),
    ('profile = "ups-mib"\n', "caps_power = true\n", "facility[1].caps_power", "'redfish' or 'nvml'"),
    ('profile = "sunspec"', "", "facility[2].register", "sunspec"),
    ("unit = 126", "unit = 256", "facility[2].unit", "255"),
    ('id = "main-meter"', 'id = "ups"', "facility[3].id", "an id of its own"),
    ('kind = "f32"', 'kind = "f32"\n[[facility.register]]\npoint = "power"\nquantity = "power_w"\naddress = 60', "facility[3].register[1].point", "each once"),
    ('[[facility.signer]]\nkid = "acme-1"\nkey_file = "acme.pem"', "", "facility[4].signer", "binds nobody"),
    ('user = "acme"\n', "", "facility[4].user", "who publishes"),
    ('user = "acme"\n', 'user = "acme"\nlisten = "1883"\n', "facility[4].listen", "HOST:PORT"),
    ('driver = "mqtt"\nurl = "mqtts://bms.example:8883"', 'driver = "mqtt"\nuser = "bms"\nsecret_env = "B"\nlisten = "127.0.0.1:1884"', "facility[5].listen", "listens already"),
    ('driver = "mqtt"\nurl', 'driver = "dsx-flex"\nsigner = [{kid = "a", key_file = "b"}]\nurl', "facility[5].driver", "one a site"),
    ('facility = "bmc"', 'facility = "bcm"', "meter[0].facility", "did you mean 'bmc'"),
    ('facility = "bmc"', 'facility = "grid"', "meter[0].facility", "a device that measures"),
    ('pool = "cpu"\n\n[[meter]]', 'pool = "gpu"\n\n[[meter]]', "meter[0].pool", "known pool"),
    ('measures = "pv"', 'measures = "pv"\npool = "cpu"', "meter[1].pool", "none unless"),
    ("error_share = 0.02", "error_share = 2", "meter[1].error_share", "0 to 1"),
    ('id = "pv"\nsite = "lyon"', 'id = "pv"\nsite = "frankfurt"', "meter[1].facility", "facility of the site"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "where", "told"), CASES, ids=[f"{c[2]}-{i}" for i, c in enumerate(CASES)]
)
def test_a_slip_is_found_where_it_stands(old: str, new: str, where: str, told: str) -> None:
    assert RIGHT.count(old) >= 1
    found = wheres(RIGHT.replace(old, new, 1))
    assert where in found, found
    assert told in found[where]
    assert "calvin" not in " ".join(found.values())


def test_it_meters_are_of_pools_or_of_none() -> None:
    whole = '\n[[meter]]\nid = "all"\nsite = "frankfurt"\nfacility = "ups"\npoint = "output.power"\nmeasures = "it"\n'
    assert "as 'it' does" in wheres(RIGHT + whole)["meter[2].pool"]


def test_an_unknown_driver_or_quantity_is_told_with_what_there_is() -> None:
    for old, new, told in (
        ('driver = "snmp"', 'driver = "snpm"', "did you mean 'snmp'"),
        ('quantity = "power_w"', 'quantity = "power_kw"', "did you mean 'power_w'"),
    ):
        with pytest.raises(ConfigError, match=told):
            wheres(RIGHT.replace(old, new))


def test_meters_change_no_placement() -> None:
    plain = parse_fleet(EXAMPLE.encode(), source="test")
    metered = parse_fleet((EXAMPLE + RIGHT).encode(), source="test")
    assert fleet_digest(plain) == fleet_digest(metered)
    other = parse_fleet(
        EXAMPLE.replace("grid_kw_max = ", "grid_kw_max = 1", 1).encode(), source="test"
    )
    assert fleet_digest(plain) != fleet_digest(other)
