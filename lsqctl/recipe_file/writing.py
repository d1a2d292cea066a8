"""A recipe back to YAML: complete, in one order, with the origin of each value beside it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lsqctl.recipe import Recipe

_PLAIN_SCALAR = re.compile(r"[A-Za-z][A-Za-z0-9_./-]*")
_RESERVED_WORDS = {"true", "false", "null"}


def dump(recipe: Recipe, origins: Mapping[str, str] | None = None) -> str:
    """Return ``recipe`` as YAML that loads back to it; ``origins`` become trailing comments."""
    rows = list(_lines(recipe.model_dump()))
    width = max(len(text) for _, text in rows) if origins else 0
    lines = []
    for key, text in rows:
        origin = (origins or {}).get(key)
        lines.append(f"{text:<{min(width, 60)}}  # {origin}" if origin else text)
    return "\n".join(lines) + "\n"


def dump_scalar(value: Any) -> str:
    """Return one value in YAML 1.2's flow form."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{dump_scalar(key)}: {dump_scalar(item)}" for key, item in value.items())
            + "}"
        )
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if not isinstance(value, str):
        return repr(value)
    if _PLAIN_SCALAR.fullmatch(value) and value.lower() not in _RESERVED_WORDS:
        return value
    return '"' + "".join(map(_escape_character, value)) + '"'


def _lines(data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in data.items():
        if not isinstance(value, dict):
            yield key, f"{key}: {dump_scalar(value)}"
            continue
        yield "", f"{key}:"
        for leaf, item in value.items():
            yield f"{key}.{leaf}", f"  {leaf}: {dump_scalar(item)}"


def _escape_character(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
