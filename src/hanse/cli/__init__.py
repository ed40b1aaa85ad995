"""The command line: what a person types, and what is printed for it.

Here: the app, its entry point and what every command does with an error: one line on standard error,
exit code 2 for bad input. Answers go to standard output (`output`). Commands live in modules by purpose and import what they need when they run,
so that `hanse --help` answers at once. Not here: anything that computes.

Exit codes: 0 done, 1 the answer is no (a receipt that does not verify, a fleet that is not up),
2 bad input or surroundings, 141 where the reader of standard output has gone (as shells count SIGPIPE).
"""

import os
import sys

from cyclopts import App, CycloptsError

from hanse import __version__
from hanse.errors import HanseError

READER_GONE = 141
THREADS = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Of numpy's libraries: a command's matrices are small, and threads that wait for each other on a busy machine take many times as long."""
app = App(
    name="hanse",
    help="Run AI workloads over many small data centers as one service.",
    version=__version__,
)
COMMANDS = {
    "check": ("hanse.cli.check:check", "List everything that is wrong with a fleet file."),
    "init": ("hanse.cli.join:init", "Look at this machine and write a fleet file for it."),
    "token": ("hanse.cli.join:token", "One line that lets another machine join, once."),
    "join": ("hanse.cli.join:join", "Make this machine a site of a league."),
    "revoke": ("hanse.cli.join:revoke", "Let a site's certificates count no more."),
    "up": ("hanse.cli.run:up", "Start every site of a fleet on this machine."),
    "site": (
        "hanse.cli.site:app",
        "Run one site by itself; drain one, put it back, or into maintenance.",
    ),
    "hub": ("hanse.cli.run:hub", "Run the hub by itself."),
    "warm": ("hanse.cli.run:warm", "Compile kernels and make weights once."),
    "apply": ("hanse.cli.change:apply", "Put another fleet file in force; nothing is restarted."),
    "rollback": ("hanse.cli.change:rollback", "Put an earlier fleet file in force again."),
    "history": ("hanse.cli.change:history", "Revisions of the fleet file: when, who, what."),
    "upgrade": ("hanse.cli.upgrade:upgrade", "Another version, site by site; stops at a failure."),
    "status": ("hanse.cli.status:status", "Show the running league beside one big site."),
    "explain": (
        "hanse.cli.explain:explain",
        "Say where a request would run, why not elsewhere, at what cost.",
    ),
    "placement": (
        "hanse.cli.placement:placement",
        "What the controller placed where, at what cost, and what the next best would cost.",
    ),
    "schedule": (
        "hanse.cli.schedule:schedule",
        "When and where work that may wait runs, what batteries do, and what that costs.",
    ),
    "simulate": (
        "hanse.cli.simulate:simulate",
        "Run a fleet on a trace, with faults: latency, energy, carbon, cost, law.",
    ),
    "compare": (
        "hanse.cli.compare:compare",
        "Several fleets or policies on the same traffic, with intervals.",
    ),
    "plan": (
        "hanse.cli.plan:plan",
        "Small or big? Designs with full cost, carbon, latency and doubt.",
    ),
    "claims": (
        "hanse.cli.plan:claims",
        "What is claimed for and against micro data centers, measured.",
    ),
    "batch": ("hanse.cli.batch:app", "Batches: what runs, what is done, what it took."),
    "trace": ("hanse.cli.trace:app", "Requests as data: import, make, change and show traces."),
    "forecast": (
        "hanse.cli.forecast:app",
        "How good forecasts of carbon, price, sun, wind and demand are; one now.",
    ),
    "predict": (
        "hanse.cli.predict:predict",
        "Say how fast and at what energy an engine serves a model on a chip.",
    ),
    "tour": ("hanse.cli.tour:tour", "Three minutes: law, sun, a death and a cut move the work."),
    "play": (
        "hanse.cli.play:play",
        "Play a scenario on a running league, its hours as short as asked.",
    ),
    "replay": (
        "hanse.cli.replay:replay",
        "Make a recorded league's decisions again and compare every bit.",
    ),
    "record": ("hanse.cli.replay:record", "Make a trace of a recorded league's own traffic."),
    "calibrate": (
        "hanse.cli.replay:calibrate",
        "Make measured steps of what a recorded league's engines took.",
    ),
    "verify": ("hanse.cli.prove:verify", "Check a receipt, trusting nobody's log."),
    "reproduce": (
        "hanse.cli.reproduce:reproduce",
        "Rerun published results beside their numbers.",
    ),
    "facility": ("hanse.cli.plant:facility", "List devices of a site's plant and their readings."),
    "inventory": ("hanse.cli.plant:inventory", "A fleet as the objects of NetBox."),
    "statement": (
        "hanse.cli.statement:statement",
        "What a tenant asked for, where it ran, what it took: a month's account.",
    ),
    "energy": (
        "hanse.cli.statement:energy",
        "What sites drew by the quarter: requests, idle, overhead, and the meter.",
    ),
    "backup": ("hanse.cli.keep:backup", "The hub on one file, while it runs."),
    "restore": ("hanse.cli.keep:restore", "One file as a hub again."),
    "audit": ("hanse.cli.prove:audit", "Say what all the evidence proves, and what not."),
}
"""Name -> (where it is imported from when it runs, one line of help)."""

for _name, (_where, _line) in COMMANDS.items():
    app.command(_where, name=_name, help=_line)


def main(arguments: list[str] | None = None) -> None:
    """Run the command that the process was started with."""
    for name, count in THREADS.items():  # before any command imports numpy
        os.environ.setdefault(name, count)
    try:
        code = app(arguments, exit_on_error=False, result_action="return_value")
        sys.stdout.flush()
    except CycloptsError:
        sys.exit(2)  # cyclopts has printed what was wrong
    except HanseError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    except BrokenPipeError:  # `hanse history | head`: enough was read
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        sys.exit(READER_GONE)
    sys.exit(code if isinstance(code, int) else 0)
