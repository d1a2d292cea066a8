"""What is wrong with one value, in words: a type, a choice, a bound; and a hint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lsqctl.errors import Diagnostic
from lsqctl.recipe_file.keys import SETTABLE_KEYS, choices_of, unit_of
from lsqctl.recipe_file.nodes import GRID_OPTION, Node, preview
from lsqctl.text import closest_name, three_closest_names

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MISSING_HINTS: Mapping[str, tuple[str, ...]] = {
    "model": ("write `model: {name: resnet18}`",),
    "data": ("write `data: {name: cifar10}`",),
    "model.name": ("write `name: resnet18`, or another model",),
    "data.name": ("write `name: cifar10`, or another dataset",),
    "distill.teacher": ("write `teacher: {run: NAME}`, a file, or a torchvision weights name",),
}
_TYPE_NAMES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "model_type": "a section of keys",
    "dict_type": "a section of keys",
}
_BOUNDS = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}
_YAML_1_1_BOOLEANS = {
    "yes": "true",
    "on": "true",
    "y": "true",
    "no": "false",
    "off": "false",
    "n": "false",
}
_MAX_LISTED = 16


def bad_value_diagnostic(
    error: ErrorDetails, key: str, inner: tuple[str, ...], node: Node
) -> Diagnostic:
    """Return the diagnostic of one pydantic error at ``node``, which stands at ``key``."""
    kind = str(error["type"])
    title = f"bad value for `{key}`"
    if key == "name":
        return node.diagnostic("R106", "bad name", *_name_message(kind, error, node))
    if inner and inner[0] == "RunRef":
        return _run_ref_diagnostic(kind, key, inner, node)
    if kind in ("literal_error", "choice"):
        return node.diagnostic("R103", title, *_choice_message(key, node))
    if kind in _TYPE_NAMES:
        return node.diagnostic("R103", title, *_type_message(_TYPE_NAMES[kind], key, node))
    if bound := _bound_message(kind, error, key):
        message = f"{bound}, got {preview(node)}"
        return node.diagnostic("R104", f"`{key}` is out of range", message)
    return node.diagnostic("R103", title, _other_message(kind, error, node))


def _bound_message(kind: str, error: ErrorDetails, key: str) -> str:
    if kind in _BOUNDS:
        context, words = _BOUNDS[kind]
        limit = error["ctx"][context]
        unit = _unit_text(key).removesuffix("s") if limit == 1 else _unit_text(key)
        return f"must be {words} {_number_text(limit)}{unit}"
    if kind == "finite_number":
        return "must be finite"
    return str(error["msg"]) if kind == "out_of_range" else ""


def _number_text(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _unit_text(key: str) -> str:
    unit = unit_of(key)
    return f" {unit}" if unit not in ("", "ratio") else ""


def _name_message(kind: str, error: ErrorDetails, node: Node) -> tuple[str, ...]:
    if kind == "string_type":
        return _type_message("text", "name", node)
    return (str(error["msg"]).removeprefix("Value error, "), "for example `name: digits/my-first`")


def _other_message(kind: str, error: ErrorDetails, node: Node) -> str:
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_too_long":
        return f"must be at most {error['ctx']['max_length']:,} characters, got {len(node.text):,}"
    return str(error["msg"])


def _type_message(expected: str, key: str, node: Node) -> tuple[str, ...]:
    choices = f" ({', '.join(choices_of(key))})" if 0 < len(choices_of(key)) <= _MAX_LISTED else ""
    message = f"must be {expected}{choices}, got {preview(node)}"
    hint = _type_hint(expected, key, node)
    return (message, hint) if hint else (message,)


def _type_hint(expected: str, key: str, node: Node) -> str:
    value, text = node.value, node.text
    if value is None:
        return "write a value, or leave the key out"
    if isinstance(value, tuple) and key in SETTABLE_KEYS and expected != "a section of keys":
        return _vary_hint(key, node)
    if expected == "text":
        return "put quotes around it" if isinstance(value, int | float) else ""
    if expected == "true or false" and text.lower() in _YAML_1_1_BOOLEANS:
        return f"write `{_YAML_1_1_BOOLEANS[text.lower()]}`"
    if expected == "a section of keys":
        return _section_hint(key, node)
    return _number_hint(node)


def _vary_hint(key: str, node: Node) -> str:
    """Return how a key is given several values: a list where one belongs means that."""
    values = node.written if node.written.endswith("]") else "[…]"
    if node.source.file.startswith("--"):
        return f"to vary it, write {GRID_OPTION} {key}={values.strip('[]').replace(' ', '')}"
    return f"to vary it, write `sweep: {{grid: {{{key}: {values}}}}}`"


def _section_hint(key: str, node: Node) -> str:
    if key in ("model", "data") and isinstance(node.value, str):
        return f"write `{key}: {{name: {node.text}}}`"
    return f"write `{key}:` and its keys below, indented"


def _number_hint(node: Node) -> str:
    value = node.value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"write `{int(value)}`"
    if isinstance(value, str) and "," in value and _is_number(value.replace(",", ".", 1)):
        return "write a point, not a comma"
    return _quotes_hint(node)


def _quotes_hint(node: Node) -> str:
    is_plain = node.text in ("true", "false") or _is_number(node.text)
    return "remove the quotes" if node.quoted and is_plain else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _choice_message(key: str, node: Node) -> tuple[str, ...]:
    choices = choices_of(key)
    if not isinstance(node.value, str):
        return _type_message("text", key, node)
    message = f"`{preview(node)[1:-1]}` is not one of the choices"
    near = closest_name(node.text, choices)
    hints = [f"did you mean `{near}`?"] if near else []
    if len(choices) <= _MAX_LISTED:
        return (message, *hints, f"one of: {_join_or(list(choices))}")
    nearest = _join_or(three_closest_names(node.text, choices))
    return (message, *hints, f"nearest: {nearest}; all {len(choices)}: lsqctl recipe schema")


def _run_ref_diagnostic(kind: str, key: str, inner: tuple[str, ...], node: Node) -> Diagnostic:
    hint = "write `{run: NAME}`, NAME being the recipe whose weights are taken"
    name = inner[1] if len(inner) > 1 else ""
    if kind == "extra_forbidden" and name in node.entries:
        title = f"unknown key `{key}.{name}`"
        hints = ["did you mean `run`?"] if closest_name(name, ["run"]) else [hint]
        return node.entries[name].key.diagnostic("R101", title, "not a known key", *hints)
    if kind == "missing":
        return node.diagnostic("R102", f"missing key `{key}.run`", "needs `run`", hint)
    run_node = node.entries["run"].value if "run" in node.entries else node
    message = f"must be the name of a recipe, got {preview(run_node)}"
    return run_node.diagnostic("R103", f"bad value for `{key}.run`", message)


def _join_or(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
