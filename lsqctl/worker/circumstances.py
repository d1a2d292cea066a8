"""What an attempt runs under, and what has changed since its run was submitted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsqctl.facts import Note
from lsqctl.worker.order import Order


def circumstances(order: Order) -> dict[str, object]:
    """Return what must stay the same for an exact resume, and what a reader wants to know."""
    import platform

    import torch

    from lsqctl import __version__
    from lsqctl.settings import recorded_environment
    from lsqctl.training.digest import code_sha256

    return {
        "device": order.device.partition(":")[0],
        "threads": order.threads,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "host": platform.node(),
        "lsqctl": __version__,
        "code_sha256": code_sha256(),
        "variables": recorded_environment(),
    }


def changed_code(snapshot: Mapping[str, Any]) -> list[Note]:
    """Return a note when the code is not the one that was there at submit."""
    from lsqctl.training.digest import code_sha256

    before, now = snapshot.get("code_sha256"), code_sha256()
    if before in (None, now):
        return []
    return [
        Note(
            "the code of lsqctl has changed since the run was submitted "
            f"({before[:12]} → {now[:12]})"
        )
    ]
