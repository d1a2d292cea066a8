"""Text for people that every layer may need: plurals, and which name a misspelled word meant."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection

from lsqctl.errors import nearest


def pluralize(count: int, thing: str) -> str:
    """Return so many of a thing, in its plural unless it is one.

    >>> pluralize(1, "run"), pluralize(1200, "run"), pluralize(0, "published result")
    ('1 run', '1,200 runs', '0 published results')
    """
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


# Control, format (bidirectional overrides, zero width), surrogate, line and paragraph separators.
_INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def sanitize(text: str) -> str:
    r"""Return ``text`` with every character that could move a cursor or hide written out.

    >>> clean("a\x1b[31m\u202eb")
    'a\\x1b[31m\\u202eb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(character) if _is_invisible(character) else character for character in text
    )


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) in _INVISIBLE_CATEGORIES


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


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


def closest_name(
    word: str, candidates: Collection[str], *, taken: Collection[str] = ()
) -> str | None:
    """Return the candidate that ``word`` most likely meant; names not ``taken`` first."""
    folded = word[:80].casefold().replace("-", "_")
    ranked = sorted((edit_distance(folded, n.casefold()), n in taken, n) for n in candidates)
    if ranked and ranked[0][0] <= max(1, len(ranked[0][2]) // 4):
        return ranked[0][2]
    return nearest(word[:80], candidates)


def three_closest_names(word: str, candidates: Collection[str]) -> list[str]:
    """Return the three names nearest to ``word``, nearest first."""
    folded = word[:80].casefold()
    return sorted(candidates, key=lambda name: (edit_distance(folded, name.casefold()), name))[:3]
