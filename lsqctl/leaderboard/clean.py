"""Make text from others safe to print: control and invisible characters become visible escapes."""

from __future__ import annotations

import unicodedata

# Control, format (bidirectional overrides, zero width), surrogate, line and paragraph separators.
_UNSEEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})


def clean(text: str) -> str:
    r"""Return ``text`` with every character that could move a cursor or hide written out.

    >>> clean("a\x1b[31m\u202eb")
    'a\\x1b[31m\\u202eb'
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escaped(char) if _unseen(char) else char for char in text)


def _unseen(char: str) -> bool:
    return unicodedata.category(char) in _UNSEEN


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
