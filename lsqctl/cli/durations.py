"""Time spans as people write them: ``90s``, ``10m``, ``2h``, ``30d``, ``1h30m``, ``30``."""

from __future__ import annotations

import math
import re

import typer

_UNIT_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")
_MAX_SECONDS = 3650 * 86_400.0


def parse_duration(text: str) -> float:
    """Return seconds; a number without a unit is seconds already.

    Raises ValueError, in one plain sentence, for what is no time span or above ten years.
    """
    compact = text.strip().lower().replace(" ", "")
    if not _DURATION.fullmatch(compact):
        raise ValueError(f"must be a time such as 90s, 10m, 2h, 7d or 1h30m, got `{text}`")
    seconds = math.fsum(float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(compact))
    if seconds > _MAX_SECONDS:
        raise ValueError(f"must be ten years at most, got `{text}`")
    return seconds


def duration_seconds(text: str | float) -> float:
    """Parse an option's time span, in plain words when it is none."""
    try:
        return parse_duration(str(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def positive_duration_seconds(text: str | float) -> float:
    """Parse an option's time span above zero."""
    seconds = duration_seconds(text)
    if seconds <= 0:
        raise typer.BadParameter(f"must be above zero, got `{text}`")
    return seconds
