"""What is wrong with one value, in words: a type, a choice, a bound; and the way out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lsqctl.errors import Diagnostic
from lsqctl.recipe_file.keys import choices_of, unit_of
from lsqctl.recipe_file.nodes import Node, shown
from lsqctl.recipe_file.spelling import closest, three_closest

MISSING: Mapping[str, tuple[str, ...]] = {
    "model": ("write `model: {name: resnet18}`",),
    "data": ("write `data: {name: cifar10}`",),
    "model.name": ("write `name: resnet18`, or another model",),
    "data.name": ("write `name: cifar10`, or another dataset",),
    "distill.teacher": ("write `teacher: {run: NAME}`, a file, or a torchvision weights name",),
}
_TYPES = {
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
_YES = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}
_MANY = 8


def bad_value(error: Mapping[str, Any], key: str, inner: tuple[str, ...], node: Node) -> Diagnostic:
    """Return the fault of one pydantic error at ``node``, which stands at ``key``."""
    kind = str(error["type"])
    title = f"bad value for `{key}`"
    if key == "name":
        return node.fault("R106", "bad name", *_name(kind, error, node))
    if inner and inner[0] == "RunRef":
        return _run_ref(kind, key, inner, node)
    if kind in ("literal_error", "choice"):
        return node.fault("R103", title, *_choice(key, node))
    if kind in _TYPES:
        return node.fault("R103", title, *_type(_TYPES[kind], key, node))
    if bound := _bound(kind, error, key):
        label = f"{bound}, got {shown(node)}"
        return node.fault("R104", f"`{key}` is out of range", label)
    return node.fault("R103", title, _plain_words(kind, error, node))


def _bound(kind: str, error: Mapping[str, Any], key: str) -> str:
    if kind in _BOUNDS:
        context, words = _BOUNDS[kind]
        limit = error["ctx"][context]
        unit = _unit(key).removesuffix("s") if limit == 1 else _unit(key)
        return f"must be {words} {_figure(limit)}{unit}"
    if kind == "finite_number":
        return "must be finite"
    return str(error["msg"]) if kind == "out_of_range" else ""


def _figure(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"


def _unit(key: str) -> str:
    unit = unit_of(key)
    return f" {unit}" if unit not in ("", "ratio") else ""


def _name(kind: str, error: Mapping[str, Any], node: Node) -> tuple[str, ...]:
    if kind == "string_type":
        return _type("text", "name", node)
    return (str(error["msg"]).removeprefix("Value error, "), "for example `name: digits/my-first`")


def _plain_words(kind: str, error: Mapping[str, Any], node: Node) -> str:
    if kind == "string_too_short":
        return "must not be empty"
    if kind == "string_too_long":
        return f"must be at most {error['ctx']['max_length']:,} characters, got {len(node.text):,}"
    return str(error["msg"])


def _type(wanted: str, key: str, node: Node) -> tuple[str, ...]:
    choices = f" ({', '.join(choices_of(key))})" if 0 < len(choices_of(key)) <= _MANY else ""
    label = f"must be {wanted}{choices}, got {shown(node)}"
    way_out = _way_out(wanted, key, node)
    return (label, way_out) if way_out else (label,)


def _way_out(wanted: str, key: str, node: Node) -> str:
    value, text = node.value, node.text
    if value is None:
        return "write a value, or leave the key out"
    if wanted == "text":
        return "put quotes around it" if isinstance(value, int | float) else ""
    if wanted == "true or false" and text.lower() in _YES:
        return f"write `{_YES[text.lower()]}`"
    if wanted == "a section of keys":
        return _section(key, node)
    return _number(node)


def _section(key: str, node: Node) -> str:
    if key in ("model", "data") and isinstance(node.value, str):
        return f"write `{key}: {{name: {node.text}}}`"
    return f"write `{key}:` and its keys below, indented"


def _number(node: Node) -> str:
    value = node.value
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"write `{int(value)}`"
    if isinstance(value, str) and "," in value and _is_number(value.replace(",", ".", 1)):
        return "write a point, not a comma"
    return _unquote(node)


def _unquote(node: Node) -> str:
    looks_plain = node.text in ("true", "false") or _is_number(node.text)
    return "remove the quotes" if node.quoted and looks_plain else ""


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _choice(key: str, node: Node) -> tuple[str, ...]:
    known = choices_of(key)
    if not isinstance(node.value, str):
        return _type("text", key, node)
    label = f"`{shown(node)[1:-1]}` is not one of the choices"
    near = closest(node.text, known)
    helps = [f"did you mean `{near}`?"] if near else []
    if len(known) <= _MANY:
        return (label, *helps, f"one of: {_or(list(known))}")
    nearest_three = _or(three_closest(node.text, known))
    return (label, *helps, f"nearest: {nearest_three}; all {len(known)}: lsqctl recipe schema")


def _run_ref(kind: str, key: str, inner: tuple[str, ...], node: Node) -> Diagnostic:
    help_ = "write `{run: NAME}`, NAME being the recipe whose weights are taken"
    name = inner[1] if len(inner) > 1 else ""
    if kind == "extra_forbidden" and name in node.entries:
        title = f"unknown key `{key}.{name}`"
        helps = ["did you mean `run`?"] if closest(name, ["run"]) else [help_]
        return node.entries[name].key.fault("R101", title, "not a known key", *helps)
    if kind == "missing":
        return node.fault("R102", f"missing key `{key}.run`", "needs `run`", help_)
    inside = node.entries["run"].value if "run" in node.entries else node
    label = f"must be the name of a recipe, got {shown(inside)}"
    return inside.fault("R103", f"bad value for `{key}.run`", label)


def _or(names: list[str]) -> str:
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
