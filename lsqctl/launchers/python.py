"""The command itself: a Python of its own for each attempt, where nothing is forked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lsqctl.launchers import launcher


@launcher("python", description="a Python of its own for each attempt, as with LSQCTL_WARM=0")
def python(command: Sequence[str], variables: Mapping[str, str]) -> Sequence[str]:
    """Return the command as it is."""
    return command
