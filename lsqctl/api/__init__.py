"""The public Python API: what the command line calls, one module per question a user asks."""

from lsqctl.api.frames import load_board
from lsqctl.api.models import load_model

__all__ = ["load_board", "load_model"]
