"""From a trained network to files of integers that other runtimes execute, and their proof.

``lsqctl.deploy.convert`` takes any model that ``lsqctl.quant`` has prepared and trained. The onnx
package and runtimes are imported here alone, and inside functions.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lsqctl.deploy.conversion import Conversion, Options, convert
    from lsqctl.deploy.tracing import Pixels

__all__ = ["Conversion", "Options", "Pixels", "convert"]


def __getattr__(name: str) -> object:
    """Import what needs torch when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "tracing" if name == "Pixels" else "conversion"
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
