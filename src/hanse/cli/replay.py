"""`hanse replay`, `hanse record`, `hanse calibrate`: what can be made of a league that wrote its input logs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from hanse.cli.output import print_json, say
from hanse.errors import ConfigError

if TYPE_CHECKING:
    from hanse.dispatch.eventlog import Repeated
    from hanse.twin.replay import FileReplay, Replayed
    from hanse.twin.what_if import FleetFiles

DIFFER_SHOWN_MAX: Final = 10
"""After one decision that differs the next ones do too."""


def replay(
    where: Path,
    /,
    *,
    controller: bool = False,
    fleet: Path | None = None,
    was: Path | None = None,
    json: bool = False,
) -> int:
    """Make every decision of recorded gateways again and compare all bits; exit 1 where one differs.

    Examples: `hanse up examples/league.toml --record`, then `hanse replay .hanse/league`; of the controller, which always keeps a log,
    `hanse replay --controller .hanse/league`

    Parameters
    ----------
    where
        State directory of a league, a folder of logs, or one log.
    controller
        The controller's decisions instead: tables, questions to the optimiser, placements.
    fleet
        Ask another fleet instead: which requests would have gone elsewhere, at what cost.
    was
        The fleet that ran; default `fleet.toml` in the state directory.
    json
        Print one JSON document on standard output.
    """
    from hanse.twin.replay import replay as replay_all

    if controller:
        if fleet is not None or was is not None:
            raise ConfigError(
                "--controller", got="--fleet or --was too", allowed="alone: it asks no other fleet"
            )
        return _controller(where, json)
    if fleet is not None:
        return _what_if(where, was or where / "fleet.toml", fleet, json)
    found = replay_all(where)
    if json:
        print_json(
            {"compared": found.compared, "mismatches": found.mismatches, "files": found.files}
        )
    else:
        _say(found)
    return 1 if found.mismatches else 0


def record(*, state: Path | None = None, out: Path, json: bool = False) -> int:
    """Make a trace of a recorded league's own traffic, running or ended.

    The league must have been started with `hanse up FLEET --record`. Example:
    `hanse record --state .hanse/league --out day.parquet`

    Parameters
    ----------
    state
        State directory of the league; default the only one below `.hanse`.
    out
        Trace to write.
    json
        Print what was found as one JSON document on standard output.
    """
    from hanse.cli.league import state_dir
    from hanse.signals.traces import write_trace
    from hanse.twin.recorded import recorded_trace

    where = state_dir(state).path
    trace, made = recorded_trace(where)
    meta = write_trace(out, trace.meta, trace.chunks())
    if json:
        print_json({"file": str(out), "meta": meta, "made": made})
        return 0
    say(
        f"{out}: {made.requests:,} requests in {meta.duration_s:,.0f} s, {made.conversations:,} conversations, "
        f"{made.with_blocks:,} with prefixes; entry sites {', '.join(made.sites)}"
    )
    if made.unanswered:
        say(f"{made.unanswered:,} were not answered: they have the median answer of their service")
    return 0


def calibrate(*, state: Path | None = None, out: Path, json: bool = False) -> int:
    """Make a table of measured steps of what a recorded league's engines took.

    Example: `hanse calibrate --state .hanse/league --out steps.csv`

    Parameters
    ----------
    state
        State directory of the league; default the only one below `.hanse`.
    out
        CSV file to write, as `hanse predict` reads it.
    json
        Print rows with what they rest on as one JSON document on standard output.
    """
    from hanse.cli.league import state_dir
    from hanse.model.read import read_fleet
    from hanse.twin.calibrate import calibrated, observations, write_steps

    where = state_dir(state)
    found = calibrated(observations(where.path, read_fleet(where.fleet_toml)))
    write_steps(out, found.steps)
    if json:
        print_json({"file": str(out), "calibration": found})
        return 0
    for step in found.steps:
        low, high = step.tpot_ms_quartiles
        alone = f"{step.prompts} prompts" if step.prompts else "a line through other sizes"
        say(
            f"{step.model} {step.precision} on {step.count} {step.accelerator}, batch {step.batch:g}, "
            f"{step.input_tokens:g} tokens: TPOT {step.tpot_ms:g} ms ({low:g} to {high:g}, {step.answers} answers), "
            f"prefill {step.prefill_ms:g} ms ({alone})"
        )
    say(
        f"{out}: {len(found.steps)} rows of {found.answers:,} streams; {found.left_out:,} left out, too few alike"
    )
    return 0


def _controller(where: Path, json: bool) -> int:
    from hanse.dispatch.eventlog import repeat
    from hanse.live.event_log import controller_logs

    found = {
        str(path): repeat(path.read_bytes(), where=str(path)) for path in controller_logs(where)
    }
    if json:
        print_json({"files": [{"file": path, **_fields(one)} for path, one in found.items()]})
    else:
        for path, one in found.items():
            end = "; ends inside an event: killed there, or still running" if one.truncated else ""
            say(
                f"{path}: {one.events:,} events, {one.decided:,} with decisions, {one.placements:,} answers "
                f"of the optimiser: {f'{len(one.differ):,} differ' if one.differ else 'all the same'}{end}"
            )
            for line in one.differ[:DIFFER_SHOWN_MAX]:
                say(f"  {line}")
            if one.differ:
                say(
                    "  where Hanse was changed since, that is why: replay with the version that ran"
                )
    torn = gaps(list(found.items()))
    for line in torn:
        say(line)
    return 1 if torn or any(one.differ for one in found.values()) else 0


def gaps(found: list[tuple[str, Repeated]]) -> list[str]:
    """Files that begin with another state than the file before them ends with; the first file that is there may begin with any."""
    return [
        f"{path}: begins with another state than {before} ends with"
        for (before, last), (path, one) in pairwise(found)
        if one.began and one.began != last.ended
    ]


def _fields(one: Repeated) -> dict[str, Any]:
    from msgspec.structs import asdict

    return asdict(one)


def _what_if(where: Path, was: Path, other: Path, json: bool) -> int:
    from hanse.twin.what_if import what_if

    found = what_if(where, _files(was, ran=True), _files(other, ran=False))
    if json:
        print_json(found)
        return 0
    for move in found.moves:
        say(f"{move.count:8,}  {move.was} -> {move.now}")
    moved = found.decisions - found.same
    skipped = f"; {found.skipped:,} at entry sites it does not have" if found.skipped else ""
    say(f"{found.decisions:,} decisions, {moved:,} would have gone elsewhere{skipped}")
    say(f"predicted, over the {found.both:,} that found an offer in both:")
    for name in found.was:
        before, after = found.was[name], found.now[name]
        change = f" ({after / before - 1:+.1%})" if before else ""
        say(f"{name:>10}: {before:.6g} -> {after:.6g}{change}")
    return 0


def _files(path: Path, *, ran: bool) -> FleetFiles:
    from hanse.cli.check import checked_fleet, read_policies
    from hanse.dispatch.policies import PolicyText
    from hanse.model.read import read_fleet
    from hanse.twin.what_if import FleetFiles

    fleet = read_fleet(path) if ran else checked_fleet(path)
    texts = read_policies(fleet, path.parent)
    policies = tuple(PolicyText(name=name, text=text) for name, text in texts.items())
    return FleetFiles(fleet=fleet, policies=policies)


def _say(found: Replayed) -> None:
    for file in found.files:
        say(_line(file))
        if file.first is not None:
            first = file.first
            say(f"  first: {first.kind} {first.record}, byte {first.byte}")
            say(f"    logged:   {first.logged}")
            say(f"    replayed: {first.replayed}")
    compared = ", ".join(f"{count:,} {_PLURAL[kind]}" for kind, count in found.compared.items())
    verdict = "all bits are the same" if not found.mismatches else f"{found.mismatches:,} differ"
    say(f"{len(found.files)} logs: {compared}: {verdict}")


def _line(file: FileReplay) -> str:
    end = "" if file.closed else ", killed or still running"
    end = ", ended at its limit" if file.full else end
    cut = f", {file.cut_bytes} bytes unfinished" if file.cut_bytes else ""
    return (
        f"{file.site} worker {file.worker} ({file.boot}): {file.compared['choice']:,} choices, "
        f"{file.mismatches:,} mismatches{end}{cut}"
    )


_PLURAL = {
    "choice": "choices of an offer",
    "engine": "of an engine",
    "look_up": "prefix look-ups",
    "learned": "lessons from answers",
    "check": "sums of the whole load",
}
