"""The lowest priority of the machine: training takes what others leave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lsqctl.launchers import launcher


@launcher("nice", description="at the lowest priority: others' work on the machine goes first")
def nice(command: Sequence[str], variables: Mapping[str, str]) -> Sequence[str]:
    """Return ``nice`` and the command; it needs no right to lower a priority."""
    return ["nice", "-n", "19", *command]
