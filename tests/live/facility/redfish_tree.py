"""A machine as a Redfish service tells it: root, one system with two GPUs, one chassis, one manager, accounts, sessions, events.

Shapes after DMTF DSP0266 (protocol) and DSP0268 (data model). Old services (before release 2020.4) have `Power` and `Thermal` in a chassis;
newer ones `PowerSubsystem`, `ThermalSubsystem` and `EnvironmentMetrics`: `Machine(old=True)` is the former.
"""

from __future__ import annotations

import copy
from typing import Any

ROOT = "/redfish/v1/"
SYSTEM = ROOT + "Systems/node1"
CHASSIS = ROOT + "Chassis/tray1"
MANAGER = ROOT + "Managers/bmc"
SESSIONS = ROOT + "SessionService/Sessions"
ACCOUNTS = ROOT + "AccountService/Accounts"
ROLES = ROOT + "AccountService/Roles"
SUBSCRIPTIONS = ROOT + "EventService/Subscriptions"
PROTOCOL = MANAGER + "/NetworkProtocol"
CERTIFICATES = PROTOCOL + "/HTTPS/Certificates"
RESET = SYSTEM + "/Actions/ComputerSystem.Reset"
REPLACE = ROOT + "CertificateService/Actions/CertificateService.ReplaceCertificate"
PRIVILEGES = ROOT + "Registries/Privileges/PrivilegeRegistry"
UUID = "5b1f4a40-0c5e-4b7e-9d3c-1f6a6a2f9b11"
RESETS = ["On", "ForceOff", "ForceRestart", "GracefulRestart", "PowerCycle"]
PRIVILEGES_OF = {
    "Administrator": [
        "Login", "ConfigureManager", "ConfigureUsers", "ConfigureComponents", "ConfigureSelf",
    ],
    "Operator": ["Login", "ConfigureComponents", "ConfigureSelf"],
    "ReadOnly": ["Login", "ConfigureSelf"],
}  # fmt: skip
GPU_LIMITS_W = (200, 700)


