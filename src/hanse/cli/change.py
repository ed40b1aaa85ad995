"""`hanse apply`, `hanse rollback`, `hanse history`: another fleet file for a running league, and the way back.

Here: what is shown, asked and waited for. Not here: what changes (`model.diff`), who would have gone elsewhere (`dispatch.asked_again`,
`twin.what_if`), asking the hub (`live.ask_change`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hanse.cli.league import hub_dir, read_view
from hanse.cli.output import note, print_json, say
from hanse.errors import ConfigError, SiteError

if TYPE_CHECKING:
    from hanse.dispatch.asked_again import AskedAgain
    from hanse.live.league_file import Change, LeagueFile
    from hanse.live.runtime import Runtime, StateDir
    from hanse.model.diff import Edit
    from hanse.model.fleet import Fleet
    from hanse.twin.what_if import FleetFiles, WhatIf

WAIT_S: Final = 15.0
"""Reachable sites have another fleet after two seconds."""
POLL_S: Final = 0.1
SHOWN_MAX: Final = 5
FILE_LINES_MAX: Final = 40
LOG_BYTES_MAX: Final = 48 * 1024**2
"""Of input logs that are asked again: some 100,000 decisions, half a minute."""


def apply(
    fleet: Path,
    /,
    *,
    state: Path | None = None,
    yes: bool = False,
    dry_run: bool = False,
    why: str = "",
    without: list[str] | None = None,
    wait_s: float = WAIT_S,
    json: bool = False,
) -> int:
    """Put a fleet file in force in a running league: show what changes and who would have been served otherwise, ask, apply, wait. Run it at the hub.

    Nothing is restarted. Exit code 1 where the answer is no, or a reachable site does not have it in time. Example:
    `hanse apply fleet.toml --why "second key for the shop"`

    Parameters
    ----------
    fleet
        Path of the fleet file.
    state
        State directory of the hub; default the only one below `.hanse`.
    yes
        Do not ask.
    dry_run
        Show only.
    why
        For the history.
    without
        A site that is to leave the league; may be given several times.
    wait_s
        How long to wait until every reachable site has it in force.
    json
        Print one JSON document on standard output.
    """
    from hanse.live.ask_change import History, change_to_file, refuse_unsafe

    directory, _ = hub_dir(state)
    history = History(directory)
    known = history.newest()
    change = change_to_file(known, fleet, who(), why)
    refuse_unsafe(directory, known, change, set(without or ()))
    shown = _shown(directory, history.in_force_since_s(known), known, change, quiet=json)
    return _carry_out(directory, known, change, shown, yes, dry_run, wait_s, json)


def rollback(
    revision: int | None = None,
    /,
    *,
    state: Path | None = None,
    yes: bool = False,
    dry_run: bool = False,
    why: str = "",
    without: list[str] | None = None,
    wait_s: float = WAIT_S,
    json: bool = False,
) -> int:
    """Put an earlier revision's file in force again, under a new number; the history is kept. Run it at the hub.

    Sites that are drained or in maintenance stay so. Example: `hanse rollback`, or `hanse rollback 7`

    Parameters
    ----------
    revision
        Its number in `hanse history`; default the newest with another file than the one in force.
    state
        State directory of the hub; default the only one below `.hanse`.
    yes
        Do not ask.
    dry_run
        Show only.
    why
        For the history.
    without
        A site that is to leave the league; may be given several times.
    wait_s
        How long to wait until every reachable site has it in force.
    json
        Print one JSON document on standard output.
    """
    from hanse.live.ask_change import History, change_back, refuse_unsafe

    directory, _ = hub_dir(state)
    history = History(directory)
    known = history.newest()
    earlier = history.before(known) if revision is None else history.get(revision)
    change = change_back(known, earlier, who(), why)
    refuse_unsafe(directory, known, change, set(without or ()))
    shown = _shown(directory, history.in_force_since_s(known), known, change, quiet=json)
    return _carry_out(directory, known, change, shown, yes, dry_run, wait_s, json)


def history(
    revision: int | None = None,
    /,
    *,
    state: Path | None = None,
    last: int = 20,
    toml: bool = False,
    json: bool = False,
) -> int:
    """List the revisions of a league's fleet file: number, when, who, why, what changed. Run it at the hub.

    Example: `hanse history`, or `hanse history 7` for one in full

    Parameters
    ----------
    revision
        Show all that this one changed.
    state
        State directory of the hub; default the only one below `.hanse`.
    last
        How many, the newest first.
    toml
        Print the revision's fleet file (default the one in force) on standard output.
    json
        Print one JSON document on standard output.
    """
    from hanse.live.ask_change import History

    directory, _ = hub_dir(state)
    known = History(directory)
    if toml:
        chosen = known.newest() if revision is None else known.get(revision)
        sys.stdout.write(chosen.toml)
        return 0
    if revision is not None:
        return _one_revision(known.get(revision), known.earlier(revision), json=json)
    leagues = known.last(last + 1)
    before: list[LeagueFile | None] = [*leagues[1:], None][: max(last, 0)]
    leagues = leagues[: max(last, 0)]
    if json:
        print_json([_row(*pair) for pair in zip(leagues, before, strict=True)])
        return 0
    for league, earlier in zip(leagues, before, strict=True):
        row = _row(league, earlier)
        mark = "*" if league is leagues[0] else " "
        say(f"{mark}{league.revision:5}  {_date(league.at_s)}  {row['by']:<12} {row['changes']}")
        if row["why"]:
            say(f"{'':8}{row['why']}")
    return 0


# --- what is shown


def _shown(
    directory: StateDir, since_s: float, known: LeagueFile, change: Change, *, quiet: bool
) -> dict[str, object]:
    """Differences and consequences, on screen unless `quiet`; the same as a document."""
    from hanse.live.ask_change import wanted_fleet
    from hanse.model.diff import fleet_edits, said

    old, new = known.fleet(), wanted_fleet(change)
    edits = fleet_edits(_as_written(known), new)
    tell = (lambda _text: None) if quiet else say
    tell(f"fleet {old.name}, revision {known.revision} -> {known.revision + 1}")
    for line in said(edits) or ["only comments and spelling" if known.toml != change.toml else ""]:
        tell(f"  {line}" if line else "  nothing in the fleet file")
    texts = _file_lines(known.files, change.files)
    for line in texts[:FILE_LINES_MAX]:
        tell(f"  {line}")
    if len(texts) > FILE_LINES_MAX:
        tell(f"  ... and {len(texts) - FILE_LINES_MAX} lines more")
    found: dict[str, object] = {"revision": known.revision, "edits": edits, "files": texts}
    if not edits and not texts:
        return found
    again = _recorded(directory, new, change)
    _say_again(again, tell)
    found["recorded"] = again
    moved = _moved(directory, since_s, known, new, change, tell)
    found["logged"] = moved
    return found


def _as_written(league: LeagueFile) -> Fleet:
    """Without the digests of keys that the hub has made: no file states them."""
    from hanse.model.read import parse_fleet

    return parse_fleet(league.toml.encode(), source="fleet")


def _file_lines(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Policies and feeds, line by line."""
    import difflib

    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        a, b = old.get(name, ""), new.get(name, "")
        if a != b:
            found = difflib.unified_diff(
                a.splitlines(), b.splitlines(), f"{name} now", f"{name} then", n=1, lineterm=""
            )
            lines += list(found)
    return lines


