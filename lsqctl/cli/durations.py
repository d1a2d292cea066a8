"""Read a duration as people write it: 90m, 2h, 1h30m, 1.5h, or plain seconds."""

from __future__ import annotations

import re

import typer

_UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_PARTS = "".join(f"(?:(?P<{unit}>{_NUMBER}){unit})?" for unit in _UNITS)


def parse_duration(text: str) -> float:
    """Return seconds.  Raises ValueError for what is no duration, or is not above zero."""
    text = text.strip().lower()
    if re.fullmatch(_NUMBER, text):
        seconds = float(text)
    elif found := re.fullmatch(_PARTS, text):
        seconds = sum(float(found[unit] or 0) * size for unit, size in _UNITS.items())
    else:
        seconds = 0.0
    if seconds <= 0:
        raise ValueError(f"must be a time such as 90m, 2h, 1h30m or 3600 (seconds), got `{text}`")
    return seconds


def duration(text: str | float) -> float:
    """Parse an option's duration, in plain words when it is none."""
    try:
        return parse_duration(str(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
