"""Words for people that every layer may need: so many of a thing."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """Return so many of a thing, in its plural unless it is one.

    >>> counted(1, "run"), counted(1200, "run"), counted(0, "published row")
    ('1 run', '1,200 runs', '0 published rows')
    """
    return f"{number:,} {thing}{'' if number == 1 else 's'}"