def _recorded(directory: StateDir, new: Fleet, change: Change) -> AskedAgain:
    """Every decision that is on record at the hub, asked of the new fleet's keys, law and placement; where the controller places, of all that
    it could place.
    """
    import msgspec

    from hanse.cli.hosts import could_run
    from hanse.dispatch.asked_again import asked_again
    from hanse.dispatch.declared import declared_table, stand_in_digests
    from hanse.live.fleet_change import policies_in
    from hanse.live.recorded import Decisions

    policies = policies_in(new, change.files)
    if new.slow_loop.places:
        new = msgspec.structs.replace(new, placements=could_run(new))
    table = declared_table(new, policies, stand_in_digests(new), time.time())
    return asked_again(Decisions(directory), table)


_EFFECTS: Final = {
    "refused": "would be refused",
    "elsewhere": "would have to go elsewhere",
    "lawful": "would become lawful",
}


def _say_again(found: AskedAgain, tell: object) -> None:
    assert callable(tell)
    if not found.decisions:
        tell(
            "nothing recorded: no gateway has answered a request yet, so nobody can say who is affected"
        )
        return
    tell(
        f"of {found.decisions:,} recorded requests since {_date(found.first_at_s)}: "
        + ", ".join(f"{found.count(e):,} {text}" for e, text in _EFFECTS.items())  # type: ignore[arg-type]
    )
    for effect, text in _EFFECTS.items():
        mine = [one for one in found.consequences if one.effect == effect]
        for one in mine[:SHOWN_MAX]:
            what = one.service or "any service"
            tell(
                f"  {one.count:,} {text}: {one.tenant} (key {one.key}), {what}, {one.data_class} from "
                f"{one.country} at {one.entry}: {one.was} -> {one.now}"
            )
        if len(mine) > SHOWN_MAX:
            tell(f"  ... and {len(mine) - SHOWN_MAX} more kinds that {text}")


