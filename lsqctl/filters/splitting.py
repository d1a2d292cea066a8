"""Part a filter into what some columns answer and what is left: both together say the same."""

from __future__ import annotations

from collections.abc import Iterable

from lsqctl.filters.tree import And, Expression, columns_of


def split_conjunction(
    expression: Expression | None, columns: Iterable[str]
) -> tuple[Expression | None, Expression | None]:
    """Return (what looks at ``columns`` only, the rest): ``and`` of both is ``expression``.

    Only at ``and`` can a filter be parted, so an ``or`` of both kinds belongs to the rest.
    """
    allowed = frozenset(columns)
    parts = (
        expression.parts
        if isinstance(expression, And)
        else ()
        if expression is None
        else (expression,)
    )
    pushed_down = [part for part in parts if columns_of(part) <= allowed]
    rest = [part for part in parts if not columns_of(part) <= allowed]
    return conjunction_of(pushed_down), conjunction_of(rest)


def conjunction_of(parts: Iterable[Expression]) -> Expression | None:
    """Return the filter that all of these make together; None for none."""
    conjuncts = tuple(parts)
    return And(conjuncts) if len(conjuncts) > 1 else conjuncts[0] if conjuncts else None
