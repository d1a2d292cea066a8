"""YAML 1.2, read as plain data with exact places."""

import pytest

from lsqctl.errors import RecipeError
from lsqctl.recipe_file.nodes import Source
from lsqctl.recipe_file.yaml_reader import compose, decode, lines_of

from .conftest import MINIMAL


def value_of(text):
    node, faults = compose(text, Source("x", lines_of(text)))
    assert faults == []
    return node.to_python()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1", 1), ("1.", 1.0), (".5", 0.5), ("0o17", 15), ("0x1F", 31),
        ("012", 12), ("1_000", "1_000"), ("no", "no"), ("yes", "yes"), ("on", "on"),
        ("true", True), ("FALSE", False), ("~", None), ("null", None), ("'1'", "1"),
        ("1:30", "1:30"), ("2001-01-01", "2001-01-01"), ("!!str 4", "4"), ("!!float 4", 4.0),
        ("! 4", "4"), ("[1, {a: b}]", [1, {"a": "b"}]),
        ("{a: &x [1], b: *x}", {"a": [1], "b": [1]}),
        ("|\n  \ta\n", "\ta\n"),
    ],
)  # fmt: skip
def test_scalars_are_read_by_the_core_schema_of_yaml_1_2(text, value):
    read = value_of(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_line_endings_and_a_byte_order_mark_change_nothing(folder, ending):
    text = "\ufeff" + (MINIMAL + "train:\n  lr: 0.5\n").replace("\n", ending)
    cell = folder.load(text).cells[0]
    assert cell.recipe.train.lr == 0.5
    assert cell.origins["train.lr"] == "x.yaml:4"


def test_a_place_is_the_same_with_a_byte_order_mark(folder):
    with pytest.raises(RecipeError, match=r"x\.yaml:1:1: error\[R101\]"):
        folder.load("\ufeffsed: 1\n" + MINIMAL)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_other_encodings_are_named(encoding):
    with pytest.raises(RecipeError, match="UTF-16 or UTF-32"):
        decode(MINIMAL.encode(encoding), "x")


def test_every_place_of_a_value_is_its_text(folder):
    text = "a: {b: [one, 'two', \"three\"], c: four}\nd:\n  - five # six\n"
    node, _ = compose(text, Source("x", lines_of(text)))

    def leaves(node):
        if node.entries:
            for key, value in node.entries.values():
                yield key
                yield from leaves(value)
        elif isinstance(node.value, tuple):
            for item in node.value:
                yield from leaves(item)
        else:
            yield node

    for leaf in leaves(node):
        line = lines_of(text)[leaf.position.line - 1]
        span = line[leaf.position.column - 1 : leaf.position.end_column - 1]
        assert span.strip("'\"") == leaf.text
