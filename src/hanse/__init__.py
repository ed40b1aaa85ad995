"""Hanse runs AI workloads over many small data centers as one service, or finds out first whether you should.

Here: the version, and nothing else. Importing the package imports no part of it, so every command starts with only
what it needs.
"""

__version__ = "0.1.0"
