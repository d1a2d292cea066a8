"""Text to nodes: plain data only, bounded in size and depth, every key and value positioned.

YAML is read as version 1.2 (core schema): ``1e-3`` is a number, ``no`` is text. The nodes are
made from the parser's events, not by its loader: no object is ever constructed, an alias bomb is
counted before it is expanded, and deep nesting ends in an error instead of a RecursionError.
"""

from __future__ import annotations

from typing import Any

import yaml
import yamlcore

from lsqctl.errors import Diagnostic, Position, RecipeError
from lsqctl.recipe_file.nodes import Entry, Node, Scalar, Source, Tree, preview
from lsqctl.recipe_file.yaml_words import explain_yaml_error

MAX_DEPTH = 50
MAX_NODES = 10_000
NOT_PLAIN_DATA = "recipe is not plain data"
_CORE_TAG = "tag:yaml.org,2002:"


def compose(
    text: str, source: Source, *, column_offset: int = 0
) -> tuple[Node | None, list[Diagnostic]]:
    """Return the one document of ``text``, None when it is empty, and what is not plain in it.

    ``column_offset`` is added to columns, for a part of a line. Raises RecipeError where
    nothing can be read at all.
    """
    composer = _Composer(text, source, column_offset)
    try:
        node = composer.document()
    except yaml.MarkedYAMLError as error:
        mark, message, *hints = explain_yaml_error(error)
        here = composer.position(mark)
        raise RecipeError(
            [composer.node_at(here).diagnostic("R001", _UNREADABLE, message, *hints)]
        ) from None
    except (ValueError, OverflowError):  # "\U00110000" and %YAML 9999…: not caught by the parser
        here = composer.position(composer.loader.get_mark())
        message = "a number or an escape here is too large"
        raise RecipeError(
            [composer.node_at(here).diagnostic("R001", _UNREADABLE, message)]
        ) from None
    return node, composer.diagnostics


_UNREADABLE = "not readable as YAML"


