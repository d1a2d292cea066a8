"""Bytes to nodes: plain YAML only, bounded in size and depth, every key and value positioned.

YAML is read as version 1.2 (core schema): ``1e-3`` is a number, ``no`` is text. The nodes are
made from the parser's events, not by its loader: no object is ever constructed, an alias bomb is
counted before it is expanded, and deep nesting ends in an error instead of a RecursionError.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import yaml
import yamlcore

from lsqctl.errors import Diagnostic, Position, RecipeError
from lsqctl.recipe_file.nodes import Entry, Node, Scalar, Source, Tree, preview
from lsqctl.text import sanitize


class _Explanation(NamedTuple):
    message: str
    hint: str
    problem: str = ""  # a pattern in the parser's problem
    context: str = ""  # a part of its context
    at_start: bool = False  # point at where the broken thing begins, not at where it broke


_EXPLANATIONS = (
    _Explanation(
        "a tab cannot indent or separate here",
        "use spaces; most editors can convert tabs",
        problem=r"'\\t' that cannot start",
    ),
    _Explanation(
        "a value cannot begin with this character",
        "put quotes around the value",
        problem="that cannot start any token",
    ),
    _Explanation(
        "this `:` begins a second value on the line, or the indentation changed",
        "one `key: value` a line, keys of a section equally indented; quote a text that holds `: `",
        problem="mapping values are not allowed here",
    ),
    _Explanation(
        "this line has no `:` after its key",
        "write `key: value`, with a blank after the colon",
        problem="could not find expected ':'",
        at_start=True,
    ),
    _Explanation(
        "does not line up with the lines above",
        "indent all keys of a section by the same number of spaces",
        problem="expected <block end>",
    ),
    _Explanation(
        "a quotation mark is never closed",
        "close the quote",
        problem="unexpected end of stream|document separator",
        context="quoted",
        at_start=True,
    ),
    _Explanation(
        "this `[` is not closed, or a `,` is missing after it",
        "a list looks like [1, 2, 3]",
        context="flow sequence",
        at_start=True,
    ),
    _Explanation(
        "this `{` is not closed, or a `,` is missing after it",
        "a section on one line looks like {name: cifar10, pad: 4}",
        context="flow mapping",
        at_start=True,
    ),
    _Explanation(
        "an unquoted `*` begins an alias of YAML, and this is none",
        'quote the pattern: "*.conv1"',
        context="while scanning an alias",
        at_start=True,
    ),
    _Explanation(
        "a backslash in double quotes begins an escape, and this is none",
        "use single quotes, or write two backslashes",
        problem="unknown escape character",
    ),
    _Explanation(
        "a list item `-` cannot stand here",
        "begin the list on a line of its own, or write [1, 2, 3]",
        problem="sequence entries are not allowed here",
    ),
    _Explanation(
        "the text goes on where it should have ended",
        "begin every top-level key in the first column",
        problem="expected '<document start>'",
    ),
)


_LIST_AS_KEY = re.compile(r"(?:^|[{,])\s*(\[[^\]]*\][^\s:]*)\s*:")  # `[ab].conv1:`


def explain_yaml_error(
    error: yaml.MarkedYAMLError, lines: Sequence[str]
) -> tuple[yaml.Mark, str, tuple[str, ...]]:
    """Return the mark to point at, what is wrong, and what to do about it where that is known."""
    problem, context = error.problem or "", error.context or ""
    end = error.problem_mark or error.context_mark
    assert end is not None  # the parser always tells where
    for mark in filter(None, (error.context_mark, end)):
        if mark.line < len(lines) and (key := _LIST_AS_KEY.search(lines[mark.line])):
            hint = f'quote the pattern: "{key[1]}"'
            start = yaml.Mark(mark.name, 0, mark.line, key.start(1), None, 0)
            return start, "an unquoted `[` begins a list of YAML", (hint,)
    for explanation in _EXPLANATIONS:
        if re.search(explanation.problem, problem) and explanation.context in context:
            start = error.context_mark if explanation.at_start and error.context_mark else end
            return start, explanation.message, (explanation.hint,)
    return end, f"{context}: {problem}".strip(": "), ()


MAX_BYTES = 1 << 20
UNREADABLE = "not readable as YAML"
_LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # as YAML 1.2 has it
)
_UTF16_BOMS = (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(path: Path, file: str) -> str:
    """Return the text of a recipe file that errors call ``file``.  Raises RecipeError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable_error(file, f"the file cannot be read: {error.strerror}") from None
    return decode(data, file)


