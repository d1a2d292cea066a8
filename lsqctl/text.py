"""Text for people that every layer may need: plurals, and what else has one spelling."""

from __future__ import annotations


def pluralize(count: int, thing: str) -> str:
    """Return so many of a thing, in its plural unless it is one.

    >>> pluralize(1, "run"), pluralize(1200, "run"), pluralize(0, "published result")
    ('1 run', '1,200 runs', '0 published results')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