class _Composer:
    def __init__(self, text: str, source: Source, column_offset: int) -> None:
        self.loader: Any = yamlcore.CoreLoader(text)
        self.source = source
        self.column_offset = column_offset
        self.diagnostics: list[Diagnostic] = []
        self.anchors: dict[str, tuple[Node, int] | None] = {}  # None: still open
        self.node_count = 0

    def document(self) -> Node | None:
        self.loader.get_event()
        if self.loader.check_event(yaml.StreamEndEvent):
            return None
        self.loader.get_event()
        node = self.node(1)
        self.loader.get_event()
        if not self.loader.check_event(yaml.StreamEndEvent):
            second = self.node_at(self.position(self.loader.peek_event().start_mark))
            message = "a second document begins here"
            raise RecipeError(
                [second.diagnostic("R001", _UNREADABLE, message, "keep one recipe a file")]
            )
        return node

    def node(self, depth: int) -> Node:
        event = self.loader.get_event()
        here = self.node_at(self.position(event.start_mark, event.end_mark))
        self.check_size(here, 1, depth)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, here, depth)
        count_before = self.node_count
        if event.anchor:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, here)
        else:
            node = self.collection(event, here, depth)
        if event.anchor:
            self.anchors[event.anchor] = (node, self.node_count - count_before)
        return node

    def check_size(self, here: Node, nodes: int, depth: int) -> None:
        self.node_count += nodes
        if depth > MAX_DEPTH:
            raise RecipeError(
                [here.diagnostic("R002", NOT_PLAIN_DATA, f"nested deeper than {MAX_DEPTH} levels")]
            )
        if self.node_count > MAX_NODES:
            message = f"more than {MAX_NODES:,} values, aliases written out"
            raise RecipeError([here.diagnostic("R002", NOT_PLAIN_DATA, message)])

    def alias(self, anchor: str | None, here: Node, depth: int) -> Node:
        if anchor is None or anchor not in self.anchors:
            message = f"nothing is marked `&{anchor}` above"
            near = ", ".join(f"`&{name}`" for name in self.anchors) or "none"
            raise RecipeError(
                [here.diagnostic("R001", _UNREADABLE, message, f"marked so far: {near}")]
            )
        anchored = self.anchors[anchor]
        if anchored is None:
            raise RecipeError(
                [here.diagnostic("R002", NOT_PLAIN_DATA, f"`*{anchor}` contains itself")]
            )
        node, size = anchored
        self.check_size(here, size, depth + _depth_of(node))
        return node

    def scalar(self, event: yaml.ScalarEvent, here: Node) -> Node:
        text = event.value
        quoted = event.style is not None
        implied = self.loader.resolve(yaml.ScalarNode, text, (not quoted, quoted))
        value: Scalar = text
        tag = event.tag if event.tag not in (None, "!") else implied
        if event.tag == "!" or tag == _CORE_TAG + "str":
            value = text
        elif tag != implied and (tag, implied) != (_CORE_TAG + "float", _CORE_TAG + "int"):
            self.diagnostics.append(self.bad_tag(here, tag))
        else:
            value = self.construct(tag, text, here)
        return Node(self.source, here.position, self.check_characters(value, here), text, quoted)

    def construct(self, tag: str, text: str, here: Node) -> Scalar:
        try:
            value: Scalar = self.loader.construct_object(yaml.ScalarNode(tag, text))
        except ValueError:  # Python reads no whole number of more than 4,300 digits
            self.diagnostics.append(
                here.diagnostic("R002", NOT_PLAIN_DATA, "a number of too many digits")
            )
            return 0
        return value

    def check_characters(self, value: Scalar, here: Node) -> Scalar:
        if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            self.diagnostics.append(
                here.diagnostic("R002", NOT_PLAIN_DATA, "the text holds a character that is none")
            )
            return ""
        return value

    def bad_tag(self, here: Node, tag: str) -> Diagnostic:
        short = tag.replace(_CORE_TAG, "!!")
        is_core_type = short in ("!!int", "!!float", "!!bool", "!!null")
        message = f"this is no {short[2:]}" if is_core_type else f"the tag `{short}` is not allowed"
        return here.diagnostic(
            "R002", NOT_PLAIN_DATA, message, "remove the tag: a recipe holds only plain values"
        )

    def collection(self, event: Any, here: Node, depth: int) -> Node:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _CORE_TAG + ("map" if mapping else "seq")):
            self.diagnostics.append(self.bad_tag(here, event.tag))
        value: Tree | tuple[Node, ...] = self.mapping(depth) if mapping else self.sequence(depth)
        end = self.loader.get_event().end_mark
        return Node(self.source, self.position(event.start_mark, end), value)

    def sequence(self, depth: int) -> tuple[Node, ...]:
        nodes = []
        while not self.loader.check_event(yaml.SequenceEndEvent):
            nodes.append(self.node(depth + 1))
        return tuple(nodes)

    def mapping(self, depth: int) -> Tree:
        entries: Tree = {}
        while not self.loader.check_event(yaml.MappingEndEvent):
            key = self.node(depth + 1)
            value = self.node(depth + 1)
            if self.accept_key(key, entries):
                entries[str(key.value)] = Entry(key, value)
        return entries

    def accept_key(self, key: Node, entries: Tree) -> bool:
        if not isinstance(key.value, str):
            message = f"a key must be a word, got {preview(key)}"
            self.diagnostics.append(key.diagnostic("R002", NOT_PLAIN_DATA, message))
            return False
        if key.value == "<<" and not key.quoted:
            message = "merge keys are not part of YAML 1.2"
            hint = "write the keys out, or build on another recipe with `extends: NAME`"
            self.diagnostics.append(key.diagnostic("R002", NOT_PLAIN_DATA, message, hint))
            return False
        if first := entries.get(key.value):
            message = f"key `{key.value}` is given twice"
            hint = f"first given on line {first.key.position.line}; keep one"
            self.diagnostics.append(key.diagnostic("R002", NOT_PLAIN_DATA, message, hint))
            return False
        return True

    def position(self, start: Any, end: Any = None) -> Position:
        line, column = start.line + 1, start.column + 1
        last = len(self.source.line(line).rstrip()) - self.column_offset
        if end is not None and end.line == start.line:
            last = end.column
        elif end is None:
            last = column
        end_column = max(last + 1, column + 1)
        return Position(line, column + self.column_offset, end_column + self.column_offset)

    def node_at(self, position: Position) -> Node:
        return Node(self.source, position, None)


def _depth_of(node: Node) -> int:
    if isinstance(node.value, tuple):
        return 1 + max(map(_depth_of, node.value), default=0)
    return 1 + max((_depth_of(entry.value) for entry in node.entries.values()), default=0)