def decode(data: bytes, file: str) -> str:
    """Return ``data`` as text, without a byte order mark.  Raises RecipeError."""
    if len(data) > MAX_BYTES:
        raise _unreadable_error(file, "the file is larger than 1 MiB", "a recipe is a page of text")
    has_nul_halves = data[:2].count(0) == 1 or data[:4].count(0) == 3
    if data.startswith(_UTF16_BOMS) or (has_nul_halves and len(data) % 2 == 0):
        raise _unreadable_error(file, "the text is UTF-16 or UTF-32", "save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        valid = data[: error.start].decode("utf-8-sig")
        message = f"byte 0x{data[error.start]:02x} is not UTF-8"
        lossy = data.decode("utf-8-sig", "replace")
        raise _error_at(file, lossy, len(valid), message, "save the file as UTF-8") from None
    if bad := _UNPRINTABLE.search(text):
        char = bad.group()
        message = "a NUL character" if char == "\0" else f"the control character `{sanitize(char)}`"
        raise _error_at(file, text, bad.start(), message, "remove it")
    return text


def lines_of(text: str) -> tuple[str, ...]:
    """Return the lines of ``text`` as the YAML parser counts them."""
    return tuple(_LINE_BREAK.split(text))


def _error_at(file: str, text: str, offset: int, message: str, hint: str) -> RecipeError:
    before = lines_of(text[:offset])
    line, column = len(before), len(before[-1]) + 1
    source_line = lines_of(text)[line - 1]
    position = Position(line, column, column + 1)
    return RecipeError(
        [Diagnostic("R001", UNREADABLE, message, file, position, source_line, (hint,))]
    )


def _unreadable_error(file: str, message: str, *hints: str) -> RecipeError:
    return RecipeError([Diagnostic("R001", UNREADABLE, message, file, hints=hints)])


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
        mark, message, hints = explain_yaml_error(error, lines_of(text))
        here = composer.position(mark)
        raise RecipeError(
            [composer.node_at(here).diagnostic("R001", UNREADABLE, message, *hints)]
        ) from None
    except (ValueError, OverflowError):  # "\U00110000" and %YAML 9999…: not caught by the parser
        here = composer.position(composer.loader.get_mark())
        message = "a number or an escape here is too large"
        raise RecipeError(
            [composer.node_at(here).diagnostic("R001", UNREADABLE, message)]
        ) from None
    return node, composer.diagnostics


class _Mark(Protocol):
    """Where something stands, counted from 0: PyYAML has two classes of it."""

    line: int
    column: int


class _EventLoader(Protocol):
    """What is used of PyYAML's loader, which its stubs leave untyped."""

    def get_event(self) -> Any: ...
    def peek_event(self) -> yaml.Event: ...
    def check_event(self, *choices: type[yaml.Event]) -> bool: ...
    def resolve(self, kind: type[yaml.Node], value: str, implicit: tuple[bool, bool]) -> str: ...
    def construct_object(self, node: yaml.Node) -> Scalar: ...
    def get_mark(self) -> yaml.Mark: ...


class _Composer:
    def __init__(self, text: str, source: Source, column_offset: int) -> None:
        self.loader: _EventLoader = yamlcore.CoreLoader(text)
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
                [second.diagnostic("R001", UNREADABLE, message, "keep one recipe a file")]
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
            hints = f"marked so far: {near}", f'quote a pattern or a text: "*{anchor}"'
            raise RecipeError([here.diagnostic("R001", UNREADABLE, message, *hints)])
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

    def collection(self, event: yaml.CollectionStartEvent, here: Node, depth: int) -> Node:
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
            hints = [f'quote a pattern: "{key.written}"'] if isinstance(key.value, tuple) else []
            self.diagnostics.append(key.diagnostic("R002", NOT_PLAIN_DATA, message, *hints))
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

    def position(self, start: _Mark | None, end: _Mark | None = None) -> Position:
        assert start is not None  # every event has its marks
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
