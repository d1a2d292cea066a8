"""What a YAML text is turned into: plain values that know where they were written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from lsqctl.errors import Diagnostic, Position
from lsqctl.text import sanitize

Scalar = str | int | float | bool | None
SET_OPTION = "--set"
SEED_OPTION = "--seed"
GRID_OPTION = "--grid"
NAME_OPTION = "--name"


@dataclass(frozen=True, slots=True)
class Source:
    """A text that was read. ``origin`` is how ``recipe show`` names it; empty: file and line."""

    file: str
    lines: tuple[str, ...]
    origin: str = ""

    def line(self, number: int) -> str:
        """Return a line by its number from 1; empty outside the text."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, a sequence of nodes or a mapping of entries, and where it stands.

    ``text`` is a scalar as it was written, without its quotes.
    """

    source: Source
    position: Position
    value: Scalar | tuple[Node, ...] | Mapping[str, Entry]
    text: str = ""
    quoted: bool = False

    @property
    def entries(self) -> Mapping[str, Entry]:
        """The entries of a mapping; of anything else, none."""
        return self.value if isinstance(self.value, Mapping) else {}

    @property
    def origin(self) -> str:
        """Where the value comes from, in words."""
        return self.source.origin or f"{self.source.file}:{self.position.line}"

    @property
    def where(self) -> str:
        """File, line and column; of what is no file, the option."""
        file, position = self.source.file, self.position
        on_command_line = file.startswith("--")
        return file if on_command_line else f"{file}:{position.line}:{position.column}"

    @property
    def written(self) -> str:
        """What stands in the node's line, as it was written."""
        line, position = self.source.line(self.position.line), self.position
        return line[position.column - 1 : position.end_column - 1]

    def to_python(self) -> Any:
        """Return the value as Python data."""
        if isinstance(self.value, Mapping):
            return {name: entry.value.to_python() for name, entry in self.value.items()}
        if isinstance(self.value, tuple):
            return [node.to_python() for node in self.value]
        return self.value

    def diagnostic(self, code: str, title: str, message: str, *hints: str) -> Diagnostic:
        """Return a diagnostic that points here."""
        return Diagnostic(
            code,
            sanitize(title),
            sanitize(message),
            self.source.file,
            self.position,
            self.source.line(self.position.line),
            tuple(map(sanitize, hints)),
        )


class Entry(NamedTuple):
    """One key of a mapping and its value."""

    key: Node
    value: Node


Tree = dict[str, Entry]


def preview(node: Node) -> str:
    """Return a short spelling of a value for a message."""
    if isinstance(node.value, Mapping):
        return "keys and values"
    if isinstance(node.value, tuple):
        return "a list"
    if node.value is None:
        return "nothing" if not node.text else f"`{node.text}`"
    text = node.text if len(node.text) <= 60 else node.text[:57] + "..."
    return f"'{text}'" if isinstance(node.value, str) else text
