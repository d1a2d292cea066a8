"""The YAML parser's messages in plain words: what is wrong, then what to do."""

from __future__ import annotations

import yaml

# (part of the parser's problem, part of its context, what is wrong, what to do); first hit wins.
_WORDS = (
    (
        *("'\\t' that cannot start", ""),
        "a tab cannot indent or separate here",
        "use spaces; most editors can convert tabs",
    ),
    (
        *("that cannot start any token", ""),
        "a value cannot begin with this character",
        "put quotes around the value",
    ),
    (
        *("mapping values are not allowed here", ""),
        "this `:` begins a second value on the line, or the indentation changed",
        "one `key: value` a line, keys of a section equally indented; quote a text that holds `: `",
    ),
    (
        *("could not find expected ':'", ""),
        "the line before has no `:` after its key",
        "write `key: value`, with a blank after the colon",
    ),
    (
        *("expected <block end>", ""),
        "does not line up with the lines above",
        "indent all keys of a section by the same number of spaces",
    ),
    ("unexpected end of stream", "quoted", "a quotation mark is never closed", "close the quote"),
    ("document separator", "quoted", "a quotation mark is never closed", "close the quote"),
    ("", "flow sequence", "a `[` is not closed, or a `,` is missing", "write [1, 2, 3]"),
    ("", "flow mapping", "a `{` is not closed, or a `,` is missing", "write {key: value}"),
    (
        *("unknown escape character", ""),
        "a backslash in double quotes begins an escape, and this is none",
        "use single quotes, or write two backslashes",
    ),
    (
        *("sequence entries are not allowed here", ""),
        "a list item `-` cannot stand here",
        "begin the list on a line of its own, or write [1, 2, 3]",
    ),
    (
        *("expected '<document start>'", ""),
        "the text goes on where it should have ended",
        "begin every top-level key in the first column",
    ),
)


def in_plain_words(error: yaml.MarkedYAMLError) -> tuple[str, ...]:
    """Return what is wrong, then what to do about it where that is known."""
    problem, context = error.problem or "", error.context or ""
    for in_problem, in_context, label, help_ in _WORDS:
        if in_problem in problem and in_context in context:
            return label, help_
    return (f"{context}: {problem}".strip(": "),)
