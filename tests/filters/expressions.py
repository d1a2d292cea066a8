"""Hypothesis strategies for filters and for rows that they may be asked of."""

from hypothesis import strategies as st

from lsqctl.filters.expression import ORDERING, And, ColumnKind, Comparison, Not, Or

COLUMNS: dict[str, ColumnKind] = {
    "weight_bits": "number",
    "dataset": "text",
    "verified": "bool",
    "created_at": "time",
}
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers(-(10**18) + 1, 10**18 - 1) | st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.datetimes().map(lambda found: found.isoformat()) | st.dates().map(str)
VALUES = {"number": NUMBERS, "text": TEXTS, "bool": st.booleans(), "time": TIMES}


@st.composite
def comparisons(draw, columns=COLUMNS, values=VALUES):
    column = draw(st.sampled_from(sorted(columns)))
    kind = columns[column]
    operators = ["=", "!=", "in"]
    operators += [] if kind == "bool" else ORDERING
    operators += ["like", "~"] if kind == "text" else []
    operator = draw(st.sampled_from(operators))
    value = values[kind]
    if operator in ("=", "!="):
        value = st.none() | value
    found = st.lists(value, min_size=1, max_size=3 if operator == "in" else 1).map(tuple)
    return Comparison(column, operator, draw(found))


def expressions(leaves=None):
    def joined(parts):
        some = st.lists(parts, min_size=2, max_size=3).map(tuple)
        return parts.map(Not) | some.map(And) | some.map(Or)

    return st.recursive(comparisons() if leaves is None else leaves, joined, max_leaves=6)
