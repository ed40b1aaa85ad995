"""A league that exists only in tests: the example fleet, made-up reports, a clock moved by hand."""

import asyncio
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from hanse.model.read import read_fleet
from hanse.view import (
    CentralVerdict,
    Cost,
    DecisionRow,
    EngineStatus,
    LeagueView,
    LinkStatus,
    PowerStatus,
    SiteStatus,
    ViewState,
    WorkSpan,
    WorkView,
)

LEAGUE = Path(__file__).parents[2] / "examples" / "league.toml"
BEGIN_S = 1_795_384_800.0
CARBON = {"frankfurt": 342.0, "lyon": 41.0, "london": 188.0, "tallinn": 417.0, "virginia": 396.0}
PRICE = {"frankfurt": 0.181, "lyon": 0.142, "london": 0.236, "tallinn": 0.128, "virginia": 0.079}
IT_KW = {"frankfurt": 18.2, "lyon": 14.7, "london": 16.1, "tallinn": 2.3, "virginia": 21_400.0}


class FakeLeague:
    """A `ViewSource` that a test moves."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.now_s = BEGIN_S
        self.fleet = read_fleet(LEAGUE)
        sites = self.fleet.sites
        self.state = ViewState(
            self.fleet, {site.id: f"http://127.0.0.1:{site.gateway.port}" for site in sites}
        )
        self.state.table_version, self.state.epoch = 12, 3
        self.state.links = tuple(
            LinkStatus(a=one.a, b=one.b, rtt_ms=one.rtt_ms, mbit_s=one.mbit_s)
            for one in self.fleet.links
        )
        self.silent: set[str] = set()
        self.dead_engines: set[str] = set()
        self.emptied: set[str] = set()
        self.bare: set[str] = set()
        self.sequence = 0
        self._news = asyncio.Event()

    def snapshot(self) -> LeagueView:
        return self.state.snapshot(self.now_s)

    async def changed(self) -> None:
        await self._news.wait()

    def tell(self) -> None:
        """Wake whoever waits for news."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    def tick(self, seconds: float = 0.5) -> None:
        """Let time pass and every site that is not silent report."""
        self.now_s += seconds
        for site in self.fleet.sites:
            if site.id not in self.silent:
                self.state.hear_status(self._report(site.id, site.kind), self.now_s)
        self.tell()

    def serve(self, entry: str, site: str, **changes: object) -> DecisionRow:
        """One answered request; the shadow answers too unless told otherwise."""
        predicted = self._cost(site, 1.0)
        fields: dict[str, object] = {
            "site": site,
            "variant": "q4-0" if site == "tallinn" else "q4-1",
            "outcome": "served",
            "tokens_in": int(self.rng.integers(12, 90)),
            "tokens_out": int(self.rng.integers(8, 48)),
            "predicted": predicted,
            "measured": self._cost(site, float(self.rng.uniform(0.9, 1.3))),
            "method": "estimated",
            "central": CentralVerdict(outcome="served", predicted=self._cost("virginia", 1.0)),
        }
        return self._row(entry, fields | changes)

    def refuse(self, entry: str, *rules: str, **changes: object) -> DecisionRow:
        """One refused request, on both sides."""
        central = CentralVerdict(outcome="refused", rules=rules)
        fields: dict[str, object] = {"outcome": "refused", "rules": rules, "central": central}
        return self._row(entry, fields | changes)

    def batch(self, name: str, **changes: object) -> None:
        """One more open batch, planned at two sites unless told otherwise."""
        soon = WorkSpan(site="lyon", begin_s=self.now_s - 5.0, end_s=self.now_s + 1500.0, lines=820)
        later = WorkSpan(
            site="virginia", begin_s=self.now_s + 5e4, end_s=self.now_s + 6e4, lines=400
        )
        row = WorkView(
            job=name, service="chat", home="lyon", tenant="demo", data_class="personal", left=1220.0,
            deadline_at_s=self.now_s + 86_400.0, planned=True, spans=(soon, later),
        )  # fmt: skip
        self.state.work = (*self.state.work, replace(row, **changes))
        self.tell()

    def cut(self, a: str, b: str, *, one_way: bool = False) -> None:
        """Cut a link, or only its way from a to b."""
        self.state.links = tuple(
            self._cut(link, a, one_way) if {link.a, link.b} == {a, b} else link
            for link in self.state.links
        )
        self.tell()

    def busy_day(self, requests: int) -> None:
        """A mix such as the demo's traffic gives."""
        homes = {"tallinn": "EE", "frankfurt": "DE", "lyon": "FR", "london": "GB"}
        for _ in range(requests):
            entry = str(self.rng.choice(list(homes)))
            self.now_s += float(self.rng.uniform(0.2, 1.4))
            dice = float(self.rng.random())
            where = {"country": homes[entry]}
            barred = CentralVerdict(outcome="refused", rules=("GDPR-V",))
            if dice < 0.04:
                self.refuse(entry, "GDPR-V", key_id="shop", data_class="personal", **where)
            elif dice < 0.06:
                self.refuse(entry, reason="ROOM", central=CentralVerdict(outcome="served"), **where)
            elif dice < 0.45:
                site = str(self.rng.choice([entry, "frankfurt", "lyon"]))
                key = "clinic" if dice < 0.25 else "demo"
                kind = "health" if dice < 0.25 else "personal"
                self.serve(entry, site, key_id=key, data_class=kind, central=barred, **where)
            else:
                site = str(self.rng.choice([entry, entry, "lyon", "lyon", "virginia"]))
                self.serve(entry, site, **where)

    def _row(self, entry: str, fields: dict[str, object]) -> DecisionRow:
        self.sequence += 1
        common: dict[str, object] = {
            "at_s": self.now_s,
            "request_id": f"{self.sequence:08x}{'5eed' * 6}",
            "key_id": "demo",
            "data_class": "public",
            "country": "EE",
            "service": "chat",
            "entry": entry,
        }
        row = DecisionRow(**(common | fields))  # type: ignore[arg-type]
        self.state.hear_decisions([row])
        self.tell()
        return row

    def _cost(self, site: str, stretch: float) -> Cost:
        far_ms = 96.0 if site == "virginia" else 14.0
        energy_wh = 0.0061 * stretch * float(self.rng.uniform(0.8, 1.2))
        return Cost(
            ttft_ms=(far_ms + 58.0) * stretch,
            e2e_ms=(far_ms + 640.0) * stretch,
            energy_wh=energy_wh,
            carbon_g=energy_wh * CARBON.get(site, 300.0) / 1000,
            cost_usd=energy_wh * PRICE.get(site, 0.2) / 1000,
        )

    def _report(self, site: str, kind: str) -> SiteStatus:
        variant = "q4-0" if site == "tallinn" else "q4-1"
        it_kw = IT_KW[site] * float(self.rng.uniform(0.97, 1.03))
        pv_kw = 31.0 if site == "frankfurt" else 0.0
        wind_kw = 44.0 if site == "london" else 0.0
        used_kw = it_kw * 1.2
        return SiteStatus(
            site=site,
            at_s=self.now_s,
            epoch=3,
            table_version=12,
            hub_connected=True,
            placement_version=7 if site in self.emptied else 0,
            engines=()
            if site in self.emptied | self.bare
            else (
                EngineStatus(
                    name=f"{site}-cpu-0",
                    service="chat",
                    variant=variant,
                    state="dead" if site in self.dead_engines else "up",
                    pid=4242,
                    cpu_w=6.4,
                ),
            ),
            gateway_workers=1,
            running=float(self.rng.integers(0, 4)),
            waiting=float(self.rng.integers(0, 2)),
            power=PowerStatus(
                it_kw=it_kw,
                pue=1.12 if kind == "region" else 1.2,
                pv_kw=pv_kw,
                wind_kw=wind_kw,
                import_kw=max(0.0, used_kw - pv_kw - wind_kw),
                export_kw=max(0.0, pv_kw + wind_kw - used_kw),
                carbon_g_per_kwh=CARBON[site] * float(self.rng.uniform(0.99, 1.01)),
                price_usd_per_kwh=PRICE[site],
                sources=("grid: made up for a test", "weather: made up for a test"),
                battery_kwh=12.5 if site == "frankfurt" else None,
                discharge_kw=3.5 if site == "frankfurt" else 0.0,
                battery_why="planned" if site == "frankfurt" else "",
            ),
        )

    @staticmethod
    def _cut(link: LinkStatus, a: str, one_way: bool) -> LinkStatus:
        fields = {name: getattr(link, name) for name in LinkStatus.__struct_fields__}
        fields["a_to_b"] = "cut" if link.a == a or not one_way else "open"
        fields["b_to_a"] = "cut" if link.b == a or not one_way else "open"
        return LinkStatus(**fields)
