"""One script for each simulator, started as a file inside that simulator's environment; its last line of output is JSON."""
