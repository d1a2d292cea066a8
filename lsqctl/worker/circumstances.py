"""What an attempt runs under, and what has changed since its run was submitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsqctl.facts import LogMessage
from lsqctl.worker.order import AttemptSpec


def attempt_environment(spec: AttemptSpec) -> dict[str, object]:
    """Return what must stay the same for an exact resume, and what a reader wants to know."""
    import platform

    import torch

    from lsqctl import __version__
    from lsqctl.settings import recorded_variables
    from lsqctl.training.digest import code_sha256

    return {
        "device": spec.device.partition(":")[0],
        "threads": spec.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "lsqctl": __version__,
        "code_sha256": code_sha256(),
        "variables": recorded_variables(),
    }


def code_change_messages(provenance: Mapping[str, Any]) -> list[LogMessage]:
    """Return a message when the code is not the one that was there at submit."""
    from lsqctl.training.digest import code_sha256

    submitted, current = provenance.get("code_sha256"), code_sha256()
    if submitted in (None, current):
        return []
    return [
        LogMessage(
            "the code of lsqctl has changed since the run was submitted "
            f"({submitted[:12]} → {current[:12]})"
        )
    ]
