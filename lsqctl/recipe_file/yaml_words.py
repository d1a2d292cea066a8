"""The YAML parser's messages in plain words: what is wrong, then what to do."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml


class _Explanation(NamedTuple):
    problem: str  # a part of the parser's problem
    context: str  # a part of its context
    message: str
    hint: str
    at_start: bool = False  # point at where the broken thing begins, not at where it broke


_OPEN_QUOTE = ("quoted", "a quotation mark is never closed", "close the quote", True)
_EXPLANATIONS = (
    _Explanation(
        *("'\\t' that cannot start", ""),
        "a tab cannot indent or separate here",
        "use spaces; most editors can convert tabs",
    ),
    _Explanation(
        *("that cannot start any token", ""),
        "a value cannot begin with this character",
        "put quotes around the value",
    ),
    _Explanation(
        *("mapping values are not allowed here", ""),
        "this `:` begins a second value on the line, or the indentation changed",
        "one `key: value` a line, keys of a section equally indented; quote a text that holds `: `",
    ),
    _Explanation(
        *("could not find expected ':'", ""),
        "this line has no `:` after its key",
        "write `key: value`, with a blank after the colon",
        at_start=True,
    ),
    _Explanation(
        *("expected <block end>", ""),
        "does not line up with the lines above",
        "indent all keys of a section by the same number of spaces",
    ),
    _Explanation("unexpected end of stream", *_OPEN_QUOTE),
    _Explanation("document separator", *_OPEN_QUOTE),
    _Explanation(
        *("", "flow sequence", "this `[` is not closed, or a `,` is missing after it"),
        *("a list looks like [1, 2, 3]", True),
    ),
    _Explanation(
        *("", "flow mapping", "this `{` is not closed, or a `,` is missing after it"),
        *("a section on one line looks like {name: cifar10, pad: 4}", True),
    ),
    _Explanation(
        *("unknown escape character", ""),
        "a backslash in double quotes begins an escape, and this is none",
        "use single quotes, or write two backslashes",
    ),
    _Explanation(
        *("sequence entries are not allowed here", ""),
        "a list item `-` cannot stand here",
        "begin the list on a line of its own, or write [1, 2, 3]",
    ),
    _Explanation(
        *("expected '<document start>'", ""),
        "the text goes on where it should have ended",
        "begin every top-level key in the first column",
    ),
)


def explain_yaml_error(error: yaml.MarkedYAMLError) -> tuple[Any, ...]:
    """Return the mark to point at, what is wrong, and what to do about it where that is known."""
    problem, context = error.problem or "", error.context or ""
    end = error.problem_mark or error.context_mark
    for explanation in _EXPLANATIONS:
        if explanation.problem in problem and explanation.context in context:
            start = error.context_mark if explanation.at_start and error.context_mark else end
            return start, explanation.message, explanation.hint
    return end, f"{context}: {problem}".strip(": ")
