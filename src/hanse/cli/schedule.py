"""`hanse schedule`: what the controller planned for work that may wait and for batteries, when, where, and at what cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hanse.cli.options import Hours
from hanse.cli.output import print_json, say, table_console
from hanse.errors import ConfigError
from hanse.units import hours_from_s, s_from_hours

if TYPE_CHECKING:
    from hanse.dispatch.defer_problem import DeferBattery, JobPlan, SitePlan
    from hanse.dispatch.eventlog import LastSchedule
    from hanse.dispatch.follow import Span

KW_MIN: Final = 0.001
"""Less is shown as nothing."""
CHIPS_MIN: Final = 0.01
SPANS_MAX: Final = 4
"""In a cell of a table; all of them are in `--json`."""


def schedule(
    *,
    site: str | None = None,
    hours: Hours = 24,
    state: Path | None = None,
    json: bool = False,
) -> int:
    """Show the last schedule that the controller decided: which job runs when and where, what each battery does, what it costs.

    Works on the controller's own log, of a league that runs or has ended, on the machine that has the hub. With a site: its power,
    step by step. Example: `hanse schedule --site lyon --hours 6`

    Parameters
    ----------
    site
        Show this site's power in every step.
    hours
        How far ahead steps of a site are shown; the plan goes 48 hours.
    state
        State directory of the league; default the only one below `.hanse`.
    json
        Print one JSON document on standard output.
    """
    found = _last(state)
    names = [one.site for one in found.answer.sites]
    if site is not None and site not in names:
        raise ConfigError("--site", got=repr(site), allowed=", ".join(names))
    if json:
        print_json(_document(found, site))
    elif site is not None:
        _say_site(found, site, hours)
    else:
        _say(found)
    return 0


def _last(state: Path | None) -> LastSchedule:
    from hanse.cli.league import last_decided
    from hanse.dispatch.eventlog import last_schedule

    return last_decided(
        state,
        last_schedule,
        got="no schedule in the controller's log",
        allowed="a league whose controller places, with batches or batteries",
        fix="set `places = true` under [slow_loop] in the fleet file, give a site `battery_kwh` or send a batch (`/v1/batches`), and wait for `schedule_every_s`",
    )


# --- times


def _clock(at_s: float, since_s: float) -> str:
    """UTC, with the day where it is another than that of `since_s`."""
    same = time.gmtime(at_s)[:3] == time.gmtime(since_s)[:3]
    return time.strftime("%H:%M" if same else "%d. %H:%M", time.gmtime(at_s))


def _said(found: Sequence[Span], since_s: float) -> str:
    told = [
        f"{_clock(a.begin_s, since_s)}-{_clock(a.end_s, a.begin_s)} {a.mean:.3g}"
        for a in found[:SPANS_MAX]
    ]
    more = f" and {len(found) - SPANS_MAX} times more" if len(found) > SPANS_MAX else ""
    return ", ".join(told) + more


# --- documents


def _document(found: LastSchedule, site: str | None) -> dict[str, Any]:
    from msgspec.structs import asdict

    answer = found.answer
    return {
        "at_s": found.at_s,
        "start_s": answer.start_s,
        "step_s": answer.step_s,
        "carbon_signal": found.problem.carbon_signal,
        "jobs": [_job(found, plan) for plan in answer.jobs],
        "sites": [asdict(one) for one in answer.sites if site in (None, one.site)],
        "usd": asdict(answer.costs) | {"total": answer.costs.usd},
        "bound_usd": answer.bound_usd,
        "violated": [asdict(v) for v in answer.violations],
    }


def _job(found: LastSchedule, plan: JobPlan) -> dict[str, Any]:
    from hanse.dispatch.follow import spans

    answer = found.answer
    one = next(j for j in found.problem.jobs if j.job.id == plan.job)
    return {
        "job": plan.job,
        "kind": one.job.kind,
        "service": one.job.service,
        "home": one.job.home,
        "lawful": one.sites,
        "deadline_at_s": one.job.deadline_at_s,
        "finish_at_s": plan.finish_at_s,
        "late_s": plan.late_s,
        "done_share": plan.done_share,
        "moved_gb": plan.moved_gb,
        "runs": [
            {
                "site": run.site,
                "pool": run.pool,
                "spans": [
                    span._asdict()
                    for span in spans(answer.start_s, answer.step_s, run.chips, CHIPS_MIN)
                ],
            }
            for run in plan.runs
        ],
    }


# --- for people


def _say(found: LastSchedule) -> None:
    answer, at = found.answer, time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.at_s))
    hours = hours_from_s(sum(answer.step_s))
    if answer.jobs:
        table_console().print(_jobs_table(found, f"planned {at} UTC: work that may wait"))
    else:
        say(f"planned {at} UTC: no work that may wait")
    table_console().print(_sites_table(found, f"power of the next {hours:g} hours"))
    costs = answer.costs
    less = ("export_usd", "stored_usd")
    items = {
        name.removesuffix("_usd"): getattr(costs, name) * (-1.0 if name in less else 1.0)
        for name in costs.__struct_fields__
        if name != "carbon_g"
    }
    told = ", ".join(f"{name} {usd:.4g}" for name, usd in items.items() if abs(usd) > 1e-9)
    say(f"{costs.usd:.4g} USD: {told or 'nothing'}")
    grams = f"{costs.carbon_g / 1000.0:.4g} kgCO2e ({found.problem.carbon_signal})"
    say(f"{grams}; no plan of fractions of chips costs less than {answer.bound_usd:.4g} USD")
    for v in answer.violations:
        say(f"{v.kind} {v.where} ({v.amount:.4g}): {v.why}; {v.cure}")


def _jobs_table(found: LastSchedule, title: str) -> Any:
    from rich.table import Table

    from hanse.dispatch.follow import Span

    table = Table(title=title)
    for name in ("job", "kind", "home", "runs at (UTC, chips)"):
        table.add_column(name)
    for name in ("done in time shown", "finishes", "deadline", "late"):
        table.add_column(name, justify="right")
    since = found.answer.start_s
    for plan in found.answer.jobs:
        job = _job(found, plan)
        where = "; ".join(
            f"{run['site']}: " + _said([Span(**s) for s in run["spans"]], since)
            for run in job["runs"]
            if run["spans"]
        )
        finish = plan.finish_at_s
        table.add_row(
            plan.job,
            job["kind"],
            job["home"],
            where or "nowhere yet",
            f"{plan.done_share:.0%}",
            _clock(finish, since) if finish is not None else "later",
            _clock(job["deadline_at_s"], since),
            f"{plan.late_s / 60.0:.0f} min" if plan.late_s > 0.0 else "",
        )
    return table


def _sites_table(found: LastSchedule, title: str) -> Any:
    from rich.table import Table

    from hanse.dispatch.follow import spans

    table = Table(title=title)
    table.add_column("site")
    for name in ("draws kWh", "sun and wind", "imports", "exports", "curtailed"):
        table.add_column(name, justify="right")
    for name in ("battery", "charges (UTC, kW)", "gives (UTC, kW)"):
        table.add_column(name)
    answer, problem = found.answer, found.problem
    for plan, site in zip(answer.sites, problem.sites, strict=True):
        own = [a + b for a, b in zip(site.pv_kw, site.wind_kw, strict=True)]
        sums = [
            sum(kw * hours_from_s(s) for kw, s in zip(row, answer.step_s, strict=True))
            for row in (plan.facility_kw, own, plan.import_kw, plan.export_kw, plan.curtailed_kw)
        ]
        table.add_row(
            plan.site,
            *(f"{kwh:.4g}" if kwh > KW_MIN else "" for kwh in sums),
            _battery(site.battery),
            *(
                _said(list(spans(answer.start_s, answer.step_s, row, KW_MIN)), answer.start_s)
                for row in (plan.charge_kw, plan.discharge_kw)
            ),
        )
    return table


def _battery(battery: DeferBattery | None) -> str:
    return "" if battery is None else f"{battery.held_kwh:.3g} of {battery.kwh:.3g} kWh"


def _say_site(found: LastSchedule, name: str, hours: float) -> None:
    from rich.table import Table

    answer = found.answer
    plan: SitePlan = next(one for one in answer.sites if one.site == name)
    site = next(one for one in found.problem.sites if one.site == name)
    table = Table(title=f"{name}, kW: {_battery(site.battery) or 'no battery'}")
    table.add_column("UTC")
    columns = (
        "draws", "sun and wind", "charges", "gives", "holds kWh", "imports", "exports", "curtailed",
        "USD/kWh", "gCO2e/kWh",
    )  # fmt: skip
    for column in columns:
        table.add_column(column, justify="right")
    at = answer.start_s
    for i, length in enumerate(answer.step_s):
        if at >= answer.start_s + s_from_hours(hours):
            break
        values = (
            plan.facility_kw[i], site.pv_kw[i] + site.wind_kw[i], plan.charge_kw[i], plan.discharge_kw[i], plan.battery_kwh[i],
            plan.import_kw[i], plan.export_kw[i], plan.curtailed_kw[i],
        )  # fmt: skip
        table.add_row(
            _clock(at, answer.start_s),
            *(f"{kw:.3g}" if abs(kw) > KW_MIN else "" for kw in values),
            f"{site.price_usd_per_kwh[i]:.3f}",
            f"{site.carbon_g_per_kwh[i]:.0f}",
        )
        at += length
    table_console().print(table)
    short = sum(kw * hours_from_s(s) for kw, s in zip(plan.unserved_kw, answer.step_s, strict=True))
    if short > KW_MIN:
        say(f"{short:.3g} kWh of its load find no power")