def _moved(
    directory: StateDir,
    since_s: float,
    known: LeagueFile,
    new: Fleet,
    change: Change,
    tell: object,
) -> WhatIf | None:
    """By cost and load too, where gateways write input logs."""
    from hanse.live.fleet_change import policies_in
    from hanse.twin.what_if import FleetFiles, what_if

    assert callable(tell)
    logs = sorted(
        directory.path.glob("sites/*/journal/*.jnl"), key=lambda p: p.stat().st_mtime, reverse=True
    )
    silent = {site.id for site in known.fleet().sites} - {path.parts[-3] for path in logs}
    if not logs:
        tell(
            "no input logs here (`--record`): where requests would go by cost and load is not known"
        )
        return None
    chosen: list[Path] = []
    room = LOG_BYTES_MAX
    for path in logs:
        room -= path.stat().st_size
        if room >= 0 or not chosen:
            chosen.append(path)
    old = known.fleet()
    was: FleetFiles = FleetFiles(fleet=old, policies=policies_in(old, known.files))
    other: FleetFiles = FleetFiles(fleet=new, policies=policies_in(new, change.files))
    found = what_if(chosen, was, other, since_s=since_s)
    _say_moved(found, len(logs) - len(chosen), silent, tell)
    return found


def _say_moved(found: WhatIf, left_out: int, silent: set[str], tell: object) -> None:
    assert callable(tell)
    moved = found.decisions - found.same
    more = f"; {found.earlier:,} from before this revision are not asked" if found.earlier else ""
    tell(
        f"of {found.decisions:,} decisions in input logs, each asked again with the load of its moment: "
        f"{moved:,} would have gone elsewhere or been refused{more}"
    )
    for move in found.moves[:SHOWN_MAX]:
        tell(f"  {move.count:,}  {move.was} -> {move.now}")
        for one in move.examples[:1]:
            tell(
                f"      e.g. {_date(one.at_s)} at {one.entry}: {one.service}, {one.data_class} from {one.country}, "
                f"{one.tokens_in} tokens"
            )
    for name in ("wh", "g", "usd", "ttft_ms") if found.both and moved else ():
        tell(f"  {name}: {found.was[name]:.5g} -> {found.now[name]:.5g}, predicted")
    if left_out:
        tell(f"  {left_out} older logs are left out")
    if silent:
        tell(f"  no input logs of {', '.join(sorted(silent))} here")


# --- done


def _carry_out(
    directory: StateDir,
    known: LeagueFile,
    change: Change,
    shown: dict[str, object],
    yes: bool,
    dry_run: bool,
    wait_s: float,
    json: bool,
) -> int:
    from hanse.live.ask_change import ask

    same = (change.toml, change.files) == (known.toml, known.files)
    if same or dry_run:
        if not json:
            say("nothing changes" if same else "dry run: nothing was changed")
        else:
            print_json(shown | {"applied": False})
        return 0
    if not yes and not _asked("apply?"):
        note("nothing was changed")
        return 1
    known_keys = {path.stem for path in directory.keys_dir.glob("*.key")}
    revision = ask(directory, change)
    made = sorted({path.stem for path in directory.keys_dir.glob("*.key")} - known_keys)
    tell = note if json else say
    for key in made:
        tell(f"made key {key}: {directory.keys_dir / f'{key}.key'}")
    missing = wait_in_force(directory.read_runtime(), revision, wait_s, end=tell)
    if json:
        print_json(shown | {"applied": True, "revision": revision, "missing": missing})
    return 1 if missing else 0


