"""What the author of a plugin imports: the decorators that declare, and what they decorate.

``from lsqctl.plugins import model`` (docs/plugins.md). Each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsqctl.datasets import dataset
    from lsqctl.datasets.image_folders import FolderDataset, FolderSplit
    from lsqctl.datasets.in_memory import ArraySplits, InMemoryDataset, MapDataset, MapStyle
    from lsqctl.launchers import launcher
    from lsqctl.leaderboard.board import Board
    from lsqctl.leaderboard.formats import board_format
    from lsqctl.leaderboard.output import OutputOptions, board_tables
    from lsqctl.models import model
    from lsqctl.trackers import Number, TrackedRun, tracker

__all__ = [
    "ArraySplits",
    "Board",
    "FolderDataset",
    "FolderSplit",
    "InMemoryDataset",
    "MapDataset",
    "MapStyle",
    "Number",
    "OutputOptions",
    "TrackedRun",
    "board_format",
    "board_tables",
    "dataset",
    "launcher",
    "model",
    "tracker",
]

_HOME = {
    "ArraySplits": "datasets.in_memory",
    "Board": "leaderboard.board",
    "FolderDataset": "datasets.image_folders",
    "FolderSplit": "datasets.image_folders",
    "InMemoryDataset": "datasets.in_memory",
    "MapDataset": "datasets.in_memory",
    "MapStyle": "datasets.in_memory",
    "Number": "trackers",
    "OutputOptions": "leaderboard.output",
    "TrackedRun": "trackers",
    "board_format": "leaderboard.formats",
    "board_tables": "leaderboard.output",
    "dataset": "datasets",
    "launcher": "launchers",
    "model": "models",
    "tracker": "trackers",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"lsqctl.{_HOME[name]}"), name)
