"""Text to nodes: plain data only, bounded in size and depth, every key and value positioned.

YAML is read as version 1.2 (core schema): ``1e-3`` is a number, ``no`` is text. The nodes are
made from the parser's events, not by its loader: no object is ever constructed, an alias bomb is
counted before it is expanded, and deep nesting ends in a fault instead of a RecursionError.
"""

from __future__ import annotations

from typing import Any

import yaml
import yamlcore

from lsqctl.errors import Diagnostic, Position, RecipeError
from lsqctl.recipe_file.nodes import Entry, Node, Scalar, Source, Tree, shown
from lsqctl.recipe_file.yaml_words import in_plain_words

MAX_DEPTH = 50
MAX_NODES = 10_000
TITLE = "recipe is not plain data"
_CORE = "tag:yaml.org,2002:"


def compose(text: str, source: Source, *, shift: int = 0) -> tuple[Node | None, list[Diagnostic]]:
    """Return the one document of ``text``, None when it is empty, and what is not plain in it.

    ``shift`` is added to every column, for a text that is part of a line. Raises RecipeError where
    nothing can be read at all.
    """
    composer = _Composer(text, source, shift)
    try:
        node = composer.document()
    except yaml.MarkedYAMLError as error:
        mark, label, *helps = in_plain_words(error)
        here = composer.position(mark)
        raise RecipeError([composer.at(here).fault("R001", _UNREADABLE, label, *helps)]) from None
    except (ValueError, OverflowError):  # "\U00110000" and %YAML 9999…: not caught by the parser
        here = composer.position(composer.loader.get_mark())
        label = "a number or an escape here is too large"
        raise RecipeError([composer.at(here).fault("R001", _UNREADABLE, label)]) from None
    return node, composer.faults


_UNREADABLE = "not readable as YAML"


class _Composer:
    def __init__(self, text: str, source: Source, shift: int) -> None:
        self.loader: Any = yamlcore.CoreLoader(text)
        self.source = source
        self.shift = shift
        self.faults: list[Diagnostic] = []
        self.anchors: dict[str, tuple[Node, int] | None] = {}  # None: still open
        self.count = 0

    def document(self) -> Node | None:
        self.loader.get_event()
        if self.loader.check_event(yaml.StreamEndEvent):
            return None
        self.loader.get_event()
        node = self.node(1)
        self.loader.get_event()
        if not self.loader.check_event(yaml.StreamEndEvent):
            second = self.at(self.position(self.loader.peek_event().start_mark))
            label = "a second document begins here"
            raise RecipeError([second.fault("R001", _UNREADABLE, label, "keep one recipe a file")])
        return node

    def node(self, depth: int) -> Node:
        event = self.loader.get_event()
        here = self.at(self.position(event.start_mark, event.end_mark))
        self.enlarge(here, 1, depth)
        if isinstance(event, yaml.AliasEvent):
            return self.alias(event.anchor, here, depth)
        before = self.count
        if event.anchor:
            self.anchors[event.anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = self.scalar(event, here)
        else:
            node = self.collection(event, here, depth)
        if event.anchor:
            self.anchors[event.anchor] = (node, self.count - before)
        return node

    def enlarge(self, here: Node, nodes: int, depth: int) -> None:
        self.count += nodes
        if depth > MAX_DEPTH:
            raise RecipeError([here.fault("R002", TITLE, f"nested deeper than {MAX_DEPTH} levels")])
        if self.count > MAX_NODES:
            label = f"more than {MAX_NODES:,} values, aliases written out"
            raise RecipeError([here.fault("R002", TITLE, label)])

    def alias(self, anchor: str | None, here: Node, depth: int) -> Node:
        if anchor is None or anchor not in self.anchors:
            label = f"nothing is marked `&{anchor}` above"
            near = ", ".join(f"`&{name}`" for name in self.anchors) or "none"
            raise RecipeError([here.fault("R001", _UNREADABLE, label, f"marked so far: {near}")])
        known = self.anchors[anchor]
        if known is None:
            raise RecipeError([here.fault("R002", TITLE, f"`*{anchor}` contains itself")])
        node, size = known
        self.enlarge(here, size, depth + _height(node))
        return node

    def scalar(self, event: yaml.ScalarEvent, here: Node) -> Node:
        text = event.value
        quoted = event.style is not None
        implied = self.loader.resolve(yaml.ScalarNode, text, (not quoted, quoted))
        value: Scalar = text
        tag = event.tag if event.tag not in (None, "!") else implied
        if event.tag == "!" or tag == _CORE + "str":
            value = text
        elif tag != implied and (tag, implied) != (_CORE + "float", _CORE + "int"):
            self.faults.append(self.bad_tag(here, tag))
        else:
            value = self.constructed(tag, text, here)
        return Node(self.source, here.position, self.sound(value, here), text, quoted)

    def constructed(self, tag: str, text: str, here: Node) -> Scalar:
        try:
            made: Scalar = self.loader.construct_object(yaml.ScalarNode(tag, text))
        except ValueError:  # Python reads no whole number of more than 4,300 digits
            self.faults.append(here.fault("R002", TITLE, "a number of too many digits"))
            return 0
        return made

    def sound(self, value: Scalar, here: Node) -> Scalar:
        if isinstance(value, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            self.faults.append(here.fault("R002", TITLE, "the text holds a character that is none"))
            return ""
        return value

    def bad_tag(self, here: Node, tag: str) -> Diagnostic:
        short = tag.replace(_CORE, "!!")
        known = short in ("!!int", "!!float", "!!bool", "!!null")
        label = f"this is no {short[2:]}" if known else f"the tag `{short}` is not allowed"
        return here.fault("R002", TITLE, label, "remove the tag: a recipe holds only plain values")

    def collection(self, event: Any, here: Node, depth: int) -> Node:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _CORE + ("map" if mapping else "seq")):
            self.faults.append(self.bad_tag(here, event.tag))
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
            if self.is_key(key, entries):
                entries[str(key.value)] = Entry(key, value)
        return entries

    def is_key(self, key: Node, entries: Tree) -> bool:
        if not isinstance(key.value, str):
            label = f"a key must be a word, got {shown(key)}"
            self.faults.append(key.fault("R002", TITLE, label))
            return False
        if key.value == "<<" and not key.quoted:
            label = "merge keys are not part of YAML 1.2"
            helps = "write the keys out, or build on another recipe with `extends: NAME`"
            self.faults.append(key.fault("R002", TITLE, label, helps))
            return False
        if first := entries.get(key.value):
            label = f"key `{key.value}` is given twice"
            helps = f"first given on line {first.key.position.line}; keep one"
            self.faults.append(key.fault("R002", TITLE, label, helps))
            return False
        return True

    def position(self, start: Any, end: Any = None) -> Position:
        line, column = start.line + 1, start.column + 1
        last = len(self.source.line(line).rstrip()) - self.shift
        if end is not None and end.line == start.line:
            last = end.column
        elif end is None:
            last = column
        stop = max(last + 1, column + 1)
        return Position(line, column + self.shift, stop + self.shift)

    def at(self, position: Position) -> Node:
        return Node(self.source, position, None)


def _height(node: Node) -> int:
    if isinstance(node.value, tuple):
        return 1 + max(map(_height, node.value), default=0)
    return 1 + max((_height(entry.value) for entry in node.entries.values()), default=0)
