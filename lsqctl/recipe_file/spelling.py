"""Which known name a misspelled word meant."""

from __future__ import annotations

from collections.abc import Collection

from lsqctl.errors import nearest


def distance(one: str, other: str) -> int:
    """Return how many edits part two words: add, drop, replace, or swap two neighbours."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
    return row[-1]


def closest(word: str, known: Collection[str], *, taken: Collection[str] = ()) -> str | None:
    """Return the name in ``known`` that ``word`` most likely meant; names not ``taken`` first."""
    folded = word[:80].casefold().replace("-", "_")
    ranked = sorted((distance(folded, n.casefold()), n in taken, n) for n in known)
    if ranked and ranked[0][0] <= max(1, len(ranked[0][2]) // 4):
        return ranked[0][2]
    return nearest(word[:80], known)


def three_closest(word: str, known: Collection[str]) -> list[str]:
    """Return the three names nearest to ``word``, nearest first."""
    folded = word[:80].casefold()
    return sorted(known, key=lambda name: (distance(folded, name.casefold()), name))[:3]
