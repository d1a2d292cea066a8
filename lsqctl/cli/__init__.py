"""The command line: parse, call one function of the services, print, exit code."""

from lsqctl.cli.app import main

__all__ = ["main"]
