"""Text for people that every layer may need: plurals, sizes, durations, safe text, near names."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import TypeVar

MINUS = "−"

_Kind = TypeVar("_Kind", bound=str)


def pluralize(count: int, thing: str) -> str:
    """Return so many of a thing, in its plural unless it is one.

    >>> pluralize(1, "run"), pluralize(1200, "run"), pluralize(0, "published result")
    ('1 run', '1,200 runs', '0 published results')
    """
    return f"{count:,} {thing}{plural_s(count)}"


def plural_s(count: int) -> str:
    """Return the ``s`` that so many things have at their end.

    >>> f"missing key{plural_s(2)}"
    'missing keys'
    """
    return "" if count == 1 else "s"


def n_times(count: int) -> str:
    """Return ``once``, or so many times.

    >>> n_times(1), n_times(3)
    ('once', '3 times')
    """
    return "once" if count == 1 else f"{count:,} times"


def join_counts(counts: Mapping[_Kind, int], separator: str = ", ") -> str:
    """Return how many there are of each kind, none left out but zeros.

    >>> join_counts({"queued": 2, "running": 0, "failed": 1})
    '2 queued, 1 failed'
    """
    return separator.join(f"{count} {kind}" for kind, count in counts.items() if count)


def format_bytes(size: float) -> str:
    """Return a size in bytes: ``140 kB``, ``1.08 MB`` (powers of ten)."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= 0.9995 * unit:  # what would round up to 1000 of the smaller unit
            return f"{format_three_digits(size / unit)} {name}"
    return f"{size:.0f} B"


def format_bops(bops: float) -> str:
    """Return bit operations: ``0.67 G``, ``42.0 G``; ``8.10 M`` below 0.1 G."""
    unit, name = (1e9, "G") if bops >= 1e8 else (1e6, "M")
    return f"{format_three_digits(bops / unit)} {name}"


def format_three_digits(amount: float) -> str:
    """Return a number with three digits: ``0.67``, ``41.6``, ``1857``."""
    decimals = 0 if amount >= 99.95 else 1 if amount >= 9.995 else 2
    return f"{amount:.{decimals}f}"


def format_signed(value: float) -> str:
    """Return a difference with its sign, two decimals: ``+0.32``, ``−1.12``, ``0.00``."""
    text = f"{abs(value):.2f}"
    if float(text) == 0:
        return text
    return f"{'+' if value > 0 else MINUS}{text}"


def format_duration(seconds: float) -> str:
    """Return a time span in two units at most.

    >>> format_duration(61), format_duration(7260), format_duration(90_000)
    ('1 min 1 s', '2 h 1 min', '1 d 1 h')
    """
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s" if seconds < 600 else f"{seconds // 60} min"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds % 3600 // 60} min"
    return f"{seconds // 86_400} d {seconds % 86_400 // 3600} h"


def ago(when: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago, in the largest unit that fits; empty for None."""
    if when is None:
        return ""
    seconds = max(0.0, ((now or datetime.now(UTC)) - when).total_seconds())
    number, unit, *_ = format_duration(seconds).split()
    return f"{number} {unit} ago"


def when_text(when: datetime | None, now: datetime | None = None) -> str:
    """Return a moment in UTC and how long ago it was; empty for None.

    >>> when_text(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))
    '2026-01-02 00:00:00 UTC (1 d ago)'
    """
    return f"{when:%Y-%m-%d %H:%M:%S} UTC ({ago(when, now)})" if when else ""


_UNIT_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+|\d+(?:\.\d+)?")
_MAX_SECONDS = 3650 * 86_400.0


_AMOUNT = re.compile(r"(\d+(?:\.\d+)?|\.\d+)(k|m|g|t)?")
_PREFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


def parse_amount(text: str, unit: str, example: str) -> float:
    """Return a positive number with a decimal prefix: ``120kB`` of unit ``B``, ``0.5G``.

    Raises ValueError, in one plain sentence that shows ``example``, for what is none.
    """
    compact = text.strip().lower().replace(" ", "").removesuffix(unit.lower())
    match = _AMOUNT.fullmatch(compact)
    if not match or not float(match[1]):
        raise ValueError(f"must be an amount such as {example}, got `{text}`")
    return float(match[1]) * _PREFIXES[match[2] or ""]


def parse_duration(text: str) -> float:
    """Return seconds; a number without a unit is seconds already.

    Raises ValueError, in one plain sentence, for what is no time span or above ten years.
    """
    compact = text.strip().lower().replace(" ", "")
    if not _DURATION.fullmatch(compact):
        raise ValueError(f"must be a time such as 90s, 10m, 2h, 7d or 1h30m, got `{text}`")
    seconds = math.fsum(
        float(number) * _UNIT_SECONDS[unit] for number, unit in _PART.findall(compact)
    )
    if seconds > _MAX_SECONDS:
        raise ValueError(f"must be ten years at most, got `{text}`")
    return seconds


# Control, format (bidirectional overrides, zero width), surrogate, line and paragraph separators;
# unassigned and private characters, whose width no terminal agrees on.
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Cn", "Co"})


def sanitize(text: str) -> str:
    r"""Return ``text`` with every character that could move a cursor or hide written out.

    >>> sanitize("a\x1b[31m\u202eb")
    'a\\x1b[31m\\u202eb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii") if is_invisible(character) else character
        for character in text
    )


