"""`hanse statement`: what a tenant asked for, where it ran, what it took; and `hanse energy`: what sites drew, quarter by quarter."""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from hanse.cli.league import state_dir
from hanse.cli.output import note, print_json, say
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.live.evidence.audit import Logs
    from hanse.live.evidence.statement import Period, Statement
    from hanse.live.identity import Identity
    from hanse.live.runtime import StateDir

WH_PER_KWH = 1000.0


def statement(
    *,
    tenant: str = "",
    month: str = "",
    since: str = "",
    until: str = "",
    state: Path | None = None,
    out: Path | None = None,
    law: bool = True,
    json: bool = False,
) -> int:
    """A statement of a tenant and month: requests, tokens, places, Wh with methods, gCO2e, USD, law, and the receipts' root.

    Made from the hub's copy of all sites' logs, or at a site alone from its own. What is missing (a site cut off, a month that is
    not over, a damaged log) is said in the statement. Exit code 1 where something is. See docs/statement.md.

    Parameters
    ----------
    tenant
        Of the fleet file; absent: every tenant, and all of them together.
    month
        As 2026-11 (UTC); absent, and no --since: the month before this one.
    since, until
        Days as 2026-11-01, in place of a month; the last is not included.
    state
        State directory of the hub; default: the only one below `.hanse`.
    out
        Write statement-<tenant>-<period>.json (signed by the hub), .csv, .html and .receipts into this folder.
    law
        Ask Cedar again for every site that a request was entrusted to.
    json
        Print the statements as one JSON document on standard output.
    """
    from hanse.live.evidence.statement import statements
    from hanse.live.evidence.statement_files import stem_of, utc_day, write_files
    from hanse.live.lawcheck import law_check_of
    from hanse.model.read import read_fleet

    now_s = time.time()
    period = period_of(month, since, until, now_s)
    home = state_dir(state)
    fleet = read_fleet(home.fleet_toml)
    if tenant and tenant not in {one.id for one in fleet.tenants}:
        note(f"{tenant} is no tenant of the fleet now")
    logs = read_evidence(home, period)
    made = statements(
        logs,
        period,
        fleet=fleet.name,
        countries={site.id: site.country for site in fleet.sites},
        tenants=[*(one.id for one in fleet.tenants), *([tenant] if tenant else [])],
        law=law_check_of(home) if law else None,
        now_s=now_s,
    )
    shown = {name: one for name, one in made.items() if not tenant or name == tenant}
    if out is not None:
        identity = hub_identity(home, fleet.name, now_s)
        label = f"{utc_day(period.from_s)}-{utc_day(period.until_s)}" if since else month_of(period)
        for one in shown.values():
            stem = stem_of(one.statement, label)
            for path in write_files(out, stem, one, identity, now_s):
                note(f"wrote {path}")
    if json:
        print_json([one.statement for one in shown.values()])
    else:
        for one in shown.values():
            _say_statement(one.statement)
    return 0 if all(one.statement.complete for one in shown.values()) else 1


def energy(
    *,
    site: str = "",
    month: str = "",
    since: str = "",
    until: str = "",
    state: Path | None = None,
    json: bool = False,
) -> int:
    """What sites drew and what became of it, quarter by quarter: requests + idle + overhead + others against the meter.

    Exit code 1 where a site's sums are more than 2 % from its meter. See docs/statement.md.

    Parameters
    ----------
    site
        One site; absent: all.
    month, since, until
        As for `hanse statement`; absent: this month.
    state
        State directory of the hub or of a site; default: the only one below `.hanse`.
    json
        Print the quarters and their sums as one JSON document on standard output.
    """
    from msgspec.structs import asdict

    from hanse.live.evidence.quarters import CLOSES_SHARE, summed

    now_s = time.time()
    if not (month or since):
        month = datetime.fromtimestamp(now_s, UTC).strftime("%Y-%m")
    period = period_of(month, since, until, now_s)
    home = state_dir(state)
    logs = read_evidence(home, period)
    if site:
        _known_site(site, home, logs)
    own = [
        q
        for q in logs.quarters
        if period.from_s <= q.start_s < period.until_s and site in ("", q.site)
    ]
    sums = [summed([q for q in own if q.site == name]) for name in sorted({q.site for q in own})]
    if json:
        print_json({"sites": sums, "quarters": [asdict(q) for q in own]})
    elif not sums:
        say("no quarter of an hour has been drawn up in this period")
    else:
        for one in sums:
            requests = ", ".join(f"{wh:.3f} {m}" for m, wh in one.requests_wh.items()) or "0"
            say(
                f"{one.site}: {one.drawn_wh:.3f} Wh {one.drawn_method} (within {one.drawn_error_share:.0%}) in "
                f"{one.quarters} quarters = requests {requests} + idle {one.idle_wh:.3f} + overhead {one.overhead_wh:.3f} "
                f"+ others {one.others_wh:.3f}, {one.open_share:.2%} open; {one.requests} requests, seen {one.seen_share:.1%}"
            )
    return 1 if any(one.open_share > CLOSES_SHARE for one in sums) else 0


