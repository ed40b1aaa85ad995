"""`hanse placement`: what the controller placed, what it costs, and why this and not that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.cli.output import print_json, say, table_console
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.dispatch.eventlog import LastPlacement
    from hanse.dispatch.place_values import Explanation


def placement(
    *,
    service: str | None = None,
    site: str | None = None,
    state: Path | None = None,
    json: bool = False,
) -> int:
    """Show the last placement that the controller decided; with a service and a site also why, and what the next best would cost.

    Works on the controller's own log, of a league that runs or has ended, on the machine that has the hub. Example:
    `hanse placement --service chat --site lyon`

    Parameters
    ----------
    service
        Service to explain.
    site
        Site to explain it at.
    state
        State directory of the league; default the only one below `.hanse`.
    json
        Print one JSON document on standard output.
    """
    if (service is None) != (site is None):
        raise ConfigError(
            "--service, --site",
            got="one of them",
            allowed="both, or neither for the placement alone",
        )
    found = _last(state)
    why = _explained(found, service, site) if service is not None and site is not None else None
    if json:
        print_json(_document(found, why))
    else:
        _say(found)
        if why is not None:
            _say_why(why)
    return 0


def _last(state: Path | None) -> LastPlacement:
    from hanse.cli.league import last_decided, state_dir
    from hanse.dispatch.eventlog import last_placement
    from hanse.model.read import read_fleet

    toml = state_dir(state).fleet_toml
    if toml.is_file() and read_fleet(toml).slow_loop.places:
        allowed = "a league whose controller has placed: this one may, and has made none yet"
        fix = "wait for the first requests: with them it places within seconds (`hanse status` says whether it runs)"
    else:
        allowed = "a league whose controller places"
        fix = "set `places = true` under [slow_loop] in the fleet file, and wait for the first requests; with it unset, `[[placement]]` holds"
    got = "no placement in the controller's log"
    return last_decided(state, last_placement, got=got, allowed=allowed, fix=fix)


def _explained(found: LastPlacement, service: str, site: str) -> Explanation:
    from hanse.dispatch.place import explain

    return explain(found.problem, found.answer, service, site)


def _rows(found: LastPlacement) -> list[dict[str, Any]]:
    """Each offer that stands, with what it is expected to serve."""
    problem, answer = found.problem, found.answer
    asked: dict[int, float] = {}
    for flow in answer.flows:
        row = problem.demand[flow.demand]
        asked[flow.offer] = asked.get(flow.offer, 0.0) + row.requests_per_s * flow.share
    rows = []
    for one in answer.replicas:
        offer = problem.offers[one.offer]
        pool = problem.pools[offer.pool]
        if one.replicas:
            rows.append(
                {
                    "site": problem.sites[pool.site].id,
                    "service": problem.services[offer.service].id,
                    "variant": offer.variant,
                    "pool": pool.id,
                    "replicas": one.replicas,
                    "standby": one.standby,
                    "chips": offer.chips,
                    "slots": offer.slots,
                    "requests_per_s": asked.get(one.offer, 0.0),
                    "requests_per_s_most": one.replicas * offer.requests_per_s,
                }
            )
    return sorted(rows, key=lambda r: (r["service"], r["site"], r["pool"], r["variant"]))


def _document(found: LastPlacement, why: Explanation | None) -> dict[str, Any]:
    from msgspec.structs import asdict

    answer = found.answer
    return {
        "at_s": found.at_s,
        "replicas": _rows(found),
        "kept": [asdict(p) for p in found.problem.kept],
        "usd_per_h": asdict(answer.cost) | {"total": answer.cost.usd},
        "g_per_h": answer.g_per_h,
        "gap": answer.gap,
        "violated": [asdict(v) for v in answer.violated],
        "why": None if why is None else asdict(why),
    }


def _say(found: LastPlacement) -> None:
    import time

    from rich.table import Table

    answer = found.answer
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(found.at_s))
    table = Table(title=f"placed {at} UTC for {found.problem.window_s / 60.0:g} minutes")
    for name in ("service", "site", "variant", "pool"):
        table.add_column(name)
    for name in ("replicas", "on standby", "chips each", "requests/s expected", "at most"):
        table.add_column(name, justify="right")
    for r in _rows(found):
        table.add_row(
            r["service"], r["site"], r["variant"], r["pool"], str(r["replicas"]), str(r["standby"]),
            str(r["chips"]), f"{r['requests_per_s']:.3g}", f"{r['requests_per_s_most']:.3g}",
        )  # fmt: skip
    table_console().print(table)
    say(
        f"for {found.problem.window_s / 60.0:g} minutes: the whole steps of the outlook (hours) that `window_s` from then on touches; "
        "requests/s and cost are means over them"
    )
    items = {
        name.removesuffix("_usd"): getattr(answer.cost, name)
        for name in answer.cost.__struct_fields__
    }
    said = ", ".join(f"{name} {usd:.4g}" for name, usd in items.items() if abs(usd) > 1e-9)
    say(f"{answer.cost.usd:.4g} USD/h: {said or 'nothing'}; {answer.g_per_h:.4g} gCO2e/h")
    say(f"proven within {answer.gap:.1%} of the best")
    for p in found.problem.kept:
        say(f"kept as it is: {p.replicas} {p.service}/{p.variant} at {p.site}")
    for v in answer.violated:
        say(f"{v.kind} {v.what} ({v.amount:.4g} {v.unit}): {v.why}; {v.cure}")


def _say_why(why: Explanation) -> None:
    many = f"{why.replicas} replica{'' if why.replicas == 1 else 's'}"
    say(f"\n{why.service} at {why.site}: {many}: {why.why}")
    more = f"{why.usd_more:.4g} USD/h more" if why.usd_more < float("inf") else "impossible"
    least = (
        f", proven at least {why.usd_more_min:.4g}" if 0.0 < why.usd_more_min < float("inf") else ""
    )
    say(f"the next best: {why.instead}: {more}{least}")