def wait_in_force(
    runtime: Runtime,
    revision: int,
    wait_s: float,
    *,
    tell: Callable[[str], None] = note,
    end: Callable[[str], None] = note,
) -> list[str]:
    """Tell which sites have a revision in force, as they come, and at the end how many; reachable ones that do not have it after so long."""
    since_s = time.monotonic()
    done: set[str] = set()
    while True:
        took_s = time.monotonic() - since_s
        try:
            view = read_view(runtime)
        except SiteError as error:
            if took_s > wait_s:
                raise
            tell(f"waiting for the controller: {error.got}")
            time.sleep(1.0)
            continue
        newer = view.fleet_revision >= revision
        there = {site.id for site in view.sites if newer and site.fleet_in_force}
        fresh = [site for site in view.sites if site.id in there - done]
        if fresh:
            tell(f"{took_s:4.1f} s  in force at {', '.join(site.id for site in fresh)}")
        done |= there
        away = [site for site in view.sites if site.state in ("silent", "never seen")]
        missing = [s.id for s in view.sites if s.id not in done and s not in away]
        if newer and not missing:
            break
        if took_s > wait_s:
            tell(
                f"after {took_s:.0f} s not in force at {', '.join(missing) or 'the hub'}; it comes when they ask"
            )
            break
        time.sleep(POLL_S)
    for site in away:
        how = "cut off or down" if site.state == "silent" else "never seen"
        if site.standing is not None and site.standing.state == "maintenance":
            how = "in maintenance"
        if site.id not in done:
            tell(f"        {site.id} is {how}: it takes revision {revision} when it is back")
    end(f"revision {revision} is in force at {len(done)} of {len(view.sites)} sites")
    return missing


# --- history


def _row(league: LeagueFile, before: LeagueFile | None) -> dict[str, object]:
    from hanse.model.diff import sections

    changes = "first" if before is None else sections(_edits(before, league))
    if before is not None and before.files != league.files:
        names = sorted(
            n
            for n in before.files.keys() | league.files.keys()
            if before.files.get(n) != league.files.get(n)
        )
        changes = ", ".join([*([changes] if changes else []), *names])
    if before is not None:
        changes = ", ".join([*([changes] if changes else []), *_standing_lines(before, league)])
    return {
        "revision": league.revision,
        "at_s": league.at_s,
        "by": league.by,
        "why": league.why,
        "changes": changes or "nothing but comments and spelling",
    }


def _standing_lines(before: LeagueFile, league: LeagueFile) -> list[str]:
    lines = []
    for site in sorted(before.standing.keys() | league.standing.keys()):
        was, now = before.standing.get(site), league.standing.get(site)
        if was != now:
            lines.append(f"{site} {now.state if now is not None else 'in service again'}")
    return lines


def _edits(before: LeagueFile, league: LeagueFile) -> tuple[Edit, ...]:
    from hanse.model.diff import fleet_edits

    return fleet_edits(_as_written(before), _as_written(league))


def _one_revision(league: LeagueFile, before: LeagueFile | None, *, json: bool) -> int:
    from hanse.model.diff import said

    edits = () if before is None else _edits(before, league)
    files = [] if before is None else _file_lines(before.files, league.files)
    if json:
        print_json(_row(league, before) | {"edits": edits, "files": files})
        return 0
    say(f"revision {league.revision}, {_date(league.at_s)} by {league.by}: {league.why or '-'}")
    standing = [] if before is None else _standing_lines(before, league)
    for line in [*said(edits), *files, *standing]:
        say(f"  {line}")
    return 0


# --- small things


def who() -> str:
    """Who asks, for the history."""
    import getpass
    import os

    return os.environ.get("SUDO_USER") or getpass.getuser()


def _asked(question: str) -> bool:
    """The answer of somebody at a terminal; a script says --yes."""
    if not sys.stdin.isatty():
        raise ConfigError("--yes", got="nothing, and nobody to ask", allowed="--yes in a script")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _date(at_s: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_s))
