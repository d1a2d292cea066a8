"""Whatever bytes a recipe file holds: a recipe, or a RecipeError in bounded time."""

import contextlib
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lsqctl.cli.diagnostics import format_diagnostics, format_github, format_json
from lsqctl.errors import NotFound, RecipeError
from lsqctl.recipe_file import Changes, load

PIECES = st.sampled_from(
    (
        "model: | data: | name: | {name: | resnet18 | cifar10 | } | [ | ] | , | : | - | ? | & | &a"
        ' | *a | !!int | !x | !<a> | %YAML 1.2 | --- | ... | \' | " | \\ | \\x00 | "\\U00110000"'
        ' | "\\ud800" | <<: | sweep: | grid: | zip: | extends: | paper/w4a4 | abstract: | true'
        " | null | ~ | 1e-3 | .nan | .inf | 99999999999999999999 | 0o7 | 0x | -0"
        " | quant.weight_bits: | seed: | # | > | \t | @ | ` | é | 余"
    ).split(" | ")
)
SOUP = st.lists(st.tuples(PIECES, st.sampled_from(["", " ", "\n", "\n  "])), max_size=25).map(
    lambda parts: "".join(piece + gap for piece, gap in parts)
)


def try_to_load(tmp_path_factory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
    path.write_bytes(data)
    said = None
    try:
        load(path, abstract_ok=True)
    except RecipeError as error:
        said = error
    if said is not None:
        assert said.diagnostics
        for form in (format_diagnostics, format_json, format_github):
            assert "\x1b" not in form(said.diagnostics).encode().decode()


@given(st.binary(max_size=200))
def test_arbitrary_bytes_end_in_a_recipe_error(tmp_path_factory, data):
    try_to_load(tmp_path_factory, data)


@given(st.text(max_size=200))
def test_arbitrary_text_ends_in_a_recipe_error(tmp_path_factory, text):
    try_to_load(tmp_path_factory, text.encode("utf-8", "surrogatepass"))


@given(SOUP)
def test_yaml_soup_ends_in_a_recipe_or_a_recipe_error(tmp_path_factory, text):
    try_to_load(tmp_path_factory, text.encode())


@given(st.lists(st.text(max_size=30), max_size=3))
def test_any_set_option_ends_in_a_recipe_or_a_recipe_error(sets):
    with contextlib.suppress(RecipeError):
        load("digits/resnet8-w4a4", Changes(sets=sets))


@given(st.text(max_size=60))
def test_any_reference_ends_in_a_recipe_or_a_clear_error(ref):
    said = ""
    try:
        load(ref)
    except NotFound as error:
        said = str(error)
    assert "\n" not in said


@pytest.mark.parametrize(
    "ref", ["a" * 300, "a" * 9999, "../" * 500, "\0", "/dev/zero.yaml", "", "."]
)
def test_a_hopeless_reference_is_not_found(ref):
    with pytest.raises(NotFound):
        load(ref)


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 10)
)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "more than 10,000 values"),
        ("a: " + "[" * 3000, "nested deeper than 50"),
        ("a: " + "{b: " * 3000, "nested deeper than 50"),
        ("- " * 3000 + "x", "nested deeper than 50"),
        ("a: [" + "1, " * 20_000 + "]", "more than 10,000 values"),
        ("a: &a [*a]\n", "contains itself"),
        ("x" * (1 << 20) + "\n", "larger than 1 MiB"),
        ("seed: " + "9" * 5000, "too many digits"),
        ('seed: "\\U00110000"', "too large"),
        ('description: "\\ud800"', "character that is none"),
        ('description: "a\\0b"', "character that is none"),
    ],
    ids=lambda value: value[:12] if isinstance(value, str) else None,
)
def test_a_bomb_is_refused_within_three_seconds_of_cpu(folder, text, words):
    began = time.process_time()
    with pytest.raises(RecipeError, match=words):
        folder.load(text)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "value", ["os:system", "torch.hub.load", "builtins.eval", "../x", "__import__"]
)
@pytest.mark.parametrize("key", ["model.name", "data.name", "distill.teacher_model"])
def test_a_dotted_path_never_names_code(folder, key, value):
    section, leaf = key.split(".")
    parts = {"model": {"name": "resnet18"}, "data": {"name": "cifar10"}}
    parts.setdefault(section, {"teacher": "t.pth"})[leaf] = value
    text = "".join(
        f"{name}: {{{', '.join(f'{k}: {v!r}' for k, v in keys.items())}}}\n"
        for name, keys in parts.items()
    )
    with pytest.raises(RecipeError, match=r"error\[R103\]"):
        folder.load(text)


def test_a_named_pipe_or_a_folder_is_no_recipe(folder):
    (folder.path / "d.yaml").mkdir()
    with pytest.raises(NotFound, match="is a folder"):
        load("d.yaml")
    os.mkfifo(folder.path / "pipe.yaml")
    with pytest.raises(NotFound, match=r"`pipe.yaml` is no plain file"):
        load("pipe.yaml")
