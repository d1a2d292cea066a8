"""Train and evaluate one recipe: ``finetune(recipe, context)`` yields events, keeps no books.

Both names load when first used, so that ``checkpoint_files`` is imported without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsqctl.training.finetuning import finetune
    from lsqctl.training.runtime import ExecutionContext

__all__ = ["ExecutionContext", "finetune"]

_HOME = {"ExecutionContext": "runtime", "finetune": "finetuning"}


def __getattr__(name: str) -> object:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
