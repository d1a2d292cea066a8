"""Parse a filter to its tree; a mistake is shown at its place, with the nearest name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lsqctl.errors import nearest
from lsqctl.filters.tree import (
    ORDERING,
    TEXTUAL,
    And,
    Comparison,
    Kind,
    Node,
    Not,
    Operator,
    Or,
    Value,
)
from lsqctl.filters.words import Word, refusal, too_much, unexpected, words

DEPTH = 20
COMPARISONS = 100
LIST = 100
_HINTS = {
    "top1": "top1_mean",
    "top5": "top5_mean",
    "name": "model",
    "bits": "weight_bits",
    "size": "size_bytes",
    "bops": "gbops",
    "n": "n_seeds",
    "w_bits": "weight_bits",
    "a_bits": "act_bits",
}
_OPERATORS: Mapping[str, Operator] = {
    "=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">=",
    "in": "in", "like": "like", "~": "~",
}  # fmt: skip


def parse(text: str, columns: Mapping[str, Kind]) -> Node:
    """Return the tree of a filter over ``columns``.  Raises FilterError, which shows the place.

    >>> parse("bits <= 4", {"bits": "number"})
    Comparison(column='bits', operator='<=', values=(4,), at=0)
    """
    return _Parser(text, words(text), columns).whole()


def moment(text: str) -> datetime:
    """Return the moment that a text means, UTC unless it says otherwise.  Raises ValueError."""
    found = datetime.fromisoformat(text.strip())
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)


@dataclass(slots=True)
class _Parser:
    text: str
    words: list[Word]
    columns: Mapping[str, Kind]
    place: int = 0
    depth: int = 0
    names: list[Word] = field(default_factory=list)

    def whole(self) -> Node:
        tree = self.either()
        if self.word.kind != "end":
            raise unexpected(self.text, self.word, "`and`, `or` or the end")
        return tree

    @property
    def word(self) -> Word:
        return self.words[self.place]

    def take(self) -> Word:
        word = self.word
        self.place += word.kind != "end"
        return word

    def taken(self, *keys: str) -> str:
        """Return which of these keywords or signs comes next, and take it; else nothing."""
        word = self.word
        if word.kind in ("keyword", "sign") and word.key in keys:
            self.take()
            return word.key
        return ""

    def either(self) -> Node:
        parts = [self.both()]
        while self.taken("or"):
            parts.append(self.both())
        return parts[0] if len(parts) == 1 else Or(tuple(parts))

    def both(self) -> Node:
        parts = [self.one()]
        while self.taken("and"):
            parts.append(self.one())
        return parts[0] if len(parts) == 1 else And(tuple(parts))

    def one(self) -> Node:
        self.depth += 1
        if self.depth > DEPTH:
            raise too_much(f"`not` and parentheses go at most {DEPTH} deep")
        if self.taken("not"):
            tree: Node = Not(self.one())
        elif self.taken("("):
            tree = self.either()
            if not self.taken(")"):
                raise unexpected(self.text, self.word, "`and`, `or` or `)`")
        else:
            tree = self.comparison()
        self.depth -= 1
        return tree

    def comparison(self) -> Node:
        name = self.take()
        if name.kind != "name":
            raise unexpected(self.text, name, "a column")
        self.names.append(name)
        if len(self.names) > COMPARISONS:
            raise too_much(f"a filter makes at most {COMPARISONS} comparisons")
        kind = self.kind(name)
        if kind == "bool" and self.ended():
            return Comparison(name.key, "=", (True,), at=name.start)
        if self.taken("is"):
            null = Comparison(name.key, "!=" if self.taken("not") else "=", (None,), at=name.start)
            if not self.taken("null"):
                raise unexpected(self.text, self.word, "`null`")
            return null
        return self.compared(name, kind)

    def ended(self) -> bool:
        return self.word.kind == "end" or self.word.key in ("and", "or", ")")

    def kind(self, name: Word) -> Kind:
        if name.key in self.columns:
            return self.columns[name.key]
        hint = _HINTS.get(name.key.lower().rpartition(".")[2], "")
        guess = hint if hint in self.columns else nearest(name.key, self.columns)
        helps = (f"did you mean `{guess}`?",) if guess else ()
        known = f"columns: {', '.join(self.columns)}"
        label = f"`{name.key}` is no column"
        raise refusal("F002", self.text, (name.start, name.end), label, (*helps, known))

    def compared(self, name: Word, kind: Kind) -> Node:
        sign = self.word
        turned = bool(self.taken("not"))
        key = self.taken("in", "like") if turned else self.taken(*_OPERATORS, "!~")
        if not key:
            wanted = "`in` or `like`" if turned else "one of = != < <= > >= in like ~"
            raise unexpected(self.text, self.word, wanted)
        operator = _OPERATORS["~" if key == "!~" else key]
        if kind != "text" and operator in TEXTUAL:
            label = f"`{operator}` is for texts, and `{name.key}` is a {kind}"
            raise refusal("F003", self.text, (sign.start, sign.end), label)
        values = self.listed(kind) if operator == "in" else (self.value(kind, operator),)
        found = Comparison(name.key, operator, values, at=name.start)
        return Not(found) if turned or key == "!~" else found

    def listed(self, kind: Kind) -> tuple[Value, ...]:
        if not self.taken("("):
            raise unexpected(self.text, self.word, "`(` and the values")
        values = [self.value(kind, "in")]
        while self.taken(","):
            values.append(self.value(kind, "in"))
            if len(values) > LIST:
                raise too_much(f"`in` takes at most {LIST} values")
        if not self.taken(")"):
            raise unexpected(self.text, self.word, "`,` or `)`")
        return tuple(values)

    def value(self, kind: Kind, operator: Operator) -> Value:
        word = self.take()
        if word.key == "null" and word.kind == "keyword":
            if operator not in ("=", "!="):
                label = "null can be compared with = and != only"
                raise refusal("F003", self.text, (word.start, word.end), label)
            return None
        if word.key in ("true", "false"):
            found: Value = word.key == "true"
        elif word.kind in ("text", "number"):
            found = word.value
        else:
            raise self.no_value(word, kind)
        self.check(word, found, kind, operator)
        return found

    def no_value(self, word: Word, kind: Kind) -> Exception:
        if word.kind != "name":
            return unexpected(self.text, word, f"a {kind}")
        quoted = (f"write '{word.key}' if a text is meant",)
        label = "a text stands in quotes, and columns are not compared with each other"
        return refusal("F001", self.text, (word.start, word.end), label, quoted)

    def check(self, word: Word, value: Value, kind: Kind, operator: Operator) -> None:
        label = ""
        if kind == "time":
            label = _no_time(value)
        elif {str: "text", bool: "bool"}.get(type(value), "number") != kind:
            label = f"this column is a {kind}{_EXAMPLES[kind]}"
        elif kind == "bool" and operator in ORDERING:
            label = "true and false have no order"
        if label:
            raise refusal("F003", self.text, (word.start, word.end), label)


_EXAMPLES = {
    "number": ", written without quotes",
    "text": ", written in quotes",
    "bool": ": true or false",
}


def _no_time(value: Value) -> str:
    try:
        if isinstance(value, str):
            moment(value)
            return ""
    except ValueError:
        pass
    return "this column is a time: write '2026-01-31' or '2026-01-31T12:00'"
