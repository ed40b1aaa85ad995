"""The command line: what a person types, and what is printed for it.

Here: the app and its entry point. Not here: anything that computes; commands import what they need when they run, so
that `hanse --help` answers at once.
"""

from cyclopts import App

from hanse import __version__

app = App(
    name="hanse",
    help="Run AI workloads over many small data centers as one service.",
    version=__version__,
)


def main() -> None:
    """Run the command that the process was started with."""
    app()