class Machine:
    """Its resources by path, and what they allow."""

    def __init__(self, *, old: bool = False, gpus: int = 2, idle_w: float = 400.0) -> None:
        self.old = old
        self.idle_w = idle_w
        self.gpu_w = [350.0] * gpus
        self.gpu_limit_w: list[float | None] = [None] * gpus
        self.chassis_limit_w: float | None = None
        self.inlet_c = 24.0
        self.energy_kwh = 1234.5
        self.power_state = "On"
        self.resets: list[str] = []
        self.tree: dict[str, dict[str, Any]] = {}
        self.patchable: dict[str, set[str]] = {}
        """Path -> properties that a PATCH may change, dotted."""
        self.creates: set[str] = {SESSIONS, ACCOUNTS, SUBSCRIPTIONS}
        self.deletes: set[str] = set()
        self.actions: set[str] = {RESET, REPLACE}
        self._grow()

    @property
    def drawn_w(self) -> float:
        """What the machine draws: GPUs at most what they are limited to."""
        if self.power_state != "On":
            return 12.0  # the BMC itself
        gpus = (min(w, limit or w) for w, limit in zip(self.gpu_w, self.gpu_limit_w, strict=True))
        return self.idle_w + sum(gpus)

    # --- resources

    def read(self, path: str) -> dict[str, Any] | None:
        """One resource with its live values."""
        path = path if path == ROOT else path.rstrip("/")
        if path == ROOT.rstrip("/"):
            path = ROOT
        found = self.tree.get(path)
        if found is None:
            return None
        found = copy.deepcopy(found)
        self._live(path, found)
        if "Members" in found:
            found["Members@odata.count"] = len(found["Members"])
        return found

    def _live(self, path: str, found: dict[str, Any]) -> None:
        if path == SYSTEM:
            found["PowerState"] = self.power_state
        if path == CHASSIS + "/EnvironmentMetrics":
            found["PowerWatts"]["Reading"] = self.drawn_w
            found["EnergykWh"]["Reading"] = self.energy_kwh
            found["TemperatureCelsius"]["Reading"] = self.inlet_c
            _limit(found, self.chassis_limit_w)
        if path == CHASSIS + "/Power":
            control = found["PowerControl"][0]
            control["PowerConsumedWatts"] = self.drawn_w
            control["PowerLimit"]["LimitInWatts"] = self.chassis_limit_w
        if path == CHASSIS + "/Thermal":
            found["Temperatures"][0]["ReadingCelsius"] = self.inlet_c
        for n, limit in enumerate(self.gpu_limit_w):
            if path == f"{SYSTEM}/Processors/GPU_{n}/EnvironmentMetrics":
                found["PowerWatts"]["Reading"] = min(self.gpu_w[n], limit or self.gpu_w[n])
                _limit(found, limit)

    def patched(self, path: str, changes: dict[str, Any]) -> None:
        """Changes that were found to be allowed."""
        limit = changes.get("PowerLimitWatts", {})
        for n in range(len(self.gpu_limit_w)):
            if path == f"{SYSTEM}/Processors/GPU_{n}/EnvironmentMetrics":
                self.gpu_limit_w[n] = _asked(limit, self.gpu_limit_w[n])
                return
        if path == CHASSIS + "/EnvironmentMetrics":
            self.chassis_limit_w = _asked(limit, self.chassis_limit_w)
            return
        if path == CHASSIS + "/Power":
            self.chassis_limit_w = changes["PowerControl"][0]["PowerLimit"]["LimitInWatts"]
            return
        _merge(self.tree[path], changes)

    def limits_of(self, path: str) -> tuple[float, float] | None:
        """What a power limit may be there."""
        if path.endswith("/EnvironmentMetrics"):
            return (200, 700) if "/Processors/" in path else (300, 3000)
        return None

    def add(self, path: str, kind: str, name: str, **fields: Any) -> None:
        """`kind` as in `@odata.type`."""
        found: dict[str, Any] = {"@odata.id": path, "@odata.type": f"#{kind}", "Name": name}
        if "Members" not in fields:
            found["Id"] = path.rstrip("/").rpartition("/")[2]
        self.tree[path] = found | fields

    def collection(self, path: str, kind: str, name: str, members: list[str]) -> None:
        self.add(path, f"{kind}.{kind}", name, Members=[_link(f"{path}/{m}") for m in members])

    def _grow(self) -> None:
        self._services()
        self._accounts()
        self._system()
        self._chassis()
        self._manager()

    def _services(self) -> None:
        names = (
            "Systems",
            "Chassis",
            "Managers",
            "AccountService",
            "EventService",
            "CertificateService",
        )
        self.add(
            ROOT,
            "ServiceRoot.v1_15_0.ServiceRoot",
            "Test machine",
            RedfishVersion="1.15.0",
            UUID=UUID,
            Product="Facility test server",
            ProtocolFeaturesSupported={
                "OnlyMemberQuery": True,
                "ExcerptQuery": False,
                "FilterQuery": False,
                "SelectQuery": False,
            },
            Links={"Sessions": _link(SESSIONS)},
            SessionService=_link(ROOT + "SessionService"),
            Registries=_link(ROOT + "Registries"),
            **{name: _link(ROOT + name) for name in names},
        )
        self.tree[ROOT]["Id"] = "RootService"
        enabled = {"ServiceEnabled": True, "Status": {"State": "Enabled", "Health": "OK"}}
        self.add(
            ROOT + "SessionService", "SessionService.v1_1_8.SessionService", "Sessions",
            SessionTimeout=600, Sessions=_link(SESSIONS), **enabled,
        )  # fmt: skip
        self.collection(SESSIONS, "SessionCollection", "Sessions", [])
        self.add(
            ROOT + "EventService", "EventService.v1_7_2.EventService", "Events",
            DeliveryRetryAttempts=3, DeliveryRetryIntervalSeconds=5,
            EventFormatTypes=["Event"], Subscriptions=_link(SUBSCRIPTIONS), **enabled,
        )  # fmt: skip
        self.collection(SUBSCRIPTIONS, "EventDestinationCollection", "Subscriptions", [])
        replace = {"#CertificateService.ReplaceCertificate": {"target": REPLACE}}
        self.add(
            ROOT + "CertificateService", "CertificateService.v1_0_4.CertificateService", "Certificates",
            Actions=replace,
        )  # fmt: skip
        self.collection(
            ROOT + "Registries", "MessageRegistryFileCollection", "Registries", ["Privileges"]
        )
        self.add(
            ROOT + "Registries/Privileges", "MessageRegistryFile.v1_1_3.MessageRegistryFile",
            "Privileges", Registry="Redfish_1.5.0_PrivilegeRegistry", Languages=["en"],
            Location=[{"Language": "en", "Uri": PRIVILEGES}],
        )  # fmt: skip

    def _accounts(self) -> None:
        self.add(
            ROOT + "AccountService", "AccountService.v1_15_0.AccountService", "Accounts",
            ServiceEnabled=True, MinPasswordLength=8, MaxPasswordLength=64,
            HTTPBasicAuth="Enabled", Accounts=_link(ACCOUNTS), Roles=_link(ROLES),
            PrivilegeMap=_link(PRIVILEGES),
        )  # fmt: skip
        self.collection(ACCOUNTS, "ManagerAccountCollection", "Accounts", [])
        self.collection(ROLES, "RoleCollection", "Roles", list(PRIVILEGES_OF))
        for role, privileges in PRIVILEGES_OF.items():
            self.add(
                f"{ROLES}/{role}", "Role.v1_3_2.Role", f"Role {role}",
                RoleId=role, IsPredefined=True, AssignedPrivileges=privileges,
            )  # fmt: skip
        self.add(
            PRIVILEGES, "PrivilegeRegistry.v1_1_4.PrivilegeRegistry", "Privileges",
            PrivilegesUsed=PRIVILEGES_OF["Administrator"], OEMPrivilegesUsed=[], Mappings=[],
        )  # fmt: skip

    def account(self, name: str, role: str) -> str:
        """A new account's path."""
        number = max(
            (int(m["@odata.id"].rpartition("/")[2]) for m in self.tree[ACCOUNTS]["Members"]),
            default=0,
        )
        path = f"{ACCOUNTS}/{number + 1}"
        self.add(
            path, "ManagerAccount.v1_12_0.ManagerAccount", f"Account {name}",
            UserName=name, RoleId=role, Enabled=True, Locked=False, Password=None,
            PasswordChangeRequired=False, AccountTypes=["Redfish"],
            Links={"Role": _link(f"{ROLES}/{role}")},
        )  # fmt: skip
        self.tree[ACCOUNTS]["Members"].append(_link(path))
        self.patchable[path] = {
            "UserName", "Password", "RoleId", "Enabled", "Locked", "PasswordChangeRequired",
        }  # fmt: skip
        self.deletes.add(path)
        return path

    def _system(self) -> None:
        self.collection(ROOT + "Systems", "ComputerSystemCollection", "Systems", ["node1"])
        parts = {} if self.old else {"Processors": _link(SYSTEM + "/Processors")}
        reset = {"target": RESET, "ResetType@Redfish.AllowableValues": RESETS}
        self.add(
            SYSTEM, "ComputerSystem.v1_20_0.ComputerSystem", "node1",
            PowerState="On", Status={"State": "Enabled", "Health": "OK"},
            Actions={"#ComputerSystem.Reset": reset},
            Links={"Chassis": [_link(CHASSIS)], "ManagedBy": [_link(MANAGER)]}, **parts,
        )  # fmt: skip
        if self.old:
            return
        names = [f"GPU_{n}" for n in range(len(self.gpu_w))]
        self.collection(
            SYSTEM + "/Processors", "ProcessorCollection", "Processors", ["CPU_0", *names]
        )
        self.add(
            SYSTEM + "/Processors/CPU_0",
            "Processor.v1_18_0.Processor",
            "CPU_0",
            ProcessorType="CPU",
        )
        for name in names:
            path = f"{SYSTEM}/Processors/{name}"
            metrics = path + "/EnvironmentMetrics"
            self.add(
                path, "Processor.v1_18_0.Processor", name,
                ProcessorType="GPU", EnvironmentMetrics=_link(metrics),
            )  # fmt: skip
            limit = {"AllowableMin": GPU_LIMITS_W[0], "AllowableMax": GPU_LIMITS_W[1]}
            self.add(
                metrics, "EnvironmentMetrics.v1_3_0.EnvironmentMetrics", f"{name} metrics",
                PowerWatts={"Reading": 0.0}, TemperatureCelsius={"Reading": 61.0}, PowerLimitWatts=limit,
            )  # fmt: skip
            self.patchable[metrics] = {"PowerLimitWatts.SetPoint", "PowerLimitWatts.ControlMode"}

    def _chassis(self) -> None:
        self.collection(ROOT + "Chassis", "ChassisCollection", "Chassis", ["tray1"])
        new = ("PowerSubsystem", "ThermalSubsystem", "EnvironmentMetrics")
        links = {
            name: _link(f"{CHASSIS}/{name}") for name in (("Power", "Thermal") if self.old else new)
        }
        self.add(
            CHASSIS, "Chassis.v1_23_0.Chassis", "tray1",
            ChassisType="Sled", Status={"State": "Enabled"}, PowerState="On", **links,
        )  # fmt: skip
        self._old_chassis() if self.old else self._new_chassis()

    def _old_chassis(self) -> None:
        control = {
            "@odata.id": f"{CHASSIS}/Power#/PowerControl/0", "MemberId": "0",
            "PowerConsumedWatts": 0.0, "PowerLimit": {"LimitInWatts": None, "LimitException": "NoAction"},
        }  # fmt: skip
        supply = {
            "MemberId": "0",
            "Name": "PSU 0",
            "PowerInputWatts": 401.0,
            "LineInputVoltage": 231.0,
        }
        self.add(
            f"{CHASSIS}/Power", "Power.v1_7_1.Power", "Power",
            PowerControl=[control], PowerSupplies=[supply],
        )  # fmt: skip
        self.patchable[f"{CHASSIS}/Power"] = {"PowerControl"}
        inlet = {
            "MemberId": "0",
            "Name": "Inlet",
            "ReadingCelsius": 0.0,
            "Status": {"State": "Enabled"},
        }
        absent = {
            "MemberId": "1",
            "Name": "DIMM 7",
            "ReadingCelsius": None,
            "Status": {"State": "Absent"},
        }
        self.add(
            f"{CHASSIS}/Thermal",
            "Thermal.v1_7_1.Thermal",
            "Thermal",
            Temperatures=[inlet, absent],
            Fans=[],
        )

    def _new_chassis(self) -> None:
        limit = {"AllowableMin": 300, "AllowableMax": 3000}
        self.add(
            f"{CHASSIS}/EnvironmentMetrics", "EnvironmentMetrics.v1_3_0.EnvironmentMetrics", "tray1 metrics",
            PowerWatts={"Reading": 0.0}, EnergykWh={"Reading": 0.0}, TemperatureCelsius={"Reading": 0.0},
            PowerLimitWatts=limit,
        )  # fmt: skip
        self.patchable[f"{CHASSIS}/EnvironmentMetrics"] = {
            "PowerLimitWatts.SetPoint", "PowerLimitWatts.ControlMode",
        }  # fmt: skip
        supplies = f"{CHASSIS}/PowerSubsystem/PowerSupplies"
        self.add(
            f"{CHASSIS}/PowerSubsystem", "PowerSubsystem.v1_1_0.PowerSubsystem", "Power",
            CapacityWatts=6000, PowerSupplies=_link(supplies),
        )  # fmt: skip
        self.collection(supplies, "PowerSupplyCollection", "Power supplies", ["0", "1"])
        for n in range(2):
            metrics = f"{supplies}/{n}/Metrics"
            self.add(
                f"{supplies}/{n}", "PowerSupply.v1_5_1.PowerSupply", f"PSU {n}",
                Status={"State": "Enabled"}, Metrics=_link(metrics),
            )  # fmt: skip
            self.add(
                metrics, "PowerSupplyMetrics.v1_0_1.PowerSupplyMetrics", f"PSU {n} metrics",
                InputPowerWatts={"Reading": 551.0 + n}, InputVoltage={"Reading": 230.0 + n},
                OutputPowerWatts={"Reading": 520.0},
            )  # fmt: skip
        thermal = f"{CHASSIS}/ThermalSubsystem"
        self.add(
            thermal, "ThermalSubsystem.v1_3_0.ThermalSubsystem", "Thermal",
            ThermalMetrics=_link(thermal + "/ThermalMetrics"),
        )  # fmt: skip
        summary = {"Intake": {"Reading": 23.5}, "Exhaust": {"Reading": 41.0}}
        self.add(
            thermal + "/ThermalMetrics", "ThermalMetrics.v1_1_0.ThermalMetrics", "Thermal metrics",
            TemperatureSummaryCelsius=summary,
            TemperatureReadingsCelsius=[{"DeviceName": "Coolant", "Reading": 33.0}],
        )  # fmt: skip

    def _manager(self) -> None:
        self.collection(ROOT + "Managers", "ManagerCollection", "Managers", ["bmc"])
        self.add(
            MANAGER, "Manager.v1_19_0.Manager", "bmc", ManagerType="BMC", FirmwareVersion="1.0",
            Manufacturer="Hanse", Model="Facility test server", UUID=UUID, ServiceEntryPointUUID=UUID,
            NetworkProtocol=_link(PROTOCOL), Status={"State": "Enabled", "Health": "OK"},
        )  # fmt: skip
        https = {"ProtocolEnabled": True, "Port": 443, "Certificates": _link(CERTIFICATES)}
        self.add(
            PROTOCOL, "ManagerNetworkProtocol.v1_10_0.ManagerNetworkProtocol", "Protocols",
            HostName="bmc", FQDN="bmc.test.invalid", HTTPS=https, SSDP={"ProtocolEnabled": False},
            NTP={"ProtocolEnabled": True, "NTPServers": []},
        )  # fmt: skip
        self.patchable[PROTOCOL] = {"NTP.NTPServers", "NTP.ProtocolEnabled", "SSDP.ProtocolEnabled"}
        self.collection(CERTIFICATES, "CertificateCollection", "Certificates", ["1"])
        self.add(f"{CERTIFICATES}/1", "Certificate.v1_7_0.Certificate", "1", CertificateType="PEM")


def _link(path: str) -> dict[str, str]:
    return {"@odata.id": path}


def _limit(found: dict[str, Any], limit_w: float | None) -> None:
    allowed = found["PowerLimitWatts"]
    allowed["SetPoint"] = allowed["AllowableMax"] if limit_w is None else limit_w
    allowed["ControlMode"] = "Disabled" if limit_w is None else "Automatic"


def _asked(limit: dict[str, Any], before: float | None) -> float | None:
    if limit.get("ControlMode") == "Disabled":
        return None
    return limit.get("SetPoint", before)


def _merge(into: dict[str, Any], changes: dict[str, Any]) -> None:
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(into.get(name), dict):
            _merge(into[name], value)
        elif isinstance(value, list):
            # Elements: null removes, an empty object leaves as it was (DSP0266, PATCH on array properties).
            old = into.get(name) or []
            kept = [old[i] if v == {} and i < len(old) else v for i, v in enumerate(value)]
            into[name] = [v for v in kept if v is not None and v != {}]
        else:
            into[name] = value
