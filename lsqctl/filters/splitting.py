"""Part a filter into what some columns answer and what is left: both together say the same."""

from __future__ import annotations

from collections.abc import Iterable

from lsqctl.filters.tree import And, Node, columns_of


def split(tree: Node | None, known: Iterable[str]) -> tuple[Node | None, Node | None]:
    """Return (what looks at columns of ``known`` only, the rest): ``and`` of both is ``tree``.

    Only at ``and`` can a filter be parted, so an ``or`` of both kinds belongs to the rest.
    """
    names = frozenset(known)
    parts = tree.parts if isinstance(tree, And) else () if tree is None else (tree,)
    first = [part for part in parts if columns_of(part) <= names]
    rest = [part for part in parts if not columns_of(part) <= names]
    return both(first), both(rest)


def both(parts: Iterable[Node]) -> Node | None:
    """Return the filter that all of these make together; None for none."""
    some = tuple(parts)
    return And(some) if len(some) > 1 else some[0] if some else None
