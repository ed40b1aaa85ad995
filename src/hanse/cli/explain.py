"""`hanse explain`: where a request would run, why not elsewhere, and at what cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanse.cli.league import authority_of, call, first_gateway, message_of, secret_of, state_dir
from hanse.cli.output import print_json, say, table_console
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.dispatch.table import Table
    from hanse.model.fleet import Fleet

TOKENS_OUT = 64
OFFLINE = "an idle fleet, yearly mean signals"


def explain(
    *,
    key: str,
    service: str,
    from_: str,
    class_: str = "",
    country: str = "",
    tokens_in: int = 64,
    tokens_out: int | None = None,
    state: Path | None = None,
    fleet: Path | None = None,
    json: bool = False,
) -> int:
    """Say, offer by offer, whether a request could run there, why not, and what it would cost.

    Asks the nearest eligible gateway of the running league; with --fleet, works from the file alone.
    Example: `hanse explain --key clinic --class health --from tallinn --service chat`

    Parameters
    ----------
    key
        Key id of the fleet, or the key itself.
    service
        Service id or alias.
    from_
        City or site where the user is.
    class_
        Data class; default the key's first.
    country
        Legal country of origin; default that of --from where the key allows it, else the key's first.
    tokens_in
        Tokens of the prompt.
    tokens_out
        Tokens of the answer; default 64, of a service that embeds none.
    state
        State directory of the running league; default the only one below `.hanse`.
    fleet
        Fleet file, to ask without a running league.
    json
        Print the answer as one JSON document on standard output.
    """
    ask = {"service": service, "tokens_in": tokens_in, "tokens_out": tokens_out}
    if fleet is not None:
        answer = _offline(fleet, key, from_, class_, country, ask)
    else:
        answer = _live(state, key, from_, class_, country, ask)
    if json:
        print_json(answer)
    else:
        _say(answer)
    return 0 if answer["chosen"] else 1


def _live(
    state: Path | None, key: str, from_: str, class_: str, country: str, ask: dict[str, Any]
) -> dict[str, Any]:
    from hanse.model.read import read_fleet

    directory = state_dir(state)
    runtime = directory.read_runtime()
    secret = secret_of(directory, key)
    loaded = read_fleet(directory.fleet_toml)
    ask = _with_usual_answer(ask, loaded)
    lat_deg, lon_deg, origin = place_of(from_, loaded)
    allowed = [
        code
        for tenant in loaded.tenants
        for one in tenant.keys
        if one.id == key
        for code in one.countries
    ]
    headers = {"authorization": f"Bearer {secret}"}
    if class_:
        headers["x-hanse-class"] = class_
    if country or origin in allowed:
        headers["x-hanse-country"] = country or origin
    site, url = first_gateway(runtime, headers, lat_deg=lat_deg, lon_deg=lon_deg)
    code, answer = call(
        "POST",
        f"{url}/hanse/v1/explain",
        headers=headers,
        body=ask,
        authority=authority_of(directory),
    )
    if code != 200:
        raise ConfigError("request", got=message_of(answer), allowed="one that a gateway explains")
    return {"entry": site, "basis": f"live load at {site}", **answer}


def _with_usual_answer(ask: dict[str, Any], fleet: Fleet) -> dict[str, Any]:
    """The question with the answer's tokens, where none were named."""
    if ask["tokens_out"] is not None:
        return ask
    embeds = any(s.embeds for s in fleet.services if ask["service"] in (s.id, *s.aliases))
    return ask | {"tokens_out": 0 if embeds else TOKENS_OUT}


def place_of(name: str, fleet: Any) -> tuple[float, float, str]:
    """(latitude, longitude, country) of a site or a city."""
    for site in fleet.sites:
        if site.id == name:
            return site.lat_deg, site.lon_deg, site.country
    from hanse.catalogue import city

    found = city(name, where="--from")
    return found.lat, found.lon, found.iso2


def _offline(
    path: Path, key: str, from_: str, class_: str, country: str, ask: dict[str, Any]
) -> dict[str, Any]:
    import time

    from hanse.cli.check import checked_fleet, read_policies

    fleet = checked_fleet(path)
    ask = _with_usual_answer(ask, fleet)
    table = table_of(fleet, read_policies(fleet, path.parent), time.time())
    meta = next((one for one in table.meta.keys.values() if one.id == key), None)
    if meta is None:
        known = ", ".join(sorted(one.id for one in table.meta.keys.values()))
        raise ConfigError("--key", got=repr(key), allowed=f"one of {known}")
    lat_deg, lon_deg, origin = place_of(from_, fleet)
    class_ = class_ or meta.classes[0]
    country = country or (origin if origin in meta.countries else meta.countries[0])
    subject = meta.subjects.get(class_, {}).get(country, 0)
    return {
        "basis": OFFLINE,
        "class": class_,
        "country": country,
        **_judged(table, subject, (lat_deg, lon_deg), ask),
    }


