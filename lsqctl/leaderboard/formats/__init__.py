"""The formats of the board, one module each: ``@board_format(NAME, …)`` declares what writes it.

What is declared is a function of a board and ``OutputOptions`` that returns text, or bytes where it
is ``binary``, the same for the same board. ``FORMATS`` knows names, endings and what each takes
without importing it.
"""

from __future__ import annotations

from dataclasses import dataclass

from lsqctl.registry import Registry

__all__ = ["FORMATS", "FormatInfo", "board_format", "formats_markdown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatInfo:
    """What is known of a format before it is written.

    Files with ``ending`` are written in it; without one it has to be named. ``columns`` says that
    it takes other columns and pivots, ``deviations`` that it has room for those of a row, ``raw``
    that it guards formulas unless told not to, ``binary`` that it is bytes, for a file only.
    ``description`` stands in docs/views.md.
    """

    description: str
    ending: str = ""
    columns: bool = True
    deviations: bool = True
    raw: bool = False
    binary: bool = False


FORMATS = Registry(__name__, "board_format", FormatInfo, noun="format", group="lsqctl.exporters")
board_format = FORMATS.declare


def formats_markdown() -> str:
    """Return the formats as a markdown table, as docs/views.md shows it."""
    rows = [f"| {name} | {info.ending} | {info.description} |" for name, info in FORMATS.items()]
    return "\n".join(["| format | ending | what it is |", "|---|---|---|", *rows]) + "\n"
