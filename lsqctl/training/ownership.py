"""Whose folder a run's is: an attempt that was taken over, and wakes, completes no checkpoint.

The database refuses what a zombie writes; this file does so for the disk.
"""

from __future__ import annotations

from pathlib import Path

from lsqctl.errors import LeaseLost
from lsqctl.training.durable_file import DurableFile

_OWNER = "owner"


def take_over(run_dir: Path, fence: str) -> None:
    """Make the folder this attempt's own; only the run's owner may call this."""
    run_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = run_dir / f"{_OWNER}.tmp.{fence}"
    new.unlink(missing_ok=True)
    with DurableFile(new) as file:
        file.write(fence.encode())
        file.sync()
    new.rename(run_dir / _OWNER)


def check_owner(run_dir: Path, fence: str) -> None:
    """Raise LeaseLost when another fence has taken over the folder."""
    owner = run_dir / _OWNER
    if owner.exists() and owner.read_text() != fence:
        raise LeaseLost(f"another attempt has taken over {run_dir}; nothing was changed")