def table_of(fleet: Any, policies: dict[str, str], now_s: float) -> Table:
    """The table the controller would publish for a fleet file, by the same dispatcher."""
    import hashlib

    from hanse.dispatch.dispatcher import Dispatcher
    from hanse.dispatch.events import FleetLoaded, PlacementDecided, Ticked
    from hanse.dispatch.policies import PolicyText

    digests = {
        key.id: key.sha256 or hashlib.sha256(key.id.encode()).hexdigest()
        for tenant in fleet.tenants
        for key in tenant.keys
    }
    texts = tuple(PolicyText(name=name, text=text) for name, text in policies.items())
    dispatcher = Dispatcher("fleet")
    dispatcher.handle(FleetLoaded(at_s=now_s, fleet=fleet, policies=texts, digests=digests))
    dispatcher.handle(
        PlacementDecided(at_s=now_s, source="fleet file", placements=fleet.placements)
    )
    dispatcher.handle(Ticked(at_s=now_s))
    assert dispatcher.table is not None, "a tick publishes a stale table"
    return dispatcher.table


def _judged(
    table: Table, subject: int, place: tuple[float, float], ask: dict[str, Any]
) -> dict[str, Any]:
    import msgspec

    from hanse.catalogue import distance_km
    from hanse.dispatch.load import Load
    from hanse.dispatch.reasons import Reason
    from hanse.dispatch.router import Router

    service = table.service_index.get(ask["service"])
    if service is None:
        raise ConfigError(
            "--service",
            got=repr(ask["service"]),
            allowed=f"one of {', '.join(sorted(table.service_index))}",
        )
    sites = table.meta.sites
    near = sorted(
        range(len(sites)), key=lambda i: distance_km(*place, sites[i].lat_deg, sites[i].lon_deg)
    )
    lawful = [i for i in near if table.lawful(subject, i)]
    origin = (lawful or near)[0]
    router = Router(table, Load.of_shadow(table), origin)
    chosen, verdicts = router.explain(
        service,
        subject,
        tokens_in=ask["tokens_in"],
        tokens_out=ask["tokens_out"],
        deadline_ms=table.meta.services[service].slo.deadline_s * 1000.0,
        body_bytes=ask["tokens_in"] * 4,
        now_s=table.meta.issued_at_s,
    )
    return {
        "entry": sites[origin].id if lawful else "",
        "chosen": table.meta.offers[chosen] if chosen >= 0 else "",
        "gate": Reason(min(chosen, 0)).name,
        "offers": msgspec.to_builtins(verdicts),
        "rule_texts": {
            rule: table.meta.rule_texts.get(rule, "") for rule in table.rules_denying(subject)
        },
    }


def _say(answer: dict[str, Any]) -> None:
    from rich.table import Table as RichTable

    table = RichTable(title=f"enters at {answer['entry'] or 'no site'}; {answer['basis']}")
    for name in ("site", "variant", "eligible", "why not"):
        table.add_column(name)
    for name in ("TTFT ms", "E2E ms", "mWh", "mgCO2e", "uUSD", "cost uUSD"):
        table.add_column(name, justify="right")
    for one in answer["offers"]:
        predicted = one.get("predicted")
        cells = ["-"] * 6
        if predicted:
            cells = [f"{predicted['ttft_ms']:.0f}", f"{predicted['e2e_ms']:.0f}"]
            cells += [f"{predicted['wh'] * 1e3:.3f}", f"{predicted['g'] * 1e3:.3f}"]
            cells += [f"{predicted['usd'] * 1e6:.3f}", f"{predicted['cost_usd'] * 1e6:.3f}"]
        rules = dict.fromkeys((*one.get("entry_rules", ()), *one["rules"]))  # each once
        why = "" if one["eligible"] else f"{one['gate']} {' '.join(rules)}".strip()
        mark = "chosen" if one["chosen"] else ("yes" if one["eligible"] else "no")
        style = "bold green" if one["chosen"] else ("" if one["eligible"] else "dim")
        table.add_row(one["site"], one["variant"], mark, why, *cells, style=style)
    table_console().print(table)
    for rule, text in answer.get("rule_texts", {}).items():
        say(f"  {rule}: {text}")
    if not answer["chosen"]:
        say(f"refused: {answer['gate']}")
