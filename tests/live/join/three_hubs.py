"""The league of `cut_off` with two further hubs, on machines of their own, and an empty machine to put a lost one on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from hanse.errors import ConfigError
from hanse.live.evidence.chain import scan_file
from live.join.cut_off import Wide
from live.join.machines import Machine, until

HUBS = ("hub", "second", "third")
PLACES = (*HUBS, "lyon", "paris", "spare")
SITES = ("lyon", "paris")


class Three(Wide):
    """A context manager; the further hubs are yet to join."""

    def __init__(self, home: Path) -> None:
        super().__init__(home, PLACES)

    def join_hub(self, name: str) -> None:
        """As a person does it: a line from the first hub's machine, and one command there."""
        token = self.machines["hub"].hanse("token", "--hub", name, "--state", "S").strip()
        machine = self.machines[name]
        machine.hanse("join", token, "--host", machine.host, "--state", "S", "--no-start")
        self.start_hub(place=name)

    def hub_states(self, place: str) -> dict[str, str]:
        """How the hub of one machine sees all hubs."""
        return {one["id"]: one["state"] for one in self.view(place).get("hubs", [])}

    def leader(self, *places: str) -> str:
        """Who leads, by the word of all these machines' hubs; empty: they do not say the same."""
        said = {
            tuple(hub for hub, state in self.hub_states(place).items() if state == "leads")
            for place in places
        }
        (one,) = said if len(said) == 1 else (("", ""),)
        return one[0] if len(one) == 1 else ""

    def wait_until_three(self, *, lost: str = "") -> str:
        """All hubs but a lost one say who leads, and hear each other; who that is."""
        living = [hub for hub in HUBS if hub != lost]

        def whole() -> bool:
            states = [self.hub_states(place) for place in living]
            return self.leader(*living) in living and all(
                state.get(hub) in ("leads", "follows") for state in states for hub in living
            )

        until(whole, f"{', '.join(living)} decide together", 60)
        return self.leader(*living)

    def wait_until_sites(self, place: str, *sites: str) -> None:
        """These sites are up and act by what the hub of this machine knows."""

        def whole() -> bool:
            known = {one["id"]: one for one in self.view(place).get("sites", [])}
            return all(
                known.get(s, {}).get("state") == "up" and known[s]["fleet_in_force"] for s in sites
            )

        try:
            until(whole, f"{', '.join(sites)} act by what {place} says", 60)
        except AssertionError as error:
            view = self.view(place)
            seen = {
                one["id"]: (one["state"], one["fleet_in_force"], (one["status"] or {}).get("fleet_revision"))
                for one in view.get("sites", [])
            }  # fmt: skip
            raise AssertionError(f"{error}; {view.get('fleet_revision')} {seen}") from None

    def fleet_revisions(self, place: str) -> dict[str, int]:
        """What each site reports that it acts by."""
        sites: list[dict[str, Any]] = self.view(place).get("sites", [])
        return {one["id"]: (one["status"] or {}).get("fleet_revision", 0) for one in sites}

    def apply(self, place: str, valid_s: int) -> int:
        """Another fleet file, at the hub of one machine; its revision."""
        machine = self.machines[place]
        text = (machine.state("S").path / "fleet.toml").read_text()
        lines = [
            f"valid_s = {valid_s}" if line.startswith("valid_s = ") else line
            for line in text.splitlines()
        ]
        (machine.home / "next.toml").write_text("\n".join(lines) + "\n")
        until(lambda: self._applied(machine), "most hubs take it", 40)
        return int(self.view(place)["fleet_revision"])

    def _applied(self, machine: Machine) -> bool:
        """As a person does: asked once more where no hub could say that most have it, since they elect who keeps it."""
        try:
            machine.hanse("apply", "next.toml", "--yes", "--state", "S")
        except AssertionError:
            if "most hubs" not in machine.said and "no controller" not in machine.said:
                raise
            return False
        return True

    def site_pids(self) -> dict[str, dict[str, int]]:
        return {site: self.pids(site) for site in SITES}

    def proven(self, until_s: float, place: str = "hub") -> tuple[int, int]:
        """A hub that has just come has no copy yet."""
        try:
            return super().proven(until_s, place)
        except ConfigError:
            return 0, 0

    def records(self, site: str, place: str) -> tuple[int, int]:
        """(bytes, records) of a site's log in one hub's copy: byte for byte the site's own, so in order and nothing twice."""
        own = self.state(site).site(site) / "evidence"
        size = records = 0
        for path in sorted((self.machines[place].state("S").hub / "evidence" / site).glob("*.log")):
            held = path.read_bytes()
            assert (own / path.name).read_bytes()[: len(held)] == held, (place, path.name)
            size += len(held)
            records += len(scan_file(path).frames) if path.name != "seals.log" else 0
        return size, records

    def wait_until_copied(self, place: str, site: str, began_s: float, total: int) -> float:
        """Seconds until every request of these is proven by one hub's copy alone."""
        ended_s = time.time()
        return until(
            lambda: self.proven_between(began_s, ended_s, place) == (total, 0),
            f"every record of {site} is at {place}",
            90,
        )
