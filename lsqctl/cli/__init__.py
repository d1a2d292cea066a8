"""The command line: parse, call one function of the API, print, exit code."""

from lsqctl.cli.entry import main

__all__ = ["main"]
