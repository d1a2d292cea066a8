"""Text for people that every layer may need: plurals, and text of others made safe to print."""

from __future__ import annotations

import unicodedata


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