def period_of(month: str, since: str, until: str, now_s: float) -> Period:
    """The period that was asked for.

    Raises:
        ConfigError: no month, or days in no order.
    """
    from hanse.live.evidence.statement import Period

    if since or until:
        if month:
            raise ConfigError("--month", got="--since or --until too", allowed="one of both")
        first, last = _day("--since", since), _day("--until", until)
        if last <= first:
            raise ConfigError("--until", got=until, allowed=f"a day after {since}")
        return Period(_midnight_s(first), _midnight_s(last))
    if not month:
        this = datetime.fromtimestamp(now_s, UTC).date().replace(day=1)
        month = (this - timedelta(days=1)).strftime("%Y-%m")
    if re.fullmatch(r"\d{4}-(0[1-9]|1[0-2])", month) is None:
        raise ConfigError("--month", got=repr(month), allowed="a month as 2026-11")
    first = date.fromisoformat(f"{month}-01")
    after = (first + timedelta(days=31)).replace(day=1)
    return Period(_midnight_s(first), _midnight_s(after))


def month_of(period: Period) -> str:
    """The month of a period that is one."""
    return datetime.fromtimestamp(period.from_s, UTC).strftime("%Y-%m")


def read_evidence(state: StateDir, period: Period) -> Logs:
    """All logs there are: at a hub its copy, else a site's own.

    Raises:
        ConfigError: no certificate of the authority, or no logs.
    """
    from hanse.cli.league import authority_of
    from hanse.live.evidence.audit import read_logs

    authority = authority_of(state)
    if authority is None:
        raise ConfigError(str(state.path), got="no ca.pem", allowed="a league's state directory")
    copies = state.hub / "evidence"
    root = copies if any(copies.glob("*/seals.log")) else state.path
    return read_logs(root, authority.read_bytes(), keep=lambda record: period.keeps(record.at_s))


def hub_identity(state: StateDir, fleet: str, now_s: float) -> Identity | None:
    """Who signs: the hub, where this is its directory."""
    from hanse.live.identity import load_identity
    from hanse.live.runtime import HUB

    home = state.site(HUB) / "identity"
    if not home.exists():
        note("no key of a hub here, so the statement is not signed")
        return None
    try:
        return load_identity(home, fleet, HUB, now_s)
    except ConfigError as error:
        note(f"the statement is not signed: {error}")
        return None


def _known_site(site: str, home: StateDir, logs: Logs) -> None:
    """Sites of the fleet now, and those that have left it and are in the logs.

    Raises:
        ConfigError: it is neither.
    """
    from hanse.model.read import read_fleet

    now = {one.id for one in read_fleet(home.fleet_toml).sites}
    known = sorted(now | {quarter.site for quarter in logs.quarters})
    if site not in known:
        raise ConfigError("--site", got=repr(site), allowed=f"one of {', '.join(known)}")


def _day(where: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ConfigError(where, got=repr(text), allowed="a day as 2026-11-01") from None


def _midnight_s(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()


def _say_statement(s: Statement) -> None:
    from hanse.live.evidence.statement_files import utc_day

    say(f"{s.tenant or 'all tenants'}, {utc_day(s.from_s)} to {utc_day(s.until_s)}:")
    fates = ", ".join(f"{count} {fate}" for fate, count in s.fates.items() if count)
    say(f"  {s.requests} requests ({fates or 'none'}), {s.tokens_in} tokens in, {s.tokens_out} out")
    for place in s.places:
        wh = ", ".join(f"{wh / WH_PER_KWH:.6f} kWh {m}" for m, wh in place.energy_wh.items())
        name = f"{place.country} {place.site}".strip() or "not shown"
        say(f"  {name}: {place.requests} requests, {wh or 'no energy'}, {place.cost_usd:.6f} USD")
    c, r = s.carbon, s.residency
    unknown = [
        f"{what} unknown for {wh / WH_PER_KWH:.6f} kWh"
        for what, wh in (("market", c.market_unknown_wh), ("marginal", c.marginal_unknown_wh))
        if wh
    ]
    say(
        f"  gCO2e, three answers: location {c.location_g:.3f}, market {c.market_g:.3f}, marginal {c.marginal_g:.3f}"
        + (f" ({'; '.join(unknown)})" if unknown else "")
    )
    say(
        f"  law: {r.lawful} executed where allowed, {r.refused_by_law} refused by law, {r.unproven} UNPROVEN, "
        f"{r.against_law} against the law"
    )
    say(f"  {s.cost_usd:.6f} USD; receipts' root {s.receipts_root}")
    for sentence in s.missing:
        say(f"  MISSING {sentence}")
