"""The YAML parser's messages in plain words: what is wrong, then what to do."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml


class _Words(NamedTuple):
    problem: str  # a part of the parser's problem
    context: str  # a part of its context
    label: str
    help: str
    at_start: bool = False  # point at where the broken thing begins, not at where it broke


_QUOTE = ("quoted", "a quotation mark is never closed", "close the quote", True)
_WORDS = (
    _Words(
        *("'\\t' that cannot start", ""),
        "a tab cannot indent or separate here",
        "use spaces; most editors can convert tabs",
    ),
    _Words(
        *("that cannot start any token", ""),
        "a value cannot begin with this character",
        "put quotes around the value",
    ),
    _Words(
        *("mapping values are not allowed here", ""),
        "this `:` begins a second value on the line, or the indentation changed",
        "one `key: value` a line, keys of a section equally indented; quote a text that holds `: `",
    ),
    _Words(
        *("could not find expected ':'", ""),
        "this line has no `:` after its key",
        "write `key: value`, with a blank after the colon",
        at_start=True,
    ),
    _Words(
        *("expected <block end>", ""),
        "does not line up with the lines above",
        "indent all keys of a section by the same number of spaces",
    ),
    _Words("unexpected end of stream", *_QUOTE),
    _Words("document separator", *_QUOTE),
    _Words(
        *("", "flow sequence", "this `[` is not closed, or a `,` is missing after it"),
        *("a list looks like [1, 2, 3]", True),
    ),
    _Words(
        *("", "flow mapping", "this `{` is not closed, or a `,` is missing after it"),
        *("a section on one line looks like {name: cifar10, pad: 4}", True),
    ),
    _Words(
        *("unknown escape character", ""),
        "a backslash in double quotes begins an escape, and this is none",
        "use single quotes, or write two backslashes",
    ),
    _Words(
        *("sequence entries are not allowed here", ""),
        "a list item `-` cannot stand here",
        "begin the list on a line of its own, or write [1, 2, 3]",
    ),
    _Words(
        *("expected '<document start>'", ""),
        "the text goes on where it should have ended",
        "begin every top-level key in the first column",
    ),
)


def in_plain_words(error: yaml.MarkedYAMLError) -> tuple[Any, ...]:
    """Return the mark to point at, what is wrong, and what to do about it where that is known."""
    problem, context = error.problem or "", error.context or ""
    end = error.problem_mark or error.context_mark
    for words in _WORDS:
        if words.problem in problem and words.context in context:
            begin = error.context_mark if words.at_start and error.context_mark else end
            return begin, words.label, words.help
    return end, f"{context}: {problem}".strip(": ")
