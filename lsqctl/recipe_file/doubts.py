"""Likely mistakes in a recipe that can be run: warnings, never errors."""

from __future__ import annotations

from collections.abc import Sequence

from lsqctl.errors import Diagnostic
from lsqctl.quant.spec import FLOAT_BITS
from lsqctl.recipe import DEPTHWISE_MODELS, Recipe
from lsqctl.recipe_file.check import Checked
from lsqctl.recipe_file.nodes import Node

_BITS = "_bits"
_FEW_BITS = 4


def doubts(recipe: Recipe, checked: Checked, start: Node) -> list[Diagnostic]:
    """Return what is probably not meant in a recipe."""
    nodes = checked.nodes
    found = []
    if recipe.train.lr > 1:
        label = f"a learning rate of {recipe.train.lr:g} rarely converges"
        node = nodes.get("train.lr", start)
        found.append(node.fault("W001", "high learning rate", label, "the paper takes 0.01"))
    if recipe.train.epochs == 0 and recipe.model.weights is None:
        node = nodes.get("train.epochs", start)
        label = "evaluates random weights: nothing is trained and none are given"
        found.append(node.fault("W004", "nothing to evaluate", label, "set `model.weights`"))
    return found + _depthwise(recipe, nodes, start) + _unused(recipe, nodes)


def _depthwise(recipe: Recipe, nodes: dict[str, Node], start: Node) -> list[Diagnostic]:
    """Doubt few bits with one step a tensor where channels of a layer differ most in size."""
    quant = recipe.quant
    named = any(one.per_channel or one.weight_bits for one in quant.overrides.values())
    if recipe.model.name not in DEPTHWISE_MODELS or quant.per_channel or named:
        return []
    if quant.weight_bits > _FEW_BITS:
        return []
    node = nodes.get("quant.weight_bits", start)
    label = f"`{recipe.model.name}` has depthwise convolutions, which collapse with one step each"
    helps = (
        "set `quant.per_channel: true`, or give those layers more bits by `quant.overrides`",
        "their channels differ in size, and the small ones round to zero",
    )
    return [node.fault("W005", "few bits for depthwise convolutions", label, *helps)]


def _unused(recipe: Recipe, nodes: dict[str, Node]) -> list[Diagnostic]:
    quant = recipe.quant
    idle = [key for key in nodes if key.startswith("quant.") and not key.endswith(_BITS)]
    if not idle:
        return []
    if not quant.spec().quantized:
        help_ = "set `quant.weight_bits` or `quant.act_bits` below 32"
        label = "has no effect while all bits are 32"
        return [nodes[idle[0]].fault("W003", f"`{idle[0]}` is not used", label, help_)]
    if "quant.percentile" in idle and quant.init != "percentile":
        label = f"is read only with `init: percentile`; it is `{quant.init}`"
        node = nodes["quant.percentile"]
        return [node.fault("W003", "`quant.percentile` is not used", label)]
    only_weights = quant.spec().bits_of("act") == {FLOAT_BITS} == {quant.residual_bits}
    if quant.act_offset == "learned" and only_weights:
        label = "has no effect while activations have 32 bits"
        return [nodes["quant.act_offset"].fault("W003", "`quant.act_offset` is not used", label)]
    return []


def repeated_seeds(seeds: Sequence[Node]) -> list[Diagnostic]:
    """Return a warning for each seed that stands in a list a second time."""
    found, seen = [], set()
    for node in seeds:
        if repr(node.value) in seen:
            label = f"seed {node.text} is in the list already; it runs once"
            found.append(node.fault("W002", "seed given twice", label))
        seen.add(repr(node.value))
    return found
