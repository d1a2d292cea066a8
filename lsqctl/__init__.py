"""lsqctl: queue, run and rank Learned Step Size Quantization fine-tuning.

``import lsqctl`` is cheap: what is exported is imported when it is first used.

>>> import lsqctl
>>> runs = lsqctl.submit("digits/resnet8-w4a4", seeds=[0, 1])  # doctest: +SKIP
>>> lsqctl.wait(runs)  # doctest: +SKIP
>>> lsqctl.load_board(where="weight_bits <= 4")  # doctest: +SKIP
"""

from typing import TYPE_CHECKING

__version__ = "0.2.0"

JSON_SCHEMA_VERSION = 2  # of what commands print with --json

__all__ = ["compare", "load_board", "load_model", "record", "runs", "submit", "wait"]

if TYPE_CHECKING:
    from lsqctl.services.python_api import (
        compare,
        load_board,
        load_model,
        record,
        runs,
        submit,
        wait,
    )
else:

    def __getattr__(name: str) -> object:
        """Import what is exported when it is first asked for (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from lsqctl.services import python_api

        return getattr(python_api, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