def is_invisible(character: str) -> bool:
    """Return whether a character could move a cursor, hide, or have any width."""
    return unicodedata.category(character) in _INVISIBLE_CATEGORIES


_MAX_SPELLED = 80  # letters of a word that are compared: a longer one is no misspelled name


def did_you_mean(word: str, candidates: Iterable[str]) -> str:
    """Return ``; did you mean `x`?`` to end a message with, or nothing when no name is near."""
    guess = closest_name(word, candidates)
    return f"; did you mean `{guess}`?" if guess else ""


def closest_name(
    word: str, candidates: Iterable[str], *, taken: Collection[str] = ()
) -> str | None:
    """Return the candidate that ``word`` most likely meant, or None; names not ``taken`` first.

    The nearest by edits, where they are few; else the one that shares most letters in order; else
    the only one of which it is the last part, as ``fp32`` of ``paper/fp32``, or any part, as
    ``lost`` of ``worker_lost``.
    """
    names = sorted(set(candidates))
    folded = _fold(word)
    ranked = sorted((edit_distance(folded, _fold(name)), name in taken, name) for name in names)
    if ranked and ranked[0][0] <= max(1, len(ranked[0][2]) // 4) and ranked[0][0] < len(folded):
        return ranked[0][2]
    by_folded = {_fold(name): name for name in names}
    close = difflib.get_close_matches(folded, list(by_folded), n=1)
    if close:
        return by_folded[close[0]]
    ending_so = [name for name in names if name.lower().rpartition("/")[2] == word.lower()]
    having_it = [name for name in names if word.lower() in re.split(r"[-_/.]", name.lower())]
    return next((found[0] for found in (ending_so, having_it) if len(found) == 1), None)


def three_closest_names(word: str, candidates: Collection[str]) -> list[str]:
    """Return the three names nearest to ``word``, nearest first."""
    folded = _fold(word)
    return sorted(candidates, key=lambda name: (edit_distance(folded, _fold(name)), name))[:3]


def _fold(name: str) -> str:
    return name[:_MAX_SPELLED].casefold().replace("-", "_")


def edit_distance(word: str, other: str) -> int:
    """Return how many edits part two words: add, drop, replace, or swap two neighbours."""
    previous: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(word, 1):
        before_previous, previous, row = previous, row, [i]
        for j, b in enumerate(other, 1):
            cost = min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and word[i - 2] == b:
                cost = min(cost, before_previous[j - 2] + 1)
            row.append(cost)
    return row[-1]
